"""PriorityClasses."""

from __future__ import annotations

from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import resource
from pilotfish.local.apiserver.types.kind import Kind
from pilotfish.local.apiserver.types.pod_validation import PREEMPTION_POLICIES
from pilotfish.local.apiserver.types.validation import Errors

HIGHEST = 1_000_000_000
"""Above it are the priorities of the system."""
SYSTEM_CLASSES = {"system-node-critical": 2_000_001_000, "system-cluster-critical": 2_000_000_000}


class PriorityClasses(Kind):
    immutable = ("preemptionPolicy",)

    def default(self, obj: Object) -> None:
        obj.setdefault("preemptionPolicy", "PreemptLowerPriority")
        obj.setdefault("value", 0)

    def validate(self, obj: Object) -> Errors:
        name, value = obj["metadata"].get("name", ""), obj.get("value", 0)
        errors: Errors = []
        if name.startswith("system-"):
            if SYSTEM_CLASSES.get(name) != value or obj.get("globalDefault"):
                why = "priority class names with 'system-' prefix are reserved for system use only"
                errors.append(FieldError.forbidden("metadata.name", why))
        elif value > HIGHEST:
            why = f"maximum allowed value of a user defined priority is {HIGHEST}"
            errors.append(FieldError.forbidden("value", why))
        return errors + v.one_of("preemptionPolicy", obj.get("preemptionPolicy", ""), PREEMPTION_POLICIES)

    def validate_update(self, new: Object, old: Object) -> Errors:
        errors = super().validate_update(new, old)
        if new.get("value", 0) != old.get("value", 0):
            errors.append(FieldError.forbidden("value", "may not be changed in an update."))
        return errors


def objects() -> list[Object]:
    """The two classes that every cluster has."""
    uses = {"system-node-critical": "must not leave its node", "system-cluster-critical": "the cluster needs to work"}
    return [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": f"For pods of the system that {uses[name]}.",
            "preemptionPolicy": "PreemptLowerPriority",
        }
        for name, value in SYSTEM_CLASSES.items()
    ]


def _row(obj: Object) -> list[Any]:
    return [
        printing.name(obj),
        obj.get("value", 0),
        bool(obj.get("globalDefault")),
        printing.age(obj),
        obj.get("preemptionPolicy", ""),
    ]


RESOURCES = (
    resource(
        "scheduling.k8s.io/v1",
        "PriorityClass",
        "priorityclasses",
        short="pc",
        namespaced=False,
        has_generation=True,
        strategy=PriorityClasses(),
        columns=printing.columns("Name, Value#, Global-Default?, Age, PreemptionPolicy"),
        row=_row,
    ),
)
