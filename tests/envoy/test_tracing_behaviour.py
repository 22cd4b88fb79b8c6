"""Spans that a real Envoy sends by our configuration to a collector of OpenTelemetry, over gRPC and over HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from grpclib.const import Handler
from grpclib.server import Server, Stream
from tests.envoy import rig
from tests.envoy.harness import Case, everything
from tests.envoy.rig import Backend

from pilotfish.grpc import BytesCodec
from pilotfish.telemetry.otlp import EXPORT, TraceService, from_protobuf
from pilotfish.telemetry.spans import Span

MESH = """
kind: MeshConfig
enableTracing: true
defaultProviders: {{tracing: [otel]}}
defaultConfig: {{tracing: {{sampling: 100}}}}
extensionProviders:
- {{name: otel, opentelemetry: {{service: collector.default.svc.cluster.local, port: 4317, {0}}}}}
---
"""
KEY = "[{name: x-key, value: secret}]"


class Collector:
    """What was received, and how."""

    def __init__(self, ip: str) -> None:
        self.ip, self.port = ip, 0
        self.spans: list[Span] = []
        self.headers: Mapping[str, Any] = {}

    def _take(self, spans: list[Span], bad: int) -> bool:
        assert not bad
        self.spans += spans
        return True

    @asynccontextmanager
    async def by_grpc(self) -> AsyncIterator[None]:
        service = TraceService(self._take, lambda: None, 2**20)
        handler = service.__mapping__()[EXPORT]

        async def export(stream: Stream[bytes, bytes]) -> None:
            assert stream.metadata is not None
            self.headers = stream.metadata
            await handler.func(stream)

        mapping = {EXPORT: Handler(export, *handler[1:])}
        server = Server([SimpleNamespace(__mapping__=lambda: mapping)], codec=BytesCodec())
        listener = socket.create_server((self.ip, 0))
        self.port = listener.getsockname()[1]
        await server.start(sock=listener)
        try:
            yield
        finally:
            server.close()
            await server.wait_closed()

    @asynccontextmanager
    async def by_http(self) -> AsyncIterator[None]:
        async def export(request: web.Request) -> web.Response:
            self.headers = request.headers
            self._take(*from_protobuf(await request.read()))
            return web.Response()

        application = web.Application()
        application.add_routes([web.post("/v1/traces", export)])
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, self.ip, 0).start()
        self.port = runner.addresses[0][1]
        try:
            yield
        finally:
            await runner.cleanup()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_opentelemetry(tmp_path: Path, protocol: str) -> None:
    """Every request is a span with the names of both ends, sent over gRPC unless the provider has `http`, with the
    headers that it says."""
    ip = rig.fresh_ip()
    collector = Collector(ip)
    settings = f"grpc: {{timeout: 3s, initialMetadata: {KEY}}}"
    if protocol == "http":
        settings = f"http: {{path: /v1/traces, timeout: 3s, headers: {KEY}}}"
    receiving = collector.by_grpc if protocol == "grpc" else collector.by_http
    async with Backend("app", ip).running() as app, receiving():
        proxy = f"kind: Proxy\nip: {ip}\nlabels: {{app: client}}\nmetadata: {{WORKLOAD_NAME: client-v1}}\n---\n"
        services = rig.service("web", "[{name: http, port: 80}]", (app, ""))
        port = f"[{{name: {protocol}-otlp, port: 4317}}]"
        services += rig.service("collector", port, (collector, ""))  # type: ignore[arg-type]  # has ip and port
        case = Case(proxy + MESH.format(settings) + services)
        async with rig.running(everything(case.compiler, case.view()), ip, tmp_path) as envoy:
            for _ in range(10):  # Envoy sends five spans at once
                assert (await envoy.request(80, "/hello", host="web")).name == "app"
            async with asyncio.timeout(30):
                while len(collector.spans) < 10:
                    await asyncio.sleep(0.05)
    assert {span.service for span in collector.spans} == {"client.default"}
    assert {span.kind for span in collector.spans} == {"CLIENT"}
    assert {span.name for span in collector.spans} == {"web.default.svc.cluster.local:80/*"}
    assert {span.tags["http.status_code"] for span in collector.spans} == {"200"}
    assert collector.headers["x-key"] == "secret"
