"""The status of a pod from the states of its containers. Pure functions, after kubelet's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pilotfish.kube.meta import find_condition, format_time, with_condition
from pilotfish.local.network import NODE_IP
from pilotfish.local.node import fields

Object = Mapping[str, Any]
Json = dict[str, Any]
Kind = Literal["init", "sidecar", "main", "ephemeral"]


@dataclass
class ContainerView:
    """What is known of a container now."""

    name: str
    kind: Kind
    image: str
    image_id: str = ""
    container_id: str = ""
    restarts: int = 0
    ready: bool = False
    started: bool = False
    state: Json = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last_state: Json = field(default_factory=dict)

    @property
    def terminated(self) -> Object | None:
        return self.state.get("terminated")

    @property
    def succeeded(self) -> bool:
        return self.terminated is not None and self.terminated.get("exitCode") == 0

    @property
    def initialized(self) -> bool:
        """Whether the containers after it may start."""
        return self.succeeded if self.kind == "init" else self.started

    def as_status(self) -> Json:
        """The entry of `containerStatuses`, `initContainerStatuses` or `ephemeralContainerStatuses`."""
        result: Json = {
            "name": self.name,
            "image": self.image,
            "imageID": self.image_id,
            "state": self.state,
            "lastState": self.last_state,
            "ready": self.succeeded if self.kind == "init" else self.ready,
            "restartCount": self.restarts,
            "started": self.started if self.kind != "init" else "running" in self.state,
        }
        if self.container_id:
            result["containerID"] = self.container_id
        return result


@dataclass(frozen=True)
class PodView:
    """What is known of a pod now, beside its containers."""

    ip: str = ""
    start_time: str = ""
    reason: str = ""
    """Why the pod failed as a whole (`DeadlineExceeded`, `Evicted`); empty while it has not."""
    message: str = ""


def qos_class(spec: Object) -> str:
    """Guaranteed, Burstable or BestEffort."""
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    found = False
    guaranteed = True
    for container in containers:
        resources = container.get("resources") or {}
        requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
        for name in ("cpu", "memory"):
            limit, request = limits.get(name), requests.get(name, limits.get(name))
            found = found or any(v is not None and fields.quantity(v) != 0 for v in (limit, request))
            if limit is None or request is None or fields.quantity(limit) != fields.quantity(request):
                guaranteed = False
    if not found:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def phase(policy: str, init: Sequence[ContainerView], main: Sequence[ContainerView]) -> str:
    """Pending, Running, Succeeded or Failed (kubelet's getPhase)."""
    for one in init:
        if one.kind == "init" and not one.succeeded:
            return "Failed" if one.terminated is not None and policy == "Never" else "Pending"
        begun = any("running" in m.state or m.terminated is not None for m in main)
        if one.kind == "sidecar" and not one.started and not begun:
            return "Pending"
    running = sum("running" in one.state for one in main)
    waiting = sum("waiting" in one.state and not one.last_state.get("terminated") for one in main)
    stopped = len(main) - running - waiting
    succeeded = sum(one.succeeded for one in main)
    if waiting:
        return "Pending"
    if running or policy == "Always":
        return "Running"
    if stopped == succeeded:
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def build(
    pod: Object,
    view: PodView,
    init: Sequence[ContainerView],
    main: Sequence[ContainerView],
    now: datetime,
    *,
    ephemeral: Sequence[ContainerView] = (),
    finished: bool = False,
) -> Json:
    """The whole `status` object. `pod` gives the specification and the conditions that others own.

    `finished`: no container will be started any more (a pod that ends, or is being deleted).
    """
    spec = pod["spec"]
    policy = spec.get("restartPolicy") or "Always"
    kind = "Failed" if view.reason else phase("Never" if finished else policy, init, main)
    if kind in {"Succeeded", "Failed"} and any("running" in one.state for one in (*init, *main)):
        kind = "Running"  # it is over when the last container has ended
    result: Json = {"phase": kind, "hostIP": str(NODE_IP), "hostIPs": [{"ip": str(NODE_IP)}]}
    if view.reason and kind == "Failed":
        result |= {"reason": view.reason, "message": view.message}
    if view.ip:
        result |= {"podIP": view.ip, "podIPs": [{"ip": view.ip}]}
    if view.start_time:
        result["startTime"] = view.start_time
    result["qosClass"] = (pod.get("status") or {}).get("qosClass") or qos_class(spec)
    if init:
        result["initContainerStatuses"] = [one.as_status() for one in init]
    result["containerStatuses"] = [one.as_status() for one in main]
    if ephemeral:
        result["ephemeralContainerStatuses"] = [one.as_status() for one in ephemeral]
    result["conditions"] = _conditions(pod, view, kind, init, main, now)
    return result


def _condition(kind: str, ok: bool, reason: str = "", message: str = "") -> Json:
    result: Json = {"type": kind, "status": "True" if ok else "False", "lastProbeTime": None}
    if reason:
        result["reason"] = reason
    if message:
        result["message"] = message
    return result


def _names(views: Iterable[ContainerView]) -> str:
    return "[" + " ".join(one.name for one in views) + "]"


def _conditions(
    pod: Object,
    view: PodView,
    kind: str,
    init: Sequence[ContainerView],
    main: Sequence[ContainerView],
    now: datetime,
) -> list[Json]:
    existing = (pod.get("status") or {}).get("conditions") or []
    wanted = [_condition("PodReadyToStartContainers", bool(view.ip))]
    missing = [one for one in init if not one.initialized]
    if kind == "Succeeded":
        wanted.append(_condition("Initialized", True, "PodCompleted"))
    elif missing and kind != "Running":
        message = f"containers with incomplete status: {_names(missing)}"
        wanted.append(_condition("Initialized", False, "ContainersNotInitialized", message))
    else:
        wanted.append(_condition("Initialized", True))
    containers = _containers_ready(kind, init, main)
    ready = containers | {"type": "Ready"}
    if containers["status"] == "True":
        gates = [g["conditionType"] for g in pod["spec"].get("readinessGates") or ()]
        messages = []
        for gate in gates:
            found = find_condition(existing, gate)
            if found is None:
                messages.append(f'corresponding condition of pod readiness gate "{gate}" does not exist.')
            elif found.get("status") != "True":
                messages.append(f'the status of pod readiness gate "{gate}" is not "True", but {found.get("status")}')
        if messages:
            ready = _condition("Ready", False, "ReadinessGatesNotReady", ", ".join(messages))
    wanted += [ready, containers]
    if find_condition(existing, "PodScheduled") is None:
        wanted.append(_condition("PodScheduled", True))
    stamp = format_time(now)
    result: list[Json] = [dict(one) for one in existing]
    for condition in wanted:
        result = with_condition(result, condition | {"lastTransitionTime": stamp})
    return result


def _containers_ready(kind: str, init: Sequence[ContainerView], main: Sequence[ContainerView]) -> Json:
    if kind == "Succeeded":
        return _condition("ContainersReady", False, "PodCompleted")
    if kind == "Failed":
        return _condition("ContainersReady", False, "PodFailed")
    unready = [one for one in (*main, *(i for i in init if i.kind == "sidecar")) if not one.ready]
    if unready:
        message = f"containers with unready status: {_names(unready)}"
        return _condition("ContainersReady", False, "ContainersNotReady", message)
    return _condition("ContainersReady", True)
