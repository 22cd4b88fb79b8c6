"""Nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.resource import Object, Subresource
from pilotfish.local.apiserver.types import pod_defaults, printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import PROXY_VERBS, resource
from pilotfish.local.apiserver.types.kind import Kind, spec_of, status_of
from pilotfish.local.apiserver.types.pod_containers import amount
from pilotfish.local.apiserver.types.pod_validation import TAINT_EFFECTS
from pilotfish.local.apiserver.types.validation import Errors

_ROLE_PREFIX = "node-role.kubernetes.io/"


class Nodes(Kind):
    def default(self, obj: Object) -> None:
        status = obj.get("status") or {}
        pod_defaults.round_up(status.get("capacity"))
        if "capacity" in status and "allocatable" not in status:
            status["allocatable"] = dict(status["capacity"])
        pod_defaults.round_up(status.get("allocatable"))
        spec = spec_of(obj)
        if spec.get("podCIDR") and spec["podCIDR"] != (spec.get("podCIDRs") or [""])[0]:
            spec["podCIDRs"] = [spec["podCIDR"]]
        elif spec.get("podCIDRs") and not spec.get("podCIDR"):
            spec["podCIDR"] = spec["podCIDRs"][0]

    def validate(self, obj: Object) -> Errors:
        errors = _taints("metadata.taints", spec_of(obj).get("taints") or [])
        for kind in ("capacity", "allocatable"):
            for name, value in (status_of(obj).get(kind) or {}).items():
                errors += amount(f"status.{kind}.{name}", name, value)
        return errors

    def validate_create(self, obj: Object) -> Errors:
        ranges = spec_of(obj).get("podCIDRs") or []
        errors: Errors = []
        for i, value in enumerate(ranges):
            errors += v.cidr(f"spec.podCIDRs[{i}]", value)
        versions = [network.version for value in ranges if (network := v.parse_cidr(value))]
        if len(ranges) > 1 and (len(ranges) > 2 or len(set(versions)) != 2):
            why = "may specify no more than one CIDR for each IP family"
            errors.append(FieldError.invalid("spec.podCIDRs", ranges, why))
        return errors

    def validate_update(self, new: Object, old: Object) -> Errors:
        spec, was = spec_of(new), spec_of(old)
        errors = _addresses(new)
        if was.get("podCIDRs") and spec.get("podCIDRs") != was["podCIDRs"]:
            why = "node updates may not change podCIDR once it is set"
            errors.append(FieldError.forbidden("spec.podCIDRs", why))
        if was.get("providerID") and spec.get("providerID") != was["providerID"]:
            why = "node updates may not change providerID once it is set"
            errors.append(FieldError.forbidden("spec.providerID", why))
        if spec.get("externalID", "") != was.get("externalID", ""):
            errors.append(FieldError.forbidden("spec.externalID", "may not be updated"))
        return errors

    def validate_status_update(self, new: Object, old: Object) -> Errors:
        return self.validate(new) + self.validate_update(new, old)

    def concerns(self, obj: Object) -> list[str]:
        spec = spec_of(obj)
        found = ["spec.configSource: the feature is removed"] if spec.get("configSource") is not None else []
        if spec.get("externalID"):
            found.append("spec.externalID: this field is deprecated, and is unused by Kubernetes")
        return found

    def field_labels(self, obj: Object) -> Mapping[str, str]:
        return {"spec.unschedulable": "true" if spec_of(obj).get("unschedulable") else "false"}


def _addresses(obj: Object) -> Errors:
    errors: Errors = []
    seen: set[tuple[Any, Any]] = set()
    for i, address in enumerate(status_of(obj).get("addresses") or []):
        key = (address.get("type"), address.get("address"))
        if key in seen:
            errors.append(FieldError.duplicate(f"status.addresses[{i}]", address))
        seen.add(key)
    return errors


def _taints(path: str, taints: list[dict[str, Any]]) -> Errors:
    errors: Errors = []
    seen: set[tuple[str, str]] = set()
    for i, taint in enumerate(taints):
        where, key, effect = f"{path}[{i}]", taint.get("key", ""), taint.get("effect", "")
        errors += v.check(f"{where}.key", key, v.qualified_name)
        if wrong := v.label_value(taint.get("value", "")):
            errors.append(FieldError.invalid(f"{where}.value", taint["value"], "; ".join(wrong)))
        errors += v.one_of(f"{where}.effect", effect, TAINT_EFFECTS)
        if (key, effect) in seen:
            errors.append(FieldError.duplicate(where, taint))
        seen.add((key, effect))
    return errors


def _roles(labels: Mapping[str, str]) -> str:
    roles = {key.removeprefix(_ROLE_PREFIX) for key in labels if key.startswith(_ROLE_PREFIX)}
    roles.add(labels.get("kubernetes.io/role", ""))
    return ",".join(sorted(filter(None, roles))) or printing.NONE


def _row(obj: Object) -> list[Any]:
    status = status_of(obj)
    ready = [c.get("status") for c in status.get("conditions") or [] if c.get("type") == "Ready"]
    state = ("Ready" if ready[-1] == "True" else "NotReady") if ready else "Unknown"
    if spec_of(obj).get("unschedulable"):
        state += ",SchedulingDisabled"
    info = status.get("nodeInfo") or {}
    address = {one.get("type"): one.get("address") for one in reversed(status.get("addresses") or [])}
    kernel = info.get("kernelVersion") or printing.UNKNOWN
    if info.get("architecture"):
        kernel += f" ({info['architecture']})"
    return [
        printing.name(obj),
        state,
        _roles(obj["metadata"].get("labels") or {}),
        printing.age(obj),
        info.get("kubeletVersion", ""),
        address.get("InternalIP", printing.NONE),
        address.get("ExternalIP", printing.NONE),
        info.get("osImage") or printing.UNKNOWN,
        kernel,
        info.get("containerRuntimeVersion") or printing.UNKNOWN,
    ]


RESOURCES = (
    resource(
        "v1",
        "Node",
        "nodes",
        Subresource("proxy", "NodeProxyOptions", PROXY_VERBS),
        short="no",
        status=True,
        status_on_create=True,
        namespaced=False,
        field_labels=("spec.unschedulable",),
        strategy=Nodes(),
        columns=printing.columns(
            "Name, Status, Roles, Age, Version, Internal-IP*, External-IP*, OS-Image*, Kernel-Version*, "
            "Container-Runtime*"
        ),
        row=_row,
    ),
)
