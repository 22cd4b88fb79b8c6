"""The OpenAPI v3 definitions of the built-in kinds, expanded from the compact notation in `schemas/*.schema`.

A file holds one API version: `package NAME PREFIX GROUP/VERSION`, then types. `kind` is a type with apiVersion, kind
and metadata that has a list (`single`: it has none). A line under it is a field: `name: type marks  # description`.

Types: string, int (32 bits), long (64 bits), double, bool, bytes (base64), time, microtime, quantity, intstr (integer
or string), raw (any object), any, `[]T`, `map[T]` (keys are strings), a type of the package, or `package.Type`.

Marks, in this order:
- `*` an optional scalar that keeps its zero value when given (in Go: a pointer); others are dropped when zero
- `!` required; absent scalars read as their zero value (`!?`: absent stays absent)
- `atomic`, `set`, `map(keys)`: how server-side apply sees a list (`atomic`, `granular`: a map)
- `merge(key)`: how strategic merge patch joins a list (`merge()`: one of scalars)
- `retainKeys`: strategic merge patch drops the keys it does not name
- `= value`: the value of an absent field, as JSON (`null`: it is printed, as Go prints times that are no pointers)
- `oneof(a|b)`: the values it can have, also of each item of a list; `signal` stands for the names of all signals.
  Published as `enum`, but checked by the strategies, which say it as Kubernetes does; hence `x-enum`
"""

from __future__ import annotations

import functools
import json
import re
from importlib import resources
from typing import Any

Schema = dict[str, Any]

_PREFIX = "#/components/schemas/"
_META = "io.k8s.apimachinery.pkg.apis.meta.v1"
_TIME = f"{_META}.Time"
_MICROTIME = f"{_META}.MicroTime"
_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
_INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
_RAW = "io.k8s.apimachinery.pkg.runtime.RawExtension"

_SCALARS: dict[str, Schema] = {
    "string": {"type": "string"},
    "int": {"type": "integer", "format": "int32"},
    "long": {"type": "integer", "format": "int64"},
    "double": {"type": "number", "format": "double"},
    "bool": {"type": "boolean"},
    "bytes": {"type": "string", "format": "byte"},
    "raw": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    "any": {"x-kubernetes-preserve-unknown-fields": True},
}
_ZERO: dict[str, Any] = {"string": "", "int": 0, "long": 0, "bool": False}
_NAMED = {"time": _TIME, "microtime": _MICROTIME, "quantity": _QUANTITY, "intstr": _INT_OR_STRING}
_WELL_KNOWN: dict[str, Schema] = {
    _TIME: {"type": "string", "format": "date-time", "description": "A moment, to the second (RFC 3339)."},
    _MICROTIME: {"type": "string", "format": "date-time", "description": "A moment, to the microsecond (RFC 3339)."},
    _QUANTITY: {
        "oneOf": [{"type": "string"}, {"type": "number"}],
        "format": "quantity",
        "description": "A number with a suffix: m, k, M, G, T, P, E, or Ki, Mi, Gi, Ti, Pi, Ei, or an exponent.",
    },
    _INT_OR_STRING: {
        "oneOf": [{"type": "integer"}, {"type": "string"}],
        "format": "int-or-string",
        "x-kubernetes-int-or-string": True,
        "description": "A number, or a text such as a percentage or the name of a port.",
    },
    _RAW: {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "description": "Any object."},
}
_DESCRIPTIONS = {
    "apiVersion": "The group and version of this object's form.",
    "kind": "The kind of this object.",
    "metadata": "Name, namespace, labels, annotations and what the system keeps about the object.",
    "list": "Page token and version of the list.",
    "items": "The objects.",
}
_FIELD = re.compile(
    r"  (?P<name>[\w$-]+): (?P<type>[\w.\[\]]+)(?P<pointer>\*)?(?P<required>!\??)?"
    r"(?: (?P<list>atomic|granular|set|map\([\w,]+\)))?(?: merge\((?P<merge>\w*)\))?(?P<retain> retainKeys)?"
    r"(?: = (?P<default>\S+))?(?: oneof\((?P<oneof>[^)]*)\))?(?:  # (?P<text>.*))?"
)
_TYPE = re.compile(r"(?P<what>kind|type) (?P<name>\w+)(?P<single> single)?(?P<atomic> atomic)?(?:  # (?P<text>.*))?")


_SIGNALS = (
    "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM "
    "TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX"
)


def _signals() -> list[str]:
    names = _SIGNALS.split() + [f"RTMIN+{i}" for i in range(1, 16)] + [f"RTMAX-{i}" for i in range(1, 15)]
    return sorted(f"SIG{name}" for name in names)


def ref(name: str) -> Schema:
    return {"$ref": _PREFIX + name}


def _described(schema: Schema, text: str | None, extra: Schema) -> Schema:
    """Siblings of `$ref` do not count in OpenAPI v3.0, so a reference with more to say becomes `allOf`."""
    if text:
        extra = {"description": text, **extra}
    if not extra:
        return schema
    return ({"allOf": [schema]} if "$ref" in schema else dict(schema)) | extra


