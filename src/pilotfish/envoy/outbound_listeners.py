"""Outbound listeners of sidecars: what an application's connections meet.

HTTP ports share one listener per port number on the wildcard address (the host decides, by RDS); TCP services have one
per address and port; ports of unknown protocol carry both. What several services want from the same address and port
is merged by the rules of `_Merger`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pilotfish.api.networking.virtual_service import RouteDestination
from pilotfish.engine import Db, Query, query
from pilotfish.envoy import clusters, routes, tcp
from pilotfish.envoy.access_log import listener_loggers
from pilotfish.envoy.http import Side, manager, rds
from pilotfish.envoy.listeners import PLAIN_HTTP, chain, http_inspector, listener, tls_inspector
from pilotfish.envoy.proto import Fields
from pilotfish.envoy.resource import Resource
from pilotfish.envoy.routes import Caller
from pilotfish.envoy.values import TRUE, address, cidr, config_path, metadata, number
from pilotfish.envoy.virtual_hosts import HTTP_PROXY, virtual_service_for
from pilotfish.mesh import destination_rules, endpoints, names, services, visibility
from pilotfish.mesh.config import mesh
from pilotfish.mesh.inputs import VIRTUAL_SERVICES, Ref
from pilotfish.mesh.ports import Protocol
from pilotfish.mesh.proxies import View, loopback, proxy_config, wildcard
from pilotfish.mesh.services import Port, Resolution, Service
from pilotfish.mesh.visibility import Listener
from pilotfish.mesh.workloads import selects

Address = tuple[Query[Any, Any], tuple[Any, ...]]
"""A query and its key: what to read to have a resource."""


class Chain(NamedTuple):
    """A TCP filter chain: what it matches, and where it leads."""

    targets: tuple[tuple[str, int], ...]
    """Clusters and weights."""
    stat_prefix: str
    server_names: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    refs: tuple[Ref, ...] = ()
    """Rules of the first destination, for the idle timeout and the like."""
    subset: str = ""
    source: Ref | None = None
    """The VirtualService it comes from."""

    @property
    def match(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self.server_names, self.ranges

    @property
    def matches_all(self) -> bool:
        return not self.server_names and not self.ranges


class Spec(NamedTuple):
    """Everything about an outbound listener; the key of `outbound_listener`."""

    bind: str
    port: int
    rds: str
    """Name of the route configuration; empty without HTTP."""
    chains: tuple[Chain, ...]
    bound: bool
    proxied: bool = False
    grpc_web: bool = False
    """The first HTTP service is for gRPC-Web, which is translated."""

    @property
    def name(self) -> str:
        return self.bind if self.bind.startswith("unix://") else f"{self.bind}_{self.port}"


_RESERVED = frozenset({15000, 15001, 15004, 15006, 15008, 15020, 15021, 15053, 15090})


class _Merger:
    """Listeners by address and port, as services are added in their global order.

    HTTP with HTTP: one listener, RDS merges the hosts. TCP with HTTP either way: both kinds of chains. TCP with TCP:
    chains whose match is not taken yet. MySQL and MongoDB speak first on the server's side, so they share with nothing.
    """

    def __init__(self) -> None:
        self.specs: dict[tuple[str, int], Spec] = {}
        self.exclusive: dict[tuple[str, int], Protocol] = {}
        self.locked: set[tuple[str, int]] = set()
        """Taken by an egress listener with a port of its own: catch-all listeners leave them alone."""

    def add(self, spec: Spec, protocol: Protocol) -> None:
        key = (spec.bind, spec.port)
        if key in self.locked:
            return
        there = self.specs.get(key)
        if there is None:
            self.specs[key] = spec
            self.exclusive[key] = protocol
            return
        first = self.exclusive[key]
        if protocol is not first and {protocol, first} & {Protocol.MONGO, Protocol.MYSQL}:
            return
        taken = {c.match for c in there.chains}
        self.specs[key] = there._replace(
            rds=there.rds or spec.rds, chains=there.chains + tuple(c for c in spec.chains if c.match not in taken)
        )


class Binding(NamedTuple):
    """What of a sidecar decides which outbound listeners it has."""

    caller: Caller
    ipv4: bool
    ipv6: bool
    captures: bool
    """Connections are led to it."""
    unprivileged: bool
    names: bool
    """It answers DNS, so services without an address have one."""
    proxy_port: str

    @classmethod
    def of(cls, db: Db, view: View) -> Binding:
        return cls(
            Caller.of(db, view),
            view.ipv4,
            view.ipv6,
            view.interception != "NONE",
            view.flag("UNPRIVILEGED_POD") == "true",
            view.flag("DNS_CAPTURE") == "true",
            view.flag("HTTP_PROXY_PORT"),
        )

    @property
    def wildcard(self) -> str:
        return wildcard(self.ipv4)

    @property
    def loopback(self) -> str:
        return loopback(self.ipv4)


def outbound_specs(db: Db, view: View) -> tuple[Spec, ...]:
    """The outbound listeners of a sidecar, but for the capturing one."""
    return specs(db, Binding.of(db, view))


@query
def specs(db: Db, at: Binding) -> tuple[Spec, ...]:
    """The same, for all sidecars that are alike."""
    caller = at.caller
    merger = _Merger()
    for number_, egress in enumerate(visibility.egress(db, caller.scope)):
        captured = egress.captured and at.captures
        before = set(merger.specs)
        if egress.port and (named := _dedicated(at, egress, captured)) is not None:
            merger.add(named, egress.protocol)
        for imported in (i for i in egress.services if not i.routed):
            for spec, protocol in _service_specs(db, at, number_, egress, imported, captured):
                merger.add(spec, protocol)
        if egress.port:
            merger.locked |= set(merger.specs) - before
    found = [s for s in merger.specs.values() if not s.bound or _may_bind(at, s)]
    proxy_port = int(at.proxy_port) if at.proxy_port.isdigit() else mesh(db).proxy_http_port
    if proxy_port:
        found.append(Spec(at.loopback, proxy_port, HTTP_PROXY, (), bound=True, proxied=True))
    return tuple(found)


def _may_bind(at: Binding, spec: Spec) -> bool:
    return spec.port not in _RESERVED and not (spec.port < 1024 and at.unprivileged)


def _dedicated(at: Binding, egress: Listener, captured: bool) -> Spec | None:
    """The listener of an egress entry with an HTTP port: it is there whether or not a service uses it."""
    if not egress.protocol.is_http:
        return None
    bind = egress.bind or (at.wildcard if captured else at.loopback)
    name = bind if bind.startswith("unix://") else str(egress.port)
    return Spec(bind, egress.port, name, (), bound=not captured)


def _service_specs(
    db: Db,
    at: Binding,
    number_: int,
    egress: Listener,
    imported: visibility.Imported,
    captured: bool,
) -> Iterable[tuple[Spec, Protocol]]:
    # only what listeners are made of: endpoints and the like change without touching them
    found = services.service(db, *imported.key)
    if found is None or found.resolution is Resolution.ALIAS:
        return
    for port in found.ports:
        if port.protocol is Protocol.UDP or (imported.ports and port.number not in imported.ports):
            continue
        if egress.port and port.number != egress.port:
            continue
        for bind in _binds(db, at, found, port, egress, captured):
            http = port.protocol.is_http or port.protocol is Protocol.AUTO
            wild = bind == (at.wildcard if captured else at.loopback)
            name = ""
            if http:
                name = str(port.number) if port.protocol.is_http or wild else f"{found.host}:{port.number}"
            chains = () if port.protocol.is_http else _chains(db, at.caller, number_, found, port, wild=wild)
            ranges = tuple(a for a in found.addresses if names.is_cidr(a))
            if ranges and not port.protocol.is_http and wild:
                chains = tuple(c._replace(ranges=c.ranges or ranges) for c in chains)
            web = port.protocol is Protocol.GRPC_WEB
            yield Spec(bind, port.number, name, chains, bound=not captured, grpc_web=web), port.protocol


def _binds(db: Db, at: Binding, found: Service, port: Port, egress: Listener, captured: bool) -> tuple[str, ...]:
    """The addresses a service port is listened for on."""
    if egress.bind:
        return (egress.bind,)
    if not captured:
        return (at.loopback,)
    if port.protocol.is_http:
        return (at.wildcard,)
    if found.headless and found.kubernetes:
        found_at = endpoints.endpoints(db, found.namespace, found.host, port.number)
        own = [e.address for e in found_at if (":" in e.address) == (not at.ipv4)]
        return tuple(dict.fromkeys(own)) or (at.wildcard,)
    addresses = found.addresses
    if not addresses and at.names:
        addresses = found.auto_addresses
    usable = tuple(a for a in addresses if not names.is_cidr(a) and (at.ipv6 if ":" in a else at.ipv4))
    if any(names.is_cidr(a) for a in addresses):
        return (*usable, at.wildcard)
    return usable or (at.wildcard,)


def _chains(db: Db, caller: Caller, number_: int, found: Service, port: Port, *, wild: bool) -> tuple[Chain, ...]:
    """The TCP chains of a service port: its VirtualService's, else one to the service itself."""
    ref = virtual_service_for(db, caller.scope, number_, found.host)
    result: list[Chain] = []
    if ref is not None:
        result = list(virtual_service_chains(db, caller, ref, port.number, port.protocol.is_tls))
        if any(c.matches_all for c in result):
            return tuple(result)
    to = routes.target(db, caller, found.host, "", port.number, port.number)
    sni: tuple[str, ...] = ()
    if port.protocol.is_tls and wild:
        if any(found.host in c.server_names for c in result):
            return tuple(result)
        sni = (found.host, *found.aliases)
    result.append(Chain(((to.cluster, 1),), to.cluster, sni, (), to.refs))
    return tuple(result)


