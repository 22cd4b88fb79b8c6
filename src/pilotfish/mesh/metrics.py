"""Which standard metrics a workload's proxy keeps, and with which tags, after all Telemetry that holds for it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pilotfish.api import Duration
from pilotfish.api.telemetry import Metric, MetricsOverrides, TagOperation
from pilotfish.engine import Db, query
from pilotfish.mesh import telemetry
from pilotfish.mesh.config import mesh, provider
from pilotfish.mesh.workloads import Labels, Workload

REMOVED = ""
"""In `MetricSettings.tags`: the tag is taken away."""


REPORTING = Duration.parse("5s")


class MetricSettings(msgspec.Struct, frozen=True):
    """One metric on one side of connections."""

    metric: Metric
    tags: tuple[tuple[str, str], ...] = ()
    """Changed tags: name and expression, `REMOVED` for those taken away."""


def describe(workload: Workload, cluster: str) -> str:
    """A workload as peers report it, see `pilotfish.envoy.metrics`."""
    labels = dict(workload.labels)
    parts = (
        workload.name,
        workload.namespace,
        workload.canonical_name,
        workload.canonical_revision,
        cluster,
        labels.get("app", ""),
        labels.get("version", ""),
    )
    return "~".join(part.replace("~", "-") for part in parts)


@query
def metrics(db: Db, namespace: str, labels: Labels, inbound: bool) -> tuple[MetricSettings, ...]:
    """The metrics to keep. Empty when no Prometheus provider is asked for, or all are switched off.

    1. Providers: those of the most specific level that names any, else the mesh's defaults.
    2. Overrides of all levels in order, mesh first; the last one that matches a metric decides.
    """
    entries = [entry for level in telemetry.levels(db, namespace, labels) for entry in level.metrics]
    names = list(mesh(db).default_providers.metrics)
    for entry in entries:
        names = [p.name for p in entry.providers] or names
    found = [provider(db, name) for name in names]
    if not any(one is not None and one.prometheus is not None for one in found):
        return ()
    overrides = [override for entry in entries for override in entry.overrides]
    return tuple(_settings(overrides, inbound))


@query
def reporting_interval(db: Db, namespace: str, labels: Labels) -> Duration:
    """Time between reports of a TCP connection that is open: the most specific that is given, else Istio's default."""
    entries = [entry for level in telemetry.levels(db, namespace, labels) for entry in level.metrics]
    given = [entry.reporting_interval for entry in entries if entry.reporting_interval is not None]
    return given[-1] if given else REPORTING


def _settings(overrides: list[MetricsOverrides], inbound: bool) -> Iterator[MetricSettings]:
    for metric in Metric:
        if metric is Metric.ALL_METRICS:
            continue
        disabled = False
        tags: dict[str, str] = {}
        for override in overrides:
            if not _matches(override, metric, inbound):
                continue
            if override.disabled is not None:
                disabled = override.disabled
            for name, change in override.tag_overrides.items():
                tags[name] = REMOVED if change.operation is TagOperation.REMOVE else change.value
        if not disabled:
            yield MetricSettings(metric, tuple(sorted(tags.items())))


def _matches(override: MetricsOverrides, metric: Metric, inbound: bool) -> bool:
    match = override.match
    if match is None:
        return True
    if match.custom_metric is not None or match.metric not in (None, Metric.ALL_METRICS, metric):
        return False
    return match.mode.value in ("CLIENT_AND_SERVER", "SERVER" if inbound else "CLIENT")
