"""The inbound side of sidecars: the capturing listener with its filter chains, and the clusters to the application.

A port's chains follow from two things: what it speaks (HTTP, TCP, or not said) and what PeerAuthentication demands.
Envoy's chain matching does not backtrack, so a client's own TLS on a permissive TCP port needs a chain of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pilotfish.api import networking
from pilotfish.api.mesh import InboundMode
from pilotfish.api.networking.destination_rule import ConnectionPoolSettings, TrafficPolicy
from pilotfish.api.networking.sidecar import CaptureMode, IngressListener
from pilotfish.api.security import MutualTLSMode
from pilotfish.engine import Db, query
from pilotfish.envoy import authorization, clusters, jwt, tcp, tls, traffic_policy
from pilotfish.envoy.access_log import listener_loggers
from pilotfish.envoy.clusters import INBOUND_PASSTHROUGH
from pilotfish.envoy.http import Side, manager
from pilotfish.envoy.listeners import PLAIN_HTTP, chain, http_inspector, listener, tls_inspector
from pilotfish.envoy.outbound_listeners import Address, capture
from pilotfish.envoy.proto import Fields, extension, pack
from pilotfish.envoy.resource import CLUSTER, Resource, build
from pilotfish.envoy.values import (
    DAY,
    FALSE,
    ORIGINAL_DST_FILTER,
    address,
    metadata,
    number,
    seconds,
)
from pilotfish.mesh import authentication, destination_rules, inputs, services, visibility
from pilotfish.mesh.config import mesh, trust_domains
from pilotfish.mesh.ports import Protocol, named
from pilotfish.mesh.proxies import View, keeps_header_case, proxy_config, scope
from pilotfish.mesh.services import ServiceKey
from pilotfish.mesh.workloads import selects


class Port(NamedTuple):
    """One port of the workload."""

    target: int
    protocol: Protocol
    key: ServiceKey | None
    """The service it is for; None for a Sidecar's ingress entry, or a policy's port without a service."""
    number: int
    """The service's port."""
    ingress: int = -1
    """Which of the Sidecar's ingress entries."""


@query
def ports(db: Db, view: View) -> tuple[Port, ...]:
    """The ports of a workload that get chains of their own: the Sidecar's ingress, else those of its services."""
    own = visibility.sidecar(db, scope(db, view))
    if own is not None and own.ingress:
        entries = list(_ingress(db, view, own))
        return tuple({p.target: p for p in reversed(entries)}.values())[::-1]
    found: dict[int, Port] = {}
    for export in services.exports(db, view.namespace):
        service = services.service(db, export.namespace, export.host)
        if service is None or not _selects(db, service, view):
            continue
        for port in service.ports:
            if port.protocol is Protocol.UDP:
                continue
            target = dict(view.named_ports).get(port.target) if isinstance(port.target, str) else port.target
            if target is not None:
                found.setdefault(target, Port(target, port.protocol, service.key, port.number))
    return tuple(found.values())


def _ingress(db: Db, view: View, own: networking.Sidecar) -> Iterable[Port]:
    for number_, entry in enumerate(own.ingress):
        key, at = None, entry.port.number
        for export in services.exports(db, view.namespace):
            service = services.service(db, export.namespace, export.host)
            if service is not None and _selects(db, service, view):
                match = next((p for p in service.ports if entry.port.number in (p.target, p.number)), None)
                if match is not None:
                    key, at = service.key, match.number
                    break
        yield Port(entry.port.number, named(entry.port.protocol), key, at, number_)


def _selects(db: Db, service: services.Service, view: View) -> bool:
    if service.selector and selects(dict(service.selector), view.labels):
        return True
    for ref in service.entries:
        entry = inputs.SERVICE_ENTRIES(db, ref)
        selector = entry.spec.workload_selector if entry is not None else None
        if selector is not None and selector.labels and selects(selector.labels, view.labels):
            return True
    return False


def _entry(db: Db, view: View, port: Port) -> IngressListener | None:
    own = visibility.sidecar(db, scope(db, view))
    return own.ingress[port.ingress] if own is not None and 0 <= port.ingress < len(own.ingress) else None


# Listener


