"""Load assignments: the endpoints of a cluster, seen from where the client is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from pilotfish.api.networking.destination_rule import LocalityLbSetting, TrafficPolicy
from pilotfish.api.security import MutualTLSMode
from pilotfish.engine import Db, query
from pilotfish.envoy import proto
from pilotfish.envoy.proto import Fields
from pilotfish.envoy.resource import ENDPOINT, Resource, field, finish
from pilotfish.envoy.values import address, number, struct
from pilotfish.mesh import authentication, destination_rules, endpoints, networks, workloads
from pilotfish.mesh.config import mesh, settings
from pilotfish.mesh.endpoints import Endpoint, Health
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.proxies import View
from pilotfish.mesh.services import Service, ServiceKey, service
from pilotfish.mesh.workloads import Labels, Locality


class Where(NamedTuple):
    """What of a client endpoints may depend on."""

    locality: Locality
    network: str
    node: str
    cluster: str
    ipv4: bool
    ipv6: bool
    labels: Labels

    @classmethod
    def at(cls, view: View) -> Where:
        return cls(view.locality, view.network, view.node, view.cluster, view.ipv4, view.ipv6, view.labels)

    @classmethod
    def anywhere(cls, ipv4: bool, ipv6: bool) -> Where:
        return cls(Locality(), "", "", "", ipv4, ipv6, ())


class Depends(NamedTuple):
    """What of `Where` the endpoints of a cluster depend on; on networks and address families they always do."""

    locality: bool = False
    node: bool = False
    labels: bool = False

    def of(self, at: Where) -> Where:
        """No more of the client than that, so that most clients share endpoints."""
        return Where(
            at.locality if self.locality else Locality(),
            at.network,
            at.node if self.node else "",
            at.cluster if self.labels else "",
            at.ipv4,
            at.ipv6,
            at.labels if self.labels else (),
        )


@query
def depends(db: Db, key: ServiceKey, port: int, subset: str, refs: tuple[Ref, ...]) -> Depends:
    found = service(db, key.namespace, key.host)
    policy = destination_rules.policy(db, refs, subset, port)
    setting = locality_setting(db, policy)
    rule = setting is not None and (policy.outlier_detection is not None or bool(setting.distribute))
    return Depends(
        rule or (found is not None and bool(found.traffic_distribution)),
        found is not None and (found.local_only or _node_first(found)),
        setting is not None and bool(setting.failover_priority),
    )


def locality_setting(db: Db, policy: TrafficPolicy) -> LocalityLbSetting | None:
    """What holds for localities: the rule's word, else the mesh's; None when switched off."""
    own = policy.load_balancer.locality_lb_setting if policy.load_balancer is not None else None
    setting = own if own is not None else mesh(db).locality_lb_setting
    return setting if setting.enabled is not False else None


def weighs_localities(db: Db, found: Service, policy: TrafficPolicy) -> bool:
    """Whether something says how requests are shared among localities."""
    own = policy.load_balancer.locality_lb_setting if policy.load_balancer is not None else None
    if own is None and found.traffic_distribution in _DISTRIBUTION:
        return True
    setting = locality_setting(db, policy)
    if setting is None:
        return False
    fails_over = bool(setting.failover or setting.failover_priority) and policy.outlier_detection is not None
    return fails_over or bool(setting.distribute)


def _node_first(found: Service) -> bool:
    return found.traffic_distribution == "PreferSameNode"


_DISTRIBUTION = {
    "PreferClose": ("network", "region", "zone"),
    "PreferSameZone": ("network", "region", "zone"),
    "PreferSameNode": ("network", "region", "zone", "subzone", "node"),
}


def mtls_capable(db: Db, endpoint: Endpoint) -> bool:
    """Has a sidecar, and its policies do not switch mTLS off for this port."""
    if not endpoint.tls:
        return False
    return authentication.mtls(db, endpoint.namespace, endpoint.labels).at(endpoint.port) is not MutualTLSMode.DISABLE


@lru_cache(maxsize=65_536)
def lb_endpoint(at: str, port: int, health: str, weight: int, tls: bool, workload: str) -> bytes:
    """One endpoint's bytes, shared by all assignments it is in."""
    own = proto.encode(_LB_ENDPOINT, _lb_endpoint(at, port, health, weight, False, ""))
    described = _endpoint_metadata(tls, workload)
    return own + field(3, described) if described else own


@lru_cache(maxsize=16_384)
def _endpoint_metadata(tls: bool, workload: str) -> bytes:
    """The part that all endpoints of a workload have in common."""
    fields = _lb_endpoint("", 0, Health.HEALTHY, 1, tls, workload)
    return proto.encode("envoy.config.core.v3.Metadata", fields["metadata"]) if "metadata" in fields else b""


_LB_ENDPOINT = "envoy.config.endpoint.v3.LbEndpoint"


