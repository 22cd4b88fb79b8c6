"""Bodies in the protobuf form, which typed Go clients (kubectl create, controllers) send for built-in kinds.

Only read, never written: clients take JSON in return. The form is described at
https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding; the numbers are in `protobuf.fields`.
A line there is a type and its fields, `name=number:type` and a mark: `*` an optional scalar that keeps its zero
value, `!` a field that is always there. The name `^` stands for a struct whose fields belong to the type itself.
Types: string, int, bool, double, bytes, time, microtime, duration, quantity, intstr, raw (JSON inside), strings (a list
in a message of its own), another type, `[]T`, `{}T` (a map).
"""

from __future__ import annotations

import base64
import functools
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any

import msgspec

from pilotfish.local.apiserver.errors import bad_request
from pilotfish.local.apiserver.resource import Object

MEDIA = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SCALAR_ZERO: dict[str, Any] = {"string": "", "int": 0, "bool": False, "double": 0.0, "bytes": ""}
_NUMBERS = ("int", "bool", "double")
_UNIONS = {
    "apiextensions.v1.JSONSchemaPropsOrBool": ("schema", "allows"),
    "apiextensions.v1.JSONSchemaPropsOrArray": ("schema", "jSONSchemas"),
    "apiextensions.v1.JSONSchemaPropsOrStringArray": ("schema", "property"),
}
"""Types that are in JSON one or the other of their fields."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    type: str
    repeated: bool
    map: bool
    optional: bool
    always: bool


@functools.cache
def _lines() -> dict[str, str]:
    text = resources.files(__package__).joinpath("protobuf.fields").read_text()
    return dict(line.split(" ", 1) for line in text.splitlines() if " " in line and not line.startswith("#"))


@functools.cache
def _fields(type_: str) -> dict[int, _Field]:
    out = {}
    for word in _lines()[type_].split():
        name, _, rest = word.partition("=")
        number, _, kind = rest.partition(":")
        bare = kind.rstrip("*!")
        plain = bare.removeprefix("[]").removeprefix("{}")
        out[int(number)] = _Field(
            name, plain, bare.startswith("[]"), bare.startswith("{}"), kind.endswith("*"), kind.endswith("!")
        )
    return out


def decode(body: bytes) -> Object:
    """The object in a body. Raises 400 for what is not protobuf or not a built-in kind."""
    if not body.startswith(_MAGIC):
        raise bad_request("the body does not begin as the protobuf form of Kubernetes does")
    try:
        return _envelope(memoryview(body)[len(_MAGIC) :])
    except (
        IndexError,
        TypeError,
        ValueError,
        OverflowError,
        struct.error,
        msgspec.DecodeError,
        RecursionError,
    ) as error:
        raise bad_request(f"the protobuf body cannot be read: {error}") from None


def _envelope(data: memoryview) -> Object:
    """runtime.Unknown: the kind and, inside, the object."""
    api_version = kind = ""
    raw = memoryview(b"")
    for number, value in _read(data):
        if number == 1:
            for inner, text in _read(value):
                if inner == 1:
                    api_version = _value("string", text)
                elif inner == 2:
                    kind = _value("string", text)
        elif number == 2:
            raw = value
    type_ = _type_of(api_version, kind)
    if type_ is None:
        raise bad_request(f'no kind "{kind}" is registered for version "{api_version}" in protobuf; send it as JSON')
    obj: Object = {"kind": kind, "apiVersion": api_version}
    return obj | _message(type_, raw)


def _type_of(api_version: str, kind: str) -> str | None:
    group, _, version = api_version.rpartition("/")
    package = {"": "core", "rbac.authorization.k8s.io": "rbac"}.get(group, group.split(".")[0])
    shared = ("DeleteOptions", "CreateOptions", "UpdateOptions", "PatchOptions")
    type_ = f"meta.v1.{kind}" if kind in shared else f"{package}.{version}.{kind}"
    return type_ if type_ in _lines() else None


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _read(data: memoryview) -> list[tuple[int, Any]]:
    """The fields of a message in order: number, and an int (varint, fixed) or the bytes."""
    out: list[tuple[int, Any]] = []
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        wire = tag & 7
        value: Any
        if wire == 0:
            value, at = _varint(data, at)
        elif wire == 2:
            size, at = _varint(data, at)
            if at + size > end:
                raise ValueError("a field ends after the body")
            value = data[at : at + size]
            at += size
        elif wire == 1:
            (value,) = struct.unpack_from("<d", data, at)
            at += 8
        elif wire == 5:
            (value,) = struct.unpack_from("<f", data, at)
            at += 4
        else:
            raise ValueError(f"wire type {wire} is not used")
        out.append((tag >> 3, value))
    return out


def _message(type_: str, data: memoryview) -> Object:
    fields = _fields(type_)
    out: Object = {}
    for number, value in _read(data):
        field = fields.get(number)
        if field is None:
            continue  # written by a newer client
        if not isinstance(value, memoryview) and (field.name == "^" or field.map):
            raise ValueError(f"{field.name} is no message")
        if field.name == "^":
            out |= _message(field.type, value)
        elif field.map:
            key, item = _entry(field.type, value)
            out.setdefault(field.name, {})[key] = item
        elif field.repeated:
            out.setdefault(field.name, []).append(_value(field.type, value))
        else:
            read = _value(field.type, value)
            zero = read is None or (not field.always and read == _SCALAR_ZERO.get(field.type))
            if field.optional or not zero:
                out[field.name] = read
    return out


def _entry(type_: str, data: memoryview) -> tuple[str, Any]:
    key: str = ""
    value: Any = _SCALAR_ZERO.get(type_, {})
    for number, part in _read(data):
        if number == 1:
            key = _value("string", part)
        else:
            value = _value(type_, part)
    return key, value


def _value(type_: str, value: Any) -> Any:
    if isinstance(value, memoryview) is (type_ in _NUMBERS):
        raise ValueError(f"a field of type {type_} has another form")
    match type_:
        case "string":
            return bytes(value).decode()
        case "int":
            return value - (1 << 64) if value >= 1 << 63 else value
        case "bool":
            return bool(value)
        case "double":
            return value
        case "bytes":
            return base64.b64encode(value).decode()
        case "quantity":
            return _first(value, "") or "0"
        case "raw":
            inner = _first(value, None)
            return msgspec.json.decode(inner) if inner else None
        case "strings":
            return [_value("string", item) for _, item in _read(value)]
        case "intstr":
            parts = dict(_read(value))
            return _value("string", parts.get(3, memoryview(b""))) if parts.get(1) else _value("int", parts.get(2, 0))
        case "duration":
            return f"{_value('int', dict(_read(value)).get(1, 0)) / 1e9:g}s"
        case "time" | "microtime":
            return _time(dict(_read(value)), micro=type_ == "microtime")
    read = _message(type_, value)
    if type_ in _UNIONS:
        first, second = _UNIONS[type_]
        return read[first] if first in read else read.get(second)
    return read


def _first(data: memoryview, default: Any) -> Any:
    for number, value in _read(data):
        if number == 1 and isinstance(value, memoryview):
            return bytes(value) if default is None else bytes(value).decode()
    return default


def _time(parts: dict[int, int], *, micro: bool) -> str | None:
    seconds = _value("int", parts.get(1, 0))
    nanos = _value("int", parts.get(2, 0))
    if not seconds and not nanos:
        return None
    moment = _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")
