"""Prometheus' HTTP API as a source of metrics; Thanos and the like have the same.

https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from pilotfish.telemetry.http import HttpApi
from pilotfish.telemetry.query import Points, Sample, SourceError, Where

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_SPECIAL = re.compile(r"([\\.+*?()|\[\]{}^$])")


class PrometheusMetrics(HttpApi):
    """MetricsSource. Rates are PromQL's: extrapolated to the window, so counts may be off by some percent."""

    def __init__(self, url: str) -> None:
        super().__init__("Prometheus", url)

    async def rates(
        self,
        metric: str,
        *,
        by: Sequence[str],
        where: Where | None = None,
        window: float = 60.0,
        at: float | None = None,
    ) -> list[Sample]:
        when = time.time() if at is None else at
        query = promql(metric, by, where or {}, window)
        found = await self._query("/api/v1/query", {"query": query, "time": f"{when:.3f}"})
        try:
            return [
                Sample(_labels(one["metric"], by), value)
                for one in found
                if math.isfinite(value := float(one["value"][1]))
            ]
        except (LookupError, TypeError, ValueError) as error:
            raise self.malformed(error) from error

    async def ranges(
        self,
        metric: str,
        *,
        by: Sequence[str],
        where: Where | None = None,
        start: float,
        end: float,
        step: float,
    ) -> list[Points]:
        query = promql(metric, by, where or {}, step)
        times = {"start": f"{start + step:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        found = await self._query("/api/v1/query_range", {"query": query, **times})
        try:
            return [
                Points(_labels(one["metric"], by), [(float(when), float(value)) for when, value in one["values"]])
                for one in found
            ]
        except (LookupError, TypeError, ValueError) as error:
            raise self.malformed(error) from error

    async def _query(self, path: str, params: dict[str, str]) -> list[Any]:
        answer = await self.get(path, params)
        try:
            result = answer["data"]["result"]
        except (LookupError, TypeError) as error:
            raise self.malformed(answer if len(str(answer)) < 200 else "no data.result") from error
        if not isinstance(result, list):
            raise self.malformed("data.result is no list")
        return result


def promql(metric: str, by: Sequence[str], where: Where, window: float) -> str:
    """`sum by (by) (rate(metric{where}[window]))`. Raises SourceError for names that are none."""
    for name in (metric, *by, *where):
        if not _NAME.fullmatch(name):
            raise SourceError(f"{name[:60]!r} is no name of a metric or label")
    return f"sum by ({', '.join(by)}) (rate({metric}{{{', '.join(_matchers(where))}}}[{round(window * 1000)}ms]))"


def _matchers(where: Where) -> Iterator[str]:
    for name, value in where.items():
        if isinstance(value, str):
            yield f"{name}={_quoted(value)}"
        else:
            any_of = "|".join(_SPECIAL.sub(r"\\\1", one) for one in value)
            yield f"{name}=~{_quoted(any_of)}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _labels(found: dict[str, str], by: Sequence[str]) -> dict[str, str]:
    return {name: found.get(name, "") for name in by}
