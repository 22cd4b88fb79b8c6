"""Scraping: which pages, and what becomes of them; real HTTP over loopback."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from pilotfish.kube.client import Client
from pilotfish.kube.config import Config
from pilotfish.kube.informer import Informer
from pilotfish.kube.resources import ENDPOINT_SLICES, PODS
from pilotfish.telemetry.embedded import StoredMetrics
from pilotfish.telemetry.scrape import Scraper, State, Target, pod_fields, read, scrape, targets
from pilotfish.telemetry.store import Store


def pod(
    name: str, ip: str = "10.0.0.1", *, ports: dict[str, int] | None = None, init: bool = False, **more: Any
) -> Any:
    listed = [{"name": key, "containerPort": port} for key, port in (ports or {}).items()]
    containers = [{"name": "app", "image": "x"}, {"name": "proxy", "ports": listed}]
    return pod_fields(
        {
            "metadata": {"name": name, "namespace": "shop", "annotations": more.get("annotations")},
            "spec": {"initContainers" if init else "containers": containers, **({"containers": []} if init else {})},
            "status": {"podIP": ip, "phase": more.get("phase", "Running")},
        }
    )


def test_targets_are_those_of_the_usual_jobs() -> None:
    """Proxies by the name of a port, also native sidecars; the control plane's endpoints; annotated pods. Each once,
    none of a pod that has ended or has no address."""
    annotated = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "15020",
        "prometheus.io/path": "/stats/prometheus",
    }
    slices = [
        {
            "metadata": {"namespace": "istio-system", "name": "istiod-x"},
            "ports": [{"name": "http-monitoring", "port": 15014}, {"name": "grpc-xds", "port": 15010}],
            "endpoints": [{"addresses": ["10.0.0.9"], "targetRef": {"kind": "Pod", "name": "istiod-1"}}],
        }
    ]
    found = targets(
        [
            pod("a", ports={"http-envoy-prom": 15090}, annotations=annotated),
            pod("b", "10.0.0.2", ports={"http-envoy-prom": 15090}, init=True),
            pod("c", "fd00::3", ports={"web": 8080}, annotations={"prometheus.io/scrape": "true"}),
            pod("istiod-1", "10.0.0.9", annotations={"prometheus.io/scrape": "true", "prometheus.io/port": "15014"}),
            pod("plain", "10.0.0.4", ports={"http": 80}),
            pod("done", "10.0.0.5", ports={"http-envoy-prom": 15090}, phase="Succeeded"),
            pod("new", "", ports={"http-envoy-prom": 15090}),
            pod("odd", "10.0.0.6", annotations={"prometheus.io/scrape": "true", "prometheus.io/port": "80/../x"}),
            pod("elsewhere", "10.0.0.7", annotations={"prometheus.io/scrape": "true", "prometheus.io/path": "@evil/"}),
        ],
        slices,
    )
    assert {one.url: one.job for one in found.values()} == {
        "http://10.0.0.1:15090/stats/prometheus": "envoy-stats",
        "http://10.0.0.2:15090/stats/prometheus": "envoy-stats",
        "http://[fd00::3]:8080/metrics": "kubernetes-pods",
        "http://10.0.0.9:15014/metrics": "istiod",
    }
    assert dict(found["10.0.0.9:15014"].labels)["pod_name"] == "istiod-1"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    one = await Store.open(tmp_path / "t.db")
    yield one
    await one.close()


@asynccontextmanager
async def server(answer: Callable[[], web.StreamResponse]) -> AsyncIterator[str]:
    async def handle(_: web.Request) -> web.StreamResponse:
        return answer()

    application = web.Application()
    application.router.add_get("/metrics", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_counters_that_appear_began_at_zero(store: Store) -> None:
    """At first sight of a target what it has counted is unknown, from then on everything new counts; labels of the
    target are added, and what is in their way is renamed."""
    state = State(Target("1.2.3.4:1", "/metrics", "envoy-stats", (("namespace", "shop"),)))
    now = time.time() - 30
    await read(store, state, 'istio_requests_total{app="a",namespace="x"} 100\n', now)
    await read(
        store, state, 'istio_requests_total{app="a",namespace="x"} 103\nistio_requests_total{app="b"} 7\n', now + 5
    )
    source = StoredMetrics(store)
    rates = await source.rates("istio_requests_total", by=["app", "namespace", "exported_namespace"], window=60)
    assert {tuple(labels.values()): round(value * 60) for labels, value in rates} == {
        ("a", "shop", "x"): 3,
        ("b", "shop", ""): 7,
    }


async def test_a_series_that_comes_back_is_not_counted_twice(store: Store) -> None:
    """Proxies drop series that are idle; when one comes back it counts from where it was."""
    state = State(Target("1.2.3.4:1", "/metrics", "envoy-stats"))
    now = time.time() - 30
    one, other = 'istio_a_total{app="a"} %d\n', 'istio_a_total{app="b"} 1\n'
    for offset, page in ((0, one % 5 + other), (5, other), (10, one % 6 + other)):
        await read(store, state, page, now + offset)
    (found,) = await StoredMetrics(store).rates("istio_a_total", by=[], window=60)
    assert round(found.value * 60) == 1


async def test_a_disk_that_refuses_for_a_while(store: Store) -> None:
    """What was counted meanwhile is there afterwards, once."""
    state = State(Target("1.2.3.4:1", "/metrics", "envoy-stats"))
    now = time.time() - 30
    async with server(lambda: web.Response(text="istio_a_total 160\n")) as address, aiohttp.ClientSession() as session:
        state.target = Target(address, "/metrics", "envoy-stats")
        await read(store, state, "istio_a_total 100\n", now)
        await read(store, state, "istio_a_total 150\n", now + 5)
        store._write_to.execute("PRAGMA query_only = ON")
        await scrape(session, store, state)
        assert "readonly" in store.problem
        store._write_to.execute("PRAGMA query_only = OFF")
        await scrape(session, store, state)
    assert store.problem == ""
    (found,) = await StoredMetrics(store).rates("istio_a_total", by=[], window=60)
    assert round(found.value * 60) == 60


async def test_a_clock_that_goes_back(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Samples of the future are forgotten: no reset is seen where none was."""
    state = State(Target("1.2.3.4:1", "/metrics", "envoy-stats"))
    now = time.time()
    for offset, count in ((-50, 100), (-40, 110), (900, 130), (-10, 140), (-5, 141)):
        await read(store, state, f"istio_a_total {count}\n", now + offset)
    (found,) = await StoredMetrics(store).rates("istio_a_total", by=[], window=60)
    assert round(found.value * 60) == 41
    assert "the clock went back" in caplog.text


