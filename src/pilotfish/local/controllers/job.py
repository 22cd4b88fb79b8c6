"""Job: pods that run to their end, until enough have succeeded or too many have failed.

The rules are those of kubernetes/pkg/controller/job. Every pod carries a finalizer until it has been counted, so that a
pod which is deleted is not forgotten: first its uid is written to status.uncountedTerminatedPods, then the finalizer
goes, then the uid becomes part of the count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from pilotfish.kube.errors import KubeError, is_not_found
from pilotfish.kube.meta import (
    Key,
    annotations_of,
    controller_of,
    controller_reference,
    find_condition,
    format_time,
    is_deleting,
    key_of,
    now,
    parse_time,
    with_condition,
)
from pilotfish.kube.resources import JOBS, PODS, Object
from pilotfish.local.controllers.base import Cluster, Controller, in_batches
from pilotfish.local.controllers.pods import deletion_order, from_template, is_active, is_ready, phase_of, restarts

FINALIZER = "batch.kubernetes.io/job-tracking"
_INDEX = "batch.kubernetes.io/job-completion-index"
_BACKOFF = (10.0, 600.0)  # first and longest pause after failures, seconds
_UNCOUNTED_AT_ONCE = 500
_MANAGER = "kubernetes.io/job-controller"


# ---------------------------------------------------------------------- indexes


def parse_indexes(text: str | None) -> set[int]:
    """`1,3-5` as a set."""
    result: set[int] = set()
    for part in (text or "").split(","):
        first, _, last = part.partition("-")
        if first:
            result |= set(range(int(first), int(last or first) + 1))
    return result


def format_indexes(indexes: Iterable[int]) -> str:
    """As parse_indexes reads it: runs of three or more as a range, shorter ones too (`1,2` is `1,2`)."""
    runs: list[list[int]] = []
    for index in sorted(indexes):
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    texts = (
        str(first) if first == last else f"{first},{last}" if last == first + 1 else f"{first}-{last}"
        for first, last in runs
    )
    return ",".join(texts)


def index_of(pod: Mapping[str, Any]) -> int | None:
    text = annotations_of(pod).get(_INDEX, "")
    return int(text) if text.isdigit() else None


# ---------------------------------------------------------------------- reading the spec


def is_indexed(job: Mapping[str, Any]) -> bool:
    return bool(job["spec"].get("completionMode") == "Indexed")


def parallelism(job: Mapping[str, Any]) -> int:
    value = job["spec"].get("parallelism")
    return 1 if value is None else int(value)


def is_finished(job: Mapping[str, Any]) -> bool:
    return finished_condition(job) is not None


def finished_condition(job: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for kind in ("Complete", "Failed"):
        found = find_condition((job.get("status") or {}).get("conditions"), kind)
        if found is not None and found.get("status") == "True":
            return found
    return None


def _replaces_only_failed(job: Mapping[str, Any]) -> bool:
    policy = job["spec"].get("podReplacementPolicy")
    return bool(policy == "Failed" or (policy is None and job["spec"].get("podFailurePolicy")))


def _has_failed(job: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    if phase_of(pod) == "Failed":
        return True
    # A pod that is deleted may never get to say how it ended.
    return is_deleting(pod) and phase_of(pod) != "Succeeded" and not _replaces_only_failed(job)


def _finish_time(pod: Mapping[str, Any]) -> datetime | None:
    times = [
        parse_time(((one.get("state") or {}).get("terminated") or {}).get("finishedAt"))
        for one in (pod.get("status") or {}).get("containerStatuses") or ()
    ]
    known = [one for one in times if one is not None]
    meta = pod["metadata"]
    return max(known) if known else parse_time(meta.get("deletionTimestamp") or meta.get("creationTimestamp"))


# ---------------------------------------------------------------------- failure policy


def failure_action(job: Mapping[str, Any], pod: Mapping[str, Any]) -> tuple[str, str]:
    """What the pod failure policy says of a failed pod: the action (`Count` when nothing) and, for FailJob, why."""
    policy = job["spec"].get("podFailurePolicy")
    if policy is None or phase_of(pod) != "Failed":
        return "Count", ""
    name = "/".join(key_of(pod))
    for number, rule in enumerate(policy.get("rules") or ()):
        if (found := _exit_code(rule.get("onExitCodes"), pod)) is not None:
            text = f"Container {found[0]} for pod {name} failed with exit code {found[1]}"
        elif (condition := _condition(rule.get("onPodConditions"), pod)) is not None:
            text = f"Pod {name} has condition {condition}"
        else:
            continue
        return rule["action"], f"{text} matching {rule['action']} rule at index {number}"
    return "Count", ""


def _exit_code(wanted: Mapping[str, Any] | None, pod: Mapping[str, Any]) -> tuple[str, int] | None:
    if wanted is None:
        return None
    status = pod.get("status") or {}
    for one in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        ended = (one.get("state") or {}).get("terminated")
        if not ended or not ended.get("exitCode") or wanted.get("containerName") not in {None, "", one["name"]}:
            continue
        if (ended["exitCode"] in wanted["values"]) == (wanted["operator"] == "In"):
            return one["name"], ended["exitCode"]
    return None


def _condition(wanted: Sequence[Mapping[str, Any]] | None, pod: Mapping[str, Any]) -> str | None:
    for pattern in wanted or ():
        found = find_condition((pod.get("status") or {}).get("conditions"), pattern["type"])
        if found is not None and found.get("status") == (pattern.get("status") or "True"):
            return str(pattern["type"])
    return None


# ---------------------------------------------------------------------- counting


@dataclass(slots=True)
class Tally:
    """How far the job is, the pods that end now included."""

    succeeded: int = 0
    failed: int = 0
    succeeded_indexes: set[int] = field(default_factory=set)
    failed_indexes: set[int] = field(default_factory=set)
    uncounted_succeeded: list[str] = field(default_factory=list)
    uncounted_failed: list[str] = field(default_factory=list)
    strip: list[Object] = field(default_factory=list)
    """Pods that are counted once their finalizer is gone."""
    fail_job: str = ""
    """Why the failure policy ends the job."""


def _tracked(pod: Mapping[str, Any]) -> bool:
    return FINALIZER in (pod["metadata"].get("finalizers") or ())


def tally(job: Mapping[str, Any], pods: Sequence[Object]) -> Tally:
    status = job.get("status") or {}
    uncounted = status.get("uncountedTerminatedPods") or {}
    still_tracked = {pod["metadata"]["uid"] for pod in pods if _tracked(pod)}
    result = Tally(
        succeeded=int(status.get("succeeded") or 0),
        failed=int(status.get("failed") or 0),
        succeeded_indexes=parse_indexes(status.get("completedIndexes")),
        failed_indexes=parse_indexes(status.get("failedIndexes")),
    )
    for uid in uncounted.get("succeeded") or ():
        if uid in still_tracked:
            result.uncounted_succeeded.append(uid)
        else:
            result.succeeded += 1
    for uid in uncounted.get("failed") or ():
        if uid in still_tracked:
            result.uncounted_failed.append(uid)
        else:
            result.failed += 1
    known = {*result.uncounted_succeeded, *result.uncounted_failed}
    for pod in pods:
        if not _tracked(pod) or len(result.strip) >= _UNCOUNTED_AT_ONCE:
            continue
        if phase_of(pod) == "Succeeded":
            _count_success(job, pod, result, known)
        elif _has_failed(job, pod):
            _count_failure(job, pod, result, known)
    if is_indexed(job):
        result.succeeded = len(result.succeeded_indexes)
        _fail_indexes(job, pods, result)
    return result


def _count_success(job: Mapping[str, Any], pod: Object, result: Tally, known: set[str]) -> None:
    result.strip.append(pod)
    uid, index = pod["metadata"]["uid"], index_of(pod)
    if is_indexed(job):
        # The index says that it is counted; no uid is needed.
        if index is not None and index < int(job["spec"].get("completions") or 0):
            result.succeeded_indexes.add(index)
    elif uid not in known:
        result.uncounted_succeeded.append(uid)


def _count_failure(job: Mapping[str, Any], pod: Object, result: Tally, known: set[str]) -> None:
    result.strip.append(pod)
    uid, index = pod["metadata"]["uid"], index_of(pod)
    action, why = failure_action(job, pod)
    if action == "FailJob":
        result.fail_job = result.fail_job or why
    if action == "FailIndex" and index is not None:
        result.failed_indexes.add(index)
    if action != "Ignore" and uid not in known:
        result.uncounted_failed.append(uid)


def _index_failures(job: Mapping[str, Any], pods: Sequence[Object], index: int) -> int:
    mine = [pod for pod in pods if index_of(pod) == index and _has_failed(job, pod)]
    return sum(failure_action(job, pod)[0] != "Ignore" for pod in mine)


def _fail_indexes(job: Mapping[str, Any], pods: Sequence[Object], result: Tally) -> None:
    limit = job["spec"].get("backoffLimitPerIndex")
    if limit is None:
        return
    for index in {index_of(pod) for pod in pods} - {None}:
        if index is not None and _index_failures(job, pods, index) > int(limit):
            result.failed_indexes.add(index)
    result.failed_indexes -= result.succeeded_indexes


# ---------------------------------------------------------------------- deciding


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the job ends. `kind` is SuccessCriteriaMet or FailureTarget, then Complete or Failed."""

    kind: str
    reason: str
    message: str


