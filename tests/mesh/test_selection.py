"""Which object holds: precedence, visibility and merging."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotfish.api import networking
from pilotfish.api.meta import PortSelector
from pilotfish.api.networking.destination_rule import (
    ClientTLSSettings,
    ConnectionPoolSettings,
    LoadBalancerSettings,
    OutlierDetection,
    PortTrafficPolicy,
    SimpleLB,
    TrafficPolicy,
)
from pilotfish.api.networking.virtual_service import HTTPMatchRequest, HTTPRoute, StringMatch
from pilotfish.api.security import MutualTLSMode
from pilotfish.mesh import (
    World,
    authentication,
    destination_rules,
    services,
    virtual_services,
    visibility,
)
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.visibility import Scope


def put(world: World, kind: str, name: str, spec: dict[str, Any], namespace: str = "default", age: int = 0) -> None:
    group = {"PeerAuthentication": "security"}.get(kind, "networking")
    meta = {"name": name, "namespace": namespace, "creationTimestamp": f"2026-01-0{age + 1}T00:00:00Z"}
    world.apply({"apiVersion": f"{group}.istio.io/v1", "kind": kind, "metadata": meta, "spec": spec})


def add_service(world: World, name: str, namespace: str = "default", export: str = "") -> str:
    meta: dict[str, Any] = {"name": name, "namespace": namespace}
    if export:
        meta["annotations"] = {"networking.istio.io/exportTo": export}
    spec = {"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80}]}
    world.apply({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
    return f"{name}.{namespace}.svc.cluster.local"


# PeerAuthentication


def test_peer_authentication_levels() -> None:
    """Permissive, then mesh, namespace and workload; UNSET inherits; ports override; the oldest of a level counts."""
    world = World()
    app, other = (("app", "a"),), (("app", "b"),)
    assert authentication.mtls(world.db, "default", app).mode is MutualTLSMode.PERMISSIVE
    put(world, "PeerAuthentication", "mesh", {"mtls": {"mode": "STRICT"}}, "istio-system")
    assert authentication.mtls(world.db, "default", app).mode is MutualTLSMode.STRICT
    put(world, "PeerAuthentication", "ns", {"mtls": {"mode": "DISABLE"}}, age=1)
    put(world, "PeerAuthentication", "ns-younger", {"mtls": {"mode": "PERMISSIVE"}}, age=2)
    assert authentication.mtls(world.db, "default", app).mode is MutualTLSMode.DISABLE
    selector = {"selector": {"matchLabels": {"app": "a"}}}
    ports = {"portLevelMtls": {"80": {"mode": "STRICT"}, "81": {"mode": "UNSET"}}}
    put(world, "PeerAuthentication", "w", {**selector, "mtls": {"mode": "UNSET"}, **ports})
    found = authentication.mtls(world.db, "default", app)
    assert [found.at(p) for p in (80, 81, 82)] == [MutualTLSMode.STRICT, MutualTLSMode.DISABLE, MutualTLSMode.DISABLE]
    assert authentication.mtls(world.db, "default", other).at(80) is MutualTLSMode.DISABLE
    put(world, "PeerAuthentication", "root-selects", {**selector, "mtls": {"mode": "STRICT"}}, "istio-system")
    assert authentication.mtls(world.db, "third", app).mode is MutualTLSMode.STRICT, "the mesh's"
    assert authentication.mtls(world.db, "default", app).mode is MutualTLSMode.DISABLE, "root selectors are ignored"


# Visibility


def test_a_host_of_two_namespaces() -> None:
    """Of equal hosts a proxy sees its own namespace's, else Kubernetes', else the oldest; exportTo is kept."""
    world = World()
    for namespace, age in (("b", 1), ("c", 0)):
        entry = {
            "hosts": ["x.test"],
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
            "resolution": "DNS",
        }
        put(world, "ServiceEntry", "x", entry, namespace, age)

    def seen(namespace: str) -> dict[str, str]:
        return {e.host: e.namespace for e in services.visible(world.db, namespace)}

    assert seen("a") == {"x.test": "c"}
    assert seen("b") == {"x.test": "b"}
    host = add_service(world, "s", "b", export=".")
    assert host not in seen("a")
    assert host in seen("b")
    add_service(world, "s", "b", export="~")
    assert host not in seen("b")
    add_service(world, "s", "b", export="a,d")
    assert host in seen("a")
    assert host not in seen("b")


def test_discovery_selectors() -> None:
    """A namespace that no selector lets in has no services."""
    from pilotfish.api.mesh import decode_mesh_config  # noqa: PLC0415

    world = World()
    host = add_service(world, "s")
    world.set_mesh(decode_mesh_config({"discoverySelectors": [{"matchLabels": {"mesh": "on"}}]})[0])
    assert not services.visible(world.db, "other")
    world.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "labels": {"mesh": "on"}}})
    assert [e.host for e in services.visible(world.db, "other")] == [host]


def test_which_sidecar() -> None:
    """One that selects the workload (oldest), else the namespace's, else the root namespace's default."""
    world = World()
    labels = (("app", "a"),)
    spec = {"egress": [{"hosts": ["./*"]}]}
    assert visibility.sidecar_for(world.db, "default", labels) is None
    put(world, "Sidecar", "root", spec, "istio-system")
    assert visibility.sidecar_for(world.db, "default", labels) == Ref("istio-system", "root")
    put(world, "Sidecar", "ns", spec, age=1)
    assert visibility.sidecar_for(world.db, "default", labels) == Ref("default", "ns")
    put(world, "Sidecar", "young", {**spec, "workloadSelector": {"labels": {"app": "a"}}}, age=3)
    put(world, "Sidecar", "old", {**spec, "workloadSelector": {"labels": {"app": "a"}}}, age=2)
    assert visibility.sidecar_for(world.db, "default", labels) == Ref("default", "old")
    assert visibility.sidecar_for(world.db, "default", (("app", "b"),)) == Ref("default", "ns")
    own = add_service(world, "mine")
    add_service(world, "other", "elsewhere")
    assert set(visibility.hosts(world.db, Scope("default", Ref("istio-system", "root")))) == {own}


# DestinationRules


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([("client", "h"), ("service", "h"), ("istio-system", "h")], "client"),
        ([("service", "h"), ("istio-system", "h")], "service"),
        ([("istio-system", "h")], "istio-system"),
        ([("client", "*.svc.cluster.local"), ("service", "h")], "client"),
        ([("other", "h")], None),
    ],
)
def test_which_destination_rule(rules: list[tuple[str, str]], expected: str | None) -> None:
    """The client's namespace, then the service's, then the root namespace; the first with a match wins completely."""
    world = World()
    host = add_service(world, "s", "service")
    for namespace, pattern in rules:
        put(world, "DestinationRule", "d", {"host": host if pattern == "h" else pattern}, namespace)
    found = destination_rules.rules_for(world.db, "client", (), "service", host)
    assert [r.namespace for r in found] == ([expected] if expected else [])


def test_which_destination_rule_for_a_gateway_in_the_root_namespace() -> None:
    """The service's own rule comes before everybody's defaults; only rules the root namespace keeps to itself win."""
    world = World()
    host, db = add_service(world, "s", "service"), world.db
    assert destination_rules.rules_for(db, "istio-system", (), "service", host) == ()
    put(world, "DestinationRule", "defaults", {"host": "*.local"}, "istio-system")
    assert destination_rules.rules_for(db, "istio-system", (), "service", host) == (Ref("istio-system", "defaults"),)
    put(world, "DestinationRule", "own", {"host": host}, "service")
    assert destination_rules.rules_for(db, "istio-system", (), "service", host) == (Ref("service", "own"),)
    put(world, "DestinationRule", "private", {"host": "*.local", "exportTo": ["."]}, "istio-system")
    assert destination_rules.rules_for(db, "istio-system", (), "service", host) == (Ref("istio-system", "private"),)


def test_rules_for_chosen_clients_and_private_rules() -> None:
    """A rule that selects the client comes before others; exportTo hides a rule from other namespaces."""
    world = World()
    host = add_service(world, "s", "service")
    put(world, "DestinationRule", "all", {"host": host}, "client")
    put(world, "DestinationRule", "mine", {"host": host, "workloadSelector": {"matchLabels": {"app": "a"}}}, "client")
    put(world, "DestinationRule", "private", {"host": host, "exportTo": ["."]}, "service")
    db = world.db
    assert destination_rules.rules_for(db, "client", (("app", "a"),), "service", host) == (Ref("client", "mine"),)
    assert destination_rules.rules_for(db, "client", (("app", "b"),), "service", host) == (Ref("client", "all"),)
    assert destination_rules.rules_for(db, "third", (), "service", host) == ()
    assert destination_rules.rules_for(db, "service", (), "service", host) == (Ref("service", "private"),)


def _balancer(simple: SimpleLB) -> LoadBalancerSettings:
    return LoadBalancerSettings(simple=simple)


POLICIES = st.builds(
    TrafficPolicy,
    load_balancer=st.sampled_from(
        [None, *(LoadBalancerSettings(simple=s) for s in (SimpleLB.RANDOM, SimpleLB.ROUND_ROBIN))]
    ),
    connection_pool=st.sampled_from([None, ConnectionPoolSettings()]),
    outlier_detection=st.sampled_from([None, OutlierDetection(max_ejection_percent=1)]),
    tls=st.sampled_from([None, ClientTLSSettings(sni="x")]),
)
LEVELS = st.builds(
    lambda p, n: PortTrafficPolicy(
        port=PortSelector(number=n),
        load_balancer=p.load_balancer,
        connection_pool=p.connection_pool,
        outlier_detection=p.outlier_detection,
        tls=p.tls,
    ),
    POLICIES,
    st.sampled_from([80, 81]),
)


def _port(level: PortTrafficPolicy) -> int:
    return level.port.number if level.port is not None else 0


GROUPS = ("load_balancer", "connection_pool", "outlier_detection", "tls")


@given(POLICIES, st.lists(LEVELS, max_size=2, unique_by=_port), POLICIES, st.lists(LEVELS, max_size=1))
def test_ports_replace_and_subsets_overlay(
    top: TrafficPolicy, levels: list[PortTrafficPolicy], sub: TrafficPolicy, sub_levels: list[PortTrafficPolicy]
) -> None:
    """Group by group: the subset's port level if it has one, else the subset's, else the port level's in place of the
    top level's."""
    import msgspec  # noqa: PLC0415

    policy = msgspec.structs.replace(top, port_level_settings=tuple(levels))
    subset = msgspec.structs.replace(sub, port_level_settings=tuple(sub_levels))
    result = destination_rules.overlay(destination_rules.for_port(policy, 80), subset, 80)
    at_port: Any = next((v for v in levels if _port(v) == 80), top)
    sub_port = next((v for v in sub_levels if _port(v) == 80), None)
    for group in GROUPS:
        expected = getattr(sub, group) or getattr(at_port, group)
        if sub_port is not None:
            expected = getattr(sub_port, group)
        assert getattr(result, group) == expected


