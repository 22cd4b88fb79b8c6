"""StorageClasses."""

from __future__ import annotations

from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import printing
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
        return errors + v.one_of("volumeBindingMode", obj.get("volumeBindingMode"), modes, missing=False)


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
