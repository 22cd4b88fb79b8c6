"""TCP proxying: the filter at the end of every chain that is not HTTP."""

from __future__ import annotations

from collections.abc import Iterable

from pilotfish.api import Duration
from pilotfish.api.networking.destination_rule import TrafficPolicy
from pilotfish.engine import Db
from pilotfish.envoy import istio_filters, metrics
from pilotfish.envoy.access_log import tcp_loggers
from pilotfish.envoy.proto import Fields, extension
from pilotfish.envoy.values import duration, number
from pilotfish.mesh.metrics import reporting_interval
from pilotfish.mesh.proxies import View

EARLY = 64 * 1024
"""Bytes that a client may send before the application is connected to."""
TCP_PROXY = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"


def filters(
    db: Db,
    view: View,
    stat_prefix: str,
    targets: Iterable[tuple[str, int]],
    *,
    inbound: bool = False,
    mutual: bool = False,
    policy: TrafficPolicy | None = None,
) -> list[Fields]:
    """The end of a chain: a `tcp_proxy` filter to one cluster, or to several by weight, and what measures it.

    `policy` is the (first) destination's; `mutual` says that the client has a certificate of the mesh.
    """
    chosen = list(targets)
    fields: Fields = {"stat_prefix": stat_prefix}
    if len(chosen) == 1:
        fields["cluster"] = chosen[0][0]
    else:
        fields["weighted_clusters"] = {"clusters": [{"name": name, "weight": weight} for name, weight in chosen]}
    measured = metrics.tcp_loggers(db, view, inbound)
    if logs := [*tcp_loggers(db, view, inbound), *measured]:
        fields["access_log"] = logs
    if measured:
        fields["access_log_options"] = {
            "flush_access_log_on_connected": True,
            "access_log_flush_interval": duration(reporting_interval(db, view.namespace, view.labels)),
        }
        if mutual:
            # Whose connection it is, is known when the handshake is over.
            fields |= {"upstream_connect_mode": "ON_DOWNSTREAM_TLS_HANDSHAKE", "max_early_data_bytes": number(EARLY)}
    tcp = policy.connection_pool.tcp if policy is not None and policy.connection_pool is not None else None
    idle = tcp.idle_timeout if tcp is not None else None
    if idle is None and (text := view.flag("IDLE_TIMEOUT")):
        idle = Duration.parse(text)
    if idle is not None:
        fields["idle_timeout"] = duration(idle)
    if tcp is not None and tcp.max_connection_duration is not None:
        fields["max_downstream_connection_duration"] = duration(tcp.max_connection_duration)
    hashed = policy.load_balancer.consistent_hash if policy is not None and policy.load_balancer is not None else None
    if hashed is not None and hashed.use_source_ip:
        fields["hash_policy"] = [{"source_ip": {}}]
    if policy is not None and policy.tunnel is not None:
        fields["tunneling_config"] = {
            "hostname": f"{policy.tunnel.target_host}:{policy.tunnel.target_port}",
            **({"use_post": True} if policy.tunnel.protocol.upper() == "POST" else {}),
        }
    return [
        *istio_filters.stats(db, view, inbound=inbound),
        extension("envoy.filters.network.tcp_proxy", TCP_PROXY, fields),
    ]
