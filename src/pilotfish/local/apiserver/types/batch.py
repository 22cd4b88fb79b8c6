"""Jobs and CronJobs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import cron, job_status, pod_defaults, pod_validation, printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.apps import name_warnings, set_default
from pilotfish.local.apiserver.types.declare import resource
from pilotfish.local.apiserver.types.kind import Kind, spec_of, status_of
from pilotfish.local.apiserver.types.pods import template_warnings
from pilotfish.local.apiserver.types.validation import MAX_INT32, Errors

Spec = dict[str, Any]

CONTROLLER_UID = "batch.kubernetes.io/controller-uid"
JOB_NAME = "batch.kubernetes.io/job-name"
_UID_LABELS = ("controller-uid", CONTROLLER_UID)
_NAME_LABELS = ("job-name", JOB_NAME)

_MODES = ("NonIndexed", "Indexed")
_ACTIONS = ("Count", "FailIndex", "FailJob", "Ignore")
_REPLACEMENT = ("Failed", "TerminatingOrFailed")
_STATUSES = ("False", "True", "Unknown")
_MANY = 100_000
_MANY_PARALLEL = 10_000
_MAX_RULES = 20
_MAX_CODES = 255
_MAX_INDEXES = 64 * 1024
_MAX_NAME = 52
"""A CronJob's name leaves room for the eleven characters that its Jobs' names add."""
_COUNTS = (
    *("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"),
    *("backoffLimitPerIndex", "maxFailedIndexes"),
)


def _job_defaults(spec: Spec) -> None:
    pod_defaults.template(spec.setdefault("template", {}).setdefault("spec", {}))
    for rule in (spec.get("podFailurePolicy") or {}).get("rules") or ():
        for pattern in rule.get("onPodConditions") or ():
            if not pattern.get("status"):
                pattern["status"] = "True"


class Jobs(Kind):
    new_status: Mapping[str, Any] = {}
    immutable = (
        *("spec.selector", "spec.completionMode", "spec.podFailurePolicy", "spec.backoffLimitPerIndex"),
        *("spec.managedBy", "spec.successPolicy"),
    )

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        _job_defaults(spec)
        if "completions" not in spec and "parallelism" not in spec:
            spec["completions"] = 1
        limit = MAX_INT32 if "backoffLimitPerIndex" in spec else 6
        replacement = "Failed" if "podFailurePolicy" in spec else "TerminatingOrFailed"
        set_default(spec, parallelism=1, backoffLimit=limit, completionMode="NonIndexed", suspend=False)
        set_default(spec, podReplacementPolicy=replacement, manualSelector=False)
        labels = (spec["template"].get("metadata") or {}).get("labels")
        if labels and not obj["metadata"].get("labels"):
            obj["metadata"]["labels"] = dict(labels)

    def prepare_for_create(self, obj: Object) -> None:
        super().prepare_for_create(obj)
        spec, meta = obj["spec"], obj["metadata"]
        if spec.get("manualSelector"):
            return
        template = spec["template"].setdefault("metadata", {})
        labels = template.setdefault("labels", {})
        shared = (meta.get("labels") or {}) == labels  # its own were left out: they stay those of the template
        # A name that is no label is refused at the template, and at the labels only if the template had some
        told = bool(labels) or not v.label_value(meta.get("name", ""))
        for names, value in ((_NAME_LABELS, meta.get("name", "")), (_UID_LABELS, meta["uid"])):
            for name in names:
                labels.setdefault(name, value)
        selector = spec.setdefault("selector", {})
        selector.setdefault("matchLabels", {}).setdefault(CONTROLLER_UID, meta["uid"])
        if shared and told:
            meta["labels"] = dict(labels)

    def validate(self, obj: Object) -> Errors:
        spec, meta = spec_of(obj), obj["metadata"]
        labels = (spec["template"].get("metadata") or {}).get("labels") or {}
        errors: Errors = []
        if not spec.get("manualSelector") and spec.get("selector") is not None:
            errors += _generated(spec["selector"], labels, meta)
        errors += job_spec("spec", spec)
        selector = spec.get("selector")
        if selector is None:
            errors.append(FieldError.required("spec.selector"))
        wrong = v.label_selector("spec.selector", selector)
        errors += wrong
        if selector is None or (not wrong and not v.selects(selector, labels)):
            why = "`selector` does not match template `labels`"
            errors.append(FieldError.invalid("spec.template.metadata.labels", labels, why))
        completions, name = spec.get("completions") or 0, meta.get("name", "")
        if spec.get("completionMode") == "Indexed" and completions > 0 and v.dns_label(f"{name}-{completions - 1}"):
            why = f"the pod's name would be no DNS label: {name}-{completions - 1}"
            errors.append(FieldError.invalid("metadata.name", name, why))
        return errors

    def validate_update(self, new: Object, old: Object) -> Errors:
        spec, was = spec_of(new), spec_of(old)
        errors = super().validate_update(new, old)
        if spec.get("completionMode") != "Indexed":
            errors += v.immutable("spec.completions", spec.get("completions"), was.get("completions"))
        elif spec.get("completions") not in (None, was.get("completions"), spec.get("parallelism")):
            why = "can only be modified in tandem with spec.parallelism"
            errors.append(FieldError.invalid("spec.completions", spec["completions"], why))
        return errors + _template_update(spec, was, status_of(old))

    def validate_status_update(self, new: Object, old: Object) -> Errors:
        return job_status.validate(new, old)

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        found = name_warnings(obj) if old is None else []
        return found + _job_warnings("spec", spec_of(obj), spec_of(old) if old else None)

    def field_labels(self, obj: Object) -> Mapping[str, str]:
        return {"status.successful": str(status_of(obj).get("succeeded", 0))}


def _generated(selector: Mapping[str, Any], labels: Mapping[str, str], meta: Mapping[str, Any]) -> Errors:
    """The selector and the labels it needs are the server's to make."""
    errors: Errors = []
    expected = dict.fromkeys(_UID_LABELS, meta.get("uid", "")) | dict.fromkeys(_NAME_LABELS, meta.get("name", ""))
    for label, value in expected.items():
        path = f"spec.template.metadata.labels[{label}]"
        if label not in labels:
            errors.append(FieldError.required(path, f"must be '{value}'"))
        elif labels[label] != value:
            errors.append(FieldError.invalid(path, labels, f"must be '{value}'"))
    if v.selector_is_sound(selector) and not v.selects(selector, expected):
        errors.append(FieldError.invalid("spec.selector", selector, "`selector` not auto-generated"))
    return errors


