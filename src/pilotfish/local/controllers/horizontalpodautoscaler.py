"""HorizontalPodAutoscaler: keeps the target within its bounds. There are no metrics here, and its status says so."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pilotfish.kube.errors import KubeError
from pilotfish.kube.meta import Key, format_time, is_deleting, now, with_condition
from pilotfish.kube.resources import HORIZONTAL_POD_AUTOSCALERS, Object
from pilotfish.local.controllers import scaletarget
from pilotfish.local.controllers.base import Cluster, Controller

_PERIOD = 15.0  # seconds, as kube-controller-manager's --horizontal-pod-autoscaler-sync-period


def desired(autoscaler: Mapping[str, Any], replicas: int) -> tuple[int, str]:
    """How many replicas the bounds alone ask for, and why if that is a change."""
    spec = autoscaler["spec"]
    least = spec.get("minReplicas")
    least = 1 if least is None else int(least)
    if replicas == 0 and least != 0:
        return 0, ""  # scaled to zero by hand: switched off
    if replicas > int(spec["maxReplicas"]):
        return int(spec["maxReplicas"]), "Current number of replicas above Spec.MaxReplicas"
    if replicas < least:
        return least, "Current number of replicas below Spec.MinReplicas"
    return replicas, ""


def _metric_failure(metric: Mapping[str, Any]) -> tuple[str, str]:
    kind = metric["type"]
    source = metric.get(kind[0].lower() + kind[1:]) or {}
    if kind in {"Resource", "ContainerResource"}:
        name = source.get("name", "")
        text = (
            f"failed to get {name} utilization: unable to get metrics for resource {name}: unable to fetch metrics from"
        )
        text += " resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)"
        return f"FailedGet{kind}Metric", text
    name = (source.get("metric") or {}).get("name", "")
    api = "external.metrics.k8s.io" if kind == "External" else "custom.metrics.k8s.io"
    return (
        f"FailedGet{kind}Metric",
        f"unable to get metric {name}: the server could not find the requested resource ({api})",
    )


def status(
    autoscaler: Mapping[str, Any], replicas: int | None, wanted: tuple[int, str], failure: str, at: datetime
) -> Object:
    """`replicas` is the target's present number, None with the `failure` when it could not be read."""
    before = autoscaler.get("status") or {}
    conditions = list(before.get("conditions") or ())

    def condition(kind: str, state: bool, reason: str, message: str) -> None:
        nonlocal conditions
        one = {"type": kind, "status": "True" if state else "False", "lastTransitionTime": format_time(at)}
        conditions = with_condition(conditions, {**one, "reason": reason, "message": message})

    if replicas is None:
        message = f"the HPA controller was unable to get the target's current scale: {failure}"
        condition("AbleToScale", False, "FailedGetScale", message)
        return {"desiredReplicas": 0, **before, "conditions": conditions}
    count, why = wanted
    if why:
        message = f"the HPA controller was able to update the target scale to {count}"
        condition("AbleToScale", True, "SucceededRescale", message)
    else:
        message = "the HPA controller was able to get the target's current scale"
        condition("AbleToScale", True, "SucceededGetScale", message)
    if replicas == 0 and count == 0:
        message = "scaling is disabled since the replica count of the target is zero"
        condition("ScalingActive", False, "ScalingDisabled", message)
    elif not why:
        reason, text = _metric_failure((autoscaler["spec"].get("metrics") or [_DEFAULT_METRIC])[0])
        message = f"the HPA was unable to compute the replica count: {text}"
        condition("ScalingActive", False, reason, message)
    # Without metrics the wanted number is the last one that was computed.
    result = {"desiredReplicas": 0, **before, "currentReplicas": replicas}
    if why:
        result |= {"desiredReplicas": count, "lastScaleTime": format_time(at)}
    return {**result, "conditions": conditions}


_DEFAULT_METRIC = {"type": "Resource", "resource": {"name": "cpu"}}


class HorizontalPodAutoscalerController(Controller):
    name = "horizontal-pod-autoscaler"
    workers = 1

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._autoscalers = self.watch(HORIZONTAL_POD_AUTOSCALERS).store

    async def sync(self, key: Key) -> None:
        autoscaler = self._autoscalers.get(*key)
        if autoscaler is None or is_deleting(autoscaler):
            return
        replicas: int | None = None
        wanted, failure = (0, ""), ""
        reference = autoscaler["spec"]["scaleTargetRef"]
        try:
            resource, scale = await scaletarget.read(self.client, key[0], reference)
            replicas = int((scale.get("spec") or {}).get("replicas") or 0)
            wanted = desired(autoscaler, replicas)
            if wanted[0] != replicas:
                scale["spec"]["replicas"] = wanted[0]
                await self.client.update(resource, scale, subresource="scale")
                message = f"New size: {wanted[0]}; reason: {wanted[1]}"
                self.events.record(autoscaler, "Normal", "SuccessfulRescale", message)
        except KubeError as error:
            failure = str(error)
            self.events.record(autoscaler, "Warning", "FailedGetScale", failure)
        result = status(autoscaler, replicas, wanted, failure, now())
        if replicas is not None and not wanted[1] and replicas:
            reason, text = _metric_failure((autoscaler["spec"].get("metrics") or [_DEFAULT_METRIC])[0])
            self.events.record(autoscaler, "Warning", reason, text)
        await self.cluster.update_status(HORIZONTAL_POD_AUTOSCALERS, autoscaler, result)
        # The target may be of any kind, so its changes cannot be watched: this one loop looks, as the real one does.
        self.queue.add_after(key, _PERIOD)
