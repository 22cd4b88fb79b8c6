"""Scheduler: gives pods that ask for `default-scheduler` a node. Resource requests are not counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pilotfish.kube.errors import is_conflict, is_not_found
from pilotfish.kube.informer import Change
from pilotfish.kube.meta import Key, find_condition, format_time, is_deleting, key_of, now, with_condition
from pilotfish.kube.resources import NODES, PODS, Object
from pilotfish.local.controllers.base import Cluster, Controller
from pilotfish.local.controllers.placement import why_not
from pilotfish.local.controllers.pods import is_finished


def choose(pod: Mapping[str, Any], nodes: Sequence[Object]) -> tuple[str, str]:
    """The node's name, or why there is none, as the Kubernetes scheduler words it."""
    reasons: Counter[str] = Counter()
    for node in sorted(nodes, key=lambda node: str(node["metadata"]["name"])):
        reason = why_not(pod, node)
        if not reason:
            return node["metadata"]["name"], ""
        reasons[reason] += 1
    if not nodes:
        return "", "no nodes available to schedule pods"
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return "", f"0/{len(nodes)} nodes are available: {listed}."


def waits(pod: Mapping[str, Any]) -> bool:
    spec = pod["spec"]
    return (
        not spec.get("nodeName")
        and spec.get("schedulerName", "default-scheduler") == "default-scheduler"
        and not is_deleting(pod)
        and not is_finished(pod)
    )


class Scheduler(Controller):
    name = "default-scheduler"
    workers = 8

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._pods = self.watch(PODS, self._pod_changed).store
        self._nodes = self.watch(NODES, self._node_changed).store

    def _pod_changed(self, change: Change) -> None:
        if change.new is not None and waits(change.new):
            self.enqueue(change)

    def _node_changed(self, change: Change) -> None:
        if change.old is not None and change.new is not None and _placing(change.old) == _placing(change.new):
            return  # a heartbeat
        for pod in self._pods.values():
            if waits(pod):
                self.queue.add(key_of(pod))

    async def sync(self, key: Key) -> None:
        pod = self._pods.get(*key)
        if pod is None or not waits(pod):
            return
        gates = pod["spec"].get("schedulingGates")
        if gates:
            await self._refuse(pod, "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates")
            return
        node, reason = choose(pod, self._nodes.values())
        if not node:
            await self._refuse(pod, "Unschedulable", reason)
            return
        namespace, name = key
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": pod["metadata"]["uid"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        try:
            await self.client.create(PODS, binding, namespace, name=name, subresource="binding")
        except Exception as error:
            if is_not_found(error) or is_conflict(error):
                return  # gone, or placed by someone else
            raise
        message = f"Successfully assigned {namespace}/{name} to {node}"
        self.events.record(pod, "Normal", "Scheduled", message)

    async def _refuse(self, pod: Object, reason: str, message: str) -> None:
        if reason == "Unschedulable":
            self.events.record(pod, "Warning", "FailedScheduling", message)
        status = pod.get("status") or {}
        current = find_condition(status.get("conditions"), "PodScheduled")
        if current is not None and (current.get("reason"), current.get("message")) == (reason, message):
            return
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "lastProbeTime": None,
            "lastTransitionTime": format_time(now()),
            "reason": reason,
            "message": message,
        }
        conditions = with_condition(status.get("conditions"), condition)
        patch = {
            "metadata": {"resourceVersion": pod["metadata"]["resourceVersion"]},
            "status": {"conditions": conditions},
        }
        await self.cluster.patch(PODS, pod, patch, subresource="status")


def _placing(node: Mapping[str, Any]) -> tuple[Any, ...]:
    """What of a node decides about placing."""
    return node["metadata"].get("labels"), node.get("spec")
