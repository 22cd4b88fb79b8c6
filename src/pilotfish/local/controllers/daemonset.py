"""DaemonSet: one pod on every node that may have it.

The rules are those of kubernetes/pkg/controller/daemon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from pilotfish.kube.informer import Change
from pilotfish.kube.meta import (
    Key,
    controller_of,
    controller_reference,
    is_deleting,
    key_of,
    labels_of,
    now,
)
from pilotfish.kube.resources import CONTROLLER_REVISIONS, DAEMON_SETS, NODES, PODS, Object
from pilotfish.local.controllers import revisions
from pilotfish.local.controllers.base import Cluster, Controller, in_batches, scaled_value
from pilotfish.local.controllers.placement import matches_node_affinity, untolerated_taint
from pilotfish.local.controllers.pods import (
    from_template,
    is_available,
    is_finished,
    is_ready,
    phase_of,
    seconds_until_available,
)

_REVISION = "controller-revision-hash"
_GENERATION = "pod-template-generation"
# What every daemon pod tolerates (AddOrUpdateDaemonPodTolerations).
_TOLERATIONS = [
    *(
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute"}
        for key in ("not-ready", "unreachable")
    ),
    *(
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoSchedule"}
        for key in ("disk-pressure", "memory-pressure", "pid-pressure", "unschedulable")
    ),
]
_HOST_NETWORK = {"key": "node.kubernetes.io/network-unavailable", "operator": "Exists", "effect": "NoSchedule"}


def node_of(pod: Mapping[str, Any]) -> str:
    """Where a daemon pod is, or is to be by its affinity."""
    spec = pod["spec"]
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or ():
        for one in term.get("matchFields") or ():
            if one["key"] == "metadata.name" and one["operator"] == "In" and len(one["values"]) == 1:
                return str(one["values"][0])
    return ""


def make_pod(daemon_set: Mapping[str, Any], node: str, revision: str) -> Object:
    namespace, name = key_of(daemon_set)
    template = daemon_set["spec"]["template"]
    pod = from_template(template, namespace, controller_reference(daemon_set, DAEMON_SETS), prefix=f"{name}-")
    pod["metadata"]["labels"] |= {
        _REVISION: revision,
        _GENERATION: str(daemon_set["metadata"].get("generation", 1)),
    }
    spec = pod["spec"]
    affinity = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    required = affinity.setdefault("requiredDuringSchedulingIgnoredDuringExecution", {"nodeSelectorTerms": [{}]})
    only = [{"key": "metadata.name", "operator": "In", "values": [node]}]
    for term in required["nodeSelectorTerms"]:
        term["matchFields"] = only
    spec["tolerations"] = _tolerations(spec)
    return pod


def _tolerations(spec: Mapping[str, Any]) -> list[Object]:
    added = [*_TOLERATIONS, *([_HOST_NETWORK] if spec.get("hostNetwork") else [])]
    own = deepcopy(list(spec.get("tolerations") or ()))
    return own + [dict(one) for one in added if one not in own]


def placement(daemon_set: Mapping[str, Any], node: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a pod should be made for the node, and whether one that is there may go on."""
    spec = dict(daemon_set["spec"]["template"]["spec"])
    spec["tolerations"] = _tolerations(spec)
    wanted = spec.get("nodeName")
    if (wanted and wanted != node["metadata"]["name"]) or not matches_node_affinity(spec, node):
        return False, False
    may_go_on = untolerated_taint(spec, node, ("NoExecute",)) is None
    return may_go_on and untolerated_taint(spec, node, ("NoSchedule", "NoExecute")) is None, may_go_on


@dataclass(slots=True)
class Plan:
    create: list[str] = field(default_factory=list)
    """Node names."""
    delete: list[Object] = field(default_factory=list)
    failed: list[Object] = field(default_factory=list)
    """Of those to delete, the ones that had failed."""


