"""OpenTelemetry's protocol: spans as JSON and as protobuf, and the gRPC service that takes them.

https://opentelemetry.io/docs/specs/otlp/
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from grpclib import GRPCError, Status
from grpclib.const import Cardinality, Handler
from grpclib.server import Stream

from pilotfish.grpc import receive
from pilotfish.telemetry.spans import Annotation, Endpoint, Span, checked

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
REJECTED = "malformed spans"
"""What the sender of some is told."""

_KINDS = {2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}
_KIND_NAMES = {f"SPAN_KIND_{name}": name for name in _KINDS.values()}
_ERROR = 2
_MALFORMED = (ValueError, TypeError, AttributeError, KeyError, RecursionError)

Take = Callable[[list[Span], int], bool]
"""Takes spans, and the number of those that were malformed; False when there is no room."""


class TraceService:
    """`opentelemetry.proto.collector.trace.v1.TraceService`. Spans go to `take`, whole requests that are none are
    told to `refused`."""

    def __init__(self, take: Take, refused: Callable[[], None], most: int) -> None:
        self._take = take
        self._refused = refused
        self._most = most

    def __mapping__(self) -> Mapping[str, Handler]:
        return {EXPORT: Handler(self._export, Cardinality.UNARY_UNARY, bytes, bytes)}

    async def _export(self, stream: Stream[bytes, bytes]) -> None:
        body = await receive(stream, self._most, packed=True)
        if body is None:
            raise GRPCError(Status.INTERNAL, "a call without a message")
        try:
            spans, bad = from_protobuf(body)
        except ValueError as error:
            self._refused()
            # Not to be sent again, by the specification; UNAVAILABLE below is.
            raise GRPCError(Status.INVALID_ARGUMENT, f"no ExportTraceServiceRequest: {error}") from error
        if not self._take(spans, bad):
            raise GRPCError(Status.UNAVAILABLE, "too many spans are waiting to be written")
        await stream.send_message(response(bad))


def response(bad: int) -> bytes:
    """An ExportTraceServiceResponse: empty unless spans were malformed."""
    if not bad:
        return b""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse  # noqa: PLC0415

    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = bad
    answer.partial_success.error_message = REJECTED
    return bytes(answer.SerializeToString())


def json_response(bad: int) -> bytes:
    """The same in JSON."""
    partial = {"rejectedSpans": str(bad), "errorMessage": REJECTED}
    return msgspec.json.encode({"partialSuccess": partial} if bad else {})


def failure(text: str, *, binary: bool) -> bytes:
    """A `google.rpc.Status` with a message (its second field) and no code, which OTLP over HTTP does not use."""
    if not binary:
        return msgspec.json.encode({"message": text.strip()})
    message = text.strip().encode("ascii", "replace")[:120]  # so that one byte is enough for its length
    return bytes((0x12, len(message))) + message


def from_json(request: Mapping[str, Any]) -> tuple[list[Span], int]:
    """The spans of an ExportTraceServiceRequest as JSON, and how many could not be understood. Raises ValueError when
    the whole is no such request."""
    found: list[Span] = []
    bad = 0
    for resource_spans in _lists(request, "resourceSpans"):
        try:
            service = _json_tags((resource_spans.get("resource") or {}).get("attributes")).get("service.name", "")
        except _MALFORMED as error:
            raise ValueError("a resource's attributes are malformed") from error
        scopes = [*_lists(resource_spans, "scopeSpans"), *_lists(resource_spans, "instrumentationLibrarySpans")]
        for scope in scopes:
            for one in _lists(scope, "spans"):
                try:
                    found.append(_json_span(one, service))
                except _MALFORMED:
                    bad += 1
    return found, bad


def from_protobuf(body: bytes) -> tuple[list[Span], int]:
    """The same of the message in protobuf."""
    # Loaded for the first who sends it: 5 MB that Zipkin's senders do not need.
    from google.protobuf.message import DecodeError  # noqa: PLC0415
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: PLC0415

    try:
        request = ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    found: list[Span] = []
    bad = 0
    for resource_spans in request.resource_spans:
        service = _tags(resource_spans.resource.attributes).get("service.name", "")
        for scope in resource_spans.scope_spans:
            for one in scope.spans:
                try:
                    found.append(_protobuf_span(one, service))
                except ValueError:
                    bad += 1
    return found, bad


def _json_span(one: Mapping[str, Any], service: str) -> Span:
    status = one.get("status") or {}
    kind = one.get("kind")
    return _made(
        (one["traceId"], one["spanId"], one.get("parentSpanId") or ""),
        str(one.get("name") or ""),
        _KIND_NAMES.get(kind) if isinstance(kind, str) else _KINDS.get(int(kind or 0)),
        (int(one["startTimeUnixNano"]), int(one.get("endTimeUnixNano") or 0)),
        service,
        _json_tags(one.get("attributes")),
        ((int(event.get("timeUnixNano") or 0), str(event.get("name") or "")) for event in _lists(one, "events")),
        str(status.get("message") or "true") if status.get("code") in (_ERROR, "STATUS_CODE_ERROR") else "",
    )


def _protobuf_span(one: Any, service: str) -> Span:
    return _made(
        (one.trace_id.hex(), one.span_id.hex(), one.parent_span_id.hex()),
        one.name,
        _KINDS.get(one.kind),
        (one.start_time_unix_nano, one.end_time_unix_nano),
        service,
        _tags(one.attributes),
        ((event.time_unix_nano, event.name) for event in one.events),
        (one.status.message or "true") if one.status.code == _ERROR else "",
    )


def _made(
    ids: tuple[str, str, str],
    name: str,
    kind: str | None,
    nanoseconds: tuple[int, int],
    service: str,
    tags: dict[str, str],
    events: Iterable[tuple[int, str]],
    error: str,
) -> Span:
    start, end = nanoseconds
    if error:
        tags.setdefault("error", error)
    return checked(
        Span(
            trace_id=ids[0],
            id=ids[1],
            parent_id=ids[2] or None,
            name=name,
            kind=kind,
            timestamp=start // 1000,
            duration=max((end - start) // 1000, 0),
            local_endpoint=Endpoint(service_name=service) if service else None,
            annotations=[Annotation(when // 1000, what) for when, what in events],
            tags=tags,
        )
    )


def _lists(parent: Mapping[str, Any], field: str) -> list[Mapping[str, Any]]:
    value = parent.get(field) or []
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise ValueError(f"{field} is no list of objects")
    return value


# ------------------------------------------------------------------------------ values: text, as Zipkin's tags have it


def _json_tags(values: Any) -> dict[str, str]:
    return {
        str(one.get("key")): _text(_json_value(one.get("value")))
        for one in values or ()
        if isinstance(one, Mapping) and "key" in one
    }


def _tags(values: Iterable[Any]) -> dict[str, str]:
    return {one.key: one.value.string_value or _text(_protobuf_value(one.value)) for one in values}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode() if value is not None else ""


def _json_value(value: Any) -> Any:
    """An AnyValue as plain JSON; None when it has no value."""
    if not isinstance(value, Mapping) or not value:
        return None
    kind, inner = next(iter(value.items()))
    if kind == "intValue":  # a text, by protobuf's rules for 64 bits
        return int(inner)
    if kind == "arrayValue":
        return [_json_value(one) for one in inner.get("values") or ()]
    if kind == "kvlistValue":
        return {str(one["key"]): _json_value(one.get("value")) for one in inner.get("values") or ()}
    return inner


def _protobuf_value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_protobuf_value(one) for one in value.array_value.values]
    if kind == "kvlist_value":
        return {one.key: _protobuf_value(one.value) for one in value.kvlist_value.values}
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    return getattr(value, kind) if kind is not None else None
