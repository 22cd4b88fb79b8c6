"""Questions about metrics: the same tests for our store and for a real Prometheus with the same samples in it."""

from __future__ import annotations

import asyncio
import math
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pilotfish.telemetry import exposition
from pilotfish.telemetry.embedded import StoredMetrics
from pilotfish.telemetry.prometheus import PrometheusMetrics, promql
from pilotfish.telemetry.query import MetricsSource, SourceError, quantile, quantiles
from pilotfish.telemetry.store import Row, Store
from pilotfish.telemetry.traffic import Traffic, edges, once, traffic

END = math.floor(time.time()) - 120
STEP, COUNT = 5, 120
"""Samples every five seconds for ten minutes."""

_WORDS = "source_workload,source_workload_namespace,destination_workload,destination_workload_namespace"


def _labels(reporter: str, source: str, destination: str, **more: str) -> str:
    pairs = {"reporter": reporter}
    pairs |= dict(zip(_WORDS.split(","), (source, "shop", destination, "shop"), strict=True)) | more
    return ",".join(f'{name}="{value}"' for name, value in pairs.items())


def counters() -> dict[str, list[float]]:
    """Every series with its values: steady rates, a reset in the middle, a burst, an idle one, a histogram."""
    each = range(COUNT + 1)
    web, gate = _labels("destination", "gate", "web", response_code="200"), _labels("source", "gate", "web")
    failed = _labels("destination", "gate", "web", response_code="503", response_flags="UF")
    stranger = _labels("destination", "unknown", "web", response_code="200")
    tcp = _labels("source", "web", "db")
    found = {
        f"istio_requests_total{{{web}}}": [10.0 * i for i in each],  # 2 a second
        f"istio_requests_total{{{failed}}}": [2.0 * i for i in each],
        f"istio_requests_total{{{stranger}}}": [5.0 * (i if i < 110 else i - 110) for i in each],  # reset 50 s ago
        f'istio_requests_total{{{gate},response_code="200"}}': [10.0 * i for i in each],
        f'istio_requests_total{{{gate},response_code="404"}}': [7.0 for _ in each],
        f"istio_tcp_sent_bytes_total{{{tcp}}}": [5000.0 * i for i in each],
        f"istio_tcp_received_bytes_total{{{tcp}}}": [500.0 * max(i - 60, 0) for i in each],
    }
    for bound, share in (("10", 0), ("20", 4), ("50", 9), ("100", 10), ("+Inf", 10)):
        found[f'istio_request_duration_milliseconds_bucket{{{web},le="{bound}"}}'] = [float(share * i) for i in each]
    return found


class Sources(NamedTuple):
    """Both, with the same samples."""

    stored: MetricsSource
    prometheus: MetricsSource | None


