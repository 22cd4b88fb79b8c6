"""Namespaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.resource import Object, Subresource
from pilotfish.local.apiserver.types import printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import WITHOUT_DELETECOLLECTION, resource
from pilotfish.local.apiserver.types.kind import Kind, spec_of, status_of
from pilotfish.local.apiserver.types.validation import Errors

FINALIZER = "kubernetes"
NAME_LABEL = "kubernetes.io/metadata.name"
_STANDARD_FINALIZERS = (FINALIZER, "orphan", "foregroundDeletion")


def finalizer_errors(path: str, name: str) -> Errors:
    errors = v.check(path, name, v.qualified_name)
    if "/" not in name and name not in _STANDARD_FINALIZERS:
        errors.append(FieldError.invalid(path, name, "must be a standard finalizer name or fully qualified"))
    return errors


class Namespaces(Kind):
    new_status: Mapping[str, Any] = {"phase": "Active"}

    def default(self, obj: Object) -> None:
        name = obj["metadata"].get("name")
        if name:
            obj["metadata"].setdefault("labels", {})[NAME_LABEL] = name
        status = obj.get("status")
        if status is not None and not status.get("phase"):
            status["phase"] = "Active"

    def prepare_for_create(self, obj: Object) -> None:
        super().prepare_for_create(obj)
        spec = obj.setdefault("spec", {})
        finalizers = spec.get("finalizers") or []
        spec["finalizers"] = finalizers if FINALIZER in finalizers else [*finalizers, FINALIZER]

    def prepare_for_update(self, new: Object, old: Object) -> None:
        """Finalizers of the spec change through the finalize subresource only."""
        spec = new.setdefault("spec", {})
        spec.pop("finalizers", None)
        if finalizers := spec_of(old).get("finalizers"):
            spec["finalizers"] = finalizers

    def validate_create(self, obj: Object) -> Errors:
        errors: Errors = []
        for name in spec_of(obj).get("finalizers") or []:
            errors += finalizer_errors("spec.finalizers", name)
        return errors

    def validate_status_update(self, new: Object, old: Object) -> Errors:
        phase = status_of(new).get("phase")
        wanted = "Terminating" if old["metadata"].get("deletionTimestamp") else "Active"
        if phase == wanted:
            return []
        why = f"may only be '{wanted}' while deletionTimestamp is {'set' if wanted == 'Terminating' else 'empty'}"
        return [FieldError.invalid("status.Phase", phase, why)]

    def field_labels(self, obj: Object) -> Mapping[str, str]:
        return {"status.phase": status_of(obj).get("phase", "")}


def _row(obj: Object) -> list[Any]:
    return [printing.name(obj), status_of(obj).get("phase", ""), printing.age(obj)]


RESOURCES = (
    resource(
        "v1",
        "Namespace",
        "namespaces",
        Subresource("finalize", "Namespace", ("update",)),
        short="ns",
        status=True,
        namespaced=False,
        verbs=WITHOUT_DELETECOLLECTION,
        field_labels=("status.phase",),
        strategy=Namespaces(),
        columns=printing.columns("Name, Status, Age"),
        row=_row,
    ),
)