@query
def virtual_inbound(db: Db, view: View) -> Resource:
    """The listener captured inbound connections arrive at."""
    config = mesh(db)
    at = config.proxy_inbound_listen_port
    demand = authentication.mtls(db, view.namespace, view.labels)
    found = [p for p in ports(db, view) if not _has_own_listener(db, view, p)]
    chains = [
        chain(
            "virtualInbound-blackhole",
            tcp.filters(db, view, clusters.BLACK_HOLE, [(clusters.BLACK_HOLE, 1)], inbound=True),
            {"destination_port": number(at)},
        )
    ]
    chains += _chains(db, view, None, demand.mode)
    served = {p.target for p in found}
    for port, mode in sorted(demand.ports.items()):
        if port not in served:
            chains += _chains(db, view, Port(port, Protocol.AUTO, None, port), mode)
    for one in found:
        chains += _chains(db, view, one, demand.at(one.target))
    # ports whose chains need no look at the first bytes do not wait for them
    quiet = {at} | {p.target for p in found if p.protocol is not Protocol.AUTO}
    plain = {at} | {
        p.target for p in found if demand.at(p.target) is MutualTLSMode.DISABLE and not _own_tls(db, view, p)
    }
    plain &= quiet
    filters: list[Fields] = [ORIGINAL_DST_FILTER]
    if view.interception == "TPROXY":
        filters.append(
            extension(
                "envoy.filters.listener.original_src",
                "envoy.extensions.filters.listener.original_src.v3.OriginalSrc",
                {"mark": 1337},
            )
        )
    filters += [tls_inspector(plain), http_inspector(quiet)]
    return listener(
        "virtualInbound",
        view.wildcard,
        at,
        chains,
        inbound=True,
        bound=True,
        listener_filters=filters,
        timeout=config.protocol_detection_timeout,
        access_log=listener_loggers(db, view, True),
        more={
            "max_connections_to_accept_per_socket_event": number(1),
            **(
                {"connection_balance_config": {"exact_balance": {}}}
                if view.flag("INBOUND_LISTENER_EXACT_BALANCE") == "true"
                else {}
            ),
            **capture(view, at),
        },
    )


def _has_own_listener(db: Db, view: View, port: Port) -> bool:
    entry = _entry(db, view, port)
    return view.interception == "NONE" or (entry is not None and entry.capture_mode is CaptureMode.NONE)


@query
def bound_listener(db: Db, view: View, port: Port) -> Resource:
    """The listener of a port that is not captured: it has a socket of its own."""
    entry = _entry(db, view, port)
    bind = (entry.bind if entry is not None else "") or view.wildcard
    demand = authentication.mtls(db, view.namespace, view.labels)
    made = _chains(db, view, port, demand.at(port.target), matched=False)
    return listener(
        f"{bind}_{port.target}",
        bind,
        port.target,
        made,
        inbound=True,
        bound=True,
        listener_filters=[tls_inspector(), *([http_inspector()] if port.protocol is Protocol.AUTO else [])],
        timeout=mesh(db).protocol_detection_timeout,
        access_log=listener_loggers(db, view, True),
    )


class _Match(NamedTuple):
    """One line of the matrix: what a connection looks like, and what becomes of it."""

    http: bool
    mutual: bool
    transport: str
    alpn: tuple[str, ...] = ()


_ANY = ""
_MATRIX: Mapping[tuple[str, MutualTLSMode], tuple[_Match, ...]] = {
    ("http", MutualTLSMode.DISABLE): (_Match(True, False, "raw_buffer"),),
    ("http", MutualTLSMode.PERMISSIVE): (
        _Match(True, True, "tls", tls.MESH_ANY),
        _Match(True, False, "raw_buffer"),
    ),
    ("http", MutualTLSMode.STRICT): (_Match(True, True, "tls"),),
    ("tcp", MutualTLSMode.DISABLE): (_Match(False, False, _ANY),),  # application TLS reaches the application
    ("tcp", MutualTLSMode.PERMISSIVE): (
        _Match(False, True, "tls", tls.MESH_ANY),
        _Match(False, False, "tls"),
        _Match(False, False, "raw_buffer"),
    ),
    ("tcp", MutualTLSMode.STRICT): (_Match(False, True, "tls"),),
    ("auto", MutualTLSMode.DISABLE): (
        _Match(True, False, "raw_buffer", PLAIN_HTTP),
        _Match(False, False, _ANY),
    ),
    ("auto", MutualTLSMode.PERMISSIVE): (
        _Match(True, True, "tls", tls.MESH_HTTP),
        _Match(True, False, "raw_buffer", PLAIN_HTTP),
        _Match(False, True, "tls", tls.MESH_TCP),
        _Match(False, False, "raw_buffer"),
        _Match(False, False, "tls"),
    ),
    ("auto", MutualTLSMode.STRICT): (
        _Match(True, True, "tls", tls.MESH_HTTP),
        _Match(False, True, "tls"),
    ),
}


