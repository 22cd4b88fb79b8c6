"""Events. Those of the core group and those of events.k8s.io are the same objects, in two shapes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import resource
from pilotfish.local.apiserver.types.kind import Kind
from pilotfish.local.apiserver.types.validation import Errors

CORE, NEW = "v1", "events.k8s.io/v1"
_RENAMED = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_OBJECT_FIELDS = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
_FIXED = (
    *("involvedObject", "reason", "message", "source", "firstTimestamp", "lastTimestamp", "count", "reason", "type"),
    *("eventTime", "action", "related", "reportingController", "reportingInstance"),
)
_LIMITS = (("reportingInstance", 128), ("action", 128), ("reason", 128), ("message", 1024))


def convert(obj: Object, api_version: str) -> Object:
    """The same event in the other group's shape."""
    if obj.get("apiVersion") == api_version:
        return obj
    names = _RENAMED if api_version == NEW else {new: old for old, new in _RENAMED.items()}
    made = {names.get(key, key): value for key, value in copy.deepcopy(obj).items()}
    return made | {"apiVersion": api_version}


class Events(Kind):
    """`core` is the shape of this resource; the rules are written for the core one."""

    def __init__(self, *, core: bool) -> None:
        self.core = core

    def default(self, obj: Object) -> None:
        """Times that are not known read null, as they do in Kubernetes."""
        names = _RENAMED if not self.core else {}
        for field, value in (
            ("involvedObject", {}),
            ("source", {}),
            ("firstTimestamp", None),
            ("lastTimestamp", None),
            ("eventTime", None),
        ):
            obj.setdefault(names.get(field, field), copy.copy(value))
        if self.core:
            obj.setdefault("reportingComponent", "")
            obj.setdefault("reportingInstance", "")

    def validate(self, obj: Object) -> Errors:
        event = convert(obj, CORE)
        namespace = event["metadata"].get("namespace", "")
        about, path = (event.get("involvedObject") or {}).get("namespace", ""), "involvedObject.namespace"
        errors: Errors = []
        if not event.get("eventTime"):
            if about != namespace and (about or namespace not in ("", "default")):
                errors.append(FieldError.invalid(path, about, "does not match event.namespace"))
            return errors
        if not about and namespace not in ("default", "kube-system"):
            errors.append(FieldError.invalid(path, about, "does not match event.namespace"))
        reporter = event.get("reportingComponent", "")
        field = "reportingComponent" if self.core else "reportingController"
        if not reporter:
            errors.append(FieldError.required(field))
        errors += v.check(field, reporter, v.qualified_name)
        errors += [FieldError.required(f) for f in ("reportingInstance", "action", "reason") if not event.get(f)]
        return errors + [
            FieldError.invalid(field, "", f"can have at most {limit} characters")
            for field, limit in _LIMITS
            if len(event.get(field, "")) > limit
        ]

    def validate_create(self, obj: Object) -> Errors:
        if self.core:
            return []
        event = convert(obj, CORE)
        errors = _series(event)
        if not event.get("eventTime"):
            errors.append(FieldError.required("eventTime"))
        if event.get("type") not in ("Normal", "Warning"):
            errors.append(FieldError.invalid("type", "", "must be Normal or Warning"))
        return errors + [
            FieldError.invalid(field, "", "needs to be unset")
            for field in ("firstTimestamp", "lastTimestamp", "count", "source")
            if event.get(field)
        ]

    def validate_update(self, new: Object, old: Object) -> Errors:
        if self.core:
            return []
        mine, theirs = convert(new, CORE), convert(old, CORE)
        errors = _series(mine) if mine.get("series") != theirs.get("series") else []
        for field in _FIXED:
            name = "reportingComponent" if field == "reportingController" else field
            errors += v.immutable(field, mine.get(name), theirs.get(name))
        return errors

    def field_labels(self, obj: Object) -> Mapping[str, str]:
        event = convert(obj, CORE)
        about, source = event.get("involvedObject") or {}, event.get("source") or {}
        prefix = "involvedObject" if self.core else "regarding"
        found = {f"{prefix}.{field}": about.get(field, "") for field in _OBJECT_FIELDS}
        found |= {"reason": event.get("reason", ""), "type": event.get("type", "")}
        reporter = event.get("reportingComponent", "")
        if self.core:
            return found | {"reportingComponent": reporter, "source": source.get("component") or reporter}
        return found | {"reportingController": reporter}


def _series(event: Mapping[str, Any]) -> Errors:
    series = event.get("series")
    if series is None:
        return []
    errors: Errors = []
    if series.get("count", 0) < 2:
        errors.append(FieldError.invalid("series.count", "", "should be at least 2"))
    if not series.get("lastObservedTime"):
        errors.append(FieldError.required("series.lastObservedTime"))
    return errors


def _row(obj: Object) -> list[Any]:
    event = convert(obj, CORE)
    first = printing.ago(event.get("firstTimestamp") or event.get("eventTime"))
    last = printing.ago(event["lastTimestamp"]) if event.get("lastTimestamp") else first
    count, series = event.get("count") or 1, event.get("series")
    if series is not None:
        last, count = printing.ago(series.get("lastObservedTime")), series.get("count", 0)
    about, source = event.get("involvedObject") or {}, event.get("source") or {}
    component = source.get("component") or event.get("reportingComponent", "")
    host = source.get("host") or event.get("reportingInstance", "")
    return [
        last,
        event.get("type", ""),
        event.get("reason", ""),
        about.get("kind", "").lower() + (f"/{about['name']}" if about.get("name") else ""),
        about.get("fieldPath", ""),
        f"{component}, {host}" if host else component,
        event.get("message", "").strip(),
        first,
        count,
        printing.name(event),
    ]


_COLUMNS = printing.columns("Last Seen, Type, Reason, Object, Subobject*, Source*, Message, First Seen*, Count*, Name*")


def _labels(prefix: str, reporter: tuple[str, ...]) -> tuple[str, ...]:
    return (*(f"{prefix}.{field}" for field in _OBJECT_FIELDS), "reason", "type", *reporter)


RESOURCES = (
    resource(
        "v1",
        "Event",
        "events",
        short="ev",
        create_on_update=True,
        field_labels=_labels("involvedObject", ("reportingComponent", "source")),
        strategy=Events(core=True),
        convert=convert,
        columns=_COLUMNS,
        row=_row,
    ),
    resource(
        NEW,
        "Event",
        "events",
        short="ev",
        create_on_update=True,
        field_labels=_labels("regarding", ("reportingController",)),
        storage_group="",
        storage_version="v1",
        strategy=Events(core=False),
        convert=convert,
        columns=_COLUMNS,
        row=_row,
    ),
)