def _all_succeeded(tallied: Tally) -> int:
    return tallied.succeeded + len(tallied.uncounted_succeeded)


def judge(job: Mapping[str, Any], pods: Sequence[Object], tallied: Tally, at: datetime) -> Verdict | None:
    """Whether the job is decided; None while it goes on."""
    spec, conditions = job["spec"], (job.get("status") or {}).get("conditions")
    for kind in ("FailureTarget", "SuccessCriteriaMet"):
        found = find_condition(conditions, kind)
        if found is not None and found.get("status") == "True":
            return Verdict(kind, found.get("reason", ""), found.get("message", ""))
    if tallied.fail_job:
        return Verdict("FailureTarget", "PodFailurePolicy", tallied.fail_job)
    failed = tallied.failed + len(tallied.uncounted_failed)
    limit = spec.get("backoffLimit")
    limit = 6 if limit is None else int(limit)
    if failed > limit or _restarted_too_often(job, pods, limit):
        message = "Job has reached the specified backoff limit"
        return Verdict("FailureTarget", "BackoffLimitExceeded", message)
    left = deadline_left(job, at)
    if left is not None and left <= 0:
        return Verdict("FailureTarget", "DeadlineExceeded", "Job was active longer than specified deadline")
    return _judge_indexes(job, tallied) or _judge_completions(job, pods, tallied)


