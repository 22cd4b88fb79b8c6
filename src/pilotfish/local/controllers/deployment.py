"""Deployment: ReplicaSets, one for each template, and the way from one to the next.

The rules are those of kubernetes/pkg/controller/deployment; each is a pure function here, `DeploymentController` does
what they say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pilotfish.kube.errors import KubeError, is_already_exists, is_namespace_ending
from pilotfish.kube.informer import Change
from pilotfish.kube.meta import (
    Key,
    annotations_of,
    controller_of,
    controller_reference,
    find_condition,
    format_time,
    is_controlled_by,
    is_deleting,
    key_of,
    now,
    parse_time,
    with_condition,
)
from pilotfish.kube.resources import DEPLOYMENTS, PODS, REPLICA_SETS, Object
from pilotfish.local.controllers.base import Cluster, Controller, scaled_value, without_zeros
from pilotfish.local.controllers.hashing import content_hash
from pilotfish.local.controllers.pods import is_finished
from pilotfish.local.controllers.replicaset import desired_replicas

_HASH = "pod-template-hash"
_PREFIX = "deployment.kubernetes.io/"
_REVISION = _PREFIX + "revision"
_HISTORY = _PREFIX + "revision-history"
_DESIRED = _PREFIX + "desired-replicas"
_MAXIMUM = _PREFIX + "max-replicas"
_NOT_COPIED = {
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    _REVISION,
    _HISTORY,
    _DESIRED,
    _MAXIMUM,
}
_HISTORY_LENGTH = 2000  # characters


# ---------------------------------------------------------------------- limits


def is_rolling(deployment: Mapping[str, Any]) -> bool:
    return bool((deployment["spec"].get("strategy") or {}).get("type", "RollingUpdate") == "RollingUpdate")


def surge_and_unavailable(deployment: Mapping[str, Any]) -> tuple[int, int]:
    """How many pods there may be above the wanted number, and how many below may be missing."""
    if not is_rolling(deployment):
        return 0, 0
    replicas = desired_replicas(deployment)
    parameters = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    surge = scaled_value(parameters.get("maxSurge", "25%"), replicas, round_up=True)
    unavailable = scaled_value(parameters.get("maxUnavailable", "25%"), replicas, round_up=False)
    if not surge and not unavailable:
        unavailable = 1  # otherwise nothing could ever move
    return surge, min(unavailable, replicas)


# ---------------------------------------------------------------------- which ReplicaSet is which


def _created(obj: Mapping[str, Any]) -> tuple[str, str]:
    return obj["metadata"].get("creationTimestamp", ""), obj["metadata"]["name"]


def revision_of(obj: Mapping[str, Any]) -> int:
    try:
        return int(annotations_of(obj).get(_REVISION, "0"))
    except ValueError:
        return 0


def _bare(template: Mapping[str, Any]) -> Object:
    """A template without what this controller adds, and without empty fields that mean nothing."""
    meta = {
        key: value for key, value in (template.get("metadata") or {}).items() if value and key != "creationTimestamp"
    }
    labels = {key: value for key, value in meta.get("labels", {}).items() if key != _HASH}
    return {**template, "metadata": {**meta, "labels": labels}}


def find_new(deployment: Mapping[str, Any], replica_sets: Sequence[Object]) -> Object | None:
    """The ReplicaSet of the present template; the oldest, should there be several."""
    wanted = _bare(deployment["spec"]["template"])
    for one in sorted(replica_sets, key=_created):
        if _bare(one["spec"]["template"]) == wanted:
            return one
    return None


def make_replica_set(deployment: Mapping[str, Any], revision: int, replicas: int) -> Object:
    spec = deployment["spec"]
    namespace, name = key_of(deployment)
    hashed = content_hash(_bare(spec["template"]), int((deployment.get("status") or {}).get("collisionCount") or 0))
    template = deepcopy(spec["template"])
    meta = template.setdefault("metadata", {})
    meta["labels"] = {**(meta.get("labels") or {}), _HASH: hashed}
    selector = deepcopy(spec["selector"])
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), _HASH: hashed}
    made: Object = {
        "apiVersion": REPLICA_SETS.api_version,
        "kind": REPLICA_SETS.kind,
        "metadata": {
            "name": f"{name}-{hashed}",
            "namespace": namespace,
            "labels": meta["labels"],
            "annotations": new_annotations(deployment, {}, revision) | replica_annotations(deployment),
            "ownerReferences": [controller_reference(deployment, DEPLOYMENTS)],
        },
        "spec": {"replicas": replicas, "selector": selector, "template": template},
    }
    if spec.get("minReadySeconds"):
        made["spec"]["minReadySeconds"] = spec["minReadySeconds"]
    return made


def replica_annotations(deployment: Mapping[str, Any]) -> dict[str, str]:
    replicas, (surge, _) = desired_replicas(deployment), surge_and_unavailable(deployment)
    return {_DESIRED: str(replicas), _MAXIMUM: str(replicas + surge)}


def new_annotations(deployment: Mapping[str, Any], current: Mapping[str, str], revision: int) -> dict[str, str]:
    """The annotations of the new ReplicaSet: the Deployment's, the revision, and the revisions it had before."""
    result = dict(current)
    result |= {key: value for key, value in annotations_of(deployment).items() if key not in _NOT_COPIED}
    before = current.get(_REVISION, "")
    if not before.isdigit() or int(before) < revision:
        result[_REVISION] = str(revision)
        if before:
            history = [*filter(None, current.get(_HISTORY, "").split(",")), before]
            while len(",".join(history)) > _HISTORY_LENGTH:
                history.pop(0)
            result[_HISTORY] = ",".join(history)
    return result