class _Package:
    def __init__(self, lines: list[str]) -> None:
        _, self.alias, self.prefix, group_version = lines[0].split()
        group, _, self.version = group_version.rpartition("/")
        self.group = group
        self.lines = lines[1:]


def _packages() -> list[_Package]:
    files = sorted((resources.files(__package__) / "schemas").iterdir(), key=lambda f: f.name)
    return [_Package(file.read_text().splitlines()) for file in files if file.name.endswith(".schema")]


class _Expander:
    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = dict(_WELL_KNOWN)
        packages = _packages()
        self.prefixes = {package.alias: package.prefix for package in packages}
        for package in packages:
            self.expand(package)

    def type(self, text: str, package: _Package) -> Schema:
        if scalar := _SCALARS.get(text):
            return scalar
        if named := _NAMED.get(text):
            return ref(named)
        if text.startswith("[]"):
            return {"type": "array", "items": self.element(text[2:], package)}
        if text.startswith("map["):
            return {"type": "object", "additionalProperties": self.element(text[4:-1], package)}
        alias, _, name = text.rpartition(".")
        return ref(f"{self.prefixes[alias] if alias else package.prefix}.{name}")

    def element(self, text: str, package: _Package) -> Schema:
        """An item of a list or map: null there reads as the zero value."""
        schema = self.type(text, package)
        if text in _ZERO:
            return schema | {"default": _ZERO[text]}
        if "$ref" in schema and text not in _NAMED:
            return {"allOf": [schema], "default": {}}
        return schema

    def field(self, line: str, package: _Package) -> tuple[str, Schema, bool]:
        match = _FIELD.fullmatch(line)
        if not match:
            raise ValueError(f"{package.alias}: not a field: {line!r}")
        extra: Schema = {}
        if match["default"] is not None:
            extra["default"] = json.loads(match["default"])
        elif match["required"] == "!" and match["type"] in _ZERO:
            extra["default"] = _ZERO[match["type"]]
        if match["type"] in _ZERO and not match["pointer"] and not match["required"]:
            extra["x-omit-zero"] = True
        kind = self.type(match["type"], package)
        if match["oneof"] is not None:
            allowed = _signals() if match["oneof"] == "signal" else match["oneof"].split("|")
            within = next((key for key in ("items", "additionalProperties") if key in kind), None)
            if within:
                kind = kind | {within: kind[within] | {"x-enum": allowed}}
            else:
                extra["x-enum"] = allowed
        listing = match["list"] or ""
        is_list = match["type"].startswith("[]")
        if listing.startswith("map("):
            extra |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": listing[4:-1].split(",")}
        elif listing:
            extra["x-kubernetes-list-type" if is_list else "x-kubernetes-map-type"] = listing
        if match["merge"] is not None:
            extra["x-kubernetes-patch-strategy"] = "merge,retainKeys" if match["retain"] else "merge"
            if match["merge"]:
                extra["x-kubernetes-patch-merge-key"] = match["merge"]
        elif match["retain"]:
            extra["x-kubernetes-patch-strategy"] = "retainKeys"
        schema = _described(kind, match["text"], extra)
        return match["name"], schema, bool(match["required"])

    def expand(self, package: _Package) -> None:
        current: Schema = {}
        for line in package.lines:
            if not line:
                continue
            if line.startswith(" "):
                name, schema, required = self.field(line, package)
                current.setdefault("properties", {})[name] = schema
                if required:
                    current.setdefault("required", []).append(name)
                continue
            match = _TYPE.fullmatch(line)
            if not match:
                raise ValueError(f"{package.alias}: not a type: {line!r}")
            current = {"type": "object"}
            if match["text"]:
                current["description"] = match["text"]
            if match["atomic"]:
                current["x-kubernetes-map-type"] = "atomic"
            name = f"{package.prefix}.{match['name']}"
            if match["what"] == "kind":
                self._kind(current, match["name"], package)
                if not match["single"]:
                    self.definitions[name + "List"] = self._list(match["name"], package)
            self.definitions[name] = current

    def _kind(self, schema: Schema, kind: str, package: _Package, meta: str = "ObjectMeta") -> None:
        text = _DESCRIPTIONS["metadata" if meta == "ObjectMeta" else "list"]
        schema["properties"] = {
            "apiVersion": {"type": "string", "description": _DESCRIPTIONS["apiVersion"]},
            "kind": {"type": "string", "description": _DESCRIPTIONS["kind"]},
            "metadata": {"description": text, "default": {}, "allOf": [ref(f"{_META}.{meta}")]},
        }
        schema["x-kubernetes-group-version-kind"] = [
            {"group": package.group, "kind": kind, "version": package.version},
        ]

    def _list(self, kind: str, package: _Package) -> Schema:
        schema: Schema = {"type": "object", "description": f"A list of {kind} objects."}
        self._kind(schema, kind + "List", package, "ListMeta")
        items = {"type": "array", "items": self.element(kind, package), "description": _DESCRIPTIONS["items"]}
        schema["properties"]["items"] = items
        schema["required"] = ["items"]
        return schema


@functools.cache
def definitions() -> dict[str, Schema]:
    """All component schemas by name, e.g. `io.k8s.api.core.v1.Pod`. Built once, on first use; do not change them."""
    return _Expander().definitions
