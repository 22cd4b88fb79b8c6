"""Scraping what a Prometheus with the usual jobs for Istio would scrape, found the same way."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import aiohttp

from pilotfish.kube.informer import Informer
from pilotfish.kube.resources import Object
from pilotfish.telemetry import exposition
from pilotfish.telemetry.exposition import Series
from pilotfish.telemetry.http import why
from pilotfish.telemetry.store import Row, Store, StoreError

_log = logging.getLogger(__name__)

INTERVAL = 5.0
"""Seconds between two scrapes of a target."""
MAX_PAGE = 32 * 2**20
_ENVOY_PORT = re.compile(r".*-envoy-prom")
_COUNTED = ("_total", "_bucket", "_sum", "_count")
_PREFIX = "prometheus.io/"


@dataclass(frozen=True, slots=True)
class Target:
    """A page to read, and the labels that its series get besides their own."""

    address: str
    """`host:port`."""
    path: str
    job: str
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def url(self) -> str:
        return f"http://{self.address}{self.path}"


def pod_fields(pod: Object) -> Object:
    """What of a pod is needed to find targets."""
    containers = [
        {"ports": [{"name": port.get("name", ""), "containerPort": port["containerPort"]} for port in one["ports"]]}
        for part in ("initContainers", "containers")
        for one in pod["spec"].get(part) or ()
        if one.get("ports")
    ]
    meta, status = pod["metadata"], pod.get("status", {})
    annotations = {key: value for key, value in (meta.get("annotations") or {}).items() if key.startswith(_PREFIX)}
    return {
        "metadata": {
            **{key: meta[key] for key in ("name", "namespace", "uid", "resourceVersion") if key in meta},
            "annotations": annotations,
        },
        "spec": {"containers": containers},
        "status": {key: status[key] for key in ("podIP", "phase") if key in status},
    }


def targets(pods: Iterable[Object], slices: Iterable[Object]) -> dict[str, Target]:
    """Address → target: proxies by the name of their port, the control plane by its Service, pods by annotation.

    A page is scraped once: what is annotated and has a proxy is scraped at the proxy, which has all we keep.
    """
    found: dict[str, Target] = {}
    for target in (*_istiod(slices), *(one for pod in pods for one in _of_pod(pod))):
        found.setdefault(target.address, target)
    return found


def _istiod(slices: Iterable[Object]) -> Iterator[Target]:
    for one in slices:
        namespace = one["metadata"].get("namespace", "")
        for port in one.get("ports") or ():
            if port.get("name") != "http-monitoring":
                continue
            for endpoint in one.get("endpoints") or ():
                pod = (endpoint.get("targetRef") or {}).get("name", "")
                for address in endpoint.get("addresses") or ():
                    where = _joined(address, port["port"])
                    yield Target(where, "/metrics", "istiod", _labels(where, "istiod", namespace, pod))


def _of_pod(pod: Object) -> Iterator[Target]:
    status, meta = pod.get("status", {}), pod["metadata"]
    ip = status.get("podIP")
    if not ip or status.get("phase") in ("Succeeded", "Failed"):
        return
    names = (port.get("name") or "" for one in pod["spec"]["containers"] for port in one.get("ports") or ())
    if any(_ENVOY_PORT.fullmatch(name) for name in names):
        where, path, job = _joined(ip, 15090), "/stats/prometheus", "envoy-stats"
    else:
        annotations = meta.get("annotations") or {}
        if annotations.get(f"{_PREFIX}scrape") != "true" or annotations.get(f"{_PREFIX}scheme", "http") != "http":
            return
        ports = [port["containerPort"] for one in pod["spec"]["containers"] for port in one.get("ports") or ()]
        port = annotations.get(f"{_PREFIX}port") or (str(ports[0]) if ports else "80")
        path, job = annotations.get(f"{_PREFIX}path") or "/metrics", "kubernetes-pods"
        if not port.isdecimal() or not 0 < int(port) < 65536 or not path.startswith("/"):
            return
        where = _joined(ip, int(port))
    yield Target(where, path, job, _labels(where, job, meta["namespace"], meta["name"]))


def _joined(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _labels(instance: str, job: str, namespace: str, pod: str) -> tuple[tuple[str, str], ...]:
    pairs = {"instance": instance, "job": job, "namespace": namespace, "pod_name": pod}
    return tuple((name, value) for name, value in pairs.items() if value)


@dataclass(slots=True)
class State:
    """How a target does."""

    target: Target
    up: bool = False
    error: str = ""
    scrapes: int = 0
    failures: int = 0
    series: int = 0
    seconds: float = 0.0
    """What the last scrape took."""
    scraped: float = 0.0
    """When it last succeeded, seconds since the epoch; 0 when it never did."""
    ids: dict[str, int] = field(default_factory=dict, repr=False)
    """Ids of its series by their text in the page."""


async def read(store: Store, state: State, page: str, now: float) -> None:
    """Keep what a page says. Raises ExpositionError, with nothing kept, and StoreError.

    A counter that appears between two scrapes began at zero: without that, the first requests of all would be lost.
    """
    found = {key: exposition.value(text) for key, text in exposition.lines(page)}
    if now < state.scraped:
        _log.warning("the clock went back by %.1f s", state.scraped - now)
        await store.rewind(now)
    new = [key for key in found if key not in state.ids]
    milliseconds = round(now * 1000)
    rows: list[Row] = []
    if new:
        extra = dict(state.target.labels)
        parsed = [exposition.series(key) for key in new]
        registered = await store.register([_with(one, extra) for one in parsed])
        for key, one, number in zip(new, parsed, registered, strict=True):
            state.ids[key] = number
            if state.scraped and one.name.endswith(_COUNTED) and not store.known(number):
                rows.append(Row(number, round(state.scraped * 1000), 0.0))
    if len(state.ids) > len(found):
        state.ids = {key: state.ids[key] for key in found}
    rows += [Row(state.ids[key], milliseconds, value) for key, value in found.items()]
    await store.append(rows)
    state.series = len(found)
    state.scraped = now


def _with(series: Series, extra: Mapping[str, str]) -> Series:
    """With a target's labels; labels of the page that are in their way are renamed, as Prometheus does."""
    own = {f"exported_{name}" if name in extra else name: value for name, value in series.labels}
    return Series(series.name, tuple(sorted({**own, **extra}.items())))