@given(st.permutations(["a", "b", "c"]), st.permutations([0, 1, 2]))
def test_merge_does_not_depend_on_the_order_of_arrival(order: list[str], ages: list[int]) -> None:
    """Rules for one host merge by age: the oldest policy, and the oldest subset of each name."""
    world = World()
    host = add_service(world, "s")
    age = dict(zip("abc", ages, strict=True))
    for name in order:
        spec: dict[str, Any] = {"host": "s", "subsets": [{"name": "v", "labels": {"from": name}}, {"name": name}]}
        if name != "a":
            spec["trafficPolicy"] = {"tls": {"sni": name}}
        put(world, "DestinationRule", name, spec, age=age[name])
    rule = destination_rules.merged(world.db, destination_rules.rules_for(world.db, "default", (), "default", host))
    oldest = min("abc", key=lambda n: age[n])
    shared = rule.subset("v")
    assert shared is not None
    assert shared.labels == {"from": oldest}
    assert {s.name for s in rule.subsets} == {"v", "a", "b", "c"}
    assert rule.policy is not None
    assert rule.policy.tls is not None
    assert rule.policy.tls.sni == min("bc", key=lambda n: age[n])


# Delegation

STRINGS = st.one_of(
    st.none(),
    st.sampled_from(["/", "/a", "/a/b", "/b"]).flatmap(
        lambda v: st.sampled_from([StringMatch(exact=v), StringMatch(prefix=v)])
    ),
)
MATCHES = st.builds(
    HTTPMatchRequest, uri=STRINGS, method=STRINGS, headers=st.dictionaries(st.sampled_from("xy"), STRINGS.filter(bool))
)


