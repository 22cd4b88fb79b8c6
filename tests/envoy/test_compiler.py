"""The compiler: what changes is what is told, incremental is the same as from nothing, and views share."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.envoy import rig
from tests.envoy.harness import message, view

from pilotfish.api import DecodeError
from pilotfish.envoy import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, Compiler, ObjectRef
from pilotfish.mesh import BadNode, Ref, World

TYPES = (CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET)


def service(name: str, namespace: str = "default", ip: str = "10.0.0.1", port: str = "http") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": ip, "selector": {"app": name}, "ports": [{"name": port, "port": 80}]},
    }


def slice_(name: str, *addresses: str, namespace: str = "default") -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses],
    }


def config(kind: str, name: str, spec: dict[str, Any], namespace: str = "default") -> dict[str, Any]:
    group = "security" if kind in ("PeerAuthentication", "AuthorizationPolicy") else "networking"
    meta = {"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"apiVersion": f"{group}.istio.io/v1", "kind": kind, "metadata": meta, "spec": spec}


def routes(name: str, host: str, *weights: int, namespace: str = "default") -> dict[str, Any]:
    split = [{"destination": {"host": host, "subset": f"v{i}"}, "weight": w} for i, w in enumerate(weights)]
    return config("VirtualService", name, {"hosts": [host], "http": [{"route": split}]}, namespace)


def world(*objects: dict[str, Any]) -> Compiler:
    made = World()
    for obj in objects:
        made.apply(obj)
    return Compiler(made)


def test_changed_names_exactly_what_changed() -> None:
    """After an edit `changed` names the resources that differ, for the views that have them, and nothing else."""
    compiler = world(service("a"), service("b", ip="10.0.0.2"), slice_("a", "10.1.0.1"), slice_("b", "10.1.0.2"))
    one = view(compiler, {})
    compiler.watch(one)
    a, b = (f"outbound|80||{n}.default.svc.cluster.local" for n in "ab")
    assert compiler.changed() == {}
    before = compiler.every(one, CLUSTER)

    compiler.world.apply(slice_("a", "10.1.0.1", "10.1.0.3"))
    assert compiler.changed() == {one: {ENDPOINT: {a}}}
    assert compiler.every(one, CLUSTER) is before, "the same object when nothing changed"

    compiler.world.apply(routes("a", "a", 50, 50))
    assert compiler.changed() == {one: {ROUTE: {"80"}}}
    compiler.world.apply({**routes("a", "a", 50, 50), "status": {"x": 1}})
    compiler.world.apply(routes("unrelated", "elsewhere.test", 1, namespace="other"))
    assert compiler.changed() == {one: {ROUTE: {"80"}}}, "a host that is no service is served on port 80"

    compiler.world.delete(service("b"))
    changed = compiler.changed()
    assert changed[one][CLUSTER] == {b}
    assert changed[one][ENDPOINT] == {b}
    assert compiler.one(one, CLUSTER, b) is None
    assert compiler.one(one, CLUSTER, a) is not None

    compiler.world.apply(config("PeerAuthentication", "default", {"mtls": {"mode": "PERMISSIVE"}}))
    assert compiler.changed() == {}, "said explicitly what held anyway: all bytes are equal"
    compiler.release(one)
    compiler.collect()
    compiler.world.apply(slice_("a", "10.1.0.9"))
    assert compiler.changed() == {}, "nobody watches"


def test_views_are_shared() -> None:
    """Replicas have one view; different workloads share the resources that do not depend on them."""
    compiler = world(service("a"), slice_("a", "10.1.0.1"))
    first = view(compiler, {"name": "x-1", "ip": "10.1.0.5", "labels": {"app": "x"}})
    assert first is view(compiler, {"name": "x-2", "ip": "10.1.0.6", "labels": {"app": "x"}})
    other = view(compiler, {"name": "y-1", "labels": {"app": "y"}})
    elsewhere = view(compiler, {"namespace": "other"})
    assert len({first, other, elsewhere}) == 3
    for type_url in (CLUSTER, ENDPOINT):
        name = "outbound|80||a.default.svc.cluster.local"
        assert compiler.one(first, type_url, name) is compiler.one(other, type_url, name)
        assert compiler.one(first, type_url, name) is compiler.one(elsewhere, type_url, name)
    assert compiler.one(first, ROUTE, "80") is compiler.one(other, ROUTE, "80")
    assert compiler.one(first, ROUTE, "80") != compiler.one(elsewhere, ROUTE, "80"), "short names differ"


def test_versions_are_stable() -> None:
    """Another control plane with the same objects, in any order, gives the same versions."""
    objects = [service("a"), service("b", ip="10.0.0.2"), slice_("a", "10.1.0.1"), routes("a", "a", 1, 2)]
    first, second = world(*objects), world(*reversed(objects))
    one, other = view(first, {}), view(second, {})
    for type_url in TYPES:
        assert first.every(one, type_url) == second.every(other, type_url)


def test_churn_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services that come and go do not make the graph grow."""
    monkeypatch.setattr("pilotfish.envoy.compiler._SLACK", 300)
    compiler = world(service("a"))
    one = view(compiler, {})
    compiler.watch(one)
    compiler.collect()
    start = len(compiler.db)
    for number in range(60):
        for obj in (service(f"s-{number}", ip=f"10.0.1.{number}"), slice_(f"s-{number}", "10.1.1.1")):
            compiler.world.apply(obj)
        compiler.changed()
        for obj in (service(f"s-{number}"), slice_(f"s-{number}", "10.1.1.1")):
            compiler.world.delete(obj)
        compiler.changed()
    assert len(compiler.db) < 3 * start + 300
    compiler.collect()
    assert len(compiler.db) == start


