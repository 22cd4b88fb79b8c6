"""Tracing: the provider and its sampling, inside each HTTP connection manager so that it changes without a restart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from pilotfish.api.mesh import ExtensionProvider, HttpHeader, ProxyTag, ProxyTracing, ZipkinContextOption
from pilotfish.api.telemetry import CustomTag, Tracing
from pilotfish.engine import Db, query
from pilotfish.envoy.proto import Fields, extension, pack
from pilotfish.envoy.resource import CLUSTER, Resource, build
from pilotfish.envoy.values import FALSE, address, duration, number, seconds
from pilotfish.mesh import telemetry, workloads
from pilotfish.mesh.config import mesh, provider
from pilotfish.mesh.proxies import View, proxy_config

ZIPKIN = "zipkin"
"""The cluster of a collector that is named in a proxy's settings."""

_ZIPKIN = "envoy.config.trace.v3.ZipkinConfig"


def _entry(db: Db, view: View, inbound: bool) -> Tracing:
    """What Telemetry says for one side of a workload's connections."""
    return _merge(
        [
            e
            for e in telemetry.tracing(db, view.namespace, view.labels)
            if e.match is None or e.match.mode.value in ("CLIENT_AND_SERVER", "SERVER" if inbound else "CLIENT")
        ]
    )


def manager_fields(db: Db, view: View, inbound: bool) -> Fields:
    """What of an HttpConnectionManager is about traces."""
    fields: Fields = {}
    if (traced := tracing(db, view, inbound)) is not None:
        fields["tracing"] = traced
        if chosen := telemetry.traced_requests(db, view.namespace, view.labels):
            fields["early_header_mutation_extensions"] = [_forced(chosen)]
    if _entry(db, view, inbound).use_request_id_for_trace_sampling is False:
        name = "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig"
        fields["request_id_extension"] = {"typed_config": pack(name, {"use_request_id_for_trace_sampling": FALSE})}
    return fields