def _judge_indexes(job: Mapping[str, Any], tallied: Tally) -> Verdict | None:
    spec = job["spec"]
    if not is_indexed(job):
        return None
    most = spec.get("maxFailedIndexes")
    if most is not None and len(tallied.failed_indexes) > int(most):
        message = "Job has exceeded the specified maximal number of failed indexes"
        return Verdict("FailureTarget", "MaxFailedIndexesExceeded", message)
    for number, rule in enumerate((spec.get("successPolicy") or {}).get("rules") or ()):
        wanted = parse_indexes(rule.get("succeededIndexes")) if rule.get("succeededIndexes") else None
        met = tallied.succeeded_indexes if wanted is None else tallied.succeeded_indexes & wanted
        needed = rule.get("succeededCount")
        needed = len(wanted or ()) if needed is None else int(needed)
        if len(met) >= needed:
            return Verdict("SuccessCriteriaMet", "SuccessPolicy", f"Matched rules at index {number}")
    if tallied.failed_indexes and len(tallied.failed_indexes | tallied.succeeded_indexes) >= int(spec["completions"]):
        return Verdict("FailureTarget", "FailedIndexes", "Job has failed indexes")
    return None


def _judge_completions(job: Mapping[str, Any], pods: Sequence[Object], tallied: Tally) -> Verdict | None:
    completions = job["spec"].get("completions")
    succeeded = _all_succeeded(tallied)
    if completions is None:
        # A work queue: one success says that the queue is empty; the others finish what they do.
        done = succeeded > 0 and not any(is_active(pod) for pod in pods)
    else:
        done = succeeded >= int(completions)
    if not done:
        return None
    return Verdict("SuccessCriteriaMet", "CompletionsReached", "Reached expected number of succeeded pods")


