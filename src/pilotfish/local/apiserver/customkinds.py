"""CustomResourceDefinitions in force: names accepted, kinds served, objects converted, all removed with the definition."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pilotfish.local.apiserver import meta
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.store import Item

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

CRD = ("apiextensions.k8s.io", "customresourcedefinitions")


class CustomKinds:
    """Follows the definitions in the store; the registry serves what it says."""

    def __init__(self) -> None:
        self.core: Core
        self._watching: dict[Resource, list[Callable[[], None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def load(self, core: Core) -> None:
        """Serve every definition that the store holds."""
        self.core = core

    def written(self, resource: Resource, item: Item) -> None:
        """An object was created or changed."""

    def deleted(self, resource: Resource, last: Item) -> None:
        """An object is gone."""

    def serves(self, resource: Resource) -> bool:
        return self.core.registry.find(resource.group, resource.version, resource.plural) is resource

    def watching(self, resource: Resource, wake: Callable[[], None]) -> None:
        """Have `wake` called when the kind is no longer served as it is now."""

    async def convert(self, resource: Resource, objects: Sequence[Object], api_version: str) -> list[Object]:
        """Custom objects in another version of their kind."""
        return [obj | {"apiVersion": api_version} for obj in objects]
