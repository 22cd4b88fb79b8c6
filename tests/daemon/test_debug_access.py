"""Who may read the debug pages over HTTP."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from aiohttp import web

from pilotfish.ca.caller import Caller, UnauthenticatedError
from pilotfish.ca.identity import SpiffeId
from pilotfish.daemon.debug import Debug
from pilotfish.daemon.options import Options
from pilotfish.xds.fleet import Fleet


async def authenticate(certificate: Any, headers: Any) -> Caller:
    namespace = str(headers.get("authorization", "")).removeprefix("Bearer ")
    if not namespace:
        raise UnauthenticatedError("no token")
    return Caller((SpiffeId.of("cluster.local", namespace, "default"),))


@pytest.mark.parametrize(
    ("remote", "token", "status"),
    [
        ("127.0.0.1", "", 200),
        ("10.0.0.9", "", 401),
        ("10.0.0.9", "book", 403),
        ("10.0.0.9", "istio-system", 200),
    ],
)
async def test_access(remote: str, token: str, status: int) -> None:
    """From the pod itself always; from elsewhere with a token, and all proxies only for the system namespace."""
    unused: Any = None
    debug = Debug(Fleet(), unused, unused, Options(), authenticate, dict)  # type: ignore[arg-type]  # as one is called

    async def page(request: web.Request) -> web.Response:
        return await debug._serve(request.clone(remote=remote))

    app = web.Application()
    app.router.add_get("/debug/{name}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/debug/syncz"
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
            assert answer.status == status
    finally:
        await runner.cleanup()
