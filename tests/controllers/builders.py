"""Objects for tests of decisions, as a server would give them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from pilotfish.kube.meta import format_time

_numbers = count(1)
NOW = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)


def owner_reference(owner: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def obj(
    kind: str,
    name: str = "",
    *,
    api_version: str = "v1",
    owner: dict[str, Any] | None = None,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    **body: Any,
) -> dict[str, Any]:
    number = next(_numbers)
    meta: dict[str, Any] = {
        "name": name or f"{kind.lower()}-{number}",
        "namespace": "ns",
        "uid": f"uid-{number}",
        "resourceVersion": str(number),
        "creationTimestamp": format_time(NOW + timedelta(seconds=number)),
        "generation": 1,
        "labels": labels or {},
        "annotations": annotations or {},
    }
    if owner is not None:
        meta["ownerReferences"] = [owner_reference(owner)]
    return {"apiVersion": api_version, "kind": kind, "metadata": meta, **body}


def template(labels: dict[str, str] | None = None, image: str = "a:1", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"labels": labels or {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": image}], **spec},
    }


def pod(
    name: str = "",
    *,
    phase: str = "Running",
    ready: bool | None = None,
    ready_at: datetime = NOW - timedelta(hours=1),
    node: str = "node",
    deleting: bool = False,
    restarts: int = 0,
    ip: str = "",
    spec: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    ready = phase == "Running" if ready is None else ready
    condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": format_time(ready_at)}
    status: dict[str, Any] = {"phase": phase, "conditions": [condition]}
    if restarts:
        status["containerStatuses"] = [{"name": "c", "restartCount": restarts}]
    if ip:
        status |= {"podIP": ip, "podIPs": [{"ip": ip}]}
    made = obj(
        "Pod",
        name,
        spec={"containers": [{"name": "c"}], **({"nodeName": node} if node else {}), **(spec or {})},
        **more,
    )
    made["status"] = status
    if deleting:
        made["metadata"]["deletionTimestamp"] = format_time(NOW)
    return made
