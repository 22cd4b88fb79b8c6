"""Which resources a proxy has, per type: names to addresses (a query and its key). Nothing is built here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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


def _outbound(db: Db, view: View) -> Iterator[tuple[ServiceKey, int, str, tuple[Ref, ...]]]:
    """Service, port, subset and rules of every outbound cluster."""
    caller = Caller.of(db, view)
    imported: dict[ServiceKey, set[int]] = {}
    for listener in visibility.egress(db, caller.scope):
        for one in listener.services:
            imported.setdefault(one.key, set()).update(one.ports or (0,))
    for key, port in telemetry.provider_ports(db):
        if 0 not in imported.setdefault(key, set()):
            imported[key].add(port)
    for key, limited in imported.items():
        refs = rules_for(db, caller, key)
        for port in cluster_ports(db, key):
            if 0 in limited or port in limited:
                yield key, port, "", refs
                for subset in subset_names(db, refs):
                    yield key, port, subset, refs


@query
def all_clusters(db: Db, view: View) -> Addresses:
    shared, client = view.shared, Client.of(view)
    found: dict[str, Address] = {}
    for key, port, subset, refs in _outbound(db, shared):
        found[clusters.cluster_name(port, subset, key.host)] = (clusters.outbound, (client, key, port, subset, refs))
    for name in (BLACK_HOLE, PASSTHROUGH):
        found[name] = (clusters.fixed, (name,))
    if mesh(db).enable_tracing and (collector := tracing.own_collector(db, shared)) is not None:
        found[tracing.ZIPKIN] = (tracing.zipkin_cluster, (*collector, clusters.family(client)))
    if view.is_sidecar:
        found.update(inbound.sidecar_clusters(db, shared))
    else:
        found.update(gateways.extra_clusters(db, shared))
    return found


@query
def all_endpoints(db: Db, view: View) -> Addresses:
    found: dict[str, Address] = {}
    for key, port, subset, refs in _outbound(db, view.shared):
        if clusters.is_eds(db, not view.is_sidecar, key, port, subset, refs):
            name = clusters.cluster_name(port, subset, key.host)
            where = endpoints.where(db, view, key, port, subset, refs)
            found[name] = (endpoints.assignment, (where, name, key, port, subset, refs))
    if not view.is_sidecar:
        found.update(gateways.extra_endpoints(db, view))
    return found


@query
def all_listeners(db: Db, view: View) -> Addresses:
    shared = view.shared
    if not view.is_sidecar:
        return gateways.listeners(db, shared)
    return {**outbound_listeners.sidecar_outbound(db, shared), **inbound.sidecar_inbound(db, shared)}


@query
def all_routes(db: Db, view: View) -> Addresses:
    shared = view.shared
    if not view.is_sidecar:
        return gateways.route_configurations(db, shared)
    caller, attempts = Caller.of(db, shared), virtual_hosts.counts_attempts(db, shared)
    names = dict.fromkeys(s.rds for s in outbound_listeners.outbound_specs(db, shared) if s.rds)
    return {name: (virtual_hosts.route_configuration, (caller, attempts, name)) for name in names}


@query
def all_secrets(db: Db, view: View) -> Addresses:
    return secrets.addresses(db, view)


@query
def name_tables(db: Db, view: View) -> Addresses:
    if view.flag("DNS_CAPTURE") != "true":
        return {}
    return {"": (name_table.name_table, (Caller.of(db, view.shared).scope, view.network, view.ipv4, view.ipv6))}


TYPES: Mapping[str, Query[[View], Addresses]] = {
    CLUSTER: all_clusters,
    ENDPOINT: all_endpoints,
    LISTENER: all_listeners,
    ROUTE: all_routes,
    SECRET: all_secrets,
    NAME_TABLE: name_tables,
}
"""The query that lists a proxy's resources, by type URL."""
