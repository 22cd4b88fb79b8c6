"""Jaeger's query API, the one of its user interface, as a source of traces."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from pilotfish.telemetry.http import HttpApi
from pilotfish.telemetry.query import SourceError
from pilotfish.telemetry.spans import Annotation, Endpoint, Span, Trace, checked, trace_key

_PARALLEL = 8


class JaegerTraces(HttpApi):
    """TraceSource. Jaeger finds traces of one service only: `find` without one asks for each."""

    def __init__(self, url: str) -> None:
        super().__init__("Jaeger", url)

    async def services(self) -> list[str]:
        return sorted(str(one) for one in self._data(await self.get("/api/services")))

    async def find(
        self,
        *,
        service: str = "",
        since: float,
        until: float,
        tags: Mapping[str, str] | None = None,
        min_duration: float = 0.0,
        max_duration: float | None = None,
        limit: int = 20,
    ) -> list[Trace]:
        if any(not value for value in (tags or {}).values()):
            raise SourceError("Jaeger finds tags by name and value: give a value for each")
        params = {"start": str(round(since * 1e6)), "end": str(round(until * 1e6)), "limit": str(limit)}
        if tags:
            params["tags"] = msgspec.json.encode(tags).decode()
        if min_duration:
            params["minDuration"] = f"{round(min_duration * 1e6)}us"
        if max_duration is not None:
            params["maxDuration"] = f"{round(max_duration * 1e6)}us"
        gate = asyncio.Semaphore(_PARALLEL)

        async def of(service: str) -> list[Trace]:
            async with gate:
                answer = await self.get("/api/traces", {**params, "service": service})
            return [self._read(data) for data in self._data(answer)]

        each = await asyncio.gather(*map(of, [service] if service else await self.services()))
        found = {trace[0].trace_id: trace for traces in each for trace in traces if trace}
        return sorted(found.values(), key=lambda trace: -trace[0].start)[:limit]

    async def trace(self, trace_id: str) -> Trace:
        key = trace_key(trace_id)
        found = self._data(await self.get(f"/api/traces/{key}", missing={"data": []}))
        return self._read(found[0]) if found else []

    def _data(self, answer: Any) -> list[Any]:
        data = answer.get("data") if isinstance(answer, dict) else ()
        if data is not None and not isinstance(data, list):
            raise self.malformed("no data")
        return data or []

    def _read(self, found: Any) -> Trace:
        try:
            processes = found["processes"]
            spans = [_span(one, processes[one["processID"]]["serviceName"]) for one in found["spans"]]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise self.malformed(error) from error
        return sorted(spans, key=lambda span: span.start)


def _span(one: Mapping[str, Any], service: str) -> Span:
    tags = _tags(one.get("tags"))
    kind = tags.pop("span.kind", "").upper()
    if tags.get("error") == "true":
        tags["error"] = tags.get("otel.status_description") or "true"
    parents = (ref["spanID"] for ref in one.get("references") or () if ref.get("refType") == "CHILD_OF")
    return checked(
        Span(
            trace_id=one["traceID"],
            id=one["spanID"],
            parent_id=next(parents, None),
            name=one.get("operationName"),
            kind=kind if kind in ("CLIENT", "SERVER", "PRODUCER", "CONSUMER") else None,
            timestamp=int(one["startTime"]),
            duration=int(one["duration"]),
            local_endpoint=_endpoint(service, tags, "net.host"),
            remote_endpoint=_endpoint(tags.get("peer.service"), tags, "net.peer"),
            annotations=[
                Annotation(int(log["timestamp"]), _tags(log.get("fields")).get("event", ""))
                for log in one.get("logs") or ()
            ],
            tags=tags,
        )
    )


def _endpoint(service: str | None, tags: Mapping[str, str], prefix: str) -> Endpoint | None:
    """A side of a span. Jaeger writes the addresses of Zipkin's endpoints into tags."""
    ip, port = tags.get(f"{prefix}.ip"), tags.get(f"{prefix}.port", "")
    found = Endpoint(service_name=service, port=int(port) if port.isdecimal() else None)
    if ip is not None and ":" in ip:
        found.ipv6 = ip
    else:
        found.ipv4 = ip
    return found if found != Endpoint() else None


def _tags(found: Any) -> dict[str, str]:
    return {tag["key"]: _text(tag["value"]) for tag in found or ()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
