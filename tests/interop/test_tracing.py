"""Traces in real Jaeger and Zipkin: our clients give of them what our own collector gives of the same spans.

The spans are those that real Envoys send, byte for byte, and some odd ones. And the other way round: Jaeger's own
spans, which it sends as every Go program with OpenTelemetry does, in our collector.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web
from grpclib.server import Server
from tests.interop.spans import OTLP, SLOW, ZIPKIN, Sent, record

from pilotfish.grpc import BytesCodec
from pilotfish.telemetry import receive
from pilotfish.telemetry.jaeger import JaegerTraces
from pilotfish.telemetry.query import SourceError, TraceSource
from pilotfish.telemetry.receive import Receiver
from pilotfish.telemetry.spans import Span, Trace
from pilotfish.telemetry.store import Store
from pilotfish.telemetry.zipkin import ZipkinTraces

pytestmark = [pytest.mark.xdist_group("tracing")]

BASE = "/jaeger"
"""As Istio's sample of Jaeger is served."""
_random = random.Random()  # noqa: S311 - ids


def hexadecimal(digits: int) -> str:
    return "".join(_random.choices("123456789abcdef", k=digits))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Sent]]:
    """What real Envoys send to a collector of Zipkin and to one of OpenTelemetry."""
    folder = tmp_path_factory.mktemp("envoys")
    return {kind: asyncio.run(record(kind, folder / kind)) for kind in (ZIPKIN, OTLP)}


class Odd(NamedTuple):
    """Spans that no Envoy of ours sends, and the ids of their traces."""

    shared: str
    short: str
    typed: str
    sent: dict[str, list[Sent]]


@pytest.fixture(scope="module")
def odd() -> Odd:
    """Both sides of a call under one id, an id of 64 bits, addresses of both kinds, and values of all types."""
    shared, short, typed, at = hexadecimal(32), hexadecimal(16), hexadecimal(32), time.time_ns() // 1000
    one, two = {"serviceName": "odd.one", "ipv4": "10.0.0.1", "port": 80}, {"serviceName": "odd.two"}
    peer = {"serviceName": "peer.one", "ipv4": "10.0.0.2", "port": 8080}
    tags = {"q": "a=b&c d", "quoted": '"x"\\'}
    zipkin = [
        {"traceId": shared, "id": "a" * 16, "kind": "CLIENT", "name": "get /x", "timestamp": at, "duration": 1000}
        | {"localEndpoint": one, "remoteEndpoint": peer, "tags": tags},
        {"traceId": shared, "id": "a" * 16, "kind": "SERVER", "shared": True, "name": "get /x", "timestamp": at + 100}
        | {"duration": 500, "localEndpoint": {**two, "ipv6": "2001:db8::1"}},
        {"traceId": shared, "id": "b" * 16, "parentId": "a" * 16, "name": "inner", "timestamp": at + 150}
        | {"duration": 200, "localEndpoint": two, "annotations": [{"timestamp": at + 160, "value": "hello"}]},
        {"traceId": short, "id": "d" * 16, "kind": "PRODUCER", "name": "64 bits", "timestamp": at, "duration": 100}
        | {"localEndpoint": {"serviceName": "odd.short"}},
    ]
    values: dict[str, dict[str, Any]] = {
        "int": {"intValue": "3"},
        "double": {"doubleValue": 0.5},
        "no": {"boolValue": False},
        "bytes": {"bytesValue": "AP8="},
        "list": {"arrayValue": {"values": [{"stringValue": "a"}, {"intValue": "1"}]}},
        "map": {"kvlistValue": {"values": [{"key": "k", "value": {"intValue": "1"}}]}},
    }
    parent = {
        "traceId": typed,
        "spanId": "e" * 16,
        "name": "GET /Y",
        "kind": 2,
        "startTimeUnixNano": str(at * 1000),
        "endTimeUnixNano": str(at * 1000 + 1_500_999),
        "attributes": [{"key": key, "value": value} for key, value in values.items()],
        "status": {"code": 2, "message": "no luck"},
        "events": [{"timeUnixNano": str(at * 1000 + 1000), "name": "retry"}],
    }
    child = {**parent, "spanId": "f" * 16, "parentSpanId": "e" * 16, "kind": 1, "name": "inside"}
    child |= {"status": {}, "events": [], "attributes": []}
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "Odd.App"}}]}
    otlp = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [parent, child]}]}]}
    return Odd(
        shared,
        short,
        typed,
        {
            ZIPKIN: [Sent("/api/v2/spans", "application/json", json.dumps(zipkin).encode())],
            OTLP: [Sent("/v1/traces", "application/json", json.dumps(otlp).encode())],
        },
    )


