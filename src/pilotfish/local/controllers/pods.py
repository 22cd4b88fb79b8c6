"""What controllers ask of pods, and how a template becomes one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

from pilotfish.kube.meta import annotations_of, find_condition, is_deleting, parse_time
from pilotfish.kube.resources import Object

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


def phase_of(pod: Mapping[str, Any]) -> str:
    return str((pod.get("status") or {}).get("phase") or "")


def is_finished(pod: Mapping[str, Any]) -> bool:
    return phase_of(pod) in {"Succeeded", "Failed"}


def is_active(pod: Mapping[str, Any]) -> bool:
    return not is_finished(pod) and not is_deleting(pod)


def ready_since(pod: Mapping[str, Any]) -> datetime | None:
    """When the pod became ready; None when it is not."""
    condition = find_condition((pod.get("status") or {}).get("conditions"), "Ready")
    if condition is None or condition.get("status") != "True":
        return None
    return parse_time(condition.get("lastTransitionTime")) or _EPOCH


def is_ready(pod: Mapping[str, Any]) -> bool:
    condition = find_condition((pod.get("status") or {}).get("conditions"), "Ready")
    return condition is not None and condition.get("status") == "True"


def is_running_and_ready(pod: Mapping[str, Any]) -> bool:
    return phase_of(pod) == "Running" and is_ready(pod)


def is_available(pod: Mapping[str, Any], min_ready_seconds: int, now: datetime) -> bool:
    """Ready for at least `min_ready_seconds`."""
    if not min_ready_seconds:
        return is_ready(pod)
    since = ready_since(pod)
    return since is not None and since + timedelta(seconds=min_ready_seconds) <= now


def seconds_until_available(pods: Iterable[Mapping[str, Any]], min_ready_seconds: int, now: datetime) -> float | None:
    """When the next of the ready pods becomes available; None when none is waiting."""
    waits = [
        (since + timedelta(seconds=min_ready_seconds) - now).total_seconds()
        for since in (ready_since(pod) for pod in pods)
        if since is not None and since + timedelta(seconds=min_ready_seconds) > now
    ]
    return min(waits) if min_ready_seconds and waits else None


def restarts(pod: Mapping[str, Any]) -> int:
    return max(
        (one.get("restartCount", 0) for one in (pod.get("status") or {}).get("containerStatuses") or ()), default=0
    )


def deletion_order(pods: Iterable[Object]) -> list[Object]:
    """The pods a ReplicaSet gives up first: those that serve least, then the cheapest, then the youngest.

    As Kubernetes' ActivePodsWithRanks; on one node the spread over nodes says nothing.
    """

    def rank(pod: Object) -> tuple[Any, ...]:
        since = ready_since(pod)
        try:
            cost = int(annotations_of(pod).get(_DELETION_COST, "0"))
        except ValueError:
            cost = 0
        created = parse_time(pod["metadata"].get("creationTimestamp")) or _EPOCH
        return (
            bool(pod["spec"].get("nodeName")),
            {"Pending": 0, "Unknown": 1}.get(phase_of(pod), 2),
            since is not None,
            cost,
            -(since or _EPOCH).timestamp(),
            -restarts(pod),
            -created.timestamp(),
            pod["metadata"]["name"],
        )

    return sorted(pods, key=rank)


def from_template(
    template: Mapping[str, Any], namespace: str, owner_reference: Mapping[str, Any], *, name: str = "", prefix: str = ""
) -> Object:
    """A pod of a template, named `name` or by the server with `prefix`."""
    meta = template.get("metadata") or {}
    metadata: Object = {"name": name} if name else {"generateName": prefix}
    metadata |= {
        "namespace": namespace,
        "labels": dict(meta.get("labels") or {}),
        "annotations": dict(meta.get("annotations") or {}),
        "ownerReferences": [dict(owner_reference)],
    }
    if meta.get("finalizers"):
        metadata["finalizers"] = list(meta["finalizers"])
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": deepcopy(template["spec"])}
