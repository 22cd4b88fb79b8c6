"""StatefulSet: pods with names and claims that stay, made and replaced in order.

The rules are those of kubernetes/pkg/controller/statefulset/stateful_set_control.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pilotfish.kube.errors import KubeError, is_already_exists, is_not_found
from pilotfish.kube.meta import (
    Key,
    controller_of,
    controller_reference,
    is_deleting,
    key_of,
    labels_of,
    now,
)
from pilotfish.kube.resources import (
    CONTROLLER_REVISIONS,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    STATEFUL_SETS,
    Object,
)
from pilotfish.local.controllers import revisions
from pilotfish.local.controllers.base import Cluster, Controller, scaled_value, without_zeros
from pilotfish.local.controllers.pods import (
    from_template,
    is_available,
    is_finished,
    is_running_and_ready,
    phase_of,
    seconds_until_available,
)
from pilotfish.local.controllers.replicaset import desired_replicas

_REVISION = "controller-revision-hash"
_POD_NAME = "statefulset.kubernetes.io/pod-name"
_POD_INDEX = "apps.kubernetes.io/pod-index"


def ordinal_of(stateful_set: Mapping[str, Any], pod: Mapping[str, Any]) -> int | None:
    match = re.fullmatch(re.escape(stateful_set["metadata"]["name"]) + r"-(0|[1-9]\d*)", pod["metadata"]["name"])
    return int(match.group(1)) if match else None


def ordinals(stateful_set: Mapping[str, Any]) -> range:
    start = int((stateful_set["spec"].get("ordinals") or {}).get("start") or 0)
    return range(start, start + desired_replicas(stateful_set))


def revision_of(pod: Mapping[str, Any]) -> str:
    return labels_of(pod).get(_REVISION, "")


def _update_parameters(stateful_set: Mapping[str, Any]) -> tuple[str, int, int]:
    """Strategy, partition and how many may be unavailable during an update."""
    strategy = stateful_set["spec"].get("updateStrategy") or {}
    rolling = strategy.get("rollingUpdate") or {}
    unavailable = scaled_value(rolling.get("maxUnavailable", 1), desired_replicas(stateful_set), round_up=True)
    return strategy.get("type", "RollingUpdate"), int(rolling.get("partition") or 0), max(1, unavailable)


@dataclass(frozen=True, slots=True)
class Action:
    """What to do with one pod. `create` has the ordinal and whether it is of the new revision; others have the pod."""

    do: Literal["create", "delete", "relabel"]
    ordinal: int
    updated: bool = False
    pod: Object | None = None
    why: str = ""


@dataclass(slots=True)
class _Planner:
    stateful_set: Mapping[str, Any]
    pods: Sequence[Object]
    current: str
    update: str
    at: datetime
    actions: list[Action] = field(default_factory=list)

    @property
    def ordered(self) -> bool:
        return bool(self.stateful_set["spec"].get("podManagementPolicy", "OrderedReady") != "Parallel")

    def healthy(self, pod: Object | None) -> bool:
        return pod is not None and is_running_and_ready(pod) and not is_deleting(pod)

    def available(self, pod: Object | None) -> bool:
        minimum = int(self.stateful_set["spec"].get("minReadySeconds") or 0)
        return pod is not None and self.healthy(pod) and is_available(pod, minimum, self.at)

    def is_updated(self, ordinal: int) -> bool:
        """Whether a pod made now is of the new template: those below the partition stay with the old."""
        strategy, partition, _ = _update_parameters(self.stateful_set)
        if strategy != "RollingUpdate":
            return True
        return ordinal >= ordinals(self.stateful_set).start + partition

    def plan(self) -> list[Action]:
        by_ordinal = {ordinal_of(self.stateful_set, pod): pod for pod in self.pods}
        wanted = ordinals(self.stateful_set)
        if is_deleting(self.stateful_set):
            return []
        everyone = sorted((ordinal, pod) for ordinal, pod in by_ordinal.items() if ordinal is not None)
        condemned = [(ordinal, pod) for ordinal, pod in reversed(everyone) if ordinal not in wanted]
        go_on = all(self._replica(ordinal, by_ordinal.get(ordinal)) for ordinal in wanted)
        if go_on and self._condemn(condemned, [pod for _, pod in everyone]):
            self._update([(ordinal, by_ordinal.get(ordinal)) for ordinal in wanted])
        return self.actions

    def _replica(self, ordinal: int, pod: Object | None) -> bool:
        """Whether the next ordinal may be looked at."""
        if pod is None:
            self.actions.append(Action("create", ordinal, self.is_updated(ordinal)))
            return not self.ordered
        if is_finished(pod):
            if not is_deleting(pod):
                self.actions.append(Action("delete", ordinal, pod=pod, why="RecreatingFailedPod"))
            return not self.ordered
        if self.ordered and not self.available(pod):
            return False
        if not is_deleting(pod) and not has_identity(pod, ordinal):
            self.actions.append(Action("relabel", ordinal, pod=pod))
        return True

    def _condemn(self, condemned: Sequence[tuple[int, Object]], everyone: Sequence[Object]) -> bool:
        """Whether an update may begin."""
        first_unhealthy = next((pod for pod in everyone if not self.healthy(pod)), None)
        for ordinal, pod in condemned:
            if is_deleting(pod):
                if self.ordered:
                    return False
                continue
            if self.ordered and not self.available(pod) and pod is not first_unhealthy:
                return False
            self.actions.append(Action("delete", ordinal, pod=pod))
            if self.ordered:
                return False
        return True

    def _update(self, replicas: Sequence[tuple[int, Object | None]]) -> None:
        strategy, partition, unavailable = _update_parameters(self.stateful_set)
        if strategy != "RollingUpdate":
            return
        missing = sum(not self.available(pod) for _, pod in replicas)
        outdated = [
            (ordinal, pod)
            for ordinal, pod in reversed(replicas[partition:])
            if pod is not None and revision_of(pod) != self.update and not is_deleting(pod)
        ]
        # What serves nobody costs nothing; the rest from the last to the first, as many as may be missing.
        for ordinal, pod in sorted(outdated, key=lambda pair: self.available(pair[1])):
            if self.available(pod):
                if missing >= unavailable:
                    return
                missing += 1
            self.actions.append(Action("delete", ordinal, pod=pod))


def plan(
    stateful_set: Mapping[str, Any], pods: Sequence[Object], current: str, update: str, at: datetime
) -> list[Action]:
    """What to do now. `current` and `update` are the names of the old and the new revision."""
    return _Planner(stateful_set, pods, current, update, at).plan()


def has_identity(pod: Mapping[str, Any], ordinal: int) -> bool:
    labels = labels_of(pod)
    return labels.get(_POD_NAME) == pod["metadata"]["name"] and labels.get(_POD_INDEX) == str(ordinal)


def make_pod(stateful_set: Mapping[str, Any], template: Mapping[str, Any], ordinal: int, revision: str) -> Object:
    namespace, set_name = key_of(stateful_set)
    name = f"{set_name}-{ordinal}"
    reference = controller_reference(stateful_set, STATEFUL_SETS)
    pod = from_template(template, namespace, reference, name=name)
    pod["metadata"]["labels"] |= {_POD_NAME: name, _POD_INDEX: str(ordinal), _REVISION: revision}
    spec = pod["spec"]
    spec["hostname"] = name
    spec["subdomain"] = stateful_set["spec"].get("serviceName", "")
    claims = claim_names(stateful_set, ordinal)
    if claims:
        kept = [volume for volume in spec.get("volumes") or () if volume["name"] not in claims]
        volumes = [{"name": volume, "persistentVolumeClaim": {"claimName": claim}} for volume, claim in claims.items()]
        spec["volumes"] = kept + volumes
    return pod


def claim_names(stateful_set: Mapping[str, Any], ordinal: int) -> dict[str, str]:
    """Claim by volume."""
    name = stateful_set["metadata"]["name"]
    return {
        one["metadata"]["name"]: f"{one['metadata']['name']}-{name}-{ordinal}"
        for one in stateful_set["spec"].get("volumeClaimTemplates") or ()
    }


def make_claims(stateful_set: Mapping[str, Any], ordinal: int) -> list[Object]:
    made = []
    policy = stateful_set["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
    for template in stateful_set["spec"].get("volumeClaimTemplates") or ():
        claim = deepcopy({key: value for key, value in template.items() if key != "status"})
        meta = claim["metadata"]
        meta["name"] = claim_names(stateful_set, ordinal)[meta["name"]]
        meta["namespace"] = stateful_set["metadata"].get("namespace", "")
        meta["labels"] = {**(meta.get("labels") or {}), **(stateful_set["spec"]["selector"].get("matchLabels") or {})}
        if policy.get("whenDeleted") == "Delete":
            meta["ownerReferences"] = [controller_reference(stateful_set, STATEFUL_SETS)]
        made.append({"apiVersion": "v1", "kind": "PersistentVolumeClaim", **claim})
    return made


def status(
    stateful_set: Mapping[str, Any],
    pods: Sequence[Object],
    current: str,
    update: str,
    *,
    collisions: int,
    at: datetime,
) -> Object:
    minimum = int(stateful_set["spec"].get("minReadySeconds") or 0)
    live = [pod for pod in pods if phase_of(pod)]
    ready = [pod for pod in live if is_running_and_ready(pod)]
    steady = [pod for pod in live if not is_deleting(pod)]
    result: Object = {
        "observedGeneration": stateful_set["metadata"].get("generation", 0),
        "replicas": len(live),
        "readyReplicas": len(ready),
        "availableReplicas": sum(is_available(pod, minimum, at) for pod in ready),
        "currentReplicas": sum(revision_of(pod) == current for pod in steady),
        "updatedReplicas": sum(revision_of(pod) == update for pod in steady),
        "currentRevision": current,
        "updateRevision": update,
    }
    strategy, _, _ = _update_parameters(stateful_set)
    wanted = desired_replicas(stateful_set)
    finished = all(result[name] == wanted for name in ("replicas", "updatedReplicas", "readyReplicas"))
    if strategy == "RollingUpdate" and finished:
        result["currentReplicas"], result["currentRevision"] = result["updatedReplicas"], update
    kept = {"collisionCount": collisions, "availableReplicas": result["availableReplicas"]}
    conditions = (stateful_set.get("status") or {}).get("conditions")
    return {"replicas": len(live), **without_zeros({**result, "conditions": conditions}), **kept}


class StatefulSetController(Controller):
    name = "statefulset-controller"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._sets = self.watch(STATEFUL_SETS).store
        self._revisions = self.watch(CONTROLLER_REVISIONS, self.enqueue_owner(STATEFUL_SETS)).store
        self._pods = self.watch(PODS, self.enqueue_claimants(STATEFUL_SETS, self._sets)).store

    async def sync(self, key: Key) -> None:
        stateful_set = self._sets.get(*key)
        if stateful_set is None:
            return
        selector = stateful_set["spec"].get("selector")
        candidates = [pod for pod in self._pods.in_namespace(key[0]) if ordinal_of(stateful_set, pod) is not None]
        pods = await self.cluster.claim(stateful_set, STATEFUL_SETS, selector, PODS, candidates)
        owned = await self.cluster.claim(
            stateful_set, STATEFUL_SETS, selector, CONTROLLER_REVISIONS, self._revisions.in_namespace(key[0])
        )
        if is_deleting(stateful_set):
            return
        update, history, collisions = await revisions.update_revision(self.cluster, stateful_set, STATEFUL_SETS, owned)
        before = (stateful_set.get("status") or {}).get("currentRevision")
        current = next((one for one in history if one["metadata"]["name"] == before), update)
        names = current["metadata"]["name"], update["metadata"]["name"]
        at = now()
        try:
            for action in plan(stateful_set, pods, *names, at):
                await self._act(stateful_set, action, current, update)
        finally:
            uid = stateful_set["metadata"]["uid"]
            pods = [pod for pod in self._pods.in_namespace(key[0]) if (controller_of(pod) or {}).get("uid") == uid]
            wanted = status(stateful_set, pods, *names, collisions=collisions, at=at)
            await self.cluster.update_status(STATEFUL_SETS, stateful_set, wanted)
        live = {*names, wanted["currentRevision"]}
        for one in revisions.superfluous(stateful_set, history, live, pods, _REVISION):
            await self.cluster.delete(CONTROLLER_REVISIONS, one)
        wait = seconds_until_available(pods, int(stateful_set["spec"].get("minReadySeconds") or 0), at)
        if wait is not None:
            self.queue.add_after(key, wait)

    async def _act(self, stateful_set: Object, action: Action, current: Object, update: Object) -> None:
        name = f"{stateful_set['metadata']['name']}-{action.ordinal}"
        if action.do == "create":
            revision = update if action.updated else current
            pod = make_pod(stateful_set, revisions.template_of(revision), action.ordinal, revision["metadata"]["name"])
            await self._tell(stateful_set, "Create", name, self._create(stateful_set, pod, action.ordinal))
            return
        pod = action.pod or {}
        if action.do == "relabel":
            labels = {_POD_NAME: name, _POD_INDEX: str(action.ordinal)}
            await self.cluster.patch(PODS, pod, {"metadata": {"labels": labels}})
            return
        if action.why:
            message = f"StatefulSet {'/'.join(key_of(stateful_set))} is recreating failed Pod {name}"
            self.events.record(stateful_set, "Warning", action.why, message)
        if action.ordinal not in ordinals(stateful_set):
            await self._give_up_claims(stateful_set, pod, action.ordinal)
        await self._tell(stateful_set, "Delete", name, self.cluster.delete(PODS, pod))

    async def _create(self, stateful_set: Object, pod: Object, ordinal: int) -> None:
        for claim in make_claims(stateful_set, ordinal):
            try:
                await self.cluster.create(PERSISTENT_VOLUME_CLAIMS, claim)
            except KubeError as error:
                if not is_already_exists(error):
                    raise
        await self.cluster.create(PODS, pod)

    async def _give_up_claims(self, stateful_set: Object, pod: Object, ordinal: int) -> None:
        """With whenScaled: Delete the claims of a pod that is scaled away go with it."""
        policy = stateful_set["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
        if policy.get("whenScaled") != "Delete":
            return
        meta = pod["metadata"]
        reference = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
        for claim in claim_names(stateful_set, ordinal).values():
            patch = {"metadata": {"ownerReferences": [reference]}}
            try:
                await self.client.patch(PERSISTENT_VOLUME_CLAIMS, claim, patch, meta["namespace"])
            except KubeError as error:
                if not is_not_found(error):
                    raise

    async def _tell(self, stateful_set: Object, verb: str, pod: str, work: Any) -> None:
        name = stateful_set["metadata"]["name"]
        try:
            await work
        except KubeError as error:
            message = f"{verb.lower()} Pod {pod} in StatefulSet {name} failed error: {error}"
            self.events.record(stateful_set, "Warning", f"Failed{verb}", message)
            raise
        message = f"{verb.lower()} Pod {pod} in StatefulSet {name} successful"
        self.events.record(stateful_set, "Normal", f"Successful{verb}", message)
