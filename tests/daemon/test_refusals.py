"""What happens when Envoy refuses what it is sent: the culprit alone is put back, and says why."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pilotfish.envoy import proto
from pilotfish.envoy.resource import CLUSTER, LISTENER, ROUTE
from pilotfish.kube.client import Client
from pilotfish.kube.resources import SERVICES, Object

from .harness import ControlPlane, Proxy, config, config_type, connected, free_ports, node_of, service, until

pytestmark = pytest.mark.xdist_group("daemon")


async def condition(client: Client, kind: str, namespace: str, name: str) -> tuple[str, str]:
    """State and message of the condition on an object; empty when there is none."""
    found = await client.get(config_type(kind), name, namespace)
    conditions = (found.get("status") or {}).get("conditions") or ()
    one: Object = next((c for c in conditions if c["type"] == "Reconciled"), {})
    return one.get("status", ""), one.get("message", "")


async def refused(client: Client, kind: str, namespace: str, name: str) -> str:
    """The message, once the object is said not to be in force."""

    async def holds() -> str:
        state, message = await condition(client, kind, namespace, name)
        return message if state == "False" else ""

    return str(await until(holds, f"the refusal of {kind} {name}"))


async def in_force(client: Client, kind: str, namespace: str, name: str) -> None:
    async def holds() -> bool:
        return (await condition(client, kind, namespace, name))[0] == "True"

    await until(holds, f"{kind} {name} in force")


def timeout_spec(host: str, seconds: int) -> Object:
    return {"hosts": [host], "http": [{"timeout": f"{seconds}s", "route": [{"destination": {"host": host}}]}]}


def only(url: str, *parts: bytes) -> Any:
    """Refuse resources of a type that have one of these parts."""

    def refuse(type_url: str, name: str, body: bytes) -> str | None:
        return "test says no" if type_url == url and any(part in body for part in parts) else None

    return refuse


@asynccontextmanager
async def routed(plane: ControlPlane, client: Client, namespace: str, port: int, *names: str) -> AsyncIterator[Proxy]:
    """A proxy that holds the routes of a port with a service per name, and a VirtualService for each."""
    scope = config("Sidecar", namespace, "own", {"egress": [{"hosts": ["./*"]}]})
    await client.create(config_type("Sidecar"), scope)
    for name in names:
        await client.create(SERVICES, service(name, namespace, port))
        spec = {"hosts": [name], "http": [{"name": f"first-{name}", "route": [{"destination": {"host": name}}]}]}
        await client.create(config_type("VirtualService"), config("VirtualService", namespace, name, spec))
    async with connected(plane.grpc, node_of(namespace)) as proxy:
        await proxy.ask(ROUTE, str(port))
        for name in names:
            await proxy.holds(ROUTE, str(port), f"first-{name}".encode())
        yield proxy


async def rename(client: Client, namespace: str, name: str, route: str) -> None:
    found = await client.get(config_type("VirtualService"), name, namespace)
    found["spec"]["http"][0]["name"] = route
    await client.update(config_type("VirtualService"), found)


async def test_only_the_culprit_is_put_back(plane: ControlPlane, client: Client, namespace: str) -> None:
    """A change that a proxy refuses is put back, with the reason in the object's status; another object's change to
    the same route table is in force; mending the object brings it into force."""
    async with routed(plane, client, namespace, 8011, "a", "b") as proxy:
        proxy.refuse = only(ROUTE, b"bad-a")
        await rename(client, namespace, "a", "bad-a")
        assert "test says no" in await refused(client, "VirtualService", namespace, "a")
        await rename(client, namespace, "b", "second-b")
        await proxy.holds(ROUTE, "8011", b"second-b")
        assert b"first-a" in proxy.body(ROUTE, "8011")
        assert (await condition(client, "VirtualService", namespace, "b"))[0] != "False"
        await rename(client, namespace, "a", "good-a")
        await proxy.holds(ROUTE, "8011", b"good-a")
        await in_force(client, "VirtualService", namespace, "a")


async def test_of_several_changes_the_culprit_is_found(plane: ControlPlane, client: Client, namespace: str) -> None:
    """Two objects change while the proxy is slow, the first is the culprit: the second is in force in the end."""
    async with routed(plane, client, namespace, 8012, "a", "b") as proxy:
        proxy.refuse = only(ROUTE, b"bad-a")
        await asyncio.gather(rename(client, namespace, "a", "bad-a"), rename(client, namespace, "b", "second-b"))
        await proxy.holds(ROUTE, "8012", b"second-b")
        await refused(client, "VirtualService", namespace, "a")
        assert b"first-a" in proxy.body(ROUTE, "8012")
        problems = json.loads((await plane.get("/debug/problems"))[1])
        assert [one["name"] for one in problems if one["namespace"] == namespace] == ["a"]


async def test_a_change_while_a_refusal_is_on_its_way(plane: ControlPlane, client: Client, namespace: str) -> None:
    """The culprit has been sent, and another object changes before the refusal comes: it is in force in the end."""
    async with routed(plane, client, namespace, 8017, "a", "b") as proxy:
        proxy.refuse = only(ROUTE, b"bad-a")
        proxy.answering.clear()
        proxy.pushes.clear()
        await rename(client, namespace, "a", "bad-a")
        await until(lambda: [one for one in proxy.pushes if one.type_url == ROUTE], "the bad one")
        before = await plane.metric("pilot_push_triggers", type="config") or 0
        await rename(client, namespace, "b", "second-b")

        async def taken_in() -> bool:
            return (await plane.metric("pilot_push_triggers", type="config") or 0) > before

        await until(taken_in, "the second change")
        proxy.answering.set()
        await proxy.holds(ROUTE, "8017", b"second-b")
        await refused(client, "VirtualService", namespace, "a")
        assert b"first-a" in proxy.body(ROUTE, "8017")


async def test_a_new_object_that_is_refused_is_left_out(plane: ControlPlane, client: Client, namespace: str) -> None:
    """A new object whose resource is refused stays out until it is changed."""
    async with routed(plane, client, namespace, 8013, "a") as proxy:
        proxy.refuse = only(CLUSTER, b"new.example.com")
        spec = {
            "hosts": ["new.example.com"],
            "ports": [{"name": "http", "number": 8013, "protocol": "HTTP"}],
            "resolution": "DNS",
            "exportTo": ["."],
        }
        await client.create(config_type("ServiceEntry"), config("ServiceEntry", namespace, "new", spec))
        await refused(client, "ServiceEntry", namespace, "new")
        assert not [name for name in proxy.held[CLUSTER] if "new.example.com" in name]


async def test_innocent_objects_are_not_blamed(plane: ControlPlane, client: Client, namespace: str) -> None:
    """A proxy that refuses everything, and one that refuses what no object's change explains, accuse nobody."""
    async with routed(plane, client, namespace, 8014, "a") as proxy:

        def everything(type_url: str, name: str, body: bytes) -> str:
            return "too old for this"

        async with connected(plane.grpc, node_of(namespace, LABELS={"app": "old"}), refuse=everything) as old:
            await old.ask(ROUTE, "8014")
            await until(lambda: {push.type_url for push in old.pushes} >= {CLUSTER, LISTENER, ROUTE})
            before = len(old.pushes)
            await rename(client, namespace, "a", "second-a")
            await proxy.holds(ROUTE, "8014", b"second-a")
            await until(lambda: len(old.pushes) > before)
            await rename(client, namespace, "a", "third-a")
            await proxy.holds(ROUTE, "8014", b"third-a")
        proxy.refuse = everything
        extra = service("extra", namespace, 8014)
        await client.create(SERVICES, extra)
        await until(lambda: any("extra" in str(push.names) for push in proxy.pushes))
        problems = json.loads((await plane.get("/debug/problems"))[1])
        assert [one for one in problems if one["namespace"] == namespace] == []


