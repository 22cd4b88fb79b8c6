"""Pods, and the templates they are made from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.quantity import parse
from pilotfish.local.apiserver.resource import Object, Subresource
from pilotfish.local.apiserver.types import (
    pod_containers,
    pod_defaults,
    pod_validation,
    pod_warnings,
    printing,
)
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import PROXY_VERBS, READ_WRITE, asked, resource
from pilotfish.local.apiserver.types.kind import Kind, spec_of, status_of
from pilotfish.local.apiserver.types.validation import MAX_INT32, Errors

FIELD_LABELS = (
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
)
_MUTABLE = (
    "pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, "
    "`spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing tolerations), "
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
_SYSTEM_CONDITIONS = ("PodScheduled", "Ready", "Initialized")
_MIRROR = "kubernetes.io/config.mirror"
_APP_ARMOR = "container.apparmor.security.beta.kubernetes.io/"
_FINISHED = ("Succeeded", "Failed")


def qos_class(spec: Mapping[str, Any]) -> str:
    """Guaranteed, Burstable or BestEffort, by requests and limits of cpu and memory."""
    whole = spec.get("resources")
    if whole is not None:
        parts = [whole] if whole.get("requests") or whole.get("limits") else []
        all_limited = not whole.get("limits") or {"cpu", "memory"} <= whole["limits"].keys()
    else:
        found = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
        parts = [container.get("resources") or {} for container in found]
        all_limited = all({"cpu", "memory"} <= _positive(part.get("limits")).keys() for part in parts)
    requests, limits = _sum(parts, "requests"), _sum(parts, "limits")
    if not requests and not limits:
        return "BestEffort"
    return "Guaranteed" if all_limited and requests == limits else "Burstable"


def _positive(amounts: Mapping[str, str] | None) -> dict[str, Any]:
    named = {name: parse(amount) for name, amount in (amounts or {}).items() if name in ("cpu", "memory")}
    return {name: amount for name, amount in named.items() if amount > 0}


def _sum(parts: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for part in parts:
        for name, amount in _positive(part.get(kind)).items():
            total[name] = total.get(name, 0) + amount
    return total


def _without_changeable(spec: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """The new spec with the fields put back that a pod may change."""
    kept = copy.copy(spec)
    for kind in ("containers", "initContainers"):
        if spec.get(kind):
            pairs = zip(spec[kind], old[kind], strict=True)
            kept[kind] = [mine | {"image": theirs.get("image", "")} for mine, theirs in pairs]
    for field in ("activeDeadlineSeconds", "schedulingGates", "tolerations"):
        kept.pop(field, None)
        if field in old:
            kept[field] = old[field]
    if old.get("terminationGracePeriodSeconds", 0) < 0 and spec.get("terminationGracePeriodSeconds") == 1:
        kept["terminationGracePeriodSeconds"] = old["terminationGracePeriodSeconds"]
    return kept


class Pods(Kind):
    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        pod_defaults.template(spec)
        pod_defaults.pod(spec)
        status = obj.get("status")
        if status:
            _addresses(status)

    def prepare_for_create(self, obj: Object) -> None:
        spec = obj["spec"]
        obj["status"] = {"phase": "Pending", "qosClass": qos_class(spec)}
        if spec.get("schedulingGates"):
            obj["status"]["conditions"] = [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "SchedulingGated",
                    "message": "Scheduling is blocked due to non-empty scheduling gates",
                }
            ]
        _apply_label_keys(spec, obj["metadata"].get("labels") or {})

    def prepare_for_status_update(self, new: Object, old: Object) -> None:
        was, status = status_of(old), new.setdefault("status", {})
        new["metadata"].pop("deletionTimestamp", None)
        if "deletionTimestamp" in old["metadata"]:
            new["metadata"]["deletionTimestamp"] = old["metadata"]["deletionTimestamp"]
        owners = old["metadata"].get("ownerReferences")
        new["metadata"].pop("ownerReferences", None)
        if owners:
            new["metadata"]["ownerReferences"] = owners
        for field in ("qosClass", "observedGeneration"):
            if not status.get(field) and was.get(field):
                status[field] = was[field]
        generations = {c.get("type"): c.get("observedGeneration") for c in was.get("conditions") or []}
        for condition in status.get("conditions") or []:
            generation = generations.get(condition.get("type"))
            if generation and not condition.get("observedGeneration"):
                condition["observedGeneration"] = generation

    def validate(self, obj: Object) -> Errors:
        meta, spec = obj["metadata"], spec_of(obj)
        errors = pod_validation.pod_annotations("metadata.annotations", meta.get("annotations") or {}, spec)
        errors += pod_validation.pod_spec("spec", spec, pod_name=meta.get("name", ""), in_pod=True)
        if not spec.get("serviceAccountName"):
            why = "must not be specified when serviceAccountName is not set"
            for i, volume in enumerate(spec.get("volumes") or []):
                for j, source in enumerate((volume.get("projected") or {}).get("sources") or []):
                    if "serviceAccountToken" in source:
                        path = f"spec.volumes[{i}].projected.sources[{j}].serviceAccountToken"
                        errors.append(FieldError.forbidden(path, why))
        for kind in ("containers", "initContainers"):
            for i, container in enumerate(spec.get(kind) or []):
                errors += pod_containers.image_padding(f"spec.{kind}[{i}]", container)
        return errors

    def validate_create(self, obj: Object) -> Errors:
        spec = spec_of(obj)
        errors: Errors = []
        if spec.get("ephemeralContainers"):
            errors.append(FieldError.forbidden("spec.ephemeralContainers", "cannot be set on create"))
        if spec.get("nodeName") and spec.get("schedulingGates"):
            why = "cannot be set until all schedulingGates have been cleared"
            errors.append(FieldError.forbidden("spec.nodeName", why))
        return errors

    def validate_update(self, new: Object, old: Object) -> Errors:
        errors = _annotation_changes(new["metadata"].get("annotations") or {}, old["metadata"].get("annotations") or {})
        spec, was = spec_of(new), spec_of(old)
        for kind in ("containers", "initContainers"):
            mine, theirs = spec.get(kind) or [], was.get(kind) or []
            if len(mine) != len(theirs):
                why = "pod updates may not add or remove containers"
                return [*errors, FieldError.forbidden(f"spec.{kind}", why)]
            for i, container in enumerate(mine):
                errors += v.required(f"spec.{kind}[{i}].image", container.get("image"))
                errors += pod_containers.image_padding(f"spec.{kind}[{i}]", container)
        deadline = _deadline(spec.get("activeDeadlineSeconds"), was.get("activeDeadlineSeconds"))
        errors += deadline
        if deadline and "activeDeadlineSeconds" in spec:
            return errors
        errors += _tolerations(spec.get("tolerations") or [], was.get("tolerations") or [])
        gates = {gate.get("name") for gate in was.get("schedulingGates") or []}
        for i, gate in enumerate(spec.get("schedulingGates") or []):
            if gate.get("name") not in gates:
                why = "only deletion is allowed"
                errors.append(FieldError.forbidden(f"spec.schedulingGates[{i}].name", why))
        if not v.same(_without_changeable(spec, was), was) and not (gates and _only_narrows(spec, was)):
            errors.append(FieldError.forbidden("spec", _MUTABLE))
        return errors

    def validate_status_update(self, new: Object, old: Object) -> Errors:
        status, was = status_of(new), status_of(old)
        errors: Errors = []
        for i, condition in enumerate(status.get("conditions") or []):
            if condition.get("type") not in _SYSTEM_CONDITIONS:
                errors += v.check(f"status.conditions[{i}].Type", condition.get("type", ""), v.qualified_name)
        nominated = status.get("nominatedNodeName")
        if nominated and nominated != was.get("nominatedNodeName"):
            errors += v.check("status.nominatedNodeName", nominated, v.dns_subdomain)
            if spec_of(old).get("nodeName"):
                why = "may not be set on pods that are already bound to a node"
                errors.append(FieldError.forbidden("status.nominatedNodeName", why))
        errors += v.immutable("status.qosClass", status.get("qosClass"), was.get("qosClass"))
        for kind, containers in (("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")):
            errors += _transitions(
                f"status.{kind}", status.get(kind) or [], was.get(kind) or [], spec_of(old), containers
            )
        for field in ("podIPs", "hostIPs"):
            errors += _ips(f"status.{field}", status.get(field) or [], was.get(field) or [])
        return errors

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        if old is not None:
            return []
        found = []
        name = obj["metadata"].get("name", "")
        if wrong := v.dns_label(name):
            found.append(
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; "
                f"a DNS label is recommended: [{' '.join(wrong)}]"
            )
        return found + pod_warnings.pod("", obj["metadata"], spec_of(obj))

    def field_labels(self, obj: Object) -> Mapping[str, str]:
        spec, status = spec_of(obj), status_of(obj)
        ips = status.get("podIPs") or [{}]
        return {
            "spec.nodeName": spec.get("nodeName", ""),
            "spec.restartPolicy": spec.get("restartPolicy", ""),
            "spec.schedulerName": spec.get("schedulerName", ""),
            "spec.serviceAccountName": spec.get("serviceAccountName", ""),
            "spec.hostNetwork": "true" if spec.get("hostNetwork") else "false",
            "status.phase": status.get("phase", ""),
            "status.podIP": ips[0].get("ip", ""),
            "status.podIPs": "",  # selectable by name, yet without a value: so it is in Kubernetes
            "status.nominatedNodeName": status.get("nominatedNodeName", ""),
        }


def _addresses(status: dict[str, Any]) -> None:
    """podIP and the first of podIPs are one and the same."""
    address, ips = status.get("podIP"), status.get("podIPs")
    if ips and not address:
        status["podIP"] = ips[0].get("ip", "")
    elif address and (not ips or ips[0].get("ip") != address):
        status["podIPs"] = [{"ip": address}]


def _apply_label_keys(spec: dict[str, Any], labels: Mapping[str, str]) -> None:
    """Turn matchLabelKeys and mismatchLabelKeys into expressions with this pod's own labels."""
    terms = list(spec.get("topologySpreadConstraints") or [])
    for kind in ("podAffinity", "podAntiAffinity"):
        found = (spec.get("affinity") or {}).get(kind) or {}
        terms += found.get("requiredDuringSchedulingIgnoredDuringExecution") or []
        weighted = found.get("preferredDuringSchedulingIgnoredDuringExecution") or []
        terms += [one.get("podAffinityTerm") or {} for one in weighted]
    for term in terms:
        selector = term.get("labelSelector")
        if selector is None:
            continue
        for field, operator in (("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")):
            for key in term.get(field) or []:
                if key in labels:
                    requirement = {"key": key, "operator": operator, "values": [labels[key]]}
                    selector.setdefault("matchExpressions", []).append(requirement)


