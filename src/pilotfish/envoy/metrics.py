"""Istio's standard metrics from Envoy's stats access logger.

A tag costs time on every request, so the proxy is asked only for what differs between requests: who the peer is, which
service, how it ended. What never changes (the workload's own labels), what follows from other tags (the protocol, the
security policy) and how tags are written (`unknown` for nothing) is filled in when the page is scraped, by the agent:
`pilotfish.agent.stats` is the other half of this file, and the tags below are the contract between them.

| tag | server side | client side |
|---|---|---|
| `reporter` | `destination` | `source` |
| `peer` | description in the client's certificate | in the server's certificate, else the endpoint's |
| `principal` | URI in the client's certificate | in the server's certificate |
| `service` | `host~name~namespace` of the cluster, else its name or the route's | the same |
| `response_code`, `response_flags`, `grpc_response_status` | as Istio names them | the same |
| `messages` | messages of a gRPC stream, `requests,responses`, on the two metrics that count these | the same |

The description of a workload is `name~namespace~canonical name~canonical revision~cluster~app~version`, put into its
certificate by the authority, which knows the pod behind a token: it cannot be forged, and it is there for TCP as well.

Envoy's filter for gRPC says its two counts only as one text, which is no number for a counter. So streams are counted
by these texts, and the agent multiplies. Nearly all streams have one message each way; a scope with a limit of its own
keeps others from crowding out the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pilotfish.api.tag_expressions import RESERVED, value_format
from pilotfish.api.telemetry import Metric
from pilotfish.engine import Db, query
from pilotfish.envoy.proto import Fields, extension
from pilotfish.mesh.metrics import REMOVED, MetricSettings, metrics
from pilotfish.mesh.proxies import View

STATS = "envoy.extensions.access_loggers.stats.v3.Config"
SCOPE, GRPC_SCOPE = "istio", "istio-grpc"
MAX_SERIES, MAX_GRPC_SERIES = 20_000, 2_000
"""Series of one kind that a proxy keeps; what exceeds it is dropped and counted by Envoy."""
DROP = "~"
"""Value of a tag that is taken away when the page is scraped."""

_SERVICE = (
    '%COALESCE({"operators":'
    '[{"command":"CLUSTER_METADATA","param":"istio:service"},"UPSTREAM_CLUSTER_RAW","ROUTE_NAME"]})%'
)
_CLIENT_PEER = (
    '%COALESCE({"operators":["UPSTREAM_PEER_DNS_SAN",{"command":"UPSTREAM_METADATA","param":"istio:workload"}]})%'
)


class _Kind(NamedTuple):
    name: str
    value: str = ""
    """Format of the value; empty counts one."""
    unit: str = ""
    """Of histograms."""


_HTTP: Mapping[Metric, _Kind] = {
    Metric.REQUEST_COUNT: _Kind("requests_total"),
    Metric.REQUEST_DURATION: _Kind("request_duration_milliseconds", "%DURATION%", "Milliseconds"),
    Metric.REQUEST_SIZE: _Kind("request_bytes", "%DOWNSTREAM_WIRE_BYTES_RECEIVED%", "Bytes"),
    Metric.RESPONSE_SIZE: _Kind("response_bytes", "%DOWNSTREAM_WIRE_BYTES_SENT%", "Bytes"),
}
_GRPC: Mapping[Metric, _Kind] = {
    Metric.GRPC_REQUEST_MESSAGES: _Kind("request_messages_total"),
    Metric.GRPC_RESPONSE_MESSAGES: _Kind("response_messages_total"),
}
_MESSAGES = {"messages": "%FILTER_STATE(envoy.filters.http.grpc_stats:PLAIN)%"}
_IS_GRPC = {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}}
_TCP_END: Mapping[Metric, _Kind] = {
    Metric.TCP_CLOSED_CONNECTIONS: _Kind("tcp_connections_closed_total"),
    Metric.TCP_SENT_BYTES: _Kind("tcp_sent_bytes_total", "%BYTES_SENT%"),
    Metric.TCP_RECEIVED_BYTES: _Kind("tcp_received_bytes_total", "%BYTES_RECEIVED%"),
}
_TCP_START: Mapping[Metric, _Kind] = {Metric.TCP_OPENED_CONNECTIONS: _Kind("tcp_connections_opened_total")}


def _tags(inbound: bool, http: bool) -> dict[str, str]:
    tags = {
        "reporter": "destination" if inbound else "source",
        "peer": "%DOWNSTREAM_PEER_DNS_SAN%" if inbound else _CLIENT_PEER,
        "principal": "%DOWNSTREAM_PEER_URI_SAN%" if inbound else "%UPSTREAM_PEER_URI_SAN%",
        "service": _SERVICE,
    }
    if http:
        tags |= {
            "response_code": "%RESPONSE_CODE%",
            "grpc_response_status": "%GRPC_STATUS_NUMBER%",
        }
    return tags | {"response_flags": "%RESPONSE_FLAGS%"}


@query
def http_loggers(db: Db, view: View, inbound: bool) -> tuple[Fields, ...]:
    """The loggers of an HTTP connection manager: one for requests, one for the messages of gRPC streams."""
    settings, tags = metrics(db, view.namespace, view.labels, inbound), _tags(inbound, True)
    result = []
    if (logger := _logger(settings, _HTTP, tags)) is not None:
        result.append(logger)
    if (logger := _logger(settings, _GRPC, tags | _MESSAGES, GRPC_SCOPE, MAX_GRPC_SERIES)) is not None:
        result.append({**logger, "filter": _IS_GRPC})
    return tuple(result)


@query
def tcp_loggers(db: Db, view: View, inbound: bool) -> tuple[Fields, ...]:
    """The loggers of a TCP proxy: one for beginnings, one for ends (byte counts are sums, so they are taken there)."""
    settings, tags = metrics(db, view.namespace, view.labels, inbound), _tags(inbound, False)
    result = []
    for kinds, moment in ((_TCP_START, "TcpUpstreamConnected"), (_TCP_END, "TcpConnectionEnd")):
        if (logger := _logger(settings, kinds, tags)) is not None:
            result.append({**logger, "filter": {"log_type_filter": {"types": [moment]}}})
    return tuple(result)


def _logger(
    settings: Iterable[MetricSettings],
    kinds: Mapping[Metric, _Kind],
    tags: Mapping[str, str],
    scope: str = SCOPE,
    limit: int = MAX_SERIES,
) -> Fields | None:
    counters: list[Fields] = []
    histograms: list[Fields] = []
    for one in settings:
        kind = kinds.get(one.metric)
        if kind is None:
            continue
        stat = {"name": kind.name, "tags": [{"name": n, "value_format": v} for n, v in _changed(tags, one).items()]}
        if kind.unit:
            histograms.append({"stat": stat, "unit": kind.unit, "value_format": kind.value})
        elif kind.value:
            counters.append({"stat": stat, "value_format": kind.value})
        else:
            counters.append({"stat": stat, "value_fixed": {"value": 1}})
    if not counters and not histograms:
        return None
    config: Fields = {
        # Shared by name, so that counters outlive an update of their listener.
        "stats_scope": {
            "prefix": SCOPE,
            "sharing_name": scope,
            "max_counters": {"value": limit},
            "max_histograms": {"value": limit},
        },
        "counters": counters,
        "histograms": histograms,
    }
    return extension("envoy.access_loggers.stats", STATS, config)


def _changed(tags: Mapping[str, str], settings: MetricSettings) -> dict[str, str]:
    """Tags after the user's changes. What cannot be had as a format is left as it is; validation has told so."""
    result = dict(tags)
    for name, expression in settings.tags:
        made = DROP if expression == REMOVED else value_format(expression)
        if made is not None and name not in RESERVED:
            result[name] = made
    return result
