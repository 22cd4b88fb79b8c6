"""Namespaces that end: everything in them is deleted, then they are finalized.

The conditions are those of kubernetes/pkg/controller/namespace/deletion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pilotfish.kube.client import Propagation
from pilotfish.kube.discovery import discover
from pilotfish.kube.errors import ApiStatusError, KubeError, is_not_found
from pilotfish.kube.informer import Change
from pilotfish.kube.meta import Key, find_condition, format_time, is_deleting, key_of, now, with_condition
from pilotfish.kube.resources import NAMESPACES, PODS, Object, ResourceType
from pilotfish.local.controllers.base import Cluster, Controller

_AGAIN = (0.1, 5.0)  # first and longest pause before looking at what remains, seconds


@dataclass(slots=True)
class Remains:
    """What a pass over the namespace found."""

    discovery_errors: list[str] = field(default_factory=list)
    deletion_errors: list[str] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)
    """Number of objects left, by resource (`pods.`, `widgets.example.com`)."""
    finalizers: Counter[str] = field(default_factory=Counter)

    @property
    def nothing(self) -> bool:
        return not (self.discovery_errors or self.deletion_errors or self.left)

    def count(self, resource: ResourceType, items: Iterable[Mapping[str, Any]]) -> None:
        for item in items:
            self.left[f"{resource.plural}.{resource.group}"] += 1
            self.finalizers.update(item["metadata"].get("finalizers") or ())


def conditions(namespace: Mapping[str, Any], remains: Remains, at: datetime) -> list[Object]:
    """The conditions of the namespace. Those that are fine appear only once any was not."""
    current = list((namespace.get("status") or {}).get("conditions") or ())
    resources = ", ".join(f"{name} has {count} resource instances" for name, count in sorted(remains.left.items()))
    finalizers = ", ".join(
        f"{name} in {count} resource instances" for name, count in sorted(remains.finalizers.items())
    )
    wanted: Sequence[tuple[str, str, str, str, str]] = [
        (
            "NamespaceDeletionDiscoveryFailure",
            "; ".join(remains.discovery_errors),
            "DiscoveryFailed",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "",
            "GroupVersionParsingFailed",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            "; ".join(remains.deletion_errors),
            "ContentDeletionFailed",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            f"Some resources are remaining: {resources}" if resources else "",
            "SomeResourcesRemain",
            "ContentRemoved",
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            f"Some content in the namespace has finalizers remaining: {finalizers}" if finalizers else "",
            "SomeFinalizersRemain",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ]
    for kind, problem, bad, good, fine in wanted:
        status, reason, message = ("True", bad, problem) if problem else ("False", good, fine)
        before = find_condition(current, kind)
        if before is not None and (before["status"], before.get("message")) == (status, message):
            continue
        condition = {"type": kind, "status": status, "lastTransitionTime": format_time(at)}
        current = with_condition(current, {**condition, "reason": reason, "message": message})
    return current


class NamespaceController(Controller):
    name = "namespace-controller"
    workers = 4

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._passes: dict[str, int] = {}
        self._namespaces = self.watch(NAMESPACES, self._namespace_changed).store
        self.watch(PODS, self._pod_changed)

    def _namespace_changed(self, change: Change) -> None:
        if change.new is None:
            self._passes.pop(change.object["metadata"]["name"], None)
        elif is_deleting(change.new):
            self.enqueue(change)

    def _pod_changed(self, change: Change) -> None:
        """A pod that is gone may have been the last one waited for."""
        if change.new is None:
            name = key_of(change.object)[0]
            namespace = self._namespaces.get("", name)
            if namespace is not None and is_deleting(namespace):
                self.queue.add(("", name))

    async def sync(self, key: Key) -> None:
        name = key[1]
        namespace = self._namespaces.get("", name)
        if namespace is None or not is_deleting(namespace):
            return
        finalizers = (namespace.get("spec") or {}).get("finalizers") or []
        if "kubernetes" not in finalizers:
            return
        remains = await self._empty(name)
        namespace = await self._tell(namespace, remains)
        if remains.nothing:
            spec = {**namespace["spec"], "finalizers": [one for one in finalizers if one != "kubernetes"]}
            await self._finalize({**namespace, "spec": spec})
            return
        first, longest = _AGAIN
        passes = self._passes[name] = self._passes.get(name, -1) + 1
        self.queue.add_after(key, min(first * 2 ** min(passes, 16), longest))

    async def _finalize(self, namespace: Object) -> None:
        try:
            await self.client.update(NAMESPACES, namespace, subresource="finalize")
        except KubeError as error:
            if not is_not_found(error):
                raise

    async def _tell(self, namespace: Object, remains: Remains) -> Object:
        before = namespace.get("status") or {}
        current = before.get("conditions") or []
        if remains.nothing and not current:
            return namespace
        status = {**before, "phase": "Terminating", "conditions": conditions(namespace, remains, now())}
        if status == before:
            return namespace
        return await self.cluster.update(NAMESPACES, {**namespace, "status": status}, subresource="status")

    async def _empty(self, name: str) -> Remains:
        """Ask for the deletion of everything in the namespace; returns what is left of it."""
        remains = Remains()
        found, failed = await discover(self.client)
        remains.discovery_errors = [f"unable to retrieve the complete list of server APIs: {one}" for one in failed]
        seen: set[tuple[str, str]] = set()
        for one in found:
            resource = one.type
            if not resource.namespaced or not {"list", "delete"} <= one.verbs or not one.preferred:
                continue
            if (resource.group, resource.plural) in seen:
                continue
            seen.add((resource.group, resource.plural))
            try:
                await self._empty_of(resource, name, one.verbs, remains)
            except ApiStatusError as error:
                if not is_not_found(error):
                    remains.deletion_errors.append(f"{resource.group_resource}: {error}")
        return remains

    async def _empty_of(self, resource: ResourceType, name: str, verbs: frozenset[str], remains: Remains) -> None:
        # Most kinds have nothing here: look first, a list of nothing is the cheapest request.
        items = (await self.client.list(resource, name, metadata_only=True)).items
        if not items:
            return
        if "deletecollection" in verbs:
            await self.client.delete_collection(resource, name, propagation=Propagation.BACKGROUND)
        else:
            for item in items:
                await self._delete(resource, item)
        remains.count(resource, (await self.client.list(resource, name, metadata_only=True)).items)

    async def _delete(self, resource: ResourceType, item: Object) -> None:
        namespace, name = key_of(item)
        try:
            await self.client.delete(resource, name, namespace, propagation=Propagation.BACKGROUND)
        except KubeError as error:
            if not is_not_found(error):
                raise
