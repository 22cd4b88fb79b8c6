from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.controllers.builders import obj, pod, template

from pilotfish.kube.client import Client
from pilotfish.kube.errors import ApiStatusError
from pilotfish.kube.meta import condition_is, format_micro_time, format_time, now
from pilotfish.kube.resources import LEASES, NODES, PODS
from pilotfish.local.controllers.nodelifecycle import LEASE_NAMESPACE, condition
from pilotfish.local.controllers.podgc import why_removed

Run = Callable[..., Any]


def node(status: str, reason: str) -> dict[str, Any]:
    return obj("Node", "n", status={"conditions": [{"type": "Ready", "status": status, "reason": reason}]})


def test_a_silent_node_is_not_ready() -> None:
    """Silence makes Ready unknown; when it ends only our own word is taken back, not what the node said of itself."""
    silent = condition(node("True", "KubeletReady"), True, "t")
    assert silent is not None
    assert (silent["status"], silent["reason"], silent["lastTransitionTime"]) == ("Unknown", "NodeStatusUnknown", "t")
    back = condition(node("Unknown", "NodeStatusUnknown"), False, "t")
    assert back is not None
    assert back["status"] == "True"
    assert condition(node("Unknown", "NodeStatusUnknown"), True, "t") is None
    assert condition(node("False", "KubeletNotReady"), False, "t") is None
    assert condition(obj("Node", "n"), True, "t") is None


def test_pods_nobody_sees_to() -> None:
    """Deleted before it had a node, or on a node that is gone."""
    assert why_removed(pod(node="", deleting=True), {"n"}.__contains__) == "unscheduled"
    assert why_removed(pod(node=""), {"n"}.__contains__) == ""
    assert why_removed(pod(node="n"), set[str]().__contains__) == "orphaned"
    assert why_removed(pod(node="n"), {"n"}.__contains__) == ""


async def test_renewed_lease_makes_the_node_ready_again(client: Client, until: Run, namespace: str) -> None:
    """A node that was given up is ready as soon as its lease moves."""
    name = f"node-{namespace}"
    await client.create(NODES, {"metadata": {"name": name}})
    try:
        silent = {
            "type": "Ready",
            "status": "Unknown",
            "reason": "NodeStatusUnknown",
            "lastTransitionTime": format_time(now()),
        }
        await client.patch(NODES, name, {"status": {"conditions": [silent]}}, subresource="status")
        lease = {"metadata": {"name": name}, "spec": {"holderIdentity": name, "renewTime": format_micro_time(now())}}
        await client.create(LEASES, lease, LEASE_NAMESPACE)
        await until(
            NODES,
            lambda found: any(one["metadata"]["name"] == name and condition_is(one, "Ready") for one in found),
            where="",
        )
    finally:
        await client.delete(NODES, name)
        try:
            await client.delete(LEASES, name, LEASE_NAMESPACE)
        except ApiStatusError as error:
            assert error.code == 404  # noqa: PT017 - its own collection may have come first


async def test_unplaced_pod_is_gone_at_once(client: Client, until: Run, namespace: str) -> None:
    """A pod without a node needs no grace."""
    one = {"metadata": {"name": "p"}, "spec": template(schedulerName="nobody")["spec"]}
    await client.create(PODS, one, namespace)
    await client.delete(PODS, "p", namespace)
    await until(PODS, lambda found: not found)
