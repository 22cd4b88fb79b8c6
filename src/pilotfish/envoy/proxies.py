"""Which resources a proxy has, per type: lists of names and addresses (a query and its key). Nothing is built here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pilotfish.engine import Db, Query, query
from pilotfish.envoy import (
    clusters,
    endpoints,
    gateways,
    inbound,
    name_table,
    outbound_listeners,
    secrets,
    tracing,
    virtual_hosts,
)
from pilotfish.envoy.clusters import BLACK_HOLE, PASSTHROUGH, Client
from pilotfish.envoy.outbound_listeners import Address
from pilotfish.envoy.resource import CLUSTER, ENDPOINT, LISTENER, NAME_TABLE, ROUTE, SECRET
from pilotfish.envoy.routes import Caller, rules_for
from pilotfish.mesh import destination_rules, services, telemetry, visibility
from pilotfish.mesh.config import mesh
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.ports import Protocol
from pilotfish.mesh.proxies import View
from pilotfish.mesh.services import Resolution, ServiceKey

Addresses = Mapping[str, Address]
Part = tuple[Query[Any, Addresses], tuple[Any, ...]]
"""A list of resources: a query and its key. What many proxies have in common is one part for all of them."""
Parts = tuple[Part, ...]


def joined(db: Db, parts: Parts) -> Addresses:
    """The resources of all parts; a name in a later part wins."""
    found: dict[str, Address] = {}
    for part, key in parts:
        found.update(part(db, *key))
    return found


@query
def cluster_ports(db: Db, key: ServiceKey) -> tuple[int, ...]:
    """The ports of a service that have clusters."""
    found = services.service(db, *key)
    if found is None or found.resolution is Resolution.ALIAS:
        return ()
    return tuple(p.number for p in found.ports if p.protocol is not Protocol.UDP)


@query
def subset_names(db: Db, refs: tuple[Ref, ...]) -> tuple[str, ...]:
    return tuple(s.name for s in destination_rules.merged(db, refs).subsets)


class Outbound(NamedTuple):
    """An outbound cluster."""

    key: ServiceKey
    port: int
    subset: str
    refs: tuple[Ref, ...]
    """The DestinationRules that hold."""
    name: str
    eds: bool
    """Its endpoints come separately."""
    depends: endpoints.Depends

    @property
    def id(self) -> tuple[ServiceKey, int, str, tuple[Ref, ...]]:
        return self[:4]


@query
def of_service(db: Db, gateway: bool, key: ServiceKey, refs: tuple[Ref, ...]) -> tuple[Outbound, ...]:
    """The clusters of one service, for all clients that use the same rules."""
    found = []
    for port in cluster_ports(db, key):
        for subset in ("", *subset_names(db, refs)):
            name = clusters.cluster_name(port, subset, key.host)
            eds = clusters.is_eds(db, gateway, key, port, subset, refs)
            found.append(Outbound(key, port, subset, refs, name, eds, endpoints.depends(db, key, port, subset, refs)))
    return tuple(found)


@query
def outbound(db: Db, caller: Caller) -> tuple[Outbound, ...]:
    """Every outbound cluster."""
    imported: dict[ServiceKey, set[int]] = {}
    for listener in visibility.egress(db, caller.scope):
        for one in listener.services:
            imported.setdefault(one.key, set()).update(one.ports or (0,))
    for key, port in telemetry.provider_ports(db):
        if 0 not in imported.setdefault(key, set()):
            imported[key].add(port)
    found: list[Outbound] = []
    for key, limited in imported.items():
        every = of_service(db, caller.gateway, key, rules_for(db, caller, key))
        found.extend(every if 0 in limited else (one for one in every if one.port in limited))
    return tuple(found)


@query
def outbound_clusters(db: Db, caller: Caller, client: Client) -> Addresses:
    found: dict[str, Address] = {one.name: (clusters.outbound, (client, *one.id)) for one in outbound(db, caller)}
    found[BLACK_HOLE] = (clusters.black_hole, ())
    found[PASSTHROUGH] = (clusters.passthrough, (client.header_case,))
    return found


@query
def own_clusters(db: Db, view: View) -> Addresses:
    """What depends on the proxy itself."""
    found: dict[str, Address] = {}
    if mesh(db).enable_tracing and (collector := tracing.own_collector(db, view)) is not None:
        found[tracing.ZIPKIN] = (tracing.zipkin_cluster, (*collector, clusters.family(Client.of(db, view))))
    found.update(inbound.sidecar_clusters(db, view) if view.is_sidecar else gateways.extra_clusters(db, view))
    return found


@query
def all_clusters(db: Db, view: View) -> Parts:
    shared = view.shared
    return (outbound_clusters, (Caller.of(db, shared), Client.of(db, view))), (own_clusters, (shared,))


@query
def _matters(db: Db, caller: Caller) -> endpoints.Depends:
    """What of the place of a proxy any of its endpoints depend on."""
    found = {one.depends for one in outbound(db, caller)}
    return endpoints.Depends(*map(any, zip(*found, strict=True))) if found else endpoints.Depends()


@query
def outbound_endpoints(db: Db, caller: Caller, at: endpoints.Where) -> Addresses:
    every = [one for one in outbound(db, caller) if one.eds]
    where = {depends: depends.of(at) for depends in {one.depends for one in every}}
    return {one.name: (endpoints.assignment, (where[one.depends], one.name, *one.id)) for one in every}


@query
def all_endpoints(db: Db, view: View) -> Parts:
    caller = Caller.of(db, view.shared)
    common = (outbound_endpoints, (caller, _matters(db, caller).of(endpoints.Where.at(view))))
    return (common,) if view.is_sidecar else (common, (gateways.extra_endpoints, (view,)))


@query
def all_listeners(db: Db, view: View) -> Parts:  # noqa: ARG001  as every query
    shared = view.shared
    if not view.is_sidecar:
        return ((gateways.listeners, (shared,)),)
    return (outbound_listeners.sidecar_outbound, (shared,)), (inbound.sidecar_inbound, (shared,))


@query
def sidecar_routes(db: Db, view: View) -> Addresses:
    caller, attempts = Caller.of(db, view), virtual_hosts.counts_attempts(db, view)
    names = dict.fromkeys(s.rds for s in outbound_listeners.outbound_specs(db, view) if s.rds)
    return {name: (virtual_hosts.route_configuration, (caller, attempts, name)) for name in names}


@query
def all_routes(db: Db, view: View) -> Parts:  # noqa: ARG001  as every query
    return ((sidecar_routes if view.is_sidecar else gateways.route_configurations, (view.shared,)),)


@query
def all_secrets(db: Db, view: View) -> Parts:  # noqa: ARG001  as every query
    return ((secrets.addresses, (view,)),)


@query
def own_name_table(db: Db, view: View) -> Addresses:
    return {"": (name_table.name_table, (Caller.of(db, view.shared).scope, view.network, view.ipv4, view.ipv6))}


@query
def name_tables(db: Db, view: View) -> Parts:  # noqa: ARG001  as every query
    return ((own_name_table, (view,)),) if view.flag("DNS_CAPTURE") == "true" else ()


TYPES: Mapping[str, Query[[View], Parts]] = {
    CLUSTER: all_clusters,
    ENDPOINT: all_endpoints,
    LISTENER: all_listeners,
    ROUTE: all_routes,
    SECRET: all_secrets,
    NAME_TABLE: name_tables,
}
"""The query that lists a proxy's resources, by type URL."""
