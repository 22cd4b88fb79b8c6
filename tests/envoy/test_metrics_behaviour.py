"""Standard metrics of a real Envoy with compiled configuration, as the agent's pages show them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.envoy import rig
from tests.envoy.harness import Case, everything

from pilotfish.agent.bootstrap import bootstrap
from pilotfish.agent.options import read
from pilotfish.agent.stats import EXPIRED, Pages, Workload
from pilotfish.envoy import metrics

OWN = Workload("web-v1", "default", "web", "v1", "Kubernetes", "web", "v1", "spiffe://cluster.local/ns/default/sa/web")
QUICK = {"stats_flush_interval": "1s", "stats_eviction_interval": "4s"}
SETTINGS = """
kind: MeshConfig
defaultProviders: {metrics: [prometheus]}
accessLogFile: LOG
---
"""


class Metrics:
    """The pages of one Envoy."""

    def __init__(self, envoy: rig.Envoy) -> None:
        self._envoy, self._pages = envoy, Pages(OWN)

    async def page(self) -> list[tuple[str, Mapping[str, str], float]]:
        """Name, labels and value of every series."""
        text = self._pages.rewrite(await self._envoy.ask("/stats/prometheus")).decode()
        return [
            (match[1], dict(re.findall(r'(\w+)="([^"]*)"', match[2] or "")), float(match[3]))
            for line in text.splitlines()
            if (match := re.fullmatch(r"([a-z_]+)(?:\{(.*)\})? (\S+)", line))
        ]

    async def total(self, name: str, **labels: str) -> float | None:
        """The sum of series with these labels; None without any."""
        values = [value for one, its, value in await self.page() if one == name and labels.items() <= its.items()]
        return sum(values) if values else None

    async def until(self, wanted: Callable[[float | None], bool], name: str, **labels: str) -> float | None:
        """The sum when it is as wanted."""
        end = time.monotonic() + 30
        while not wanted(found := await self.total(name, **labels)):
            assert time.monotonic() < end, f"{name} is {found}: {await self.page()}"
            await asyncio.sleep(0.05)
        return found


@asynccontextmanager
async def proxy(
    tmp_path: Path, text: str, ip: str, kind: str = "type: sidecar", more: Mapping[str, object] = QUICK
) -> AsyncIterator[tuple[rig.Envoy, Metrics]]:
    case = Case(f"kind: Proxy\n{kind}\n---\n{SETTINGS.replace('LOG', str(tmp_path / 'access.log'))}{text}")
    async with rig.running(everything(case.compiler, case.view()), ip, tmp_path, more=more) as envoy:
        yield envoy, Metrics(envoy)


def entry(name: str, ip: str, port: int, target: int, protocol: str) -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}.test]
  addresses: [{ip}]
  ports: [{{number: {port}, name: main, protocol: {protocol}, targetPort: {target}}}]
  resolution: STATIC
  endpoints: [{{address: {ip}}}]
"""


REPORTS = """
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh, namespace: istio-system}
spec: {metrics: [{reportingInterval: 1s}]}
"""


async def test_open_connections_report(tmp_path: Path) -> None:
    """Bytes of a TCP connection count while it is open, and once when it has ended; Telemetry says how often."""
    ip = rig.fresh_ip()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data * 2)
        writer.close()

    server = await asyncio.start_server(echo, ip, 0)
    target = server.sockets[0].getsockname()[1]
    async with server, proxy(tmp_path, entry("db", ip, 9000, target, "TCP") + REPORTS, ip) as (_, found):

        async def send(stream: tuple[asyncio.StreamReader, asyncio.StreamWriter], count: int) -> None:
            stream[1].write(b"x" * count)
            await stream[0].readexactly(2 * count)

        sent, received = "istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"
        labels = {"reporter": "source", "destination_service": "db.test"}
        short = await asyncio.open_connection(ip, 9000)
        await send(short, 7)
        short[1].close()
        await found.until(lambda total: total == 14, sent, **labels)
        first, second = await asyncio.open_connection(ip, 9000), await asyncio.open_connection(ip, 9000)
        await send(first, 1000)
        await found.until(lambda total: total == 2014, sent, **labels)
        assert await found.total(received, **labels) == 1007
        assert await found.total("istio_tcp_connections_closed_total", **labels) == 1
        await send(first, 100)
        await send(second, 10)
        await found.until(lambda total: total == 2234, sent, **labels)
        first[1].close()
        await found.until(lambda total: total == 2, "istio_tcp_connections_closed_total", **labels)
        for _ in range(30):  # over sweeps of what is forgotten
            assert await found.total(sent, **labels) == 2234
            assert await found.total(received, **labels) == 1117
            await asyncio.sleep(0.2)
        await send(second, 1)
        await found.until(lambda total: total == 2236, sent, **labels)
        second[1].close()
        await found.until(lambda total: total is None, sent, **labels)
        for name in ("opened", "closed"):  # these stay: their difference says how many are open
            assert await found.total(f"istio_tcp_connections_{name}_total", **labels) == 3
        assert len((tmp_path / "access.log").read_text().splitlines()) == 3, "one line a connection"