# ------------------------------------------------------------------------------ the real ones


@dataclasses.dataclass(frozen=True)
class Backend:
    """A running tracing system: where it takes spans of which kind, and where it is asked."""

    name: str
    takes: Mapping[str, str]
    url: str
    others: tuple[str, ...] = ()
    """Where it speaks gRPC."""

    def source(self) -> ZipkinTraces | JaegerTraces:
        return ZipkinTraces(self.url) if self.name == "zipkin" else JaegerTraces(self.url)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def started(command: list[str], log: Path, **environment: str) -> Iterator[None]:
    """A program of others, until the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def jaeger(programs: Path, folder: Path, **environment: str) -> Iterator[Backend]:
    """Jaeger with its storage in memory, on loopback only."""
    names = "admin.http collector.grpc-server collector.http-server collector.otlp.grpc collector.otlp.http"
    flags = [*names.split(), "collector.zipkin", "query.grpc-server", "query.http-server"]
    ports = dict(zip(flags, free_ports(len(flags)), strict=True))
    command = [str(programs / "all-in-one"), f"--query.base-path={BASE}"]
    command += [f"--{flag}.host-port=127.0.0.1:{port}" for flag, port in ports.items()]
    with started(command, folder / "jaeger.log", **environment):
        url = "http://127.0.0.1:{}"
        takes = {ZIPKIN: url.format(ports["collector.zipkin"]), OTLP: url.format(ports["collector.otlp.http"])}
        others = tuple(url.format(ports[one]) for one in ("collector.otlp.grpc", "query.grpc-server"))
        yield Backend("jaeger", takes, url.format(ports["query.http-server"]) + BASE, others)


@contextmanager
def zipkin(programs: Path, folder: Path) -> Iterator[Backend]:
    """Zipkin with its storage in memory, on loopback only."""
    (jar,) = programs.glob("zipkin-server-*-exec.jar")
    (port,) = free_ports(1)
    where = {"ip": "127.0.0.1", "port": port, "protocols[0]": "http"}
    command = ["java", "-Xmx256m", "-jar", str(jar), *(f"--armeria.ports[0].{k}={v}" for k, v in where.items())]
    with started(command, folder / "zipkin.log"):
        url = f"http://127.0.0.1:{port}"
        yield Backend("zipkin", {ZIPKIN: url}, url)


@pytest.fixture(scope="module", params=["jaeger", "zipkin"])
def backend(
    request: pytest.FixtureRequest,
    programs: Path,
    tmp_path_factory: pytest.TempPathFactory,
    recorded: dict[str, list[Sent]],
    odd: Odd,
) -> Iterator[Backend]:
    """One after the other, with all spans in it that it takes."""
    run = jaeger if request.param == "jaeger" else zipkin
    with run(programs, tmp_path_factory.mktemp(request.param)) as one:
        asyncio.run(filled(one, [*sent_to(one, recorded), *sent_to(one, odd.sent)]))
        yield one


def sent_to(backend: Backend, sent: Mapping[str, list[Sent]]) -> list[tuple[str, Sent]]:
    return [(backend.takes[kind], one) for kind in backend.takes for one in sent[kind]]


async def filled(backend: Backend, sent: list[tuple[str, Sent]]) -> None:
    """Send all, and wait until they are found."""
    async with aiohttp.ClientSession() as session, backend.source() as source:
        async with asyncio.timeout(120):
            while True:
                try:
                    await source.services()
                    break
                except SourceError:
                    await asyncio.sleep(0.2)
            for url, one in sent:
                await one.post(session, url)
            ids = {span.trace_id for _, one in sent for span in one.spans()}
            count = sum(len(one.spans()) for _, one in sent)
            while True:
                traces = [await source.trace(one) for one in ids]
                if sum(map(len, traces)) >= count:
                    return
                await asyncio.sleep(0.1)


@pytest.fixture
async def both(
    backend: Backend, recorded: dict[str, list[Sent]], odd: Odd, tmp_path: Path
) -> AsyncIterator[tuple[TraceSource, TraceSource]]:
    """The real one, and our own collector that was sent the same."""
    store = await Store.open(tmp_path / "t.db")
    receiver = Receiver(store)
    server = receive.runner(receiver.routes())
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    task = asyncio.create_task(receiver.run())
    sent = [one for _, one in [*sent_to(backend, recorded), *sent_to(backend, odd.sent)]]
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        for one in sent:
            await one.post(session, f"http://127.0.0.1:{server.addresses[0][1]}")
        while store.counts.spans < sum(len(one.spans()) for one in sent):
            await asyncio.sleep(0.01)
    async with backend.source() as source:
        yield source, store
    task.cancel()
    await server.cleanup()
    await store.close()


# ------------------------------------------------------------------------------ what they answer


ADDED = {"net.host.ip", "net.host.port", "net.peer.ip", "net.peer.port", "peer.service"}
"""Tags in which Jaeger keeps the ends of Zipkin's spans."""
OF_OTEL = {"otel.status_code", "otel.status_description", "otel.scope.name", "otel.scope.version"}