# ---------------------------------------------------------------------- how many replicas each


def _available(replica_set: Mapping[str, Any]) -> int:
    # Never more than it should have: its status is older than a scale-down we just made.
    return min(int((replica_set.get("status") or {}).get("availableReplicas") or 0), desired_replicas(replica_set))


def _total(replica_sets: Sequence[Object]) -> int:
    return sum(desired_replicas(one) for one in replica_sets)


Scales = dict[str, int]
"""New numbers of replicas by ReplicaSet name; who is not named stays."""


def is_scaling(deployment: Mapping[str, Any], replica_sets: Sequence[Object]) -> bool:
    """Whether spec.replicas was changed since the ReplicaSets were last scaled."""
    wanted = str(desired_replicas(deployment))
    return any(annotations_of(one).get(_DESIRED, wanted) != wanted for one in replica_sets if desired_replicas(one) > 0)


def scale(deployment: Mapping[str, Any], new: Object | None, old: Sequence[Object]) -> Scales:
    """Follow spec.replicas while not rolling: the one active ReplicaSet takes it; several share it by their size."""
    wanted = desired_replicas(deployment)
    everyone = [*old, *([new] if new else [])]
    active = [one for one in everyone if desired_replicas(one) > 0]
    if len(active) <= 1:
        latest = active[0] if active else (new or max(old, key=_created, default=None))
        return {latest["metadata"]["name"]: wanted} if latest is not None else {}
    if new is not None and _saturated(deployment, new):
        return {one["metadata"]["name"]: 0 for one in old if desired_replicas(one) > 0}
    if not is_rolling(deployment):
        return {}
    surge, _ = surge_and_unavailable(deployment)
    allowed = wanted + surge if wanted > 0 else 0
    to_add = allowed - _total(active)
    # The largest first, of equals the newest when growing and the oldest when shrinking.
    active.sort(key=_created, reverse=to_add > 0)
    active.sort(key=desired_replicas, reverse=True)
    sizes: Scales = {}
    added = 0
    for one in active:
        share = _share(deployment, one, wanted, surge) if to_add else 0
        left = to_add - added
        share = min(share, left) if to_add > 0 else max(share, left)
        sizes[one["metadata"]["name"]] = desired_replicas(one) + share
        added += share
    left = to_add - added  # by rounding: the largest takes it, and what it cannot give the next
    for name, size in sizes.items():
        sizes[name] = max(0, size + left)
        left -= sizes[name] - size
    return sizes


def _share(deployment: Mapping[str, Any], replica_set: Object, wanted: int, surge: int) -> int:
    size = desired_replicas(replica_set)
    if not wanted:
        return -size
    annotation = annotations_of(replica_set).get(_MAXIMUM, "")
    before = int(annotation) if annotation.isdigit() else 0
    before = before or int((deployment.get("status") or {}).get("replicas") or 0) or wanted + surge
    return (2 * size * (wanted + surge) + before) // (2 * before) - size  # rounded to the nearest


