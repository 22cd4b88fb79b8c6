"""PodDisruptionBudgets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import resource
from pilotfish.local.apiserver.types.kind import Kind, spec_of, status_of
from pilotfish.local.apiserver.types.validation import Errors

_COUNTERS = ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods")


class PodDisruptionBudgets(Kind):
    new_status: Mapping[str, Any] = dict.fromkeys(_COUNTERS, 0)

    def validate(self, obj: Object) -> Errors:
        spec = spec_of(obj)
        errors: Errors = []
        if "minAvailable" in spec and "maxUnavailable" in spec:
            errors.append(FieldError.invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set"))
        for field in ("minAvailable", "maxUnavailable"):
            if field in spec:
                path = f"spec.{field}"
                errors += v.percent_or_number(path, spec[field]) + v.at_most_all(path, spec[field])
        errors += v.label_selector("spec.selector", spec.get("selector"))
        if "unhealthyPodEvictionPolicy" in spec:
            allowed, path = ("AlwaysAllow", "IfHealthyBudget"), "spec.unhealthyPodEvictionPolicy"
            errors += v.one_of(path, spec["unhealthyPodEvictionPolicy"], allowed, missing=False)
        return errors

    def validate_status_update(self, new: Object, old: Object) -> Errors:
        _ = old
        errors = v.conditions("status.conditions", status_of(new).get("conditions"))
        for field in _COUNTERS:
            errors += v.not_negative(f"status.{field}", status_of(new).get(field))
        return errors


def _row(obj: Object) -> list[Any]:
    spec = spec_of(obj)
    return [
        printing.name(obj),
        str(spec.get("minAvailable", "N/A")),
        str(spec.get("maxUnavailable", "N/A")),
        status_of(obj).get("disruptionsAllowed", 0),
        printing.age(obj),
    ]


RESOURCES = (
    resource(
        "policy/v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        short="pdb",
        status=True,
        has_generation=True,
        unconditional_update=False,
        strategy=PodDisruptionBudgets(),
        columns=printing.columns("Name, Min Available, Max Unavailable, Allowed Disruptions#, Age"),
        row=_row,
    ),
)