def _template_update(spec: Spec, was: Spec, status: Mapping[str, Any]) -> Errors:
    """The template of a Job that is suspended and does not run may change its scheduling and resources."""
    template, before = spec.get("template") or {}, was.get("template") or {}
    if was.get("suspend") and job_status.is_true(status, "Suspended") and not status.get("active"):
        template, before = _fixed_part(template), _fixed_part(before)
    return v.immutable("spec.template", template, before)


def _fixed_part(template: Mapping[str, Any]) -> dict[str, Any]:
    meta = {k: x for k, x in (template.get("metadata") or {}).items() if k not in ("labels", "annotations")}
    pod = dict(template.get("spec") or {})
    for field in ("nodeSelector", "tolerations", "schedulingGates"):
        pod.pop(field, None)
    if affinity := pod.pop("affinity", None):
        pod["affinity"] = {kind: one for kind, one in affinity.items() if kind != "nodeAffinity"}
    for kind in ("containers", "initContainers"):
        if kind in pod:
            pod[kind] = [{k: x for k, x in one.items() if k != "resources"} for one in pod[kind]]
    return {"metadata": meta, "spec": pod}


def job_spec(path: str, spec: Spec) -> Errors:
    """The part of a Job's spec that a CronJob's template has, too."""
    errors: Errors = []
    for field in _COUNTS:
        errors += v.not_negative(f"{path}.{field}", spec.get(field))
    if "maxFailedIndexes" in spec and "backoffLimitPerIndex" not in spec:
        errors.append(FieldError.required(f"{path}.backoffLimitPerIndex", "when maxFailedIndexes is specified"))
    manager = spec.get("managedBy")
    if manager is not None:
        errors += v.domain_path(f"{path}.managedBy", manager)
        if len(manager) > 63:
            errors.append(FieldError.too_long(f"{path}.managedBy", 63))
    mode = spec.get("completionMode")
    if mode is not None:
        errors += v.one_of(f"{path}.completionMode", mode, _MODES, missing=False)
    if mode == "Indexed":
        errors += _indexed(path, spec)
    elif mode in (None, "NonIndexed"):
        errors += [
            FieldError.invalid(f"{path}.{field}", spec[field], "requires indexed completion mode")
            for field in ("backoffLimitPerIndex", "maxFailedIndexes")
            if field in spec
        ]
    errors += _policies(path, spec)
    errors += pod_validation.template(f"{path}.template", spec.get("template") or {})
    return errors + _restart_policy(path, spec)


