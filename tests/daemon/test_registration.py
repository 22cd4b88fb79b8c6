"""Workloads outside Kubernetes register themselves by connecting, and only as who they have proved to be."""

from __future__ import annotations

import signal
import ssl
from base64 import b64decode
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pilotfish.daemon.registration import CONNECTED, CONTROLLER, DISCONNECTED, ENTRIES, GROUPS
from pilotfish.envoy import proto
from pilotfish.envoy.resource import CLUSTER, ENDPOINT
from pilotfish.kube.client import Client
from pilotfish.kube.resources import SECRETS, SERVICE_ACCOUNTS, SERVICES, Object
from pilotfish.xds.service import HEALTH_TYPE

from .conftest import SYSTEM, Cluster
from .harness import (
    DELTA,
    ControlPlane,
    Proxy,
    client_tls,
    config,
    connected,
    new_namespace,
    node_of,
    service,
    token,
    until,
)
from .test_control import roots_in

pytestmark = pytest.mark.xdist_group("daemon")


@pytest.fixture
async def tls(plane: ControlPlane, cluster: Cluster, client: Client) -> ssl.SSLContext:
    """Trusts the control plane."""
    roots = await until(lambda: roots_in(client, SYSTEM), "the roots")
    return client_tls(cluster.folder, trust=str(roots).encode())


TEMPLATE = {
    "metadata": {"labels": {"app": "machines", "site": "group"}},
    "template": {"serviceAccount": "machine", "ports": {"http": 9000}, "labels": {"site": "template"}},
}


def machine(namespace: str, account: str = "machine") -> Object:
    labels = {"site": "node"}
    probe = {"readinessProbe": {"tcpSocket": {"port": 9000}}}
    return node_of(
        namespace, account=account, AUTO_REGISTER_GROUP="machines", LABELS=labels, PROXY_CONFIG=probe, NETWORK="n1"
    )


async def entries(client: Client, namespace: str) -> list[Object]:
    return (await client.list(ENTRIES, namespace)).items


async def say(proxy: Proxy, problem: str = "") -> None:
    """What the agent says of its workload's health."""
    fields: dict[str, Any] = {"type_url": HEALTH_TYPE}
    if problem:
        fields["error_detail"] = {"code": 13, "message": problem}
    await proxy.stream.send_message(proto.encode(DELTA + "DiscoveryRequest", fields))


async def test_a_machine_comes_reports_and_goes(
    plane: ControlPlane, client: Client, namespace: str, tls: ssl.SSLContext
) -> None:
    """Connecting makes the entry, from template, group and node, with the replica that has the workload; it is an
    endpoint of Services while it is healthy; some time after the last connection it is gone."""
    await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "machine", "namespace": namespace}})
    await client.create(SERVICES, service("machines", namespace))
    bearer = await token(client, namespace, "machine")
    host = f"outbound|80||machines.{namespace}.svc.cluster.local"
    async with connected(plane.secure, machine(namespace), CLUSTER, tls=tls, bearer=bearer) as proxy:
        await proxy.holds(CLUSTER, host)
        await proxy.ask(ENDPOINT, host)
        await client.create(GROUPS, config("WorkloadGroup", namespace, "machines", TEMPLATE))  # later than the machine
        (made,) = await until(lambda: entries(client, namespace), "the entry")
        assert made["metadata"]["name"] == "machines-10.1.1.1-n1"
        assert made["metadata"]["ownerReferences"][0]["kind"] == "WorkloadGroup"
        labels = {"app": "machines", "site": "node"}
        assert made["metadata"]["labels"] == labels
        assert made["spec"] == {
            "address": "10.1.1.1",
            "labels": labels,
            "network": "n1",
            "ports": {"http": 9000},
            "serviceAccount": "machine",
        }

        async def noted() -> Any:
            notes = (await entries(client, namespace))[0]["metadata"]["annotations"]
            return notes.get(CONTROLLER) == plane.name and CONNECTED in notes and DISCONNECTED not in notes

        await until(noted, "whose it is")
        assert b"10.1.1.1" not in proxy.body(ENDPOINT, host)
        await say(proxy)
        await proxy.holds(ENDPOINT, host, b"10.1.1.1")
        await say(proxy, "too hot")
        await until(lambda: b"10.1.1.1" not in proxy.body(ENDPOINT, host), "it leaves the endpoints")
        condition = (await entries(client, namespace))[0]["status"]["conditions"][0]
        assert (condition["type"], condition["status"], condition["message"]) == ("Healthy", "False", "too hot")

    async def gone() -> Any:
        return not await entries(client, namespace)

    await until(gone, "the end of the entry")


async def test_nobody_registers_as_another(
    plane: ControlPlane, client: Client, namespace: str, tls: ssl.SSLContext
) -> None:
    """Neither a stranger on the plain port nor another service account of the namespace joins a group."""
    await client.create(GROUPS, config("WorkloadGroup", namespace, "machines", TEMPLATE))
    bearer = await token(client, namespace)
    node = machine(namespace, account="default")
    async with (
        connected(plane.grpc, machine(namespace)) as stranger,
        connected(plane.secure, node, tls=tls, bearer=bearer) as other,
    ):
        await stranger.verdict()
        await other.verdict()
        await until(lambda: "may not be WorkloadEntry" in plane.log.read_text(), "a word in the log")
        assert await entries(client, namespace) == []


async def test_the_next_replica_takes_over(cluster: Cluster, client: Client) -> None:
    """After a replica has died, its machines are those of whom they connect to next; who does not is forgotten."""
    system = await new_namespace(client, "system")
    short = {"PILOT_WORKLOAD_ENTRY_GRACE_PERIOD": "500ms"}
    first, second = (ControlPlane(cluster.kubeconfig, cluster.folder, system, name, **short) for name in ("one", "two"))
    for account in ("machine", "other"):
        await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": account, "namespace": system}})
    group = {**TEMPLATE, "template": {}}
    for name in ("machines", "others"):
        await client.create(GROUPS, config("WorkloadGroup", system, name, group))
    machines, others = machine(system), machine(system)
    others["metadata"]["AUTO_REGISTER_GROUP"] = "others"

    async def controllers() -> dict[str, str]:
        found = await entries(client, system)
        return {one["metadata"]["name"]: one["metadata"]["annotations"].get(CONTROLLER, "") for one in found}

    try:
        first.start()
        await first.ready()
        bearer = await token(client, system, "machine")
        own = await client.get(SECRETS, "istio-ca-secret", system)
        tls = client_tls(cluster.folder, trust=b64decode(own["data"]["root-cert.pem"]))
        async with (
            connected(first.secure, machines, tls=tls, bearer=bearer),
            connected(first.secure, others, tls=tls, bearer=bearer),
        ):
            both = {"machines-10.1.1.1-n1": "one", "others-10.1.1.1-n1": "one"}
            await until(lambda: controllers_are(controllers, both), "both entries")
            first.end(signal.SIGKILL)
        second.start()
        await second.ready()
        async with connected(second.secure, machines, tls=tls, bearer=bearer):
            left = {"machines-10.1.1.1-n1": "two"}
            await until(lambda: controllers_are(controllers, left), "one has moved, the other is forgotten")
    finally:
        first.end()
        second.end()


async def controllers_are(asked: Callable[[], Awaitable[dict[str, str]]], wanted: dict[str, str]) -> bool:
    return await asked() == wanted
