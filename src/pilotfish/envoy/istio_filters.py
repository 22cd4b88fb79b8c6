"""What only Istio's build of Envoy has, for proxies that say they have it: metrics made in the proxy, and the exchange
of who the peers are in headers of HTTP requests.

Such a proxy runs beside Istio's agent, which does not finish the metrics that `pilotfish.envoy.metrics` asks for; an
older one would refuse them. The messages are not among Envoy's, so they go as `TypedStruct`, of which Envoy makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotfish.api.telemetry import Metric
from pilotfish.engine import Db
from pilotfish.envoy import proto
from pilotfish.envoy.metrics import NAMES
from pilotfish.envoy.proto import Fields
from pilotfish.mesh.metrics import REMOVED, REPORTING, metrics, reporting_interval
from pilotfish.mesh.proxies import Metering, View

STATS, EXCHANGE = "istio.stats", "istio.metadata_exchange"
_STRUCT = "udpa.type.v1.TypedStruct"


def _filter(name: str, type_: str, value: Mapping[str, Any]) -> Fields:
    made = proto.from_dict(_STRUCT, {"typeUrl": proto.TYPE_URL + type_, "value": value})
    return {"name": name, "typed_config": proto.packed(_STRUCT, made.SerializeToString(deterministic=True))}


def stats(db: Db, view: View, *, inbound: bool) -> list[Fields]:
    """The filter that makes Istio's metrics, for HTTP and TCP alike; none where there are no metrics."""
    if view.metering is not Metering.ISTIO:
        return []
    kept = {one.metric: one for one in metrics(db, view.namespace, view.labels, inbound)}
    if not kept:
        return []
    changes: list[dict[str, Any]] = []
    for metric in Metric:
        if metric is Metric.ALL_METRICS:
            continue
        one = kept.get(metric)
        if one is None:
            changes.append({"name": NAMES[metric], "drop": True})
        elif one.tags:
            dimensions = {name: value for name, value in one.tags if value != REMOVED}
            removed = [name for name, value in one.tags if value == REMOVED]
            changes.append({"name": NAMES[metric], "dimensions": dimensions, "tags_to_remove": removed})
    value: dict[str, Any] = {"metrics": changes} if changes else {}
    if inbound or not view.is_sidecar:
        value["disable_host_header_fallback"] = True
    if (interval := reporting_interval(db, view.namespace, view.labels)) != REPORTING:
        value["tcp_reporting_duration"] = f"{interval / 1e9:g}s"
    return [_filter(STATS, "stats.PluginConfig", value)]


def exchange(view: View, *, inbound: bool) -> list[Fields]:
    """The filter that reads and writes headers with the descriptions of both peers, before all others."""
    if view.metering is not Metering.ISTIO:
        return []
    side = "downstream" if inbound else "upstream"
    value: dict[str, Any] = {
        f"{side}_discovery": [{"istio_headers": {}}, {"workload_discovery": {}}],
        f"{side}_propagation": [{"istio_headers": {}}],
    }
    return [_filter(EXCHANGE, "io.istio.http.peer_metadata.Config", value)]
