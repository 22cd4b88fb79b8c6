"""The node's end of `DATA/run/hostlink.sock`: listeners exchanged with the API server's process.

The API server is given a socket that listens inside the node's network, and gives back sockets that listen on the
machine. Both kinds stay alive when the API server restarts; the first is then handed over again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from pathlib import Path
from typing import Any

from pilotfish.local.network import API_PORT, NODE_IP
from pilotfish.local.node import unixpath

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 0.2
_ANSWER_SECONDS = 10.0


class HostLinkError(RuntimeError):
    """The API server's process could not listen; the text says why."""


class HostLink:
    """Keeps the connection and asks for listeners."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._server = socket.create_server((str(NODE_IP), API_PORT), backlog=512)
        self._connection: socket.socket | None = None
        self._connected = asyncio.Event()
        self._waiting: dict[int, asyncio.Future[socket.socket]] = {}
        self._last = 0

    async def run(self) -> None:
        """Runs until cancelled: connect, hand the socket over, take answers, connect again."""
        try:
            while True:
                with contextlib.suppress(OSError):
                    await self._session()
                await asyncio.sleep(_RETRY_SECONDS)
        finally:
            self._server.close()

    async def _session(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.setblocking(False)
            with unixpath.short(self._path) as path:
                await loop.sock_connect(connection, path)
            socket.send_fds(connection, [b'{"op": "serve"}\n'], [self._server.fileno()])
            self._connection = connection
            self._connected.set()
            _log.info("connected to the API server's process")
            try:
                await self._receive(connection)
            finally:
                self._connected.clear()
                self._connection = None
                for future in self._waiting.values():
                    if not future.done():
                        future.set_exception(HostLinkError("the API server's process went away"))
                self._waiting.clear()

    async def _receive(self, connection: socket.socket) -> None:
        rest, fds = b"", []
        while True:
            await _readable(connection)
            data, more, _, _ = socket.recv_fds(connection, 65536, 16)
            fds += more
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.strip():
                    self._take(json.loads(line), fds)

    def _take(self, message: dict[str, Any], fds: list[int]) -> None:
        future = self._waiting.pop(message.get("id", 0), None)
        if "error" in message:
            if future is not None and not future.done():
                future.set_exception(HostLinkError(str(message["error"])))
            return
        if "id" not in message or not fds:
            return
        fd = fds.pop(0)
        if future is None or future.done():
            os.close(fd)
            return
        future.set_result(socket.socket(fileno=fd))

    async def listen(self, port: int) -> socket.socket:
        """A socket that listens on the cluster's address of the machine. Raises `HostLinkError`."""
        await self._connected.wait()
        assert self._connection is not None  # noqa: S101 - set together with the event
        self._last += 1
        number = self._last
        future: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        line = json.dumps({"op": "listen", "id": number, "port": port}) + "\n"
        try:
            self._connection.send(line.encode())
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await future
        except (OSError, TimeoutError) as error:
            self._waiting.pop(number, None)
            raise HostLinkError("no answer from the API server's process") from error


def wake(future: asyncio.Future[None]) -> None:
    """For `add_reader` and `add_writer`, which may call more than once."""
    if not future.done():
        future.set_result(None)


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, wake, future)
    try:
        await future
    finally:
        loop.remove_reader(connection)