def _restarted_too_often(job: Mapping[str, Any], pods: Sequence[Object], limit: int) -> bool:
    if job["spec"]["template"]["spec"].get("restartPolicy") != "OnFailure":
        return False
    total = sum(restarts(pod) for pod in pods if phase_of(pod) in {"Running", "Pending"})
    return total > 0 if limit == 0 else total >= limit


def deadline_left(job: Mapping[str, Any], at: datetime) -> float | None:
    """Seconds until the active deadline; None without one."""
    seconds = job["spec"].get("activeDeadlineSeconds")
    start = parse_time((job.get("status") or {}).get("startTime"))
    if seconds is None or start is None or job["spec"].get("suspend"):
        return None
    return (start + timedelta(seconds=int(seconds)) - at).total_seconds()


@dataclass(slots=True)
class Plan:
    create: list[int | None] = field(default_factory=list)
    """Completion indexes; None for a job without."""
    delete: list[Object] = field(default_factory=list)
    wait: float | None = None
    """Seconds until pods may be made again after failures."""


def plan(job: Mapping[str, Any], pods: Sequence[Object], tallied: Tally, verdict: Verdict | None, at: datetime) -> Plan:
    active = [pod for pod in pods if is_active(pod)]
    if is_deleting(job):
        return Plan()
    if verdict is not None or job["spec"].get("suspend"):
        return Plan(delete=active)
    surplus = _surplus(job, active, tallied)
    wanted = _wanted(job, active, tallied)
    remaining = [pod for pod in active if pod not in surplus]
    if len(remaining) > wanted:
        surplus += deletion_order(remaining)[: len(remaining) - wanted]
    if surplus:
        return Plan(delete=surplus)
    occupied = len(active)
    if _replaces_only_failed(job):
        occupied += sum(is_deleting(pod) and phase_of(pod) not in {"Succeeded", "Failed"} for pod in pods)
    missing = wanted - occupied
    if missing <= 0:
        return Plan()
    wait = backoff_left(job, pods, at)
    if wait > 0:
        return Plan(wait=wait)
    if not is_indexed(job):
        return Plan(create=[None] * missing)
    taken = {index_of(pod) for pod in (pods if _replaces_only_failed(job) else active) if not _ended(pod)}
    taken |= tallied.succeeded_indexes | tallied.failed_indexes
    free = [index for index in range(int(job["spec"]["completions"])) if index not in taken]
    return Plan(create=list(free[:missing]))


def _ended(pod: Mapping[str, Any]) -> bool:
    return phase_of(pod) in {"Succeeded", "Failed"}


def _wanted(job: Mapping[str, Any], active: Sequence[Object], tallied: Tally) -> int:
    completions = job["spec"].get("completions")
    if completions is None:
        return min(len(active), parallelism(job)) if _all_succeeded(tallied) else parallelism(job)
    left = int(completions) - _all_succeeded(tallied) - (len(tallied.failed_indexes) if is_indexed(job) else 0)
    return max(0, min(left, parallelism(job)))


def _surplus(job: Mapping[str, Any], active: Sequence[Object], tallied: Tally) -> list[Object]:
    """Of an Indexed job: pods of an index that is done, out of range, or run by an older pod."""
    if not is_indexed(job):
        return []
    done = tallied.succeeded_indexes | tallied.failed_indexes
    seen: set[int] = set()
    surplus = []
    for pod in sorted(active, key=lambda pod: (not is_ready(pod), pod["metadata"].get("creationTimestamp", ""))):
        index = index_of(pod)
        if index is None or index in done or index in seen or index >= int(job["spec"].get("completions") or 0):
            surplus.append(pod)
        else:
            seen.add(index)
    return surplus