async def test_series_expire(tmp_path: Path) -> None:
    """A series that nobody uses is forgotten, by Envoy and by the page, and that is counted; one in use stays as it is.
    It begins at nothing when it returns."""
    ip = rig.fresh_ip()
    async with rig.backends(ip, "one") as backends:
        text = entry("used", ip, 9000, backends["one"].port, "HTTP")
        async with proxy(tmp_path, text, ip) as (envoy, found):
            name, count = "istio_requests_total", 0
            for _ in range(3):
                await envoy.request(9000, host="idle.test")
            assert await found.total(name, destination_service="idle.test") == 3
            idle, end = {"destination_service": "idle.test"}, time.monotonic() + 60
            while any([await found.total(one, **idle) is not None for one in (name, "istio_request_bytes_count")]):
                await envoy.request(9000, host="used.test:9000")
                count += 1
                assert await found.total(name, destination_service="used.test") == count
                assert time.monotonic() < end, "it does not expire"
            assert (await found.total(EXPIRED) or 0) >= 1
            assert "idle.test" not in await envoy.ask("/stats?filter=istio")
            assert await found.total(name, destination_service="used.test") == count
            await envoy.request(9000, host="idle.test")
            assert await found.total(name, destination_service="idle.test") == 1


async def test_series_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit there are no new series, which is counted; those that are there go on, and when they have
    expired, there is room again."""
    monkeypatch.setattr(metrics, "MAX_SERIES", 4)
    ip = rig.fresh_ip()
    async with proxy(tmp_path, entry("main", ip, 9000, 1, "HTTP"), ip) as (envoy, found):

        async def hosts() -> set[str]:
            return {its["destination_service"] for name, its, _ in await found.page() if name == "istio_requests_total"}

        for number in range(20):
            await envoy.request(9000, host=f"h{number}.test")
            await envoy.request(9000, host="h0.test")
        kept = await hosts()
        assert len(kept) == 4
        assert await found.total("istio_requests_total", destination_service="h0.test") == 21
        assert (await found.total("envoy_server_stats_overflow_counter") or 0) >= 16
        await found.until(lambda total: total is None, "istio_requests_total")
        await envoy.request(9000, host="h9.test")
        assert await hosts() == {"h9.test"}


async def test_requests_without_a_service_are_known_by_their_host(tmp_path: Path) -> None:
    """A sidecar's request to no service has the Host header as its destination, as in Istio; one to a service has the
    service whatever it is called by. At gateways clients do not choose labels."""
    ip = rig.fresh_ip()
    async with rig.backends(ip, "one") as backends:
        text = entry("main", ip, 9000, backends["one"].port, "HTTP")
        async with proxy(tmp_path, text, ip) as (envoy, found):
            for host in ("main.test", "main.test:9000", "other.test:81"):
                await envoy.request(9000, host=host)
            name = "istio_requests_total"
            assert await found.total(name, destination_service="main.test", destination_service_name="main.test") == 2
            passed = {"destination_service": "other.test:81", "destination_service_name": "PassthroughCluster"}
            assert await found.total(name, **passed) == 1
            assert await found.total(name) == 3


async def test_buckets_are_those_of_the_annotation(tmp_path: Path) -> None:
    """Standard histograms have the bounds that Istio's annotation gives for `istiocustom`."""
    ip = rig.fresh_ip()
    (tmp_path / "annotations").write_text(
        'sidecar.istio.io/statsHistogramBuckets="{\\"istiocustom\\": [100, 200, 3000]}"\n'
    )
    who = {"POD_NAME": "a-1", "POD_NAMESPACE": "book", "INSTANCE_IP": "10.0.0.1"}
    agents = bootstrap(read("sidecar", environment=who, podinfo=tmp_path))
    more = {"stats_config": agents["stats_config"], "stats_flush_interval": "1s"}
    async with proxy(tmp_path, entry("main", ip, 9000, 1, "HTTP"), ip, more=more) as (envoy, found):
        await envoy.request(9000, host="other.test")
        await found.until(lambda total: total == 1, "istio_request_bytes_count")
        for name in ("request_bytes", "response_bytes", "request_duration_milliseconds"):
            bounds = [labels["le"] for one, labels, _ in await found.page() if one == f"istio_{name}_bucket"]
            assert bounds == ["100", "200", "3000", "+Inf"]