def test_provenance() -> None:
    """The sources of a resource are the objects it was compiled from."""
    compiler = world(service("a"), service("b"), slice_("a", "10.1.0.1"), routes("a", "a", 1), routes("b", "b", 1))
    one = view(compiler, {})
    found = compiler.sources(one, ENDPOINT, "outbound|80||a.default.svc.cluster.local")
    assert ObjectRef("EndpointSlice", "default", "a") in found
    assert not any(ref.name == "b" for ref in found)
    found = compiler.sources(one, ROUTE, "80")
    assert {ObjectRef("VirtualService", "default", n) for n in "ab"} <= set(found)


def test_preview_changes_nothing_and_is_what_comes() -> None:
    """A preview names what would change, with the very resources that the change then brings."""
    compiler = world(service("a"), slice_("a", "10.1.0.1"), routes("a", "a", 50, 50))
    one = view(compiler, {})
    compiler.watch(one)
    edit, gone = routes("a", "a", 10, 90), service("a")
    before = {t: compiler.every(one, t) for t in TYPES}
    seen = compiler.preview(one, [edit])
    assert {t: set(names) for t, names in seen.items()} == {ROUTE: {"80"}}
    assert CLUSTER in compiler.preview(one, deleted=[gone])
    assert compiler.changed() == {}
    assert all(compiler.every(one, t) is before[t] for t in TYPES)
    compiler.world.apply(edit)
    compiler.changed()
    assert seen[ROUTE]["80"] == (before[ROUTE]["80"], compiler.one(one, ROUTE, "80"))


def test_quarantine_puts_back_the_last_good_form() -> None:
    """An object a proxy refused goes back to its form before; a new edit of it ends the quarantine."""
    compiler = world(service("a"), routes("a", "a", 50, 50))
    one = view(compiler, {})
    compiler.watch(one)
    good = compiler.one(one, ROUTE, "80")
    compiler.world.apply(routes("a", "a", 10, 90))
    compiler.changed()
    assert compiler.one(one, ROUTE, "80") != good
    assert compiler.world.quarantine("VirtualService", Ref("default", "a"), "Envoy said no")
    compiler.changed()
    assert compiler.one(one, ROUTE, "80") == good
    assert not compiler.world.apply(routes("a", "a", 10, 90)), "the same again stays out"
    assert compiler.world.apply(routes("a", "a", 20, 80))
    assert not compiler.world.quarantined
    compiler.changed()
    assert compiler.one(one, ROUTE, "80") != good


