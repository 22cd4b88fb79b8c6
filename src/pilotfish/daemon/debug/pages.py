"""Where debug pages are asked for, and by whom.

From the pod itself every page is open. All others need a certificate or token, over HTTP as over xDS: callers of the
control plane's namespace (or of one in `DEBUG_ENDPOINT_AUTH_ALLOWED_NAMESPACES`) see everything, the rest three pages,
and there only proxies of their own namespace. `ENABLE_DEBUG_ENDPOINT_AUTH=false` lifts the difference.
"""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web
from grpclib import GRPCError, Status

from pilotfish.ca.caller import Authenticator, Caller, UnauthenticatedError
from pilotfish.daemon.debug.objects import Objects
from pilotfish.daemon.debug.page import NO_SUCH_PAGE, Later, Page, PageError, Question
from pilotfish.daemon.debug.proxies import Proxies
from pilotfish.daemon.feed import Feed
from pilotfish.daemon.options import Options
from pilotfish.envoy import Compiler
from pilotfish.xds.fleet import Fleet
from pilotfish.xds.service import DEBUG_TYPE, DebugResource
from pilotfish.xds.session import Request

OPEN_TO_ALL = frozenset({"config_dump", "ndsz", "edsz"})
"""What a caller of another namespace may ask about its own proxies."""
_PROFILES = "Go's profiles do not exist here; what the process uses is in /metrics (process_*)"


class Debug:
    """The pages, and the two ways to them."""

    def __init__(
        self,
        fleet: Fleet,
        compiler: Compiler,
        feed: Feed,
        options: Options,
        authenticate: Authenticator,
        problems: Callable[[], Mapping[tuple[str, str, str], str]],
    ) -> None:
        self._options = options
        self._authenticate = authenticate
        self._proxies = Proxies(fleet, compiler, options)
        environment = options.environment
        self._namespace_rules = environment.get("ENABLE_DEBUG_ENDPOINT_AUTH", "").lower() != "false"
        extra = environment.get("DEBUG_ENDPOINT_AUTH_ALLOWED_NAMESPACES", "").split(",")
        self._trusted = {options.namespace, *(one.strip() for one in extra if one.strip())}
        self.pages: dict[str, Page] = {
            **self._proxies.pages(),
            **Objects(fleet, compiler, feed, options, problems).pages(),
            "list": Page(lambda _: self._names(), "The names of all pages"),
        }
        if environment.get("UNSAFE_ENABLE_ADMIN_ENDPOINTS", "").lower() != "true":
            del self.pages["force_disconnect"]

    def _names(self) -> list[str]:
        """As istioctl offers them: a variant is a name of its own."""
        variants = [f"{name}?{query}" for name, page in self.pages.items() for query, _ in page.variants]
        return sorted([*variants, *(name for name in self.pages if name != "list")])

    # ------------------------------------------------------------------ HTTP

    def routes(self, app: web.Application) -> None:
        """Put `/debug` and `/debug/NAME` on an application."""

        async def index(_: web.Request) -> web.Response:
            return web.Response(text=self._index(), content_type="text/html")

        async def profiles(_: web.Request) -> web.Response:
            return web.Response(status=404, text=f"{_PROFILES}\n")

        async def page(request: web.Request) -> web.Response:
            return await self._serve(request)

        app.router.add_get("/debug", index)
        app.router.add_get("/debug/pprof{tail:.*}", profiles)
        app.router.add_route("*", "/debug/{name}", page)  # any method, as there

    def _index(self) -> str:
        rows = [(name, page.help) for name, page in self.pages.items()]
        rows += [(f"{name}?{query}", text) for name, page in self.pages.items() for query, text in page.variants]
        cells = ((f"/debug/{html.escape(name)}", html.escape(text)) for name, text in sorted(rows))
        table = "".join(f'<tr><td><a href="{path}">{path}</a></td><td>{text}</td></tr>' for path, text in cells)
        return (
            "<!doctype html><title>pilotfishd</title><h1>Debug pages</h1>"
            "<p>In the query, <code>pretty</code> indents JSON, <code>proxyID=POD.NAMESPACE</code> names a proxy.</p>"
            f"<table><tr><th>Endpoint</th><th>Description</th></tr>{table}</table>"
        )

    async def _serve(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        namespaces = None
        if not _is_loopback(request.remote or ""):
            try:
                caller = await self._authenticate(None, {k.lower(): v for k, v in request.headers.items()})
            except UnauthenticatedError:
                return web.Response(status=401, text="a token of a service account is needed\n")
            namespaces = self._visible(caller)
            if namespaces is not None and name not in OPEN_TO_ALL:
                return web.Response(status=403, text=f"not for callers outside {' and '.join(sorted(self._trusted))}\n")
        try:
            found = self.answer(name, Question(request.query, namespaces))
        except PageError as error:
            return web.Response(status=error.status, text=error.text)
        text = await _text(found, 2 if "pretty" in request.query else None)
        return web.Response(text=text, content_type="text/plain" if text is found else "application/json")

    def answer(self, name: str, question: Question) -> Any:
        """A page. Raises PageError."""
        page = self.pages.get(name)
        if page is None:
            raise PageError(404, f"{NO_SUCH_PAGE}: there is no {name!r}; /debug/list has the names")
        return page.make(question)

    def _visible(self, caller: Caller) -> frozenset[str] | None:
        """The namespaces whose proxies a caller may see; None for all."""
        spaces = frozenset(one.namespace for one in caller.identities)
        return None if not self._namespace_rules or spaces & self._trusted else spaces

    # ------------------------------------------------------------------ xDS

    async def over_xds(self, caller: Caller, request: Request) -> tuple[str, list[DebugResource]]:
        """Debug as tools ask for it over xDS: `istio.io/debug` (a page by name), `…/syncz` and `…/config_dump`.

        What cannot be found is told in the answer: tools ask one control plane after the other, and an error would
        make them wait. Raises GRPCError for anything but one name, and for a page that the caller may not see.
        """
        names = [*request.names, *request.subscribe]
        namespaces = self._visible(caller)
        if request.type_url == f"{DEBUG_TYPE}/syncz":
            return request.type_url, self._proxies.client_configs(Question({}, namespaces))
        if request.type_url == f"{DEBUG_TYPE}/config_dump":
            question = Question({"proxyID": names[0] if len(names) == 1 else ""}, namespaces)
            try:
                return request.type_url, self._proxies.packed_dump(question)
            except PageError as error:  # with this text istioctl asks the next replica
                return request.type_url, [("", DEBUG_TYPE, error.text.encode())]
        if request.type_url != DEBUG_TYPE or len(names) != 1:
            raise GRPCError(Status.INVALID_ARGUMENT, "exactly one debug request is required")
        page, _, rest = names[0].partition("?")
        if namespaces is not None and page not in OPEN_TO_ALL:
            raise GRPCError(
                Status.PERMISSION_DENIED, f"the debug page {page!r} is not for {', '.join(map(str, caller.identities))}"
            )
        try:
            found = self.answer(page, Question(dict(parse_qsl(rest, keep_blank_values=True)), namespaces))
            body = (await _text(found)).encode()
        except PageError as error:
            body = error.text.encode()
        return request.type_url, [(names[0], DEBUG_TYPE, body)]


async def _text(found: Any, indent: int | None = None) -> str:
    """Text as it is, all else as JSON."""
    if isinstance(found, str):
        return found

    def make() -> str:
        return json.dumps(found.make() if isinstance(found, Later) else found, indent=indent)

    # Large meshes have large pages, and no proxy should wait for one.
    return await asyncio.to_thread(make)


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "::ffff:127.0.0.1")
