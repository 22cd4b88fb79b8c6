"""ReplicaSet and ReplicationController: so many pods of one template, no more, no fewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from pilotfish.kube.errors import KubeError, is_namespace_ending
from pilotfish.kube.meta import (
    Key,
    controller_of,
    controller_reference,
    find_condition,
    format_time,
    is_deleting,
    key_of,
    labels_of,
    now,
    with_condition,
)
from pilotfish.kube.resources import PODS, REPLICA_SETS, REPLICATION_CONTROLLERS, Object, ResourceType
from pilotfish.local.controllers.base import Cluster, Controller, in_batches, selector_of, without_zeros
from pilotfish.local.controllers.pods import (
    deletion_order,
    from_template,
    is_active,
    is_available,
    is_finished,
    is_ready,
    seconds_until_available,
)

_BURST = 500  # pods created or deleted in one go


@dataclass(frozen=True, slots=True)
class Plan:
    create: int
    delete: Sequence[Object]


def plan(replica_set: Mapping[str, Any], pods: Sequence[Object]) -> Plan:
    """How many pods are missing, or which are too many. `pods` are all that the ReplicaSet controls."""
    if is_deleting(replica_set):
        return Plan(0, ())
    active = [pod for pod in pods if is_active(pod)]
    missing = desired_replicas(replica_set) - len(active)
    if missing >= 0:
        return Plan(min(missing, _BURST), ())
    return Plan(0, deletion_order(active)[: min(-missing, _BURST)])


def desired_replicas(owner: Mapping[str, Any]) -> int:
    replicas = owner["spec"].get("replicas")
    return 1 if replicas is None else int(replicas)


def status(replica_set: Mapping[str, Any], pods: Sequence[Object], failure: str | None, at: datetime) -> Object:
    """The status for the pods it controls; `failure` is `Reason: text` of a create or delete that was refused."""
    spec, old = replica_set["spec"], replica_set.get("status") or {}
    active = [pod for pod in pods if is_active(pod)]
    template_labels = (spec["template"].get("metadata") or {}).get("labels") or {}
    minimum = int(spec.get("minReadySeconds") or 0)
    conditions = [one for one in old.get("conditions") or () if one["type"] != "ReplicaFailure"]
    if failure:
        reason, _, text = failure.partition(": ")
        previous = find_condition(old.get("conditions"), "ReplicaFailure")
        condition = {
            "type": "ReplicaFailure",
            "status": "True",
            "lastTransitionTime": format_time(at),
            "reason": reason,
            "message": text,
        }
        conditions = with_condition([*conditions, *([previous] if previous else [])], condition)
    counts = without_zeros(
        {
            "fullyLabeledReplicas": sum(template_labels.items() <= labels_of(pod).items() for pod in active),
            "readyReplicas": sum(is_ready(pod) for pod in active),
            "availableReplicas": sum(is_available(pod, minimum, at) for pod in active),
            "observedGeneration": replica_set["metadata"].get("generation", 0),
            "conditions": conditions,
        }
    )
    terminating = sum(is_deleting(pod) and not is_finished(pod) for pod in pods)
    # The two counts that are there when they are zero.
    return {"replicas": len(active), "terminatingReplicas": terminating, **counts}


def make_pod(replica_set: Mapping[str, Any], resource: ResourceType = REPLICA_SETS) -> Object:
    namespace, name = key_of(replica_set)
    reference = controller_reference(replica_set, resource)
    return from_template(replica_set["spec"]["template"], namespace, reference, prefix=f"{name}-")


class ReplicaSetController(Controller):
    name = "replicaset-controller"
    workers = 8
    resource = REPLICA_SETS

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._sets = self.watch(self.resource).store
        enqueue = self.enqueue_claimants(self.resource, self._sets, self.selector)
        self._pods = self.watch(PODS, enqueue).store

    @staticmethod
    def selector(owner: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return selector_of(owner)

    async def sync(self, key: Key) -> None:
        replica_set = self._sets.get(*key)
        if replica_set is None:
            return
        candidates = self._pods.in_namespace(key[0])
        pods = await self.cluster.claim(replica_set, self.resource, self.selector(replica_set), PODS, candidates)
        failure, error = await self._act(replica_set, plan(replica_set, pods))
        pods = [
            pod
            for pod in self._pods.in_namespace(key[0])
            if (controller_of(pod) or {}).get("uid") == replica_set["metadata"]["uid"]
        ]
        at = now()
        await self.cluster.update_status(self.resource, replica_set, self.status(replica_set, pods, failure, at))
        wait = seconds_until_available(pods, int(replica_set["spec"].get("minReadySeconds") or 0), at)
        if wait is not None:
            self.queue.add_after(key, wait)
        if error is not None:
            raise error

    def status(self, owner: Mapping[str, Any], pods: Sequence[Object], failure: str | None, at: datetime) -> Object:
        return status(owner, pods, failure, at)

    async def _act(self, replica_set: Object, todo: Plan) -> tuple[str | None, KubeError | None]:
        try:
            pod = make_pod(replica_set, self.resource)
            await in_batches([partial(self.create_pod, replica_set, pod)] * todo.create)
        except KubeError as error:
            if is_namespace_ending(error):
                return None, None
            return f"FailedCreate: {error}", error
        try:
            await in_batches([partial(self.delete_pod, replica_set, pod) for pod in todo.delete])
        except KubeError as error:
            return f"FailedDelete: {error}", error
        return None, None


class ReplicationControllerController(ReplicaSetController):
    """The same for the older kind, whose selector is a map of labels."""

    name = "replication-controller"
    workers = 2
    resource = REPLICATION_CONTROLLERS

    @staticmethod
    def selector(owner: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return {"matchLabels": owner["spec"].get("selector") or {}}

    def status(self, owner: Mapping[str, Any], pods: Sequence[Object], failure: str | None, at: datetime) -> Object:
        counts = super().status(owner, pods, failure, at)
        del counts["terminatingReplicas"]
        return counts
