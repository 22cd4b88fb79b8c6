"""What all control loops share: one client, one copy of every object, and reads that see our own writes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pilotfish.kube.client import Client, Propagation
from pilotfish.kube.errors import KubeError, is_namespace_ending, is_not_found
from pilotfish.kube.events import EventRecorder
from pilotfish.kube.informer import Change, Informer, Informers, Store
from pilotfish.kube.meta import (
    Key,
    controller_of,
    controller_reference,
    is_controlled_by,
    is_deleting,
    key_of,
    labels_of,
    matches_selector,
)
from pilotfish.kube.resources import PODS, Object, ResourceType
from pilotfish.kube.workqueue import WorkQueue

_log = logging.getLogger(__name__)
_AT_ONCE = 16  # writes under way for one object; starts with one, so that a refusal costs one request


class Cluster:
    """The client and the informers of all controllers.

    Writes return when the informer of their kind has seen them, so that a control loop never acts on a state older
    than its own last action.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.informers = Informers(client)

    async def create(self, resource: ResourceType, obj: Mapping[str, Any]) -> Object:
        return await self._seen(resource, await self.client.create(resource, obj))

    async def update(self, resource: ResourceType, obj: Mapping[str, Any], *, subresource: str = "") -> Object:
        return await self._seen(resource, await self.client.update(resource, obj, subresource=subresource))

    async def update_status(self, resource: ResourceType, obj: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Write the status of `obj`, an object as read, unless it is the same."""
        if (obj.get("status") or {}) != status:
            await self.update(resource, {**obj, "status": status}, subresource="status")

    async def patch(
        self, resource: ResourceType, obj: Mapping[str, Any], patch: Mapping[str, Any], *, subresource: str = ""
    ) -> Object:
        """A merge patch of just this object: refused when another has taken its name."""
        namespace, name = key_of(obj)
        meta = {"uid": obj["metadata"]["uid"], **patch.get("metadata", {})}
        body = {**patch, "metadata": meta}
        return await self._seen(
            resource, await self.client.patch(resource, name, body, namespace, subresource=subresource)
        )

    async def delete(
        self, resource: ResourceType, obj: Mapping[str, Any], *, propagation: Propagation = Propagation.BACKGROUND
    ) -> None:
        """Delete just this object; fine when it is gone already."""
        namespace, name = key_of(obj)
        uid = obj["metadata"]["uid"]
        try:
            await self.client.delete(resource, name, namespace, propagation=propagation, uid=uid)
        except KubeError as error:
            if not is_not_found(error):
                raise
        if self.informers.has(resource):
            store = self.informers.get(resource).store

            def gone() -> bool:
                now = store.get(namespace, name)
                return now is None or now["metadata"]["uid"] != uid or is_deleting(now)

            await self.informers.get(resource).until(gone)

    async def _seen(self, resource: ResourceType, written: Object) -> Object:
        if self.informers.has(resource):
            informer = self.informers.get(resource)
            if not await informer.caught_up(written["metadata"]["resourceVersion"]):
                _log.warning("the watch of %s lags behind", resource.group_resource)
        return written

    async def claim(
        self,
        owner: Object,
        owner_resource: ResourceType,
        selector: Mapping[str, Any] | None,
        resource: ResourceType,
        candidates: Iterable[Object],
    ) -> list[Object]:
        """The objects `owner` controls, after orphans that match were adopted and strays released."""
        claims = decide_claims(owner, selector, candidates)
        owned = claims.owned
        if claims.adopt:
            fresh = await self.client.get(owner_resource, owner["metadata"]["name"], key_of(owner)[0])
            if fresh["metadata"]["uid"] == owner["metadata"]["uid"] and not is_deleting(fresh):
                reference = controller_reference(owner, owner_resource)
                for one in claims.adopt:
                    references = [*(one["metadata"].get("ownerReferences") or ()), reference]
                    owned.append(await self._set_owners(resource, one, references))
        for one in claims.release:
            references = [
                reference
                for reference in one["metadata"]["ownerReferences"]
                if reference["uid"] != owner["metadata"]["uid"]
            ]
            await self._set_owners(resource, one, references)
        return owned

    async def _set_owners(self, resource: ResourceType, obj: Object, references: list[Object]) -> Object:
        version = obj["metadata"]["resourceVersion"]
        return await self.patch(
            resource, obj, {"metadata": {"ownerReferences": references, "resourceVersion": version}}
        )


def selector_of(owner: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The LabelSelector of a workload."""
    found: Mapping[str, Any] | None = owner["spec"].get("selector")
    return found


@dataclass(slots=True)
class Claims:
    owned: list[Object] = field(default_factory=list)
    adopt: list[Object] = field(default_factory=list)
    release: list[Object] = field(default_factory=list)


def decide_claims(owner: Object, selector: Mapping[str, Any] | None, candidates: Iterable[Object]) -> Claims:
    """Which objects are the owner's, should become so, and should no longer be (as controller_ref_manager.go)."""
    claims = Claims()
    for one in candidates:
        matches = matches_selector(selector, labels_of(one))
        if is_controlled_by(one, owner):
            if matches:
                claims.owned.append(one)
            elif not is_deleting(owner) and not is_deleting(one):
                claims.release.append(one)
        elif matches and controller_of(one) is None and not is_deleting(owner) and not is_deleting(one):
            claims.adopt.append(one)
    return claims


class Controller:
    """One control loop: keys of objects that may need work come in, `sync` makes one of them as it should be."""

    name: ClassVar[str]
    """The component that its events name."""
    workers: ClassVar[int] = 4

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.client = cluster.client
        self.queue: WorkQueue[Key] = WorkQueue(self.name)
        self.events = EventRecorder(cluster.client, self.name)

    def watch(self, resource: ResourceType, handler: Callable[[Change], None] | None = None) -> Informer:
        """The shared informer of a kind; without a handler every changed object's own key is queued."""
        informer = self.cluster.informers.get(resource)
        informer.add_handler(handler or self.enqueue)
        return informer

    def enqueue(self, change: Change) -> None:
        self.queue.add(key_of(change.object))

    def enqueue_owner(self, resource: ResourceType) -> Callable[[Change], None]:
        """A handler that queues the controller of what changed, before and after the change."""

        def handle(change: Change) -> None:
            for obj in change:
                reference = controller_of(obj) if obj is not None else None
                if obj is not None and reference is not None and resource.matches(reference):
                    self.queue.add((key_of(obj)[0], reference["name"]))

        return handle

    def enqueue_claimants(
        self,
        resource: ResourceType,
        claimants: Store,
        selector: Callable[[Object], Mapping[str, Any] | None] | None = None,
    ) -> Callable[[Change], None]:
        """As `enqueue_owner`, and for something without a controller those of `claimants` whose selector matches it."""
        selector = selector or selector_of
        enqueue_owner = self.enqueue_owner(resource)

        def handle(change: Change) -> None:
            enqueue_owner(change)
            obj = change.new
            if obj is None or controller_of(obj) is not None or not labels_of(obj):
                return
            for one in claimants.in_namespace(key_of(obj)[0]):
                if matches_selector(selector(one), labels_of(obj)):
                    self.queue.add(key_of(one))

        return handle

    async def create_pod(self, owner: Object, pod: Object) -> None:
        """Create it and tell in an event how that went."""
        try:
            made = await self.cluster.create(PODS, pod)
        except KubeError as error:
            self.events.record(owner, "Warning", "FailedCreate", f"Error creating: {error}")
            raise
        self.events.record(owner, "Normal", "SuccessfulCreate", f"Created pod: {made['metadata']['name']}")

    async def delete_pod(self, owner: Object, pod: Object) -> None:
        try:
            await self.cluster.delete(PODS, pod)
        except KubeError as error:
            self.events.record(owner, "Warning", "FailedDelete", f"Error deleting: {error}")
            raise
        self.events.record(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")

    async def sync(self, key: Key) -> None:
        raise NotImplementedError

    async def run(self) -> None:
        """Runs until cancelled; the informers must be synced."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.events.run(), name=f"events {self.name}")
            group.create_task(self.queue.run(self._sync, self.workers), name=f"controller {self.name}")

    async def _sync(self, key: Key) -> None:
        try:
            await self.sync(key)
        except KubeError as error:
            if not is_namespace_ending(error):
                raise


async def in_batches(actions: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """Run all, one first, then twice as many at a time; the first failure of a batch ends it and is raised."""
    position, size = 0, 1
    while position < len(actions):
        batch = actions[position : position + size]
        results = await asyncio.gather(*(action() for action in batch), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        position += len(batch)
        size = min(size * 2, _AT_ONCE)


def without_zeros(status: Mapping[str, Any]) -> Object:
    """A status as Go writes it: no zero counts, no empty lists."""
    return {key: value for key, value in status.items() if value not in (None, 0, "", [], {})}


def scaled_value(value: int | str | None, total: int, *, round_up: bool) -> int:
    """An IntOrString of a total: `3` or `"25%"`; None is 0."""
    if value is None:
        return 0
    if isinstance(value, str) and value.endswith("%"):
        percent = int(value[:-1])
        return -(-percent * total // 100) if round_up else percent * total // 100
    return int(value)
