"""Which fields of an object this control plane accepts but does not act on yet: those marked UNIMPLEMENTED."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from msgspec import inspect as types

from pilotfish.api.config import Config
from pilotfish.api.meta import Api

_Walk = Callable[[Any, str], Iterator[str]]


def unimplemented(config: Config[Api]) -> list[str]:
    """Paths of the fields that are set but have no effect yet, e.g. `spec.http[0].fault`."""
    walk = _walk(type(config.spec))
    return list(walk(config.spec, "spec")) if walk else []


@cache
def _walk(cls: type[Api]) -> _Walk | None:
    """A function over values of `cls`, or None when nothing in it is marked."""
    marked: list[tuple[str, str, Any]] = []
    inner: list[tuple[str, str, _Walk]] = []
    for field in types.type_info(cls).fields:  # type: ignore[attr-defined]  # a StructType, we know
        if (getattr(field.type, "extra", None) or {}).get("unimplemented"):
            marked.append((field.name, field.encode_name, field.default))
        elif (item := _inside(field.type)) is not None:
            inner.append((field.name, field.encode_name, item))
    if not marked and not inner:
        return None

    def walk(value: Any, path: str) -> Iterator[str]:
        for name, encoded, default in marked:
            found = getattr(value, name)
            if found != default and found not in ((), {}):
                yield f"{path}.{encoded}"
        for name, encoded, item in inner:
            found = getattr(value, name)
            if found is not None:
                yield from item(found, f"{path}.{encoded}")

    return walk


def _inside(info: types.Type) -> _Walk | None:
    if isinstance(info, types.Metadata):
        return _inside(info.type)
    if isinstance(info, types.UnionType):
        return next((walk for member in info.types if (walk := _inside(member)) is not None), None)
    if isinstance(info, types.StructType):
        return _walk(info.cls)
    if isinstance(info, types.VarTupleType) and (item := _inside(info.item_type)) is not None:
        return lambda values, path: (
            found for index, value in enumerate(values) for found in item(value, f"{path}[{index}]")
        )
    if isinstance(info, types.DictType) and (entry := _inside(info.value_type)) is not None:
        return lambda values, path: _entries(entry, values, path)
    return None


def _entries(walk: _Walk, values: Mapping[Any, Any], path: str) -> Iterator[str]:
    for key, value in values.items():
        yield from walk(value, f"{path}[{key}]")
