"""The echo in all its protocols, each with a client of another library."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from grpclib.client import Channel, StreamStreamMethod, UnaryUnaryMethod
from grpclib.exceptions import GRPCError
from grpclib.health.v1.health_grpc import HealthStub
from grpclib.health.v1.health_pb2 import HealthCheckRequest

from pilotfish.local.images.programs.echo import report

from .conftest import running


async def _curl(*arguments: str) -> Any:
    """What curl prints, as JSON."""
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--max-time", "20", *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(output)


async def test_http_and_websocket(client: aiohttp.ClientSession, tmp_path: Path) -> None:
    """One port speaks HTTP/1.1, HTTP/2 with prior knowledge and WebSocket, and reports what it received."""
    body = tmp_path / "body"
    body.write_text("x" * 200_000)
    async with running("pilotfish/echo", "--port", "0", POD_NAME="p", POD_NAMESPACE="n", SERVICE_VERSION="v9") as (
        _,
        (port,),
    ):
        url = f"http://127.0.0.1:{port}"
        async with client.post(f"{url}/a/b?x=1&x=2", data=b"hello", headers={"X-One": "1"}) as answer:
            received = await answer.json()
        assert received["protocol"] == "HTTP/1.1"
        assert (received["method"], received["path"], received["query"]) == ("POST", "/a/b", {"x": ["1", "2"]})
        assert (received["headers"]["X-One"], received["bodyBytes"]) == ("1", 5)
        assert (received["pod"], received["namespace"], received["version"]) == ("p", "n", "v9")
        assert received["host"] == f"127.0.0.1:{port}"
        assert received["peer"] == "127.0.0.1"

        received = await _curl("--http2-prior-knowledge", "-d", f"@{body}", "-H", "X-Two: 2", f"{url}/h2")
        assert received["protocol"] == "HTTP/2"
        assert (received["method"], received["path"], received["bodyBytes"]) == ("POST", "/h2", 200_000)
        assert (received["headers"]["x-two"], received["host"]) == ("2", f"127.0.0.1:{port}")

        async with client.ws_connect(f"{url}/ws") as socket:
            for message in ("one", "x" * 200, "y" * 70_000):
                await socket.send_str(message)
                assert await socket.receive_str() == message
            await socket.ping(b"p")
            await socket.send_bytes(b"\0\1")
            assert await socket.receive_bytes() == b"\0\1"


async def test_made_to_order(client: aiohttp.ClientSession) -> None:
    """Query parameters choose status, size and headers; bad ones are refused, over both versions of HTTP."""
    async with running("pilotfish/echo", "--port", "0") as (_, (port,)):
        url = f"http://127.0.0.1:{port}"
        async with client.get(f"{url}/?status=503&headers=x-a:1&headers=x-b:2") as answer:
            assert (answer.status, answer.headers["x-a"], answer.headers["x-b"]) == (503, "1", "2")
        async with client.get(f"{url}/?bytes=100000") as answer:
            assert len(await answer.read()) == 100_000
        for bad in ("status=9", "status=x", "delay=x", "bytes=-1", "bytes=99999999999"):
            async with client.get(f"{url}/?{bad}") as answer:
                assert answer.status == 400, bad
        process = await asyncio.create_subprocess_exec(
            *("curl", "-sS", "--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_code} %{size_download}"),
            f"{url}/?status=418&bytes=300000",
            stdout=asyncio.subprocess.PIPE,
        )
        assert (await process.communicate())[0] == b"418 300000"


@pytest.mark.parametrize(("text", "seconds"), [("250ms", 0.25), ("1.5s", 1.5), ("2", 2.0), ("1m", 60.0)])
def test_durations(text: str, seconds: float) -> None:
    """Durations have a unit, seconds by default."""
    assert report.seconds(text) == seconds


def test_weighted_status() -> None:
    """Statuses are picked by weight."""
    assert {report.pick_status("200:1,503:0") for _ in range(50)} == {200}
    assert {report.pick_status("200:1,503:1") for _ in range(100)} == {200, 503}


async def test_tls(tmp_path: Path) -> None:
    """With a certificate it serves HTTPS, HTTP/2 by ALPN."""
    pair = [str(tmp_path / "crt"), str(tmp_path / "key")]
    openssl = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"),
        *("-subj", "/CN=localhost", "-out", pair[0], "-keyout", pair[1]),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await openssl.wait() == 0
    arguments = ("--port", "0", "--tls", "0", "--crt", pair[0], "--key", pair[1])
    async with running("pilotfish/echo", *arguments) as (_, (_, port)):
        received = await _curl("--cacert", pair[0], "--http2", f"https://localhost:{port}/")
        assert received["protocol"] == "HTTP/2"
        received = await _curl("--cacert", pair[0], "--http1.1", f"https://localhost:{port}/")
        assert received["protocol"] == "HTTP/1.1"
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection("127.0.0.1", port, ssl=ssl.create_default_context())


async def test_grpc() -> None:
    """gRPC answers single messages and streams, fails as asked, and is healthy."""
    async with running("pilotfish/echo", "--port", "0", "--grpc", "0") as (_, (_, port)):
        channel = Channel("127.0.0.1", port)
        try:
            unary = UnaryUnaryMethod(channel, "/pilotfish.echo.Echo/Echo", Struct, Struct)
            message = Struct()
            message.update({"a": "b"})
            answer = MessageToDict(await unary(message, metadata={"x-one": "1"}))
            assert answer["message"] == {"a": "b"}
            assert answer["metadata"]["x-one"] == "1"
            stream = StreamStreamMethod(channel, "/pilotfish.echo.Echo/Stream", Struct, Struct)
            assert len(await stream([message, message])) == 2
            message.update({"code": 7})
            with pytest.raises(GRPCError, match="PERMISSION_DENIED"):
                await unary(message)
            assert (await HealthStub(channel).Check(HealthCheckRequest())).status == 1
        finally:
            channel.close()


async def test_tcp() -> None:
    """Lines come back as they are from the echo, with a prefix from the TCP echo server."""
    for image, arguments, expected in (
        ("pilotfish/echo", ("--port", "0", "--tcp", "0"), b"world\n"),
        ("istio/tcp-echo-server:1.2", ("0", "hello"), b"hello world\n"),
    ):
        async with running(image, *arguments) as (_, ports):
            reader, writer = await asyncio.open_connection("127.0.0.1", ports[-1])
            writer.write(b"world\n")
            assert await asyncio.wait_for(reader.readline(), 60) == expected
            writer.close()
