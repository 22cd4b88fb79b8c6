"""Messages sent in pieces, over a real connection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from grpclib.client import Channel, StreamStreamMethod
from grpclib.config import Configuration
from grpclib.const import Cardinality, Handler
from grpclib.server import Server

from pilotfish.grpc import BytesCodec, receive, send

PATH = "/test.Echo/Pieces"
PIECES = (b"", b"a", memoryview(b"xbcx")[1:3], b"d" * 70_000, b"e" * 3, b"f" * 1_000_000, b"")


class Service:
    """Answers every message with PIECES, twice."""

    async def _serve(self, stream: Any) -> None:
        await stream.send_initial_metadata()
        while await receive(stream) is not None:
            for _ in range(2):
                await send(stream, PIECES)

    def __mapping__(self) -> Mapping[str, Handler]:
        return {PATH: Handler(self._serve, Cardinality.STREAM_STREAM, bytes, bytes)}


async def _ask(stream: Any) -> None:
    for end in (False, True):
        await stream.send_message(b"go", end=end)
        assert [await stream.recv_message(), await stream.recv_message()] == [b"".join(PIECES)] * 2
    assert await stream.recv_message() is None


@pytest.mark.parametrize("window", [2**16 - 1, 2**24])
async def test_pieces_arrive_as_one_message(window: int) -> None:
    """Whatever the receiver's window, also on two streams that share a connection."""
    server = Server([Service()], codec=BytesCodec())
    await server.start("127.0.0.1", 0)
    assert server._server is not None  # there is no public way to learn the port
    port = server._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # asyncio's servers do
    config = Configuration(http2_connection_window_size=window, http2_stream_window_size=window)
    async with Channel("127.0.0.1", port, codec=BytesCodec(), config=config) as channel:
        method: Any = StreamStreamMethod(channel, PATH, bytes, bytes)
        async with asyncio.timeout(60), method.open() as one, method.open() as other:
            await asyncio.gather(_ask(one), _ask(other))
    server.close()
    await server.wait_closed()
