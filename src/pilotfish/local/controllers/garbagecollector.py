"""Garbage collector: objects whose owners are gone go too.

The rules are those of kubernetes/pkg/controller/garbagecollector: a graph of owner references over the metadata of
every kind, and three ways an owner goes: in the background (its dependents after it), in the foreground (those that
block it before it) and as an orphanage (they stay).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pilotfish.kube.client import Propagation
from pilotfish.kube.discovery import discover
from pilotfish.kube.errors import KubeError, is_not_found
from pilotfish.kube.events import EventRecorder
from pilotfish.kube.informer import Change, Informer
from pilotfish.kube.meta import is_deleting, key_of
from pilotfish.kube.resources import CUSTOM_RESOURCE_DEFINITIONS, Object, ResourceType
from pilotfish.kube.workqueue import WorkQueue
from pilotfish.local.controllers.base import Cluster

_log = logging.getLogger(__name__)

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
_IGNORED = {("", "events"), ("events.k8s.io", "events")}
_WORKERS = 8
_REMEMBERED = 4096  # uids of objects that are gone


# ---------------------------------------------------------------------- the graph


@dataclass(slots=True)
class Node:
    """What is remembered of an object."""

    resource: ResourceType
    namespace: str
    name: str
    uid: str
    owners: Sequence[Mapping[str, Any]]
    deleting: bool
    finalizers: frozenset[str]

    @property
    def waits_for_dependents(self) -> bool:
        return self.deleting and FOREGROUND in self.finalizers

    @property
    def orphans_dependents(self) -> bool:
        return self.deleting and ORPHAN in self.finalizers

    def blocks(self, owner: str) -> bool:
        return any(one["uid"] == owner and one.get("blockOwnerDeletion") for one in self.owners)


def node_of(resource: ResourceType, obj: Mapping[str, Any]) -> Node:
    meta = obj["metadata"]
    namespace, name = key_of(obj)
    finalizers = frozenset(meta.get("finalizers") or ()) & {ORPHAN, FOREGROUND}
    return Node(resource, namespace, name, meta["uid"], meta.get("ownerReferences") or (), is_deleting(obj), finalizers)


@dataclass(slots=True)
class Graph:
    """All objects by uid, and who names whom as owner."""

    nodes: dict[str, Node] = field(default_factory=dict)
    dependents: dict[str, set[str]] = field(default_factory=dict)
    gone: dict[str, None] = field(default_factory=dict)
    """Uids that were here last; none comes back."""

    def dependents_of(self, uid: str) -> list[Node]:
        return [self.nodes[one] for one in self.dependents.get(uid, ()) if one in self.nodes]

    def put(self, node: Node) -> set[str]:
        """Returns the uids whose fate must be looked at."""
        before = self.nodes.get(node.uid)
        self.nodes[node.uid] = node
        was = {one["uid"] for one in before.owners} if before else set()
        owners = {one["uid"] for one in node.owners}
        for uid in owners - was:
            self.dependents.setdefault(uid, set()).add(node.uid)
        for uid in was - owners:
            self._unlink(uid, node.uid)
        look: set[str] = set()
        for reference in node.owners:
            owner = self.nodes.get(reference["uid"])
            if reference["uid"] not in was and (owner is None or not _is_owner(owner, node, reference)):
                look.add(node.uid)  # an owner nobody has seen, or not of this name or place: perhaps it never was
        if before is None or node.owners != before.owners:
            # An owner that waits may wait no longer, or has one more to wait for.
            look |= {uid for uid in was | owners if uid in self.nodes and self.nodes[uid].waits_for_dependents}
        if before is not None and len(owners) < len(was):
            look.add(node.uid)  # what is left may be owners that are gone
        if node.orphans_dependents or node.waits_for_dependents:
            look.add(node.uid)
        if node.waits_for_dependents and not (before and before.waits_for_dependents):
            look |= {one.uid for one in self.dependents_of(node.uid)}
        return look

    def remove(self, uid: str) -> set[str]:
        """Returns the uids whose fate must be looked at: the dependents, and owners that waited for this one."""
        node = self.nodes.pop(uid, None)
        self.gone[uid] = None
        while len(self.gone) > _REMEMBERED:
            del self.gone[next(iter(self.gone))]
        look = {one.uid for one in self.dependents_of(uid)}
        if node is not None:
            for owner in {one["uid"] for one in node.owners}:
                self._unlink(owner, uid)
                if owner in self.nodes and self.nodes[owner].waits_for_dependents:
                    look.add(owner)
        return look

    def _unlink(self, owner: str, dependent: str) -> None:
        entries = self.dependents.get(owner)
        if entries is not None:
            entries.discard(dependent)
            if not entries:
                del self.dependents[owner]


@dataclass(slots=True)
class Owners:
    """The owner references of an object, sorted by what is known of the owners."""

    solid: list[Mapping[str, Any]] = field(default_factory=list)
    gone: list[Mapping[str, Any]] = field(default_factory=list)
    waiting: list[Mapping[str, Any]] = field(default_factory=list)
    """Owners that wait, in foreground deletion, for this one to go."""


def verdict(node: Node, owners: Owners, dependents: Sequence[Node]) -> Propagation | None:
    """How to delete an object with these owners; None when it stays."""
    if owners.solid or not (owners.gone or owners.waiting):
        return None
    if owners.waiting and dependents:
        return Propagation.FOREGROUND  # its own dependents go before it, as its owner's before the owner
    if ORPHAN in node.finalizers:
        return Propagation.ORPHAN
    return Propagation.FOREGROUND if FOREGROUND in node.finalizers else Propagation.BACKGROUND


# ---------------------------------------------------------------------- the loop


class GarbageCollector:
    name = "garbage-collector-controller"

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.client = cluster.client
        self.graph = Graph()
        self.queue: WorkQueue[str] = WorkQueue(self.name)
        self.events = EventRecorder(cluster.client, self.name)
        self._watched: dict[ResourceType, tuple[Informer, Any]] = {}
        self._resources: dict[tuple[str, str], ResourceType] = {}
        self._refresh = asyncio.Event()
        self._refresh.set()
        self._ready = asyncio.Event()
        cluster.informers.get(CUSTOM_RESOURCE_DEFINITIONS).add_handler(self._definition_changed)

    def _definition_changed(self, change: Change) -> None:
        def served(definition: Object | None) -> Any:
            if definition is None:
                return None
            conditions = (definition.get("status") or {}).get("conditions") or ()
            return definition.get("spec"), [one["type"] for one in conditions if one.get("status") == "True"]

        if served(change.old) != served(change.new):
            self._refresh.set()

    def _changed(self, resource: ResourceType, change: Change) -> None:
        if change.new is None:
            look = self.graph.remove(change.object["metadata"]["uid"])
        else:
            look = self.graph.put(node_of(resource, change.new))
        for uid in look:
            self.queue.add(uid)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.events.run(), name=f"events {self.name}")
            group.create_task(self._follow_kinds(), name=f"kinds {self.name}")
            await self._ready.wait()
            group.create_task(self.queue.run(self._sync, _WORKERS), name=f"controller {self.name}")

    # ------------------------------------------------------------------ kinds

    async def _follow_kinds(self) -> None:
        """Watch every kind there is; look again when a CustomResourceDefinition comes, changes or goes."""
        while True:
            await self._refresh.wait()
            self._refresh.clear()
            try:
                found, failed = await discover(self.client)
            except KubeError as error:
                _log.warning("cannot see which kinds there are: %s", error)
                await asyncio.sleep(1.0)
                self._refresh.set()
                continue
            wanted: dict[tuple[str, str], ResourceType] = {}
            for one in found:
                self._resources[one.type.api_version, one.type.kind] = one.type
                group_resource = one.type.group, one.type.plural
                if one.preferred and {"list", "watch", "delete"} <= one.verbs and group_resource not in _IGNORED:
                    wanted.setdefault(group_resource, one.type)
            await self._watch_only(set(wanted.values()), keep=bool(failed))
            self._ready.set()

    async def _watch_only(self, wanted: set[ResourceType], *, keep: bool) -> None:
        fresh = []
        for resource in wanted - self._watched.keys():
            # Where whole objects are kept anyhow, their metadata is there too.
            metadata_only = not self.cluster.informers.has(resource)
            transform = slim if metadata_only else None
            informer = self.cluster.informers.get(resource, metadata_only=metadata_only, transform=transform)
            handler = partial(self._changed, resource)
            self._watched[resource] = informer, handler
            informer.add_handler(handler)
            fresh.append(informer)
        for resource in [] if keep else self._watched.keys() - wanted:
            informer, handler = self._watched.pop(resource)
            informer.remove_handler(handler)
            for uid in [uid for uid, node in self.graph.nodes.items() if node.resource == resource]:
                for look in self.graph.remove(uid):
                    self.queue.add(look)
            if not self.cluster.informers.has(resource):
                await self.cluster.informers.drop(informer)
        # A kind that cannot be listed must not hold up the others for ever.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10.0):
                await asyncio.gather(*(informer.synced.wait() for informer in fresh))

    # ------------------------------------------------------------------ objects

    async def _sync(self, uid: str) -> None:
        node = self.graph.nodes.get(uid)
        if node is None or (not node.deleting and all(self._is_well(node, one) for one in node.owners)):
            return
        latest = await self._latest(node)
        if latest is None:
            # The watch will say so too; until then nothing can be done for it.
            return
        node = node_of(node.resource, latest)
        if node.orphans_dependents:
            await self._orphan(node)
            return
        if node.waits_for_dependents:
            await self._foreground(node)
            return
        if node.deleting or not node.owners:
            return
        owners = await self._sort_owners(node, latest)
        dependents = self.graph.dependents_of(uid)
        how = verdict(node, owners, dependents)
        if how is Propagation.FOREGROUND and any(one.waits_for_dependents for one in dependents):
            # A circle: each would wait for the other.
            unblocked = [{**one, "blockOwnerDeletion": False} for one in node.owners]
            await self._set_owners(node, latest, unblocked)
            latest = await self._latest(node) or latest
        if how is not None:
            await self._delete(node, how)
        elif owners.solid and (owners.gone or owners.waiting):
            await self._drop_owners(node, latest, [*owners.gone, *owners.waiting])

    def _is_well(self, node: Node, reference: Mapping[str, Any]) -> bool:
        """Whether the graph alone shows that the owner is there and not about to go."""
        owner = self.graph.nodes.get(reference["uid"])
        return owner is not None and not owner.waits_for_dependents and _is_owner(owner, node, reference)

    async def _latest(self, node: Node) -> Object | None:
        """The object's metadata as the server has it now; None when it is gone or another has its name."""
        try:
            latest = await self.client.get(node.resource, node.name, node.namespace, metadata_only=True)
        except KubeError as error:
            if is_not_found(error):
                return None
            raise
        return latest if latest["metadata"]["uid"] == node.uid else None

    async def _sort_owners(self, node: Node, latest: Object) -> Owners:
        result = Owners()
        for reference in node.owners:
            try:
                owner = await self._owner(node, reference)
            except _UnusableOwnerError:
                message = (
                    f"cluster-scoped objects cannot have namespaced owners: {reference['kind']} {reference['name']}"
                )
                self.events.record(_named(node, latest), "Warning", "OwnerRefInvalidNamespace", message)
                result.solid.append(reference)
                continue
            if owner is None:
                result.gone.append(reference)
            elif owner.waits_for_dependents and reference.get("blockOwnerDeletion"):
                result.waiting.append(reference)
            else:
                result.solid.append(reference)
        if result.gone:
            self._check_namespaces(node, latest, result.gone)
        return result

    async def _owner(self, node: Node, reference: Mapping[str, Any]) -> Node | None:
        """The owner, from the graph or the server; None when there is no such object."""
        known = self.graph.nodes.get(reference["uid"])
        if known is not None and _is_owner(known, node, reference):
            return known
        if reference["uid"] in self.graph.gone:
            return None
        resource = self._resources.get((reference["apiVersion"], reference["kind"]))
        if resource is None:
            resource = await self.client.mapper.resource_for(reference["apiVersion"], reference["kind"])
        if resource.namespaced and not node.namespace:
            raise _UnusableOwnerError
        namespace = node.namespace if resource.namespaced else ""
        try:
            owner = await self.client.get(resource, reference["name"], namespace, metadata_only=True)
        except KubeError as error:
            if is_not_found(error):
                return None
            raise
        return node_of(resource, owner) if owner["metadata"]["uid"] == reference["uid"] else None

    def _check_namespaces(self, node: Node, latest: Object, gone: Iterable[Mapping[str, Any]]) -> None:
        for reference in gone:
            other = self.graph.nodes.get(reference["uid"])
            if other is not None and other.resource.namespaced and other.namespace != node.namespace:
                what = f"[{reference['apiVersion']}/{reference['kind']}, namespace: {node.namespace}, "
                what += f"name: {reference['name']}, uid: {reference['uid']}]"
                message = f"ownerRef {what} does not exist in namespace {node.namespace!r}"
                self.events.record(_named(node, latest), "Warning", "OwnerRefInvalidNamespace", message)

    async def _delete(self, node: Node, how: Propagation) -> None:
        try:
            await self.client.delete(node.resource, node.name, node.namespace, propagation=how, uid=node.uid)
        except KubeError as error:
            if not is_not_found(error):
                raise

    async def _drop_owners(self, node: Node, latest: Object, drop: Sequence[Mapping[str, Any]]) -> None:
        uids = {one["uid"] for one in drop}
        await self._set_owners(node, latest, [one for one in node.owners if one["uid"] not in uids])

    async def _set_owners(self, node: Node, latest: Object, owners: Sequence[Mapping[str, Any]]) -> None:
        meta = latest["metadata"]
        patch = {"uid": node.uid, "resourceVersion": meta["resourceVersion"], "ownerReferences": list(owners) or None}
        try:
            await self.client.patch(node.resource, node.name, {"metadata": patch}, node.namespace)
        except KubeError as error:
            if not is_not_found(error):
                raise

    async def _drop_finalizer(self, node: Node, finalizer: str) -> None:
        latest = await self._latest(node)
        if latest is None or finalizer not in (latest["metadata"].get("finalizers") or ()):
            return
        meta = latest["metadata"]
        left = [one for one in meta["finalizers"] if one != finalizer]
        patch = {"uid": node.uid, "resourceVersion": meta["resourceVersion"], "finalizers": left or None}
        try:
            await self.client.patch(node.resource, node.name, {"metadata": patch}, node.namespace)
        except KubeError as error:
            if not is_not_found(error):
                raise

    async def _orphan(self, node: Node) -> None:
        """The dependents forget the owner, then it may go."""
        for dependent in self.graph.dependents_of(node.uid):
            latest = await self._latest(dependent)
            if latest is None:
                continue
            current = node_of(dependent.resource, latest)
            left = [one for one in current.owners if one["uid"] != node.uid]
            if len(left) != len(current.owners):
                await self._set_owners(current, latest, left)
        await self._drop_finalizer(node, ORPHAN)

    async def _foreground(self, node: Node) -> None:
        """While any dependent blocks the owner, see to the dependents; then it may go."""
        dependents = self.graph.dependents_of(node.uid)
        blocking = [one for one in dependents if one.blocks(node.uid)]
        if not blocking:
            await self._drop_finalizer(node, FOREGROUND)
            return
        for dependent in blocking:
            if not dependent.waits_for_dependents:
                self.queue.add(dependent.uid)


class _UnusableOwnerError(Exception):
    """A cluster-scoped object names an owner that lives in a namespace, but not in which."""


def _is_owner(owner: Node, node: Node, reference: Mapping[str, Any]) -> bool:
    """Whether what has the uid of a reference is what the reference says, where an owner may be."""
    where = not owner.resource.namespaced or owner.namespace == node.namespace
    return where and owner.name == reference["name"] and owner.resource.matches(reference)


def _named(node: Node, latest: Object) -> Object:
    """Metadata with its own kind: as read it says PartialObjectMetadata."""
    return latest | {"apiVersion": node.resource.api_version, "kind": node.resource.kind}


def slim(obj: Object) -> Object:
    """What the graph needs, and no more."""
    meta = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "ownerReferences", "finalizers", "deletionTimestamp")
    return {"metadata": {key: meta[key] for key in kept if key in meta}}
