"""DestinationRules: which one a client uses for a host, how several merge, and what holds for a port and subset."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from pilotfish.api import Config, networking
from pilotfish.api.networking.destination_rule import Subset, TrafficPolicy
from pilotfish.engine import Db, query
from pilotfish.mesh import inputs, names
from pilotfish.mesh.config import mesh, root_namespace
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.workloads import Labels, pairs, selects


class Head(NamedTuple):
    """What decides whom a rule is for. Sorts oldest first, then by name and namespace."""

    created: str
    name: str
    namespace: str
    host: str
    export_to: tuple[str, ...]
    selector: Labels

    @property
    def ref(self) -> Ref:
        return Ref(self.namespace, self.name)

    def seen_by(self, namespace: str) -> bool:
        return "*" in self.export_to or namespace in self.export_to


@query
def head(db: Db, ref: Ref) -> Head | None:
    config = inputs.DESTINATION_RULE_HEADS(db, ref)
    if config is None:
        return None
    spec = config.spec
    selector = spec.workload_selector.match_labels if spec.workload_selector is not None else {}
    export = spec.export_to or mesh(db).default_destination_rule_export_to or ("*",)
    if selector:
        export = (".",)  # a rule for chosen clients is its own namespace's affair
    return Head(
        config.creation_timestamp,
        config.name,
        config.namespace,
        spec.host,
        tuple(sorted(config.namespace if e == "." else e for e in export)),
        pairs(selector),
    )


@query
def wildcards(db: Db) -> tuple[str, ...]:
    """All wildcard hosts of rules."""
    heads = (head(db, ref) for ref in inputs.WILDCARD_DESTINATION_RULES(db, ""))
    return tuple(sorted({h.host for h in heads if h is not None}))


@query
def candidates(db: Db, host: str) -> tuple[Head, ...]:
    """Rules whose host covers `host`, oldest first."""
    patterns = [host, *(w for w in wildcards(db) if w != host and names.matches(w, host))]
    heads = (head(db, ref) for pattern in patterns for ref in inputs.DESTINATION_RULES_FOR(db, pattern))
    return tuple(sorted(h for h in heads if h is not None))


@query
def rules_for(db: Db, client: str, labels: Labels, namespace: str, host: str) -> tuple[Ref, ...]:
    """The rules a client (its namespace and labels) uses for a service, to be merged, oldest first.

    1. rules in the client's namespace (of the root namespace only those for itself: the others are everybody's
       defaults, which must not hide a service's own rules from gateways that live there);
    2. rules in the service's namespace that the client sees;
    3. rules in the root namespace that the client sees.
    The first stage with a match wins completely; in a stage the most specific host; rules selecting the client first.
    """
    heads, root = candidates(db, host), root_namespace(db)
    stages = [[h for h in heads if h.namespace == stage and h.seen_by(client)] for stage in (client, namespace, root)]
    if client == root:
        stages[0] = [h for h in stages[0] if h.export_to == (root,)]
    for here in stages:
        chosen = [h for h in here if h.selector and h.namespace == client and selects(dict(h.selector), labels)]
        for group in (chosen, [h for h in here if not h.selector]):
            best = names.most_specific(host, {h.host for h in group})
            if best is not None:
                same = [h for h in group if h.host == best]
                return tuple(h.ref for h in same if h.export_to == same[0].export_to and h.selector == same[0].selector)
    return ()


@query
def selector_keys(db: Db) -> frozenset[str]:
    """The labels of a client that any rule asks for."""
    heads = (head(db, ref) for ref in inputs.SELECTING_DESTINATION_RULES(db, ""))
    return frozenset(key for h in heads if h is not None for key, _ in h.selector)


class Rule(NamedTuple):
    """Merged rules."""

    policy: TrafficPolicy | None
    subsets: tuple[Subset, ...]

    def subset(self, name: str) -> Subset | None:
        return next((s for s in self.subsets if s.name == name), None)


@query
def merged(db: Db, refs: tuple[Ref, ...]) -> Rule:
    """Rules for the same host in one: the oldest traffic policy, and the subsets of all (the oldest of a name)."""
    found = [c for ref in refs if (c := inputs.DESTINATION_RULES(db, ref)) is not None]
    return merge(found)


def merge(rules: Iterable[Config[networking.DestinationRule]]) -> Rule:
    policy: TrafficPolicy | None = None
    subsets: dict[str, Subset] = {}
    for rule in rules:
        policy = policy or rule.spec.traffic_policy
        for subset in rule.spec.subsets:
            subsets.setdefault(subset.name, subset)
    return Rule(policy, tuple(subsets.values()))


_PER_PORT = ("load_balancer", "connection_pool", "outlier_detection", "tls")
_INHERITED = ("tunnel", "proxy_protocol", "retry_budget")


@query
def policy(db: Db, refs: tuple[Ref, ...], subset: str, port: int) -> TrafficPolicy:
    """What holds for a port of a subset (or of the whole service): top level, then subset, then mesh defaults."""
    rule = merged(db, refs)
    result = for_port(rule.policy, port)
    found = rule.subset(subset) if subset else None
    if found is not None and found.traffic_policy is not None:
        result = overlay(result, found.traffic_policy, port)
    default = mesh(db).default_traffic_policy
    if default is not None:
        result = msgspec.structs.replace(
            result,
            connection_pool=result.connection_pool or default.connection_pool,
            outlier_detection=result.outlier_detection or default.outlier_detection,
        )
    return result


def tcp_policy(db: Db, refs: tuple[Ref, ...], subset: str) -> TrafficPolicy:
    """What holds for connections to a host as Istio's TCP proxies take it: no port levels, and limits from the top."""
    own, top = policy(db, refs, subset, 0), policy(db, refs, "", 0)
    return msgspec.structs.replace(own, connection_pool=top.connection_pool)


def for_port(policy: TrafficPolicy | None, port: int) -> TrafficPolicy:
    """The policy for a port: port-level settings replace all four groups together, absent ones included."""
    if policy is None:
        return TrafficPolicy()
    for level in policy.port_level_settings:
        if level.port is not None and level.port.number == port:
            replaced: dict[str, Any] = {name: getattr(level, name) for name in _PER_PORT}
            return msgspec.structs.replace(policy, port_level_settings=(), **replaced)
    return msgspec.structs.replace(policy, port_level_settings=())


def overlay(base: TrafficPolicy, subset: TrafficPolicy, port: int) -> TrafficPolicy:
    """A subset's policy over the service's: group by group, then the subset's own port level replaces."""
    fields = {name: getattr(subset, name) or getattr(base, name) for name in _PER_PORT + _INHERITED}
    for level in subset.port_level_settings:
        if level.port is not None and level.port.number == port:
            fields |= {name: getattr(level, name) for name in _PER_PORT}
    return TrafficPolicy(**fields)