@dataclass(frozen=True, slots=True)
class _Place:
    """The live pods on one node that should have one."""

    node: str
    current: Sequence[Object]
    outdated: Sequence[Object]
    available: bool
    """Some pod serves."""
    current_available: bool


def plan(
    daemon_set: Mapping[str, Any], nodes: Sequence[Object], pods: Sequence[Object], revision: str, at: datetime
) -> Plan:
    result = Plan()
    if is_deleting(daemon_set):
        return result
    by_node: dict[str, list[Object]] = {}
    for pod in pods:
        by_node.setdefault(node_of(pod), []).append(pod)
    names = {node["metadata"]["name"] for node in nodes}
    for name, strays in by_node.items():
        if name and name not in names:
            result.delete += [pod for pod in strays if not is_deleting(pod)]
    minimum = int(daemon_set["spec"].get("minReadySeconds") or 0)
    places: list[_Place] = []
    for node in nodes:
        name = node["metadata"]["name"]
        should_run, may_go_on = placement(daemon_set, node)
        here = by_node.get(name, [])
        if not should_run and not may_go_on:
            result.delete += [pod for pod in here if not is_deleting(pod)]
        elif should_run and not here:
            result.create.append(name)
        if should_run:
            places.append(_place(result, name, here, revision, minimum, at))
    _roll(daemon_set, result, places)
    return result


def _place(result: Plan, name: str, pods: Sequence[Object], revision: str, minimum: int, at: datetime) -> _Place:
    """Sort the pods of a node; failed ones and duplicates are to be deleted."""
    kept = []
    for pod in pods:
        if is_deleting(pod):
            continue
        if is_finished(pod):
            result.delete.append(pod)
            result.failed.append(pod)
        else:
            kept.append(pod)
    kept.sort(key=_seniority)
    current = [pod for pod in kept if labels_of(pod).get(_REVISION) == revision]
    outdated = [pod for pod in kept if labels_of(pod).get(_REVISION) != revision]
    result.delete += [*current[1:], *outdated[1:]]
    return _Place(
        name,
        current[:1],
        outdated[:1],
        any(is_available(pod, minimum, at) for pod in kept),
        any(is_available(pod, minimum, at) for pod in current),
    )


def _seniority(pod: Mapping[str, Any]) -> tuple[bool, str]:
    return not is_ready(pod), pod["metadata"].get("creationTimestamp", "")


def _roll(daemon_set: Mapping[str, Any], result: Plan, places: Sequence[_Place]) -> None:
    """Replace outdated pods: with a surge the new pod comes first, else the old one goes first."""
    strategy = daemon_set["spec"].get("updateStrategy") or {}
    if strategy.get("type", "RollingUpdate") != "RollingUpdate":
        return
    rolling = strategy.get("rollingUpdate") or {}
    surge = scaled_value(rolling.get("maxSurge", 0), len(places), round_up=True)
    unavailable = scaled_value(rolling.get("maxUnavailable", 1), len(places), round_up=True)
    surge_left = surge - sum(bool(place.current and place.outdated) for place in places)
    unavailable_left = (unavailable if surge else max(1, unavailable)) - sum(not place.available for place in places)
    for place in places:
        if not place.outdated:
            continue
        if surge and not place.current:
            if surge_left > 0 or not place.available:
                surge_left -= 1
                result.create.append(place.node)
        elif surge:
            if place.current_available:
                result.delete += place.outdated
        elif not place.available:
            result.delete += place.outdated
        elif unavailable_left > 0:
            unavailable_left -= 1
            result.delete += place.outdated


