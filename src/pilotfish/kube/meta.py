"""Small questions about objects: names, owners, labels, conditions, times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pilotfish.kube.resources import Object, ResourceType

Key = tuple[str, str]
"""Namespace (empty for a cluster-scoped object) and name."""


def key_of(obj: Mapping[str, Any]) -> Key:
    meta = obj["metadata"]
    return meta.get("namespace", ""), meta["name"]


def labels_of(obj: Mapping[str, Any]) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def annotations_of(obj: Mapping[str, Any]) -> Mapping[str, str]:
    return obj["metadata"].get("annotations") or {}


def is_deleting(obj: Mapping[str, Any]) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


# ---------------------------------------------------------------------- owners


def controller_of(obj: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The owner reference that is marked as the controller."""
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            found: Mapping[str, Any] = reference
            return found
    return None


def is_controlled_by(obj: Mapping[str, Any], owner: Mapping[str, Any]) -> bool:
    reference = controller_of(obj)
    return reference is not None and reference.get("uid") == owner["metadata"]["uid"]


def controller_reference(owner: Mapping[str, Any], resource: ResourceType) -> Object:
    """The reference that makes `owner` the controller of what carries it."""
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


# ---------------------------------------------------------------------- selectors


def matches_labels(selector: Mapping[str, str] | None, labels: Mapping[str, str]) -> bool:
    """Whether every pair of a map selector (a Service's) is among the labels. No selector matches nothing."""
    return all(labels.get(key) == value for key, value in selector.items()) if selector else False


def matches_selector(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """A LabelSelector (`matchLabels`, `matchExpressions`). None matches nothing, an empty one everything."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(matches_requirement(one, labels) for one in selector.get("matchExpressions") or ())


def matches_requirement(requirement: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """One entry of `matchExpressions`, also with the Gt and Lt of node selectors."""
    key, operator = requirement["key"], requirement["operator"]
    values: Sequence[str] = requirement.get("values") or ()
    value = labels.get(key)
    if operator == "In":
        return value is not None and value in values
    if operator == "NotIn":
        return value is None or value not in values
    if operator == "Exists":
        return value is not None
    if operator == "DoesNotExist":
        return value is None
    if operator in {"Gt", "Lt"} and len(values) == 1:
        try:
            left, right = int(value or ""), int(values[0])
        except ValueError:
            return False
        return left > right if operator == "Gt" else left < right
    return False


def format_selector(selector: Mapping[str, Any] | None) -> str:
    """A LabelSelector as a query parameter (`status.selector` of a Scale)."""
    selector = selector or {}
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for one in selector.get("matchExpressions") or ():
        key, operator, values = one["key"], one["operator"], ",".join(sorted(one.get("values") or ()))
        text = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key}
        parts.append(text.get(operator, f"!{key}"))
    return ",".join(parts)


# ---------------------------------------------------------------------- conditions


def find_condition(conditions: Iterable[Mapping[str, Any]] | None, kind: str) -> Mapping[str, Any] | None:
    return next((one for one in conditions or () if one.get("type") == kind), None)


def condition_is(obj: Mapping[str, Any], kind: str, status: str = "True") -> bool:
    found = find_condition((obj.get("status") or {}).get("conditions"), kind)
    return found is not None and found.get("status") == status


def with_condition(conditions: Iterable[Mapping[str, Any]] | None, condition: Mapping[str, Any]) -> list[Object]:
    """The conditions with this one in its place; its lastTransitionTime is kept while its status is the same."""
    new = dict(condition)
    result: list[Object] = []
    placed = False
    for one in conditions or ():
        if one.get("type") != new["type"]:
            result.append(dict(one))
            continue
        if one.get("status") == new["status"] and one.get("lastTransitionTime"):
            new["lastTransitionTime"] = one["lastTransitionTime"]
        result.append(new)
        placed = True
    return result if placed else [*result, new]


# ---------------------------------------------------------------------- times


def now() -> datetime:
    return datetime.now(UTC)


def format_time(moment: datetime) -> str:
    """As `metadata.creationTimestamp`: whole seconds, UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_micro_time(moment: datetime) -> str:
    """As `spec.renewTime` of a Lease."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