async def test_bad_targets(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Dead, slow, garbage, an error, a redirect, too much: counted each time, told once, and well again when it is."""
    answers: list[Any] = []

    def answer() -> web.StreamResponse:
        one = answers.pop(0)
        return one if isinstance(one, web.StreamResponse) else web.Response(text=one)

    good = "istio_a_total 5\n"
    bad = ["istio_a_total{ 5\n", "istio_a_total five\n", web.Response(status=500)]
    bad.append(web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}))
    answers += [good, *bad, good]
    async with server(answer) as address, aiohttp.ClientSession() as session:
        state = State(Target(address, "/metrics", "envoy-stats"))
        with caplog.at_level(logging.INFO):
            for _ in range(6):
                await scrape(session, store, state)
    assert (state.scrapes, state.failures, state.up, state.error) == (6, 4, True, "")
    told = [one.levelname for one in caplog.records if one.name.startswith("pilotfish")]
    assert told == ["WARNING", "INFO"]
    async with aiohttp.ClientSession() as session:
        dead = State(Target("127.0.0.1:1", "/metrics", "envoy-stats"))
        await scrape(session, store, dead)
    assert not dead.up
    assert dead.error == "Connection refused"


async def test_targets_come_and_go(store: Store) -> None:
    """A pod is scraped when it appears, again and again, and no more when it is gone."""
    client = Client(Config("http://127.0.0.1:1"))
    informers = [
        Informer(client, kind, transform=shape) for kind, shape in ((PODS, pod_fields), (ENDPOINT_SLICES, None))
    ]
    for informer in informers:
        informer.synced.set()
    scraper = Scraper(store, informers[0], informers[1], interval=0.02)
    async with server(lambda: web.Response(text="istio_a_total 5\n")) as address:
        annotations = {"prometheus.io/scrape": "true", "prometheus.io/port": address.partition(":")[2]}
        obj = {
            "metadata": {"name": "a", "namespace": "b", "uid": "1", "resourceVersion": "1", "annotations": annotations},
            "spec": {"containers": [{"name": "app"}]},
            "status": {"podIP": "127.0.0.1", "phase": "Running"},
        }
        task = asyncio.create_task(scraper.run())
        async with asyncio.timeout(60):
            informers[0]._take("ADDED", obj)
            while not any(one.scrapes > 2 and one.up for one in scraper.states.values()):
                await asyncio.sleep(0.01)
            informers[0]._take("DELETED", obj)
            while scraper.states:
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
    await client.close()


async def test_a_slow_target(store: Store) -> None:
    """It is given up after the time for it."""
    release = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    application = web.Application()
    application.router.add_get("/metrics", slow)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.1)) as session:
            state = State(Target(f"127.0.0.1:{runner.addresses[0][1]}", "/metrics", "x"))
            await scrape(session, store, state)
        assert state.error == "no answer in time"
    finally:
        release.set()
        await runner.cleanup()
