"""The application's probes, run by the agent, against real servers on loopback."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream

from pilotfish.agent.http import Request
from pilotfish.agent.probes import AppProbes
from pilotfish.grpc import BytesCodec


@pytest.fixture
async def http_port() -> AsyncIterator[int]:
    async def page(request: web.Request) -> web.Response:
        where = {
            "/there": "/end?ok=1",
            "/relative/there": "end",
            "/away": "http://203.0.113.1/never-asked",
            "/loop": "/loop",
        }
        if (target := where.get(request.path)) is not None:
            return web.Response(status=302, headers={"location": target})
        good = request.query.get("ok") == "1" or request.path == "/relative/end" or request.headers.get("x-key") == "v"
        return web.Response(status=200 if good else 500)

    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def status(**probe: object) -> int:
    answer = await AppProbes({"/p": {"timeoutSeconds": 20, **probe}}, "127.0.0.1")(
        Request("GET", "/p", {}, "127.0.0.1")
    )
    return answer.status


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/there", 200), ("/relative/there", 200), ("/away", 302), ("/loop", 302), ("/bad", 500), ("there", 200)],
)
async def test_http(http_port: int, path: str, expected: int) -> None:
    """Redirects are followed on the same host, with their query; to another host they are a success as they are."""
    assert await status(httpGet={"port": http_port, "path": path}) == expected


async def test_http_headers(http_port: int) -> None:
    """The probe's own headers are sent."""
    headers = [{"name": "x-key", "value": "v"}]
    assert await status(httpGet={"port": http_port, "path": "/", "httpHeaders": headers}) == 200


async def test_tcp(http_port: int) -> None:
    """A port that accepts is healthy, one that refuses is not."""
    assert await status(tcpSocket={"port": http_port}) == 200
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        assert await status(tcpSocket={"port": one.getsockname()[1]}) == 500


async def test_grpc() -> None:
    """The health service's word counts: SERVING is healthy, anything else is not."""

    class Health:
        def __mapping__(self) -> dict[str, Handler]:
            async def check(stream: Stream[bytes, bytes]) -> None:
                asked = await stream.recv_message()
                await stream.send_message(b"\x08\x01" if asked == b"\x0a\x04good" else b"\x08\x02")

            return {"/grpc.health.v1.Health/Check": Handler(check, Cardinality.UNARY_UNARY, bytes, bytes)}

    server = Server([Health()], codec=BytesCodec())
    await server.start("127.0.0.1", 0)
    assert server._server is not None
    port = server._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # asyncio's servers have them
    try:
        assert await status(grpc={"port": port, "service": "good"}) == 200
        assert await status(grpc={"port": port, "service": "ill"}) == 500
    finally:
        server.close()
        await server.wait_closed()
