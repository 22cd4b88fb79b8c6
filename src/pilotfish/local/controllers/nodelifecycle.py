"""A node whose lease is not renewed is not ready. Nothing is evicted: there is nowhere else to go."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from pilotfish.kube.informer import Change
from pilotfish.kube.meta import Key, find_condition, format_time, now, with_condition
from pilotfish.kube.resources import LEASES, NODES, Object
from pilotfish.local.controllers.base import Cluster, Controller

LEASE_NAMESPACE = "kube-node-lease"
_GRACE = 40.0  # seconds without a renewal, as kube-controller-manager's --node-monitor-grace-period
_REASON = "NodeStatusUnknown"


def condition(node: Mapping[str, Any], silent: bool, moment: str) -> Object | None:
    """The Ready condition to set; None when it is right. A silence that ends takes back only what we said ourselves."""
    current = find_condition((node.get("status") or {}).get("conditions"), "Ready")
    if current is None:
        return None
    ours = current.get("reason") == _REASON
    if silent == ours:
        return None
    if silent:
        said = {"status": "Unknown", "reason": _REASON, "message": "Kubelet stopped posting node status."}
    else:
        said = {"status": "True", "reason": "KubeletReady", "message": "the node renews its lease again"}
    return {**current, **said, "lastTransitionTime": moment}


class NodeLifecycleController(Controller):
    name = "node-controller"
    workers = 1

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._renewed: dict[str, tuple[Any, float]] = {}
        self._nodes = self.watch(NODES).store
        informer = cluster.informers.get(LEASES, LEASE_NAMESPACE)
        informer.add_handler(self._lease_changed)
        self._leases = informer.store

    def _lease_changed(self, change: Change) -> None:
        name = change.object["metadata"]["name"]
        if change.new is None:
            self._renewed.pop(name, None)
            return
        # By our own clock, from when we saw it: clocks of different machines are not compared.
        seen = change.new.get("spec", {}).get("renewTime")
        if self._renewed.get(name, (None, 0.0))[0] != seen:
            self._renewed[name] = seen, asyncio.get_running_loop().time()
        self.queue.add(("", name))

    async def sync(self, key: Key) -> None:
        node = self._nodes.get(*key)
        if node is None or key[1] not in self._renewed:
            return  # a node without a lease is not watched over
        left = self._renewed[key[1]][1] + _GRACE - asyncio.get_running_loop().time()
        wanted = condition(node, left <= 0, format_time(now()))
        if wanted is not None:
            conditions = with_condition(node["status"]["conditions"], wanted)
            await self.cluster.patch(NODES, node, {"status": {"conditions": conditions}}, subresource="status")
            reason = "NodeReady" if wanted["status"] == "True" else "NodeNotReady"
            message = f"Node {key[1]} status is now: {reason}"
            self.events.record(node, "Normal", reason, message)
        if left > 0:
            self.queue.add_after(key, left + 0.1)
