"""Tempo's HTTP API as a source of traces: https://grafana.com/docs/tempo/latest/api_docs/."""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import re
import string
from collections.abc import Mapping
from typing import Any

from pilotfish.telemetry.http import HttpApi
from pilotfish.telemetry.otlp import from_json
from pilotfish.telemetry.query import SourceError
from pilotfish.telemetry.spans import Trace, trace_key

_TAG = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-/]*")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?")
_HEX = frozenset(string.hexdigits)
_PARALLEL = 8


class TempoTraces(HttpApi):
    """TraceSource. A search gives ids only, so each trace found is fetched."""

    def __init__(self, url: str) -> None:
        super().__init__("Tempo", url)

    async def services(self) -> list[str]:
        found = await self.get("/api/search/tag/service.name/values", missing={})
        try:
            return sorted(str(one) for one in found.get("tagValues") or ())
        except (AttributeError, TypeError) as error:
            raise self.malformed("no tagValues") from error

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
        params = {
            "q": traceql(service, tags or {}, min_duration, max_duration),
            "start": str(math.floor(since)),
            "end": str(math.ceil(until)),
            "limit": str(limit),
        }
        found = await self.get("/api/search", params)
        try:
            ids = [str(one["traceID"]) for one in found.get("traces") or ()]
        except (AttributeError, LookupError, TypeError) as error:
            raise self.malformed("no traces") from error
        gate = asyncio.Semaphore(_PARALLEL)

        async def fetch(trace_id: str) -> Trace:
            async with gate:
                return await self.trace(trace_id)

        traces = await asyncio.gather(*map(fetch, ids[:limit]))
        return sorted((one for one in traces if one), key=lambda trace: -trace[0].start)

    async def trace(self, trace_id: str) -> Trace:
        found = await self.get(f"/api/traces/{trace_key(trace_id)}", missing={})
        try:
            # Version 1 of the API calls them batches, version 2 wraps what OTLP has into `trace`.
            document = found.get("trace") or found
            resources = document.get("resourceSpans") or document.get("batches") or []
            for resource in resources:
                for scope in resource.get("scopeSpans") or resource.get("instrumentationLibrarySpans") or ():
                    for span in scope.get("spans") or ():
                        for name, size in (("traceId", 32), ("spanId", 16), ("parentSpanId", 16)):
                            if span.get(name):
                                span[name] = _hexadecimal(span[name], size)
            spans, _ = from_json({"resourceSpans": resources})
        except (AttributeError, TypeError, ValueError) as error:
            raise self.malformed(error) from error
        return sorted(spans, key=lambda span: span.start)


def traceql(service: str, tags: Mapping[str, str], min_duration: float, max_duration: float | None) -> str:
    """The spanset filter of a search, for Tempo 2.4 and later. Raises SourceError for a tag's name that is none."""
    conditions = [f"resource.service.name = {_quoted(service)}"] if service else []
    conditions += [_condition(name, value) for name, value in tags.items()]
    if min_duration:
        conditions.append(f"duration >= {round(min_duration * 1e6)}us")
    if max_duration is not None:
        conditions.append(f"duration <= {round(max_duration * 1e6)}us")
    return f"{{ {' && '.join(conditions)} }}"


def _condition(name: str, value: str) -> str:
    """TraceQL converts nothing: 503 and "503" differ, and programs write the one, proxies the other. Errors are in a
    span's status there, see `otlp`."""
    if not name or any(one < " " for one in name):
        raise SourceError(f"{name[:60]!r} is no name of a tag")
    if name == "error":
        if value in ("", "true"):
            return "status = error"
        return f"(status = error && statusMessage = {_quoted(value)})"
    field = f"span.{name}" if _TAG.fullmatch(name) else f"span.{_quoted(name)}"
    if not value:
        return f"{field} != nil"
    other = value if value in ("true", "false") or _NUMBER.fullmatch(value) else ""
    return f"({field} = {_quoted(value)} || {field} = {other})" if other else f"{field} = {_quoted(value)}"


def _hexadecimal(text: Any, size: int) -> str:
    """An id, which Tempo writes in base64 as protobuf's JSON does, and OTLP in hexadecimal."""
    if len(text) == size and _HEX.issuperset(text):
        return str(text)
    try:
        return base64.b64decode(text, validate=True).hex()
    except binascii.Error as error:
        raise ValueError(f"{text[:40]!r} is no id") from error


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
