"""LimitRanges and ResourceQuotas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.quantity import parse
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import pod_defaults, printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import resource
from pilotfish.local.apiserver.types.kind import Kind, spec_of, status_of
from pilotfish.local.apiserver.types.pod_containers import (
    STANDARD_RESOURCES,
    amount,
    container_resource_name,
    may_overcommit,
    resource_name,
)
from pilotfish.local.apiserver.types.validation import Errors

_LIMITS = ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio")
_TYPES = ("Pod", "Container", "PersistentVolumeClaim")
_SCOPES = (
    *("Terminating", "NotTerminating", "BestEffort", "NotBestEffort"),
    *("PriorityClass", "CrossNamespacePodAffinity", "VolumeAttributesClass"),
)
_EXCLUSIVE = ({"BestEffort", "NotBestEffort"}, {"Terminating", "NotTerminating"})
_ONLY_EXISTS = (*_SCOPES[:4], "CrossNamespacePodAffinity")
_POD_QUOTA = frozenset(("pods", "cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"))
_NOT_FOR_QUOTA = frozenset(("storage",))


class LimitRanges(Kind):
    def default(self, obj: Object) -> None:
        for limit in spec_of(obj).get("limits") or ():
            for kind in _LIMITS:
                pod_defaults.round_up(limit.get(kind))
            if limit.get("type") == "Container":
                _container_defaults(limit)

    def validate(self, obj: Object) -> Errors:
        errors: Errors = []
        seen: set[str] = set()
        for i, limit in enumerate(spec_of(obj).get("limits") or []):
            path, kind = f"spec.limits[{i}]", limit.get("type", "")
            wrong = v.check(f"{path}.type", kind, v.qualified_name)
            if not wrong and "/" not in kind and kind not in _TYPES:
                wrong = [FieldError.invalid(f"{path}.type", kind, "must be a standard limit type or fully qualified")]
            errors += wrong
            if kind in seen:
                errors.append(FieldError.duplicate(f"{path}.type", kind))
            seen.add(kind)
            errors += _limit(path, kind, limit)
        return errors


def _container_defaults(limit: dict[str, Any]) -> None:
    """The limit defaults to the maximum, the request to the limit, or else to the minimum."""
    default = {**(limit.get("max") or {}), **(limit.get("default") or {})}
    request = {**(limit.get("min") or {}), **default, **(limit.get("defaultRequest") or {})}
    if default:
        limit["default"] = default
    if request:
        limit["defaultRequest"] = request


def _limit(path: str, kind: str, limit: Mapping[str, Any]) -> Errors:
    errors: Errors = []
    name_rule = container_resource_name if kind in ("Pod", "Container") else resource_name
    amounts: dict[str, Mapping[str, str]] = {}
    for field in _LIMITS:
        given = limit.get(field) or {}
        if kind == "Pod" and field in ("default", "defaultRequest"):
            if given:
                errors.append(FieldError.forbidden(f"{path}.{field}", "may not be specified when `type` is 'Pod'"))
            given = {}
        for name in given:
            errors += name_rule(f"{path}.{field}[{name}]", name)
        amounts[field] = given
    if kind == "PersistentVolumeClaim" and "storage" not in amounts["max"] and "storage" not in amounts["min"]:
        errors.append(FieldError.required(f"{path}.limits", "either minimum or maximum storage value"))
    for name in sorted(set().union(*amounts.values())):
        errors += _consistent(path, name, {field: given[name] for field, given in amounts.items() if name in given})
    return errors


def _consistent(path: str, name: str, given: Mapping[str, str]) -> Errors:
    """min ≤ defaultRequest ≤ default ≤ max; each pair is judged by itself."""
    errors: Errors = []
    for low, high, blamed in (
        ("min", "max", "min"),
        ("min", "defaultRequest", "defaultRequest"),
        ("defaultRequest", "max", "defaultRequest"),
        ("defaultRequest", "default", "defaultRequest"),
        ("min", "default", "default"),
        ("default", "max", "default"),
    ):
        if low in given and high in given and parse(given[low]) > parse(given[high]):
            why = f"{low} {given[low]} is greater than {high} {given[high]}"
            errors.append(FieldError.invalid(f"{path}.{blamed}[{name}]", given[blamed], why))
    ratio, field = given.get("maxLimitRequestRatio"), f"{path}.maxLimitRequestRatio[{name}]"
    if ratio is not None and parse(ratio) < 1:
        errors.append(FieldError.invalid(field, ratio, f"ratio {ratio} is less than 1"))
    if ratio is not None and "min" in given and "max" in given and parse(given["min"]):
        most = parse(given["max"]) / parse(given["min"])
        if parse(ratio) > most:
            errors.append(FieldError.invalid(field, ratio, f"ratio {ratio} is greater than max/min = {most:f}"))
    default, request = given.get("default"), given.get("defaultRequest")
    if not may_overcommit(name) and default and request and parse(default) != parse(request):
        why = f"must be equal to the default, {default}: {name} cannot be overcommitted"
        errors.append(FieldError.invalid(f"{path}.defaultRequest[{name}]", request, why))
    return errors


class ResourceQuotas(Kind):
    new_status: Mapping[str, Any] = {}

    def default(self, obj: Object) -> None:
        for part in (spec_of(obj), status_of(obj)):
            pod_defaults.round_up(part.get("hard"))
            pod_defaults.round_up(part.get("used"))

    def validate(self, obj: Object) -> Errors:
        spec = spec_of(obj)
        errors = _quota_amounts("spec.hard", spec.get("hard"))
        errors += _scopes("spec.scopes", spec.get("scopes") or [], spec.get("hard") or {})
        selector = spec.get("scopeSelector")
        if selector is not None:
            path = "spec.scopeSelector.matchExpressions"
            errors += _scope_selector(path, selector.get("matchExpressions") or [], spec.get("hard") or {})
        return errors

    def validate_update(self, new: Object, old: Object) -> Errors:
        mine, theirs = (sorted(spec_of(one).get("scopes") or []) for one in (new, old))
        return [] if mine == theirs else [FieldError.invalid("spec.scopes", mine, v.IMMUTABLE)]

    def validate_status_update(self, new: Object, old: Object) -> Errors:
        _ = old
        status = status_of(new)
        return _quota_amounts("status.hard", status.get("hard")) + _quota_amounts("status.used", status.get("used"))


def _quota_amounts(path: str, amounts: Mapping[str, str] | None) -> Errors:
    errors: Errors = []
    for name, value in (amounts or {}).items():
        where = f"{path}[{name}]"
        errors += resource_name(where, name)
        if "/" not in name and (name in _NOT_FOR_QUOTA or not _is_quota_resource(name)):
            errors.append(FieldError.invalid(where, name, "must be a standard resource for quota"))
        errors += amount(where, name, value)
    return errors


def _is_quota_resource(name: str) -> bool:
    return name in STANDARD_RESOURCES or name.startswith(("hugepages-", "requests.hugepages-"))


def _fits(scope: str, name: str) -> bool:
    if scope == "BestEffort":
        return name == "pods"
    if scope == "VolumeAttributesClass":
        return name in ("persistentvolumeclaims", "requests.storage")
    return scope not in _SCOPES or name in _POD_QUOTA


def _scopes(path: str, scopes: list[str], hard: Mapping[str, str]) -> Errors:
    errors: Errors = []
    for scope in scopes:
        if scope not in _SCOPES:
            errors.append(FieldError.invalid(path, scopes, "unsupported scope"))
        errors += [
            FieldError.invalid(path, scopes, "unsupported scope applied to resource")
            for name in sorted(hard)
            if _is_quota_resource(name) and not _fits(scope, name)
        ]
    errors += [FieldError.invalid(path, scopes, "conflicting scopes") for pair in _EXCLUSIVE if pair <= set(scopes)]
    return errors


def _scope_selector(path: str, requirements: list[dict[str, Any]], hard: Mapping[str, str]) -> Errors:
    errors: Errors = []
    for requirement in requirements:
        scope, operator = requirement.get("scopeName", ""), requirement.get("operator", "")
        values = requirement.get("values") or []
        if scope not in _SCOPES:
            errors.append(FieldError.invalid(f"{path}.scopeName", scope, "unsupported scope"))
        errors += [
            FieldError.invalid(path, scope, "unsupported scope applied to resource")
            for name in sorted(hard)
            if _is_quota_resource(name) and not _fits(scope, name)
        ]
        if scope in _ONLY_EXISTS and operator != "Exists":
            errors.append(FieldError.invalid(f"{path}.operator", operator, f"must be 'Exists' for the scope {scope}"))
        if operator in ("In", "NotIn"):
            if not values:
                errors.append(FieldError.required(f"{path}.values", "In and NotIn need at least one value"))
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                why = "Exists and DoesNotExist take no values"
                errors.append(FieldError.invalid(f"{path}.values", values, why))
        else:
            errors.append(FieldError.invalid(f"{path}.operator", operator, "not a valid selector operator"))
    scopes = {requirement.get("scopeName", "") for requirement in requirements}
    return errors + [
        FieldError.invalid(path, sorted(scopes), "conflicting scopes") for pair in _EXCLUSIVE if pair <= scopes
    ]


def _quota_row(obj: Object) -> list[Any]:
    status = status_of(obj)
    used = status.get("used") or {}
    texts: dict[str, list[str]] = {"requests": [], "limits": []}
    for name, hard in sorted((status.get("hard") or {}).items()):
        texts["limits" if name.startswith("limits.") else "requests"].append(f"{name}: {used.get(name, '0')}/{hard}")
    return [printing.name(obj), ", ".join(texts["requests"]), ", ".join(texts["limits"]), printing.age(obj)]


RESOURCES = (
    resource("v1", "LimitRange", "limitranges", short="limits", create_on_update=True, strategy=LimitRanges()),
    resource(
        "v1",
        "ResourceQuota",
        "resourcequotas",
        short="quota",
        status=True,
        strategy=ResourceQuotas(),
        columns=printing.columns("Name, Request, Limit, Age"),
        row=_quota_row,
    ),
)