@query
def virtual_service_chains(db: Db, caller: Caller, ref: Ref, port: int, tls: bool) -> tuple[Chain, ...]:
    """A VirtualService's tls and tcp rules as chains for one port, up to the first that matches all."""
    config = VIRTUAL_SERVICES(db, ref)
    if config is None:
        return ()
    bound = config.spec.gateways or ("mesh",)
    result: list[Chain] = []
    seen: set[str] = set()
    for rule in config.spec.tls if tls else ():
        for match in rule.match:
            if _applies(match, bound, caller, port):
                sni = tuple(h.lower() for h in match.sni_hosts if h.lower() not in seen)
                seen.update(sni)  # a server name on one port belongs to the first rule that names it
                if sni:
                    result.append(_chain(db, caller, ref, rule.route, port, sni, match.destination_subnets))
    for plain in config.spec.tcp:
        for one in plain.match or (None,):
            if one is None or _applies(one, bound, caller, port):
                subnets = one.destination_subnets if one is not None else ()
                result.append(_chain(db, caller, ref, plain.route, port, (), subnets))
                if not subnets:
                    return tuple(result)
    return tuple(result)


def _applies(match: Any, bound: Iterable[str], caller: Caller, port: int) -> bool:
    gateways = match.gateways or bound
    if not caller.gateways & set(gateways) or (match.port and match.port != port):
        return False
    if caller.gateway:
        return True
    if match.source_namespace and match.source_namespace != caller.namespace:
        return False
    return selects(match.source_labels, caller.labels)


