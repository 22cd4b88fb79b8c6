"""What all requests share, and how stored bytes become objects of the version asked for."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pilotfish.local.apiserver import aggregation, quota
from pilotfish.local.apiserver.registry import Registry
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.store import Item, Store

if TYPE_CHECKING:
    from pilotfish.local.apiserver.admission import Admission
    from pilotfish.local.apiserver.authn import Authenticator
    from pilotfish.local.apiserver.authz import Authorizer
    from pilotfish.local.apiserver.customkinds import CustomKinds
    from pilotfish.local.apiserver.nodelink import NodeLink
    from pilotfish.local.apiserver.services import Allocator
    from pilotfish.local.apiserver.tokens import Tokens

Objects = list[Object]

encode = msgspec.json.Encoder().encode


@dataclass
class Core:
    """The parts of a running server."""

    data: Path
    store: Store
    registry: Registry
    tokens: Tokens
    authenticator: Authenticator
    authorizer: Authorizer
    admission: Admission
    allocator: Allocator
    custom: CustomKinds
    node: NodeLink
    quotas: quota.Recount = field(default_factory=quota.Recount)

    def get(self, api_version: str, kind: str, namespace: str, name: str) -> Object | None:
        """A stored object, for the server's own use."""
        resource = self.registry.of_kind(api_version, kind)
        if resource is None:
            return None
        item = self.registry.bucket(resource).items.get(f"{namespace}/{name}" if namespace else name)
        return item.decode() if item else None

    def list(self, api_version: str, kind: str, namespace: str) -> Objects:
        """Stored objects of a kind, of one namespace or (with none) of all, for the server's own use."""
        resource = self.registry.of_kind(api_version, kind)
        if resource is None:
            return []
        bucket = self.registry.bucket(resource)
        return [bucket.items[key].decode() for key in bucket.range(f"{namespace}/" if namespace else "")]

    def written(self, resource: Resource, item: Item) -> None:
        """After an object was created or changed: what the server makes of it itself."""
        self.custom.written(resource, item)
        aggregation.changed(self, resource)
        self.quotas.changed(self, resource, item)

    def deleted(self, resource: Resource, last: Item) -> None:
        """After an object is gone."""
        self.custom.deleted(resource, last)
        aggregation.changed(self, resource)
        self.quotas.changed(self, resource, last)

    async def convert(self, resource: Resource, objects: Sequence[Object], api_version: str) -> Objects:
        """Objects of any served version, as `api_version`. One webhook call at most."""
        if not resource.reread and all(obj["apiVersion"] == api_version for obj in objects):
            return list(objects)
        if self.registry.is_custom(resource):
            return await self.custom.convert(resource, objects, api_version)
        converted = []
        for obj in objects:
            if resource.convert is None or obj["apiVersion"] == api_version:
                converted.append(obj | {"apiVersion": api_version})
            else:
                one = resource.convert(obj, api_version)
                converted.append(await one if inspect.isawaitable(one) else one)
        return converted

    async def load(self, resource: Resource, item: Item) -> Object:
        """A stored object in the version of `resource`."""
        (obj,) = await self.convert(resource, [item.decode()], resource.api_version)
        return obj

    async def to_storage(self, resource: Resource, obj: Object) -> Object:
        (stored,) = await self.convert(resource, [obj], self.registry.storage_version(resource))
        return stored


def prefix_of(resource: Resource) -> bytes:
    """How the bytes of a stored object of exactly this kind and version begin, when they can be shown as they are."""
    if resource.reread:
        return b"nothing stored begins like this"
    return b'{"kind":"%s","apiVersion":"%s",' % (resource.kind.encode(), resource.api_version.encode())


def ordered(obj: Object, kind: str, api_version: str) -> Object:
    """The object with kind and apiVersion first, so that its bytes begin with `prefix_of`."""
    return {"kind": kind, "apiVersion": api_version} | {
        key: value for key, value in obj.items() if key not in ("kind", "apiVersion")
    }
