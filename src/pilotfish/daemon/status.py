"""What the control plane has to say of an object, written into the object's status by the leading replica.

A condition `Reconciled` says whether the object is in force as it stands; when it is not, the message says why and the
last good form stays in force. Objects without trouble are not touched, unless trouble has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pilotfish import api
from pilotfish.kube.client import Client
from pilotfish.kube.errors import ApiStatusError, is_conflict, is_not_found
from pilotfish.kube.meta import format_time, now
from pilotfish.kube.resources import Object, ResourceType
from pilotfish.kube.workqueue import WorkQueue

CONDITION = "Reconciled"
ObjectKey = tuple[str, str, str]
"""Kind, namespace, name."""


class StatusWriter:
    """`problems` tells what is wrong at the moment: object → reason."""

    def __init__(self, client: Client, problems: Callable[[], Mapping[ObjectKey, str]]) -> None:
        self._client = client
        self._problems = problems
        self._queue: WorkQueue[ObjectKey] = WorkQueue("status")
        self._told: set[ObjectKey] = set()

    def look(self) -> None:
        """Something may have changed: objects in trouble, and those that were, are looked at again."""
        for key in {*self._problems(), *self._told}:
            self._queue.add(key)

    async def run(self) -> None:
        """Runs until cancelled."""
        self.look()
        await self._queue.run(self._reconcile)

    async def _reconcile(self, key: ObjectKey) -> None:
        kind, namespace, name = key
        known = api.KINDS.get(kind)
        if known is None:
            return
        resource = ResourceType(known.group, known.versions[0], kind, known.plural)
        reason = self._problems().get(key)
        try:
            found = await self._client.get(resource, name, namespace)
            status = wanted(found, reason)
            if status is not None:
                await self._client.update(resource, {**found, "status": status}, subresource="status")
        except ApiStatusError as error:
            if not is_not_found(error):
                if is_conflict(error):
                    self._queue.add(key)
                    return
                raise
        (self._told.add if reason else self._told.discard)(key)


def wanted(obj: Object, reason: str | None) -> dict[str, Any] | None:
    """The status an object should have, None when it has it."""
    status = obj.get("status") or {}
    conditions = [one for one in status.get("conditions") or () if one.get("type") != CONDITION]
    present = next((one for one in status.get("conditions") or () if one.get("type") == CONDITION), None)
    if reason is None and present is None:
        return None
    state = "True" if reason is None else "False"
    if present is not None and present.get("status") == state and present.get("message", "") == (reason or ""):
        return None
    moment = format_time(now())
    changed = present is None or present.get("status") != state
    condition = {
        "type": CONDITION,
        "status": state,
        "reason": "InForce" if reason is None else "NotInForce",
        "message": reason or "",
        "lastProbeTime": moment,
        "lastTransitionTime": moment if changed or present is None else present.get("lastTransitionTime", moment),
    }
    generation = obj["metadata"].get("generation")
    return {**status, "conditions": [*conditions, condition]} | (
        {"observedGeneration": str(generation)} if generation else {}
    )
