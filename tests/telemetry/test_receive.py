"""Receiving spans over real HTTP, and asking for them as Zipkin, Jaeger and Tempo are asked."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from pilotfish.telemetry import receive
from pilotfish.telemetry.jaeger import JaegerTraces
from pilotfish.telemetry.otlp import from_json
from pilotfish.telemetry.query import SourceError, TraceSource
from pilotfish.telemetry.receive import Receiver, zipkin_spans
from pilotfish.telemetry.store import Store
from pilotfish.telemetry.tempo import TempoTraces, traceql
from pilotfish.telemetry.zipkin import ZipkinTraces

TRACE = "463ac35c9f6413ad48485a3953bb6124"


def zipkin(start: float) -> list[dict[str, Any]]:
    """A request from page to books, as two proxies report it."""
    at = int(start * 1e6)
    page, books = {"serviceName": "page.shop", "ipv4": "10.0.0.1"}, {"serviceName": "books.shop"}
    common = {"traceId": TRACE.upper(), "annotations": [], "shared": False}
    return [
        {
            "id": "a" * 16,
            "kind": "SERVER",
            "name": "page:80/*",
            "timestamp": at,
            "duration": 9000,
            "localEndpoint": page,
        }
        | common,
        {"id": "b" * 16, "parentId": "a" * 16, "kind": "CLIENT", "name": "books:80/*", "timestamp": at + 1000}
        | {"duration": 5000, "localEndpoint": page, "tags": {"http.status_code": "200"}, "unknown": {"a": [1]}}
        | common,
        {"id": "c" * 16, "parentId": "b" * 16, "kind": "SERVER", "name": "books:80/*", "timestamp": at + 2000}
        | {"duration": 3000, "localEndpoint": books, "tags": {"http.status_code": "503"}}
        | common,
    ]


def otlp(start: float) -> dict[str, Any]:
    at = int(start * 1e9)
    span = {"traceId": TRACE, "spanId": "d" * 16, "parentSpanId": "c" * 16, "name": "select", "kind": 3}
    span |= {
        "startTimeUnixNano": str(at),
        "endTimeUnixNano": str(at + 2_000_000),
        "status": {"code": 2, "message": "no"},
    }
    span |= {
        "attributes": [{"key": "db.rows", "value": {"intValue": "3"}}, {"key": "ok", "value": {"boolValue": True}}]
    }
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "database"}}]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]}


class Running(NamedTuple):
    url: str
    receiver: Receiver
    store: Store
    session: aiohttp.ClientSession

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, str]:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        async with self.session.post(self.url + path, data=data, headers=headers) as response:
            return response.status, await response.text()

    async def written(self, count: int) -> None:
        async with asyncio.timeout(60):
            while self.store.counts.spans < count:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(routes: list[web.RouteDef]) -> AsyncIterator[str]:
    server = receive.runner(routes)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{server.addresses[0][1]}"
    finally:
        await server.cleanup()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    store = await Store.open(tmp_path / "t.db")
    receiver = Receiver(store)
    task = asyncio.create_task(receiver.run())
    async with serving([*receiver.routes(), *receiver.query_routes()]) as url, aiohttp.ClientSession() as session:
        yield Running(url, receiver, store, session)
    task.cancel()
    await store.close()


@pytest.fixture(params=["stored", "zipkin"])
def source(request: pytest.FixtureRequest, running: Running) -> TraceSource:
    """Our store, and a client of Zipkin's API against our own server of it."""
    return running.store if request.param == "stored" else ZipkinTraces(running.url)


