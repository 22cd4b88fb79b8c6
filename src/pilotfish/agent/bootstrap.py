"""Envoy's bootstrap: who it is, where its configuration comes from, and the few static listeners of a proxy.

Envoy talks to the control plane itself, with the workload certificate that it has from the agent over SDS; the agent
does not stand in between.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from pilotfish.agent.certificates import split_address
from pilotfish.agent.options import PROXY_ID, AgentError, Options, seconds

log = logging.getLogger(__name__)

TYPE = "type.googleapis.com/"
EVERY = "0.0.0.0"  # noqa: S104 (Prometheus and the kubelet come from outside the pod)
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
XDS_CLUSTER, SDS_CLUSTER, AGENT_CLUSTER = "xds-grpc", "sds-grpc", "agent"
ADS = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}

STAT_PREFIXES = (
    "cluster_manager",
    "listener_manager",
    "server",
    "cluster.xds-grpc",
    "wasm",
    "reporter=",
    "component",
    "istio",
    "wasmcustom",
)
FLUSH_SECONDS, EVICTION_SECONDS = 5.0, 3600.0
STAT_SUFFIXES = ("rbac.allowed", "rbac.denied", "shadow_allowed", "shadow_denied", "downstream_cx_active")
STAT_REGEXES = (r"vhost\..*\.route\..*",)
STAT_TAGS = {
    # Istio ends names of clusters and connection managers with a semicolon, so that dots inside do no harm.
    "cluster_name": r"^cluster\.((.+?(\..+?\.svc\.cluster\.local)?)(?:;\.|\.))",
    "tcp_prefix": r"^tcp\.((.*?)\.)\w+?$",
    "http_conn_manager_prefix": r"^http\.((.+?)(?:;\.|\.))",
    "listener_address": r"^listener\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)",
    "response_code": r"_rq(_(\d{3}))$",
    "response_code_class": r"_rq(_(\dxx))$",
    "mongo_prefix": r"^mongo\.(.+?)\.(collection|cmd|cx_|op_|delays_|decoding_)(.*?)$",
}


def bootstrap(options: Options, *, mark: bool = False) -> dict[str, Any]:
    """The bootstrap as JSON for Envoy's `-c`.

    With `mark`, upstream sockets carry the mark 1337: the way to tell the proxy's traffic from the application's where
    it cannot have a user of its own.
    """
    document: dict[str, Any] = {
        "node": {"id": options.node_id, "cluster": service_name(options), "metadata": options.node_metadata},
        "admin": {"address": _address("127.0.0.1", int(options.proxy["proxyAdminPort"]))},
        "dynamic_resources": {
            "lds_config": ADS,
            "cds_config": ADS,
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER}}],
            },
        },
        "static_resources": {"clusters": _clusters(options), "listeners": _listeners(options)},
        "stats_config": _stats(options),
        **_stats_intervals(options),
        "layered_runtime": {"layers": [{"name": "global", "static_layer": _runtime(options)}, _ADMIN_LAYER]},
        "overload_manager": {"resource_monitors": [_CONNECTION_LIMIT]},
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
    }
    if mark:
        option = {"level": 1, "name": 36, "int_value": PROXY_ID, "state": "STATE_PREBIND", "description": "SO_MARK"}
        document["cluster_manager"] = {"upstream_bind_config": {"socket_options": [option]}}
    return document


def service_name(options: Options) -> str:
    """The name of the workload in its traces, as `serviceCluster` or `tracingServiceName` of its ProxyConfig asks."""
    asked = str(options.proxy.get("serviceCluster") or "")
    if asked not in ("", "istio-proxy"):
        return asked
    workload = str(options.metadata.get("WORKLOAD_NAME") or options.pod)
    canonical = next((found for label in _CANONICAL if (found := options.labels.get(label))), workload)
    match options.proxy.get("tracingServiceName"):
        case "CANONICAL_NAME_ONLY":
            return canonical
        case "CANONICAL_NAME_AND_NAMESPACE":
            return f"{canonical}.{options.namespace}"
        case _:
            return f"{options.labels.get('app') or workload}.{options.namespace}"


_CANONICAL = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
_ADMIN_LAYER = {"name": "admin", "admin_layer": {}}
_CONNECTION_LIMIT = {
    "name": "envoy.resource_monitors.global_downstream_max_connections",
    "typed_config": {
        "@type": TYPE + "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections": 2147483647,
    },
}


def _runtime(options: Options) -> dict[str, Any]:
    return {
        "re2.max_program_size.error_level": "32768",
        **(options.proxy.get("runtimeValues") or {}),
    }


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _typed(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"@type": TYPE + name, **fields}


def _load(name: str, address: Mapping[str, Any]) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": address}}
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}


_HTTP2 = {HTTP_OPTIONS: _typed(HTTP_OPTIONS, {"explicit_http_config": {"http2_protocol_options": {}}})}


def _clusters(options: Options) -> list[dict[str, Any]]:
    agent = {
        "name": AGENT_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "0.25s",
        "load_assignment": _load(AGENT_CLUSTER, _address("127.0.0.1", options.status_port)),
    }
    secrets = {
        "name": SDS_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": _HTTP2,
        "load_assignment": _load(SDS_CLUSTER, {"pipe": {"path": str(options.sds_socket)}}),
    }
    return [agent, secrets, _xds_cluster(options)]


def _xds_cluster(options: Options) -> dict[str, Any]:
    host, port = split_address(options.discovery_address)
    cluster = {
        "name": XDS_CLUSTER,
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "dns_refresh_rate": "5s",
        "respect_dns_ttl": True,
        "connect_timeout": "1s",
        "typed_extension_protocol_options": _HTTP2,
        "load_assignment": _load(XDS_CLUSTER, _address(host, port)),
        "circuit_breakers": {
            "thresholds": [
                {"priority": p, "max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}
                for p in ("DEFAULT", "HIGH")
            ]
        },
        "upstream_connection_options": {"tcp_keepalive": {"keepalive_time": 300}},
        "max_requests_per_connection": 1,
    }
    if options.proxy.get("controlPlaneAuthPolicy") == "NONE":
        return cluster
    tls = {
        "sni": host,
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "alpn_protocols": ["h2"],
            "tls_certificate_sds_secret_configs": [_sds("default")],
            "combined_validation_context": {
                "default_validation_context": {
                    "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": host}}]
                },
                "validation_context_sds_secret_config": _sds("ROOTCA"),
            },
        },
    }
    name = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    return cluster | {"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": _typed(name, tls)}}


def _sds(name: str) -> dict[str, Any]:
    service = {"envoy_grpc": {"cluster_name": SDS_CLUSTER}}
    source = {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [service],
    }
    # To the letter what the control plane's clusters say: then Envoy shares the secrets and lists each once.
    return {
        "name": name,
        "sds_config": {
            "api_config_source": source,
            "resource_api_version": "V3",
            "initial_fetch_timeout": "0s",
        },
    }


def _listeners(options: Options) -> list[dict[str, Any]]:
    return [
        _listener(EVERY, options.ready_port, "/healthz/ready", AGENT_CLUSTER, "agent"),
    ]


def _listener(host: str, port: int, prefix: str, cluster: str, stat_prefix: str) -> dict[str, Any]:
    """A listener that serves one path of one local cluster and nothing else."""
    router = _typed("envoy.extensions.filters.http.router.v3.Router", {})
    manager = _typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        {
            "codec_type": "AUTO",
            "stat_prefix": stat_prefix,
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "backend",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": prefix}, "route": {"cluster": cluster}}],
                    }
                ]
            },
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        },
    )
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {"address": _address(host, port), "filter_chains": [{"filters": filters}]}


def _stats_intervals(options: Options) -> dict[str, str]:
    """How often histograms are merged, and after how long series that nobody used are forgotten: once to twice this."""
    flush = _annotated(options, "statsFlushInterval", FLUSH_SECONDS)
    eviction = _annotated(options, "statsEvictionInterval", EVICTION_SECONDS)
    if flush <= 0:
        log.warning("annotation sidecar.istio.io/statsFlushInterval must be more than 0s; %gs holds", FLUSH_SECONDS)
        flush = FLUSH_SECONDS
    # Envoy wants a multiple.
    rounded = math.ceil(round(eviction / flush, 6)) * flush
    if eviction not in (rounded, EVICTION_SECONDS):
        log.warning(
            "annotation sidecar.istio.io/statsEvictionInterval must be a multiple of the flush interval %gs; %gs holds",
            flush,
            rounded,
        )
    made = {"stats_flush_interval": f"{flush:g}s"}
    return made | {"stats_eviction_interval": f"{rounded:g}s"} if rounded else made


def _annotated(options: Options, name: str, default: float) -> float:
    """Seconds of an annotation; one that is no duration is told and has no effect."""
    annotation = f"sidecar.istio.io/{name}"
    try:
        return seconds(options.annotations.get(annotation) or f"{default}s", f"annotation {annotation}")
    except AgentError as error:
        log.warning("%s; %gs holds", error, default)
        return default


def _stats(options: Options) -> dict[str, Any]:
    matcher = options.proxy.get("proxyStatsMatcher") or {}

    def listed(defaults: tuple[str, ...], field: str, annotation: str) -> list[str]:
        own = options.annotations.get(f"sidecar.istio.io/{annotation}", "").split(",")
        found = [*defaults, *(matcher.get(field) or ()), *(one.strip() for one in own if one.strip())]
        return [one.replace("{pod_ip}", options.ip) for one in found]

    prefixes = listed(STAT_PREFIXES, "inclusionPrefixes", "statsInclusionPrefixes")
    suffixes = listed(STAT_SUFFIXES, "inclusionSuffixes", "statsInclusionSuffixes")
    regexes = listed(STAT_REGEXES, "inclusionRegexps", "statsInclusionRegexps")
    patterns: list[dict[str, Any]] = [{"prefix": one} for one in dict.fromkeys(prefixes)]
    patterns += [{"suffix": one} for one in dict.fromkeys(suffixes)]
    patterns += [{"safe_regex": {"regex": one}} for one in dict.fromkeys(regexes)]
    tags = [{"tag_name": name, "regex": regex} for name, regex in STAT_TAGS.items()]
    return {
        "use_all_default_tags": False,
        "stats_tags": tags,
        "stats_matcher": {"inclusion_list": {"patterns": patterns}},
        "histogram_bucket_settings": _histogram_buckets(options),
    }


def _histogram_buckets(options: Options) -> list[dict[str, Any]]:
    """Of the annotation `{prefix: [bound, …]}`. With Istio's Envoy the names of standard metrics begin with
    `istiocustom`, with ours they begin with `istio`."""
    annotation = "sidecar.istio.io/statsHistogramBuckets"
    if not (text := options.annotations.get(annotation)):
        return []
    try:
        return [
            {
                "match": {"prefix": prefix.replace("istiocustom", "istio")},
                "buckets": sorted({float(bound) for bound in bounds}),
            }
            for prefix, bounds in sorted(json.loads(text).items())
        ]
    except (ValueError, TypeError, AttributeError):
        log.warning('annotation %s has no effect: it must be like {"istiocustom": [1, 5, 10]}', annotation)
        return []