def _restart_policy(path: str, spec: Spec) -> Errors:
    policy = ((spec.get("template") or {}).get("spec") or {}).get("restartPolicy", "")
    field = f"{path}.template.spec.restartPolicy"
    if policy in ("Always", ""):
        return [FieldError.required(field, 'valid values: "OnFailure", "Never"')]
    if policy not in ("OnFailure", "Never"):
        return [FieldError.not_supported(field, policy, ["OnFailure", "Never"])]
    if "podFailurePolicy" in spec and policy != "Never":
        return [FieldError.invalid(field, policy, 'only "Never" is supported when podFailurePolicy is specified')]
    return []


def _indexed(path: str, spec: Spec) -> Errors:
    errors: Errors = []
    completions, parallel = spec.get("completions"), spec.get("parallelism") or 0
    failed = spec.get("maxFailedIndexes")
    if completions is None:
        errors.append(FieldError.required(f"{path}.completions", "when completion mode is Indexed"))
    if parallel > _MANY:
        errors.append(FieldError.invalid(f"{path}.parallelism", parallel, f"must be at most {_MANY} when Indexed"))
    if failed is not None and completions is not None and failed > completions:
        errors.append(FieldError.invalid(f"{path}.maxFailedIndexes", failed, "must be at most completions"))
    if failed is not None and failed > _MANY:
        errors.append(FieldError.invalid(f"{path}.maxFailedIndexes", failed, f"must be at most {_MANY}"))
    if (completions or 0) > _MANY and "backoffLimitPerIndex" in spec:
        why = f"must be at most {_MANY_PARALLEL} when completions are above {_MANY}"
        if failed is None:
            errors.append(FieldError.required(f"{path}.maxFailedIndexes", f"when completions are above {_MANY}"))
        elif failed > _MANY_PARALLEL:
            errors.append(FieldError.invalid(f"{path}.maxFailedIndexes", failed, why))
        if parallel > _MANY_PARALLEL:
            errors.append(FieldError.invalid(f"{path}.parallelism", parallel, why))
    return errors


def _policies(path: str, spec: Spec) -> Errors:
    errors: Errors = []
    failure, success = spec.get("podFailurePolicy"), spec.get("successPolicy")
    if failure is not None:
        rules = failure.get("rules") or []
        if len(rules) > _MAX_RULES:
            errors.append(FieldError.too_many(f"{path}.podFailurePolicy.rules", len(rules), _MAX_RULES))
        for i, rule in enumerate(rules):
            errors += _failure_rule(f"{path}.podFailurePolicy.rules[{i}]", rule, spec)
    if success is not None:
        if spec.get("completionMode") != "Indexed":
            errors.append(FieldError.invalid(f"{path}.successPolicy", success, "requires indexed completion mode"))
        else:
            errors += _success_rules(f"{path}.successPolicy.rules", success.get("rules") or [], spec)
    replacement = spec.get("podReplacementPolicy")
    if replacement is not None:
        allowed = ("Failed",) if failure is not None else _REPLACEMENT
        errors += v.one_of(f"{path}.podReplacementPolicy", replacement, allowed, missing=False)
    return errors


def _failure_rule(path: str, rule: Mapping[str, Any], spec: Spec) -> Errors:
    action, codes, conditions = rule.get("action", ""), rule.get("onExitCodes"), rule.get("onPodConditions") or []
    errors = v.one_of(f"{path}.action", action, _ACTIONS)
    if action == "FailIndex" and "backoffLimitPerIndex" not in spec:
        errors.append(FieldError.invalid(f"{path}.action", action, "requires the backoffLimitPerIndex to be set"))
    if codes is not None:
        errors += _exit_codes(f"{path}.onExitCodes", codes, (spec.get("template") or {}).get("spec") or {})
    if len(conditions) > _MAX_RULES:
        errors.append(FieldError.too_many(f"{path}.onPodConditions", len(conditions), _MAX_RULES))
    for i, pattern in enumerate(conditions):
        where = f"{path}.onPodConditions[{i}]"
        errors += v.check(f"{where}.type", pattern.get("type", ""), v.qualified_name)
        errors += v.one_of(f"{where}.status", pattern.get("status", ""), _STATUSES)
    if (codes is not None) == bool(conditions):
        errors.append(
            FieldError.invalid(path, dict(rule), "needs one of onExitCodes and onPodConditions, and not both")
        )
    return errors