def _forced(requests: tuple[telemetry.RequestHeader, ...]) -> Fields:
    """Has chosen requests traced. Headers are changed early, before Envoy decides on sampling; that the caller did not
    sample the request must not count either."""
    mutations = [
        {
            "append": {
                "header": {"key": name, "value": f"%CEL({one.expression} ? '1' : '')%"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        }
        for one in requests
        for name in ("x-envoy-force-trace", "x-b3-sampled")
    ]
    name = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return extension("envoy.http.early_header_mutation.header_mutation", name, {"mutations": mutations})


@query
def tracing(db: Db, view: View, inbound: bool) -> Fields | None:
    """HttpConnectionManager.tracing; None where nothing is traced."""
    config = mesh(db)
    if not config.enable_tracing:
        return None
    entry = _entry(db, view, inbound)
    if entry.disable_span_reporting:
        return None
    settings = proxy_config(db, view).tracing
    names = [p.name for p in entry.providers] or list(config.default_providers.tracing)
    made, longest = None, settings.max_path_tag_length if settings is not None else 0
    if names:
        found = provider(db, names[0])
        made = _provider(db, found, view) if found is not None else None
        given = (found.zipkin or found.opentelemetry or found.datadog) if found is not None else None
        longest = (given.max_tag_length if given is not None else 0) or longest
    elif (collector := own_collector(db, view)) is not None:
        made = _zipkin(ZIPKIN, collector[0])
    if made is None:
        return None
    sampling = entry.random_sampling_percentage
    if sampling is None:
        sampling = settings.sampling if settings is not None and settings.sampling is not None else 1.0
    fields: Fields = {
        "client_sampling": number(100),
        "random_sampling": number(sampling),
        "overall_sampling": number(100),
        "custom_tags": _tags(view, settings, entry),
        "provider": made,
    }
    if longest:
        fields["max_path_tag_length"] = number(longest)
    if entry.disable_context_propagation:
        fields["no_context_propagation"] = True
    return fields


def own_collector(db: Db, view: View) -> tuple[str, int] | None:
    """Host and port of the Zipkin collector that a proxy's own settings name (`tracing.zipkin.address`)."""
    settings = proxy_config(db, view).tracing
    text = settings.zipkin.address if settings is not None and settings.zipkin is not None else ""
    host, _, port = text.rpartition(":")
    return (host, int(port)) if host and port.isdigit() else (text, 9411) if text else None


@query
def zipkin_cluster(db: Db, host: str, port: int, family: str) -> Resource:
    """The cluster of that collector. Istio's bootstrap has one of this name: there, Envoy keeps its own."""
    where = {"endpoint": {"address": address(host, port)}}
    return build(
        CLUSTER,
        {
            "name": ZIPKIN,
            "alt_stat_name": f"{ZIPKIN};",
            "type": "STRICT_DNS",
            "dns_lookup_family": family,
            "dns_refresh_rate": seconds(30),
            "respect_dns_ttl": True,
            "connect_timeout": duration(mesh(db).connect_timeout),
            "load_assignment": {"cluster_name": ZIPKIN, "endpoints": [{"lb_endpoints": [where]}]},
        },
    )


def _merge(entries: list[Tracing]) -> Tracing:
    """Field by field, the later entry over the earlier."""

    result = Tracing()
    for e in entries:
        changes: dict[str, Any] = {
            name: value for name in e.__struct_fields__ if (value := getattr(e, name)) not in (None, (), {})
        }
        result = msgspec.structs.replace(result, **changes)
    return result


def _provider(db: Db, found: ExtensionProvider, view: View) -> Fields | None:
    """The tracer of a provider; None when it is none, or its service does not exist."""
    settings = found.zipkin or found.opentelemetry or found.datadog or found.skywalking
    cluster = telemetry.provider_cluster(db, settings.service, settings.port) if settings is not None else None
    if settings is None or cluster is None:
        return None
    host = settings.service.rpartition("/")[2]
    grpc: Fields = {"envoy_grpc": {"cluster_name": cluster, "authority": host}}
    service = f"{workloads.canonical_name(dict(view.labels), view.workload)}.{view.namespace}"
    if (zipkin := found.zipkin) is not None:
        both = zipkin.trace_context_option is ZipkinContextOption.USE_B3_WITH_W3C_PROPAGATION
        return _zipkin(cluster, host, zipkin.path, short=zipkin.enable_64bit_trace_id, w3c=both)
    if found.datadog is not None:
        fields: Fields = {"collector_cluster": cluster, "service_name": service, "collector_hostname": host}
        return extension("envoy.tracers.datadog", "envoy.config.trace.v3.DatadogConfig", fields)
    if (skywalking := found.skywalking) is not None:
        client: Fields = {"service_name": service, "instance_name": view.workload}
        if skywalking.access_token:
            client["backend_token"] = skywalking.access_token
        fields = {"grpc_service": grpc, "client_config": client}
        return extension("envoy.tracers.skywalking", "envoy.config.trace.v3.SkyWalkingConfig", fields)
    fields = {"service_name": service}
    given = found.opentelemetry
    if given is not None and (http := given.http) is not None:
        timeout = seconds(10) if http.timeout is None else duration(http.timeout)
        uri = {"uri": f"http://{host}:{settings.port}{http.path}", "cluster": cluster, "timeout": timeout}
        added = [{"header": one, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"} for one in _headers(http.headers)]
        fields["http_service"] = {"http_uri": uri, "request_headers_to_add": added}
    else:
        if given is not None and given.grpc is not None:
            if given.grpc.timeout is not None:
                grpc["timeout"] = duration(given.grpc.timeout)
            grpc["initial_metadata"] = _headers(given.grpc.initial_metadata)
        fields["grpc_service"] = grpc
    return extension("envoy.tracers.opentelemetry", "envoy.config.trace.v3.OpenTelemetryConfig", fields)


def _headers(found: Iterable[HttpHeader]) -> list[Fields]:
    return [{"key": one.name, "value": one.value} for one in found if one.value is not None]


def _zipkin(cluster: str, host: str, path: str = "", *, short: bool = False, w3c: bool = False) -> Fields:
    fields: Fields = {
        "collector_cluster": cluster,
        "collector_endpoint": path or "/api/v2/spans",
        "collector_endpoint_version": "HTTP_JSON",
        "collector_hostname": host,
        "trace_id_128bit": not short,
        "shared_span_context": FALSE,
    }
    if w3c:
        fields["trace_context_option"] = ZipkinContextOption.USE_B3_WITH_W3C_PROPAGATION.value
    return extension("envoy.tracers.zipkin", _ZIPKIN, fields)


def _tags(view: View, settings: ProxyTracing | None, entry: Tracing) -> list[Fields]:
    """Istio's own tags, then those of the proxy's settings, then those of Telemetry."""
    labels = dict(view.labels)
    tags: dict[str, Fields] = {}
    wanted = entry.enable_istio_tags
    if wanted is None and settings is not None:
        wanted = settings.enable_istio_tags
    if wanted is not False:
        for name, value in (
            ("istio.canonical_revision", workloads.canonical_revision(labels)),
            ("istio.canonical_service", workloads.canonical_name(labels, view.workload)),
            ("istio.cluster_id", view.cluster),
            ("istio.mesh_id", view.mesh_id or "unknown"),
            ("istio.namespace", view.namespace),
        ):
            tags[name] = {"literal": {"value": value}}
    own: dict[str, CustomTag | ProxyTag] = dict(settings.custom_tags) if settings is not None else {}
    for name, tag in {**own, **entry.custom_tags}.items():
        if (made := _custom(tag)) is not None:
            tags[name] = made
    return [{"tag": name, **tag} for name, tag in sorted(tags.items())]


def _custom(tag: CustomTag | ProxyTag) -> Fields | None:
    if tag.literal is not None:
        return {"literal": {"value": tag.literal.value}}
    if tag.environment is not None:
        return {"environment": {"name": tag.environment.name, "default_value": tag.environment.default_value}}
    if tag.header is not None:
        return {"request_header": {"name": tag.header.name, "default_value": tag.header.default_value}}
    return {"value": tag.formatter.value} if isinstance(tag, CustomTag) and tag.formatter is not None else None
