"""What a CustomResourceDefinition serves: one `Resource` and one definition a version."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pilotfish.local.apiserver.crd.jsonpath import JsonPathError, find
from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.resource import Column, Object, Resource, Strategy, Subresource
from pilotfish.local.apiserver.schema import CustomDefinition, Schema, compile_definition
from pilotfish.local.apiserver.types import printing

_READ_WRITE = ("get", "patch", "update")
_AGE = {
    "name": "Age",
    "type": "date",
    "description": "CreationTimestamp is a timestamp representing the server time when this object was created.",
    "jsonPath": ".metadata.creationTimestamp",
}
_MAX_INT32 = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class ScalePaths:
    """Where in an object its scale is: JSONPaths such as `.spec.replicas`; `selector` may be empty."""

    spec: str
    status: str
    selector: str


class CustomStrategy(Strategy):
    """The rules of a custom resource that are not in its schema."""

    def __init__(self, crd: Object, version: Object) -> None:
        group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"]
        scale = (version.get("subresources") or {}).get("scale")
        self.scale = (
            ScalePaths(scale["specReplicasPath"], scale["statusReplicasPath"], scale.get("labelSelectorPath") or "")
            if scale is not None
            else None
        )
        self.selectable = tuple(one["jsonPath"] for one in version.get("selectableFields") or ())
        self.deprecation = ""
        if version.get("deprecated"):
            default = f"{group}/{version['name']} {kind} is deprecated"
            self.deprecation = version.get("deprecationWarning") or default

    def validate(self, obj: Object) -> list[FieldError]:
        return [] if self.scale is None else _scale_errors(self.scale, obj)

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        _ = old
        return self.validate(new)

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        before = (old or {}).get("metadata", {}).get("finalizers") or ()
        added = sorted(set(obj["metadata"].get("finalizers") or ()).difference(before))
        found = [self.deprecation] if self.deprecation else []
        return found + [warning for name in added if (warning := _finalizer_warning(name))]

    def field_labels(self, obj: Object) -> Mapping[str, str]:
        return {path.removeprefix("."): _text(_first(path, obj)) for path in self.selectable}


_FINALIZERS = ("orphan", "foregroundDeletion", "kubernetes")


def _finalizer_warning(name: str) -> str:
    """Finalizers of custom resources should say whose they are."""
    if "/" in name or name in _FINALIZERS:
        return ""
    path = " including a path (/)" if "." in name else ""
    return (
        f'metadata.finalizers: "{name}": prefer a domain-qualified finalizer name{path} '
        "to avoid accidental conflicts with other finalizer writers"
    )


def _first(path: str, obj: Any) -> Any:
    try:
        found = find(path, obj)
    except JsonPathError:
        return None
    return found[0] if found else None


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _scale_errors(scale: ScalePaths, obj: Object) -> list[FieldError]:
    errors = []
    for path in (scale.spec, scale.status):
        count = _first(path, obj)
        if count is None:
            continue
        if type(count) is not int:
            errors.append(FieldError.invalid(path, 0, f"{path} accessor error: it is no int64"))
        elif count < 0:
            errors.append(FieldError.invalid(path, count, "should be a non-negative integer"))
        elif count > _MAX_INT32:
            errors.append(FieldError.invalid(path, count, f"should be less than or equal to {_MAX_INT32}"))
    selector = _first(scale.selector, obj) if scale.selector else None
    if selector is not None and not isinstance(selector, str):
        errors.append(FieldError.invalid(scale.selector, "", "it is no string"))
    return errors


def scale_paths(resource: Resource) -> ScalePaths | None:
    """Where a custom resource keeps its scale; None when it has no scale subresource."""
    return resource.strategy.scale if isinstance(resource.strategy, CustomStrategy) else None


# -------------------------------------------------------------------------------------------------------------- tables


def _whole(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value)


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _boolean(value: Any) -> Any:
    return value if isinstance(value, bool) else None


def _date(value: Any) -> Any:
    if not isinstance(value, str):
        return None
    try:
        return printing.ago(value)
    except ValueError:
        return "<invalid>"


_CELLS: dict[str, Callable[[Any], Any]] = {
    "string": _text,
    "integer": _whole,
    "number": _number,
    "boolean": _boolean,
    "date": _date,
}


def _table(version: Object) -> tuple[tuple[Column, ...], Callable[[Object], list[Any]]]:
    """The columns of a version, and the function that fills them."""
    wanted = version.get("additionalPrinterColumns") or [_AGE]
    name = Column("Name", "string", "Name must be unique within a namespace.", 0, "name")
    columns = (
        name,
        *(
            Column(c["name"], c["type"], c.get("description", ""), c.get("priority", 0), c.get("format", ""))
            for c in wanted
        ),
    )
    cells: tuple[tuple[str, Callable[[Any], Any]], ...] = tuple(
        (c["jsonPath"], _CELLS.get(c["type"], _text)) for c in wanted
    )

    def row(obj: Object) -> list[Any]:
        out: list[Any] = [obj["metadata"].get("name", "")]
        for path, show in cells:
            value = _first(path, obj)
            out.append(None if value is None else show(value))
        return out

    return columns, row


# ----------------------------------------------------------------------------------------------------------- resources


def definition_name(group: str, version: str, kind: str) -> str:
    """How OpenAPI names a custom kind: `com.example.v1.Widget`."""
    return f"{'.'.join(reversed(group.split('.')))}.{version}.{kind}"


def resources_of(crd: Object) -> list[Resource]:
    """The resources of every served version, with the names that the definition has been given."""
    spec = crd["spec"]
    names = (crd.get("status") or {}).get("acceptedNames") or spec["names"]
    storage = next((v["name"] for v in spec["versions"] if v.get("storage")), "")
    return [_resource(crd, version, names, storage) for version in spec["versions"] if version.get("served")]


def _resource(crd: Object, version: Object, names: Object, storage: str) -> Resource:
    spec = crd["spec"]
    kind = spec["names"]["kind"]
    columns, row = _table(version)
    paths = version.get("subresources") or {}
    subresources = {}
    if paths.get("status") is not None:
        subresources["status"] = Subresource("status", kind, _READ_WRITE)
    if paths.get("scale") is not None:
        subresources["scale"] = Subresource("scale", "Scale", _READ_WRITE, "autoscaling", "v1")
    strategy = CustomStrategy(crd, version)
    return Resource(
        group=spec["group"],
        version=version["name"],
        kind=kind,
        plural=spec["names"]["plural"],
        namespaced=spec["scope"] == "Namespaced",
        definition=definition_name(spec["group"], version["name"], kind),
        singular=names.get("singular") or kind.lower(),
        list_kind=names.get("listKind") or kind + "List",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        subresources=subresources,
        strategy=strategy,
        columns=columns,
        row=row,
        field_labels=tuple(path.removeprefix(".") for path in strategy.selectable),
        has_generation=True,
        unconditional_update=False,
        reread=defaults_came_later(crd, version["name"]),
        storage_version=storage,
    )


def defaults_came_later(crd: Object, version: str) -> bool:
    """Whether objects of this version may have been stored before the schema had the defaults it has now."""
    if crd["metadata"].get("generation", 1) == 1:
        return False
    found: Object = next((v for v in crd["spec"]["versions"] if v["name"] == version), {})
    return _has_defaults((found.get("schema") or {}).get("openAPIV3Schema") or {})


def _has_defaults(openapi: Mapping[str, Any]) -> bool:
    children = [*(openapi.get("properties") or {}).values(), openapi.get("items"), openapi.get("additionalProperties")]
    return "default" in openapi or any(_has_defaults(child) for child in children if isinstance(child, Mapping))


_ANYTHING: Object = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_cache: dict[tuple[str, int], dict[str, CustomDefinition]] = {}


def definitions_of(crd: Object) -> dict[str, CustomDefinition]:
    """The definitions of all versions by name, for `schema.compile_definition` and for OpenAPI."""
    meta, spec = crd["metadata"], crd["spec"]
    key = (meta.get("uid", ""), meta.get("generation", 0))
    if key in _cache:
        return _cache[key]
    found = {}
    for version in spec["versions"]:
        openapi = (version.get("schema") or {}).get("openAPIV3Schema") or _ANYTHING
        if spec.get("preserveUnknownFields"):
            openapi = {**openapi, "x-kubernetes-preserve-unknown-fields": True}
        definition = CustomDefinition(openapi)
        definition.status_subresource = (version.get("subresources") or {}).get("status") is not None
        found[definition_name(spec["group"], version["name"], spec["names"]["kind"])] = definition
    if key[0]:
        if len(_cache) >= 512:
            _cache.clear()
        _cache[key] = found
    return found


def schema_of(crd: Object, version: str) -> Schema:
    """The compiled schema of one version."""
    spec = crd["spec"]
    name = definition_name(spec["group"], version, spec["names"]["kind"])
    return compile_definition(name, definitions_of(crd))