def _chain(
    db: Db,
    caller: Caller,
    ref: Ref,
    weighted: tuple[RouteDestination, ...],
    port: int,
    sni: tuple[str, ...],
    subnets: tuple[str, ...],
) -> Chain:
    chosen = [r for r in weighted if r.weight > 0] if len(weighted) > 1 else list(weighted)
    targets = []
    first = None
    for one in chosen:
        d = one.destination
        to = routes.target(db, caller, d.host, d.subset, d.port.number if d.port else 0, port)
        first = first or (to, d.subset)
        targets.append((to.cluster, one.weight or 1))
    prefix = targets[0][0] if len(targets) == 1 else f"{ref.name}.{ref.namespace}"
    rules, subset = (first[0].refs, first[1]) if first else ((), "")
    return Chain(tuple(targets), prefix, sni, subnets, rules, subset, ref)


# Building


@query
def outbound_listener(db: Db, view: View, spec: Spec) -> Resource:
    chains: list[Fields] = []
    default: Fields | None = None
    config = mesh(db)
    if spec.rds:
        late = [clusters.dynamic_filter(db, view)] if clusters.has_dynamic(db, Caller.of(db, view).scope) else []
        protocol = Protocol.GRPC_WEB if spec.grpc_web else Protocol.HTTP
        http = manager(
            db,
            view,
            Side.OUTBOUND,
            f"outbound_{spec.name};",
            rds(spec.rds),
            protocol=protocol,
            proxied=spec.proxied,
            late=late,
        )
        match = {} if spec.proxied else {"transport_protocol": "raw_buffer", "application_protocols": list(PLAIN_HTTP)}
        chains.append(chain("", [http], match))
    for one in spec.chains:
        made = _tcp_chain(db, view, one)
        if one.matches_all:
            default = made
        else:
            chains.append(made)
    if spec.proxied:
        return listener(
            spec.name,
            spec.bind,
            spec.port,
            chains,
            inbound=False,
            bound=True,
            access_log=listener_loggers(db, view, False),
        )
    if default is None:
        default = passthrough_chain(db, view)
    elif not chains:
        chains, default = [default], None
    inspectors = [tls_inspector()] if any(c.server_names for c in spec.chains) else []
    if spec.rds:
        inspectors.append(http_inspector())
    return listener(
        spec.name,
        spec.bind,
        spec.port,
        chains,
        inbound=False,
        bound=spec.bound,
        default=default,
        listener_filters=inspectors,
        timeout=config.protocol_detection_timeout if spec.rds else 0,
        access_log=listener_loggers(db, view, False),
        more={
            **_balance(view),
            **_limit(db, view),
            **(both_families(view, spec.port) if spec.bind == view.wildcard else {}),
        },
    )


