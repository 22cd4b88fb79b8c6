"""`hostlink.sock`: how the node, which has no way out of its network, lends the server listeners and gets some.

One JSON line a message, a descriptor rides along where the op says so (ARCHITECTURE.md, "The local cluster").
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

Serve = Callable[[socket.socket], Awaitable[asyncio.AbstractServer]]
"""Serve the API on one more listening socket."""

_LINE = 1 << 16


class HostLink:
    """Serves nodes. What a node lent is given back when it hangs up."""

    def __init__(self, run: Path, serve: Serve, address: str) -> None:
        self._path = run / "hostlink.sock"
        self._serve = serve
        self._address = address
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None

    async def start(self) -> None:
        """Listen. Raises OSError."""
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self._path))
        self._path.chmod(0o600)
        listener.listen(8)
        listener.setblocking(False)
        self._listener = listener
        self._spawn(self._accept(listener))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            link, _ = await loop.sock_accept(listener)
            link.setblocking(False)
            self._spawn(self._node(link))

    async def _node(self, link: socket.socket) -> None:
        """One node, as long as it stays connected."""
        servers: list[asyncio.AbstractServer] = []
        buffer = b""
        descriptors: list[int] = []
        try:
            while True:
                data, received = await _receive(link)
                descriptors += received
                if not data:
                    return
                buffer += data
                while b"\n" in buffer:
                    line, _, buffer = buffer.partition(b"\n")
                    message = json.loads(line)
                    if message.get("op") == "serve":
                        lent = socket.socket(fileno=descriptors.pop(0))
                        lent.setblocking(False)
                        servers.append(await self._serve(lent))
                    elif message.get("op") == "listen":
                        await self._lend(link, message)
                    else:
                        log.error("the node asked for %r, which is not known", message.get("op"))
                if len(buffer) > _LINE:
                    raise ValueError("a message is too long")
        except (OSError, ValueError, IndexError) as error:
            log.error("the node's link ends: %s", error)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            for server in servers:
                server.close()
            link.close()

    async def _lend(self, link: socket.socket, message: dict[str, Any]) -> None:
        """Answer with a listener on the server's own address (the loopback), or with why there is none."""
        number, port = message.get("id"), int(message.get("port", 0))
        listener = socket.socket(socket.AF_INET6 if ":" in self._address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._address, port))
            listener.listen(256)
        except OSError as error:
            listener.close()
            why = f"port {port} of {self._address}: "
            why += "taken by another program" if error.errno == errno.EADDRINUSE else str(error.strerror)
            await _send(link, {"id": number, "error": why}, [])
            return
        with listener:
            await _send(link, {"id": number, "port": listener.getsockname()[1]}, [listener.fileno()])

    async def close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
            self._path.unlink(missing_ok=True)


async def _receive(link: socket.socket) -> tuple[bytes, list[int]]:
    """Some bytes and the descriptors that came with them; no bytes at the end."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(BlockingIOError):
            data, descriptors, _, _ = socket.recv_fds(link, _LINE, 16)
            return data, descriptors
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(link, _done, ready)
        try:
            await ready
        finally:
            loop.remove_reader(link)


def _done(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _send(link: socket.socket, message: dict[str, Any], descriptors: list[int]) -> None:
    loop = asyncio.get_running_loop()
    data = json.dumps(message).encode() + b"\n"
    while True:
        with contextlib.suppress(BlockingIOError):
            sent = socket.send_fds(link, [data], descriptors)
            await loop.sock_sendall(link, data[sent:])
            return
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_writer(link, _done, ready)
        try:
            await ready
        finally:
            loop.remove_writer(link)
