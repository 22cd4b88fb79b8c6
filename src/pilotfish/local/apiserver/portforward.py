"""pods/NAME/portforward: TCP connections into a pod, as SPDY streams (bare or in a WebSocket) or WebSocket channels."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING

from aiohttp import WSMsgType, web

from pilotfish.local.apiserver import upgrade
from pilotfish.local.apiserver.errors import bad_request
from pilotfish.local.apiserver.nodelink import DialError
from pilotfish.local.apiserver.request import Request
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.spdy import Stream
from pilotfish.local.apiserver.streaming import first_of

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

_V4 = "v4.channel.k8s.io"
_CHUNK = 1 << 16
_PAIR_SECONDS = 30


async def answer(core: Core, request: Request, pod: Object) -> web.StreamResponse:
    """Serve one client until it hangs up."""
    http = request.http
    if upgrade.wants_websocket(http) and upgrade.TUNNEL not in upgrade.offered(http):
        return await _channels(core, request, pod)
    forwarder = _Forwarder(core, pod)
    upgraded = upgrade.Upgraded(http, forwarder.accept)
    if upgrade.wants_websocket(http):
        connection, pump = await upgraded.tunnel()
    else:
        connection, pump = await upgraded.bare(upgrade.spdy_protocol(http, ("portforward.k8s.io",)))
    try:
        await first_of(connection.closed.wait(), asyncio.shield(pump))
    finally:
        await forwarder.close()
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)
    return upgraded.response


class _Forwarder:
    """Pairs data and error streams by their request id, and connects each pair."""

    def __init__(self, core: Core, pod: Object) -> None:
        self._core = core
        self._pod = pod
        self._halves: dict[str, dict[str, Stream]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, stream: Stream) -> None:
        headers = stream.headers
        number = headers.get("requestid") or str(stream.number - (stream.number - 1) // 2 % 2 * 2)
        pair = self._halves.setdefault(number, {})
        pair[headers.get("streamtype", "")] = stream
        if {"data", "error"} <= pair.keys():
            del self._halves[number]
            task = asyncio.get_running_loop().create_task(self._forward(pair["data"], pair["error"]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, data: Stream, errors: Stream) -> None:
        port = data.headers.get("port", "")
        try:
            connected = await self._core.node.dial(pod=self._pod["metadata"]["uid"], port=int(port))
        except (DialError, ValueError) as error:
            meta = self._pod["metadata"]
            why = f"error forwarding port {port} to pod {meta['namespace']}/{meta['name']}: {error}"
            await errors.write(why.encode())
            await errors.finish()
            await data.finish()
            return
        try:
            await _copy(data, connected)
        finally:
            connected.close()
            with contextlib.suppress(ConnectionError, RuntimeError):
                await errors.finish()
                await data.finish()

    async def close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _copy(stream: Stream, connected: socket.socket) -> None:
    """Bytes both ways. The end of one direction is passed on; the end of the pod's is the end."""
    loop = asyncio.get_running_loop()

    async def inwards() -> None:
        while data := await stream.read():
            await loop.sock_sendall(connected, data)
        with contextlib.suppress(OSError):
            connected.shutdown(socket.SHUT_WR)

    async def outwards() -> None:
        while data := await loop.sock_recv(connected, _CHUNK):
            await stream.write(data)

    sending = asyncio.ensure_future(inwards())
    try:
        with contextlib.suppress(ConnectionError):
            await outwards()
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _channels(core: Core, request: Request, pod: Object) -> web.StreamResponse:
    """The older form: channels 2i (data) and 2i+1 (errors) for the i-th port; each begins with its port number."""
    http = request.http
    try:
        ports = [int(p) for value in http.query.getall("ports", []) for p in value.split(",")]
    except ValueError:
        raise bad_request("query parameter `ports` must be numbers") from None
    if not ports:
        raise bad_request("query parameter `ports` is required")
    socket_ = web.WebSocketResponse(protocols=(_V4,), max_msg_size=0, compress=False)
    await socket_.prepare(http)
    connected: dict[int, socket.socket] = {}
    readers = []
    loop = asyncio.get_running_loop()

    async def outwards(channel: int, source: socket.socket) -> None:
        while data := await loop.sock_recv(source, _CHUNK):
            await socket_.send_bytes(bytes([channel]) + data)

    try:
        for i, port in enumerate(ports):
            for channel in (2 * i, 2 * i + 1):
                await socket_.send_bytes(bytes([channel]) + struct.pack("<H", port))
            try:
                connected[2 * i] = await core.node.dial(pod=pod["metadata"]["uid"], port=port)
            except DialError as error:
                await socket_.send_bytes(bytes([2 * i + 1]) + str(error).encode())
                continue
            readers.append(asyncio.ensure_future(outwards(2 * i, connected[2 * i])))

        async def inwards() -> None:
            async for message in socket_:
                if message.type is WSMsgType.BINARY and len(message.data) > 1 and message.data[0] in connected:
                    await loop.sock_sendall(connected[message.data[0]], message.data[1:])

        await first_of(inwards(), *([asyncio.gather(*readers)] if readers else []))
        await socket_.close()
    finally:
        for reader in readers:
            reader.cancel()
        for one in connected.values():
            one.close()
    return socket_
