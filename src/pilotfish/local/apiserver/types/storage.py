"""StorageClasses."""

from __future__ import annotations

from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import pod_warnings, printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import resource
from pilotfish.local.apiserver.types.kind import Kind
from pilotfish.local.apiserver.types.validation import Errors

_DEFAULT = "storageclass.kubernetes.io/is-default-class"
_MAX_PARAMETERS = 512
_MAX_PARAMETERS_SIZE = 256 * 1024


class StorageClasses(Kind):
    immutable = ("parameters", "provisioner", "reclaimPolicy", "volumeBindingMode")

    def default(self, obj: Object) -> None:
        obj.setdefault("reclaimPolicy", "Delete")
        obj.setdefault("volumeBindingMode", "Immediate")

    def validate(self, obj: Object) -> Errors:
        provisioner, parameters = obj.get("provisioner", ""), obj.get("parameters") or {}
        if provisioner:
            errors = [FieldError.invalid("provisioner", provisioner, t) for t in v.qualified_name(provisioner.lower())]
        else:
            errors = [FieldError.required("provisioner")]
        size = sum(len(key.encode()) + len(value.encode()) for key, value in parameters.items())
        if len(parameters) > _MAX_PARAMETERS:
            errors.append(FieldError.too_long("parameters", _MAX_PARAMETERS))
        elif size > _MAX_PARAMETERS_SIZE:
            errors.append(FieldError.too_long("parameters", _MAX_PARAMETERS_SIZE))
        if "" in parameters:
            errors.append(FieldError.invalid("parameters", "", "field can not be empty"))
        errors += v.one_of("reclaimPolicy", obj.get("reclaimPolicy"), ("Delete", "Retain"), missing=False)
        modes = ("Immediate", "WaitForFirstConsumer")
        errors += v.one_of("volumeBindingMode", obj.get("volumeBindingMode"), modes, missing=False)
        return errors + _topologies(obj.get("allowedTopologies") or [])

    def concerns(self, obj: Object) -> list[str]:
        return [
            f"allowedTopologies[{i}].matchLabelExpressions[{j}].key: {text}"
            for i, term in enumerate(obj.get("allowedTopologies") or [])
            for j, requirement in enumerate(term.get("matchLabelExpressions") or [])
            if (text := pod_warnings.node_label(requirement.get("key", "")))
        ]


def _topologies(terms: list[dict[str, Any]]) -> Errors:
    errors: Errors = []
    seen: list[dict[str, set[str]]] = []
    for i, term in enumerate(terms):
        path = f"allowedTopologies[{i}].matchLabelExpressions"
        found: dict[str, set[str]] = {}
        for j, requirement in enumerate(term.get("matchLabelExpressions") or []):
            key, values = requirement.get("key", ""), requirement.get("values") or []
            errors += v.required(f"{path}[{j}].values", values)
            errors += [
                FieldError.duplicate(f"{path}[{j}].values[{k}]", value)
                for k, value in enumerate(values)
                if value in values[:k]
            ]
            errors += v.check(f"{path}[{j}].key", key, v.qualified_name)
            if key in found:
                errors.append(FieldError.duplicate(f"{path}[{j}].key", key))
            found[key] = set(values)
        errors += [FieldError.duplicate(path, "") for one in seen if one == found]
        seen.append(found)
    return errors


def _row(obj: Object) -> list[Any]:
    default = (obj["metadata"].get("annotations") or {}).get(_DEFAULT) == "true"
    return [
        printing.name(obj) + (" (default)" if default else ""),
        obj.get("provisioner", ""),
        obj.get("reclaimPolicy", "Delete"),
        obj.get("volumeBindingMode", "Immediate"),
        bool(obj.get("allowVolumeExpansion")),
        printing.age(obj),
    ]


RESOURCES = (
    resource(
        "storage.k8s.io/v1",
        "StorageClass",
        "storageclasses",
        short="sc",
        namespaced=False,
        strategy=StorageClasses(),
        columns=printing.columns("Name, Provisioner, ReclaimPolicy, VolumeBindingMode, AllowVolumeExpansion, Age"),
        row=_row,
    ),
)
