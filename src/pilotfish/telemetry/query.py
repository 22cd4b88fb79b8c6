"""What graphs, health and tables ask for, whoever has the answer."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from pilotfish.errors import UserError
from pilotfish.telemetry.spans import Trace

Where = Mapping[str, str | Collection[str]]
"""Labels and their value, or several of which one is meant. Empty means missing, as in PromQL."""


class SourceError(UserError):
    """A source does not answer, or refuses the question; the text says which and why."""


class Sample(NamedTuple):
    """A value of a group: the labels asked for (empty where missing), and e.g. requests a second."""

    labels: dict[str, str]
    value: float


class Points(NamedTuple):
    """Values of a group over time: `(seconds since the epoch, value)`, ascending."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


class Quantiles(NamedTuple):
    """Quantiles of a group, in the unit of the histogram and the order asked for; NaN where nothing was counted."""

    labels: dict[str, str]
    values: list[float]


class MetricsSource(Protocol):
    """Counters by labels. Raises SourceError. `at` is seconds since the epoch, now by default."""

    async def rates(
        self, metric: str, *, by: Sequence[str], where: Where | None = ..., window: float = ..., at: float | None = ...
    ) -> list[Sample]:
        """How much a counter increased per second over the window (seconds), summed by labels."""
        ...

    async def ranges(
        self, metric: str, *, by: Sequence[str], where: Where | None = ..., start: float, end: float, step: float
    ) -> list[Points]:
        """The same for every `step` seconds after `start` up to `end`, each over the step before."""
        ...


class TraceSource(Protocol):
    """Traces by what their spans have. Raises SourceError. Times and durations are seconds."""

    async def services(self) -> list[str]: ...

    async def find(
        self,
        *,
        service: str = ...,
        since: float,
        until: float,
        tags: Mapping[str, str] = ...,
        min_duration: float = ...,
        max_duration: float | None = ...,
        limit: int = ...,
    ) -> list[Trace]:
        """The latest traces that have a span with all of this."""
        ...

    async def trace(self, trace_id: str) -> Trace:
        """All spans of a trace; empty when it is not known. ValueError for what is no trace id."""
        ...


async def quantiles(
    source: MetricsSource,
    histogram: str,
    wanted: Sequence[float],
    *,
    by: Sequence[str],
    where: Where | None = None,
    window: float = 60.0,
    at: float | None = None,
) -> list[Quantiles]:
    """Quantiles (0 to 1) of what a histogram counted over the window, by labels."""
    rates = await source.rates(f"{histogram}_bucket", by=[*by, "le"], where=where, window=window, at=at)
    groups: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for labels, value in rates:
        try:
            bound = float(labels["le"])
        except ValueError:
            continue
        groups.setdefault(tuple(labels[name] for name in by), []).append((bound, value))
    return [
        Quantiles(dict(zip(by, key, strict=True)), [quantile(one, buckets) for one in wanted])
        for key, buckets in groups.items()
    ]


def quantile(wanted: float, buckets: Iterable[tuple[float, float]]) -> float:
    """A quantile from cumulative buckets `(bound, count)`, as PromQL's histogram_quantile: linear inside a bucket;
    the last finite bound where it lies above; NaN without counts or without a bucket for everything."""
    ordered = sorted(buckets)
    if len(ordered) < 2 or ordered[-1][0] != math.inf or not ordered[-1][1] > 0:
        return math.nan
    rank = wanted * ordered[-1][1]
    lower = below = 0.0
    for bound, raw in ordered:
        count = max(raw, below)  # buckets are read one after the other: a smaller one is a matter of rounding
        if count >= rank and count > 0:
            if bound == math.inf:
                return ordered[-2][0]
            if bound <= 0:
                return bound
            return lower + (bound - lower) * ((rank - below) / (count - below) if count > below else 1.0)
        lower, below = bound, count
    return ordered[-2][0]
