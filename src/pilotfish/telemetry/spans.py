"""A span, in the form of version 2 of Zipkin's API (https://zipkin.io/zipkin-api/): all others are turned into it."""

from __future__ import annotations

import string

import msgspec

_HEX = frozenset(string.hexdigits)


class Endpoint(msgspec.Struct, rename="camel", omit_defaults=True):
    """One side of a span."""

    service_name: str | None = None
    ipv4: str | None = None
    ipv6: str | None = None
    port: int | None = None


class Annotation(msgspec.Struct, omit_defaults=True):
    """Something that happened at a moment, microseconds since the epoch."""

    timestamp: int = 0
    value: str = ""


class Span(msgspec.Struct, rename="camel", omit_defaults=True):
    """One side's view of one piece of work. Times are microseconds since the epoch, durations microseconds."""

    trace_id: str
    id: str
    parent_id: str | None = None
    name: str | None = None
    kind: str | None = None
    """CLIENT, SERVER, PRODUCER or CONSUMER; None for work inside a process."""
    timestamp: int | None = None
    duration: int | None = None
    local_endpoint: Endpoint | None = None
    remote_endpoint: Endpoint | None = None
    annotations: list[Annotation] = []
    tags: dict[str, str] = {}
    debug: bool | None = None
    shared: bool | None = None

    @property
    def service(self) -> str:
        """Who reported it; empty when it does not say."""
        return (self.local_endpoint.service_name or "") if self.local_endpoint is not None else ""

    @property
    def start(self) -> int:
        return self.timestamp or 0

    @property
    def failed(self) -> bool:
        """Whether it is marked as an error, by Zipkin's or OpenTelemetry's tag, or answered with a 5xx."""
        code = self.tags.get("http.status_code", "")
        return self.tags.get("error", "false") != "false" or (len(code) == 3 and code[0] == "5")


Trace = list[Span]
"""All spans of one trace that are known, by start."""


def trace_key(trace_id: str) -> str:
    """A trace id as it is compared: 32 lower-case hexadecimal digits, shorter ones filled up. ValueError otherwise."""
    if not 1 <= len(trace_id) <= 32 or not _HEX.issuperset(trace_id) or not trace_id.strip("0"):
        raise ValueError(f"{trace_id[:40]!r} is no trace id: 1 to 32 hexadecimal digits are, not all of them 0")
    return trace_id.lower().zfill(32)


def span_key(span_id: str) -> str:
    """A span id as it is compared: 16 lower-case hexadecimal digits. ValueError otherwise."""
    if not 1 <= len(span_id) <= 16 or not _HEX.issuperset(span_id) or not span_id.strip("0"):
        raise ValueError(f"{span_id[:40]!r} is no span id: 1 to 16 hexadecimal digits are, not all of them 0")
    return span_id.lower().zfill(16)


def checked(span: Span) -> Span:
    """The span with its ids in one form. ValueError when they are none, or a time is out of all bounds."""
    span.trace_id = trace_key(span.trace_id)
    span.id = span_key(span.id)
    if span.parent_id is not None:
        span.parent_id = span_key(span.parent_id) if span.parent_id.strip("0") else None
    for side in (span.local_endpoint, span.remote_endpoint):
        if side is not None and not side.port:
            side.port = None  # Envoy's way to say that it has none
    for value in (span.timestamp, span.duration):
        if value is not None and not 0 <= value < 2**62:
            raise ValueError(f"span {span.id}: {value} is no time in microseconds")
    return span