def _lb_endpoint(at: str, port: int, health: str, weight: int, tls: bool, workload: str) -> Fields:
    fields: Fields = {"endpoint": {"address": address(at, port)}, "load_balancing_weight": number(weight)}
    if health != Health.HEALTHY:
        fields["health_status"] = health
    filters: dict[str, Any] = {}
    if tls:
        filters["envoy.transport_socket_match"] = struct({"tlsMode": "istio"})
    if workload:
        filters["istio"] = struct({"workload": workload})
    if filters:
        fields["metadata"] = {"filter_metadata": filters}
    return fields


def _described(endpoint: Endpoint, cluster: str) -> tuple[str, int, str, int, bool, str]:
    """The key of `lb_endpoint`; mTLS is filled in by the caller."""
    labels = dict(endpoint.labels)
    workload = ""
    if endpoint.workload:
        revision = workloads.canonical_revision(labels)
        name = workloads.canonical_name(labels, endpoint.workload)
        workload = (
            f"{endpoint.workload};{endpoint.namespace};{name};{'' if revision == 'latest' else revision};{cluster}"
        )
    return endpoint.address, endpoint.port, endpoint.health.value, endpoint.weight, endpoint.tls, workload


class Group(NamedTuple):
    """Endpoints of one locality at one priority."""

    priority: int
    locality: Locality
    weight: int
    members: tuple[Endpoint, ...]


@query
def groups(db: Db, where: Where, key: ServiceKey, port: int, subset: str, refs: tuple[Ref, ...]) -> tuple[Group, ...]:
    """The endpoints of a cluster by priority and locality, as this client should use them."""
    found = service(db, key.namespace, key.host)
    if found is None:
        return ()
    policy = destination_rules.policy(db, refs, subset, port)
    chosen = destination_rules.merged(db, refs).subset(subset) if subset else None
    if subset and chosen is None:
        return ()
    wanted = chosen.labels if chosen is not None else {}
    drop_unhealthy = policy.outlier_detection is not None and policy.outlier_detection.min_health_percent > 0
    here = [
        e
        for e in endpoints.endpoints(db, key.namespace, key.host, port)
        if workloads.selects(wanted, e.labels)
        and (
            where.ipv6
            if ":" in e.address and not e.address.startswith("unix:")
            else where.ipv4 or not _is_v4(e.address)
        )
        and not (found.local_only and where.node and e.node != where.node)
        and not (drop_unhealthy and e.health is Health.UNHEALTHY)
    ]
    capable = frozenset(i for i, e in enumerate(here) if where.network and mtls_capable(db, e))
    here = networks.reachable(db, where.network, here, capable)
    by_locality: defaultdict[Locality, list[Endpoint]] = defaultdict(list)
    for e in here:
        by_locality[e.locality].append(e)
    return _prioritised(db, where, found, policy, by_locality)


def _is_v4(text: str) -> bool:
    return text.replace(".", "").isdigit()


def _prioritised(
    db: Db,
    where: Where,
    found: Service,
    policy: TrafficPolicy,
    by_locality: Mapping[Locality, list[Endpoint]],
) -> tuple[Group, ...]:
    setting = locality_setting(db, policy)
    priority = _DISTRIBUTION.get(found.traffic_distribution)
    if policy.load_balancer is not None and policy.load_balancer.locality_lb_setting is not None:
        priority = None  # the rule's word is over the service's
    if priority is not None:
        return _compact(_by_labels(where, priority, by_locality))
    if setting is None:
        return tuple(_group(0, locality, members) for locality, members in sorted(by_locality.items()))
    if setting.distribute:
        for rule in setting.distribute:
            if _covers(rule.from_, where.locality):
                return _distributed(rule.to, by_locality)
    elif policy.outlier_detection is not None:
        if setting.failover_priority:
            return _compact(_by_labels(where, setting.failover_priority, by_locality))
        failover = {f.from_: f.to for f in setting.failover}
        return _compact(
            _group(_distance(where.locality, locality, failover), locality, members)
            for locality, members in sorted(by_locality.items())
        )
    return tuple(_group(0, locality, members) for locality, members in sorted(by_locality.items()))


def _group(priority: int, locality: Locality, members: list[Endpoint]) -> Group:
    return Group(priority, locality, sum(e.weight for e in members), tuple(members))


def _distance(own: Locality, other: Locality, failover: Mapping[str, str]) -> int:
    """0 same subzone, 1 same zone, 2 same region, 3 elsewhere; with failover, 3 is where to and 4 the rest."""
    if own.region != other.region:
        if own.region in failover:
            return 3 if failover[own.region] == other.region else 4
        return 3
    return 2 if own.zone != other.zone else 1 if own.subzone != other.subzone else 0


def _covers(pattern: str, locality: Locality) -> bool:
    """`region`, `region/zone`, with `*` for any part from there on."""
    for want, have in zip(pattern.split("/"), locality, strict=False):
        if want == "*":
            return True
        if want != have:
            return False
    return True