async def test_zipkin_spans_are_found_again(running: Running, source: TraceSource) -> None:
    """What Envoy posts is one trace, by service, tag and duration; ids in any case; fields nobody knows are ignored."""
    now = time.time()
    assert (await running.post("/api/v2/spans", zipkin(now)))[0] == 202
    await running.written(3)
    assert await source.services() == ["books.shop", "page.shop"]
    question = {"since": now - 60, "until": now + 60}
    for more in ({"service": "books.shop"}, {"tags": {"http.status_code": "503"}}, {"min_duration": 0.008}, {}):
        (trace,) = await source.find(**question, **more)  # type: ignore[arg-type]  # varies
        assert [one.id[0] for one in trace] == ["a", "b", "c"]
    for more in ({"service": "x"}, {"tags": {"error": ""}}, {"min_duration": 0.1}, {"max_duration": 0.001}):
        assert await source.find(**question, **more) == []  # type: ignore[arg-type]  # varies
    trace = await source.trace(TRACE)
    assert (trace[2].service, trace[2].parent_id, trace[2].failed) == ("books.shop", "b" * 16, True)
    assert await source.trace("1234") == []
    if isinstance(source, ZipkinTraces):
        await source.close()


async def test_otlp_in_both_encodings(running: Running) -> None:
    """JSON and protobuf give the same span, with text for values of all types and the status as an error."""
    now = time.time()
    document = otlp(now)
    assert await running.post("/v1/traces", document) == (200, "{}")
    await running.written(1)
    (first,) = await running.store.trace(TRACE)
    assert first.service == "database"
    assert (first.kind, first.duration, first.parent_id) == ("CLIENT", 2000, "c" * 16)
    assert first.tags == {"db.rows": "3", "ok": "true", "error": "no"}
    binary = ExportTraceServiceRequest()
    resource = binary.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "database"
    span = resource.scope_spans.add().spans.add(name="select", kind=3)
    span.trace_id, span.span_id, span.parent_span_id = (bytes.fromhex(one) for one in (TRACE, "d" * 16, "c" * 16))
    span.start_time_unix_nano = int(now * 1e9)
    span.end_time_unix_nano = int(now * 1e9) + 2_000_000
    span.attributes.add(key="db.rows").value.int_value = 3
    span.attributes.add(key="ok").value.bool_value = True
    span.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message="no"))
    kind = {"Content-Type": "application/x-protobuf"}
    assert await running.post("/v1/traces", binary.SerializeToString(), **kind) == (200, "")
    await running.written(2)
    assert await running.store.trace(TRACE) == [first]