def _exit_codes(path: str, codes: Mapping[str, Any], pod: Mapping[str, Any]) -> Errors:
    operator, values = codes.get("operator", ""), codes.get("values") or []
    errors = v.one_of(f"{path}.operator", operator, ("In", "NotIn"))
    names = {one.get("name") for kind in ("containers", "initContainers") for one in pod.get(kind) or []}
    container = codes.get("containerName")
    if container is not None and container not in names:
        errors.append(FieldError.invalid(f"{path}.containerName", container, "must be a container of the template"))
    if not values:
        errors.append(FieldError.invalid(f"{path}.values", values, "at least one value is required"))
    elif len(values) > _MAX_CODES:
        errors.append(FieldError.too_many(f"{path}.values", len(values), _MAX_CODES))
    for i, value in enumerate(values):
        if operator == "In" and value == 0:
            errors.append(FieldError.invalid(f"{path}.values[{i}]", value, "must not be 0 for the In operator"))
        if value in values[:i]:
            errors.append(FieldError.duplicate(f"{path}.values[{i}]", value))
    if values != sorted(values):
        errors.append(FieldError.invalid(f"{path}.values", values, "must be ordered"))
    return errors


def _success_rules(path: str, rules: list[dict[str, Any]], spec: Spec) -> Errors:
    errors: Errors = []
    if not rules:
        errors.append(FieldError.required(path, "at least one rule"))
    if len(rules) > _MAX_RULES:
        errors.append(FieldError.too_many(path, len(rules), _MAX_RULES))
    completions = spec.get("completions") or 0
    for i, rule in enumerate(rules):
        where, count, indexes = f"{path}[{i}]", rule.get("succeededCount"), rule.get("succeededIndexes")
        if count is None and indexes is None:
            errors.append(FieldError.required(where, "at least one of succeededCount and succeededIndexes"))
        total: int | None = None
        if indexes is not None:
            if len(indexes) > _MAX_INDEXES:
                errors.append(FieldError.too_long(f"{where}.succeededIndexes", _MAX_INDEXES))
            total = _count_indexes(indexes, completions)
            if total is None:
                why = "must be increasing numbers and ranges below completions, such as 0,2-5"
                errors.append(FieldError.invalid(f"{where}.succeededIndexes", indexes, why))
        errors += v.not_negative(f"{where}.succeededCount", count)
        if count is not None and count > completions:
            why = f"must be at most completions, {completions}"
            errors.append(FieldError.invalid(f"{where}.succeededCount", count, why))
        if count is not None and indexes is not None and count > (total or 0):
            why = f"must be at most the number of succeededIndexes, {total or 0}"
            errors.append(FieldError.invalid(f"{where}.succeededCount", count, why))
    return errors


def _count_indexes(text: str, completions: int) -> int | None:
    """How many indexes a list such as `0,2-5` names; None when it is not one."""
    total, last = 0, -1
    for part in text.split(",") if text else []:
        ends = part.split("-")
        if len(ends) > 2 or not all(end.isdecimal() for end in ends):
            return None
        low, high = int(ends[0]), int(ends[-1])
        if low <= last or high >= completions or (len(ends) == 2 and low >= high):
            return None
        total, last = total + high - low + 1, high
    return total


