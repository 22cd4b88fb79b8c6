"""Taking a connection over from HTTP: plain SPDY upgrades, and SPDY tunnelled in a WebSocket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from pilotfish.local.apiserver import spdy
from pilotfish.local.apiserver.errors import bad_request

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

TUNNEL = "SPDY/3.1+portforward.k8s.io"
_HIGH = 1 << 20


def wants_websocket(http: web.BaseRequest) -> bool:
    return http.headers.get("Upgrade", "").lower() == "websocket"


def wants_spdy(http: web.BaseRequest) -> bool:
    return http.headers.get("Upgrade", "").lower().startswith("spdy/3.1")


def offered(http: web.BaseRequest) -> list[str]:
    """The WebSocket subprotocols of the client."""
    return [p.strip() for p in http.headers.get("Sec-WebSocket-Protocol", "").split(",") if p.strip()]


class _Taken(web.StreamResponse):
    """Stands for an answer that has been given on the bare connection."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        _ = request
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        _ = data


class _Bare(asyncio.Protocol):
    """The connection once HTTP is out of the way."""

    def __init__(self, transport: asyncio.Transport, before: Any) -> None:
        self.transport = transport
        self._before = before
        self.arrived: asyncio.Queue[bytes] = asyncio.Queue()
        self._writable = asyncio.Event()
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self.arrived.put_nowait(data)
        if self.arrived.qsize() > 64:
            self.transport.pause_reading()

    async def read(self) -> bytes:
        data = await self.arrived.get()
        if self.arrived.qsize() < 16 and not self.transport.is_closing():
            self.transport.resume_reading()
        return data

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        self.arrived.put_nowait(b"")
        self._before.connection_lost(exc)

    def eof_received(self) -> None:
        self.arrived.put_nowait(b"")

    async def send(self, data: bytes) -> None:
        if self.transport.is_closing():
            raise ConnectionResetError("the client went away")
        self.transport.write(data)
        await self._writable.wait()


class Upgraded:
    """A SPDY connection to a client: run `serve` until it returns; streams arrive through `accept`."""

    def __init__(self, http: web.BaseRequest, accept: spdy.Accept) -> None:
        self._http = http
        self._accept = accept
        self.response: web.StreamResponse = _Taken()

    async def bare(self, protocol: str) -> tuple[spdy.Connection, asyncio.Task[None]]:
        """Answer an `Upgrade: SPDY/3.1`. The connection, and the task that reads it."""
        http = self._http
        transport = http.transport
        if transport is None:
            raise ConnectionResetError("the client went away")
        bare = _Bare(transport, http.protocol)
        head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        if protocol:
            head += f"X-Stream-Protocol-Version: {protocol}\r\n"
        bare.transport.set_protocol(bare)
        bare.transport.write(head.encode() + b"\r\n")
        connection = spdy.Connection(bare.send, self._accept)

        async def pump() -> None:
            try:
                while data := await bare.read():
                    await connection.feed(data)
            finally:
                connection.close()
                bare.transport.close()

        return connection, asyncio.get_running_loop().create_task(pump())

    async def tunnel(self) -> tuple[spdy.Connection, asyncio.Task[None]]:
        """Answer a WebSocket whose messages carry SPDY."""
        socket = web.WebSocketResponse(protocols=(TUNNEL,), max_msg_size=0, compress=False)
        await socket.prepare(self._http)
        self.response = socket
        connection = spdy.Connection(socket.send_bytes, self._accept)

        async def pump() -> None:
            try:
                async for message in socket:
                    if message.type is WSMsgType.BINARY:
                        await connection.feed(message.data)
            finally:
                connection.close()
                await socket.close()

        return connection, asyncio.get_running_loop().create_task(pump())


def spdy_protocol(http: web.BaseRequest, known: tuple[str, ...]) -> str:
    """The version of the stream protocol that both sides know, best first. Raises 400."""
    asked = [p.strip() for value in http.headers.getall("X-Stream-Protocol-Version", []) for p in value.split(",")]
    if not asked:
        return ""
    for one in known:
        if one in asked:
            return one
    raise bad_request(f"unable to upgrade: none of the protocols {', '.join(asked)} is known")