@pytest.fixture(scope="module")
def prometheus_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prometheus whose blocks promtool has made of the samples; empty where it is not installed."""
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        yield ""
        return
    place = tmp_path_factory.mktemp("prometheus")
    lines = []
    for name in sorted({key.partition("{")[0] for key in counters()}):
        lines.append(f"# TYPE {name} unknown")
        for key, values in counters().items():
            if key.partition("{")[0] == name:
                lines += [f"{key} {value} {END - (COUNT - i) * STEP}" for i, value in enumerate(values)]
    (place / "samples").write_text("\n".join([*lines, "# EOF\n"]))
    (place / "config").write_text("{}")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(place / "samples"), str(place / "data")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    arguments = [f"--config.file={place}/config", f"--storage.tsdb.path={place}/data", "--log.level=error"]
    process = subprocess.Popen(["prometheus", *arguments, f"--web.listen-address=127.0.0.1:{port}"])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(params=["stored", "prometheus"])
async def source(request: pytest.FixtureRequest, prometheus_url: str, tmp_path: Path) -> AsyncIterator[MetricsSource]:
    """One implementation after the other."""
    if request.param == "prometheus":
        if not prometheus_url:
            pytest.skip("prometheus and promtool are not installed (Debian package prometheus)")
        async with PrometheusMetrics(prometheus_url) as real:
            end = time.monotonic() + 20
            while True:
                try:
                    if await real.rates("istio_requests_total", by=[], at=END):
                        break
                except SourceError:
                    pass
                assert time.monotonic() < end, "Prometheus does not answer"
                await asyncio.sleep(0.1)
            yield real
        return
    store = await Store.open(tmp_path / "t.db")
    ids = await store.register([exposition.series(key) for key in counters()])
    for key, values in zip(ids, counters().values(), strict=True):
        await store.append(Row(key, (END - (COUNT - i) * STEP) * 1000, value) for i, value in enumerate(values))
    yield StoredMetrics(store)
    await store.close()


async def test_rates(source: MetricsSource) -> None:
    """Per second, by labels, with a reset inside the window, over different windows and for different moments."""
    by = ["reporter", "source_workload", "response_code"]

    async def rates(**question: object) -> dict[tuple[str, ...], float]:
        found = await source.rates("istio_requests_total", by=by, **question)  # type: ignore[arg-type]  # varies
        return {tuple(labels.values()): value for labels, value in found}

    found = await rates(at=END, window=60)
    assert found[("destination", "gate", "200")] == pytest.approx(2, rel=0.02)
    assert found[("destination", "gate", "503")] == pytest.approx(0.4, rel=0.02)
    assert found[("source", "gate", "404")] == 0
    # A reset hides what came between the last sample and the restart.
    assert found[("destination", "unknown", "200")] == pytest.approx(1, rel=0.12)
    assert len(found) == 5
    only = await rates(at=END, window=120, where={"source_workload": "gate", "response_code": ["503", "404"]})
    assert {key[2] for key in only} == {"503", "404"}
    early = await rates(at=END - 300, window=60)
    assert early[("destination", "gate", "200")] == pytest.approx(2, rel=0.02)
    assert await source.rates("istio_nothing_total", by=["a"], at=END) == []


async def test_ranges(source: MetricsSource) -> None:
    """One point a step, at its end; a counter that starts in the middle is 0 before."""
    (points,) = await source.ranges(
        "istio_tcp_received_bytes_total", by=["destination_workload"], start=END - 600, end=END, step=60
    )
    assert points.labels == {"destination_workload": "db"}
    values = dict(points.points)
    assert max(values) == pytest.approx(END)
    assert len(values) in (9, 10)  # Prometheus has no point where fewer than two samples are
    for when, value in values.items():
        assert value == pytest.approx(0 if when <= END - 300 else 100, rel=0.11, abs=0.01), when - END


async def test_quantiles(source: MetricsSource) -> None:
    """Of 10 requests 4 last 10 to 20 ms, 5 up to 50, 1 up to 100: interpolated in the bucket."""
    (found,) = await quantiles(
        source, "istio_request_duration_milliseconds", [0.2, 0.5, 0.9, 1.0], by=["destination_workload"], at=END
    )
    assert found.labels == {"destination_workload": "web"}
    assert found.values == pytest.approx([15, 26, 50, 100], rel=0.01)


async def test_traffic_graph(source: MetricsSource) -> None:
    """Every edge once: the source's word where there is one, the destination's for strangers."""
    found = {
        (one.labels["source_workload"], one.labels["destination_workload"]): one
        for one in await edges(source, at=END, window=60)
    }
    assert set(found) == {("gate", "web"), ("unknown", "web"), ("web", "db")}
    assert found[("gate", "web")].reporter == "source"
    assert found[("gate", "web")].requests == pytest.approx(2, rel=0.02)
    assert found[("web", "db")].sent == pytest.approx(1000, rel=0.02)
    assert found[("web", "db")].received == pytest.approx(100, rel=0.02)
    (seen,) = await traffic(
        source, by=["destination_workload"], where={"reporter": "destination", "source_workload": "gate"}, at=END
    )
    assert seen.success == pytest.approx(2 / 2.4, rel=0.01)
    assert seen.flags == {"UF": pytest.approx(0.4, rel=0.02)}
    assert seen.p50 == pytest.approx(26, rel=0.01)


def test_quantile_of_odd_histograms() -> None:
    """Nothing counted, no last bucket, everything above the last bound: NaN, NaN, the bound."""
    assert math.isnan(quantile(0.5, [(1, 0), (math.inf, 0)]))
    assert math.isnan(quantile(0.5, [(1, 3), (2, 4)]))
    assert math.isnan(quantile(0.5, []))
    assert quantile(0.9, [(1, 1), (math.inf, 100)]) == 1
    assert quantile(0.0, [(1, 0), (2, 5), (math.inf, 5)]) == pytest.approx(1)
    assert quantile(1.0, [(1, 5.0), (2, 4.999), (math.inf, 5.0)]) == pytest.approx(1)


def test_grpc_failures_are_errors_and_edges_of_one_reporter_stay() -> None:
    """A workload whose clients do not report is shown by what it reports itself."""
    ends = dict.fromkeys(_WORDS.split(","), "a")
    ours, other = Traffic(ends, reporter="destination"), Traffic({**ends, "source_workload": "b"}, reporter="source")
    assert once([ours, other]) == [ours, other]
    assert once([ours, Traffic(ends, reporter="source")]) == [Traffic(ends, reporter="source")]


def test_labels_cannot_change_a_query() -> None:
    """Values are quoted, alternatives are no patterns, names that are none are refused."""
    assert promql("a", ["b"], {"c": 'x"} or up{a="', "d": ["v1.2", "a|b"]}, 60) == (
        r'sum by (b) (rate(a{c="x\"} or up{a=\"", d=~"v1\\.2|a\\|b"}[60000ms]))'
    )
    for metric, by in (("a} or b", ["c"]), ("a", ["b) or (c"])):
        with pytest.raises(SourceError):
            promql(metric, by, {}, 60)


@pytest.mark.parametrize("url", ["prometheus:9090", "ftp://x", "http://"])
def test_urls_that_are_none(url: str) -> None:
    """Refused with an example."""
    with pytest.raises(SourceError, match="write for example"):
        PrometheusMetrics(url)


async def test_a_prometheus_that_is_not_there() -> None:
    """One message with the address."""
    async with PrometheusMetrics("http://127.0.0.1:1") as source:
        with pytest.raises(
            SourceError, match=r"Prometheus at http://127\.0\.0\.1:1 cannot be reached: Connection refused"
        ):
            await source.rates("a", by=[])