def test_invalid_objects_are_left_out_and_leave_what_was_there() -> None:
    """What the webhook would refuse does not get in, says where it is wrong, and the form before stays in force."""
    compiler = world(service("a"), routes("a", "a", 50, 50))
    one = view(compiler, {})
    compiler.watch(one)
    bad = routes("a", "a", 10, 90)
    bad["spec"]["http"][0]["match"] = [{"uri": {"regex": "(["}}]
    with pytest.raises(DecodeError, match=r"VirtualService default/a: spec.http\[0\].match\[0\].uri.regex: .*RE2"):
        compiler.world.apply(bad)
    assert compiler.changed() == {}


def test_a_certificate_that_does_not_fit_its_key_is_contained() -> None:
    """The pair before stays in force, the cause names the Secret, and a pair that fits cures it."""

    def secret(chain: bytes, key: bytes) -> dict[str, Any]:
        data = {"tls.crt": b64encode(chain).decode(), "tls.key": b64encode(key).decode()}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"}, "data": data}

    tls = {"mode": "SIMPLE", "credentialName": "s"}
    server = {"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["a.test"], "tls": tls}
    first, second = rig.AUTHORITY.issue("a.test"), rig.AUTHORITY.issue("a.test")
    compiler = world(
        config("Gateway", "g", {"selector": {"istio": "gw"}, "servers": [server]}), secret(first.chain, first.key)
    )
    one = view(compiler, {"type": "router", "labels": {"istio": "gw"}})
    compiler.watch(one)
    good = compiler.one(one, SECRET, "kubernetes://s")
    assert good is not None
    for chain, key in ((second.chain, first.key), (b"no", first.key), (first.chain, b"no")):
        compiler.world.apply(secret(chain, key))
        assert compiler.changed() == {}
        assert compiler.one(one, SECRET, "kubernetes://s") is good
        (failed,) = compiler.errors()
        assert "the Secret default/s cannot be served" in failed.cause
        assert failed.sources == (ObjectRef("Secret", "default", "s"),)
    compiler.world.apply(secret(second.chain, second.key))
    assert compiler.changed() == {one: {SECRET: {"kubernetes://s"}}}
    assert compiler.errors() == ()


def test_failure_keeps_the_last_good_form_and_names_the_object() -> None:
    """A resource that cannot be compiled stays as it was, the others go on, and the cause names its objects."""
    compiler = world(service("a"), service("b", ip="10.0.0.2"), slice_("a", "10.1.0.1"), slice_("b", "10.1.0.2"))
    one = view(compiler, {})
    compiler.watch(one)
    name = "outbound|80||a.default.svc.cluster.local"
    before = compiler.one(one, ENDPOINT, name)
    bad = slice_("a", "10.1.0.1")
    bad["ports"][0]["port"] = 2**40  # no port: building the message fails
    compiler.world.apply(bad)
    compiler.world.apply(slice_("b", "10.1.0.7"))
    assert compiler.changed() == {one: {ENDPOINT: {"outbound|80||b.default.svc.cluster.local"}}}
    assert compiler.one(one, ENDPOINT, name) is before
    (failed,) = compiler.errors()
    assert failed.name == name
    assert ObjectRef("EndpointSlice", "default", "a") in failed.sources
    late = view(compiler, {"namespace": "late"})
    compiler.watch(late)
    empty = compiler.one(late, ENDPOINT, name)
    assert empty is not None, "a proxy that comes now must not wait for what cannot be built"
    assert not message(ENDPOINT, empty).endpoints  # type: ignore[attr-defined]  # a class made at run time
    compiler.release(late)
    compiler.world.apply(slice_("a", "10.1.0.8"))
    assert compiler.changed() == {one: {ENDPOINT: {name}}}
    assert compiler.errors() == ()


@pytest.mark.parametrize(
    "node",
    [{}, {"id": "sidecar~10.0.0.1~x"}, {"id": "ztunnel~10.0.0.1~x.y~z"}, {"id": "sidecar~nothing~x.y~z"}],
)
def test_bad_nodes_are_refused(node: dict[str, Any]) -> None:
    """A node that does not say who it is gets no view."""
    with pytest.raises(BadNode):
        world().view(node)


NAMES = st.sampled_from(["a", "b", "c"])
SPACES = st.sampled_from(["default", "other", "istio-system"])
SUBSETS = {"subsets": [{"name": f"v{i}", "labels": {"version": f"v{i}"}} for i in range(2)]}
OBJECTS = st.one_of(
    st.builds(service, NAMES, SPACES, st.sampled_from(["10.0.0.1", "10.0.0.2"]), st.sampled_from(["http", "tcp", "x"])),
    st.builds(
        lambda n, ns, a: slice_(n, *a, namespace=ns), NAMES, SPACES, st.sets(st.sampled_from(["1.1.1.1", "1.1.1.2"]))
    ),
    st.builds(
        lambda n, h, ns, w: routes(n, h, *w, namespace=ns),
        NAMES,
        NAMES,
        SPACES,
        st.lists(st.integers(1, 9), min_size=1, max_size=2),
    ),
    st.builds(
        lambda n, h, ns, p: config("DestinationRule", n, {"host": h, **SUBSETS, **p}, ns),
        NAMES,
        NAMES,
        SPACES,
        st.sampled_from(
            [
                {},
                {"exportTo": ["."]},
                {"trafficPolicy": {"tls": {"mode": "DISABLE"}}},
                {"trafficPolicy": {"outlierDetection": {}}},
            ]
        ),
    ),
    st.builds(
        lambda ns, m: config("PeerAuthentication", "default", {"mtls": {"mode": m}}, ns),
        SPACES,
        st.sampled_from(["STRICT", "DISABLE"]),
    ),
    st.builds(
        lambda ns, h: config("Sidecar", "default", {"egress": [{"hosts": h}]}, ns),
        SPACES,
        st.lists(st.sampled_from(["./*", "other/*", "*/a.default.svc.cluster.local"]), min_size=1, max_size=2),
    ),
    st.builds(
        lambda n, h, r: config(
            "ServiceEntry",
            n,
            {"hosts": [h], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}], "resolution": r},
        ),
        NAMES,
        st.sampled_from(["x.test", "y.test", "a.default.svc.cluster.local"]),
        st.sampled_from(["DNS", "NONE", "STATIC"]),
    ),
    st.builds(
        lambda n, h: config(
            "Gateway",
            n,
            {
                "selector": {"istio": "gw"},
                "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": h}],
            },
        ),
        NAMES,
        st.sampled_from([["*"], ["a.test"]]),
    ),
    st.builds(
        lambda n, g, h: config(
            "VirtualService", n, {"hosts": [h], "gateways": [g], "http": [{"route": [{"destination": {"host": "a"}}]}]}
        ),
        NAMES,
        NAMES,
        st.sampled_from(["a.test", "*", "a"]),
    ),
    st.builds(lambda ns: config("AuthorizationPolicy", "p", {}, ns), SPACES),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), OBJECTS), max_size=14))
