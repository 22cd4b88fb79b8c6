"""Schemas as CEL types. Objects become protobuf messages, made up for the purpose, so that field names are checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cel_expr_python import cel
from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, struct_pb2, timestamp_pb2, wrappers_pb2

from pilotfish.local.apiserver.cel.names import escape

T = cel.Type
OpenApi = Mapping[str, Any]

_FIELD = descriptor_pb2.FieldDescriptorProto
_WELL_KNOWN = (struct_pb2, timestamp_pb2, duration_pb2, wrappers_pb2)
_TIMESTAMP, _DURATION = ".google.protobuf.Timestamp", ".google.protobuf.Duration"
_DYN = ".google.protobuf.Value"
_SCALARS = {
    "integer": (_FIELD.TYPE_INT64, T.INT, "Int64Value"),
    "number": (_FIELD.TYPE_DOUBLE, T.DOUBLE, "DoubleValue"),
    "boolean": (_FIELD.TYPE_BOOL, T.BOOL, "BoolValue"),
    "string": (_FIELD.TYPE_STRING, T.STRING, "StringValue"),
}
_META: OpenApi = {"type": "object", "properties": {"name": {"type": "string"}, "generateName": {"type": "string"}}}
_WHOLE: OpenApi = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": _META}


class Types:
    """The CEL types of a schema and of all its parts."""

    def __init__(self, schema: OpenApi) -> None:
        self.file = descriptor_pb2.FileDescriptorProto(name="schema.proto", package="schema", syntax="proto2")
        self.names: dict[int, str] = {}
        self.kept: list[Any] = []
        for module in _WELL_KNOWN:
            self.file.dependency.append(module.DESCRIPTOR.name)
        self.message(schema, root=True)
        self.pool = descriptor_pool.DescriptorPool()
        for module in _WELL_KNOWN:
            copied = descriptor_pb2.FileDescriptorProto()
            module.DESCRIPTOR.CopyToProto(copied)
            self.pool.Add(copied)
        self.pool.Add(self.file)

    def message(self, schema: OpenApi, *, root: bool = False) -> str:
        """The full name of the message that stands for an object schema, made when first asked for."""
        name = self.names.get(id(schema))
        if name is not None:
            return name
        message = self.file.message_type.add(name=f"M{len(self.file.message_type)}")
        message.options.deprecated_legacy_json_field_conflicts = True  # a schema may have both jwksUri and jwks_uri
        name = self.names[id(schema)] = f".schema.{message.name}"
        self.kept.append(schema)
        properties = dict(schema.get("properties") or {})
        if root or schema.get("x-kubernetes-embedded-resource"):
            properties |= _WHOLE
        for property_name, child in properties.items():
            escaped = escape(property_name)
            if escaped is not None:
                self.field(message, escaped, child)
        return name

    def field(self, message: Any, name: str, schema: OpenApi) -> None:
        number = len(message.field) + 1
        repeated, kind, type_name = self.shape(message, name, schema)
        field = message.field.add(name=name, number=number, type=kind, json_name=f"f{number}")
        field.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
        if type_name:
            field.type_name = type_name

    def shape(self, message: Any, name: str, schema: OpenApi) -> tuple[bool, int, str]:
        """(repeated, field type, message type) of a field."""
        if schema.get("type") == "array" and isinstance(schema.get("items"), Mapping):
            if schema.get("nullable"):
                return False, _FIELD.TYPE_MESSAGE, _DYN
            return True, *self.single(schema["items"])
        if self.is_map(schema) and not schema.get("nullable"):
            entry = message.nested_type.add(name=f"E{len(message.nested_type)}_{name}"[:60])
            entry.options.map_entry = True
            entry.field.add(name="key", number=1, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
            kind, type_name = self.single(schema["additionalProperties"])
            value = entry.field.add(name="value", number=2, type=kind, label=_FIELD.LABEL_OPTIONAL)
            if type_name:
                value.type_name = type_name
            entry.name = f"{_camel(name)}Entry"
            return True, _FIELD.TYPE_MESSAGE, f".schema.{message.name}.{entry.name}"
        return False, *self.single(schema)

    def single(self, schema: OpenApi) -> tuple[int, str]:
        """(field type, message type) of one value; lists of lists and the like can be anything."""
        kind = schema.get("type")
        if schema.get("x-kubernetes-int-or-string") or kind in (None, "", "array") or self.is_map(schema):
            return _FIELD.TYPE_MESSAGE, _DYN
        if kind == "object":
            return _FIELD.TYPE_MESSAGE, self.message(schema)
        if kind == "string" and (special := _special(schema)):
            if special == "bytes":
                return _FIELD.TYPE_BYTES, ""
            return _FIELD.TYPE_MESSAGE, special
        field_type, _, wrapper = _SCALARS[str(kind)]
        if schema.get("nullable"):
            return _FIELD.TYPE_MESSAGE, f".google.protobuf.{wrapper}"
        return field_type, ""

    @staticmethod
    def is_map(schema: OpenApi) -> bool:
        return isinstance(schema.get("additionalProperties"), Mapping)

    def variable(self, schema: OpenApi) -> Any:
        """The CEL type of a place in the schema that this was made for."""
        kind = schema.get("type")
        if schema.get("x-kubernetes-int-or-string") or kind in (None, ""):
            return T.DYN
        if kind == "array":
            return T.List(self.variable(schema["items"])) if isinstance(schema.get("items"), Mapping) else T.LIST
        if self.is_map(schema):
            return T.Map(T.STRING, self.variable(schema["additionalProperties"]))
        if kind == "object":
            name = self.names.get(id(schema))
            return T(name.removeprefix(".")) if name else T.DYN
        if kind == "string" and (special := _special(schema)):
            return {"bytes": T.BYTES, _TIMESTAMP: T.TIMESTAMP, _DURATION: T.DURATION}[special]
        return _SCALARS[str(kind)][1]


def _special(schema: OpenApi) -> str:
    return {
        "byte": "bytes",
        "date": _TIMESTAMP,
        "date-time": _TIMESTAMP,
        "datetime": _TIMESTAMP,
        "duration": _DURATION,
    }.get(schema.get("format", ""), "")


def _camel(name: str) -> str:
    """The name that protobuf wants for the entries of a map field."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))
