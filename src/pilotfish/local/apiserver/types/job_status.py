"""What the status of a Job may say. A rule counts only when what it speaks of has changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.kind import spec_of, status_of
from pilotfish.local.apiserver.types.validation import Errors

Status = Mapping[str, Any]
_COUNTERS = ("active", "succeeded", "failed", "ready", "terminating")
_TERMINAL = ("Failed", "Complete", "FailureTarget", "SuccessCriteriaMet")


def is_true(status: Status, kind: str, wanted: str = "True") -> bool:
    """Whether a condition is True, or as wanted."""
    return any(c.get("type") == kind and c.get("status") == wanted for c in status.get("conditions") or [])


def validate(new: Object, old: Object) -> Errors:
    status, was, spec = status_of(new), status_of(old), spec_of(new)
    errors: Errors = []
    for field in _COUNTERS:
        errors += v.not_negative(f"status.{field}", status.get(field))
    return [*errors, *_conditions(status, was, spec), *_ended(status, was, spec), *_times(status, was, spec)]


def _changed(status: Status, was: Status, *kinds: str) -> bool:
    return any(is_true(status, kind) != is_true(was, kind) for kind in kinds)


def _refused(why: str) -> FieldError:
    return FieldError.invalid("status.conditions", "", why)


def _conditions(status: Status, was: Status, spec: Object) -> Iterator[FieldError]:
    complete, failed = is_true(status, "Complete"), is_true(status, "Failed")
    target, met = is_true(status, "FailureTarget"), is_true(status, "SuccessCriteriaMet")
    if complete and failed and _changed(status, was, "Complete", "Failed"):
        yield _refused("cannot set Complete=True and Failed=true conditions")
    if complete and target and _changed(status, was, "Complete", "FailureTarget"):
        yield _refused("cannot set Complete=True and FailureTarget=true conditions")
    indexes = status.get("failedIndexes") != was.get("failedIndexes")
    if failed and not target and (indexes or _changed(status, was, "Failed")):
        yield _refused("cannot set Failed=True condition without the FailureTarget=true condition")
    if complete and not met and _changed(status, was, "Complete", "SuccessCriteriaMet"):
        yield _refused("cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
    for kind, other in (("Failed", failed), ("FailureTarget", target)):
        if met and other:
            yield _refused(f"cannot set SuccessCriteriaMet=True and {kind}=true conditions")
    if complete and not met and spec.get("successPolicy") is not None:
        yield _refused("cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True")
    if is_true(was, "Complete") and met and not is_true(was, "SuccessCriteriaMet"):
        yield _refused("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions")
    for kind in _TERMINAL:
        if is_true(was, kind) and not is_true(status, kind):
            yield _refused(f"cannot disable the terminal {kind}=True condition")


def _ended(status: Status, was: Status, spec: Object) -> Iterator[FieldError]:
    """What a Job that has ended has no more, and counters that only grow."""
    ended = is_true(status, "Complete") or is_true(status, "Failed")
    now = ended != (is_true(was, "Complete") or is_true(was, "Failed"))
    for field in ("active", "terminating"):
        if ended and status.get(field, 0) > 0 and (now or status.get(field) != was.get(field)):
            yield FieldError.invalid(f"status.{field}", status[field], f"{field}>0 is invalid for finished job")
    uncounted = status.get("uncountedTerminatedPods") or {}
    if ended and any(uncounted.values()) and (now or uncounted != was.get("uncountedTerminatedPods")):
        yield FieldError.invalid("status.uncountedTerminatedPods", uncounted, "must be empty for finished job")
    ready, active = status.get("ready", 0), status.get("active", 0)
    if ready > active and (ready, active) != (was.get("ready", 0), was.get("active", 0)):
        yield FieldError.invalid("status.ready", ready, "cannot set more ready pods than active")
    shrinks = spec.get("completionMode") == "Indexed" and spec.get("completions") == spec.get("parallelism")
    for field in ("failed",) if shrinks else ("failed", "succeeded"):
        if status.get(field, 0) < was.get(field, 0):
            yield FieldError.invalid(f"status.{field}", status.get(field, 0), f"cannot decrease the {field} counter")
    completed, failed = status.get("completedIndexes"), status.get("failedIndexes")
    if completed and completed != was.get("completedIndexes") and spec.get("completionMode") != "Indexed":
        why = "cannot set non-empty completedIndexes when non-indexed completion mode"
        yield FieldError.invalid("status.completedIndexes", completed, why)
    if failed is not None and failed != was.get("failedIndexes") and "backoffLimitPerIndex" not in spec:
        why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null"
        yield FieldError.invalid("status.failedIndexes", failed, why)


def _times(status: Status, was: Status, spec: Object) -> Iterator[FieldError]:
    start, end, began, over = (one.get(field) for one in (status, was) for field in ("startTime", "completionTime"))
    complete = is_true(status, "Complete")
    if _changed(status, was, "Complete") or end != over:
        if end and not complete:
            why = "cannot set completionTime when there is no Complete=True condition"
            yield FieldError.invalid("status.completionTime", end, why)
        elif complete and not end:
            yield FieldError.required("status.completionTime", "completionTime is required for Complete jobs")
    if start and end and (start, end) != (began, over) and printing.seconds(end) < printing.seconds(start):
        yield FieldError.invalid("status.completionTime", end, "must be equal to or after `startTime`")
    ended = complete or is_true(status, "Failed")
    idle = spec.get("suspend") and spec.get("completions") == 0
    if ended and not start and not idle and (start != began or _changed(status, was, "Complete", "Failed")):
        yield FieldError.required("status.startTime", "startTime is required for finished job")
    if end and over and end != over:
        yield FieldError.invalid("status.completionTime", end, v.IMMUTABLE)
    resumes = is_true(was, "Suspended") and is_true(status, "Suspended", "False")
    if began and start != began and not resumes and not spec.get("suspend"):
        yield FieldError.invalid("status.startTime", start, "field is immutable for unsuspended job once set")
