"""What a client sent, read as Kubernetes reads it: Go's JSON decoder for built-in kinds, untouched for custom ones."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pilotfish.local.apiserver.quantity import QuantityError, canonical
from pilotfish.local.apiserver.schema.node import Schema

_INT_BITS = {"int32": 31, "int64": 63}
_WORDS = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


_KEPT_EMPTY = frozenset({"managedFields"})
"""Empty it means something: a client that sends it wants the bookkeeping gone."""


class _WrongType(Exception):  # noqa: N818 - the first of possibly many, not a failure of ours
    """Unwinds to the root, collecting the names of the fields it passes."""

    def __init__(self, what: str, into: str, *, verbatim: bool = False) -> None:
        super().__init__(what)
        self.what, self.into, self.verbatim = what, into, verbatim
        self.struct = ""
        self.fields: list[str] = []

    def __str__(self) -> str:
        if self.verbatim:
            return self.what
        where = f"Go struct field {self.struct}.{'.'.join(reversed(self.fields))}" if self.fields else "Go value"
        return f"json: cannot unmarshal {self.what} into {where} of type {self.into}"


def decode_errors(s: Schema, obj: dict[str, Any]) -> list[str]:
    """What Go's decoder would say of wrong JSON types, at most one error; `obj` is normalised in place on the way.

    Unlike validation errors these make a request a bad one (400): the object cannot even be read.
    """
    try:
        _object(s, obj)
    except _WrongType as wrong:
        return [str(wrong)]
    return []


def normalise(s: Schema, obj: dict[str, Any]) -> None:
    """Bring a built-in object into the form in which Go would print it, in place.

    Nulls go, empty optional lists and maps go, quantities and times become canonical. What has the wrong type stays.
    """
    decode_errors(s, obj)


def _object(s: Schema, obj: dict[str, Any]) -> None:
    properties, additional = s.properties, s.additional
    gone: list[str] | None = None
    for key, value in obj.items():
        child = properties.get(key) or additional
        if child is None or (child.structural and not child.resource_root and key != "metadata"):
            continue
        if value is None:
            if additional is None or not _null_kept(child):
                (gone := gone or []).append(key)
            else:
                obj[key] = _zero_of(child)
            continue
        try:
            new = _value(child, value)
        except _WrongType as wrong:
            if key in properties:
                wrong.fields.append(key)
                wrong.struct = wrong.struct or s.name
            raise
        if new is not value:
            obj[key] = new
        if not new and key not in _KEPT_EMPTY and key not in s.required and (child.omit_zero or _emptied(child, new)):
            (gone := gone or []).append(key)
    for key in gone or ():
        del obj[key]


def _null_kept(child: Schema) -> bool:
    """Null as an entry of a map reads as the zero value."""
    return child.type in ("string", "integer", "number", "boolean")


def _zero_of(child: Schema) -> Any:
    return {"string": "", "boolean": False}.get(child.type, 0)


def _emptied(child: Schema, value: Any) -> bool:
    """Go leaves out empty slices and maps; structs stay."""
    if isinstance(value, list):
        return True
    return isinstance(value, dict) and not child.properties and child.additional is not None and child.type == "object"


def _value(s: Schema, value: Any) -> Any:
    reader = _READERS.get(s.type)
    if reader is not None:
        return reader(s, value)
    if s.quantity:
        return _quantity(value)
    if s.int_or_string and (not isinstance(value, int | str) or isinstance(value, bool)):
        raise _WrongType(_word(value), "intstr.IntOrString")
    return value


def _word(value: Any) -> str:
    word = _WORDS.get(type(value), "value")
    return f"number {json.dumps(value)}" if type(value) is float else word


def _read_object(s: Schema, value: Any) -> Any:
    if type(value) is not dict:
        raise _WrongType(_word(value), _go_type(s))
    if s.properties or s.additional is not None:
        _object(s, value)
    return value


def _read_array(s: Schema, value: Any) -> Any:
    if type(value) is not list:
        raise _WrongType(_word(value), _go_type(s))
    items = s.items
    if items is not None:
        for i, item in enumerate(value):
            if item is None:
                value[i] = {} if items.type == "object" else _zero_of(items)
                continue
            new = _value(items, item)
            if new is not item:
                value[i] = new
    return value


def _read_string(s: Schema, value: Any) -> Any:
    if type(value) is not str:
        raise _WrongType(_word(value), "string")
    if s.format:
        checked = _FORMATS.get(s.format)
        return value if checked is None else checked(s, value)
    return value


def _read_integer(s: Schema, value: Any) -> Any:
    into = s.format or "int64"
    if type(value) is not int:
        raise _WrongType(_word(value), into)
    if value.bit_length() > _INT_BITS.get(into, 63):
        raise _WrongType(f"number {value}", into)
    return value


def _read_number(_: Schema, value: Any) -> Any:
    if type(value) not in (int, float):
        raise _WrongType(_word(value), "float64")
    return value


def _read_boolean(_: Schema, value: Any) -> Any:
    if type(value) is not bool:
        raise _WrongType(_word(value), "bool")
    return value


_READERS: dict[str, Callable[[Schema, Any], Any]] = {
    "object": _read_object,
    "array": _read_array,
    "string": _read_string,
    "integer": _read_integer,
    "number": _read_number,
    "boolean": _read_boolean,
}


def _quantity(value: Any) -> str:
    if type(value) not in (str, int, float):
        raise _WrongType(
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            "",
            verbatim=True,
        )
    try:
        return canonical(value if isinstance(value, str) else json.dumps(value))
    except QuantityError as error:
        raise _WrongType(str(error), "", verbatim=True) from None


def _bytes(_: Schema, value: str) -> str:
    text = value.replace("\n", "").replace("\r", "")
    if len(text) % 4 or not _BASE64.fullmatch(text):
        good = re.match(r"[A-Za-z0-9+/]*", text)
        at = len(good[0]) if good else 0
        raise _WrongType(
            f"illegal base64 data at input byte {at if at < len(text) else len(text) // 4 * 4}", "", verbatim=True
        )
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error:
        raise _WrongType(f"illegal base64 data at input byte {len(text) - 1}", "", verbatim=True) from None
    return text


def _time(s: Schema, value: str) -> str:
    if len(value) == 20 and value[-1] == "Z":
        digits = value[:4] + value[5:7] + value[8:10] + value[11:13] + value[14:16] + value[17:19]
        if digits.isdigit() and _moment(value) is not None:
            return value
    moment = _moment(value)
    if moment is None:
        raise _WrongType(
            f'parsing time "{value}" as "2006-01-02T15:04:05Z07:00": cannot parse "{value}" as "2006"',
            "",
            verbatim=True,
        )
    if s.name == "MicroTime":
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")


def _moment(value: str) -> datetime | None:
    match = _RFC3339.fullmatch(value)
    if match is None:
        return None
    zone = "+00:00" if match[3] == "Z" else match[3]
    try:
        moment = datetime.fromisoformat(match[1] + (match[2] or "")[:7].ljust(7 if match[2] else 0, "0") + zone)
    except ValueError:
        return None
    return moment.astimezone(UTC)


_FORMATS: dict[str, Callable[[Schema, str], str]] = {"byte": _bytes, "date-time": _time}


def _go_type(s: Schema) -> str:
    """The type as Go names it: `map[string]string`, `[]v1.Container`, `v1.PodSpec`."""
    if s.type == "array":
        return "[]" + (_go_type(s.items) if s.items is not None else "interface {}")
    if s.type == "object":
        if s.name and s.properties:
            return f"v1.{s.name}"
        return "map[string]" + (_go_type(s.additional) if s.additional is not None else "interface {}")
    if s.quantity:
        return "resource.Quantity"
    if s.int_or_string:
        return "intstr.IntOrString"
    if s.type == "integer":
        return s.format or "int64"
    if s.format == "byte":
        return "[]uint8"
    return {"number": "float64", "boolean": "bool"}.get(s.type, s.type or "interface {}")


# ---------------------------------------------------------------------------------------------------- strict decoding


def find_unknown(s: Schema, obj: dict[str, Any]) -> list[str]:
    """`unknown field "spec.foo"` for each field the schema has no place for, as strict decoding words it."""
    found: list[str] = []
    _unknown(s, obj, "", found)
    if s.structural:
        found.sort()
    return [f'unknown field "{path}"' for path in found]


def _unknown(s: Schema, value: Any, path: str, found: list[str]) -> None:
    if type(value) is dict:
        properties, additional = s.properties, s.additional
        if not properties and (additional is None or not _looks_inside(additional)):
            if additional is None and not s.preserve_unknown and s.type == "object":
                found.extend(f"{path}.{key}" if path else key for key in value)
            return
        for key, item in value.items():
            child = properties.get(key) or additional
            if child is None:
                if not s.preserve_unknown:
                    found.append(f"{path}.{key}" if path else key)
            elif type(item) is dict or type(item) is list:
                _unknown(child, item, f"{path}.{key}" if path else key, found)
    elif type(value) is list and s.items is not None and _looks_inside(s.items):
        for i, item in enumerate(value):
            _unknown(s.items, item, f"{path}[{i}]", found)


def _looks_inside(s: Schema) -> bool:
    return bool(s.properties or s.items is not None or s.additional is not None or s.type == "object")


class _Duplicates(dict[str, Any]):
    """An object that named some fields twice; the last one counts."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs
        seen: set[str] = set()
        self.again = []
        for key, _ in pairs:
            if key in seen:
                self.again.append(key)
            seen.add(key)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    return plain if len(plain) == len(pairs) else _Duplicates(pairs)


