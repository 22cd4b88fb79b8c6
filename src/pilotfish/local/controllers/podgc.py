"""Pods nobody else would remove: those being deleted before they had a node, and those of a node that is gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pilotfish.kube.errors import KubeError, is_not_found
from pilotfish.kube.informer import Change
from pilotfish.kube.meta import Key, format_time, is_deleting, key_of, now, with_condition
from pilotfish.kube.resources import NODES, PODS, Object
from pilotfish.local.controllers.base import Cluster, Controller
from pilotfish.local.controllers.pods import is_finished

_QUARANTINE = 40.0  # seconds a node may be unknown before its pods are given up


def why_removed(pod: Mapping[str, Any], knows_node: Callable[[str], bool]) -> str:
    """`unscheduled`, `orphaned`, or empty when the pod is someone's business."""
    node = pod["spec"].get("nodeName")
    if not node:
        return "unscheduled" if is_deleting(pod) else ""
    return "" if knows_node(node) else "orphaned"


class PodGarbageCollector(Controller):
    name = "pod-garbage-collector-controller"
    workers = 1

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._nodes = self.watch(NODES, self._node_changed).store
        self._pods = self.watch(PODS, self._pod_changed).store

    def _node_changed(self, change: Change) -> None:
        if change.new is None:
            for pod in self._pods.values():
                if pod["spec"].get("nodeName") == change.object["metadata"]["name"]:
                    self.queue.add_after(key_of(pod), _QUARANTINE)

    def _pod_changed(self, change: Change) -> None:
        if change.new is None:
            return
        why = why_removed(change.new, self._knows)
        if why == "unscheduled":
            self.enqueue(change)
        elif why:
            self.queue.add_after(key_of(change.new), _QUARANTINE)

    def _knows(self, node: str) -> bool:
        return self._nodes.get("", node) is not None

    async def sync(self, key: Key) -> None:
        pod = self._pods.get(*key)
        why = why_removed(pod, self._knows) if pod is not None else ""
        if pod is None or not why:
            return
        if why == "orphaned" and not is_finished(pod):
            await self._fail(pod)
        namespace, name = key
        try:
            await self.client.delete(PODS, name, namespace, grace_seconds=0, uid=pod["metadata"]["uid"])
        except KubeError as error:
            if not is_not_found(error):
                raise

    async def _fail(self, pod: Object) -> None:
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "lastTransitionTime": format_time(now()),
            "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists",
        }
        conditions = with_condition((pod.get("status") or {}).get("conditions"), condition)
        status = {"phase": "Failed", "conditions": conditions}
        await self.cluster.patch(PODS, pod, {"status": status}, subresource="status")