def _chains(db: Db, view: View, port: Port | None, mode: MutualTLSMode, *, matched: bool = True) -> list[Fields]:
    """The chains of a port; of every port without its own when `port` is None."""
    protocol = port.protocol if port is not None else Protocol.AUTO
    kind = "http" if protocol.is_http else "auto" if protocol is Protocol.AUTO else "tcp"
    config = mesh(db)
    if port is None:
        name, cluster = "virtualInbound", INBOUND_PASSTHROUGH
    else:
        name, cluster = f"{view.wildcard}_{port.target}", cluster_name(port.target)
        if not port.key and port.ingress < 0:
            cluster = INBOUND_PASSTHROUGH
    result = []
    own = _own_tls(db, view, port) if port is not None and mode is MutualTLSMode.DISABLE else None
    lines = (_Match(kind == "http", False, "tls"),) if own is not None else _MATRIX[kind, mode]
    for line in lines:
        match: Fields = {}
        if port is not None and matched:
            match["destination_port"] = number(port.target)
        if line.transport:
            match["transport_protocol"] = line.transport
        if line.alpn:
            match["application_protocols"] = list(line.alpn)
        if line.http:
            network = _http_filters(db, view, port, protocol, cluster, name)
        else:
            network = _tcp_filters(db, view, cluster, line.mutual)
        title = f"{name}-catchall-http" if port is None and line.http else name
        more: Fields = {}
        if own is not None:
            more["transport_socket"] = own
        elif line.mutual:
            more["transport_socket"] = tls.mesh_server(trust_domains(db), config.mesh_mtls)
        result.append(chain(title, network, match, **more))
    return result


def _own_tls(db: Db, view: View, port: Port) -> Fields | None:
    """A Sidecar ingress entry's own TLS, which counts where mesh mTLS is switched off."""
    entry = _entry(db, view, port)
    if entry is None or entry.tls is None:
        return None
    return tls.gateway_server(entry.tls, trust_domains(db), mesh(db).mesh_mtls, alpn=("h2", "http/1.1"))


def _http_filters(db: Db, view: View, port: Port | None, protocol: Protocol, cluster: str, name: str) -> list[Fields]:
    prefix = f"inbound_{name};" if port is not None else f"{INBOUND_PASSTHROUGH};"
    policies = [
        *authorization.custom_http(db, view),
        *jwt.filters(db, view),
        *authorization.http(db, view),
    ]
    config = {"route_config": _routes(port, protocol, cluster)}
    return [manager(db, view, Side.INBOUND, prefix, config, filters=policies, protocol=protocol)]


def _tcp_filters(db: Db, view: View, cluster: str, mutual: bool) -> list[Fields]:
    policies = [*authorization.custom_tcp(db, view), *authorization.tcp(db, view)]
    return [*policies, *tcp.filters(db, view, cluster, [(cluster, 1)], inbound=True, mutual=mutual)]


def _routes(port: Port | None, protocol: Protocol, cluster: str) -> Fields:
    action: Fields = {
        "cluster": cluster,
        "timeout": seconds(0),
        "max_stream_duration": {"max_stream_duration": seconds(0), "grpc_timeout_header_max": seconds(0)},
    }
    if not protocol.is_grpc:
        # a connection the application has just closed: nothing has been processed, so trying again is safe
        action["retry_policy"] = {"retry_on": "reset-before-request", "num_retries": number(2)}
    at = port.number if port is not None else 0
    host = port.key.host if port is not None and port.key is not None else ""
    operation = f"{host}:{at}/*" if host else ":0/*" if port is None else f":{port.target}/*"
    route: Fields = {
        "name": "default",
        "match": {"prefix": "/"},
        "route": action,
        "decorator": {"operation": operation},
    }
    return {
        "name": cluster if port is None else cluster_name(port.target),
        "virtual_hosts": [{"name": f"inbound|http|{at}", "domains": ["*"], "routes": [route]}],
        "validate_clusters": FALSE,
    }


# Clusters


def cluster_name(target: int) -> str:
    return f"inbound|{target}||"


