"""The application's own probes, run on the kubelet's behalf.

With mutual TLS a kubelet cannot reach the application, so injection points its probes at the agent, which knows the
originals from `ISTIO_KUBE_APP_PROBERS`: path → `{"httpGet" | "tcpSocket" | "grpc": {...}, "timeoutSeconds": N}`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

from grpclib import GRPCError
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.exceptions import StreamTerminatedError
from grpclib.protocol import H2Protocol

from pilotfish.agent import protowire
from pilotfish.agent.http import Request, Response, TooLargeError, fetch
from pilotfish.grpc import BytesCodec

SOURCE = "127.0.0.6"
"""Where the agent's own connections to the application come from: capture rules let these through."""
MAX_BODY = 10 * 1024
MAX_REDIRECTS = 10
GRPC_HEALTH = "/grpc.health.v1.Health/Check"
SERVING = 1


class AppProbes:
    """Answers `/app-health/...` and `/app-lifecycle/...`."""

    def __init__(self, probers: Mapping[str, Any], host: str) -> None:
        """`host` is where the application listens: the pod's address."""
        self._probers = probers
        self._host = host

    async def __call__(self, request: Request) -> Response:
        probe = self._probers.get(request.path)
        if probe is None:
            return Response(400, f"no probe is registered for {request.path}\n".encode())
        limit = float(probe.get("timeoutSeconds") or 1)
        try:
            if http := probe.get("httpGet"):
                return await self._http(http, limit, request)
            if tcp := probe.get("tcpSocket"):
                return await self._tcp(int(tcp["port"]), limit)
            if grpc := probe.get("grpc"):
                return await self._grpc(grpc, limit)
        except TooLargeError:
            return Response(200)  # the status was good and came first; the rest does not matter
        except (OSError, TimeoutError, GRPCError, StreamTerminatedError) as error:
            return Response(500, f"{type(error).__name__}: {error}\n".encode())
        return Response(500, b"the registered probe has no handler\n")

    def _source(self) -> str:
        return "::6" if ":" in self._host else SOURCE

    async def _http(self, probe: Mapping[str, Any], limit: float, request: Request) -> Response:
        port, path = int(probe["port"]), str(probe.get("path") or "/")
        scheme = str(probe.get("scheme") or "HTTP").lower()
        headers = {item["name"]: item["value"] for item in probe.get("httpHeaders") or ()}
        headers.setdefault("User-Agent", request.headers.get("user-agent", "kube-probe"))
        url = f"{scheme}://{self._host}:{port}" + (path if path.startswith("/") else "/" + path)
        for _ in range(MAX_REDIRECTS):
            answer = await fetch(url, headers=headers, timeout=limit, source=self._source(), limit=MAX_BODY)
            location = answer.headers.get("location", "")
            if not 300 <= answer.status < 400 or not location:
                break
            target = urljoin(url, location)
            if urlsplit(target).hostname != urlsplit(url).hostname:
                break  # another host: for a kubelet that is a success
            url = target
        return Response(answer.status, answer.body)

    async def _tcp(self, port: int, limit: float) -> Response:
        async with asyncio.timeout(limit):
            _, writer = await asyncio.open_connection(self._host, port, local_addr=(self._source(), 0))
        writer.close()
        return Response(200)

    async def _grpc(self, probe: Mapping[str, Any], limit: float) -> Response:
        channel = _LocalChannel(self._host, int(probe["port"]), self._source())
        try:
            method: Any = UnaryUnaryMethod(channel, GRPC_HEALTH, bytes, bytes)
            answer = await method(protowire.chunk(1, str(probe.get("service") or "")), timeout=limit)
        finally:
            channel.close()
        healthy = any(number == 1 and value == SERVING for number, value in protowire.fields(answer))
        return Response(200 if healthy else 500)


class _LocalChannel(Channel):
    """A channel that comes from a chosen local address; the library has no option for it."""

    def __init__(self, host: str, port: int, source: str) -> None:
        super().__init__(host, port, codec=BytesCodec())
        self._source = source

    async def _create_connection(self) -> H2Protocol:
        _, protocol = await self._loop.create_connection(
            self._protocol_factory, self._host, self._port, local_addr=(self._source, 0)
        )
        return protocol
