"""CustomResourceDefinitions from the types: `python -m pilotfish.api.crds` prints those of the base chart.

Descriptions are the docstrings of classes and fields, so this module reads its neighbours' source.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from functools import cache
from typing import Any

import msgspec
import yaml
from msgspec import inspect as types

from pilotfish.api.kinds import KINDS, Column, Kind
from pilotfish.api.meta import Api, Duration

Schema = dict[str, Any]

_DURATION_RULE = {
    "rule": "duration(self) >= duration('1ms')",
    "message": "must be a valid duration greater than 1ms",
}
_ZERO_ALLOWED = {("HTTPCookie", "ttl"), ("TCPSettings", "idleTimeout"), ("RetryBudget", "budgetInterval")}
"""Durations for which 0s has a meaning."""


_TEXT = {"type": "string"}
_TIME = {"type": "string", "format": "date-time"}
_GENERATION = {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
_CONDITION = {
    "lastProbeTime": {**_TIME, "description": "When the condition was last looked at."},
    "lastTransitionTime": {**_TIME, "description": "When the condition's status last changed."},
    "message": {**_TEXT, "description": "What a reader should know of the last change."},
    "observedGeneration": {**_GENERATION, "description": "Generation of the object the condition is about."},
    "reason": {**_TEXT, "description": "Why it changed, in one CamelCase word."},
    "status": {**_TEXT, "description": "True, False or Unknown."},
    "type": {**_TEXT, "description": "What the condition is called."},
}
_MESSAGE = {
    "documentationUrl": {**_TEXT, "description": "Where this message is explained."},
    "level": {
        **_TEXT,
        "description": "How severe it is.",
        "enum": ["UNKNOWN", "ERROR", "WARNING", "INFO"],
    },
    "type": {
        "type": "object",
        "properties": {
            "code": {**_TEXT, "description": "Code of the kind of message, such as IST0101."},
            "name": {**_TEXT, "description": "Name of the kind of message."},
        },
    },
}
_STATUS: Schema = {
    "type": "object",
    "properties": {
        "conditions": {
            "type": "array",
            "description": "The state of the object.",
            "items": {"type": "object", "properties": _CONDITION},
        },
        "observedGeneration": {**_GENERATION, "description": "Generation of the object the status is about."},
        "validationMessages": {
            "type": "array",
            "description": "What analyzers found.",
            "items": {"type": "object", "properties": _MESSAGE},
        },
    },
    "x-kubernetes-preserve-unknown-fields": True,
}
_LABELS = {"security.istio.io": {"istio": "security"}, "telemetry.istio.io": {"istio": "telemetry"}}
"""Further labels of a group's definitions."""


def crds() -> list[dict[str, Any]]:
    """The definitions of all kinds, and of IstioOperator files as Istio's charts up to 1.23 installed it."""
    return [_crd(kind) for kind in sorted(KINDS.values(), key=lambda kind: kind.crd_name)] + [_operator()]


def _crd(kind: Kind) -> dict[str, Any]:
    spec = schema_of(kind.type)
    root: Schema = {
        "type": "object",
        "properties": {"spec": spec, "status": _STATUS},
    }
    if kind.spec_required:
        root["required"] = ["spec"]
    versions = [
        {
            "name": version,
            "served": True,
            "storage": version == kind.storage_version,
            "subresources": {"status": {}},
            **({"additionalPrinterColumns": [_column(column) for column in kind.columns]} if kind.columns else {}),
            "schema": {"openAPIV3Schema": root},
        }
        for version in kind.versions
    ]
    return _definition(kind.group, kind.kind, kind.plural, kind.short_names, kind.categories, versions)


def _operator() -> dict[str, Any]:
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    columns = (
        Column("Revision", ".spec.revision", "Revision of the control plane."),
        Column("Status", ".status.status", "State of the installation."),
        Column("Age", ".metadata.creationTimestamp", "Time since the object was created.", "date"),
    )
    version = {
        "name": "v1alpha1",
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [_column(column) for column in columns],
        "schema": {"openAPIV3Schema": {**free, "properties": {"spec": free, "status": free}}},
    }
    return _definition("install.istio.io", "IstioOperator", "istiooperators", ("iop", "io"), (), [version])


def _definition(
    group: str,
    kind: str,
    plural: str,
    short_names: tuple[str, ...],
    categories: tuple[str, ...],
    versions: list[dict[str, Any]],
) -> dict[str, Any]:
    names: dict[str, Any] = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    if short_names:
        names["shortNames"] = list(short_names)
    if categories:
        names["categories"] = list(categories)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            "annotations": {"helm.sh/resource-policy": "keep"},
            "labels": {
                "app": "istio-pilot",
                "chart": "istio",
                "heritage": "Tiller",
                "release": "istio",
                **_LABELS.get(group, {}),
            },
        },
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": versions},
    }


