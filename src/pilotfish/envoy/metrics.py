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
| `service` | `host~name~namespace` of the cluster, else its name or the route's | the same, and in sidecars, \
after a space, the Host header; of a service the same once more |
| `response_code`, `response_flags`, `grpc_response_status` | as Istio names them | the same |
| `messages` | messages of a gRPC stream, `requests,responses`, on the two metrics that count these | the same |
| `connection` | number of an open connection, on the bytes that it has sent or received so far | the same |

The description of a workload is `name~namespace~canonical name~canonical revision~cluster~app~version`, put into its
certificate by the authority, which knows the pod behind a token: it cannot be forged, and it is there for TCP as well.

Envoy's filter for gRPC says its two counts only as one text, which is no number for a counter. So streams are counted
by these texts, and the agent multiplies. Nearly all streams have one message each way; a scope with a limit of its own
keeps others from crowding out the rest.

Bytes of a TCP connection are known at any time only as their sum since its beginning, which is no step for a counter.
So counters have those of connections that ended; connections that are open for a while have gauges of their own, which
are set every few seconds and to nothing at the end. The agent adds both up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pilotfish.api.tag_expressions import RESERVED, value_format
from pilotfish.api.telemetry import Metric
from pilotfish.engine import Db, query
from pilotfish.envoy.proto import Fields, extension
from pilotfish.mesh.metrics import REMOVED, MetricSettings, metrics, reporting_interval
from pilotfish.mesh.proxies import Metering, View

STATS = "envoy.extensions.access_loggers.stats.v3.Config"
SCOPE, GRPC_SCOPE, LASTING_SCOPE = "istio", "istio-grpc", "istio-lasting"
"""Series of the last do not expire: how many connections were opened and closed is to say how many are open."""
MAX_SERIES, MAX_GRPC_SERIES, MAX_HISTOGRAMS, MAX_OPEN = 20_000, 2_000, 6_000, 4_000
"""Series of one kind that a proxy keeps; what exceeds it is dropped and counted by Envoy. A histogram has 22 lines, so
these are fewer: the page stays below 130 MB. Connections without a gauge of their own count when they end."""
DROP = "~"
"""Value of a tag that is taken away when the page is scraped."""

_SERVICE = (
    '%COALESCE({"operators":'
    '[{"command":"CLUSTER_METADATA","param":"istio:service"},"UPSTREAM_CLUSTER_RAW","ROUTE_NAME"]})%'
)
_HOST = (
    # The service once more, where there is one: it has one series whatever it is called by.
    ' %COALESCE({"operators":'
    '[{"command":"CLUSTER_METADATA","param":"istio:service"},{"command":"REQ","param":":AUTHORITY"}]})%'
)
_CLIENT_PEER = (
    '%COALESCE({"operators":["UPSTREAM_PEER_DNS_SAN",{"command":"UPSTREAM_METADATA","param":"istio:workload"}]})%'
)


START, PERIODIC, END = "TcpUpstreamConnected", "TcpPeriodic", "TcpConnectionEnd"
"""Moments of a TCP connection, as Envoy's access logs name them."""
NOTHING = "%RESPONSE_CODE%"
"""Which TCP does not have: the number 0, which Envoy does not take as a fixed value."""


class _Kind(NamedTuple):
    name: str
    value: str = ""
    """Format of the value; empty counts one."""
    unit: str = ""
    """Of histograms."""
    gauge: str = ""
    """Of gauges: the moment at which they are set."""
    flags: bool = True
    """False for bytes of TCP. A connection has no flags while it is open, and all its bytes are to be in one series."""


Kinds = tuple[tuple[Metric, _Kind], ...]

_HTTP: Kinds = (
    (Metric.REQUEST_COUNT, _Kind("requests_total")),
    (Metric.REQUEST_DURATION, _Kind("request_duration_milliseconds", "%DURATION%", "Milliseconds")),
    (Metric.REQUEST_SIZE, _Kind("request_bytes", "%DOWNSTREAM_WIRE_BYTES_RECEIVED%", "Bytes")),
    (Metric.RESPONSE_SIZE, _Kind("response_bytes", "%DOWNSTREAM_WIRE_BYTES_SENT%", "Bytes")),
)
_GRPC: Kinds = (
    (Metric.GRPC_REQUEST_MESSAGES, _Kind("request_messages_total")),
    (Metric.GRPC_RESPONSE_MESSAGES, _Kind("response_messages_total")),
)
_MESSAGES = {"messages": "%FILTER_STATE(envoy.filters.http.grpc_stats:PLAIN)%"}
_IS_GRPC = {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}}
_TCP_START: Kinds = ((Metric.TCP_OPENED_CONNECTIONS, _Kind("tcp_connections_opened_total")),)
_TCP_OPEN: Kinds = (
    (Metric.TCP_SENT_BYTES, _Kind("tcp_sent_bytes_open", "%BYTES_SENT%", gauge=PERIODIC, flags=False)),
    (Metric.TCP_RECEIVED_BYTES, _Kind("tcp_received_bytes_open", "%BYTES_RECEIVED%", gauge=PERIODIC, flags=False)),
)
_TCP_END: Kinds = ((Metric.TCP_CLOSED_CONNECTIONS, _Kind("tcp_connections_closed_total")),)
_TCP_BYTES: Kinds = (
    (Metric.TCP_SENT_BYTES, _Kind("tcp_sent_bytes_total", "%BYTES_SENT%", flags=False)),
    (Metric.TCP_RECEIVED_BYTES, _Kind("tcp_received_bytes_total", "%BYTES_RECEIVED%", flags=False)),
)
_TCP_NO_LONGER_OPEN: Kinds = (
    (Metric.TCP_SENT_BYTES, _Kind("tcp_sent_bytes_open", NOTHING, gauge=END, flags=False)),
    (Metric.TCP_RECEIVED_BYTES, _Kind("tcp_received_bytes_open", NOTHING, gauge=END, flags=False)),
)
_CONNECTION = {"connection": "%CONNECTION_ID%"}
NAMES: Mapping[Metric, str] = {metric: kind.name for metric, kind in (*_HTTP, *_GRPC, *_TCP_START, *_TCP_END)}
"""What the metrics are called, after `istio_`."""