async def test_unreadable_object_leaves_the_old_one(plane: ControlPlane, client: Client, namespace: str) -> None:
    """An edit that cannot be used is told in the object's status; what it was before stays in force."""
    async with routed(plane, client, namespace, 8015, "a") as proxy:
        found = await client.get(config_type("VirtualService"), "a", namespace)
        found["spec"]["http"][0] = {"name": "no-destination", "route": [{"destination": {"host": "a"}, "weight": -5}]}
        await client.update(config_type("VirtualService"), found)
        assert "weight" in await refused(client, "VirtualService", namespace, "a")
        assert b"first-a" in proxy.body(ROUTE, "8015")
        await rename(client, namespace, "a", "ignored")
        found = await client.get(config_type("VirtualService"), "a", namespace)
        found["spec"]["http"][0]["route"][0]["weight"] = 1
        await client.update(config_type("VirtualService"), found)
        await proxy.holds(ROUTE, "8015", b"ignored")
        await in_force(client, "VirtualService", namespace, "a")


def outside(namespace: str, name: str) -> Object:
    """A service without mTLS: there is no agent here that would have certificates."""
    spec = {
        "hosts": [f"{name}.{namespace}.example.com"],
        "ports": [{"name": "http", "number": 8016, "protocol": "HTTP"}],
        "resolution": "STATIC",
        "location": "MESH_EXTERNAL",
        "endpoints": [{"address": "127.0.0.1"}],
    }
    return config("ServiceEntry", namespace, name, spec)


