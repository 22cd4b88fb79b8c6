"""HorizontalPodAutoscalers, at both of their versions. What v1 has no field for travels in its annotations."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.quantity import parse
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import resource
from pilotfish.local.apiserver.types.kind import Kind, spec_of, status_of
from pilotfish.local.apiserver.types.pod_containers import container_resource_name
from pilotfish.local.apiserver.types.validation import Errors

Spec = dict[str, Any]

V1, V2 = "autoscaling/v1", "autoscaling/v2"
_METRICS = "autoscaling.alpha.kubernetes.io/metrics"
_CURRENT = "autoscaling.alpha.kubernetes.io/current-metrics"
_CONDITIONS = "autoscaling.alpha.kubernetes.io/conditions"
_BEHAVIOR = "autoscaling.alpha.kubernetes.io/behavior"
_DEFAULT_CPU = 80
_SOURCES = {
    "Object": "object",
    "External": "external",
    "Pods": "pods",
    "Resource": "resource",
    "ContainerResource": "containerResource",
}
_SCALE_UP = {
    "stabilizationWindowSeconds": 0,
    "selectPolicy": "Max",
    "policies": [
        {"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 15},
    ],
}
_SCALE_DOWN = {"selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}


def _cpu(percent: int) -> dict[str, Any]:
    target = {"type": "Utilization", "averageUtilization": percent}
    return {"type": "Resource", "resource": {"name": "cpu", "target": target}}


def _cpu_percent(metric: Mapping[str, Any]) -> int | None:
    source = metric.get("resource") or {}
    if metric.get("type") != "Resource" or source.get("name") != "cpu":
        return None
    value: int | None = (source.get("target") or {}).get("averageUtilization")
    return value


class AutoscalersV2(Kind):
    new_status: Mapping[str, Any] = {"desiredReplicas": 0, "currentMetrics": None}

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("minReplicas", 1)
        if not spec.get("metrics"):
            spec["metrics"] = [_cpu(_DEFAULT_CPU)]
        behavior = spec.get("behavior")
        if behavior is not None:
            for field, rules in (("scaleUp", _SCALE_UP), ("scaleDown", _SCALE_DOWN)):
                behavior[field] = copy.deepcopy(rules) | (behavior.get(field) or {})
        status = obj.get("status")
        if status is not None:
            status.setdefault("desiredReplicas", 0)
            status.setdefault("currentMetrics", None)

    def validate(self, obj: Object) -> Errors:
        spec = spec_of(obj)
        least, most = spec.get("minReplicas", 1), spec.get("maxReplicas", 0)
        errors: Errors = []
        if least < 1:
            errors.append(FieldError.invalid("spec.minReplicas", least, "must be greater than or equal to 1"))
        if most == 0:
            errors.append(FieldError.required("spec.maxReplicas", "must be set and greater than 0"))
        elif most < 0:
            errors.append(FieldError.invalid("spec.maxReplicas", most, "must be greater than or equal to 1"))
        if most < least:
            errors.append(FieldError.invalid("spec.maxReplicas", most, "must be at least `minReplicas`"))
        errors += _target("spec.scaleTargetRef", spec.get("scaleTargetRef") or {})
        for i, metric in enumerate(spec.get("metrics") or []):
            errors += _metric(f"spec.metrics[{i}]", metric)
        for field, rules in (spec.get("behavior") or {}).items():
            errors += _rules(f"spec.behavior.{field}", rules or {})
        return errors

    def validate_status_update(self, new: Object, old: Object) -> Errors:
        _ = old
        status = status_of(new)
        errors = v.not_negative("status.currentReplicas", status.get("currentReplicas"))
        return errors + v.not_negative("status.desiredReplicas", status.get("desiredReplicas"))


class AutoscalersV1(AutoscalersV2):
    new_status: Mapping[str, Any] = {"currentReplicas": 0, "desiredReplicas": 0}

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("minReplicas", 1)
        if not _loads((obj.get("metadata", {}).get("annotations") or {}).get(_METRICS), None):
            spec.setdefault("targetCPUUtilizationPercentage", _DEFAULT_CPU)

    def validate(self, obj: Object) -> Errors:
        return super().validate(convert(obj, V2))


# ------------------------------------------------------------------------------------------------ versions


def convert(obj: Object, api_version: str) -> Object:
    """The same autoscaler at the other version."""
    if obj.get("apiVersion") == api_version:
        return obj
    made = copy.deepcopy(obj) | {"apiVersion": api_version}
    if api_version == V2:
        _to_v2(made)
    else:
        _to_v1(made)
    return made


def _to_v2(obj: Object) -> None:
    spec, status = obj.setdefault("spec", {}), obj.get("status")
    annotations = obj["metadata"].get("annotations") or {}
    metrics = _loads(annotations.pop(_METRICS, None), [])
    if (percent := spec.pop("targetCPUUtilizationPercentage", None)) is not None:
        metrics = [*metrics, _cpu(percent)]
    spec["metrics"] = metrics or [_cpu(_DEFAULT_CPU)]
    if behavior := _loads(annotations.pop(_BEHAVIOR, None), None):
        spec["behavior"] = behavior
    current = _loads(annotations.pop(_CURRENT, None), [])
    conditions = _loads(annotations.pop(_CONDITIONS, None), [])
    if status is not None:
        if (percent := status.pop("currentCPUUtilizationPercentage", None)) is not None:
            value = {"averageUtilization": percent}
            current = [{"type": "Resource", "resource": {"name": "cpu", "current": value}}, *current]
        status["currentMetrics"] = current or None
        if conditions:
            status["conditions"] = conditions
    if not annotations:
        obj["metadata"].pop("annotations", None)


def _to_v1(obj: Object) -> None:
    spec, status = obj.setdefault("spec", {}), obj.get("status") or {}
    kept: dict[str, Any] = {}
    metrics = spec.pop("metrics", None) or []
    for i, metric in enumerate(metrics):
        if (percent := _cpu_percent(metric)) is not None:
            spec["targetCPUUtilizationPercentage"] = percent
            metrics = metrics[:i] + metrics[i + 1 :]
            break
    kept[_METRICS] = metrics
    kept[_BEHAVIOR] = spec.pop("behavior", None)
    current = status.pop("currentMetrics", None) or []
    for i, metric in enumerate(current):
        percent = ((metric.get("resource") or {}).get("current") or {}).get("averageUtilization")
        if (
            metric.get("type") == "Resource"
            and (metric.get("resource") or {}).get("name") == "cpu"
            and percent is not None
        ):
            status["currentCPUUtilizationPercentage"] = percent
            current = current[:i] + current[i + 1 :]
            break
    kept[_CURRENT] = current
    kept[_CONDITIONS] = status.pop("conditions", None)
    texts = {key: json.dumps(value, separators=(",", ":")) for key, value in kept.items() if value}
    if texts:
        obj["metadata"].setdefault("annotations", {}).update(texts)
    if "status" in obj:
        status.setdefault("currentReplicas", 0)
        status.setdefault("desiredReplicas", 0)


def _loads(text: str | None, otherwise: Any) -> Any:
    try:
        return json.loads(text) if text else otherwise
    except ValueError:
        return otherwise


# ------------------------------------------------------------------------------------------------ what is wrong


def _target(path: str, ref: Mapping[str, Any]) -> Errors:
    errors = v.required(f"{path}.kind", ref.get("kind"), v.path_segment)
    errors += v.required(f"{path}.name", ref.get("name"), v.path_segment)
    version = ref.get("apiVersion", "")
    if version.count("/") > 1:
        errors.append(FieldError.invalid(f"{path}.apiVersion", version, "must be a group and a version"))
    return errors


def _metric(path: str, metric: Mapping[str, Any]) -> Errors:
    kind = metric.get("type", "")
    errors = [] if kind else [FieldError.required(f"{path}.type", "a metric source type")]
    wanted = _SOURCES.get(kind, "")
    if not wanted:  # Kubernetes says so twice
        errors += [FieldError.not_supported(f"{path}.type", kind, sorted(_SOURCES))] * 2
    present = [field for field in _SOURCES.values() if metric.get(field) is not None]
    if present:
        errors += _source(f"{path}.{present[0]}", present[0], metric[present[0]])
    if wanted and wanted not in present:
        errors.append(FieldError.required(f"{path}.{wanted}", "for a metric of this type"))
    if len(present) != 1:
        errors += [
            FieldError.forbidden(f"{path}.{field}", "must populate the given metric source only")
            for field in present
            if field != wanted
        ]
    return errors


def _source(path: str, kind: str, source: Mapping[str, Any]) -> Errors:
    target = source.get("target") or {}
    errors: Errors = []
    if kind == "object":
        errors += _target(f"{path}.describedObject", source.get("describedObject") or {})
    if kind in ("object", "external", "pods"):
        name = (source.get("metric") or {}).get("name")
        errors += v.required(f"{path}.metric.name", name, v.path_segment)
    elif kind == "resource":
        errors += v.required(f"{path}.name", source.get("name"))
    else:
        name = source.get("name", "")
        errors += container_resource_name(f"{path}.name", name) if name else [FieldError.required(f"{path}.name")]
        errors += v.required(f"{path}.container", source.get("container"), v.dns_label)
    errors += _metric_target(f"{path}.target", target)
    has_value, has_average = "value" in target, "averageValue" in target
    has_share = "averageUtilization" in target
    if kind in ("object", "external") and not (has_value or has_average):
        errors.append(FieldError.required(f"{path}.target.averageValue", "either a value or an averageValue"))
    if kind == "external" and has_value and has_average:
        errors.append(FieldError.forbidden(f"{path}.target.value", "may not be set with averageValue"))
    if kind == "pods" and not has_average:
        errors.append(FieldError.required(f"{path}.target.averageValue", "a positive averageValue"))
    if kind in ("resource", "containerResource"):
        if not has_share and not has_average:
            why = "either a raw value or a utilization"
            errors.append(FieldError.required(f"{path}.target.averageUtilization", why))
        if has_share and has_average:
            why = "may not set both a raw value and a utilization"
            errors.append(FieldError.forbidden(f"{path}.target.averageValue", why))
    return errors


def _metric_target(path: str, target: Mapping[str, Any]) -> Errors:
    kind = target.get("type", "")
    errors = [] if kind else [FieldError.required(f"{path}.type", "a metric target type")]
    if kind not in ("Utilization", "Value", "AverageValue"):
        errors.append(FieldError.invalid(f"{path}.type", kind, "must be either Utilization, Value, or AverageValue"))
    errors += [
        FieldError.invalid(f"{path}.{field}", target[field], "must be positive")
        for field in ("value", "averageValue")
        if field in target and parse(target[field]) <= 0
    ]
    share = target.get("averageUtilization")
    if share is not None and share < 1:
        errors.append(FieldError.invalid(f"{path}.averageUtilization", share, "must be greater than 0"))
    return errors


def _rules(path: str, rules: Mapping[str, Any]) -> Errors:
    errors: Errors = []
    window, field = rules.get("stabilizationWindowSeconds"), f"{path}.stabilizationWindowSeconds"
    if window is not None and not 0 <= window <= 3600:
        errors.append(FieldError.invalid(field, window, "must be between 0 and 3600"))
    if "selectPolicy" in rules:
        allowed = ("Disabled", "Max", "Min")
        errors += v.one_of(f"{path}.selectPolicy", rules["selectPolicy"], allowed, missing=False)
    policies = rules.get("policies") or []
    if not policies:
        errors.append(FieldError.required(f"{path}.policies", "at least one Policy"))
    for i, policy in enumerate(policies):
        where, period = f"{path}.policies[{i}]", policy.get("periodSeconds", 0)
        errors += v.one_of(f"{where}.type", policy.get("type", ""), ("Percent", "Pods"), missing=False)
        errors += v.positive(f"{where}.value", policy.get("value", 0))
        errors += v.positive(f"{where}.periodSeconds", period)
        if period > 1800:
            errors.append(FieldError.invalid(f"{where}.periodSeconds", period, "must be at most 1800"))
    tolerance = rules.get("tolerance")
    if tolerance is not None and parse(tolerance) < 0:
        errors.append(FieldError.invalid(f"{path}.tolerance", tolerance, v.NOT_NEGATIVE))
    return errors


# ------------------------------------------------------------------------------------------------ the table


def _measured(metric: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    """Current and wanted value of one metric."""
    kind = _SOURCES.get(metric.get("type", ""))
    if kind is None:
        return "<unknown type>"
    source = metric.get(kind) or {}
    target, current = source.get("target") or {}, (status.get(kind) or {}).get("current") or {}
    average = "averageValue" in target
    if kind in ("resource", "containerResource"):
        if average:
            now, wanted = current.get("averageValue", printing.UNKNOWN), target["averageValue"]
        else:
            share = current.get("averageUtilization")
            now = printing.UNKNOWN if share is None else f"{share}%"
            wanted = f"{target['averageUtilization']}%" if "averageUtilization" in target else "<auto>"
        return f"{source.get('name', '')}: {now}/{wanted}"
    field = "averageValue" if average or kind == "pods" else "value"
    text = f"{current.get(field, printing.UNKNOWN)}/{target.get(field, '0')}"
    return f"{text} (avg)" if average and kind != "pods" else text


def _row(obj: Object) -> list[Any]:
    obj = convert(obj, V2)
    spec, status = spec_of(obj), status_of(obj)
    target, current = spec.get("scaleTargetRef") or {}, status.get("currentMetrics") or []
    metrics = [
        _measured(metric, current[i] if i < len(current) else {}) for i, metric in enumerate(spec.get("metrics") or [])
    ]
    shown = ", ".join(metrics[:2]) or printing.NONE
    return [
        printing.name(obj),
        f"{target.get('kind', '')}/{target.get('name', '')}",
        f"{shown} + {len(metrics) - 2} more..." if len(metrics) > 2 else shown,
        str(spec.get("minReplicas", printing.UNSET)),
        spec.get("maxReplicas", 0),
        status.get("currentReplicas", 0),
        printing.age(obj),
    ]


_COLUMNS = printing.columns("Name, Reference, Targets, MinPods, MaxPods, Replicas, Age")

RESOURCES = tuple(
    resource(
        version,
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        short="hpa",
        all_category=True,
        status=True,
        storage_version="v2",
        convert=convert,
        strategy=strategy,
        columns=_COLUMNS,
        row=_row,
    )
    for version, strategy in ((V2, AutoscalersV2()), (V1, AutoscalersV1()))
)