def _balance(view: View) -> Fields:
    exact = view.flag("OUTBOUND_LISTENER_EXACT_BALANCE") == "true"
    return {"connection_balance_config": {"exact_balance": {}}} if exact else {}


def _limit(db: Db, view: View) -> Fields:
    settings = proxy_config(db, view).connection_settings
    size = settings.listener_per_connection_buffer_limit_bytes if settings is not None else None
    return {"per_connection_buffer_limit_bytes": number(size)} if size is not None else {}


def _tcp_chain(db: Db, view: View, one: Chain) -> Fields:
    match: dict[str, Any] = {}
    if one.server_names:
        match["server_names"] = list(one.server_names)
    if one.ranges:
        match["prefix_ranges"] = [cidr(r) for r in one.ranges]
    policy = destination_rules.tcp_policy(db, one.refs, one.subset)
    more: dict[str, Any] = {}
    if one.source is not None:
        path = config_path("VirtualService", one.source.namespace, one.source.name)
        more["metadata"] = metadata(istio={"config": path})
    return chain("", tcp.filters(db, view, one.stat_prefix, one.targets, policy=policy), match, **more)


def passthrough_cluster(db: Db, view: View) -> str:
    """Where connections to nobody we know go."""
    policy = visibility.outbound_policy(db, Caller.of(db, view).scope)
    if visibility.registry_only(policy):
        return clusters.BLACK_HOLE
    if policy.egress_proxy is not None:
        proxy = policy.egress_proxy
        return clusters.cluster_name(proxy.port.number if proxy.port else 0, proxy.subset, proxy.host)
    return clusters.PASSTHROUGH


def passthrough_chain(db: Db, view: View, name: str = "PassthroughFilterChain") -> Fields:
    cluster = passthrough_cluster(db, view)
    return chain(name, tcp.filters(db, view, cluster, [(cluster, 1)]))


@query
def virtual_outbound(db: Db, view: View) -> Resource:
    """The listener that captured connections arrive at; it hands them to the one of their original destination."""
    port = mesh(db).proxy_listen_port
    black_hole = chain(
        "virtualOutbound-blackhole",
        tcp.filters(db, view, clusters.BLACK_HOLE, [(clusters.BLACK_HOLE, 1)]),
        {"destination_port": number(port)},
    )
    return listener(
        "virtualOutbound",
        view.wildcard,
        port,
        [black_hole, passthrough_chain(db, view, "virtualOutbound-catchall-tcp")],
        inbound=False,
        bound=True,
        access_log=listener_loggers(db, view, False),
        more={"use_original_dst": TRUE, **capture(view, port)},
    )


def capture(view: View, port: int) -> Fields:
    """What capturing listeners add: transparent proxying, and the other address family of a dual-stack pod."""
    fields: Fields = {"transparent": TRUE} if view.interception == "TPROXY" else {}
    return {**fields, **both_families(view, port)}


def both_families(view: View, port: int) -> Fields:
    """The wildcard of the other address family, for a dual-stack pod."""
    return {"additional_addresses": [{"address": address("::", port)}]} if view.ipv4 and view.ipv6 else {}


@query
def sidecar_outbound(db: Db, view: View) -> Mapping[str, Address]:
    """The outbound listeners of a sidecar by name."""
    found: dict[str, Address] = {s.name: (outbound_listener, (view, s)) for s in outbound_specs(db, view)}
    if view.interception != "NONE":
        found["virtualOutbound"] = (virtual_outbound, (view,))
    return found