def bootstrap(plane: ControlPlane, node: Object, admin: int) -> Object:
    """Clusters only: listeners would bind the ports of a real sidecar."""
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    http2 = {options: {"@type": proto.TYPE_URL + options, "explicit_http_config": {"http2_protocol_options": {}}}}
    at = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": plane.grpc}}}}
    ads = {"ads": {}, "resource_api_version": "V3"}
    service = {"envoy_grpc": {"cluster_name": "xds"}}
    source = {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [service]}
    cluster = {
        "name": "xds",
        "typed_extension_protocol_options": http2,
        "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [at]}]},
    }
    return {
        "node": {**node, "cluster": "c"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "dynamic_resources": {"cds_config": ads, "ads_config": source},
        "static_resources": {"clusters": [cluster]},
    }


async def test_real_envoy_refuses_an_envoy_filter(
    plane: ControlPlane, client: Client, namespace: str, tmp_path: Path
) -> None:
    """An EnvoyFilter that Envoy cannot use is taken back, and the proxy goes on to take other changes."""
    (admin,) = free_ports(1)
    node = node_of(namespace, LABELS={"app": "a"})
    (tmp_path / "envoy.json").write_text(json.dumps(bootstrap(plane, node, admin)))
    scope = config("Sidecar", namespace, "own", {"egress": [{"hosts": ["./*"]}]})
    await client.create(config_type("Sidecar"), scope)
    await client.create(config_type("ServiceEntry"), outside(namespace, "a"))
    envoy = await asyncio.create_subprocess_exec(
        str(proto.envoy_binary()),
        *("-c", str(tmp_path / "envoy.json"), "--disable-hot-restart", "--concurrency", "1", "-l", "off"),
    )

    async def clusters() -> str:
        try:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{admin}/clusters") as answer:
                return await answer.text()
        except aiohttp.ClientError:
            return ""

    async def has(text: str) -> bool:
        return text in await clusters()

    try:
        await until(lambda: has(f"outbound|8016||a.{namespace}.example.com"), "the first configuration")
        patch = {
            "applyTo": "CLUSTER",
            "match": {"cluster": {"service": f"a.{namespace}.example.com"}},
            "patch": {"operation": "MERGE", "value": {"transport_socket": {"name": "no.such.socket"}}},
        }
        bad = config("EnvoyFilter", namespace, "bad", {"configPatches": [patch]})
        await client.create(config_type("EnvoyFilter"), bad)
        assert "no.such.socket" in await refused(client, "EnvoyFilter", namespace, "bad")
        await client.create(config_type("ServiceEntry"), outside(namespace, "b"))
        await until(lambda: has(f"outbound|8016||b.{namespace}.example.com"), "the next change")
        found = await client.get(config_type("EnvoyFilter"), "bad", namespace)
        found["spec"]["configPatches"][0]["patch"]["value"] = {"connect_timeout": "3s"}
        await client.update(config_type("EnvoyFilter"), found)
        await in_force(client, "EnvoyFilter", namespace, "bad")
    finally:
        envoy.terminate()
        await envoy.wait()