@query
def cluster(db: Db, view: View, port: Port) -> Resource:
    """The cluster from a sidecar to its application's port."""
    config = mesh(db)
    name = cluster_name(port.target)
    policy = _policy(db, view, port)
    fields: Fields = {
        "name": name,
        "alt_stat_name": f"{name};",
        "circuit_breakers": traffic_policy.circuit_breakers(policy),
        **traffic_policy.connection(policy, config),
        "common_lb_config": {},
        "metadata": _metadata(db, port),
        **_endpoint(db, view, port),
    }
    http = policy.connection_pool.http if policy.connection_pool is not None else None
    as_it_came = http is not None and http.use_client_protocol and not port.protocol.is_tcp
    # h2UpgradePolicy is for connections between proxies: the application gets the protocol its port declares
    protocol = Protocol.AUTO if port.protocol is Protocol.AUTO or as_it_came else port.protocol
    protocol = Protocol.HTTP2 if protocol.is_http2 else protocol
    http1 = {} if port.protocol.is_tcp else clusters.http1(keeps_header_case(proxy_config(db, view)))
    if options := clusters.http_options(policy, protocol, http1):
        fields["typed_extension_protocol_options"] = {clusters.HTTP_OPTIONS: pack(clusters.HTTP_OPTIONS, options)}
    return build(CLUSTER, fields)


def _policy(db: Db, view: View, port: Port) -> TrafficPolicy:
    """Only connection limits count on this side: the ingress entry's, the Sidecar's, else the service's rule's."""
    own = visibility.sidecar(db, scope(db, view))
    entry = _entry(db, view, port)
    pool: ConnectionPoolSettings | None = entry.connection_pool if entry is not None else None
    pool = pool or (own.inbound_connection_pool if own is not None else None)
    if pool is None and port.key is not None:
        refs = clusters.rules_for(db, view, port.key)
        pool = destination_rules.policy(db, refs, "", port.number).connection_pool
    return TrafficPolicy(connection_pool=pool)


def _metadata(db: Db, port: Port) -> Fields:
    found = services.service(db, *port.key) if port.key is not None else None
    if found is None:
        return {}
    return metadata(istio=clusters.service_metadata(found))


def _endpoint(db: Db, view: View, port: Port) -> Fields:
    entry = _entry(db, view, port)
    where = entry.default_endpoint if entry is not None else ""
    if where and not where.startswith(("0.0.0.0:", "[::]:")):
        return _static(port, where)
    if mesh(db).inbound_traffic_policy.mode is InboundMode.LOCALHOST and not where:
        return _static(port, f"{view.loopback}:{port.target}")
    fields: Fields = {
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "cleanup_interval": seconds(60 * DAY),
        "upstream_bind_config": bind_config(view),
    }
    if where:  # the pod's own address, but another port than the one called
        fields["original_dst_lb_config"] = {"upstream_port_override": number(int(where.rpartition(":")[2]))}
    return fields


def _static(port: Port, where: str) -> Fields:
    if where.startswith("unix://"):
        at = address(where, 0)
    else:
        ip, _, text = where.rpartition(":")
        at = address(ip.strip("[]"), int(text))
    return {
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": cluster_name(port.target),
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at}}]}],
        },
    }


def bind_config(view: View) -> Fields:
    """The source of connections to the application: the capture rules let it through, where others would loop."""
    sources = [{"address": a, "port_value": 0} for a, on in (("127.0.0.6", view.ipv4), ("::6", view.ipv6)) if on]
    extra = {"extra_source_addresses": [{"address": a} for a in sources[1:]]} if len(sources) > 1 else {}
    return {"source_address": sources[0], **extra}


@query
def passthrough_cluster(db: Db, view: View) -> Resource:
    """Where connections to ports without a service go: to the port they were for."""
    fields = clusters.original(db, INBOUND_PASSTHROUGH, keeps_header_case(proxy_config(db, view)))
    return build(CLUSTER, {**fields, "upstream_bind_config": bind_config(view)})


@query
def sidecar_inbound(db: Db, view: View) -> Mapping[str, Address]:
    """The inbound listeners of a sidecar by name."""
    found: dict[str, Address] = {}
    if view.interception != "NONE":
        found["virtualInbound"] = (virtual_inbound, (view,))
    for port in ports(db, view):
        if _has_own_listener(db, view, port):
            entry = _entry(db, view, port)
            bind = (entry.bind if entry is not None else "") or view.wildcard
            found[f"{bind}_{port.target}"] = (bound_listener, (view, port))
    return found


@query
def sidecar_clusters(db: Db, view: View) -> Mapping[str, Address]:
    """The inbound clusters of a sidecar by name."""
    found: dict[str, Address] = {cluster_name(p.target): (cluster, (view, p)) for p in ports(db, view)}
    found[INBOUND_PASSTHROUGH] = (passthrough_cluster, (view,))
    return found