def same(span: Span, backend: Backend) -> Span:
    """A span without what one system has by its nature: Jaeger some tags more, Zipkin no capitals in names."""
    if backend.name == "zipkin":
        span.name = (span.name or "").lower()
    span.tags = {key: value for key, value in span.tags.items() if key not in ADDED | OF_OTEL}
    return span


def trees(trace: Trace, backend: Backend) -> list[Span]:
    return sorted((same(span, backend) for span in trace), key=lambda span: (span.start, span.id, span.kind or ""))


async def test_services_and_traces_are_those_of_our_collector(
    both: tuple[TraceSource, TraceSource], backend: Backend, recorded: dict[str, list[Sent]]
) -> None:
    """The same services, and every trace that Envoys sent is the same, field by field: parents, times, endpoints, tags,
    annotations; a failed span is one there, too."""
    theirs, ours = both
    found = await theirs.services()
    assert found == await ours.services()
    assert {"page.books", "reviews.books", "ratings.books"} <= set(found)
    failed = 0
    for kind in backend.takes:
        ids = {span.trace_id for one in recorded[kind] for span in one.spans()}
        assert len(ids) == 6
        for one in ids:
            trace, own = await theirs.trace(one), await ours.trace(one)
            assert len(own) == 5
            assert [span.failed for span in trace] == [span.failed for span in own]
            failed += sum(span.failed for span in trace)
            assert trees(trace, backend) == trees(own, backend)
    assert failed == 10 * len(backend.takes)


QUESTIONS: list[tuple[dict[str, Any], int]] = [
    ({}, 6),
    ({"service": "ratings.books"}, 6),
    ({"tags": {"http.status_code": "503"}}, 2),
    ({"service": "ratings.books", "tags": {"error": "true"}}, 2),
    ({"service": "ratings.books", "tags": {"istio.namespace": "books", "http.method": "GET"}}, 6),
    ({"min_duration": SLOW / 2}, 1),
    ({"service": "page.books", "min_duration": SLOW / 2, "tags": {"http.status_code": "200"}}, 1),
    ({"service": "page.books", "min_duration": SLOW / 2, "tags": {"http.status_code": "503"}}, 0),
    ({"service": "page.books", "max_duration": SLOW / 2}, 5),
    ({"service": "page.books", "min_duration": SLOW / 2, "max_duration": SLOW + 10}, 1),
    ({"service": "nobody"}, 0),
    ({"tags": {"nothing": "x"}}, 0),
]
"""With how many of six requests they find."""


async def test_searches_find_what_our_collector_finds(
    both: tuple[TraceSource, TraceSource], backend: Backend, odd: Odd
) -> None:
    """By service, tags, error and duration; the latest first, and of many the latest."""
    theirs, ours = both
    window: dict[str, Any] = {"since": time.time() - 3000, "until": time.time() + 60}
    hidden = {one.zfill(32) for one in odd[:3]}
    for question, count in QUESTIONS:
        answers = [await one.find(**window, **question, limit=100) for one in both]
        found, own = ([trace[0].trace_id for trace in one if trace[0].trace_id not in hidden] for one in answers)
        assert len(own) == count * len(backend.takes), question
        assert found == own, question
        starts = [trace[0].start for trace in answers[0]]
        assert starts == sorted(starts, reverse=True), question
    for limit in (1, 3):
        answers = [await one.find(**window, service="page.books", limit=limit) for one in both]
        assert [trace[0].trace_id for trace in answers[0]] == [trace[0].trace_id for trace in answers[1]]
        assert len(answers[0]) == limit
    past: dict[str, Any] = {"since": time.time() - 7200, "until": time.time() - 3600}
    assert await theirs.find(**past, limit=100) == await ours.find(**past, limit=100) == []