def _column(column: Column) -> dict[str, str]:
    return {
        "name": column.name,
        "type": column.type,
        "jsonPath": column.json_path,
        "description": column.description,
    }


def schema_of(cls: type[Api]) -> Schema:
    """The schema of a type, with its descriptions."""
    documented = _documentation(cls)
    result: Schema = {"type": "object"}
    if "" in documented:
        result["description"] = documented[""]
    required: list[str] = []
    properties: dict[str, Schema] = {}
    for field in sorted(types.type_info(cls).fields, key=lambda field: field.encode_name):  # type: ignore[attr-defined]  # a StructType
        schema = _schema(field.type)
        if _is_duration(field.type) and (cls.__name__, field.encode_name) not in _ZERO_ALLOWED:
            schema["x-kubernetes-validations"] = [_DURATION_RULE]
        wrapper = schema["type"] in {"boolean", "integer", "number"} and field.default is None
        if wrapper and not any(field.encode_name in group for group in cls.ONE_OF):
            schema["nullable"] = True
        if field.name in documented:
            schema = {"description": documented[field.name], **schema}
        properties[field.encode_name] = schema
        if (getattr(field.type, "extra", None) or {}).get("required"):
            required.append(field.encode_name)
    for alias, name in cls.ALIASES.items():
        properties[alias] = {**properties[name], "description": f"Another spelling of {name}."}
    if properties:
        result["properties"] = properties
    if required:
        result["required"] = required
    groups = [_at_most_one(group) for group in cls.ONE_OF]
    if len(groups) == 1:
        result["oneOf"] = groups[0]
    elif groups:
        result["allOf"] = [{"oneOf": group} for group in groups]
    if cls.CEL:
        result["x-kubernetes-validations"] = [rule._asdict() for rule in cls.CEL]
    return result


def _at_most_one(names: tuple[str, ...]) -> list[Schema]:
    alone = [{"required": [name]} for name in names]
    return [{"not": {"anyOf": alone}}, *alone]


def _schema(info: types.Type) -> Schema:
    if isinstance(info, types.Metadata):
        extra = dict(info.extra_json_schema or {})
        inner = _schema(info.type)
        if isinstance(info.type, types.DictType) and "additionalProperties" in extra:
            inner.pop("additionalProperties", None)
        return {**inner, **extra}
    if isinstance(info, types.UnionType):
        return _schema(next(member for member in info.types if not isinstance(member, types.NoneType)))
    if isinstance(info, types.StructType):
        return schema_of(info.cls)  # type: ignore[arg-type]  # all structs here are Api
    if isinstance(info, types.VarTupleType):
        return {"type": "array", "items": _schema(info.item_type)}
    if isinstance(info, types.DictType):
        if isinstance(info.value_type, types.AnyType):
            return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        return {"type": "object", "additionalProperties": _schema(info.value_type)}
    if isinstance(info, types.EnumType):
        return {"type": "string", "enum": [member.value for member in info.cls]}
    if isinstance(info, types.IntType):
        if info.ge == 0:
            return {"type": "integer", "minimum": 0, **({"maximum": info.le} if info.le == 2**32 - 1 else {})}
        return {"type": "integer", "format": "int32" if info.le == 2**31 - 1 else "int64"}
    simple = {types.StrType: "string", types.BoolType: "boolean", types.CustomType: "string"}
    if isinstance(info, types.FloatType):
        return {"type": "number", "format": "double"}
    return {"type": simple[type(info)]}


def _is_duration(info: types.Type) -> bool:
    if isinstance(info, types.Metadata):
        return _is_duration(info.type)
    if isinstance(info, types.UnionType):
        return any(_is_duration(member) for member in info.types)
    return isinstance(info, types.CustomType) and info.cls is Duration


@cache
def _module_documentation(module: str) -> dict[str, dict[str, str]]:
    """For each class of a module its docstring (under "") and those of its fields."""
    found: dict[str, dict[str, str]] = {}
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        texts = found.setdefault(node.name, {})
        if (own := ast.get_docstring(node)) is not None:
            texts[""] = _one_line(own)
        for before, after in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                texts[before.target.id] = _one_line(str(after.value.value))
    return found


def _documentation(cls: type[Api]) -> dict[str, str]:
    result: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, msgspec.Struct) and base.__module__.startswith("pilotfish."):
            texts = _module_documentation(base.__module__).get(base.__name__, {})
            result.update({name: text for name, text in texts.items() if name or base is cls})
    return result


def _one_line(text: str) -> str:
    return " ".join(textwrap.dedent(text).split())


class _Dumper(yaml.SafeDumper):
    """Writes repeated parts out in full: kubectl understands anchors, people comparing files do not."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def main() -> None:
    """Print the definitions as YAML documents."""
    sys.stdout.write(to_yaml(crds()))


def to_yaml(documents: list[dict[str, Any]]) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=True, width=120, explicit_start=True, allow_unicode=True)


if __name__ == "__main__":
    main()