def _saturated(deployment: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    wanted = desired_replicas(deployment)
    return (
        desired_replicas(new) == wanted
        and annotations_of(new).get(_DESIRED) == str(wanted)
        and int((new.get("status") or {}).get("availableReplicas") or 0) == wanted
    )


def new_replicas(deployment: Mapping[str, Any], present: int, total: int) -> int:
    """How many the new ReplicaSet may have now, when it has `present` and all together have `total`."""
    wanted = desired_replicas(deployment)
    if present >= wanted or not is_rolling(deployment):
        return wanted
    surge, _ = surge_and_unavailable(deployment)
    return present + min(max(0, wanted + surge - total), wanted - present)


def roll(deployment: Mapping[str, Any], new: Object, old: Sequence[Object]) -> Scales:
    """One step of a rolling update: the new ReplicaSet grows as the surge allows, else the old ones shrink."""
    present = desired_replicas(new)
    grown = new_replicas(deployment, present, present + _total(old))
    if grown != present:
        return {new["metadata"]["name"]: grown}
    _, unavailable = surge_and_unavailable(deployment)
    minimum = desired_replicas(deployment) - unavailable
    new_unavailable = present - _available(new)
    room = present + _total(old) - minimum - new_unavailable
    sizes: Scales = {}
    ordered = sorted(old, key=_created)
    for one in ordered:  # first those that serve nobody
        size = desired_replicas(one)
        cut = min(room, size - _available(one))
        if cut > 0:
            sizes[one["metadata"]["name"]] = size - cut
            room -= cut
    for one in ordered:  # then as many of those that serve as may be missing
        size = sizes.get(one["metadata"]["name"], desired_replicas(one))
        cut = min(room, size)
        if cut > 0:
            sizes[one["metadata"]["name"]] = size - cut
            room -= cut
    return sizes


def old_pods_run(new: Mapping[str, Any] | None, old: Sequence[Object], pods: Sequence[Object]) -> bool:
    """Whether a Recreate must still wait. `pods` are those of all the Deployment's ReplicaSets."""
    if any(int((one.get("status") or {}).get("replicas") or 0) for one in old):
        return True
    return any(not is_finished(pod) and (new is None or not is_controlled_by(pod, new)) for pod in pods)


def superfluous(deployment: Mapping[str, Any], old: Sequence[Object]) -> list[Object]:
    """Old ReplicaSets beyond the history limit."""
    limit = deployment["spec"].get("revisionHistoryLimit")
    kept = [one for one in old if not is_deleting(one)]
    if limit is None or len(kept) <= limit:
        return []
    oldest = sorted(kept, key=lambda one: (revision_of(one), _created(one)))[: len(kept) - int(limit)]
    return [
        one
        for one in oldest
        if not desired_replicas(one)
        and not (one.get("status") or {}).get("replicas")
        and one["metadata"].get("generation", 0) <= (one.get("status") or {}).get("observedGeneration", 0)
    ]


# ---------------------------------------------------------------------- status


@dataclass(slots=True)
class Facts:
    """What a status is made of beside the ReplicaSets."""

    at: datetime
    created: str = ""
    """The ReplicaSet made just now."""
    collision: bool = False
    failure: str = ""
    """Why the new ReplicaSet could not be made."""


@dataclass(slots=True)
class _Conditions:
    at: datetime
    items: list[Object] = field(default_factory=list)

    def get(self, kind: str) -> Mapping[str, Any] | None:
        return find_condition(self.items, kind)

    def set(self, kind: str, state: str, reason: str, message: str, *, refresh: bool = False) -> None:
        """As SetDeploymentCondition: the same status and reason again change nothing, unless `refresh`."""
        current = self.get(kind)
        if current and current["status"] == state and current.get("reason") == reason and not refresh:
            return
        moment = format_time(self.at)
        condition = {"type": kind, "status": state, "lastUpdateTime": moment, "lastTransitionTime": moment}
        self.items = with_condition(self.items, {**condition, "reason": reason, "message": message})

    def remove(self, kind: str) -> None:
        self.items = [one for one in self.items if one["type"] != kind]


def counts(deployment: Mapping[str, Any], new: Object | None, old: Sequence[Object]) -> Object:
    everyone = [*old, *([new] if new else [])]

    def count(name: str, sets: Sequence[Object]) -> int:
        return sum(int((one.get("status") or {}).get(name) or 0) for one in sets)

    available = count("availableReplicas", everyone)
    return {
        "observedGeneration": deployment["metadata"].get("generation", 0),
        "replicas": count("replicas", everyone),
        "updatedReplicas": count("replicas", [new] if new else []),
        "readyReplicas": count("readyReplicas", everyone),
        "availableReplicas": available,
        "unavailableReplicas": max(0, _total(everyone) - available),
        "terminatingReplicas": count("terminatingReplicas", everyone),  # the one that is there when it is zero
    }


def has_deadline(deployment: Mapping[str, Any]) -> bool:
    return deployment["spec"].get("progressDeadlineSeconds") not in {None, 2**31 - 1}


def is_complete(deployment: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    wanted = desired_replicas(deployment)
    return all(
        int(status.get(name) or 0) == wanted for name in ("updatedReplicas", "replicas", "availableReplicas")
    ) and int(status.get("observedGeneration") or 0) >= deployment["metadata"].get("generation", 0)


def _progressed(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    def number(status: Mapping[str, Any], name: str) -> int:
        return int(status.get(name) or 0)

    def left(status: Mapping[str, Any]) -> int:
        return number(status, "replicas") - number(status, "updatedReplicas")

    return left(new) < left(old) or any(
        number(new, name) > number(old, name) for name in ("updatedReplicas", "readyReplicas", "availableReplicas")
    )


def deadline_of(deployment: Mapping[str, Any], progressing: Mapping[str, Any] | None) -> datetime | None:
    """When a rollout under way counts as stuck; None when none is under way."""
    if (
        progressing is None
        or not has_deadline(deployment)
        or progressing.get("reason")
        in {
            "NewReplicaSetAvailable",
            "ProgressDeadlineExceeded",
            "DeploymentPaused",
        }
    ):
        return None
    since = parse_time(progressing.get("lastUpdateTime") or progressing.get("lastTransitionTime"))
    return since + timedelta(seconds=int(deployment["spec"]["progressDeadlineSeconds"])) if since else None


def status(deployment: Mapping[str, Any], new: Object | None, old: Sequence[Object], facts: Facts) -> Object:
    before = deployment.get("status") or {}
    result = counts(deployment, new, old)
    conditions = _Conditions(facts.at, [dict(one) for one in before.get("conditions") or ()])
    if has_deadline(deployment):
        _pausing(deployment, conditions)
        if facts.created:
            message = f'Created new replica set "{facts.created}"'
            conditions.set("Progressing", "True", "NewReplicaSetCreated", message)
        elif facts.failure:
            conditions.set("Progressing", "False", "ReplicaSetCreateError", facts.failure)
        elif new is not None and conditions.get("Progressing") is None:
            message = f'Found new replica set "{new["metadata"]["name"]}"'
            conditions.set("Progressing", "True", "FoundNewReplicaSet", message)
    _, unavailable = surge_and_unavailable(deployment)
    if result["availableReplicas"] >= desired_replicas(deployment) - unavailable:
        message = "Deployment has minimum availability."
        conditions.set("Available", "True", "MinimumReplicasAvailable", message)
    else:
        message = "Deployment does not have minimum availability."
        conditions.set("Available", "False", "MinimumReplicasUnavailable", message)
    if not has_deadline(deployment):
        conditions.remove("Progressing")
    elif not deployment["spec"].get("paused") and not is_deleting(deployment):
        _progressing(deployment, new, before, result, conditions)
    _failures([*old, *([new] if new else [])], conditions)
    collisions = int(before.get("collisionCount") or 0) + facts.collision
    kept = {"collisionCount": collisions} if collisions or "collisionCount" in before else {}
    kept["terminatingReplicas"] = result["terminatingReplicas"]
    return without_zeros({**result, "conditions": conditions.items}) | kept


def _pausing(deployment: Mapping[str, Any], conditions: _Conditions) -> None:
    current = conditions.get("Progressing")
    if current is not None and current.get("reason") == "ProgressDeadlineExceeded":
        return
    paused_before = current is not None and current.get("reason") == "DeploymentPaused"
    if deployment["spec"].get("paused") and not paused_before:
        conditions.set("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused")
    elif not deployment["spec"].get("paused") and paused_before:
        conditions.set("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed")


def _progressing(
    deployment: Mapping[str, Any],
    new: Object | None,
    before: Mapping[str, Any],
    result: Mapping[str, Any],
    conditions: _Conditions,
) -> None:
    current = conditions.get("Progressing")
    settled = current is not None and current.get("reason") == "NewReplicaSetAvailable"
    if settled and result["replicas"] == result["updatedReplicas"]:
        return
    name = deployment["metadata"]["name"]
    what = f'ReplicaSet "{new["metadata"]["name"]}"' if new else f'Deployment "{name}"'
    if is_complete(deployment, result):
        conditions.set("Progressing", "True", "NewReplicaSetAvailable", f"{what} has successfully progressed.")
    elif _progressed(before, result):
        conditions.set("Progressing", "True", "ReplicaSetUpdated", f"{what} is progressing.", refresh=True)
    elif (deadline := deadline_of(deployment, current)) is not None and deadline < conditions.at:
        conditions.set("Progressing", "False", "ProgressDeadlineExceeded", f"{what} has timed out progressing.")


def _failures(replica_sets: Sequence[Object], conditions: _Conditions) -> None:
    for one in reversed(replica_sets):  # the new one's failure first
        found = find_condition((one.get("status") or {}).get("conditions"), "ReplicaFailure")
        if found is not None and found.get("status") == "True":
            conditions.set("ReplicaFailure", "True", found.get("reason", ""), found.get("message", ""))
            return
    conditions.remove("ReplicaFailure")


# ---------------------------------------------------------------------- the loop


class DeploymentController(Controller):
    name = "deployment-controller"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._deployments = self.watch(DEPLOYMENTS).store
        self._sets = self.watch(REPLICA_SETS, self.enqueue_claimants(DEPLOYMENTS, self._deployments)).store
        self._pods = self.watch(PODS, self._pod_changed).store

    def _pod_changed(self, change: Change) -> None:
        """Only a Recreate waits for pods themselves: for the last one of the old to be gone."""
        pod = change.object
        if change.new is not None and not is_finished(change.new):
            return
        reference = controller_of(pod)
        owner = self._sets.get(key_of(pod)[0], reference["name"]) if reference else None
        parent = controller_of(owner) if owner is not None else None
        if parent is not None and DEPLOYMENTS.matches(parent):
            deployment = self._deployments.get(key_of(pod)[0], parent["name"])
            if deployment is not None and not is_rolling(deployment):
                self.queue.add(key_of(deployment))

    async def sync(self, key: Key) -> None:
        deployment = self._deployments.get(*key)
        if deployment is None:
            return
        selector = deployment["spec"].get("selector")
        candidates = self._sets.in_namespace(key[0])
        owned = await self.cluster.claim(deployment, DEPLOYMENTS, selector, REPLICA_SETS, candidates)
        new = find_new(deployment, owned)
        old = [one for one in owned if one is not new]
        facts = Facts(now())
        if not is_deleting(deployment):
            try:
                new, old = await self._act(deployment, new, old, facts)
            finally:
                if facts.collision or facts.failure:
                    await self.cluster.update_status(DEPLOYMENTS, deployment, status(deployment, new, old, facts))
            if new is not None:
                deployment = await self._record_revision(deployment, new)
        wanted = status(deployment, new, old, facts)
        await self.cluster.update_status(DEPLOYMENTS, deployment, wanted)
        deadline = deadline_of(deployment, find_condition(wanted.get("conditions"), "Progressing"))
        if deadline is not None and not is_complete(deployment, wanted):
            self.queue.add_after(key, (deadline - facts.at).total_seconds() + 1)

    async def _act(
        self, deployment: Object, new: Object | None, old: list[Object], facts: Facts
    ) -> tuple[Object | None, list[Object]]:
        revision = max((revision_of(one) for one in old), default=0) + 1
        if new is not None:
            new = await self._refresh_new(deployment, new, revision)
        everyone = [*old, *([new] if new else [])]
        paused = bool(deployment["spec"].get("paused"))
        if paused or is_scaling(deployment, everyone):
            sizes = scale(deployment, new, old)
        elif is_rolling(deployment):
            if new is None:
                new = await self._create(deployment, revision, old, facts)
            sizes = roll(deployment, new, old)
        else:
            sizes = {one["metadata"]["name"]: 0 for one in old if desired_replicas(one)}
            if not sizes and not old_pods_run(new, old, self._pods_of(everyone, key_of(deployment)[0])):
                if new is None:
                    new = await self._create(deployment, revision, old, facts)
                sizes = {new["metadata"]["name"]: desired_replicas(deployment)}
        # Shrink before growing, so that a resize in both directions never has more pods than allowed.
        scaled = {
            one["metadata"]["name"]: await self._scale(deployment, one, sizes[one["metadata"]["name"]])
            for one in sorted(
                (one for one in [*everyone, *([new] if new else [])] if one["metadata"]["name"] in sizes),
                key=lambda one: sizes[one["metadata"]["name"]] - desired_replicas(one),
            )
        }
        new = scaled.get(new["metadata"]["name"], new) if new else None
        old = [scaled.get(one["metadata"]["name"], one) for one in old]
        if paused or is_complete(deployment, counts(deployment, new, old)):
            for one in superfluous(deployment, old):
                await self.cluster.delete(REPLICA_SETS, one)
                old = [other for other in old if other is not one]
        return new, old

    def _pods_of(self, replica_sets: Sequence[Object], namespace: str) -> list[Object]:
        uids = {one["metadata"]["uid"] for one in replica_sets}
        return [pod for pod in self._pods.in_namespace(namespace) if (controller_of(pod) or {}).get("uid") in uids]

    async def _refresh_new(self, deployment: Object, new: Object, revision: int) -> Object:
        """The present template's ReplicaSet takes the newest revision, as after an undo."""
        annotations = new_annotations(deployment, annotations_of(new), revision)
        minimum = deployment["spec"].get("minReadySeconds") or 0
        if annotations == annotations_of(new) and minimum == (new["spec"].get("minReadySeconds") or 0):
            return new
        meta = {**new["metadata"], "annotations": annotations}
        spec = {**new["spec"], "minReadySeconds": minimum}
        return await self.cluster.update(REPLICA_SETS, {**new, "metadata": meta, "spec": spec})

    async def _create(self, deployment: Object, revision: int, old: Sequence[Object], facts: Facts) -> Object:
        replicas = new_replicas(deployment, 0, _total(old))
        wanted = make_replica_set(deployment, revision, replicas)
        name = wanted["metadata"]["name"]
        try:
            made = await self.cluster.create(REPLICA_SETS, wanted)
        except KubeError as error:
            if is_already_exists(error):
                present = await self.client.get(REPLICA_SETS, name, key_of(deployment)[0])
                # Ours, made a moment ago by another; or another template with the same hash: try the next name.
                facts.collision = not (is_controlled_by(present, deployment) and find_new(deployment, [present]))
            elif not is_namespace_ending(error):
                facts.failure = f'Failed to create new replica set "{name}": {error}'
                self.events.record(deployment, "Warning", "ReplicaSetCreateError", facts.failure)
            raise
        facts.created = name
        if replicas:
            self._tell(deployment, name, 0, replicas)
        return made

    async def _scale(self, deployment: Object, one: Object, replicas: int) -> Object:
        annotations = {**annotations_of(one), **replica_annotations(deployment)}
        before = desired_replicas(one)
        if before == replicas and annotations == annotations_of(one):
            return one
        meta = {**one["metadata"], "annotations": annotations}
        written = await self.cluster.update(
            REPLICA_SETS, {**one, "metadata": meta, "spec": {**one["spec"], "replicas": replicas}}
        )
        if before != replicas:
            self._tell(deployment, one["metadata"]["name"], before, replicas)
        return written

    def _tell(self, deployment: Object, name: str, before: int, after: int) -> None:
        way = "up" if after > before else "down"
        message = f"Scaled {way} replica set {name} from {before} to {after}"
        self.events.record(deployment, "Normal", "ScalingReplicaSet", message)

    async def _record_revision(self, deployment: Object, new: Object) -> Object:
        revision = annotations_of(new).get(_REVISION, "")
        if not revision or annotations_of(deployment).get(_REVISION) == revision:
            return deployment
        return await self.cluster.patch(DEPLOYMENTS, deployment, {"metadata": {"annotations": {_REVISION: revision}}})
