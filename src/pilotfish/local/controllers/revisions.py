"""ControllerRevisions: the pod templates a StatefulSet or DaemonSet has had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from pilotfish.kube.errors import is_already_exists
from pilotfish.kube.meta import controller_reference, key_of
from pilotfish.kube.resources import CONTROLLER_REVISIONS, Object, ResourceType
from pilotfish.local.controllers.base import Cluster
from pilotfish.local.controllers.hashing import content_hash


def _data(owner: Mapping[str, Any]) -> Object:
    """A patch that gives the owner this template again (`kubectl rollout undo` sends it)."""
    return {"spec": {"template": {**owner["spec"]["template"], "$patch": "replace"}}}


def template_of(revision: Mapping[str, Any]) -> Object:
    template = deepcopy(revision["data"]["spec"]["template"])
    template.pop("$patch", None)
    found: Object = template
    return found


def _order(revision: Mapping[str, Any]) -> tuple[int, str, str]:
    meta = revision["metadata"]
    return int(revision.get("revision") or 0), meta.get("creationTimestamp", ""), meta["name"]


def _make(owner: Object, resource: ResourceType, number: int, collisions: int) -> Object:
    namespace, name = key_of(owner)
    hashed = content_hash(_data(owner), collisions)
    labels = (owner["spec"]["template"].get("metadata") or {}).get("labels") or {}
    return {
        "apiVersion": CONTROLLER_REVISIONS.api_version,
        "kind": CONTROLLER_REVISIONS.kind,
        "metadata": {
            "name": f"{name}-{hashed}",
            "namespace": namespace,
            "labels": {**labels, "controller.kubernetes.io/hash": hashed},
            "annotations": dict(owner["metadata"].get("annotations") or {}),
            "ownerReferences": [controller_reference(owner, resource)],
        },
        "data": _data(owner),
        "revision": number,
    }


async def update_revision(
    cluster: Cluster, owner: Object, resource: ResourceType, owned: Sequence[Object]
) -> tuple[Object, list[Object], int]:
    """The revision of the present template, made when there is none and made the newest when it is an old one again.

    Returns it, all revisions from old to new, and how often names collided.
    """
    revisions = sorted(owned, key=_order)
    collisions = int((owner.get("status") or {}).get("collisionCount") or 0)
    wanted = _data(owner)
    newest = int(revisions[-1].get("revision") or 0) if revisions else 0
    equal = next((one for one in reversed(revisions) if one["data"] == wanted), None)
    if equal is not None:
        if equal.get("revision") != newest:
            written = await cluster.update(CONTROLLER_REVISIONS, {**equal, "revision": newest + 1})
            revisions = [*(one for one in revisions if one is not equal), written]
            equal = written
        return equal, revisions, collisions
    while True:
        try:
            made = await cluster.create(CONTROLLER_REVISIONS, _make(owner, resource, newest + 1, collisions))
        except Exception as error:
            if not is_already_exists(error):
                raise
            collisions += 1
        else:
            return made, [*revisions, made], collisions


def superfluous(
    owner: Mapping[str, Any], revisions: Sequence[Object], live: set[str], pods: Sequence[Object], label: str
) -> list[Object]:
    """Revisions beyond the history limit that no pod and no status names."""
    limit = owner["spec"].get("revisionHistoryLimit")
    used = live | {(pod["metadata"].get("labels") or {}).get(label, "") for pod in pods}
    unused = [one for one in revisions if one["metadata"]["name"] not in used and hash_of(one) not in used]
    keep = 10 if limit is None else int(limit)
    return unused[: max(0, len(unused) - keep)]


def hash_of(revision: Mapping[str, Any]) -> str:
    return str((revision["metadata"].get("labels") or {}).get("controller.kubernetes.io/hash", ""))