def test_incremental_equals_from_scratch(edits: list[tuple[bool, dict[str, Any]]]) -> None:
    """Whatever is created, changed and deleted, watched views hold what a fresh control plane would give them, and
    `changed` has named every difference."""
    compiler = world()
    proxies: list[dict[str, Any]] = [
        {"labels": {"app": "a"}},
        {"namespace": "other", "labels": {"app": "b"}},
        {"type": "router", "labels": {"istio": "gw"}},
    ]
    views = [view(compiler, p) for p in proxies]
    for one in views:
        compiler.watch(one)
    objects: dict[Any, dict[str, Any]] = {}
    for deletes, obj in edits:
        key = (obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])
        if deletes:
            objects.pop(key, None)
            compiler.world.delete(obj)
        else:
            objects[key] = obj
            compiler.world.apply(obj)
        before = {(one, t): compiler.every(one, t) for one in views for t in TYPES}
        changed = compiler.changed()
        for (one, type_url), old in before.items():
            now = compiler.every(one, type_url)
            differ = {n for n in old.keys() | now.keys() if old.get(n) != now.get(n)}
            assert differ == set(changed.get(one, {}).get(type_url, ()))
        assert not compiler.errors()
    fresh = world(*objects.values())
    for one, proxy in zip(views, proxies, strict=True):
        for type_url in TYPES:
            assert compiler.every(one, type_url) == fresh.every(view(fresh, proxy), type_url)
