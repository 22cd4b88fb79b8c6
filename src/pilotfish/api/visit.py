"""Every message inside a value, with its path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from msgspec import inspect as types

from pilotfish.api.meta import Api

_Walk = Callable[[Any, str], Iterator[tuple[Api, str]]]


def visit(value: Api, path: str) -> Iterator[tuple[Api, str]]:
    """`value` and the messages in it, outer ones first."""
    return _walk(type(value))(value, path)


@cache
def _walk(cls: type[Api]) -> _Walk:
    inner = [
        (field.name, field.encode_name, item)
        for field in types.type_info(cls).fields  # type: ignore[attr-defined]  # a StructType, we know
        if (item := _inside(field.type)) is not None
    ]

    def walk(value: Any, path: str) -> Iterator[tuple[Api, str]]:
        yield value, path
        for name, encoded, item in inner:
            found = getattr(value, name)
            if found:
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
        return lambda values, path: (found for key, value in values.items() for found in entry(value, f"{path}[{key}]"))
    return None
