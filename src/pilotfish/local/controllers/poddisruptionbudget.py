"""PodDisruptionBudget: how many of its pods may be evicted now.

The rules are those of kubernetes/pkg/controller/disruption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pilotfish.kube.errors import ApiStatusError
from pilotfish.kube.informer import Change
from pilotfish.kube.meta import (
    Key,
    controller_of,
    format_time,
    is_deleting,
    key_of,
    labels_of,
    matches_selector,
    now,
    parse_time,
    with_condition,
)
from pilotfish.kube.resources import POD_DISRUPTION_BUDGETS, PODS, Object
from pilotfish.local.controllers import scaletarget
from pilotfish.local.controllers.base import Cluster, Controller, scaled_value
from pilotfish.local.controllers.pods import is_finished, is_ready

_DISRUPTED_SECONDS = 120  # an evicted pod that is still there after this long was not evicted


def needs_scale(budget: Mapping[str, Any]) -> bool:
    """Whether the wanted number of pods matters, not only the present one."""
    least = budget["spec"].get("minAvailable")
    return budget["spec"].get("maxUnavailable") is not None or (isinstance(least, str) and least.endswith("%"))


def healthy_needed(budget: Mapping[str, Any], pods: int, wanted: int) -> tuple[int, int]:
    """Expected pods and how many of them must be healthy. `wanted` is what their controllers ask for."""
    spec = budget["spec"]
    if spec.get("maxUnavailable") is not None:
        return wanted, max(0, wanted - scaled_value(spec["maxUnavailable"], wanted, round_up=True))
    least = spec.get("minAvailable")
    if isinstance(least, str) and least.endswith("%"):
        return wanted, scaled_value(least, wanted, round_up=True)
    return pods, 1 if least is None else scaled_value(least, pods, round_up=True)


def status(budget: Mapping[str, Any], pods: Sequence[Object], expected: int, needed: int, at: datetime) -> Object:
    before = budget.get("status") or {}
    disrupted: dict[str, str] = {}
    for pod in pods:
        since = parse_time((before.get("disruptedPods") or {}).get(pod["metadata"]["name"]))
        if since is not None and not is_deleting(pod) and since + timedelta(seconds=_DISRUPTED_SECONDS) > at:
            disrupted[pod["metadata"]["name"]] = before["disruptedPods"][pod["metadata"]["name"]]
    healthy = sum(is_ready(pod) and not is_deleting(pod) and pod["metadata"]["name"] not in disrupted for pod in pods)
    allowed = max(0, healthy - needed) if expected > 0 else 0
    condition = {
        "type": "DisruptionAllowed",
        "status": "True" if allowed else "False",
        "reason": "SufficientPods" if allowed else "InsufficientPods",
        "observedGeneration": budget["metadata"].get("generation", 0),
        "lastTransitionTime": format_time(at),
        "message": "",
    }
    result: Object = {
        "observedGeneration": budget["metadata"].get("generation", 0),
        "disruptionsAllowed": allowed,
        "currentHealthy": healthy,
        "desiredHealthy": needed,
        "expectedPods": expected,
        "conditions": with_condition(before.get("conditions"), condition),
    }
    return result | ({"disruptedPods": disrupted} if disrupted else {})


class PodDisruptionBudgetController(Controller):
    name = "disruption-controller"
    workers = 2

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._budgets = self.watch(POD_DISRUPTION_BUDGETS).store
        self._pods = self.watch(PODS, self._pod_changed).store

    def _pod_changed(self, change: Change) -> None:
        for budget in self._budgets.in_namespace(key_of(change.object)[0]):
            if any(pod is not None and _selects(budget, pod) for pod in change):
                self.queue.add(key_of(budget))

    async def sync(self, key: Key) -> None:
        budget = self._budgets.get(*key)
        if budget is None or is_deleting(budget):
            return
        pods = [pod for pod in self._pods.in_namespace(key[0]) if _selects(budget, pod) and not is_finished(pod)]
        wanted = await self._wanted(key[0], pods) if needs_scale(budget) else len(pods)
        expected, needed = healthy_needed(budget, len(pods), wanted)
        at = now()
        result = status(budget, pods, expected, needed, at)
        await self.cluster.update_status(POD_DISRUPTION_BUDGETS, budget, result)
        if result.get("disruptedPods"):
            self.queue.add_after(key, _DISRUPTED_SECONDS)

    async def _wanted(self, namespace: str, pods: Sequence[Object]) -> int:
        """The sum of the replicas that the controllers of these pods are to have."""
        total, seen = 0, set()
        for pod in pods:
            reference = controller_of(pod)
            if reference is None:
                total += 1
                continue
            if reference["uid"] not in seen:
                seen.add(reference["uid"])
                total += await self._replicas(namespace, reference, pods)
        return total

    async def _replicas(self, namespace: str, reference: Mapping[str, Any], pods: Sequence[Object]) -> int:
        try:
            _, scale = await scaletarget.read(self.client, namespace, reference)
        except ApiStatusError:
            # A controller that cannot be scaled wants what it has.
            return sum((controller_of(pod) or {}).get("uid") == reference["uid"] for pod in pods)
        return int((scale.get("spec") or {}).get("replicas") or 0)


def _selects(budget: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    return matches_selector(budget["spec"].get("selector"), labels_of(pod))
