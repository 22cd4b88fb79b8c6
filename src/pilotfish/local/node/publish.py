"""Ports of Services on the machine's own address: NodePorts and load balancers.

The API server's process listens on the machine for the node (`hostlink.py`); connections are relayed into the node's
network to the Service, where its rules choose the endpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from pilotfish.local.network import NODE_IP
from pilotfish.local.node.hostlink import HostLinkError

Object = Mapping[str, Any]
_log = logging.getLogger(__name__)

_RETRY_SECONDS = 3.0
_HIGH_WATER = 256 * 1024


@dataclass(frozen=True)
class Published:
    """What is to be reachable at a port of the machine."""

    service: tuple[str, str]
    """Namespace and name."""
    host: str
    port: int


def wanted(services: Iterable[Object]) -> tuple[dict[int, Published], dict[tuple[str, str], list[str]]]:
    """Machine port → Service, and per Service the problems of ports that another one has. Older Services win."""
    ports: dict[int, Published] = {}
    problems: dict[tuple[str, str], list[str]] = {}

    def claim(number: int, key: tuple[str, str], host: str, port: int) -> None:
        taken = ports.setdefault(number, Published(key, host, port))
        if taken.service != key:
            problems.setdefault(key, []).append(
                f"port {number} of this machine is published for the Service {'/'.join(taken.service)}"
            )

    def age(service: Object) -> tuple[str, str, str]:
        meta = service["metadata"]
        return (meta.get("creationTimestamp") or "", meta["namespace"], meta["name"])

    for service in sorted(services, key=age):
        spec, meta = service.get("spec") or {}, service["metadata"]
        key = (meta["namespace"], meta["name"])
        kind, ip = spec.get("type"), spec.get("clusterIP")
        if kind not in {"NodePort", "LoadBalancer"} or not ip or ip == "None":
            continue
        for port in spec.get("ports") or ():
            if (port.get("protocol") or "TCP") != "TCP":
                continue
            if port.get("nodePort"):
                claim(port["nodePort"], key, str(NODE_IP), port["nodePort"])
            if kind == "LoadBalancer" and spec.get("loadBalancerClass") is None:
                claim(port["port"], key, ip, port["port"])
    return ports, problems


class _Side(asyncio.Protocol):
    """One end of a relayed connection. What arrives here is written there; a full buffer there stops reading here."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: _Side | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_HIGH_WATER)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        if self.peer is not None and self.peer.transport is not None and self.peer.transport.can_write_eof():
            with contextlib.suppress(OSError):
                self.peer.transport.write_eof()
        return True  # the other direction may go on

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None and not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.peer is not None and self.peer.transport is not None:
            if exc is not None:
                _reset(self.peer.transport)
            else:
                self.peer.transport.close()


class _Outside(_Side):
    """The end towards the machine: connects to the Service first, then lets data through."""

    def __init__(self, target: Published) -> None:
        super().__init__()
        self._target = target
        self._task: asyncio.Task[None] | None = None
        self._early = bytearray()
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None  # noqa: S101 - set a line above
        self.transport.pause_reading()
        self._task = asyncio.get_running_loop().create_task(self._connect())

    def data_received(self, data: bytes) -> None:
        # Early releases of Python 3.11 (Debian 12 has one) forget a pause that is asked for in connection_made.
        if self.peer is None:
            self._early += data
        else:
            super().data_received(data)

    def eof_received(self) -> bool:
        self._ended = self.peer is None
        return super().eof_received()

    async def _connect(self) -> None:
        assert self.transport is not None  # noqa: S101 - called after connection_made
        try:
            _, inner = await asyncio.get_running_loop().create_connection(_Side, self._target.host, self._target.port)
        except OSError:
            _reset(self.transport)
            return
        if self.closed:
            assert inner.transport is not None  # noqa: S101 - it is connected
            inner.transport.abort()
            return
        self.peer, inner.peer = inner, self
        if self._early:
            self.data_received(bytes(self._early))
            self._early.clear()
        if self._ended:
            self.eof_received()
        self.transport.resume_reading()


def _reset(transport: asyncio.Transport) -> None:
    """Close with a reset, which is what a refused connection looks like from behind a relay."""
    raw = transport.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


@dataclass
class _Port:
    target: Published
    server: asyncio.Server | None = None
    task: asyncio.Task[None] | None = None
    problem: str = ""


@dataclass
class Publisher:
    """Keeps the machine's listeners equal to what is wanted."""

    listen: Callable[[int], Awaitable[socket.socket]]
    tell: Callable[[tuple[str, str], str], None]
    """Called once with a Service and a problem with one of its ports."""
    changed: Callable[[tuple[str, str]], None]
    """Called when a port of the Service was published."""
    _ports: dict[int, _Port] = field(default_factory=dict)

    def set(self, ports: Mapping[int, Published]) -> None:
        """Publish exactly these."""
        for number in [n for n, p in self._ports.items() if ports.get(n) != p.target]:
            self._drop(number)
        for number, target in ports.items():
            if number not in self._ports:
                entry = self._ports[number] = _Port(target)
                entry.task = asyncio.create_task(self._publish(number, entry), name=f"publish {number}")

    def published(self, service: tuple[str, str]) -> list[int]:
        """The machine's ports that lead to a Service."""
        return sorted(n for n, p in self._ports.items() if p.target.service == service and p.server is not None)

    def close(self) -> None:
        """Publish nothing any more."""
        for number in list(self._ports):
            self._drop(number)

    def _drop(self, number: int) -> None:
        entry = self._ports.pop(number)
        if entry.task is not None:
            entry.task.cancel()
        if entry.server is not None:
            entry.server.close()

    async def _publish(self, number: int, entry: _Port) -> None:
        while True:
            try:
                listener = await self.listen(number)
            except HostLinkError as error:
                if entry.problem != str(error):
                    entry.problem = str(error)
                    self.tell(entry.target.service, f"port {number} is not published on this machine: {error}")
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            listener.setblocking(False)
            target = entry.target
            factory = partial(_Outside, target)
            entry.server = await asyncio.get_running_loop().create_server(factory, sock=listener)
            _log.info("port %d leads to the Service %s/%s", number, *target.service)
            self.changed(target.service)
            return
