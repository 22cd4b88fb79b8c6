"""Tracing: the provider and its sampling, inside each HTTP connection manager so that it changes without a restart."""

from __future__ import annotations

from typing import Any

import msgspec

from pilotfish.api.mesh import ExtensionProvider
from pilotfish.api.telemetry import CustomTag, Tracing
from pilotfish.engine import Db, query
from pilotfish.envoy.proto import Fields, extension
from pilotfish.envoy.resource import CLUSTER, Resource, build
from pilotfish.envoy.values import FALSE, address, duration, number, seconds
from pilotfish.mesh import telemetry, workloads
from pilotfish.mesh.config import mesh, provider
from pilotfish.mesh.proxies import View, proxy_config

ZIPKIN = "zipkin"
"""The cluster of a collector that is named in a proxy's settings."""

_ZIPKIN = "envoy.config.trace.v3.ZipkinConfig"


@query
def tracing(db: Db, view: View, inbound: bool) -> Fields | None:
    """HttpConnectionManager.tracing; None where nothing is traced."""
    config = mesh(db)
    if not config.enable_tracing:
        return None
    entries = [
        e
        for e in telemetry.tracing(db, view.namespace, view.labels)
        if e.match is None or e.match.mode.value in ("CLIENT_AND_SERVER", "SERVER" if inbound else "CLIENT")
    ]
    entry = _merge(entries)
    if entry.disable_span_reporting:
        return None
    settings = proxy_config(db, view).tracing
    names = [p.name for p in entry.providers] or list(config.default_providers.tracing)
    made = None
    if names:
        found = provider(db, names[0])
        made = _provider(db, found, view) if found is not None else None
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
        "custom_tags": _tags(view, entry),
        "provider": made,
    }
    if settings is not None and settings.max_path_tag_length:
        fields["max_path_tag_length"] = number(settings.max_path_tag_length)
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
    if (zipkin := found.zipkin) is not None:
        cluster = telemetry.provider_cluster(db, zipkin.service, zipkin.port)
        host = zipkin.service.rpartition("/")[2]
        return _zipkin(cluster, host, zipkin.path, short=zipkin.enable_64bit_trace_id) if cluster else None
    if (otel := found.opentelemetry) is not None:
        cluster = telemetry.provider_cluster(db, otel.service, otel.port)
        if cluster is None:
            return None
        fields: Fields = {
            "service_name": f"{workloads.canonical_name(dict(view.labels), view.workload)}.{view.namespace}"
        }
        if otel.http is not None:
            fields["http_service"] = {
                "http_uri": {
                    "uri": f"http://{otel.service.rpartition('/')[2]}:{otel.port}{otel.http.path}",
                    "cluster": cluster,
                    "timeout": {"seconds": 10},
                }
            }
        else:
            fields["grpc_service"] = {"envoy_grpc": {"cluster_name": cluster}}
        return extension("envoy.tracers.opentelemetry", "envoy.config.trace.v3.OpenTelemetryConfig", fields)
    return None


def _zipkin(cluster: str, host: str, path: str = "", *, short: bool = False) -> Fields:
    return extension(
        "envoy.tracers.zipkin",
        _ZIPKIN,
        {
            "collector_cluster": cluster,
            "collector_endpoint": path or "/api/v2/spans",
            "collector_endpoint_version": "HTTP_JSON",
            "collector_hostname": host,
            "trace_id_128bit": not short,
            "shared_span_context": FALSE,
        },
    )


def _tags(view: View, entry: Tracing) -> list[Fields]:
    labels = dict(view.labels)
    tags: dict[str, Fields] = {}
    if entry.enable_istio_tags is not False:
        for name, value in (
            ("istio.canonical_revision", workloads.canonical_revision(labels)),
            ("istio.canonical_service", workloads.canonical_name(labels, view.workload)),
            ("istio.cluster_id", view.cluster),
            ("istio.mesh_id", view.mesh_id or "unknown"),
            ("istio.namespace", view.namespace),
        ):
            tags[name] = {"literal": {"value": value}}
    for name, tag in entry.custom_tags.items():
        if (made := _custom(tag)) is not None:
            tags[name] = made
    return [{"tag": name, **tag} for name, tag in sorted(tags.items())]


def _custom(tag: CustomTag) -> Fields | None:
    if tag.literal is not None:
        return {"literal": {"value": tag.literal.value}}
    if tag.environment is not None:
        return {"environment": {"name": tag.environment.name, "default_value": tag.environment.default_value}}
    if tag.header is not None:
        return {"request_header": {"name": tag.header.name, "default_value": tag.header.default_value}}
    return {"value": tag.formatter.value} if tag.formatter is not None else None
