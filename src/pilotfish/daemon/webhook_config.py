"""Keeps the CA bundle in our webhook configurations: without it the API server cannot call us.

Which configurations are ours is said by their label `istio.io/rev`, as Istio has it. Validation stays at the failure
policy the chart gives until we can answer; then it is set to Fail.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any

from pilotfish.kube.client import Client, PatchType
from pilotfish.kube.errors import ApiStatusError, is_not_found
from pilotfish.kube.informer import Change, Informers
from pilotfish.kube.resources import (
    MUTATING_WEBHOOK_CONFIGURATIONS,
    VALIDATING_WEBHOOK_CONFIGURATIONS,
    Object,
    ResourceType,
)
from pilotfish.kube.workqueue import WorkQueue

REVISION_LABEL = "istio.io/rev"


class WebhookPatcher:
    """Runs in every replica; what is right already is left alone.

    Only webhooks that call our Service are touched; others are somebody else's.
    """

    def __init__(
        self,
        client: Client,
        informers: Informers,
        revision: str,
        service: tuple[str, str],
        root_pem: Callable[[], bytes],
    ) -> None:
        """`service` is (namespace, name) of our Service."""
        self._client = client
        self._service = service
        self._root_pem = root_pem
        selector = f"{REVISION_LABEL}={revision or 'default'}"
        self._informers = {
            kind: informers.get(kind, labels=selector)
            for kind in (MUTATING_WEBHOOK_CONFIGURATIONS, VALIDATING_WEBHOOK_CONFIGURATIONS)
        }
        self._queue: WorkQueue[tuple[ResourceType, str]] = WorkQueue("webhook configurations")

    def roots_changed(self) -> None:
        for kind, informer in self._informers.items():
            for _, name in informer.store:
                self._queue.add((kind, name))

    async def run(self) -> None:
        """Runs until cancelled."""
        for kind, informer in self._informers.items():

            def changed(change: Change, kind: ResourceType = kind) -> None:
                if change.new is not None:
                    self._queue.add((kind, change.new["metadata"]["name"]))

            informer.add_handler(changed)
        await self._queue.run(self._reconcile)

    async def _reconcile(self, key: tuple[ResourceType, str]) -> None:
        kind, name = key
        found = self._informers[kind].store.get("", name)
        if found is None:
            return
        operations = self.operations(found, validating=kind is VALIDATING_WEBHOOK_CONFIGURATIONS)
        if not operations:
            return
        version = found["metadata"]["resourceVersion"]
        guard = {"op": "test", "path": "/metadata/resourceVersion", "value": version}
        try:
            await self._client.patch(kind, name, [guard, *operations], patch_type=PatchType.JSON)
        except ApiStatusError as error:
            if not is_not_found(error):
                raise

    def operations(self, found: Object, *, validating: bool) -> list[dict[str, Any]]:
        """The JSON patch that brings one configuration up to date; empty when it is."""
        bundle = b64encode(self._root_pem()).decode()
        operations: list[dict[str, Any]] = []
        for number, webhook in enumerate(found.get("webhooks") or ()):
            target = webhook.get("clientConfig", {}).get("service") or {}
            if (target.get("namespace"), target.get("name")) != self._service:
                continue
            if webhook["clientConfig"].get("caBundle") != bundle:
                path = f"/webhooks/{number}/clientConfig/caBundle"
                operations.append({"op": "add", "path": path, "value": bundle})
            if validating and webhook.get("failurePolicy") != "Fail":
                operations.append({"op": "replace", "path": f"/webhooks/{number}/failurePolicy", "value": "Fail"})
        return operations
