"""Leases."""

from __future__ import annotations

from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import resource
from pilotfish.local.apiserver.types.kind import Kind, spec_of
from pilotfish.local.apiserver.types.validation import Errors


class Leases(Kind):
    def validate(self, obj: Object) -> Errors:
        spec = spec_of(obj)
        errors: Errors = []
        seconds, strategy = spec.get("leaseDurationSeconds"), spec.get("strategy")
        if seconds is not None and seconds <= 0:
            errors.append(FieldError.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"))
        errors += v.not_negative("spec.leaseTransitions", spec.get("leaseTransitions"))
        if strategy is not None:
            if "/" in strategy:
                errors += v.check("spec.strategy.strategy", strategy, v.qualified_name)
            else:
                allowed = ("OldestEmulationVersion",)
                errors += v.one_of("spec.strategy.strategy", strategy, allowed, missing=False)
        if spec.get("preferredHolder") and not strategy:
            why = "may only be specified if `strategy` is defined"
            errors.append(FieldError.forbidden("spec.preferredHolder", why))
        return errors


def _row(obj: Object) -> list[Any]:
    return [printing.name(obj), spec_of(obj).get("holderIdentity", ""), printing.age(obj)]


RESOURCES = (
    resource(
        "coordination.k8s.io/v1",
        "Lease",
        "leases",
        create_on_update=True,
        unconditional_update=False,
        strategy=Leases(),
        columns=printing.columns("Name, Holder, Age"),
        row=_row,
    ),
)