def find_duplicates(raw: bytes) -> list[str]:
    """`duplicate field "spec.replicas"` for each field an object in the JSON text names again."""
    found: list[str] = []
    _duplicates(json.loads(raw, object_pairs_hook=_pairs), "", found)
    return list(dict.fromkeys(f'duplicate field "{path}"' for path in found))


def _duplicates(value: Any, path: str, found: list[str]) -> None:
    if isinstance(value, dict):
        if isinstance(value, _Duplicates):
            found.extend(f"{path}.{key}" if path else key for key in value.again)
        for key, item in value.items():
            if isinstance(item, dict | list):
                _duplicates(item, f"{path}.{key}" if path else key, found)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            if isinstance(item, dict | list):
                _duplicates(item, f"{path}[{i}]", found)


def find_strict(s: Schema, raw: bytes) -> list[str]:
    """Unknown and repeated fields of a JSON text in one list, in the order in which a decoder meets them."""
    found: list[str] = []
    _strict(s, json.loads(raw, object_pairs_hook=_pairs), "", found)
    return list(dict.fromkeys(found))


def _strict(s: Schema, value: Any, path: str, found: list[str]) -> None:
    if isinstance(value, list):
        for i, item in enumerate(value):
            if s.items is not None and isinstance(item, dict | list):
                _strict(s.items, item, f"{path}[{i}]", found)
    elif isinstance(value, dict):
        seen: set[str] = set()
        for key, item in value.pairs if isinstance(value, _Duplicates) else value.items():
            at = f"{path}.{key}" if path else key
            child = s.properties.get(key) or s.additional
            if key in seen:
                found.append(f'duplicate field "{at}"')
            seen.add(key)
            if child is None and not s.preserve_unknown:
                found.append(f'unknown field "{at}"')
            elif child is not None and isinstance(item, dict | list):
                _strict(child, item, at, found)
