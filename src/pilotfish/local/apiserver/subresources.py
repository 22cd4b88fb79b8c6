"""Addresses under an object, and kinds that are only asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from pilotfish.local.apiserver import read, write
from pilotfish.local.apiserver.errors import ApiError
from pilotfish.local.apiserver.request import Request
from pilotfish.local.apiserver.resource import Resource, Subresource

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core


async def answer(core: Core, request: Request, resource: Resource, sub: Subresource) -> web.StreamResponse:
    verb = request.target.verb
    if verb not in sub.verbs:
        raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    if sub.name in ("status", "finalize"):
        if verb == "get":
            return await read.get(core, request, resource)
        if verb == "update":
            return await write.put(core, request, resource)
        return await write.patch_(core, request, resource)
    raise ApiError(501, "NotImplemented", f"{resource.plural}/{sub.name} is not served")


async def asked(core: Core, request: Request, resource: Resource) -> web.StreamResponse:
    raise ApiError(501, "NotImplemented", f"{resource.plural} is not served")