def backoff_left(job: Mapping[str, Any], pods: Sequence[Object], at: datetime) -> float:
    """Seconds to wait after the failures since the last success: ten, doubling, at most ten minutes."""
    successes = [_finish_time(pod) for pod in pods if phase_of(pod) == "Succeeded"]
    last_success = max((one for one in successes if one is not None), default=None)
    failures = [_finish_time(pod) for pod in pods if _has_failed(job, pod)]
    recent = [one for one in failures if one is not None and (last_success is None or one > last_success)]
    if not recent:
        return 0.0
    first, longest = _BACKOFF
    pause: float = min(first * 2.0 ** min(len(recent) - 1, 30), longest)
    return (max(recent) - at).total_seconds() + pause


# ---------------------------------------------------------------------- status


def status(
    job: Mapping[str, Any], pods: Sequence[Object], tallied: Tally, verdict: Verdict | None, at: datetime
) -> Object:
    """The status to write before finalizers are removed. `pods` are as they are after the plan was carried out."""
    before = job.get("status") or {}
    active = [pod for pod in pods if is_active(pod)]
    terminating = sum(is_deleting(pod) and not _ended(pod) for pod in pods)
    conditions = list(before.get("conditions") or ())
    suspended = bool(job["spec"].get("suspend"))
    moment = format_time(at)
    was_suspended = (find_condition(conditions, "Suspended") or {}).get("status") == "True"
    start = before.get("startTime")
    if verdict is None and suspended != was_suspended:
        word = "Suspended" if suspended else "Resumed"
        condition = _make_condition(
            "Suspended", "True" if suspended else "False", f"Job{word}", f"Job {word.lower()}", at
        )
        conditions = with_condition(conditions, condition)
    if suspended and verdict is None:
        start = None
    elif not start:
        start = moment
    uncounted = {
        key: value
        for key, value in (("succeeded", tallied.uncounted_succeeded), ("failed", tallied.uncounted_failed))
        if value
    }
    result: Object = {
        "active": len(active),
        "failed": tallied.failed,
        "succeeded": tallied.succeeded,
        "completedIndexes": format_indexes(tallied.succeeded_indexes),
        "startTime": start,
        "completionTime": before.get("completionTime"),
    }
    if job["spec"].get("backoffLimitPerIndex") is not None:
        result["failedIndexes"] = format_indexes(tallied.failed_indexes)
    if verdict is not None:
        kind, reason, message = verdict.kind, verdict.reason, verdict.message
        if find_condition(conditions, kind) is None:
            conditions = with_condition(conditions, _make_condition(kind, "True", reason, message, at))
        # The last word is said when no pod runs and all are counted.
        settled = not active and not terminating and not uncounted and not tallied.strip
        last = "Complete" if kind == "SuccessCriteriaMet" else "Failed"
        if settled and find_condition(conditions, last) is None:
            conditions = with_condition(conditions, _make_condition(last, "True", reason, message, at))
            if last == "Complete":
                result["completionTime"] = moment
    result["conditions"] = conditions
    kept = {key: value for key, value in result.items() if value}
    ready = sum(is_ready(pod) for pod in active)
    return {**kept, "ready": ready, "terminating": terminating, "uncountedTerminatedPods": uncounted}


def _make_condition(kind: str, state: str, reason: str, message: str, at: datetime) -> Object:
    moment = format_time(at)
    times = {"lastProbeTime": moment, "lastTransitionTime": moment}
    return {"type": kind, "status": state, **times, "reason": reason, "message": message}


def make_pod(job: Mapping[str, Any], index: int | None) -> Object:
    namespace, name = key_of(job)
    prefix = f"{name}-" if index is None else f"{name}-{index}-"
    reference = controller_reference(job, JOBS)
    pod = from_template(job["spec"]["template"], namespace, reference, prefix=prefix)
    meta, spec = pod["metadata"], pod["spec"]
    meta["finalizers"] = [*meta.get("finalizers", ()), FINALIZER]
    if index is not None:
        meta["annotations"][_INDEX] = meta["labels"][_INDEX] = str(index)
        spec.setdefault("hostname", f"{name}-{index}")
        source = {"fieldRef": {"fieldPath": f"metadata.labels['{_INDEX}']"}}
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            env = container.setdefault("env", [])
            if all(one["name"] != "JOB_COMPLETION_INDEX" for one in env):
                env.append({"name": "JOB_COMPLETION_INDEX", "valueFrom": source})
    return pod


