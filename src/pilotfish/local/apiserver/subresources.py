"""Addresses under an object, and kinds that are only asked: who answers which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from pilotfish.local.apiserver import podactions, read, reviews, scale, tokenrequest, write
from pilotfish.local.apiserver.errors import ApiError
from pilotfish.local.apiserver.request import CONNECT, Request
from pilotfish.local.apiserver.resource import Resource, Subresource

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core


async def answer(core: Core, request: Request, resource: Resource, sub: Subresource) -> web.StreamResponse:
    """Answer a call of `resource`/NAME/`sub`."""
    verb = request.target.verb
    if sub.name in CONNECT or sub.name == "log":
        from pilotfish.local.apiserver import streaming  # noqa: PLC0415 - only when somebody looks into a pod

        return await streaming.answer(core, request, resource, sub.name)
    if verb not in sub.verbs:
        raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    match sub.name:
        case "scale":
            return await scale.answer(core, request, resource)
        case "binding":
            return await podactions.bind(core, request, resource)
        case "eviction":
            return await podactions.evict(core, request, resource)
        case "token":
            return await tokenrequest.create(core, request, resource)
    if verb == "get":
        return await read.get(core, request, resource)
    if verb == "update":
        return await write.put(core, request, resource)
    return await write.patch_(core, request, resource)


async def asked(core: Core, request: Request, resource: Resource) -> web.StreamResponse:
    """Answer a kind that is not stored."""
    pods = core.registry.find("", "v1", "pods")
    if resource.kind == "Binding" and pods is not None:
        return await podactions.bind(core, request, pods)
    return await reviews.answer(core, request, resource)
