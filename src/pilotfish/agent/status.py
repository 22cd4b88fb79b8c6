"""The agent's HTTP endpoints on port 15020."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping

from pilotfish.agent.http import Request, Response
from pilotfish.agent.merge import MergedMetrics
from pilotfish.agent.probes import AppProbes
from pilotfish.agent.proxy import Proxy

log = logging.getLogger(__name__)

LOOPBACK = ("127.", "::1", "::ffff:127.")


class Status:
    """`/healthz/ready`, `/stats/prometheus`, `/app-health/...`, and for the pod itself `/quitquitquit`, `/drain` and
    `/debug/ndsz`."""

    def __init__(self, proxy: Proxy, probes: AppProbes, metrics: MergedMetrics, quit_agent: Callable[[], None]) -> None:
        self._proxy = proxy
        self._probes = probes
        self._quit = quit_agent
        self._pages: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/healthz/ready": self._ready,
            "/stats/prometheus": metrics,
            "/metrics": metrics,
            "/quitquitquit": self._quitquitquit,
            "/drain": self._drain,
            "/debug/ndsz": self._ndsz,
        }
        self.names: Callable[[], Mapping[str, tuple[str, ...]]] | None = None
        """What captured DNS answers; None where it is not captured."""

    async def __call__(self, request: Request) -> Response:
        page = self._pages.get(request.path)
        if page is not None:
            return await page(request)
        if request.path.startswith(("/app-health/", "/app-lifecycle/")):
            return await self._probes(request)
        return Response(404, b"not found\n")

    async def _ready(self, _: Request) -> Response:
        if await self._proxy.ready():
            return Response(200)
        why = "draining" if self._proxy.draining else "Envoy has no configuration yet or is not live"
        return Response(503, f"not ready: {why}\n".encode())

    async def _quitquitquit(self, request: Request) -> Response:
        if refused := _only_the_pod(request):
            return refused
        log.info("asked to quit")
        asyncio.get_running_loop().call_soon(self._quit)
        return Response(200, b"OK")

    async def _ndsz(self, request: Request) -> Response:
        if not request.peer.startswith(LOOPBACK):
            return Response(403, b"only from within the pod\n")
        if self.names is None:
            return Response(404, b"{}")
        table = {name: {"ips": list(ips)} for name, ips in self.names().items()}
        return Response(200, json.dumps({"table": table}).encode(), {"Content-Type": "application/json"})

    async def _drain(self, request: Request) -> Response:
        if refused := _only_the_pod(request):
            return refused
        await self._proxy.drain()
        return Response(200, b"OK")


def _only_the_pod(request: Request) -> Response | None:
    if not request.peer.startswith(LOOPBACK):
        return Response(403, b"only from within the pod\n")
    if request.method != "POST":
        return Response(405, b"POST only\n")
    return None
