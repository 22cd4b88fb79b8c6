"""CustomResourceDefinitions in force: names accepted, kinds served, objects converted, all gone with the definition."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pilotfish.local.apiserver import meta
from pilotfish.local.apiserver.errors import internal
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.store import Item
from pilotfish.local.apiserver.webhooks import WebhookError

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

log = logging.getLogger(__name__)

GROUP = "apiextensions.k8s.io"
BUCKET = f"{GROUP}/customresourcedefinitions"
FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
CONVERSION_SECONDS = 30


class CustomKinds:
    """Follows the definitions in the store, and has the registry serve what they say."""

    def __init__(self) -> None:
        self._core: Core | None = None
        self._definitions: dict[str, Object] = {}
        self._of: dict[Resource, str] = {}
        self._stamps: dict[str, Any] = {}
        self._waking: dict[Resource, set[Callable[[], None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def core(self) -> Core:
        if self._core is None:
            raise RuntimeError("the server has not been put together yet")
        return self._core

    def load(self, core: Core) -> None:
        """Serve every definition that the store holds."""
        self._core = core
        for key, item in core.store.bucket(BUCKET).items.items():
            definition = item.decode()
            self._definitions[key] = definition
            self._serve(key, definition)

    def resume(self) -> None:
        """Go on with removals that the last run of the server did not finish."""
        for key, definition in self._definitions.items():
            if definition["metadata"].get("deletionTimestamp"):
                self._start_removal(key)

    def written(self, resource: Resource, item: Item) -> None:
        """An object was created or changed; acts when it is a definition or an instance that held one back."""
        if resource.group != GROUP or resource.kind != "CustomResourceDefinition":
            return
        definition = item.decode()
        name = definition["metadata"]["name"]
        self._settle(name, definition, item)

    def deleted(self, resource: Resource, last: Item) -> None:
        """An object is gone; with a definition its kinds go, and its names are free for others."""
        if resource.group != GROUP or resource.kind != "CustomResourceDefinition":
            return
        name = last.decode()["metadata"]["name"]
        gone = self._definitions.pop(name, None)
        self._unserve(name)
        if gone is None:
            return
        bucket = self.core.store.bucket(BUCKET)
        for other, definition in list(self._definitions.items()):
            if definition["spec"]["group"] == gone["spec"]["group"] and other in bucket.items:
                self._settle(other, definition, bucket.items[other])

    def _settle(self, name: str, definition: Object, item: Item) -> None:
        """Accept names, note it in the status, and serve the kinds."""
        from pilotfish.local.apiserver import crd  # noqa: PLC0415 - heavy, and only definitions need it

        bucket = self.core.store.bucket(BUCKET)
        naming = crd.names_conflict(definition, self._definitions.values())
        before = definition.get("status") or {}
        status = dict(before)
        conditions = {c["type"]: c for c in before.get("conditions") or []}
        established = conditions.get("Established", {}).get("status") == "True"
        wanted = [naming.condition] if established else [naming.condition, naming.established]
        if definition["metadata"].get("deletionTimestamp"):
            wanted.append(
                {
                    "type": "Terminating",
                    "status": "True",
                    "reason": "InstanceDeletionInProgress",
                    "message": "CustomResource deletion is in progress",
                }
            )
        for condition in wanted:
            known = conditions.get(condition["type"], {})
            same = known.get("status") == condition["status"]
            moment = known.get("lastTransitionTime") if same else None
            conditions[condition["type"]] = {
                "lastTransitionTime": moment or meta.now(),
                **condition,
                "observedGeneration": definition["metadata"].get("generation", 1),
            }
        status["conditions"] = list(conditions.values())
        status["acceptedNames"] = naming.accepted
        stored = sorted({*(before.get("storedVersions") or []), *_storage_versions(definition)})
        status["storedVersions"] = before.get("storedVersions") or stored
        if missing := [version for version in stored if version not in status["storedVersions"]]:
            status["storedVersions"] = [*status["storedVersions"], *missing]
        if status != before:
            definition["status"] = status
            self.core.store.put(bucket, name, definition, item)
        self._definitions[name] = definition
        self._serve(name, definition)
        if definition["metadata"].get("deletionTimestamp"):
            self._start_removal(name)

    def _serve(self, name: str, definition: Object) -> None:
        from pilotfish.local.apiserver import crd  # noqa: PLC0415 - as above

        conditions = (definition.get("status") or {}).get("conditions") or []
        established = any(c["type"] == "Established" and c["status"] == "True" for c in conditions)
        old = [resource for resource, owner in self._of.items() if owner == name]
        if not established:
            self._unserve(name)
            return
        stamp = (definition["metadata"].get("generation"), definition["status"].get("acceptedNames"))
        if old and self._stamps.get(name) == stamp:
            return  # only its status has changed: what is served stays, and watches of it go on
        self._stamps[name] = stamp
        resources = crd.resources_of(definition)
        self.core.registry.set_custom(name, resources, crd.definitions_of(definition))
        for resource in old:
            del self._of[resource]
        for resource in resources:
            self._of[resource] = name
        self._wake(old)

    def _unserve(self, name: str) -> None:
        self.core.registry.remove_custom(name)
        old = [resource for resource, owner in self._of.items() if owner == name]
        for resource in old:
            del self._of[resource]
        self._wake(old)

    def _wake(self, resources: list[Resource]) -> None:
        for resource in resources:
            for wake in self._waking.pop(resource, set()):
                wake()

    def serves(self, resource: Resource) -> bool:
        """Whether the kind is still served, in the shape it had."""
        return self.core.registry.find(resource.group, resource.version, resource.plural) is resource

    def ending(self, resource: Resource) -> bool:
        """Whether the definition of the kind is being deleted: then nothing new of it is taken."""
        definition = self._definitions.get(self._of.get(resource, ""), {})
        return bool(definition.get("metadata", {}).get("deletionTimestamp"))

    def watching(self, resource: Resource, wake: Callable[[], None]) -> None:
        """Have `wake` called when the kind is no longer served as it is now."""
        if self.core.registry.is_custom(resource):
            self._waking.setdefault(resource, set()).add(wake)

    def unwatching(self, resource: Resource, wake: Callable[[], None]) -> None:
        if resource in self._waking:
            self._waking[resource].discard(wake)

    async def convert(self, resource: Resource, objects: Sequence[Object], api_version: str) -> list[Object]:
        """Custom objects in another version of their kind. Raises 500 when a conversion webhook fails."""
        from pilotfish.local.apiserver import crd  # noqa: PLC0415 - as above

        definition = self._definitions[self._of[resource]] if resource in self._of else None
        if definition is None:
            return [obj | {"apiVersion": api_version} for obj in objects]
        version = api_version.rpartition("/")[2]
        return await crd.convert_objects(definition, objects, version, self._call)

    async def _call(self, client: Object, review: Object) -> Any:
        try:
            return await self.core.admission.caller.post(self.core, client, review, CONVERSION_SECONDS)
        except WebhookError as error:
            raise internal(f"conversion webhook failed: {error}") from None

    def _start_removal(self, name: str) -> None:
        task = asyncio.get_running_loop().create_task(self._remove(name), name=f"remove {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _remove(self, name: str) -> None:
        """Delete all objects of a definition that is being deleted, then let the definition go."""
        definition = self._definitions.get(name)
        if definition is None:
            return
        spec = definition["spec"]
        instances = self.core.store.bucket(f"{spec['group']}/{spec['names']['plural']}")
        changed = asyncio.Event()

        def noticed(_: object) -> None:
            changed.set()

        instances.listeners.add(noticed)
        try:
            while instances.items:
                changed.clear()
                for key in list(instances.keys):
                    item = instances.items[key]
                    obj = item.decode()
                    metadata = obj["metadata"]
                    if not metadata.get("finalizers"):
                        self.core.store.delete(instances, key, obj, item)
                    elif not metadata.get("deletionTimestamp"):
                        metadata["deletionTimestamp"], metadata["deletionGracePeriodSeconds"] = meta.now(), 0
                        self.core.store.put(instances, key, obj, item)
                if instances.items:
                    await changed.wait()
        finally:
            instances.listeners.discard(noticed)
        bucket = self.core.store.bucket(BUCKET)
        held = bucket.items.get(name)
        if held is None:
            return
        definition = held.decode()
        left = [f for f in definition["metadata"].get("finalizers") or [] if f != FINALIZER]
        if left:
            definition["metadata"]["finalizers"] = left
            self.core.store.put(bucket, name, definition, held)
            return
        definition["metadata"].pop("finalizers", None)
        resource = self.core.registry.of_kind(f"{GROUP}/v1", "CustomResourceDefinition")
        last = self.core.store.delete(bucket, name, definition, held)
        if resource is not None:
            self.deleted(resource, last)


def _storage_versions(definition: Object) -> list[str]:
    return [version["name"] for version in definition["spec"]["versions"] if version.get("storage")]
