"""From the Kubernetes API to connected proxies."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from pilotfish.envoy.resource import CLUSTER, LISTENER, ROUTE
from pilotfish.kube.client import Client
from pilotfish.kube.resources import CONFIG_MAPS, SERVICES

from .conftest import SYSTEM, Cluster, install_crds
from .harness import (
    ControlPlane,
    config,
    config_type,
    connected,
    ensure_namespace,
    new_namespace,
    node_of,
    service,
    until,
)

pytestmark = pytest.mark.xdist_group("daemon")


def cluster_of(name: str, namespace: str, port: int = 80) -> str:
    return f"outbound|{port}||{name}.{namespace}.svc.cluster.local"


async def test_changes_reach_a_proxy_as_the_smallest_delta(plane: ControlPlane, client: Client, namespace: str) -> None:
    """Created, changed and deleted objects: each is one response with the one resource that differs; a proxy that
    only sees another namespace hears nothing."""
    await client.create(SERVICES, service("a", namespace, 8001))
    scope = config("Sidecar", namespace, "own", {"egress": [{"hosts": ["./*"]}]})
    await client.create(config_type("Sidecar"), scope)
    elsewhere = await new_namespace(client)
    other_scope = config("Sidecar", elsewhere, "own", {"egress": [{"hosts": ["./*"]}]})
    await client.create(config_type("Sidecar"), other_scope)
    async with connected(plane.grpc, node_of(elsewhere)) as other, connected(plane.grpc, node_of(namespace)) as proxy:
        await proxy.holds(CLUSTER, cluster_of("a", namespace, 8001))
        await proxy.holds(LISTENER, "0.0.0.0_8001")
        await until(lambda: not [n for n in other.held[CLUSTER] if "outbound|" in n])
        await proxy.ask(ROUTE, "8001")
        await proxy.holds(ROUTE, "8001", cluster_of("a", namespace, 8001).encode())
        other.pushes.clear()
        proxy.pushes.clear()

        spec = {"hosts": ["a"], "http": [{"timeout": "7s", "route": [{"destination": {"host": "a"}}]}]}
        made = await client.create(config_type("VirtualService"), config("VirtualService", namespace, "a", spec))
        before = proxy.body(ROUTE, "8001")
        await until(lambda: proxy.body(ROUTE, "8001") != before)
        assert [(p.type_url, p.names, p.removed) for p in proxy.pushes] == [(ROUTE, ("8001",), ())]
        made["spec"]["http"][0]["timeout"] = "8s"
        changed = proxy.body(ROUTE, "8001")
        await client.update(config_type("VirtualService"), made)
        await until(lambda: proxy.body(ROUTE, "8001") != changed)
        await client.delete(config_type("VirtualService"), "a", namespace)
        await until(lambda: proxy.body(ROUTE, "8001") == before)
        assert {(p.type_url, p.names) for p in proxy.pushes} == {(ROUTE, ("8001",))}
        assert len(proxy.pushes) == 3

        proxy.pushes.clear()
        await client.delete(SERVICES, "a", namespace)
        await proxy.lacks(CLUSTER, cluster_of("a", namespace, 8001))
        assert proxy.pushes[-1].removed == (cluster_of("a", namespace, 8001),), "clusters leave last"
        assert other.pushes == []


async def test_definitions_installed_later_are_picked_up(bare_cluster: Cluster) -> None:
    """A control plane that starts before the mesh's definitions exist serves, and takes up its kinds when they come."""
    async with Client.from_file(bare_cluster.kubeconfig) as client:
        await ensure_namespace(client, SYSTEM)
        plane = ControlPlane(bare_cluster.kubeconfig, bare_cluster.folder, SYSTEM)
        plane.start()
        try:
            await plane.ready()
            namespace = await new_namespace(client)
            async with connected(plane.grpc, node_of(namespace)) as proxy:
                await until(lambda: LISTENER in {p.type_url for p in proxy.pushes})
                await install_crds(client)
                spec = {"hosts": ["late.example.com"], "ports": [{"name": "http", "number": 8123, "protocol": "HTTP"}]}
                entry = config("ServiceEntry", namespace, "late", {**spec, "resolution": "DNS"})

                async def created() -> bool:
                    try:
                        await client.create(config_type("ServiceEntry"), entry)
                    except Exception:  # noqa: BLE001  the kind is not served yet
                        return False
                    return True

                await until(created)
                await proxy.holds(CLUSTER, "outbound|8123||late.example.com")
        finally:
            assert plane.end() == 0