def _tags(view: View, inbound: bool, http: bool) -> dict[str, str]:
    tags = {
        "reporter": "destination" if inbound else "source",
        "peer": "%DOWNSTREAM_PEER_DNS_SAN%" if inbound else _CLIENT_PEER,
        "principal": "%DOWNSTREAM_PEER_URI_SAN%" if inbound else "%UPSTREAM_PEER_URI_SAN%",
        "service": _SERVICE,
    }
    if http:
        if view.is_sidecar and not inbound:
            tags["service"] += _HOST
        tags |= {
            "response_code": "%RESPONSE_CODE%",
            "grpc_response_status": "%GRPC_STATUS_NUMBER%",
        }
    return tags | {"response_flags": "%RESPONSE_FLAGS%"}


@query
def http_loggers(db: Db, view: View, inbound: bool) -> tuple[Fields, ...]:
    """The loggers of an HTTP connection manager: one for requests, one for the messages of gRPC streams."""
    if view.metering is not Metering.LOGGER:
        return ()
    settings, tags = metrics(db, view.namespace, view.labels, inbound), _tags(view, inbound, True)
    result = []
    if (logger := _logger(settings, _HTTP, tags)) is not None:
        result.append(logger)
    if (logger := _logger(settings, _GRPC, tags | _MESSAGES, GRPC_SCOPE)) is not None:
        result.append({**logger, "filter": _IS_GRPC})
    return tuple(result)


@query
def tcp_loggers(db: Db, view: View, inbound: bool) -> tuple[Fields, ...]:
    """The loggers of a TCP proxy."""
    if view.metering is not Metering.LOGGER:
        return ()
    settings, tags = metrics(db, view.namespace, view.labels, inbound), _tags(view, inbound, False)
    interval = min(reporting_interval(db, view.namespace, view.labels) // 1_000_000, 2**32 - 1)  # ms
    lasted = {"op": "GE", "value": {"default_value": interval, "runtime_key": "pilotfish.tcp_reporting"}}
    reported = {"and_filter": {"filters": [_moment(END), {"duration_filter": {"comparison": lasted}}]}}
    made = (
        (_moment(START), _TCP_START, LASTING_SCOPE),
        (_moment(PERIODIC), _TCP_OPEN, SCOPE),
        (_moment(END), _TCP_END, LASTING_SCOPE),
        (_moment(END), _TCP_BYTES, SCOPE),
        (reported, _TCP_NO_LONGER_OPEN, SCOPE),
    )
    loggers = ((condition, _logger(settings, kinds, tags, scope)) for condition, kinds, scope in made)
    return tuple({**logger, "filter": condition} for condition, logger in loggers if logger is not None)


def _moment(name: str) -> Fields:
    return {"log_type_filter": {"types": [name]}}


def _logger(
    settings: Iterable[MetricSettings],
    kinds: Kinds,
    tags: Mapping[str, str],
    scope: str = SCOPE,
) -> Fields | None:
    limit = MAX_GRPC_SERIES if scope == GRPC_SCOPE else MAX_SERIES
    counters: list[Fields] = []
    histograms: list[Fields] = []
    gauges: list[Fields] = []
    wanted = {one.metric: one for one in settings}
    for metric, kind in kinds:
        if (one := wanted.get(metric)) is None:
            continue
        its = {name: value for name, value in tags.items() if kind.flags or name != "response_flags"}
        its = _changed(its, one) | (_CONNECTION if kind.gauge else {})
        stat = {"name": kind.name, "tags": [{"name": n, "value_format": v} for n, v in its.items()]}
        if kind.unit:
            histograms.append({"stat": stat, "unit": kind.unit, "value_format": kind.value})
        elif kind.gauge:
            gauges.append({"stat": stat, "value_format": kind.value, "set": {"log_type": kind.gauge}})
        elif kind.value:
            counters.append({"stat": stat, "value_format": kind.value})
        else:
            counters.append({"stat": stat, "value_fixed": {"value": 1}})
    if not counters and not histograms and not gauges:
        return None
    config: Fields = {
        # Shared by name, so that counters outlive an update of their listener.
        "stats_scope": {
            "prefix": SCOPE,
            "sharing_name": scope,
            # What nobody uses for a while is forgotten: `stats_eviction_interval` of the bootstrap.
            "enable_eviction": scope != LASTING_SCOPE,
            "max_counters": {"value": limit},
            "max_gauges": {"value": MAX_OPEN},
            "max_histograms": {"value": MAX_HISTOGRAMS},
        },
        "counters": counters,
        "histograms": histograms,
        "gauges": gauges,
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