def _job_warnings(path: str, spec: Spec, was: Spec | None) -> list[str]:
    found = []
    indexed = spec.get("completionMode") == "Indexed"
    if indexed and (spec.get("completions") or 0) > _MANY and (spec.get("parallelism") or 0) > _MANY_PARALLEL:
        found.append(
            f"{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than "
            "10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        )
    return found + template_warnings(f"{path}.template", spec.get("template") or {}, (was or {}).get("template"))


class CronJobs(Kind):
    new_status: Mapping[str, Any] = {}

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        set_default(spec, suspend=False, successfulJobsHistoryLimit=3, failedJobsHistoryLimit=1)
        if not spec.get("concurrencyPolicy"):
            spec["concurrencyPolicy"] = "Allow"
        _job_defaults(spec.setdefault("jobTemplate", {}).setdefault("spec", {}))

    def validate(self, obj: Object) -> Errors:
        spec = spec_of(obj)
        errors: Errors = []
        for field in ("startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
            errors += v.not_negative(f"spec.{field}", spec.get(field))
        policy = spec.get("concurrencyPolicy", "")
        errors += v.one_of("spec.concurrencyPolicy", policy, ("Allow", "Forbid", "Replace"))
        job, path = (spec.get("jobTemplate") or {}).get("spec") or {}, "spec.jobTemplate.spec"
        errors += job_spec(path, job)
        if job.get("selector") is not None:
            why = "`selector` will be auto-generated"
            errors.append(FieldError.invalid(f"{path}.selector", job["selector"], why))
        if job.get("manualSelector"):
            errors.append(FieldError.not_supported(f"{path}.manualSelector", True, ["nil", "false"]))
        return errors

    def validate_create(self, obj: Object) -> Errors:
        spec, name = spec_of(obj), obj["metadata"].get("name", "")
        errors = _schedule(spec, zone_allowed=False) + _time_zone(spec)
        if len(name) > _MAX_NAME:
            errors.append(FieldError.invalid("metadata.name", name, f"must be no more than {_MAX_NAME} characters"))
        return errors

    def validate_update(self, new: Object, old: Object) -> Errors:
        spec, was = spec_of(new), spec_of(old)
        errors = _schedule(spec, zone_allowed="TZ" in was.get("schedule", ""))
        return errors + (_time_zone(spec) if spec.get("timeZone") != was.get("timeZone") else [])

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        job = (spec_of(obj).get("jobTemplate") or {}).get("spec") or {}
        before = ((spec_of(old).get("jobTemplate") or {}).get("spec") or {}) if old else None
        found = name_warnings(obj) if old is None else []
        found += _job_warnings("spec.jobTemplate.spec", job, before)
        if old is not None and "TZ" in spec_of(obj).get("schedule", ""):
            found.append(
                "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see "
                "https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
            )
        return found


def _schedule(spec: Spec, *, zone_allowed: bool) -> Errors:
    schedule, path = spec.get("schedule", ""), "spec.schedule"
    if not schedule:
        return [FieldError.required(path)]
    errors: Errors = []
    if problem := cron.problem(schedule):
        errors.append(FieldError.invalid(path, schedule, problem))
    if "TZ" in schedule:
        if not zone_allowed:
            why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
            errors.append(FieldError.invalid(path, schedule, why))
        elif "timeZone" in spec:
            why = "cannot use both timeZone field and TZ or CRON_TZ in schedule"
            errors.append(FieldError.invalid(path, schedule, why))
    return errors


def _time_zone(spec: Spec) -> Errors:
    zone = spec.get("timeZone")
    if zone is None:
        return []
    problem = cron.zone_problem(zone) if zone else "must not be empty when given"
    return [FieldError.invalid("spec.timeZone", zone, problem)] if problem else []


# ------------------------------------------------------------------------------------------------ the tables


def _job_state(obj: Object) -> str:
    status = status_of(obj)
    for kind in ("Complete", "Failed"):
        if job_status.is_true(status, kind):
            return kind
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for kind in ("Suspended", "FailureTarget", "SuccessCriteriaMet"):
        if job_status.is_true(status, kind):
            return kind
    return "Running"


def _completions(spec: Spec, done: int) -> str:
    if spec.get("completions") is not None:
        return f"{done}/{spec['completions']}"
    parallel = spec.get("parallelism") or 0
    return f"{done}/1 of {parallel}" if parallel > 1 else f"{done}/1"


def _job_row(obj: Object) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    elapsed = ""
    if status.get("startTime"):
        end = printing.seconds(status["completionTime"]) if status.get("completionTime") else time.time()
        elapsed = printing.duration(end - printing.seconds(status["startTime"]))
    return [
        printing.name(obj),
        _job_state(obj),
        _completions(spec, status.get("succeeded", 0)),
        elapsed,
        printing.age(obj),
        *printing.container_cells((spec.get("template") or {}).get("spec") or {}),
        printing.selector(spec.get("selector")),
    ]


def _cron_job_row(obj: Object) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    job = (spec.get("jobTemplate") or {}).get("spec") or {}
    last, suspend = status.get("lastScheduleTime"), spec.get("suspend")
    return [
        printing.name(obj),
        spec.get("schedule", ""),
        spec.get("timeZone", printing.NONE),
        printing.UNSET if suspend is None else str(suspend),
        len(status.get("active") or []),
        printing.ago(last) if last else printing.NONE,
        printing.age(obj),
        *printing.container_cells((job.get("template") or {}).get("spec") or {}),
        printing.selector(job.get("selector")),
    ]


RESOURCES = (
    resource(
        "batch/v1",
        "Job",
        "jobs",
        all_category=True,
        status=True,
        has_generation=True,
        field_labels=("status.successful",),
        strategy=Jobs(),
        columns=printing.columns("Name, Status, Completions, Duration, Age, Containers*, Images*, Selector*"),
        row=_job_row,
    ),
    resource(
        "batch/v1",
        "CronJob",
        "cronjobs",
        short="cj",
        all_category=True,
        status=True,
        has_generation=True,
        strategy=CronJobs(),
        columns=printing.columns(
            "Name, Schedule, Timezone, Suspend?, Active#, Last Schedule, Age, Containers*, Images*, Selector*"
        ),
        row=_cron_job_row,
    ),
)
