"""`DATA/run/dial.sock`: connections into the node's network, made here and handed out as descriptors.

A client sends one JSON line, `{"host": H, "port": P}` or `{"pod": UID, "port": P}`, and gets `{}` with a connected
descriptor, or `{"error": "…"}`. With `pod` the connection is made inside the pod's own network to its loopback, as
port-forward wants it: servers that listen on 127.0.0.1 only are reached.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

from pilotfish.local.node import namespaces, unixpath
from pilotfish.local.node.network import Sandbox

_CONNECT_SECONDS = 10.0
_MAX_REQUEST = 4096


class DialError(RuntimeError):
    """The connection could not be made; the text says why."""


def socket_in(sandbox: Sandbox) -> socket.socket:
    """A TCP socket that belongs to a pod's network, made in a thread that enters it and ends there."""
    made: list[socket.socket] = []
    errors: list[OSError] = []

    def work() -> None:
        try:
            namespaces.setns(sandbox.net_fd, namespaces.CLONE_NEWNET)
            made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="dial")
    thread.start()
    thread.join()
    if errors:
        raise DialError(f"cannot enter the pod's network: {errors[0]}")
    return made[0]


class Dialer:
    """Serves dial.sock."""

    def __init__(
        self, path: Path, sandbox: Callable[[str], Sandbox | None], resolve: Callable[[str], str | None]
    ) -> None:
        self._path = path
        self._sandbox = sandbox
        self._resolve = resolve
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Runs until cancelled."""
        loop = asyncio.get_running_loop()
        self._path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
            with unixpath.short(self._path) as path:
                server.bind(path)
            self._path.chmod(0o600)
            server.listen(64)
            server.setblocking(False)
            while True:
                connection, _ = await loop.sock_accept(server)
                task = asyncio.create_task(self._serve(connection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connection.setblocking(False)
        with connection:
            try:
                async with asyncio.timeout(_CONNECT_SECONDS + 5):
                    line = b""
                    while not line.endswith(b"\n") and len(line) < _MAX_REQUEST:
                        data = await loop.sock_recv(connection, _MAX_REQUEST)
                        if not data:
                            return
                        line += data
                    try:
                        with await self._dial(json.loads(line)) as made:
                            socket.send_fds(connection, [b"{}\n"], [made.fileno()])
                    except (DialError, ValueError, KeyError, TypeError) as error:
                        await loop.sock_sendall(connection, json.dumps({"error": str(error)}).encode() + b"\n")
            except (OSError, TimeoutError):
                return

    async def _dial(self, request: dict[str, object]) -> socket.socket:
        port = int(str(request["port"]))
        if "pod" in request:
            sandbox = self._sandbox(str(request["pod"]))
            if sandbox is None:
                raise DialError("the pod has no network: it is not running on this node")
            return await self._connect(socket_in(sandbox), "127.0.0.1", port)
        host = str(request["host"])
        address = _literal(host) or self._resolve(host)
        if address is None:
            raise DialError(f"{host}: no such host")
        return await self._connect(socket.socket(socket.AF_INET, socket.SOCK_STREAM), address, port)

    async def _connect(self, made: socket.socket, host: str, port: int) -> socket.socket:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(made, (host, port))
        except TimeoutError as error:
            made.close()
            raise DialError(f"connect to {host}:{port}: no answer in {_CONNECT_SECONDS:g} s") from error
        except OSError as error:
            made.close()
            raise DialError(f"connect to {host}:{port}: {os.strerror(error.errno or 0).lower()}") from error
        return made


def _literal(host: str) -> str | None:
    try:
        return str(ip_address(host))
    except ValueError:
        return None
