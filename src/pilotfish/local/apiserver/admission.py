"""Admission: what may change or refuse a write between its decoding and the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pilotfish.local.apiserver.request import Request
from pilotfish.local.apiserver.resource import Object, Resource

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core


class Admission:
    """Built-in admission first, then the webhooks."""

    async def mutate(
        self, core: Core, request: Request, resource: Resource, operation: str, obj: Object, old: Object | None
    ) -> Object:
        """The object as mutating admission leaves it."""
        return obj

    async def validate(
        self,
        core: Core,
        request: Request,
        resource: Resource,
        operation: str,
        obj: Object | None,
        old: Object | None,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Raises ApiError when a validator refuses."""