class Scraper:
    """Keeps a task for every target. `run` until cancelled."""

    def __init__(self, store: Store, pods: Informer, slices: Informer, *, interval: float = INTERVAL) -> None:
        self.states: dict[str, State] = {}
        self._store = store
        self._pods = pods
        self._slices = slices
        self._interval = interval
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        for informer in (pods, slices):
            informer.add_handler(lambda _: self._changed.set())

    async def run(self) -> None:
        await asyncio.gather(self._pods.synced.wait(), self._slices.synced.wait())
        timeout = aiohttp.ClientTimeout(total=min(self._interval * 2, 10.0))
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            try:
                while True:
                    self._changed.clear()
                    await self._follow(session)
                    await self._changed.wait()
                    await asyncio.sleep(0.2)  # pods change in bursts
            finally:
                for task in self._tasks.values():
                    task.cancel()
                await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _follow(self, session: aiohttp.ClientSession) -> None:
        wanted = targets(self._pods.store.values(), self._slices.store.values())
        for address, state in list(self.states.items()):
            if wanted.get(address) != state.target:
                del self.states[address]
                self._tasks.pop(address).cancel()
        for address, target in wanted.items():
            if address not in self.states:
                self.states[address] = state = State(target)
                self._tasks[address] = asyncio.create_task(self._scrape(session, state), name=f"scrape {address}")

    async def _scrape(self, session: aiohttp.ClientSession, state: State) -> None:
        while True:
            begun = time.monotonic()
            await scrape(session, self._store, state)
            state.seconds = time.monotonic() - begun
            await asyncio.sleep(max(self._interval - state.seconds, self._interval / 10))


async def scrape(session: aiohttp.ClientSession, store: Store, state: State) -> None:
    """Once. What goes wrong is counted, and told once until it works again."""
    state.scrapes += 1
    try:
        now = time.time()
        async with session.get(state.target.url, allow_redirects=False) as response:
            if response.status != 200:
                raise exposition.ExpositionError(f"the answer is {response.status}")
            page = await _limited(response)
        await read(store, state, page, now)
    except StoreError:
        state.ids.clear()  # the store has told; it may have forgotten series meanwhile
    except (aiohttp.ClientError, OSError, TimeoutError, exposition.ExpositionError) as error:
        state.failures += 1
        state.ids.clear()
        state.error = why(error)
        if state.up or state.scrapes == 1:
            _log.warning("cannot scrape %s (%s): %s", state.target.url, _who(state.target), state.error)
        state.up = False
    else:
        if not state.up and state.failures:
            _log.info("scraped again: %s (%s)", state.target.url, _who(state.target))
        state.up, state.error = True, ""


def _who(target: Target) -> str:
    labels = dict(target.labels)
    return f"{labels.get('namespace', '')}/{labels.get('pod_name', '')}"


async def _limited(response: aiohttp.ClientResponse) -> str:
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > MAX_PAGE:
            raise exposition.ExpositionError(f"the page is larger than {MAX_PAGE // 2**20} MB")
        pieces.append(piece)
    return b"".join(pieces).decode(errors="replace")