def _annotation_changes(new: Mapping[str, str], old: Mapping[str, str]) -> Errors:
    errors: Errors = []
    for key in new.keys() | old.keys():
        if new.get(key) != old.get(key) and (key.startswith(_APP_ARMOR) or key == _MIRROR):
            errors.append(FieldError.forbidden(f"metadata.annotations[{key}]", "may not be added, removed or changed"))
    return errors


def _deadline(new: int | None, old: int | None) -> Errors:
    path = "spec.activeDeadlineSeconds"
    if new is None:
        if old is None:
            return []
        return [FieldError.invalid(path, None, "must not update from a positive integer to nil value")]
    if not 0 <= new <= MAX_INT32:
        return [FieldError.invalid(path, new, f"must be between 0 and {MAX_INT32}, inclusive")]
    if old is not None and old < new:
        return [FieldError.invalid(path, new, "must be less than or equal to previous value")]
    return []


def _tolerations(new: list[dict[str, Any]], old: list[dict[str, Any]]) -> Errors:
    """Tolerations may be added; of those there are only the seconds may change."""

    def but_seconds(toleration: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in toleration.items() if key != "tolerationSeconds"}

    for toleration in old:
        if not any(but_seconds(toleration) == but_seconds(one) for one in new):
            why = "existing toleration can not be modified except its tolerationSeconds"
            return [FieldError.forbidden("spec.tolerations", why)]
    return pod_validation.tolerations("spec.tolerations", new)