def holds(match: StringMatch | None, value: str) -> bool:
    if match is None:
        return True
    return value == match.exact if match.exact is not None else value.startswith(match.prefix or "")


@settings(max_examples=300)
@given(MATCHES, MATCHES, st.sampled_from(["/", "/a", "/a/b", "/b", "/a/b/c"]), st.sampled_from(["/", "/a", "/b"]))
def test_a_merged_match_is_both(root: HTTPMatchRequest, delegate: HTTPMatchRequest, path: str, header: str) -> None:
    """What a merged match takes, both the root and the delegate take; and the other way round."""
    both = virtual_services.merge_match(root, delegate)
    if both is None:
        return

    def takes(match: HTTPMatchRequest) -> bool:
        return (
            holds(match.uri, path)
            and holds(match.method, header)
            and all(holds(m, header) for m in match.headers.values())
        )

    assert takes(both) == (takes(root) and takes(delegate))


def test_a_delegate_keeps_its_own_settings() -> None:
    """Of a delegate's route its own settings count, the root's fill in; a conflict drops the route."""
    own = HTTPRoute(name="d", match=(HTTPMatchRequest(uri=StringMatch(prefix="/a/x")),))
    root = HTTPRoute(
        name="r",
        match=(HTTPMatchRequest(uri=StringMatch(prefix="/a")),),
        rewrite=networking.virtual_service.HTTPRewrite(uri="/z"),
    )
    made = virtual_services.merge(root, own)
    assert made is not None
    assert made.name == "r-d"
    assert made.rewrite == root.rewrite
    assert made.match[0].uri == StringMatch(prefix="/a/x")
    other = HTTPRoute(match=(HTTPMatchRequest(uri=StringMatch(prefix="/b")),))
    assert virtual_services.merge(root, other) is None
