"""Zipkin's query API as a source of traces: https://zipkin.io/zipkin-api/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pilotfish.telemetry.http import HttpApi
from pilotfish.telemetry.query import SourceError
from pilotfish.telemetry.spans import Span, Trace, checked, trace_key


class ZipkinTraces(HttpApi):
    """TraceSource."""

    def __init__(self, url: str) -> None:
        super().__init__("Zipkin", url)

    async def services(self) -> list[str]:
        found = await self.get("/api/v2/services")
        if not isinstance(found, list):
            raise self.malformed("services are no list")
        return sorted(str(one) for one in found)

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
            "endTs": str(round(until * 1000)),
            "lookback": str(round((until - since) * 1000)),
            "limit": str(limit),
        }
        if service:
            params["serviceName"] = service
        if tags:
            # What joins them cannot be quoted.
            if told := next((k for k, v in tags.items() if "=" in k or " and " in f" {k} {v} "), ""):
                raise SourceError(f"Zipkin cannot search for tag {told!r}: a name with '=', or text with ' and '")
            params["annotationQuery"] = " and ".join(f"{k}={v}" if v else k for k, v in tags.items())
        if min_duration or max_duration is not None:  # Zipkin wants a least one with a longest one
            params["minDuration"] = str(max(round(min_duration * 1e6), 1))
        if max_duration is not None:
            params["maxDuration"] = str(round(max_duration * 1e6))
        found = await self.get("/api/v2/traces", params)
        if not isinstance(found, list):
            raise self.malformed("traces are no list")
        return sorted(filter(None, map(self._read, found)), key=lambda trace: -trace[0].start)

    async def trace(self, trace_id: str) -> Trace:
        return self._read(await self.get(f"/api/v2/trace/{trace_key(trace_id)}", missing=[]))

    def _read(self, found: Any) -> Trace:
        try:
            return sorted(map(checked, msgspec.convert(found, list[Span])), key=lambda span: span.start)
        except (msgspec.ValidationError, ValueError) as error:
            raise self.malformed(error) from error
