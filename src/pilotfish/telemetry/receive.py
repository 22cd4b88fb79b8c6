"""Receiving spans as Zipkin and as an OpenTelemetry collector do, and Zipkin's API for asking for them.

What is received waits in a queue of limited length and is written together; when the disk is slower than the senders,
they are told at once that nothing is taken (503), and nobody waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from pilotfish.telemetry.otlp import TraceService, failure, from_json, from_protobuf, json_response, response
from pilotfish.telemetry.spans import Span, Trace, checked
from pilotfish.telemetry.store import Store, StoreError

_log = logging.getLogger(__name__)

MAX_BODY = 4 * 2**20
MAX_QUEUE = 20_000
"""Spans that wait to be written."""
_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_span = msgspec.json.Decoder(Span).decode
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Counts:
    """What was received since the start."""

    spans: int = 0
    refused: int = 0
    """Spans that could not be understood."""
    dropped: int = 0
    """Spans that came while the queue was full, or could not be written."""


class Receiver:
    """Put `routes()`, `query_routes()` and `trace_service()` into servers and `run` it."""

    def __init__(self, store: Store) -> None:
        self.counts = Counts()
        self._store = store
        self._waiting: list[Span] = []
        self._some = asyncio.Event()

    async def run(self) -> None:
        """Write what comes, until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            batch, self._waiting = self._waiting, []
            try:
                await self._store.add_spans(batch)
            except StoreError:
                self.counts.dropped += len(batch)
            await asyncio.sleep(0.05)  # gathers, so that a busy mesh costs few transactions

    def routes(self) -> list[web.RouteDef]:
        """Where spans are sent."""
        return [
            web.post("/api/v2/spans", self._zipkin),
            web.post("/v1/traces", self._otlp),
            web.get("/health", self._health),
        ]

    def query_routes(self) -> list[web.RouteDef]:
        """Zipkin's API for asking."""
        return [
            web.get("/api/v2/traces", self._traces),
            web.get("/api/v2/trace/{id}", self._trace),
            web.get("/api/v2/services", self._services),
            web.get("/api/v2/spans", self._names),
        ]

    def trace_service(self) -> TraceService:
        """OpenTelemetry's gRPC service, for a server whose messages are bytes."""
        return TraceService(self._take, self._refuse, MAX_BODY)

    # ------------------------------------------------------------------ receiving

    def _take(self, spans: list[Span], bad: int) -> bool:
        """False, and nothing is taken, when too many wait."""
        self.counts.refused += bad
        if len(self._waiting) + len(spans) > MAX_QUEUE:
            self.counts.dropped += len(spans)
            return False
        self.counts.spans += len(spans)
        if spans:
            self._waiting += spans
            self._some.set()
        return True

    def _refuse(self) -> None:
        self.counts.refused += 1

    def _take_or_tell(self, spans: list[Span], bad: int) -> None:
        if not self._take(spans, bad):
            raise web.HTTPServiceUnavailable(text="too many spans are waiting to be written; these are dropped\n")

    async def _zipkin(self, request: web.Request) -> web.Response:
        if request.content_type == "application/x-protobuf":
            raise web.HTTPUnsupportedMediaType(text="spans are taken as JSON: set the encoding to HTTP_JSON\n")
        spans, bad = zipkin_spans(await _body(request))
        self._take_or_tell(spans, bad)
        if bad and not spans:
            raise web.HTTPBadRequest(text="no span of these has a traceId and an id and is well-formed\n")
        return web.Response(status=202)

    async def _otlp(self, request: web.Request) -> web.Response:
        """Answers, also those of refusals, are in the encoding of the request."""
        binary = request.content_type == "application/x-protobuf"
        status = 200
        try:
            bad = await self._take_otlp(request, binary=binary)
            body = response(bad) if binary else json_response(bad)
        except web.HTTPException as error:
            status, body = error.status, failure(error.text or error.reason, binary=binary)
        kind = "application/x-protobuf" if binary else "application/json"
        return web.Response(status=status, body=body, content_type=kind)

    async def _take_otlp(self, request: web.Request, *, binary: bool) -> int:
        """How many spans were malformed. Raises HTTPException."""
        body = await _body(request)
        try:
            if binary:
                spans, bad = from_protobuf(body)
            else:
                document = msgspec.json.decode(body or b"{}")
                if not isinstance(document, dict):
                    raise ValueError("it is no object")
                spans, bad = from_json(document)
        except (ValueError, msgspec.DecodeError) as error:
            self._refuse()
            raise web.HTTPBadRequest(text=f"no ExportTraceServiceRequest: {error}\n") from error
        self._take_or_tell(spans, bad)
        return bad

    # ------------------------------------------------------------------ asking, as Zipkin's API has it

    async def _traces(self, request: web.Request) -> web.Response:
        query = request.query
        until = _number(query, "endTs", time.time() * 1000) / 1000
        lookback = _number(query, "lookback", self._store.window * 1000) / 1000
        longest = _number(query, "maxDuration", -1)
        found = await self._store.find(
            service=query.get("serviceName", ""),
            name=query.get("spanName", ""),
            since=until - lookback,
            until=until,
            tags=tag_query(query.get("annotationQuery", "")),
            min_duration=_number(query, "minDuration", 0) / 1e6,
            max_duration=longest / 1e6 if longest >= 0 else None,
            limit=int(min(max(_number(query, "limit", 10), 1), 1000)),
        )
        return _json(found)

    async def _trace(self, request: web.Request) -> web.Response:
        try:
            found: Trace = await self._store.trace(request.match_info["id"])
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        if not found:
            raise web.HTTPNotFound(text=f"trace {request.match_info['id']} is not known\n")
        return _json(found)

    async def _services(self, _: web.Request) -> web.Response:
        return _json(await self._store.services())

    async def _names(self, request: web.Request) -> web.Response:
        return _json(await self._store.names(request.query.get("serviceName", "")))

    async def _health(self, _: web.Request) -> web.Response:
        problem = self._store.problem
        return web.json_response({"status": "DOWN" if problem else "UP", "problem": problem})