def _distributed(to: Mapping[str, int], by_locality: Mapping[Locality, list[Endpoint]]) -> tuple[Group, ...]:
    """Weights as given; a pattern's weight is shared among the localities it covers, by their endpoints."""
    result = []
    for pattern, weight in to.items():
        covered = {locality: members for locality, members in by_locality.items() if _covers(pattern, locality)}
        total = sum(e.weight for members in covered.values() for e in members)
        for locality, members in covered.items():
            share = round(weight * sum(e.weight for e in members) / total)
            if share:
                result.append(Group(0, locality, share, tuple(members)))
    return tuple(sorted(result, key=lambda g: g.locality))


_WELL_KNOWN = {
    "topology.kubernetes.io/region": "region",
    "topology.kubernetes.io/zone": "zone",
    "topology.istio.io/subzone": "subzone",
    "topology.istio.io/network": "network",
    "topology.istio.io/cluster": "cluster",
    "kubernetes.io/hostname": "node",
}


def _by_labels(where: Where, priority: tuple[str, ...], by_locality: Mapping[Locality, list[Endpoint]]) -> list[Group]:
    """Priority is how many of the labels, from the first on, do not agree with the client's."""
    mine = {**dict(where.labels), **where.locality._asdict(), "network": where.network, "node": where.node}
    mine["cluster"] = where.cluster
    split: defaultdict[tuple[int, Locality], list[Endpoint]] = defaultdict(list)
    for locality, members in by_locality.items():
        for e in members:
            theirs = {**dict(e.labels), **locality._asdict(), "network": e.network, "node": e.node}
            theirs["cluster"] = where.cluster  # endpoints of other clusters do not reach this graph
            agreed = 0
            for item in priority:
                label, given, value = item.partition("=")
                label = _WELL_KNOWN.get(label, label)
                if theirs.get(label, "") != (value if given else mine.get(label, "")):
                    break
                agreed += 1
            split[len(priority) - agreed, locality].append(e)
    return [_group(level, locality, members) for (level, locality), members in sorted(split.items())]


def _compact(found: Any) -> tuple[Group, ...]:
    """Priorities from 0 without gaps, as Envoy needs them."""
    result = list(found)
    levels = {level: i for i, level in enumerate(sorted({g.priority for g in result}))}
    return tuple(
        sorted((g._replace(priority=levels[g.priority]) for g in result), key=lambda g: (g.priority, g.locality))
    )


def _envelope(group: Group) -> Fields:
    fields: Fields = {"load_balancing_weight": number(group.weight), "locality": {}}
    if any(group.locality):
        region, zone, subzone = group.locality
        fields["locality"] = {"region": region, "zone": zone, "sub_zone": subzone}
    if group.priority:
        fields["priority"] = group.priority
    return fields


SNI_PREFIX = "outbound_."
"""Names of clusters that are known by SNI, see `clusters.dns_san`."""

_GROUP = "envoy.config.endpoint.v3.LocalityLbEndpoints"


@query
def assignment(
    db: Db, where: Where, name: str, key: ServiceKey, port: int, subset: str, refs: tuple[Ref, ...]
) -> Resource:
    """A ClusterLoadAssignment, joined from its endpoints' bytes."""
    mutual = uses_mtls(db, key, port, subset, refs)
    passthrough = name.startswith(SNI_PREFIX)  # of mesh TLS: who cannot do it is no target
    cluster = where.cluster or _cluster(db)
    parts = [field(1, name.encode())]
    for group in groups(db, where, key, port, subset, refs):
        members = []
        if passthrough:
            group = _group(group.priority, group.locality, [e for e in group.members if mtls_capable(db, e)])  # noqa: PLW2901  fewer of them
            if not group.members:
                continue
        for e in group.members:
            at, number_, health, weight, _, workload = _described(e, cluster)
            members.append(field(2, lb_endpoint(at, number_, health, weight, mutual and mtls_capable(db, e), workload)))
        parts.append(field(2, b"".join(members) + proto.encode(_GROUP, _envelope(group))))
    return finish(ENDPOINT, name, b"".join(parts))


def assignment_fields(db: Db, where: Where, key: ServiceKey, port: int, subset: str, refs: tuple[Ref, ...]) -> Fields:
    """The same as fields, for clusters that carry their endpoints."""
    mutual = uses_mtls(db, key, port, subset, refs)
    localities = []
    for group in groups(db, where, key, port, subset, refs):
        members = []
        for e in group.members:
            at, number_, health, weight, _, workload = _described(e, _cluster(db))
            members.append(_lb_endpoint(at, number_, health, weight, mutual and mtls_capable(db, e), workload))
        localities.append({**_envelope(group), "lb_endpoints": members})
    return {"cluster_name": f"outbound|{port}|{subset}|{key.host}", "endpoints": localities}


def _cluster(db: Db) -> str:
    return settings(db).cluster


@query
def uses_mtls(db: Db, key: ServiceKey, port: int, subset: str, refs: tuple[Ref, ...]) -> bool:
    """Whether endpoints should say that they can do mTLS: not when a rule has decided otherwise."""
    found = service(db, key.namespace, key.host)
    settings = destination_rules.policy(db, refs, subset, port).tls
    if found is None or found.external:
        return False
    return settings is None or settings.mode.value == "ISTIO_MUTUAL"