async def test_garbage(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is refused with a reason, good spans beside bad ones are kept, and the receiver goes on."""
    now = time.time()
    protobuf, packed = {"Content-Type": "application/x-protobuf"}, {"Content-Encoding": "gzip"}
    for path, body, headers, status in (
        ("/api/v2/spans", b"{", {}, 400),
        ("/api/v2/spans", b'{"traceId": "1"}', {}, 400),
        ("/api/v2/spans", b'[{"traceId": "xyz", "id": "1"}, 5, {"id": "1"}, {"traceId": "1", "id": 5}]', {}, 400),
        ("/api/v2/spans", b"\x0a", protobuf, 415),
        ("/v1/traces", b"[]", {}, 400),
        ("/v1/traces", b'{"resourceSpans": 5}', {}, 400),
        ("/v1/traces", b"\xff\xff", protobuf, 400),
        ("/api/v2/spans", b" " * (receive.MAX_BODY + 1), {}, 413),
        ("/api/v2/spans", gzip.compress(b" " * (receive.MAX_BODY + 1)), packed, 413),
        ("/api/v2/spans", gzip.compress(b"[]" * 100)[:-9], packed, 400),
        ("/api/v2/spans", b"\x1f\x8bxxx", packed, 400),
        ("/api/v2/spans", b"[]", {"Content-Encoding": "br"}, 415),
    ):
        found, text = await running.post(path, body, **headers)
        assert (found, bool(text)) == (status, True), (path, body[:20], text)
    assert await running.post("/v1/traces", b"[]") == (
        400,
        '{"message":"no ExportTraceServiceRequest: it is no object"}',
    )
    _, text = await running.post("/v1/traces", b"\xff\xff", **protobuf)
    assert text.startswith(f"\x12{chr(len(text) - 2)}no ExportTraceServiceRequest")
    mixed = [{"traceId": "1", "id": "1", "tags": {"a": 5}}, *zipkin(now)]
    assert (await running.post("/api/v2/spans", gzip.compress(msgspec.json.encode(mixed)), **packed))[0] == 202
    await running.written(3)
    assert running.receiver.counts.refused == 10
    for path in ("/api/v2/trace/xyz", "/api/v2/traces?limit=x"):
        async with running.session.get(running.url + path) as response:
            assert response.status == 400
    monkeypatch.setattr(receive, "MAX_QUEUE", 2)
    assert (await running.post("/api/v2/spans", zipkin(now)))[0] == 503
    assert running.receiver.counts.dropped == 3


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["resourceSpans", "scopeSpans", "spans", "traceId", "spanId", "attributes", "key", "value", "startTimeUnixNano", "kind", "status", "events"]), inner, max_size=4), max_leaves=12))  # fmt: skip  # noqa: E501 - one strategy
def test_any_json_is_no_crash(document: Any) -> None:
    """Whatever is posted is spans, or counted, or refused."""
    with contextlib.suppress(ValueError):
        spans, bad = from_json(document if isinstance(document, dict) else {"resourceSpans": document})
        assert all(span.trace_id and span.id for span in spans), bad
    with contextlib.suppress(web.HTTPBadRequest):
        spans, bad = zipkin_spans(msgspec.json.encode(document))
        assert len(spans) + bad == len(document)


# ------------------------------------------------------------------------------ other systems, answering as documented


def _jaeger(asked: list[dict[str, str]], at: int) -> list[web.RouteDef]:
    trace = {
        "traceID": TRACE,
        "processes": {"p1": {"serviceName": "page.shop"}},
        "spans": [
            {"traceID": TRACE, "spanID": "a" * 16, "operationName": "get", "processID": "p1", "startTime": at}
            | {"duration": 900, "references": [], "tags": [{"key": "span.kind", "type": "string", "value": "server"}]},
            {"traceID": TRACE, "spanID": "b" * 16, "operationName": "call", "processID": "p1", "startTime": at + 5}
            | {"references": [{"refType": "CHILD_OF", "traceID": TRACE, "spanID": "a" * 16}], "duration": 10}
            | {"tags": [{"key": "http.status_code", "type": "int64", "value": 503}]},
        ],
    }

    async def find(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        return web.json_response({"data": [trace]})

    async def one(request: web.Request) -> web.Response:
        if request.match_info["id"] != TRACE:
            return web.json_response({"data": None, "errors": [{"code": 404, "msg": "trace not found"}]}, status=404)
        return web.json_response({"data": [trace]})

    async def services(_: web.Request) -> web.Response:
        return web.json_response({"data": ["page.shop"]})

    return [web.get("/api/traces", find), web.get("/api/traces/{id}", one), web.get("/api/services", services)]


def _tempo(asked: list[dict[str, str]], at: int) -> list[web.RouteDef]:
    def encoded(text: str) -> str:
        return base64.b64encode(bytes.fromhex(text)).decode()

    span = {"traceId": encoded(TRACE), "spanId": encoded("a" * 16), "name": "get", "kind": "SPAN_KIND_SERVER"}
    span |= {"startTimeUnixNano": str(at * 1000), "endTimeUnixNano": str(at * 1000 + 900_000)}
    child: dict[str, Any] = {**span, "spanId": encoded("b" * 16), "parentSpanId": encoded("a" * 16)}
    child |= {"kind": "SPAN_KIND_CLIENT", "startTimeUnixNano": str((at + 5) * 1000)}
    child |= {"attributes": [{"key": "http.status_code", "value": {"stringValue": "503"}}]}
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "page.shop"}}]}
    batch = {"resource": resource, "scopeSpans": [{"spans": [child, span]}]}

    async def find(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        return web.json_response({"traces": [{"traceID": TRACE, "rootServiceName": "page.shop"}]})

    async def one(request: web.Request) -> web.Response:
        if request.match_info["id"] != TRACE:
            return web.Response(status=404, text="trace not found")
        return web.json_response({"batches": [batch]})

    async def services(_: web.Request) -> web.Response:
        return web.json_response({"tagValues": ["page.shop"]})

    path = "/api/search/tag/service.name/values"
    return [web.get("/api/search", find), web.get("/api/traces/{id}", one), web.get(path, services)]


@pytest.mark.parametrize(("make", "routes"), [(JaegerTraces, _jaeger), (TempoTraces, _tempo)])
async def test_other_systems(make: Any, routes: Any) -> None:
    """Their answers, in the form of their documentation, become the same spans; an unknown trace is none."""
    asked: list[dict[str, str]] = []
    now = time.time()
    async with serving(routes(asked, int(now * 1e6))) as url, make(url) as source:
        assert await source.services() == ["page.shop"]
        (trace,) = await source.find(
            service="page.shop", since=now - 60, until=now, tags={"http.status_code": "503"}, min_duration=0.5
        )
        assert [(one.id[0], one.service, one.kind) for one in trace] == [
            ("a", "page.shop", "SERVER"),
            ("b", "page.shop", "CLIENT" if make is TempoTraces else None),
        ]
        assert (trace[1].parent_id, trace[1].failed, trace[0].duration) == ("a" * 16, True, 900)
        assert await source.trace(TRACE) == trace
        assert await source.trace("1234") == []
    assert len(asked) == 1
    if make is JaegerTraces:
        assert asked[0]["tags"] == '{"http.status_code":"503"}'
        assert asked[0]["minDuration"] == "500000us"
    else:
        code = '(span.http.status_code = "503" || span.http.status_code = 503)'
        query = f'{{ resource.service.name = "page.shop" && {code} && duration >= 500000us }}'
        assert asked[0]["q"] == query


@pytest.mark.parametrize("make", [JaegerTraces, TempoTraces, ZipkinTraces])
@pytest.mark.parametrize("answer", ["nonsense", "[{}, 5]", '{"data": 5, "traces": 5, "tagValues": 5}', "{}"])
async def test_systems_that_answer_nonsense(make: Any, answer: str) -> None:
    """One error that names the system and its address, or nothing found; never anything else."""

    async def any_(_: web.Request) -> web.Response:
        return web.Response(text=answer, content_type="application/json")

    async with serving([web.get("/{path:.*}", any_)]) as url, make(url) as source:
        questions = (source.find(service="a", since=1, until=2), source.trace("12"))
        for found in await asyncio.gather(*questions, return_exceptions=True):
            if found != []:
                assert isinstance(found, SourceError)
                assert url in str(found)


@pytest.mark.parametrize(
    ("tags", "query"),
    [
        ({"team": "a"}, 'span.team = "a"'),
        ({"team": ""}, "span.team != nil"),
        ({"guid:x-request-id": "a"}, 'span."guid:x-request-id" = "a"'),
        ({"retry": "true"}, '(span.retry = "true" || span.retry = true)'),
        ({"rows": "-0.5"}, '(span.rows = "-0.5" || span.rows = -0.5)'),
        ({"zip": "007"}, 'span.zip = "007"'),
        ({"error": "true"}, "status = error"),
        ({"error": ""}, "status = error"),
        ({"error": "gone"}, '(status = error && statusMessage = "gone")'),
        ({"a } || { b": 'c" || true'}, r'span."a } || { b" = "c\" || true"'),
    ],
)
def test_tags_in_traceql(tags: dict[str, str], query: str) -> None:
    """Numbers are asked for as text and as numbers, errors by the status; names and values are quoted, so that they
    cannot change a search."""
    assert traceql("", tags, 0, None) == f"{{ {query} }}"


def test_services_cannot_change_a_search() -> None:
    """Values are quoted, names that are none refused."""
    assert traceql('a" || true', {}, 0, None) == r'{ resource.service.name = "a\" || true" }'
    for name in ("", "a\nb"):
        with pytest.raises(SourceError):
            traceql("", {name: "c"}, 0, None)
