"""The HTTP/1.1 module, against raw bytes and a foreign client."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from pilotfish.local.images.programs.http1 import ProtocolError, Request, Response, fetch, text

from .conftest import Serve


async def _mirror(request: Request) -> Response:
    if request.path == "/fail":
        raise RuntimeError("broken")
    return Response(200, request.body or request.path.encode(), headers=[("X-Peer", request.peer)])


async def _raw(port: int, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(-1), 60)
    finally:
        writer.close()


async def test_keep_alive_and_pipelining(serve: Serve) -> None:
    """Two requests sent at once on one connection are answered in order, and the connection stays until asked."""
    port = await serve(_mirror)
    sent = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nPOST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
    answer = await _raw(port, sent)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.index(b"/a") < answer.index(b"hi")


async def test_chunked_body(serve: Serve, client: aiohttp.ClientSession) -> None:
    """A chunked request body arrives whole."""
    port = await serve(_mirror)

    async def parts() -> object:
        yield b"one "
        yield b"two"

    async with client.post(f"http://127.0.0.1:{port}/", data=parts()) as answer:
        assert await answer.text() == "one two"


async def test_head_has_no_body(serve: Serve) -> None:
    """HEAD answers the length without the body."""
    answer = await _raw(await serve(_mirror), b"HEAD /abc HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Content-Length: 4" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_http_1_0_closes(serve: Serve) -> None:
    """An HTTP/1.0 client gets one answer and the end of the connection."""
    port = await serve(_mirror)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /a HTTP/1.0\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(-1), 60)
    writer.close()
    assert b"Connection: close" in answer


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
)
async def test_bad_requests(serve: Serve, sent: bytes) -> None:
    """What is not HTTP is answered 400 and the connection ends; the server goes on."""
    port = await serve(_mirror)
    assert (await _raw(port, sent)).startswith(b"HTTP/1.1 400 Bad Request")
    assert (await fetch("127.0.0.1", port, "/a", timeout=5)).body == b"/a"


async def test_a_fault_is_a_500(serve: Serve) -> None:
    """An exception in a handler is a 500 for that request only."""
    port = await serve(_mirror)
    assert (await fetch("127.0.0.1", port, "/fail", timeout=5)).status == 500
    assert (await fetch("127.0.0.1", port, "/a", timeout=5)).status == 200


async def test_fetch_times_out(serve: Serve) -> None:
    """A server that never answers is given up after the timeout."""

    async def hang(_: Request) -> Response:
        await asyncio.Event().wait()
        return text("")

    port = await serve(hang)
    with pytest.raises(TimeoutError):
        await fetch("127.0.0.1", port, "/", timeout=0.05)


async def test_fetch_refuses_what_is_no_answer() -> None:
    """An answer that is not HTTP, or none, is a ProtocolError."""
    answers = [b"", b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for _ in range(3):
        with pytest.raises(ProtocolError):
            await fetch("127.0.0.1", port, "/", timeout=5)
    server.close()