# ---------------------------------------------------------------------- the loop


class JobController(Controller):
    name = "job-controller"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._jobs = self.watch(JOBS).store
        self._pods = self.watch(PODS, self.enqueue_claimants(JOBS, self._jobs)).store
        # Pods by the job that controls them, also when it is gone and they wait for its finalizer.
        self._pods.add_index("job", _owner_index)

    async def sync(self, key: Key) -> None:
        job = self._jobs.get(*key)
        pods = self._pods.by_index("job", "/".join(key))
        await self._release([pod for pod in pods if not _is_of(pod, job)])
        if job is None or job["spec"].get("managedBy") not in {None, "", _MANAGER}:
            return
        selector = job["spec"].get("selector")
        pods = await self.cluster.claim(job, JOBS, selector, PODS, self._pods.in_namespace(key[0]))
        if is_finished(job):
            await self._release(pods)
            return
        at = now()
        tallied = tally(job, pods)
        verdict = judge(job, pods, tallied, at)
        todo = plan(job, pods, tallied, verdict, at)
        try:
            if verdict is None:
                # What we take away ourselves, to suspend or to shrink, has not failed: it is not to be counted.
                await self._release(todo.delete)
            await in_batches([partial(self.delete_pod, job, pod) for pod in todo.delete])
            await in_batches([partial(self.create_pod, job, make_pod(job, index)) for index in todo.create])
        finally:
            uid = job["metadata"]["uid"]
            pods = [
                pod for pod in self._pods.by_index("job", "/".join(key)) if (controller_of(pod) or {})["uid"] == uid
            ]
            wanted = status(job, pods, tallied, verdict, at)
            await self.cluster.update_status(JOBS, job, wanted)
        self._tell(job, wanted)
        # Only now that their uids are safe in the status.
        await self._release(tallied.strip)
        waits = [one for one in (todo.wait, deadline_left({**job, "status": wanted}, at)) if one is not None]
        if waits and verdict is None:
            self.queue.add_after(key, max(min(waits), 0.05))

    async def _release(self, pods: Iterable[Object]) -> None:
        """Take the tracking finalizer off."""
        for pod in pods:
            if not _tracked(pod):
                continue
            meta = pod["metadata"]
            left = [one for one in meta["finalizers"] if one != FINALIZER]
            patch = {"metadata": {"finalizers": left or None, "resourceVersion": meta["resourceVersion"]}}
            try:
                await self.cluster.patch(PODS, pod, patch)
            except KubeError as error:
                if not is_not_found(error):
                    raise

    def _tell(self, job: Object, wanted: Mapping[str, Any]) -> None:
        """Events for the conditions that have just come true."""
        before = (job.get("status") or {}).get("conditions")
        for one in wanted.get("conditions") or ():
            old = find_condition(before, one["type"])
            if old is not None and old.get("status") == one["status"]:
                continue
            if one["type"] == "Complete":
                self.events.record(job, "Normal", "Completed", "Job completed")
            elif one["type"] == "Failed":
                self.events.record(job, "Warning", one["reason"], one["message"])
            elif one["type"] == "Suspended":
                self.events.record(job, "Normal", one["reason"].removeprefix("Job"), one["message"])


def _owner_index(pod: Object) -> list[str]:
    reference = controller_of(pod)
    return [f"{key_of(pod)[0]}/{reference['name']}"] if reference is not None and JOBS.matches(reference) else []


def _is_of(pod: Mapping[str, Any], job: Mapping[str, Any] | None) -> bool:
    return job is not None and (controller_of(pod) or {}).get("uid") == job["metadata"]["uid"]