def status(
    daemon_set: Mapping[str, Any],
    nodes: Sequence[Object],
    pods: Sequence[Object],
    revision: str,
    *,
    collisions: int,
    at: datetime,
) -> Object:
    minimum = int(daemon_set["spec"].get("minReadySeconds") or 0)
    desired = scheduled = misplaced = ready = available = updated = 0
    for node in nodes:
        should_run, _ = placement(daemon_set, node)
        here = [pod for pod in pods if node_of(pod) == node["metadata"]["name"]]
        desired += should_run
        if not should_run:
            misplaced += bool(here)
            continue
        if not here:
            continue
        scheduled += 1
        # The oldest that is ready stands for the node.
        first = min(here, key=_seniority)
        if is_ready(first):
            ready += 1
            available += is_available(first, minimum, at)
        updated += labels_of(first).get(_REVISION) == revision
    unavailable = desired - available
    result: Object = {
        "currentNumberScheduled": scheduled,
        "numberMisscheduled": misplaced,
        "desiredNumberScheduled": desired,
        "numberReady": ready,
        "observedGeneration": daemon_set["metadata"].get("generation", 0),
    }
    optional = {
        "updatedNumberScheduled": updated,
        "numberAvailable": available,
        "numberUnavailable": unavailable,
        "collisionCount": collisions,
        "conditions": (daemon_set.get("status") or {}).get("conditions"),
    }
    return result | {key: value for key, value in optional.items() if value}


class DaemonSetController(Controller):
    name = "daemonset-controller"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._sets = self.watch(DAEMON_SETS).store
        self._revisions = self.watch(CONTROLLER_REVISIONS, self.enqueue_owner(DAEMON_SETS)).store
        self._nodes = self.watch(NODES, self._node_changed).store
        self._pods = self.watch(PODS, self.enqueue_claimants(DAEMON_SETS, self._sets)).store

    def _node_changed(self, change: Change) -> None:
        old, new = change
        if old is not None and new is not None:
            same = old.get("spec") == new.get("spec") and labels_of(old) == labels_of(new)
            if same:
                return  # a heartbeat
        for one in self._sets.values():
            self.queue.add(key_of(one))

    async def sync(self, key: Key) -> None:
        daemon_set = self._sets.get(*key)
        if daemon_set is None or is_deleting(daemon_set):
            return
        selector = daemon_set["spec"].get("selector")
        pods = await self.cluster.claim(daemon_set, DAEMON_SETS, selector, PODS, self._pods.in_namespace(key[0]))
        owned = await self.cluster.claim(
            daemon_set, DAEMON_SETS, selector, CONTROLLER_REVISIONS, self._revisions.in_namespace(key[0])
        )
        current, history, collisions = await revisions.update_revision(self.cluster, daemon_set, DAEMON_SETS, owned)
        revision = revisions.hash_of(current)
        nodes, at = self._nodes.values(), now()
        try:
            await self._act(daemon_set, plan(daemon_set, nodes, pods, revision, at), revision)
        finally:
            uid = daemon_set["metadata"]["uid"]
            pods = [pod for pod in self._pods.in_namespace(key[0]) if (controller_of(pod) or {}).get("uid") == uid]
            wanted = status(daemon_set, nodes, pods, revision, collisions=collisions, at=at)
            await self.cluster.update_status(DAEMON_SETS, daemon_set, wanted)
        live = {current["metadata"]["name"]}
        for one in revisions.superfluous(daemon_set, history, live, pods, _REVISION):
            await self.cluster.delete(CONTROLLER_REVISIONS, one)
        wait = seconds_until_available(pods, int(daemon_set["spec"].get("minReadySeconds") or 0), at)
        if wait is not None:
            self.queue.add_after(key, wait)

    async def _act(self, daemon_set: Object, todo: Plan, revision: str) -> None:
        for pod in todo.failed:
            phase, node = phase_of(pod).lower(), node_of(pod)
            message = f"Found {phase} daemon pod {'/'.join(key_of(pod))} on node {node}, will try to kill it"
            self.events.record(daemon_set, "Warning", "FailedDaemonPod", message)
        await in_batches([partial(self.delete_pod, daemon_set, pod) for pod in todo.delete])
        await in_batches(
            [partial(self.create_pod, daemon_set, make_pod(daemon_set, node, revision)) for node in todo.create]
        )
