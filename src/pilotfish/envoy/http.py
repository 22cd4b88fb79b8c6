"""The HTTP connection manager: what every HTTP listener of a proxy has in common, and its filters in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto

from pilotfish.api import Duration
from pilotfish.api.mesh import ForwardClientCertDetails, Normalization, ProxyConfig
from pilotfish.engine import Db
from pilotfish.envoy import access_log, alpn, clusters, istio_filters, metrics, tracing
from pilotfish.envoy.proto import Fields, extension
from pilotfish.envoy.values import ADS_AT_ONCE, FALSE, TRUE, duration, number, seconds
from pilotfish.mesh.config import mesh
from pilotfish.mesh.ports import Protocol
from pilotfish.mesh.proxies import View, keeps_header_case, proxy_config

HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


class Side(Enum):
    INBOUND = auto()
    OUTBOUND = auto()
    GATEWAY = auto()


_GRPC_STATS = extension(
    "envoy.filters.http.grpc_stats",
    "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    {"emit_filter_state": True, "stats_for_all_methods": FALSE},
)
_GRPC_WEB = extension("envoy.filters.http.grpc_web", "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb")
_FAULT = extension("envoy.filters.http.fault", "envoy.extensions.filters.http.fault.v3.HTTPFault")
_CORS = extension("envoy.filters.http.cors", "envoy.extensions.filters.http.cors.v3.Cors")
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"


def rds(name: str) -> Fields:
    return {"rds": {"config_source": ADS_AT_ONCE, "route_config_name": name}}


def manager(
    db: Db,
    view: View,
    side: Side,
    stat_prefix: str,
    routes: Fields,
    *,
    filters: Sequence[Fields] = (),
    late: Sequence[Fields] = (),
    protocol: Protocol = Protocol.HTTP,
    proxied: bool = False,
) -> Fields:
    """A network filter. `routes` is `rds(name)` or `{"route_config": …}`; `filters` are those for policies, which come
    before all others, `late` ones just before the router; `proxied` is for the HTTP proxy listener, where URLs are
    absolute."""
    settings = proxy_config(db, view)
    inbound = side is Side.INBOUND
    fields: Fields = {
        "stat_prefix": stat_prefix,
        **routes,
        **_server_name(settings, side),
        "use_remote_address": TRUE if side is Side.GATEWAY else FALSE,
        "stream_idle_timeout": seconds(0),
        "proxy_100_continue": True,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [
            *istio_filters.exchange(view, inbound=inbound),
            *filters,
            *_filters(settings, side, protocol, [*istio_filters.stats(db, view, inbound=inbound), *late]),
        ],
        **_paths(db),
        **_client_certificate(settings, side),
    }
    if logs := [*access_log.http_loggers(db, view, inbound), *metrics.http_loggers(db, view, inbound)]:
        fields["access_log"] = logs
    fields |= tracing.manager_fields(db, view, inbound)
    if inbound and protocol.is_http2:
        fields["http2_protocol_options"] = {}
    http1 = clusters.http1(keeps_header_case(settings))
    if view.flag("HTTP10") in ("1", "true"):
        http1["accept_http_10"] = True
    if proxied:
        http1["allow_absolute_url"] = TRUE
    headers = settings.proxy_headers
    if headers is not None:
        if headers.request_id is not None and headers.request_id.disabled:
            fields["generate_request_id"] = FALSE
        if headers.x_forwarded_host is not None and headers.x_forwarded_host.enabled:
            fields["append_x_forwarded_port"] = bool(headers.x_forwarded_port and headers.x_forwarded_port.enabled)
    if http1:
        fields["http_protocol_options"] = http1
    if text := view.flag("IDLE_TIMEOUT"):
        fields["common_http_protocol_options"] = {"idle_timeout": duration(Duration.parse(text))}
    if side is Side.GATEWAY:
        topology = settings.gateway_topology
        if topology is not None and topology.num_trusted_proxies:
            fields["xff_num_trusted_hops"] = topology.num_trusted_proxies
    _connection_settings(fields, settings)
    return extension("envoy.filters.network.http_connection_manager", HCM, fields)


def _filters(settings: ProxyConfig, side: Side, protocol: Protocol, late: Sequence[Fields]) -> Iterable[Fields]:
    if protocol is Protocol.GRPC_WEB:
        yield _GRPC_WEB
    yield _GRPC_STATS
    if side is not Side.INBOUND:
        yield alpn.FILTER
    yield _FAULT
    yield _CORS
    yield from late
    debug = settings.proxy_headers.envoy_debug_headers if settings.proxy_headers is not None else None
    quiet = debug is not None and debug.disabled is True
    yield extension("envoy.filters.http.router", _ROUTER, {"suppress_envoy_headers": True} if quiet else None)


def _server_name(settings: ProxyConfig, side: Side) -> Fields:
    """Responses say `istio-envoy` where a workload answers; outbound proxies say `envoy`."""
    server = settings.proxy_headers.server if settings.proxy_headers is not None else None
    if server is not None and server.disabled:
        return {"server_header_transformation": "PASS_THROUGH"}
    if server is not None and server.value:
        return {"server_name": server.value}
    return {"server_name": "istio-envoy"} if side is not Side.OUTBOUND else {}


def _paths(db: Db) -> Fields:
    wanted = mesh(db).path_normalization.normalization
    if wanted is Normalization.NONE:
        return {"path_with_escaped_slashes_action": "KEEP_UNCHANGED"}
    fields: Fields = {"normalize_path": TRUE, "path_with_escaped_slashes_action": "KEEP_UNCHANGED"}
    if wanted in (Normalization.MERGE_SLASHES, Normalization.DECODE_AND_MERGE_SLASHES):
        fields["merge_slashes"] = True
    if wanted is Normalization.DECODE_AND_MERGE_SLASHES:
        fields["path_with_escaped_slashes_action"] = "UNESCAPE_AND_FORWARD"
    return fields


def _client_certificate(settings: ProxyConfig, side: Side) -> Fields:
    """The x-forwarded-client-cert header: sidecars add to it, gateways start it anew."""
    if side is Side.OUTBOUND:
        return {}
    how = "APPEND_FORWARD" if side is Side.INBOUND else "SANITIZE_SET"
    # Workload certificates have no DNS name but the description of `pilotfish.envoy.metrics`, which is for proxies.
    details: Fields = {"subject": TRUE, "uri": True}
    if side is Side.GATEWAY:
        details |= {"dns": True, "cert": True}
        topology = settings.gateway_topology
        if topology is not None and topology.forward_client_cert_details is not ForwardClientCertDetails.UNDEFINED:
            how = topology.forward_client_cert_details.value
    headers = settings.proxy_headers
    if headers is not None:
        if headers.forwarded_client_cert is not ForwardClientCertDetails.UNDEFINED:
            how = headers.forwarded_client_cert.value
        if (current := headers.set_current_client_cert_details) is not None:
            for name in ("cert", "chain", "dns", "uri"):
                if (value := getattr(current, name)) is not None:
                    details[name] = value
            if current.subject is not None:
                details["subject"] = TRUE if current.subject else FALSE
    return {
        "forward_client_cert_details": "ALWAYS_FORWARD_ONLY" if how == "ALWAYS_FORWARD_ONLY" else how,
        "set_current_client_cert_details": details,
    }


def _connection_settings(fields: Fields, settings: ProxyConfig) -> None:
    """ProxyConfig.connectionSettings: limits on downstream connections and streams."""
    limits = settings.connection_settings
    if limits is None:
        return
    common: Fields = fields.get("common_http_protocol_options", {})
    for field, value in (
        ("idle_timeout", limits.http_idle_timeout),
        ("max_connection_duration", limits.http_max_connection_duration),
        ("max_stream_duration", limits.http_max_stream_duration),
    ):
        if value is not None:
            common[field] = duration(value)
    if limits.http_headers_with_underscores_action.value.startswith("HEADERS") and not (
        limits.http_headers_with_underscores_action.value.endswith("UNSPECIFIED")
    ):
        action = limits.http_headers_with_underscores_action.value.removeprefix("HEADERS_WITH_UNDERSCORES_")
        common["headers_with_underscores_action"] = action
    if common:
        fields["common_http_protocol_options"] = common
    for field, value in (
        ("drain_timeout", limits.http_drain_timeout),
        ("request_timeout", limits.http_request_timeout),
        ("request_headers_timeout", limits.http_request_headers_timeout),
        ("stream_idle_timeout", limits.http_stream_idle_timeout),
    ):
        if value is not None:
            fields[field] = duration(value)
    http2: Fields = fields.get("http2_protocol_options", {})
    for field, size in (
        ("max_concurrent_streams", limits.http_max_concurrent_streams),
        ("initial_stream_window_size", limits.http2_initial_stream_window_size),
        ("initial_connection_window_size", limits.http2_initial_connection_window_size),
    ):
        if size is not None:
            http2[field] = number(size)
    if http2:
        fields["http2_protocol_options"] = http2
    if limits.http_merge_slashes is not None:
        fields["merge_slashes"] = limits.http_merge_slashes
    if not limits.http_path_with_escaped_slashes_action.value.endswith("UNSPECIFIED"):
        fields["path_with_escaped_slashes_action"] = limits.http_path_with_escaped_slashes_action.value
