"""JSON into typed values: fast when it is written as the API says, patient and precise when it is not.

The patient way follows protobuf's JSON mapping as Istio reads it: null means absent, integers may be strings,
snake_case names are accepted. It collects every wrong type and every unknown field with its path, instead of stopping
at the first.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect as types

from pilotfish.api.errors import DecodeError, FieldError
from pilotfish.api.meta import Api, Duration

T = TypeVar("T", bound=Api)


def from_json(value: Any, type_: type[T], path: str = "") -> tuple[T, tuple[FieldError, ...]]:
    """Read `value` as `type_`. Returns it and the unknown fields, which are left out of it.

    Raises DecodeError with all wrong types found.
    """
    try:
        return msgspec.convert(value, type_, dec_hook=_read_custom, str_keys=True), ()
    except msgspec.ValidationError:
        pass  # the patient way below says what is wrong, or finds that all is well
    reader = _Reader()
    cleaned = _plan(type_)(reader, value, path)
    if reader.errors:
        raise DecodeError(reader.errors)
    return msgspec.convert(cleaned, type_, dec_hook=_read_custom, str_keys=True), tuple(reader.unknown)


def to_json(value: Any) -> Any:
    """The value as JSON types. Fields that equal their default are left out."""
    return msgspec.to_builtins(value, enc_hook=_write_custom, str_keys=True)


def _read_custom(type_: type, value: Any) -> Any:
    if type_ is Duration and isinstance(value, str):
        return Duration.parse(value)
    raise ValueError(f"expected {type_.__name__}")


def _write_custom(value: Any) -> Any:
    if isinstance(value, Duration):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} is no API type")


class _Reader:
    def __init__(self) -> None:
        self.errors: list[FieldError] = []
        self.unknown: list[FieldError] = []

    def error(self, path: str, message: str) -> None:
        self.errors.append(FieldError(path, message))


_Plan = Callable[[_Reader, Any, str], Any]
"""Cleans a value: reports what is wrong and returns something `msgspec.convert` takes (if nothing was wrong)."""


@cache
def _plan(type_: type) -> _Plan:
    return _compile(types.type_info(type_))


def _compile(info: types.Type) -> _Plan:
    if isinstance(info, types.Metadata):
        return _compile(info.type)
    if isinstance(info, types.UnionType):  # always `X | None`; null was taken as absent by the caller
        return _compile(next(member for member in info.types if not isinstance(member, types.NoneType)))
    if isinstance(info, types.StructType):
        return _struct(info.cls)
    if isinstance(info, types.VarTupleType):
        return _sequence(_compile(info.item_type))
    if isinstance(info, types.DictType):
        value = info.value_type
        return _free_form if isinstance(value, types.AnyType) else _mapping(info.key_type, _compile(value))
    if isinstance(info, types.EnumType):
        return _enum(tuple(member.value for member in info.cls))
    if isinstance(info, types.CustomType) and info.cls is Duration:
        return _duration
    if isinstance(info, types.IntType):
        return _integer(info)
    if isinstance(info, types.BoolType):
        return _boolean
    if isinstance(info, types.FloatType):
        return _number
    if isinstance(info, types.StrType):
        return _string
    raise TypeError(f"no API type: {info}")


def _struct(cls: type) -> _Plan:
    names: dict[str, tuple[str, types.Type]] = {}
    for field in types.type_info(cls).fields:  # type: ignore[attr-defined]  # a StructType, we know
        names[field.name] = (field.encode_name, field.type)
    for field in types.type_info(cls).fields:  # type: ignore[attr-defined]  # the JSON name wins over another's snake_case
        names[field.encode_name] = (field.encode_name, field.type)
    plans: dict[str, _Plan] = {}

    def clean(reader: _Reader, value: Any, path: str) -> Any:
        if not isinstance(value, Mapping):
            return reader.error(path, f"must be an object with fields, not {_described(value)}")
        result: dict[str, Any] = {}
        for key, item in value.items():
            where = f"{path}.{key}" if path else str(key)
            found = names.get(key)
            if found is None:
                reader.unknown.append(FieldError(where, _unknown(str(key), [name for name, _ in names.values()])))
            elif item is not None and (found[0] not in result or found[0] == key):
                name = found[0]
                if name not in plans:
                    plans[name] = _compile(found[1])
                result[name] = plans[name](reader, item, where)
        return result

    return clean


def _unknown(key: str, names: list[str]) -> str:
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.7)
    if not close:
        same = [name for name in names if name.lower() == key.lower()]
        close = same[:1]
    return f"unknown field{f'; did you mean `{close[0]}`?' if close else ''}"


def _sequence(item: _Plan) -> _Plan:
    def clean(reader: _Reader, value: Any, path: str) -> Any:
        if not isinstance(value, (list, tuple)):
            return reader.error(path, f"must be a list, not {_described(value)}")
        result = []
        for index, element in enumerate(value):
            where = f"{path}[{index}]"
            if element is None:
                reader.error(where, "must not be null; leave the item out")
            else:
                result.append(item(reader, element, where))
        return result

    return clean


def _mapping(key_type: types.Type, item: _Plan) -> _Plan:
    numeric = isinstance(key_type, types.IntType)

    def clean(reader: _Reader, value: Any, path: str) -> Any:
        if not isinstance(value, Mapping):
            return reader.error(path, f"must be an object, not {_described(value)}")
        result = {}
        for key, element in value.items():
            where = f"{path}[{key}]"
            if numeric and not re.fullmatch(r"\d{1,10}", str(key)):
                reader.error(where, "the key must be a number")
            elif not numeric and not isinstance(key, str):
                reader.error(where, f"the key must be a string; put it in quotes: {str(key)!r}")
            elif element is None:
                reader.error(where, "must not be null; write {} or a value, or leave it out")
            else:
                result[int(key) if numeric else key] = item(reader, element, where)
        return result

    return clean


def _free_form(reader: _Reader, value: Any, path: str) -> Any:
    return value if isinstance(value, Mapping) else reader.error(path, f"must be an object, not {_described(value)}")


def _enum(values: tuple[str, ...]) -> _Plan:
    def clean(reader: _Reader, value: Any, path: str) -> Any:
        if isinstance(value, str) and value in values:
            return value
        close = difflib.get_close_matches(str(value).upper(), values, n=1, cutoff=0.6)
        hint = f"; did you mean {close[0]}?" if close else ""
        return reader.error(path, f"{value!r} is not one of {', '.join(values)}{hint}")

    return clean


def _duration(reader: _Reader, value: Any, path: str) -> Any:
    if not isinstance(value, str):
        hint = f", such as {value}s" if isinstance(value, (int, float)) and not isinstance(value, bool) else ""
        return reader.error(path, f"must be a duration with a unit{hint}, not {_described(value)}")
    try:
        return str(Duration.parse(value))
    except ValueError as error:
        return reader.error(path, str(error))


def _integer(info: types.IntType) -> _Plan:
    low, high = info.ge if info.ge is not None else -(2**63), info.le if info.le is not None else 2**63 - 1

    def clean(reader: _Reader, value: Any, path: str) -> Any:
        number: int | None = None
        if isinstance(value, int) and not isinstance(value, bool):
            number = value
        elif (isinstance(value, float) and value.is_integer()) or (
            isinstance(value, str) and re.fullmatch(r"-?\d{1,19}", value, re.ASCII)
        ):
            number = int(value)
        if number is None:
            return reader.error(path, f"must be a whole number, not {_described(value)}")
        if not low <= number <= high:
            return reader.error(path, f"must be between {low} and {high}, not {number}")
        return number

    return clean


def _number(reader: _Reader, value: Any, path: str) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?([eE][+-]?\d{1,3})?", value, re.ASCII):
        return float(value)
    return reader.error(path, f"must be a number, not {_described(value)}")


def _boolean(reader: _Reader, value: Any, path: str) -> Any:
    return value if isinstance(value, bool) else reader.error(path, f"must be true or false, not {_described(value)}")


def _string(reader: _Reader, value: Any, path: str) -> Any:
    if isinstance(value, str):
        return value
    hint = ""
    if isinstance(value, (bool, int, float)):
        hint = f'; put it in quotes: "{str(value).lower() if isinstance(value, bool) else value}"'
    return reader.error(path, f"must be a string, not {_described(value)}{hint}")


def _described(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the string {value[:60]!r}"
    return "a list" if isinstance(value, (list, tuple)) else "an object" if isinstance(value, Mapping) else "that"
