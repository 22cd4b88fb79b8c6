from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.controllers.builders import obj, pod, template
from tests.controllers.conftest import Kubelet

from pilotfish.kube.client import Client
from pilotfish.kube.resources import ENDPOINT_SLICES, ENDPOINTS, PODS, SERVICES
from pilotfish.local.controllers import endpointslice
from pilotfish.local.controllers.endpoints import subsets
from pilotfish.local.controllers.endpointslicemirroring import mirror

Run = Callable[..., Any]
Object = dict[str, Any]


def service(**spec: Any) -> Object:
    return obj("Service", "web", spec={"selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP"}], **spec})


def backend(ip: str, **more: Any) -> Object:
    return pod(labels={"app": "web"}, ip=ip, **more)


def conditions(endpoint: Object) -> tuple[bool, ...]:
    return tuple(endpoint["conditions"][key] for key in ("ready", "serving", "terminating"))


def test_readiness_and_termination() -> None:
    """Ready, not ready and terminating pods differ in their conditions; finished ones are absent."""
    pods = [
        backend("10.0.0.1"),
        backend("10.0.0.2", ready=False),
        backend("10.0.0.3", deleting=True),
        backend("10.0.0.4", phase="Succeeded"),
        backend(""),
    ]
    (made,) = endpointslice.reconcile(service(), pods, [], {"node": "z1"}).create
    found = {one["addresses"][0]: conditions(one) for one in made["endpoints"]}
    assert found == {
        "10.0.0.1": (True, True, False),
        "10.0.0.2": (False, False, False),
        "10.0.0.3": (False, True, True),
    }
    assert made["endpoints"][0]["zone"] == "z1"
    (subset,) = subsets(service(), pods)
    assert [one["ip"] for one in subset["addresses"]] == ["10.0.0.1"]
    assert [one["ip"] for one in subset["notReadyAddresses"]] == ["10.0.0.2"]


def test_publish_not_ready_addresses() -> None:
    """A Service that publishes everyone has its unready pods as ready."""
    one = service(publishNotReadyAddresses=True)
    pods = [backend("10.0.0.1", ready=False), backend("10.0.0.2", deleting=True)]
    (made,) = endpointslice.reconcile(one, pods, [], {}).create
    assert [conditions(endpoint)[0] for endpoint in made["endpoints"]] == [True, True]
    assert len(subsets(one, pods)[0]["addresses"]) == 2


def test_named_target_ports_differ_per_pod() -> None:
    """Pods that give the port's name different numbers are in different slices and subsets."""

    def named(ip: str, number: int) -> Object:
        ports = [{"name": "http", "containerPort": number}]
        return backend(ip, spec={"containers": [{"name": "c", "ports": ports}]})

    one = service(ports=[{"port": 80, "targetPort": "http", "name": "web", "appProtocol": "http"}])
    pods = [named("10.0.0.1", 8080), named("10.0.0.2", 9090), named("10.0.0.3", 8080)]
    made = endpointslice.reconcile(one, pods, [], {}).create
    found = {s["ports"][0]["port"]: sorted(e["addresses"][0] for e in s["endpoints"]) for s in made}
    assert found == {8080: ["10.0.0.1", "10.0.0.3"], 9090: ["10.0.0.2"]}
    assert made[0]["ports"][0] == {"name": "web", "port": 8080, "protocol": "TCP", "appProtocol": "http"}
    assert len(subsets(one, pods)) == 2
    assert subsets(one, [backend("10.0.0.9")]) == []


def test_headless_names() -> None:
    """In its own headless Service a pod has its hostname; the slice says that it is headless."""
    one = service(clusterIP="None")
    named = backend("10.0.0.1", spec={"containers": [{"name": "c"}], "hostname": "web-0", "subdomain": "web"})
    stranger = backend("10.0.0.2", spec={"containers": [{"name": "c"}], "hostname": "x", "subdomain": "other"})
    (made,) = endpointslice.reconcile(one, [named, stranger], [], {}).create
    assert [endpoint.get("hostname") for endpoint in made["endpoints"]] == ["web-0", None]
    assert made["metadata"]["labels"]["service.kubernetes.io/headless"] == ""


