"""Who may read the debug pages over HTTP."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from pilotfish.ca.caller import Caller, UnauthenticatedError
from pilotfish.ca.identity import SpiffeId
from pilotfish.daemon.debug import Debug
from pilotfish.daemon.http import application
from pilotfish.daemon.options import Options
from pilotfish.envoy import Compiler
from pilotfish.mesh.world import World
from pilotfish.xds.fleet import Fleet


async def authenticate(certificate: Any, headers: Any) -> Caller:
    namespace = str(headers.get("authorization", "")).removeprefix("Bearer ")
    if not namespace:
        raise UnauthenticatedError("no token")
    return Caller((SpiffeId.of("cluster.local", namespace, "default"),))


@pytest.mark.parametrize(
    ("remote", "token", "page", "status"),
    [
        ("127.0.0.1", "", "syncz", 200),
        ("10.0.0.9", "", "syncz", 401),
        ("10.0.0.9", "book", "syncz", 403),
        ("10.0.0.9", "book", "config_dump", 400),
        ("10.0.0.9", "book", "config_dump?proxyID=pod.shop", 404),
        ("10.0.0.9", "istio-system", "syncz", 200),
        ("10.0.0.9", "observers", "syncz", 200),
        ("127.0.0.1", "", "nonsense", 404),
        ("127.0.0.1", "", "force_disconnect?proxyID=x", 404),
        ("127.0.0.1", "", "pprof/heap", 404),
        ("127.0.0.1", "", "/syncz", 200),
    ],
)
async def test_access(remote: str, token: str, page: str, status: int) -> None:
    """From the pod itself always; from elsewhere with a token, and all proxies only for the system namespace and those
    that are trusted like it."""
    unused: Any = None
    options = Options(environment={"DEBUG_ENDPOINT_AUTH_ALLOWED_NAMESPACES": "observers, auditors"})
    debug = Debug(Fleet(), Compiler(World()), unused, options, authenticate, dict)  # type: ignore[arg-type]  # as one is called
    app = application()
    debug.routes(app)

    @web.middleware
    async def from_there(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await handler(request.clone(remote=remote))

    app.middlewares.append(from_there)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/debug/{page}"
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
            assert answer.status == status
    finally:
        await runner.cleanup()
