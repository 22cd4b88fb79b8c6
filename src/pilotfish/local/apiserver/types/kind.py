"""What the strategies of built-in kinds have in common."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pilotfish.local.apiserver.resource import Object, Strategy
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.validation import Errors


class Kind(Strategy):
    """A built-in kind: its status begins as `new_status`, its spec may be said to be immutable in part."""

    new_status: Mapping[str, Any] | None = None
    """The status of a new object; None where the kind has none, or clients may set it."""
    immutable: tuple[str, ...] = ()
    """Top-level fields, or fields of spec as `spec.x`, that cannot change."""

    def prepare_for_create(self, obj: Object) -> None:
        if self.new_status is not None:
            obj["status"] = copy.deepcopy(dict(self.new_status))

    def validate_update(self, new: Object, old: Object) -> Errors:
        errors: Errors = []
        for path in self.immutable:
            errors += v.immutable(path, _field(new, path), _field(old, path))
        return errors

    def concerns(self, obj: Object) -> list[str]:
        """Warnings that do not depend on what the object was before."""
        _ = obj
        return []

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        _ = old
        return self.concerns(obj)


def _field(obj: Object, path: str) -> Any:
    for part in path.split("."):
        obj = (obj or {}).get(part)  # type: ignore[assignment]  # the last one is a value
    return obj


def spec_of(obj: Object) -> dict[str, Any]:
    return obj.get("spec") or {}


def status_of(obj: Object) -> dict[str, Any]:
    return obj.get("status") or {}