def test_mirror_of_written_endpoints() -> None:
    """Endpoints of a user become slices, IPv4 and IPv6 apart, and unchanged ones are not written again."""
    one = obj(
        "Endpoints",
        "web",
        subsets=[{"addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}], "ports": [{"port": 80}]}],
    )
    changes = mirror(one, [])
    assert sorted(made["addressType"] for made in changes.create) == ["IPv4", "IPv6"]
    stored = [{**made, "metadata": {**made["metadata"], "name": str(n)}} for n, made in enumerate(changes.create)]
    again = mirror(one, stored)
    assert again == endpointslice.Changes()


pod_sets = st.lists(st.sets(st.integers(0, 260), max_size=260), min_size=1, max_size=5)


@given(pod_sets)
def test_slices_always_hold_just_the_pods(generations: list[set[int]]) -> None:
    """Whatever pods come and go: every one is in one slice, none is larger than a hundred, and nobody moves."""
    one = service()
    pods = {number: backend(f"10.0.{number // 250}.{number % 250 + 1}") for number in range(261)}
    slices: dict[str, Object] = {}
    for generation in generations:
        before = {e["targetRef"]["uid"]: name for name, s in slices.items() for e in s["endpoints"]}
        changes = endpointslice.reconcile(one, [pods[n] for n in generation], list(slices.values()), {})
        for gone in changes.delete:
            del slices[gone["metadata"]["name"]]
        for changed in changes.update:
            slices[changed["metadata"]["name"]] = changed
        for made in changes.create:
            name = f"web-{len(before)}-{len(slices)}-{id(made)}"
            slices[name] = {**made, "metadata": {**made["metadata"], "name": name}}
        held = [e["targetRef"]["uid"] for s in slices.values() for e in s["endpoints"]]
        assert sorted(held) == sorted(pods[n]["metadata"]["uid"] for n in generation)
        assert all(len(s["endpoints"]) <= 100 for s in slices.values())
        if changes.create:
            made_now = {id(made["endpoints"]) for made in changes.create}
            assert all(len(s["endpoints"]) == 100 for s in slices.values() if id(s["endpoints"]) not in made_now)
        now = {e["targetRef"]["uid"]: name for name, s in slices.items() for e in s["endpoints"]}
        assert all(now[uid] == name for uid, name in before.items() if uid in now)
        again = endpointslice.reconcile(one, [pods[n] for n in generation], list(slices.values()), {})
        assert again == endpointslice.Changes()


# ---------------------------------------------------------------------- on a real server


async def test_service_follows_pods(client: Client, kubelet: Kubelet, kubectl: Run, until: Run, namespace: str) -> None:
    """Endpoints and slices follow readiness, deletion and the Service itself."""
    await kubectl("create", "deployment", "web", "--image=a:1", "--replicas=2")
    await kubectl("expose", "deployment", "web", "--port=80", "--target-port=8080")
    (found,) = await until(
        ENDPOINT_SLICES, lambda s: s and sum(e["conditions"]["ready"] for e in s[0]["endpoints"] or ()) == 2
    )
    assert found["metadata"]["labels"] == {
        "app": "web",
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    assert found["metadata"]["ownerReferences"][0]["kind"] == "Service"
    assert found["endpoints"][0]["zone"] == "z1"
    assert found["endpoints"][0]["nodeName"] == Kubelet.node
    (old,) = await until(ENDPOINTS, lambda e: len(e[0].get("subsets", [{}])[0].get("addresses", ())) == 2)
    assert old["subsets"][0]["ports"] == [{"port": 8080, "protocol": "TCP"}]
    await kubectl("scale", "deployment", "web", "--replicas=0")
    await until(ENDPOINT_SLICES, lambda s: len(s) == 1 and not s[0]["endpoints"])
    await until(ENDPOINTS, lambda e: not e[0].get("subsets"))
    await kubectl("delete", "service", "web")
    await until(ENDPOINT_SLICES, lambda s: not s)
    await until(ENDPOINTS, lambda e: not e)


async def test_selectorless_service_is_left_alone_and_mirrored(client: Client, until: Run, namespace: str) -> None:
    """Endpoints a user writes stay as they are, and appear as a slice; without them, or without the Service,
    the slice goes."""
    one = {"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]}}
    await client.create(SERVICES, one, namespace)
    subset = {"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 5432}]}
    await client.create(ENDPOINTS, {"metadata": {"name": "db"}, "subsets": [subset]}, namespace)
    (found,) = await until(ENDPOINT_SLICES, lambda s: s)
    assert (
        found["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"]
        == "endpointslicemirroring-controller.k8s.io"
    )
    assert found["endpoints"][0]["addresses"] == ["192.0.2.7"]
    await client.delete(ENDPOINTS, "db", namespace)
    await until(ENDPOINT_SLICES, lambda s: not s)
    await client.create(ENDPOINTS, {"metadata": {"name": "db"}, "subsets": [subset]}, namespace)
    await until(ENDPOINT_SLICES, lambda s: s)
    await client.delete(SERVICES, "db", namespace)
    await until(ENDPOINTS, lambda e: not e)
    await until(ENDPOINT_SLICES, lambda s: not s)


async def test_unready_pod_leaves_and_returns(client: Client, kubelet: Kubelet, until: Run, namespace: str) -> None:
    """A pod that is no longer ready stays in the slice as not ready, and no request goes to it."""
    await client.create(
        SERVICES,
        {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}},
        namespace,
    )
    one = {"metadata": {"name": "p", "labels": {"app": "web"}}, "spec": template()["spec"]}
    await client.create(PODS, one, namespace)
    await until(ENDPOINT_SLICES, lambda s: s and s[0]["endpoints"] and s[0]["endpoints"][0]["conditions"]["ready"])
    await client.patch(PODS, "p", {"metadata": {"annotations": {"test/unready": "true"}}}, namespace)
    await until(ENDPOINT_SLICES, lambda s: not s[0]["endpoints"][0]["conditions"]["serving"])
    await client.patch(PODS, "p", {"metadata": {"annotations": {"test/unready": None}}}, namespace)
    await until(ENDPOINT_SLICES, lambda s: s[0]["endpoints"][0]["conditions"]["ready"])


async def test_thousand_changes_settle(client: Client, kubelet: Kubelet, until: Run, namespace: str) -> None:
    """Many pods at once end in complete endpoints."""
    await client.create(
        SERVICES,
        {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}},
        namespace,
    )
    made = ({"metadata": {"name": f"p{n}", "labels": {"app": "web"}}, "spec": template()["spec"]} for n in range(120))
    await asyncio.gather(*(client.create(PODS, one, namespace) for one in made))
    await until(
        ENDPOINT_SLICES,
        lambda s: sum(e["conditions"]["ready"] for one in s for e in one["endpoints"] or ()) == 120,
        seconds=40.0,
    )
