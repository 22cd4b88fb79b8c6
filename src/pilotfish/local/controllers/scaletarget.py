"""The scale subresource of any kind that has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotfish.kube.client import Client
from pilotfish.kube.resources import Object, ResourceType


async def read(client: Client, namespace: str, reference: Mapping[str, Any]) -> tuple[ResourceType, Object]:
    """The Scale of what a reference (`apiVersion`, `kind`, `name`) names. Raises ApiStatusError."""
    resource = await client.mapper.resource_for(str(reference.get("apiVersion") or "v1"), reference["kind"])
    return resource, await client.get(resource, reference["name"], namespace, subresource="scale")