async def test_not_ready_while_the_api_server_is_away(tmp_path: Path, cluster: Cluster) -> None:
    """Without an API server it answers 503 and serves no proxy; told to stop it goes, all the same."""
    text = re.sub(r"https://[^\s\"]+", "https://127.0.0.1:1", cluster.kubeconfig.read_text())
    (tmp_path / "kubeconfig").write_text(text)
    plane = ControlPlane(tmp_path / "kubeconfig", tmp_path, SYSTEM)
    plane.start()

    async def answers() -> bool:
        return (await plane.get("/ready", plane.http))[0] == 503

    await until(answers)
    assert (await plane.get("/metrics"))[0] == 200
    assert plane.end() == 0
    assert "Traceback" not in plane.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restart_sends_nothing(cluster: Cluster, client: Client, namespace: str, number: int) -> None:
    """A proxy that reconnects with what it holds is sent nothing by a new control plane, however the old one ended."""
    await client.create(SERVICES, service("a", namespace, 8100 + number))
    plane = ControlPlane(cluster.kubeconfig, cluster.folder, SYSTEM, f"restarting-{number}")
    plane.start()
    try:
        await plane.ready()
        node = node_of(namespace)
        async with connected(plane.grpc, node) as proxy:
            await proxy.holds(CLUSTER, cluster_of("a", namespace, 8100 + number))
            await proxy.holds(LISTENER, "virtualInbound")
            await until(lambda: len(proxy.pushes) >= 2)
            plane.end(number)
        plane.start()
        await plane.ready()
        async with connected(plane.grpc, node, LISTENER) as probe:
            await probe.holds(LISTENER, "virtualInbound")
        async with connected(plane.grpc, node, "none") as again:
            for type_url in (CLUSTER, LISTENER):
                await again.ask(type_url, versions=proxy.versions(type_url))
            await client.create(SERVICES, service("b", namespace, 8200 + number))
            await again.holds(CLUSTER, cluster_of("b", namespace, 8200 + number))
            await again.holds(LISTENER, f"0.0.0.0_{8200 + number}")
            sent = {name for push in again.pushes for name in push.names}
            assert sent == {cluster_of("b", namespace, 8200 + number), f"0.0.0.0_{8200 + number}"}
    finally:
        plane.end()


async def test_mesh_settings_are_reloaded(cluster: Cluster, client: Client, namespace: str) -> None:
    """An edited mesh ConfigMap is in force at once; one that cannot be read, or is wrong, leaves them as they were."""
    system = await new_namespace(client, "sys")
    plane = ControlPlane(cluster.kubeconfig, cluster.folder, system, "settings")

    async def put(mesh: str) -> None:
        body = {"metadata": {"name": "istio", "namespace": system}, "data": {"mesh": mesh}}
        await client.apply({"apiVersion": "v1", "kind": "ConfigMap", **body}, "test", force=True, resource=CONFIG_MAPS)

    await put("connectTimeout: 7s\n")
    plane.start()
    try:
        await plane.ready()
        await client.create(SERVICES, service("a", namespace, 8004))
        async with connected(plane.grpc, node_of(namespace)) as proxy:
            name = cluster_of("a", namespace, 8004)
            await proxy.holds(CLUSTER, name)
            first = proxy.body(CLUSTER, name)
            await put("connectTimeout: 9s\n")
            await until(lambda: proxy.body(CLUSTER, name) != first)
            second = proxy.body(CLUSTER, name)
            await put("connectTimeout: [nonsense\n")
            await until(lambda: "the settings in force stay" in plane.log.read_text())
            await put("connectTimeout: 3s\ntrustDomain: not/one\n")
            await until(lambda: "no trust domain" in plane.log.read_text())
            assert proxy.body(CLUSTER, name) == second
            await put("connectTimeout: 7s\noutboundTrafficPolicy: {mode: ALLOW_ANY}\nnoSuchSetting: 1\n")
            await until(lambda: "noSuchSetting" in plane.log.read_text(), "the warning")
            await until(lambda: proxy.body(CLUSTER, name) == first)
            assert second != first
    finally:
        plane.end()
