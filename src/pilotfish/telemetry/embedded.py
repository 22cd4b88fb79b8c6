"""The store as a source of metrics; of traces it is one itself."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pilotfish.telemetry.query import Points, Sample, Where
from pilotfish.telemetry.store import Store


class StoredMetrics:
    """MetricsSource."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def rates(
        self,
        metric: str,
        *,
        by: Sequence[str],
        where: Where | None = None,
        window: float = 60.0,
        at: float | None = None,
    ) -> list[Sample]:
        end = time.time() if at is None else at
        found = await self._increases(metric, by, where or {}, end - window, end, window)
        return [Sample(dict(zip(by, key, strict=True)), sum(steps.values()) / window) for key, steps in found.items()]

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
        count = int((end - start) / step)
        found = await self._increases(metric, by, where or {}, start, start + count * step, step)
        return [
            Points(
                dict(zip(by, key, strict=True)),
                [(start + (number + 1) * step, steps.get(number, 0.0) / step) for number in range(count)],
            )
            for key, steps in found.items()
        ]

    async def _increases(
        self, metric: str, by: Sequence[str], where: Where, start: float, end: float, step: float
    ) -> dict[tuple[str, ...], dict[int, float]]:
        chosen = self._store.select(metric, where, since=start)
        increases = await self._store.increases(chosen.keys(), start, end, step) if chosen else {}
        groups: dict[tuple[str, ...], dict[int, float]] = {}
        for key, labels in chosen.items():
            group = groups.setdefault(tuple(labels.get(name) for name in by), {})
            for number, value in increases.get(key, {}).items():
                group[number] = group.get(number, 0.0) + value
        return groups
