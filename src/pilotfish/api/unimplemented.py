"""Which fields of an object this control plane accepts but does not act on yet: those marked UNIMPLEMENTED."""

from __future__ import annotations

from functools import cache
from typing import Any

from msgspec import inspect as types

from pilotfish.api.config import Config
from pilotfish.api.meta import Api
from pilotfish.api.visit import visit


def unimplemented(config: Config[Api]) -> list[str]:
    """Paths of the fields that are set but have no effect yet, e.g. `spec.http[0].fault`."""
    return unimplemented_in(config.spec, "spec")


def unimplemented_in(value: Api, path: str = "") -> list[str]:
    """The same for any message, such as the mesh's configuration."""
    return [
        f"{path}.{encoded}".removeprefix(".")
        for message, path in visit(value, path)
        for name, encoded, default in _marked(type(message))
        if (found := getattr(message, name)) != default and found not in ((), {})
    ]


@cache
def _marked(cls: type[Api]) -> list[tuple[str, str, Any]]:
    return [
        (field.name, field.encode_name, field.default)
        for field in types.type_info(cls).fields  # type: ignore[attr-defined]  # a StructType, we know
        if (getattr(field.type, "extra", None) or {}).get("unimplemented")
    ]