async def test_odd_spans(both: tuple[TraceSource, TraceSource], backend: Backend, odd: Odd) -> None:
    """Both sides of a call with one id, ids of 64 bits in any form, values of all types, text that must be quoted."""
    theirs, ours = both
    trace, own = trees(await theirs.trace(odd.shared), backend), trees(await ours.trace(odd.shared), backend)
    assert len(trace) == len(own) == 3
    if backend.name == "zipkin":
        assert trace == own
    else:  # Jaeger gives the server's side an id of its own, below the client's
        assert trace[0] == own[0]
        assert trace[0].remote_endpoint is not None
        assert (trace[1].service, trace[1].parent_id) == ("odd.two", trace[0].id)
        assert (trace[2].name, trace[2].parent_id, trace[2].annotations) == ("inner", trace[1].id, own[2].annotations)
    for text in (odd.short, odd.short.upper(), odd.short.zfill(32)):
        assert trees(await theirs.trace(text), backend) == trees(await ours.trace(odd.short), backend)
    assert len(await theirs.trace(odd.shared.upper())) == 3
    if OTLP in backend.takes:
        typed = trees(await theirs.trace(odd.typed), backend)
        assert typed == trees(await ours.trace(odd.typed), backend)
        assert [span.tags.get("error") for span in typed] == ["no luck", None]
    window: dict[str, Any] = {"since": time.time() - 3000, "until": time.time() + 60}
    for tags in ({"q": "a=b&c d"}, {"quoted": '"x"\\'}, {"q": "a=b&c d", "quoted": '"x"\\'}):
        for source in both:
            assert [trace[0].trace_id for trace in await source.find(**window, tags=tags)] == [odd.shared]
    # A span must have all of it, not the trace.
    assert await theirs.find(**window, service="odd.two", tags={"q": "a=b&c d"}) == []


async def test_what_cannot_be_asked(both: tuple[TraceSource, TraceSource], backend: Backend) -> None:
    """An unknown trace is none, what is no id is refused before it is sent, and what a system cannot search for is said
    instead of finding nothing."""
    theirs, _ = both
    assert await theirs.trace(hexadecimal(32)) == []
    for text in ("xyz", "0" * 32, "", "1" * 33):
        with pytest.raises(ValueError, match="is no trace id"):
            await theirs.trace(text)
    window: dict[str, Any] = {"since": time.time() - 60, "until": time.time()}
    tags = {"a": "b and c"} if backend.name == "zipkin" else {"a": ""}
    with pytest.raises(SourceError, match="tag"):
        await theirs.find(**window, tags=tags)


async def test_the_wrong_address(backend: Backend) -> None:
    """Ports for spans are not those for questions, and Zipkin is no Jaeger: one line that says where and what."""
    for url in [*backend.takes.values(), *backend.others]:
        async with JaegerTraces(url) as source:
            with pytest.raises(SourceError, match=r"^Jaeger at http://127\.0\.0\.1:\d+ [^\n]*$"):
                await source.services()


async def test_a_go_program_sends_to_our_collector(programs: Path, tmp_path: Path) -> None:
    """Jaeger's spans of itself, which OpenTelemetry's Go library sends by gRPC, compressed, are all taken."""
    store = await Store.open(tmp_path / "t.db")
    receiver = Receiver(store)
    task = asyncio.create_task(receiver.run())
    server = Server([receiver.trace_service()], codec=BytesCodec())
    listener = socket.create_server(("127.0.0.1", 0))
    await server.start(sock=listener)
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{listener.getsockname()[1]}",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with jaeger(programs, tmp_path, **environment) as one:
        async with one.source() as source, asyncio.timeout(60):
            while not store.counts.spans:
                try:
                    await source.services()
                except SourceError:
                    await asyncio.sleep(0.1)
                await asyncio.sleep(0.1)
    assert receiver.counts.refused == 0
    assert await store.services() == ["jaeger-all-in-one"]
    (first, *_) = await store.find(service="jaeger-all-in-one", since=0, until=time.time() + 60, limit=10)
    assert any(span.kind == "SERVER" and "services" in (span.name or "") for span in first)
    server.close()
    task.cancel()
    await store.close()