def zipkin_spans(body: bytes) -> tuple[list[Span], int]:
    """The spans of a body and how many could not be understood. Raises HTTPBadRequest when it is no list."""
    try:
        raws = _raws(body)
    except msgspec.DecodeError as error:
        raise web.HTTPBadRequest(text=f"no JSON list of spans: {error}\n") from error
    spans, bad = [], 0
    for raw in raws:
        try:
            spans.append(checked(_span(raw)))
        except (msgspec.DecodeError, ValueError):
            bad += 1
    return spans, bad


def tag_query(text: str) -> dict[str, str]:
    """Zipkin's annotationQuery: `key=value` or `key`, joined by ` and `. An empty value means any."""
    parts = (part.partition("=") for part in text.split(" and ") if part.strip())
    return {key.strip(): value.strip() for key, _, value in parts}


def runner(routes: list[web.RouteDef]) -> web.AppRunner:
    """A server of routes with limited bodies. Compressed ones come as they are: their errors are for us to tell."""
    application = web.Application(client_max_size=MAX_BODY)
    application.add_routes(routes)
    return web.AppRunner(application, access_log=None, shutdown_timeout=1.0, auto_decompress=False)


async def _body(request: web.Request) -> bytes:
    try:
        raw = await request.read()
        encoding = request.headers.get("Content-Encoding", "identity").lower()
        if encoding == "identity":
            return raw
        if encoding not in ("gzip", "deflate"):
            raise web.HTTPUnsupportedMediaType(text=f"Content-Encoding {encoding[:40]!r}: gzip and deflate are taken\n")
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # finds out which of both
        body = unpacker.decompress(raw, MAX_BODY)
    except web.HTTPRequestEntityTooLarge as error:
        raise _too_large() from error
    except (web.RequestPayloadError, zlib.error) as error:
        raise web.HTTPBadRequest(text=f"the body cannot be read: {error}\n") from error
    if unpacker.unconsumed_tail:
        raise _too_large()
    if not unpacker.eof:
        raise web.HTTPBadRequest(text="the body cannot be read: it is cut off\n")
    return body


def _too_large() -> web.HTTPRequestEntityTooLarge:
    text = f"more than {MAX_BODY // 2**20} MB at once are not taken\n"
    return web.HTTPRequestEntityTooLarge(MAX_BODY, MAX_BODY + 1, text=text)


def _number(query: Mapping[str, str], name: str, default: float) -> float:
    text = query.get(name)
    if text is None:
        return default
    if not text.isdecimal():
        raise web.HTTPBadRequest(text=f"{name}={text[:40]!r} is no number\n")
    return float(text)


def _json(value: Any) -> web.Response:
    return web.Response(body=_encode(value), content_type="application/json")
