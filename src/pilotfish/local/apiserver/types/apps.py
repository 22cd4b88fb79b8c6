"""Workloads: Deployment, ReplicaSet, StatefulSet, DaemonSet, ControllerRevision and ReplicationController."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.types import claims, pod_defaults, pod_validation, printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import SCALE, resource
from pilotfish.local.apiserver.types.kind import Kind, spec_of, status_of
from pilotfish.local.apiserver.types.pods import template_warnings
from pilotfish.local.apiserver.types.validation import Errors
from pilotfish.local.apiserver.types.volumes import claim_warnings

Spec = dict[str, Any]

TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"
_HOSTNAMES = "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; "


def name_warnings(obj: Object) -> list[str]:
    """A name that cannot be part of a host name."""
    wrong = v.dns_label(obj["metadata"].get("name", ""))
    return [f"{_HOSTNAMES}a DNS label is recommended: [{' '.join(wrong)}]"] if wrong else []


def set_default(target: dict[str, Any], **values: Any) -> None:
    for key, value in values.items():
        target.setdefault(key, value)


def _number(value: Any) -> int:
    """A count or percentage as a number; 0 for what is neither."""
    if isinstance(value, str):
        return v.percent(value) or 0
    return value or 0


def _template_labels(spec: Spec) -> dict[str, str]:
    return ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}


def _mismatch(labels: Mapping[str, str]) -> FieldError:
    return FieldError.invalid(
        "spec.template.metadata.labels", dict(labels), "`selector` does not match template `labels`"
    )


def _always_running(spec: Spec, kind: str) -> Errors:
    """Pods of a workload that runs for ever are always restarted, and have no deadline."""
    pod = (spec.get("template") or {}).get("spec") or {}
    errors: Errors = []
    policy = pod.get("restartPolicy", "")
    if policy != "Always":
        errors.append(FieldError.not_supported("spec.template.spec.restartPolicy", policy, ["Always"]))
    if "activeDeadlineSeconds" in pod:
        path = "spec.template.spec.activeDeadlineSeconds"
        errors.append(FieldError.forbidden(path, f"activeDeadlineSeconds in {kind} is not Supported"))
    return errors


def _counters(path: str, status: Mapping[str, Any], *, at_most_replicas: tuple[str, ...] = ()) -> Errors:
    """Counters of a status are not negative, and parts are not more than the whole."""
    errors: Errors = []
    for field, value in status.items():
        if isinstance(value, int) and not isinstance(value, bool):
            errors += v.not_negative(f"{path}.{field}", value)
    replicas = status.get("replicas", 0)
    for field in at_most_replicas:
        if status.get(field, 0) > replicas:
            why = "cannot be greater than status.replicas"
            errors.append(FieldError.invalid(f"{path}.{field}", status.get(field, 0), why))
    if at_most_replicas and status.get("availableReplicas", 0) > status.get("readyReplicas", 0):
        why = "cannot be greater than readyReplicas"
        errors.append(FieldError.invalid(f"{path}.availableReplicas", status.get("availableReplicas", 0), why))
    return errors


class Workload(Kind):
    """What Deployment, ReplicaSet, StatefulSet and DaemonSet share."""

    kind = ""
    immutable: tuple[str, ...] = ("spec.selector",)
    warns_of_names = True
    not_above_replicas: tuple[str, ...] = ()

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        pod_defaults.template(spec.setdefault("template", {}).setdefault("spec", {}))
        self.default_spec(spec)

    def default_spec(self, spec: Spec) -> None:
        spec.setdefault("replicas", 1)

    def validate(self, obj: Object) -> Errors:
        spec = spec_of(obj)
        errors = v.not_negative("spec.replicas", spec.get("replicas"))
        errors += v.not_negative("spec.minReadySeconds", spec.get("minReadySeconds"))
        return errors + self.selector_and_template(spec)

    def selector_and_template(self, spec: Spec) -> Errors:
        """A selector that cannot be evaluated hides what is wrong with the template."""
        selector = spec.get("selector")
        if selector is None:
            errors: Errors = [FieldError.required("spec.selector")]
        else:
            errors = v.label_selector("spec.selector", selector)
            if errors:
                return [*errors, FieldError.invalid("spec.selector", selector, "invalid label selector")]
            if v.is_empty(selector):
                why = f"empty selector is invalid for {self.kind.lower()}"
                errors.append(FieldError.invalid("spec.selector", selector, why))
        labels = _template_labels(spec)
        if selector is None or not v.selects(selector, labels):
            errors.append(_mismatch(labels))
        return errors + self.template(spec)

    def template(self, spec: Spec) -> Errors:
        return pod_validation.template("spec.template", spec.get("template") or {}) + _always_running(spec, self.kind)

    def validate_status_update(self, new: Object, old: Object) -> Errors:
        status, was = status_of(new), status_of(old)
        errors = _counters("status", status, at_most_replicas=self.not_above_replicas)
        count = status.get("collisionCount")
        if was.get("collisionCount", 0) > (count or 0):
            errors.append(FieldError.invalid("status.collisionCount", count or 0, "cannot be decremented"))
        return errors

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        found = name_warnings(obj) if old is None and self.warns_of_names else []
        before = spec_of(old).get("template") if old else None
        return found + template_warnings("spec.template", spec_of(obj).get("template") or {}, before)


class Deployments(Workload):
    kind = "Deployment"
    new_status: Mapping[str, Any] = {}
    not_above_replicas = ("updatedReplicas", "readyReplicas", "availableReplicas")

    def default_spec(self, spec: Spec) -> None:
        set_default(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600)
        strategy = spec.setdefault("strategy", {})
        if not strategy.get("type"):
            strategy["type"] = "RollingUpdate"
        if strategy["type"] == "RollingUpdate":
            set_default(strategy.setdefault("rollingUpdate", {}), maxUnavailable="25%", maxSurge="25%")

    def validate(self, obj: Object) -> Errors:
        spec = spec_of(obj)
        errors = super().validate(obj) + _deployment_strategy("spec.strategy", spec.get("strategy") or {})
        errors += v.not_negative("spec.revisionHistoryLimit", spec.get("revisionHistoryLimit"))
        deadline, ready = spec.get("progressDeadlineSeconds"), spec.get("minReadySeconds", 0)
        if deadline is not None:
            errors += v.not_negative("spec.progressDeadlineSeconds", deadline)
            if deadline <= ready:
                why = "must be greater than minReadySeconds"
                errors.append(FieldError.invalid("spec.progressDeadlineSeconds", deadline, why))
        return errors


def _deployment_strategy(path: str, strategy: Spec) -> Errors:
    kind, rolling = strategy.get("type"), strategy.get("rollingUpdate")
    where = f"{path}.rollingUpdate"
    if kind == "Recreate":
        if rolling is None:
            return []
        return [FieldError.forbidden(where, "may not be specified when strategy `type` is 'Recreate'")]
    if kind != "RollingUpdate":
        return [FieldError.not_supported(path, strategy, ["Recreate", "RollingUpdate"])]
    unavailable, surge = (rolling or {}).get("maxUnavailable"), (rolling or {}).get("maxSurge")
    errors = v.percent_or_number(f"{where}.maxUnavailable", unavailable)
    errors += v.percent_or_number(f"{where}.maxSurge", surge)
    if not _number(unavailable) and not _number(surge):
        why = "may not be 0 when `maxSurge` is 0"
        errors.append(FieldError.invalid(f"{where}.maxUnavailable", unavailable, why))
    return errors + v.at_most_all(f"{where}.maxUnavailable", unavailable)


class ReplicaSets(Workload):
    kind = "ReplicaSet"
    new_status: Mapping[str, Any] = {"replicas": 0}
    not_above_replicas = ("fullyLabeledReplicas", "readyReplicas", "availableReplicas")


class StatefulSets(Workload):
    kind = "StatefulSet"
    immutable = ()
    warns_of_names = False
    new_status: Mapping[str, Any] = {"replicas": 0, "availableReplicas": 0}
    not_above_replicas = ("readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas")

    def default_spec(self, spec: Spec) -> None:
        set_default(spec, replicas=1, revisionHistoryLimit=10, podManagementPolicy="OrderedReady")
        strategy = spec.setdefault("updateStrategy", {})
        if not strategy.get("type"):
            strategy["type"] = "RollingUpdate"
            strategy.setdefault("rollingUpdate", {})
        if strategy["type"] == "RollingUpdate" and "rollingUpdate" in strategy:
            set_default(strategy["rollingUpdate"], partition=0)
        retention = spec.setdefault("persistentVolumeClaimRetentionPolicy", {})
        set_default(retention, whenDeleted="Retain", whenScaled="Retain")
        for claim in spec.get("volumeClaimTemplates") or ():
            claim.setdefault("apiVersion", "v1")
            claim.setdefault("kind", "PersistentVolumeClaim")
            claim.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
            claim.setdefault("status", {}).setdefault("phase", "Pending")

    def validate(self, obj: Object) -> Errors:
        spec = spec_of(obj)
        errors = _choice("spec.podManagementPolicy", spec.get("podManagementPolicy"), ("OrderedReady", "Parallel"))
        errors += _stateful_strategy("spec.updateStrategy", spec.get("updateStrategy") or {})
        for field, value in (spec.get("persistentVolumeClaimRetentionPolicy") or {}).items():
            path = f"spec.persistentVolumeClaimRetentionPolicy.{field}"
            errors += v.one_of(path, value, ("Delete", "Retain"), missing=False)
        errors += v.not_negative("spec.ordinals.start", (spec.get("ordinals") or {}).get("start"))
        return errors + super().validate(obj)

    def validate_create(self, obj: Object) -> Errors:
        spec = spec_of(obj)
        errors: Errors = []
        for i, claim in enumerate(spec.get("volumeClaimTemplates") or []):
            errors += claims.spec(f"spec.volumeClaimTemplates[{i}].spec", claim.get("spec") or {})
        if spec.get("serviceName"):
            errors += v.check("spec.serviceName", spec["serviceName"], v.dns_label)
        return errors

    def template(self, spec: Spec) -> Errors:
        """With the claims of each pod among the volumes; labels and annotations are judged twice, as in Kubernetes."""
        template = spec.get("template") or {}
        pod = dict(template.get("spec") or {})
        for field in ("hostname", "subdomain"):
            pod.pop(field, None)
        names = [(claim.get("metadata") or {}).get("name", "") for claim in spec.get("volumeClaimTemplates") or []]
        if names:
            claimed = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in names]
            pod["volumes"] = claimed + [one for one in pod.get("volumes") or [] if one.get("name") not in names]
        errors = pod_validation.template("spec.template", template | {"spec": pod})
        meta = template.get("metadata") or {}
        errors += v.labels("spec.template.labels", meta.get("labels"))
        errors += v.annotation_map("spec.template.annotations", meta.get("annotations"))
        return errors + _always_running(spec, self.kind)

    def validate_update(self, new: Object, old: Object) -> Errors:
        changeable = (
            *("replicas", "template", "updateStrategy", "minReadySeconds", "ordinals", "revisionHistoryLimit"),
            "persistentVolumeClaimRetentionPolicy",
        )
        mine, theirs = (
            {key: value for key, value in spec_of(one).items() if key not in changeable} for one in (new, old)
        )
        if v.same(mine, theirs):
            return []
        why = (
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
            "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
        )
        return [FieldError.forbidden("spec", why)]

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        spec, found = spec_of(obj), super().warnings(obj, old)
        for i, claim in enumerate(spec.get("volumeClaimTemplates") or []):
            path = f"spec.volumeClaimTemplates[{i}]" + (".Spec" if old else "")
            found += claim_warnings(path, claim.get("spec") or {})
        if spec.get("revisionHistoryLimit", 0) < 0:
            why = "a negative value retains all historical revisions; a value >= 0 is recommended"
            found.append(f"spec.revisionHistoryLimit: {why}")
        return found


def _choice(path: str, value: Any, allowed: tuple[str, ...]) -> Errors:
    """A closed set of which anything else is 'invalid', not 'unsupported'."""
    if not value:
        return [FieldError.required(path)]
    if value in allowed:
        return []
    return [FieldError.invalid(path, value, "must be " + " or ".join(f"'{one}'" for one in allowed))]


def _stateful_strategy(path: str, strategy: Spec) -> Errors:
    kind, rolling = strategy.get("type"), strategy.get("rollingUpdate")
    if kind == "OnDelete" and rolling is not None:
        why = "only allowed for updateStrategy 'RollingUpdate'"
        return [FieldError.invalid(f"{path}.rollingUpdate", rolling, why)]
    if kind not in ("OnDelete", "RollingUpdate"):
        return [FieldError.invalid(path, strategy, "must be 'RollingUpdate' or 'OnDelete'")]
    errors = v.not_negative(f"{path}.rollingUpdate.partition", (rolling or {}).get("partition"))
    most = (rolling or {}).get("maxUnavailable")
    if most is not None:
        where = f"{path}.rollingUpdate.maxUnavailable"
        errors += v.percent_or_number(where, most)
        if not _number(most):
            errors.append(FieldError.invalid(where, most, "cannot be 0"))
        errors += v.at_most_all(where, most)
    return errors


class DaemonSets(Workload):
    kind = "DaemonSet"
    warns_of_names = False
    new_status: Mapping[str, Any] = {
        "currentNumberScheduled": 0,
        "numberMisscheduled": 0,
        "desiredNumberScheduled": 0,
        "numberReady": 0,
    }

    def default_spec(self, spec: Spec) -> None:
        spec.setdefault("revisionHistoryLimit", 10)
        strategy = spec.setdefault("updateStrategy", {})
        if not strategy.get("type"):
            strategy["type"] = "RollingUpdate"
        if strategy["type"] == "RollingUpdate":
            set_default(strategy.setdefault("rollingUpdate", {}), maxUnavailable=1, maxSurge=0)

    def prepare_for_create(self, obj: Object) -> None:
        super().prepare_for_create(obj)
        _set_generation(obj, max(1, _generation(obj)))

    def prepare_for_update(self, new: Object, old: Object) -> None:
        changed = not v.same(spec_of(new).get("template"), spec_of(old).get("template"))
        _set_generation(new, _generation(old) + changed)

    def validate(self, obj: Object) -> Errors:
        spec = spec_of(obj)
        selector, labels = spec.get("selector"), _template_labels(spec)
        errors = v.label_selector("spec.selector", selector)
        if selector is None or (not errors and not v.selects(selector, labels)):
            errors.append(_mismatch(labels))
        if selector is not None and v.is_empty(selector):
            errors.append(FieldError.invalid("spec.selector", selector, "empty selector is invalid for daemonset"))
        errors += self.template(spec)
        errors += v.not_negative("spec.minReadySeconds", spec.get("minReadySeconds"))
        errors += _daemon_strategy("spec.updateStrategy", spec.get("updateStrategy") or {})
        return errors + v.not_negative("spec.revisionHistoryLimit", spec.get("revisionHistoryLimit"))


def _generation(obj: Object) -> int:
    text = (obj["metadata"].get("annotations") or {}).get(TEMPLATE_GENERATION, "")
    return int(text) if text.isdecimal() else 0


def _set_generation(obj: Object, generation: int) -> None:
    obj["metadata"].setdefault("annotations", {})[TEMPLATE_GENERATION] = str(generation)


def _daemon_strategy(path: str, strategy: Spec) -> Errors:
    kind, rolling = strategy.get("type"), strategy.get("rollingUpdate") or {}
    where = f"{path}.rollingUpdate"
    if kind == "OnDelete":
        return []
    if kind != "RollingUpdate":
        return [FieldError.not_supported(path, strategy, ["RollingUpdate", "OnDelete"])]
    unavailable, surge = rolling.get("maxUnavailable"), rolling.get("maxSurge")
    errors: Errors = []
    for field, value in (("maxUnavailable", unavailable), ("maxSurge", surge)):
        errors += v.percent_or_number(f"{where}.{field}", value) + v.at_most_all(f"{where}.{field}", value)
    if _number(unavailable) and _number(surge):
        why = "may not be set when maxUnavailable is non-zero"
        errors.append(FieldError.invalid(f"{where}.maxSurge", surge, why))
    elif not _number(unavailable) and not _number(surge):
        errors.append(FieldError.required(f"{where}.maxUnavailable", "cannot be 0 when maxSurge is 0"))
    return errors


class ControllerRevisions(Kind):
    immutable = ("data",)

    def validate(self, obj: Object) -> Errors:
        return v.not_negative("revision", obj.get("revision"))

    def validate_create(self, obj: Object) -> Errors:
        return [] if isinstance(obj.get("data"), dict) else [FieldError.required("data", "data is mandatory")]


class ReplicationControllers(Workload):
    kind = "ReplicationController"
    immutable = ()
    new_status: Mapping[str, Any] = {"replicas": 0}
    not_above_replicas = ReplicaSets.not_above_replicas

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        template = spec.get("template")
        if template is not None:
            pod_defaults.template(template.setdefault("spec", {}))
            labels = (template.get("metadata") or {}).get("labels")
            if labels:
                if not spec.get("selector"):
                    spec["selector"] = dict(labels)
                if not obj["metadata"].get("labels"):
                    obj["metadata"]["labels"] = dict(labels)
        spec.setdefault("replicas", 1)

    def field_labels(self, obj: Object) -> Mapping[str, str]:
        return {"status.replicas": str(status_of(obj).get("replicas", 0))}

    def selector_and_template(self, spec: Spec) -> Errors:
        selector = spec.get("selector")
        errors = [] if selector else [FieldError.required("spec.selector")]
        if spec.get("template") is None:
            return [*errors, FieldError.required("spec.template")]
        labels = _template_labels(spec)
        if selector and not v.selects({"matchLabels": selector}, labels):
            errors.append(_mismatch(labels))
        return errors + self.template(spec)


# ------------------------------------------------------------------------------------------------ the tables


def _pod(obj: Object) -> dict[str, Any]:
    return (spec_of(obj).get("template") or {}).get("spec") or {}


def _deployment_row(obj: Object) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    return [
        printing.name(obj),
        f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 0)}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        printing.age(obj),
        *printing.container_cells(_pod(obj)),
        printing.selector(spec.get("selector"), empty=""),
    ]


def _replica_set_row(obj: Object) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    selector = spec.get("selector")
    plain = obj.get("kind") == "ReplicationController"
    return [
        printing.name(obj),
        spec.get("replicas", 0),
        status.get("replicas", 0),
        status.get("readyReplicas", 0),
        printing.age(obj),
        *printing.container_cells(_pod(obj)),
        printing.labels(selector) if plain else printing.selector(selector),
    ]


def _stateful_set_row(obj: Object) -> list[Any]:
    ready = f"{status_of(obj).get('readyReplicas', 0)}/{spec_of(obj).get('replicas', 0)}"
    return [printing.name(obj), ready, printing.age(obj), *printing.container_cells(_pod(obj))]


def _daemon_set_row(obj: Object) -> list[Any]:
    status = status_of(obj)
    fields = ("desired", "current")
    return [
        printing.name(obj),
        *(status.get(f"{field}NumberScheduled", 0) for field in fields),
        status.get("numberReady", 0),
        status.get("updatedNumberScheduled", 0),
        status.get("numberAvailable", 0),
        printing.labels(_pod(obj).get("nodeSelector")),
        printing.age(obj),
        *printing.container_cells(_pod(obj)),
        printing.selector(spec_of(obj).get("selector")),
    ]


def _revision_row(obj: Object) -> list[Any]:
    owners = [one for one in obj["metadata"].get("ownerReferences") or [] if one.get("controller")]
    owner = printing.NONE
    if owners:
        group = owners[0].get("apiVersion", "").rpartition("/")[0]
        owner = f"{owners[0]['kind']}{'.' + group if group else ''}".lower() + f"/{owners[0]['name']}"
    return [printing.name(obj), owner, obj.get("revision", 0), printing.age(obj)]


_REPLICA_COLUMNS = printing.columns("Name, Desired#, Current#, Ready#, Age, Containers*, Images*, Selector*")


def _workload(kind: str, plural: str, short: str, strategy: Kind, *, scale: bool = True, **more: Any) -> Resource:
    return resource(
        "apps/v1",
        kind,
        plural,
        *((SCALE,) if scale else ()),
        short=short,
        all_category=True,
        status=True,
        has_generation=True,
        strategy=strategy,
        **more,
    )


RESOURCES = (
    _workload(
        "Deployment",
        "deployments",
        "deploy",
        Deployments(),
        columns=printing.columns("Name, Ready, Up-to-date, Available, Age, Containers*, Images*, Selector*"),
        row=_deployment_row,
    ),
    _workload("ReplicaSet", "replicasets", "rs", ReplicaSets(), columns=_REPLICA_COLUMNS, row=_replica_set_row),
    _workload(
        "StatefulSet",
        "statefulsets",
        "sts",
        StatefulSets(),
        columns=printing.columns("Name, Ready, Age, Containers*, Images*"),
        row=_stateful_set_row,
    ),
    _workload(
        "DaemonSet",
        "daemonsets",
        "ds",
        DaemonSets(),
        scale=False,
        columns=printing.columns(
            "Name, Desired#, Current#, Ready#, Up-to-date#, Available#, Node Selector, Age, "
            "Containers*, Images*, Selector*"
        ),
        row=_daemon_set_row,
    ),
    resource(
        "apps/v1",
        "ControllerRevision",
        "controllerrevisions",
        strategy=ControllerRevisions(),
        columns=printing.columns("Name, Controller, Revision, Age"),
        row=_revision_row,
    ),
    resource(
        "v1",
        "ReplicationController",
        "replicationcontrollers",
        SCALE,
        short="rc",
        all_category=True,
        status=True,
        has_generation=True,
        field_labels=("status.replicas",),
        strategy=ReplicationControllers(),
        columns=_REPLICA_COLUMNS,
        row=_replica_set_row,
    ),
)
