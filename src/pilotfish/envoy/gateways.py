"""Gateways: servers become listeners and filter chains, the VirtualServices bound to them become routes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pilotfish.api.networking.gateway import Server, ServerTLSMode
from pilotfish.engine import Db, query
from pilotfish.envoy import authorization, clusters, endpoints, jwt, resource, routes, tcp, tls, traffic_policy
from pilotfish.envoy.access_log import listener_loggers
from pilotfish.envoy.http import Side, manager, rds
from pilotfish.envoy.listeners import chain, listener, tls_inspector
from pilotfish.envoy.outbound_listeners import Address, Chain, both_families, virtual_service_chains
from pilotfish.envoy.proto import Fields, extension
from pilotfish.envoy.resource import CLUSTER, Resource
from pilotfish.envoy.routes import Caller, is_catch_all
from pilotfish.envoy.values import cidr, config_path, metadata, number, seconds
from pilotfish.envoy.virtual_hosts import assemble, counts_attempts, finished
from pilotfish.mesh import destination_rules, names, services, virtual_services, visibility
from pilotfish.mesh.config import mesh, trust_domains
from pilotfish.mesh.gateways import Bound, Merged, hosts, is_https, merged, server, shared, terminates_tls
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.ports import Protocol
from pilotfish.mesh.proxies import View, proxy_config
from pilotfish.mesh.services import Resolution


def _merged(db: Db, view: View) -> tuple[Merged, ...]:
    unprivileged = view.flag("UNPRIVILEGED_POD") == "true"
    return merged(db, view.namespace, view.labels, view.named_ports, unprivileged)


def http_route_name(one: Merged) -> str:
    return f"http.{one.port}" + (f".{one.bind}" if one.bind else "")


def https_route_name(bound: Bound, spec: Server) -> str:
    name = f"https.{spec.port.number}.{spec.port.name}.{bound.gateway.name}.{bound.gateway.namespace}"
    return name + (f".{bound.bind}" if bound.bind else "")


# Listeners


@query
def listeners(db: Db, view: View) -> Mapping[str, Address]:
    found: dict[str, Address] = {}
    for one in _merged(db, view):
        bind = one.bind or view.wildcard
        name = bind if bind.startswith("unix://") else f"{bind}_{one.port}"
        if has_chains(db, view, one):
            found[name] = (gateway_listener, (view, one, name))
    return found


@query
def has_chains(db: Db, view: View, one: Merged) -> bool:
    """Whether anything is served: a port on which only routes are missing has no chains, and Envoy wants one."""
    return one.protocol is Protocol.HTTP or any(
        True for bound in one.servers for _ in _server_chains(db, view, bound, build=False)
    )


@query
def gateway_listener(db: Db, view: View, one: Merged, name: str) -> Resource:
    bind = one.bind or view.wildcard
    if one.protocol is Protocol.HTTP:
        first = server(db, one.servers[0])
        prefix = first.name if first is not None and first.name else f"outbound_{name};"
        chains = [chain("", [_manager(db, view, prefix, http_route_name(one), one.servers[0])])]
    else:
        chains = [c for bound in one.servers for c in _server_chains(db, view, bound)]
    filters = []
    topology = proxy_config(db, view).gateway_topology
    if topology is not None and topology.proxy_protocol is not None:
        filters.append(
            extension(
                "envoy.filters.listener.proxy_protocol",
                "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
            )
        )
    if one.protocol is Protocol.TLS:
        filters.append(tls_inspector())
    more = both_families(view, one.port) if not one.bind else {}
    return listener(
        name,
        bind,
        one.port,
        chains,
        inbound=False,
        bound=True,
        listener_filters=filters,
        timeout=None,
        access_log=listener_loggers(db, view, False),
        more=more,
    )


def _manager(db: Db, view: View, prefix: str, route: str, bound: Bound) -> Fields:
    spec = server(db, bound)
    policies = [*authorization.custom_http(db, view), *jwt.filters(db, view), *authorization.http(db, view)]
    protocol = Protocol.GRPC_WEB if spec is not None and spec.port.protocol.lower() == "grpc-web" else Protocol.HTTP
    return manager(db, view, Side.GATEWAY, prefix, rds(route), filters=policies, protocol=protocol)


def _server_chains(db: Db, view: View, bound: Bound, *, build: bool = True) -> Iterator[Fields]:
    """The filter chains of one server that is not plain HTTP. Without `build` only whether there are any."""
    spec = server(db, bound)
    if spec is None:
        return
    path = config_path("Gateway", bound.gateway.namespace, bound.gateway.name)
    source = {"metadata": metadata(istio={"config": path})}
    sni = [h for h in hosts(spec) if h != "*"] if "*" not in hosts(spec) else []
    match: Fields = {"server_names": sni} if sni else {}
    if is_https(spec) and spec.tls is not None:
        if not build:
            yield {}
            return
        socket = tls.gateway_server(spec.tls, trust_domains(db), mesh(db).mesh_mtls, alpn=("h2", "http/1.1"))
        prefix = spec.name or f"outbound_{view.wildcard}_{bound.port};"
        http = _manager(db, view, prefix, https_route_name(bound, spec), bound)
        yield chain("", [http], match, transport_socket=socket, transport_socket_connect_timeout=seconds(15), **source)
        return
    if spec.tls is not None and spec.tls.mode is ServerTLSMode.AUTO_PASSTHROUGH:
        yield from _auto_passthrough(db, view, spec, build=build)
        return
    terminated = terminates_tls(spec)
    for one in _tcp_routes(db, view, bound, spec):
        if not build:
            yield {}
            continue
        more: Fields = dict(source)
        mine: Fields = {}
        if terminated and spec.tls is not None:
            domains, defaults = trust_domains(db), mesh(db).mesh_mtls
            more["transport_socket"] = tls.gateway_server(spec.tls, domains, defaults, alpn=("h2", "http/1.1"))
            more["transport_socket_connect_timeout"] = seconds(15)
            mine = dict(match)
        elif one.server_names:
            mine["server_names"] = [h for h in one.server_names if h != "*"]
            mine = {k: v for k, v in mine.items() if v}
        if one.ranges:
            mine["prefix_ranges"] = [cidr(r) for r in one.ranges]
        policy = destination_rules.tcp_policy(db, one.refs, one.subset)
        network = [
            *authorization.custom_tcp(db, view),
            *authorization.tcp(db, view),
            *tcp.filters(db, view, one.stat_prefix, one.targets, policy=policy),
        ]
        yield chain("", network, mine, **more)


def _tcp_routes(db: Db, view: View, bound: Bound, spec: Server) -> Iterator[Chain]:
    """The tls or tcp rules of the VirtualServices bound to a server, by its gateway and hosts."""
    caller = Caller.of(db, view, [bound.name])
    passthrough = spec.tls is not None and spec.tls.mode is ServerTLSMode.PASSTHROUGH
    taken: set[object] = set()
    for head in virtual_services.at_gateway(db, bound.name, view.namespace):
        if not any(shared(spec, bound.gateway.namespace, head.namespace, h) for h in head.hosts):
            continue
        for one in virtual_service_chains(db, caller, head.ref, spec.port.number, passthrough):
            if passthrough and one.server_names:
                # only names the server is for
                sni = tuple(n for n in one.server_names if shared(spec, bound.gateway.namespace, head.namespace, n))
                one = one._replace(server_names=sni)  # noqa: PLW2901  a narrower copy
                if not sni:
                    continue
            elif passthrough:
                one = one._replace(server_names=hosts(spec))  # noqa: PLW2901  tcp rules: whatever the server takes
            if one.match not in taken:
                taken.add(one.match)
                yield one


def _auto_passthrough(db: Db, view: View, spec: Server, *, build: bool) -> Iterator[Fields]:
    """A chain for every cluster of the mesh, told by the SNI a mesh client uses for it."""
    patterns = hosts(spec)
    for one in _passthrough_clusters(db, view):
        if any(names.matches(p, one.host) or p == "*" for p in patterns):
            if build:
                name = clusters.dns_san(one.port, one.subset, one.host)
                yield chain(
                    "",
                    tcp.filters(db, view, name, [(name, 1)]),
                    {"server_names": [name], "application_protocols": [*tls.MESH_ANY]},
                )
            else:
                yield {}


class _SniCluster(NamedTuple):
    namespace: str
    host: str
    port: int
    subset: str
    refs: tuple[Ref, ...]


def _passthrough_clusters(db: Db, view: View) -> Iterator[_SniCluster]:
    caller = Caller.of(db, view)
    for one in visibility.egress(db, caller.scope):
        for imported in one.services:
            found = services.service(db, *imported.key)
            if found is None or found.external or found.resolution is not Resolution.ENDPOINTS:
                continue
            refs = routes.rules_for(db, caller, imported.key)
            subsets = ("", *(s.name for s in destination_rules.merged(db, refs).subsets))
            for port in found.ports:
                if port.protocol is not Protocol.UDP:
                    for subset in subsets:
                        yield _SniCluster(found.namespace, found.host, port.number, subset, refs)


def _is_auto_passthrough(db: Db, view: View) -> bool:
    specs = (server(db, b) for m in _merged(db, view) for b in m.servers)
    return any(s is not None and s.tls is not None and s.tls.mode is ServerTLSMode.AUTO_PASSTHROUGH for s in specs)


@query
def extra_clusters(db: Db, view: View) -> Mapping[str, Address]:
    """Clusters by SNI, for gateways that pass mesh TLS on untouched."""
    if not _is_auto_passthrough(db, view):
        return {}
    return {clusters.dns_san(c.port, c.subset, c.host): (sni_cluster, (c,)) for c in _passthrough_clusters(db, view)}


@query
def sni_cluster(db: Db, one: _SniCluster) -> Resource:
    name = clusters.dns_san(one.port, one.subset, one.host)
    policy = destination_rules.policy(db, one.refs, one.subset, one.port)
    fields: Fields = {
        "name": name,
        "alt_stat_name": f"{name};",
        "type": "EDS",
        **traffic_policy.load_balancer(policy.load_balancer),
        **traffic_policy.connection(policy, mesh(db)),
        "circuit_breakers": traffic_policy.circuit_breakers(policy),
        "common_lb_config": {"healthy_panic_threshold": number(0)},
        "eds_cluster_config": {"service_name": name, "eds_config": {"ads": {}, "resource_api_version": "V3"}},
    }
    outlier = traffic_policy.outlier_detection(policy.outlier_detection)
    if outlier is not None:
        fields["outlier_detection"] = outlier
    return resource.build(CLUSTER, fields)


@query
def extra_endpoints(db: Db, view: View) -> Mapping[str, Address]:
    shared = view.shared
    if not _is_auto_passthrough(db, shared):
        return {}
    found: dict[str, Address] = {}
    for c in _passthrough_clusters(db, shared):
        key = services.ServiceKey(c.namespace, c.host)
        where = endpoints.depends(db, key, c.port, c.subset, c.refs).of(endpoints.Where.at(view))
        name = clusters.dns_san(c.port, c.subset, c.host)
        found[name] = (endpoints.assignment, (where, name, key, c.port, c.subset, c.refs))
    return found


# Routes


class _Served(NamedTuple):
    """A host on a route configuration: which VirtualServices route it, for which server."""

    host: str
    port: int
    """The server's port: routes match on it, and it is in the virtual host's name."""
    gateway: str
    refs: tuple[Ref, ...]
    redirect: bool
    """Plain HTTP is sent to HTTPS."""


@query
def route_configurations(db: Db, view: View) -> Mapping[str, Address]:
    attempts = counts_attempts(db, view)
    found: dict[str, Address] = {}
    for one in _merged(db, view):
        if one.protocol is Protocol.HTTP:
            found[http_route_name(one)] = (gateway_routes, (view, http_route_name(one), one.servers, attempts))
        elif one.protocol is Protocol.TLS:
            for bound in one.servers:
                spec = server(db, bound)
                if spec is not None and is_https(spec):
                    name = https_route_name(bound, spec)
                    found[name] = (gateway_routes, (view, name, (bound,), attempts))
    return found


@query
def served(db: Db, namespace: str, bounds: tuple[Bound, ...]) -> tuple[_Served, ...]:
    """The hosts of the servers that share a route configuration, in order."""
    found: dict[tuple[str, str, int], _Served] = {}
    by_host: dict[str, list[tuple[str, str, int]]] = {}
    for bound in bounds:
        spec = server(db, bound)
        if spec is None:
            continue
        redirect = spec.tls is not None and spec.tls.https_redirect
        for head in virtual_services.at_gateway(db, bound.name, namespace):
            common = (h for host in head.hosts for h in shared(spec, bound.gateway.namespace, head.namespace, host))
            for both in dict.fromkeys(common):
                key = (both, bound.name, spec.port.number)
                there = found.get(key)
                if there is None:
                    found[key] = _Served(both, spec.port.number, bound.name, (head.ref,), redirect)
                    by_host.setdefault(both, []).append(key)
                elif head.ref not in there.refs:
                    found[key] = there._replace(refs=(*there.refs, head.ref), redirect=there.redirect or redirect)
        if redirect:
            for host in hosts(spec):
                key = (host, bound.name, spec.port.number)
                if host not in by_host:
                    found[key] = _Served(host, spec.port.number, bound.name, (), True)
                    by_host[host] = [key]
    return tuple(found.values())


@query
def gateway_virtual_host(db: Db, view: View, host: str, parts: tuple[_Served, ...], attempts: bool) -> bytes | None:
    """A virtual host: the routes of every VirtualService for it, those that catch everything last."""
    made: list[Fields] = []
    for part in parts:
        caller = Caller.of(db, view, [part.gateway])
        for ref in part.refs:
            made += routes.virtual_service_routes(db, caller, ref, part.port)
    redirect = any(p.redirect for p in parts)
    if not made and not redirect:
        return None
    made = [r for r in made if not is_catch_all(r)] + [r for r in made if is_catch_all(r)]
    fields: Fields = {"name": f"{host}:{parts[0].port}", "domains": [host], "routes": made}
    if attempts:
        fields["include_request_attempt_count"] = True
    if redirect:
        fields["require_tls"] = "ALL"
    return finished(fields)


@query
def gateway_routes(db: Db, view: View, name: str, bounds: tuple[Bound, ...], attempts: bool) -> Resource:
    by_host: dict[str, list[_Served]] = {}
    for one in served(db, view.namespace, bounds):
        by_host.setdefault(one.host, []).append(one)
    made = (gateway_virtual_host(db, view, host, tuple(parts), attempts) for host, parts in by_host.items())
    result = [m for m in made if m is not None]
    if not result:
        spec = server(db, bounds[0])
        port = spec.port.number if spec is not None else bounds[0].port
        result = [finished({"name": f"blackhole:{port}", "domains": ["*"]})]
    return assemble(name, result)
