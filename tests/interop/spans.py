"""Spans that real Envoys send: a page that asks reviews that ask ratings, as their requests to a collector."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

from pilotfish.envoy import proto
from pilotfish.telemetry.otlp import from_json, from_protobuf
from pilotfish.telemetry.receive import zipkin_spans
from pilotfish.telemetry.spans import Span

SERVICES = ("page.books", "reviews.books", "ratings.books")
ZIPKIN, OTLP = "zipkin", "otlp"
SLOW = 2.0
"""Seconds that a request to /slow takes."""


class Sent(NamedTuple):
    """One request of an Envoy to its collector."""

    path: str
    content_type: str
    body: bytes

    def spans(self) -> list[Span]:
        if self.path == "/api/v2/spans":
            found, bad = zipkin_spans(self.body)
        elif self.content_type == "application/json":
            found, bad = from_json(json.loads(self.body))
        else:
            found, bad = from_protobuf(self.body)
        assert not bad
        return found

    async def post(self, session: aiohttp.ClientSession, url: str) -> None:
        """Send it to another collector."""
        async with session.post(url + self.path, data=self.body, headers={"Content-Type": self.content_type}) as answer:
            assert answer.status in (200, 202), (answer.status, await answer.text())


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """The first true value of a condition. Raises AssertionError when it does not come in time."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return value


@asynccontextmanager
async def recorder() -> AsyncIterator[tuple[int, list[Sent]]]:
    """A collector that keeps what it is sent."""
    sent: list[Sent] = []

    async def keep(request: web.Request) -> web.Response:
        sent.append(Sent(request.path, request.content_type, await request.read()))
        return web.Response(status=202 if request.path == "/api/v2/spans" else 200)

    application = web.Application()
    application.add_routes([web.post("/{path:.*}", keep)])
    server = web.AppRunner(application, access_log=None)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    try:
        yield server.addresses[0][1], sent
    finally:
        await server.cleanup()


async def record(kind: str, folder: Path) -> list[Sent]:
    """What Envoys send for six requests: three that go well, one slow, two that fail at the ratings."""
    async with recorder() as (port, sent), aiohttp.ClientSession() as session:
        with ExitStack() as stack:
            following, entry = 0, 0
            for service in reversed(SERVICES):
                entry = stack.enter_context(_envoy(service, kind, following, port, folder / service))
                following = entry
            for path in ("/ok/1", "/ok/2", "/ok/3", "/slow", "/fail/1", "/fail/2"):
                async with session.get(f"http://127.0.0.1:{entry}{path}") as response:
                    assert response.status == (503 if "fail" in path else 200), path
            # Each service has a span for the request it gets, and those that ask another one for that.
            expected = {"page.books": 12, "reviews.books": 12, "ratings.books": 6}
            async with asyncio.timeout(60):
                while Counter(span.service for one in sent for span in one.spans()) != expected:
                    await asyncio.sleep(0.05)
        return sent


@contextmanager
def _envoy(service: str, kind: str, following: int, collector: int, folder: Path) -> Iterator[int]:
    """A proxy of one service; the last of them answers itself. Gives its port."""
    folder.mkdir(parents=True)
    (folder / "envoy.json").write_text(json.dumps(_bootstrap(service, kind, following, collector, folder)))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(str(proto.envoy_binary()), "-c", str(folder / "envoy.json"), "--disable-hot-restart"),
                *("--concurrency", "1", "-l", "warning", "--admin-address-path", str(folder / "admin.address")),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        path = folder / "admin.address"

        def port() -> int | None:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                with urllib.request.urlopen(f"http://{path.read_text()}/listeners?format=json", timeout=10) as response:
                    found = json.load(response).get("listener_statuses", [])
            except (OSError, ValueError):  # not there yet, or not whole
                return None
            return found[0]["local_address"]["socket_address"]["port_value"] if found else None

        yield wait_until(port, "Envoy listens")
    finally:
        process.kill()
        process.wait()


def _bootstrap(service: str, kind: str, following: int, collector: int, folder: Path) -> dict[str, Any]:
    http = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    filters = []
    routes: list[dict[str, Any]] = [{"match": {"prefix": "/"}, "route": {"cluster": "following"}}]
    if not following:
        delay = {"fixed_delay": f"{SLOW}s", "percentage": {"numerator": 100}}
        fault = {"@type": _type("envoy.extensions.filters.http.fault.v3.HTTPFault")}
        filters.append({"name": "envoy.filters.http.fault", "typed_config": fault})
        answer = {"direct_response": {"status": 200}}
        routes = [
            {"match": {"prefix": "/fail"}, "direct_response": {"status": 503}},
            {"match": {"prefix": "/slow"}, **answer}
            | {"typed_per_filter_config": {"envoy.filters.http.fault": {**fault, "delay": delay}}},
            {"match": {"prefix": "/"}, **answer},
        ]
    router = {"@type": _type("envoy.extensions.filters.http.router.v3.Router")}
    filters.append({"name": "envoy.filters.http.router", "typed_config": router})
    manager = {
        "@type": _type(http),
        "stat_prefix": "in",
        "generate_request_id": True,
        "tracing": {
            "random_sampling": {"value": 100},
            "spawn_upstream_span": bool(following),
            "provider": _provider(kind, service),
            "custom_tags": [{"tag": "istio.namespace", "literal": {"value": "books"}}],
        },
        "http_filters": filters,
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": _decorated(service, routes)}],
        },
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    runtime = {"tracing.zipkin.min_flush_spans": 1, "tracing.opentelemetry.min_flush_spans": 1}
    return {
        "node": {"id": service, "cluster": service},
        "admin": {"address": _address(0)},
        "layered_runtime": {"layers": [{"name": "static", "static_layer": runtime}]},
        "static_resources": {
            "listeners": [
                {"name": "in", "address": _address(0), "traffic_direction": "INBOUND", "filter_chains": [chain]}
            ],
            "clusters": [_cluster("collector", collector), _cluster("following", following or 1)],
        },
    }


def _decorated(service: str, routes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**one, "decorator": {"operation": f"{service}.svc.cluster.local:80/*"}} for one in routes]


def _provider(kind: str, service: str) -> dict[str, Any]:
    if kind == ZIPKIN:
        config: dict[str, Any] = {
            "@type": _type("envoy.config.trace.v3.ZipkinConfig"),
            "collector_cluster": "collector",
            "collector_endpoint": "/api/v2/spans",
            "collector_endpoint_version": "HTTP_JSON",
            "trace_id_128bit": True,
            "shared_span_context": False,
        }
        return {"name": "envoy.tracers.zipkin", "typed_config": config}
    uri = {"uri": "http://collector/v1/traces", "cluster": "collector", "timeout": "10s"}
    config = {"@type": _type("envoy.config.trace.v3.OpenTelemetryConfig"), "service_name": service}
    return {"name": "envoy.tracers.opentelemetry", "typed_config": {**config, "http_service": {"http_uri": uri}}}


def _cluster(name: str, port: int) -> dict[str, Any]:
    endpoint = {"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}
    return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": [endpoint]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _type(name: str) -> str:
    return f"type.googleapis.com/{name}"