def _only_narrows(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """A gated pod may be restricted to fewer nodes, but otherwise not change."""
    selector, was = new.get("nodeSelector") or {}, old.get("nodeSelector") or {}
    if not was.items() <= selector.items():
        return False
    kept = _without_changeable(new, old)
    for field in ("nodeSelector", "affinity"):
        kept.pop(field, None)
    rest = {key: value for key, value in old.items() if key not in ("nodeSelector", "affinity")}
    return v.same(kept, rest)


def _transitions(
    path: str, new: list[dict[str, Any]], old: list[dict[str, Any]], spec: dict[str, Any], kind: str
) -> Errors:
    """What has ended and is not to be started again stays ended."""
    errors: Errors = []
    policies = {c.get("name"): c.get("restartPolicy") for c in spec.get(kind) or []}
    now = {status.get("name"): status for status in new}
    for i, status in enumerate(old):
        ended = (status.get("state") or {}).get("terminated")
        current = now.get(status.get("name"))
        if ended is None or current is None or (current.get("state") or {}).get("terminated") is not None:
            continue
        policy = policies.get(status.get("name")) or spec.get("restartPolicy")
        if policy == "Always" or (policy == "OnFailure" and ended.get("exitCode", 0) != 0):
            continue
        if kind == "initContainers" and ended.get("exitCode", 0) != 0 and policy != "Never":
            continue
        errors.append(FieldError.forbidden(f"{path}[{i}].state", "may not be transitioned to non-terminated state"))
    return errors


def _ips(path: str, new: list[dict[str, Any]], old: list[dict[str, Any]]) -> Errors:
    errors: Errors = []
    known = {one.get("ip") for one in old}
    for i, one in enumerate(new):
        if one.get("ip") not in known:
            errors += v.ip(f"{path}[{i}]", one.get("ip", ""))
    versions = [address.version for one in new if (address := v.parse_ip(one.get("ip", "")))]
    if len(new) > 1 and (len(new) > 2 or len(set(versions)) != 2):
        errors.append(FieldError.invalid(path, new, "may specify no more than one IP for each IP family"))
    return errors


def validate_ephemeral_containers(new: Object, old: Object) -> Errors:
    """The ephemeralcontainers subresource: containers are only ever added."""
    errors = Pods().validate(new)
    mine = {one.get("name"): one for one in spec_of(new).get("ephemeralContainers") or []}
    for container in spec_of(old).get("ephemeralContainers") or []:
        name = container.get("name", "")
        if name not in mine:
            why = f'existing ephemeral containers "{name}" may not be removed'
            errors.append(FieldError.forbidden("spec.ephemeralContainers", why))
        elif not v.same(mine[name], container):
            why = f'existing ephemeral containers "{name}" may not be changed'
            errors.append(FieldError.forbidden("spec.ephemeralContainers", why))
    return errors


# ------------------------------------------------------------------------------------------------ the table

COLUMNS = printing.columns("Name, Ready, Status, Restarts, Age, IP*, Node*, Nominated Node*, Readiness Gates*")


class _Tally:
    """Restarts of containers, and the latest time one had ended before."""

    def __init__(self) -> None:
        self.restarts = 0
        self.last = ""

    def add(self, status: Mapping[str, Any]) -> None:
        self.restarts += status.get("restartCount", 0)
        ended = ((status.get("lastState") or {}).get("terminated") or {}).get("finishedAt")
        self.last = max(self.last, ended or "")

    def __str__(self) -> str:
        return f"{self.restarts} ({printing.ago(self.last)} ago)" if self.restarts and self.last else str(self.restarts)


def _ended(terminated: Mapping[str, Any]) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _condition(status: Mapping[str, Any], kind: str) -> bool:
    return any(c.get("type") == kind and c.get("status") == "True" for c in status.get("conditions") or [])


def _summary(obj: Object) -> tuple[int, int, str, _Tally]:
    """Containers ready, containers that count, the state in a word, restarts."""
    spec, status = spec_of(obj), status_of(obj)
    sidecars = {c.get("name") for c in spec.get("initContainers") or [] if c.get("restartPolicy") == "Always"}
    total, ready = len(spec.get("containers") or []) + len(sidecars), 0
    reason = status.get("reason") or status.get("phase", "")
    if any(
        c.get("type") == "PodScheduled" and c.get("reason") == "SchedulingGated" for c in status.get("conditions") or []
    ):
        reason = "SchedulingGated"
    tally, of_sidecars = _Tally(), _Tally()
    starting = False
    for i, one in enumerate(status.get("initContainerStatuses") or []):
        tally.add(one)
        state, sidecar = one.get("state") or {}, one.get("name") in sidecars
        if sidecar:
            of_sidecars.add(one)
        terminated, waiting = state.get("terminated"), state.get("waiting") or {}
        if terminated is not None and not terminated.get("exitCode"):
            continue
        if sidecar and one.get("started"):
            ready += bool(one.get("ready"))
            continue
        if terminated is not None:
            reason = f"Init:{_ended(terminated)}"
        elif waiting.get("reason", "PodInitializing") != "PodInitializing":
            reason = f"Init:{waiting['reason']}"
        else:
            reason = f"Init:{i}/{len(spec.get('initContainers') or [])}"
        starting = True
        break
    if not starting or _condition(status, "Initialized"):
        running, reason = _main_containers(status, reason, of_sidecars)
        return ready + running, total, reason, of_sidecars
    return ready, total, reason, tally


def _main_containers(status: Mapping[str, Any], reason: str, tally: _Tally) -> tuple[int, str]:
    """How many run and are ready, and the state in a word: the first container's has the last word."""
    running, failed = 0, ""
    for one in reversed(status.get("containerStatuses") or []):
        tally.add(one)
        state = one.get("state") or {}
        if (state.get("waiting") or {}).get("reason"):
            reason = state["waiting"]["reason"]
        elif state.get("terminated") is not None:
            reason = _ended(state["terminated"])
            if state["terminated"].get("exitCode"):
                failed = reason
        elif one.get("ready") and state.get("running") is not None:
            running += 1
    if reason == "Completed":
        if running and _condition(status, "Ready"):
            reason = "Running"
        elif failed:
            reason = failed
        elif running:
            reason = "NotReady"
    return running, reason


def row(obj: Object) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    ready, total, reason, restarts = _summary(obj)
    if obj["metadata"].get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            reason = "Unknown"
        elif status.get("phase") not in _FINISHED:
            reason = "Terminating"
    gates = spec.get("readinessGates") or []
    passed = sum(_condition(status, gate.get("conditionType", "")) for gate in gates)
    return [
        printing.name(obj),
        f"{ready}/{total}",
        reason,
        str(restarts),
        printing.age(obj),
        (status.get("podIPs") or [{}])[0].get("ip") or printing.NONE,
        spec.get("nodeName") or printing.NONE,
        status.get("nominatedNodeName") or printing.NONE,
        f"{passed}/{len(gates)}" if gates else printing.NONE,
    ]


class PodTemplates(Kind):
    def default(self, obj: Object) -> None:
        pod_defaults.template(obj.setdefault("template", {}).setdefault("spec", {}))

    def validate(self, obj: Object) -> Errors:
        return pod_validation.template("template", obj.get("template") or {})

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        return template_warnings("template", obj.get("template") or {}, (old or {}).get("template"))


def template_warnings(path: str, template: Mapping[str, Any], old: Mapping[str, Any] | None) -> list[str]:
    """Warnings about a template that is new or has changed."""
    if template == old:
        return []
    return pod_warnings.pod(path, template.get("metadata") or {}, template.get("spec") or {})


def _template_row(obj: Object) -> list[Any]:
    template = obj.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels")
    return [printing.name(obj), *printing.container_cells(template.get("spec") or {}), printing.labels(labels)]


RESOURCES = (
    resource(
        "v1",
        "Pod",
        "pods",
        Subresource("attach", "PodAttachOptions", ("create", "get")),
        Subresource("binding", "Binding", ("create",)),
        Subresource("ephemeralcontainers", "Pod", READ_WRITE),
        Subresource("eviction", "Eviction", ("create",), "policy", "v1"),
        Subresource("exec", "PodExecOptions", ("create", "get")),
        Subresource("log", "Pod", ("get",)),
        Subresource("portforward", "PodPortForwardOptions", ("create", "get")),
        Subresource("proxy", "PodProxyOptions", PROXY_VERBS),
        short="po",
        all_category=True,
        status=True,
        has_generation=True,
        field_labels=FIELD_LABELS,
        strategy=Pods(),
        columns=COLUMNS,
        row=row,
    ),
    resource(
        "v1",
        "PodTemplate",
        "podtemplates",
        has_generation=True,
        strategy=PodTemplates(),
        columns=printing.columns("Name, Containers, Images, Pod Labels"),
        row=_template_row,
    ),
    asked("v1", "Binding", "bindings", namespaced=True),
)
