"""From an HTTP request to the code that answers it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from pilotfish.local.apiserver import authn, delete, documents, metrics, read, respond, subresources, watch, write
from pilotfish.local.apiserver.core import Core
from pilotfish.local.apiserver.errors import ApiError, internal
from pilotfish.local.apiserver.request import ANONYMOUS, Accept, Request, accepted, parse
from pilotfish.local.apiserver.resource import Resource

log = logging.getLogger(__name__)

Handler = Callable[[Core, Request, Resource], Awaitable[web.StreamResponse]]

_HANDLERS: dict[str, Handler] = {
    "get": read.get,
    "list": read.list_,
    "watch": watch.watch,
    "create": write.create,
    "update": write.put,
    "patch": write.patch_,
    "delete": delete.delete,
    "deletecollection": delete.delete_collection,
}


class Server:
    """Answers requests with the parts of a `Core`."""

    def __init__(self, core: Core) -> None:
        self.core = core

    async def handle(self, http: web.BaseRequest) -> web.StreamResponse:
        request: Request | None = None
        try:
            query = http.query
            target = parse(http.method, http.rel_url.raw_path, query)
            request = Request(http, target, ANONYMOUS, query, Accept())
            request.user = self.core.authenticator.user(self.core, http)
            request.user = authn.impersonated(self.core, http, request.user)
            self.core.authorizer.check(self.core, request.user, target)
            if not target.path.startswith("/openapi"):  # clients of documents ask for forms of their own, JSON too
                request.accept = accepted(http.headers.get("Accept", ""))
            if not target.resource:
                return await documents.answer(self.core, request)
            return await self._resource(request)
        except ApiError as error:
            return await respond.refusal(request, error)
        except (ConnectionResetError, asyncio.CancelledError):
            raise
        except Exception as error:
            log.exception("%s %s failed", http.method, http.rel_url.path)
            return await respond.refusal(request, internal(f"{type(error).__name__}: {error}"))

    async def _resource(self, request: Request) -> web.StreamResponse:
        target = request.target
        resource = self.core.registry.find(target.group, target.version, target.resource)
        if resource is None or (target.namespace and not resource.namespaced and resource.plural != "namespaces"):
            return documents.not_found()
        if target.rest and target.subresource != "proxy":
            return documents.not_found()
        if resource.namespaced and not target.namespace:
            if target.name:
                return documents.not_found()
            if target.verb not in ("list", "watch"):
                raise not_allowed()  # across namespaces one can only look
        if resource.strategy.deprecation:
            request.warnings.append(resource.strategy.deprecation)
        if target.subresource:
            sub = resource.subresources.get(target.subresource)
            if sub is None:
                return documents.not_found()
            return await subresources.answer(self.core, request, resource, sub)
        verb = target.verb
        if (verb == "create" and target.name) or (verb in ("update", "patch") and not target.name):
            raise not_allowed()
        if verb not in resource.verbs or verb not in _HANDLERS:
            raise not_allowed()
        if resource.group == metrics.GROUP:
            return await metrics.answer(self.core, request, resource)
        if not resource.stored:
            return await subresources.asked(self.core, request, resource)
        return await _HANDLERS[verb](self.core, request, resource)


def not_allowed() -> ApiError:
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
