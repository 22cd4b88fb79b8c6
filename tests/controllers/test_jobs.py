"""The decisions of Job, CronJob and what looks after finished ones; autoscaler and disruption budget."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.controllers.builders import NOW, obj, pod, template

from pilotfish.kube.meta import format_time
from pilotfish.local.controllers import cronjob, horizontalpodautoscaler, job, poddisruptionbudget, schedule, ttl

Object = dict[str, Any]


def make(status: Object | None = None, **spec: Any) -> Object:
    spec = {"parallelism": 1, "completions": 1, "backoffLimit": 6, "template": template(restartPolicy="Never"), **spec}
    return obj("Job", "j", api_version="batch/v1", spec=spec, status=status or {"startTime": format_time(NOW)})


def work(
    owner: Object, phase: str = "Running", index: int | None = None, code: int = 0, tracked: bool = True, **more: Any
) -> Object:
    annotations = {"batch.kubernetes.io/job-completion-index": str(index)} if index is not None else {}
    one = pod(owner=owner, phase=phase, annotations=annotations, **more)
    if tracked:
        one["metadata"]["finalizers"] = [job.FINALIZER]
    if phase in {"Failed", "Succeeded"}:
        ended = {"exitCode": code, "finishedAt": format_time(NOW - timedelta(hours=1))}
        one["status"]["containerStatuses"] = [{"name": "c", "state": {"terminated": ended}}]
    return one


def decide(one: Object, pods: list[Object], at: datetime = NOW) -> tuple[job.Plan, Object, job.Verdict | None]:
    tallied = job.tally(one, pods)
    verdict = job.judge(one, pods, tallied, at)
    plan = job.plan(one, pods, tallied, verdict, at)
    return plan, job.status(one, pods, tallied, verdict, at), verdict


@given(st.sets(st.integers(0, 40)))
def test_indexes_as_text(indexes: set[int]) -> None:
    """What is written is read again."""
    assert job.parse_indexes(job.format_indexes(indexes)) == indexes


def test_indexes_in_the_form_of_kubernetes() -> None:
    """Runs of three and more are ranges."""
    assert job.format_indexes({1, 3, 4, 5, 7, 8}) == "1,3-5,7,8"


def test_pods_that_are_made() -> None:
    """No more than parallelism at a time, no more than completions in all."""
    one = make(parallelism=3, completions=5)
    assert len(decide(one, [])[0].create) == 3
    assert len(decide(one, [work(one), work(one, "Succeeded"), work(one, "Succeeded")])[0].create) == 2
    assert len(decide(one, [work(one), *(work(one, "Succeeded") for _ in range(4))])[0].create) == 0
    suspended = make(suspend=True)
    running = work(suspended)
    plan, status, _ = decide(suspended, [running])
    assert (plan.create, plan.delete) == ([], [running])
    assert status["conditions"][0]["reason"] == "JobSuspended"
    assert "startTime" not in status


def test_counting_in_two_steps() -> None:
    """A finished pod is noted by uid while it has the finalizer, and counted, once, when it has not."""
    one = make(completions=2)
    ended = work(one, "Succeeded")
    uid = ended["metadata"]["uid"]
    _, status, _ = decide(one, [ended])
    assert status["uncountedTerminatedPods"] == {"succeeded": [uid]}
    assert "succeeded" not in status
    one["status"] = status
    _, again, _ = decide(one, [ended])
    assert again["uncountedTerminatedPods"] == {"succeeded": [uid]}
    ended["metadata"]["finalizers"] = []
    for pods in ([ended], []):
        _, after, _ = decide(one, pods)
        assert (after["succeeded"], after["uncountedTerminatedPods"]) == (1, {})
        assert decide({**one, "status": after}, pods)[1]["succeeded"] == 1


def test_completion_is_said_last() -> None:
    """First the criteria are met and running pods are stopped; Complete comes when none is left and all are counted."""
    one = make({"startTime": "2030-01-01T00:00:00Z", "succeeded": 1}, completions=1, parallelism=2)
    spare = work(one)
    plan, status, _ = decide(one, [spare])
    assert plan.delete == [spare]
    assert [c["type"] for c in status["conditions"]] == ["SuccessCriteriaMet"]
    one["status"] = status
    _, done, _ = decide(one, [])
    assert [(c["type"], c["reason"]) for c in done["conditions"]] == [
        ("SuccessCriteriaMet", "CompletionsReached"),
        ("Complete", "CompletionsReached"),
    ]
    assert done["completionTime"] == format_time(NOW)


def test_work_queue_without_completions() -> None:
    """One success means that no more pods are made; the job is complete when the others have ended."""
    one = make(parallelism=3, completions=None)
    busy = [work(one), work(one), work(one, "Succeeded")]
    plan, _, verdict = decide(one, busy)
    assert (plan.create, plan.delete, verdict) == ([], [], None)
    assert decide(one, [work(one, "Succeeded")])[2] is not None


def test_backoff_limit_and_pause() -> None:
    """After a failure the next pod waits ten seconds, then twenty; beyond the limit the job fails."""
    one = make(backoffLimit=2)
    failed = work(one, "Failed", code=1)
    failed["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = format_time(NOW)
    plan, _, verdict = decide(one, [failed])
    assert (plan.create, plan.wait, verdict) == ([], 10.0, None)
    assert decide(one, [failed, work(one, "Failed")])[0].wait == 20.0
    assert decide(one, [failed], NOW + timedelta(seconds=10))[0].create == [None]
    verdict = decide(one, [work(one, "Failed") for _ in range(3)])[2]
    assert verdict is not None
    assert (verdict.kind, verdict.reason) == ("FailureTarget", "BackoffLimitExceeded")


def test_deadline() -> None:
    """A job that is active too long fails and its pods are stopped."""
    one = make({"startTime": format_time(NOW - timedelta(seconds=30))}, activeDeadlineSeconds=30)
    running = work(one)
    plan, status, _ = decide(one, [running])
    assert plan.delete == [running]
    assert status["conditions"][0]["reason"] == "DeadlineExceeded"
    assert job.deadline_left(one, NOW - timedelta(seconds=10)) == 10.0


def test_indexed() -> None:
    """Every index gets a pod with its number; done ones get no other, doubles are removed."""
    one = make(completions=4, parallelism=4, completionMode="Indexed")
    older, newer = work(one, index=1), work(one, index=1)
    plan, _, _ = decide(one, [work(one, "Succeeded", 0), older, newer])
    assert plan.delete == [newer]
    plan, status, _ = decide(one, [work(one, "Succeeded", 0), older])
    assert plan.create == [2, 3]
    assert status["completedIndexes"] == "0"
    made = job.make_pod(one, 2)
    assert made["spec"]["hostname"] == "j-2"
    assert made["metadata"]["generateName"] == "j-2-"
    assert made["spec"]["containers"][0]["env"][0]["name"] == "JOB_COMPLETION_INDEX"


def test_backoff_limit_per_index() -> None:
    """An index that fails too often is given up; the job fails when every index is decided."""
    one = make(completions=2, parallelism=2, completionMode="Indexed", backoffLimitPerIndex=0, backoffLimit=2**31 - 1)
    plan, status, verdict = decide(one, [work(one, "Failed", 0, code=1), work(one, index=1)])
    assert (plan.create, verdict, status["failedIndexes"]) == ([], None, "0")
    verdict = decide(one, [work(one, "Failed", 0, code=1), work(one, "Succeeded", 1)])[2]
    assert verdict is not None
    assert verdict.reason == "FailedIndexes"


@pytest.mark.parametrize(
    ("rule", "reason", "counted"),
    [
        ({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}, "PodFailurePolicy", 1),
        ({"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [42]}}, None, 1),
        ({"action": "Ignore", "onExitCodes": {"containerName": "c", "operator": "In", "values": [42]}}, None, 0),
        ({"action": "FailJob", "onExitCodes": {"containerName": "x", "operator": "In", "values": [42]}}, None, 1),
        ({"action": "Ignore", "onPodConditions": [{"type": "Ready", "status": "False"}]}, None, 0),
    ],
)
def test_pod_failure_policy(rule: Object, reason: str | None, counted: int) -> None:
    """Exit codes and conditions decide whether a failure ends the job, counts or is ignored."""
    one = make(podFailurePolicy={"rules": [rule]})
    _, status, verdict = decide(one, [work(one, "Failed", code=42)])
    assert (verdict.reason if verdict else None) == reason
    assert len(status["uncountedTerminatedPods"].get("failed", ())) == counted


def test_time_to_live() -> None:
    """A finished job goes its time to live after it finished; one that runs, or has none, stays."""
    ended = {"type": "Complete", "status": "True", "lastTransitionTime": format_time(NOW - timedelta(seconds=3))}
    assert ttl.seconds_left(make({"conditions": [ended]}, ttlSecondsAfterFinished=10), NOW) == 7.0
    assert ttl.seconds_left(make(ttlSecondsAfterFinished=10), NOW) is None
    assert ttl.seconds_left(make({"conditions": [ended]}), NOW) is None


# ---------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("*/5 * * * *", "UTC", datetime(2030, 1, 1, 12, 5, tzinfo=UTC)),
        ("0 9 * * MON", "UTC", datetime(2030, 1, 7, 9, 0, tzinfo=UTC)),
        ("0 9 * * *", "Europe/Berlin", datetime(2030, 1, 2, 8, 0, tzinfo=UTC)),
        ("@daily", "UTC", datetime(2030, 1, 2, tzinfo=UTC)),
        ("@every 90m", None, datetime(2030, 1, 1, 13, 30, tzinfo=UTC)),
        ("0 0 ? * 0", "UTC", datetime(2030, 1, 6, tzinfo=UTC)),
    ],
)
def test_next_time(text: str, zone: str | None, expected: datetime) -> None:
    """Fields, names, macros, intervals and time zones."""
    assert schedule.next_time(text, zone, NOW) == expected


@pytest.mark.parametrize(
    ("text", "zone"), [("61 * * * *", None), ("nonsense", None), ("* * * * *", "Mars/Crater"), ("@every 0s", None)]
)
def test_bad_schedule(text: str, zone: str | None) -> None:
    """What cannot be understood is one kind of error."""
    with pytest.raises(schedule.ScheduleError):
        schedule.next_time(text, zone, NOW)


def test_missed_times() -> None:
    """The latest missed time counts, however many there were."""
    assert schedule.missed("*/10 * * * *", "UTC", NOW, NOW + timedelta(minutes=25)) == (NOW + timedelta(minutes=20), 2)
    assert schedule.missed("@hourly", "UTC", NOW, NOW + timedelta(minutes=5)) == (None, 0)
    latest, count = schedule.missed("* * * * *", "UTC", NOW - timedelta(days=40), NOW + timedelta(seconds=30))
    assert latest == NOW
    assert count > 100


def cron(**spec: Any) -> Object:
    template_spec = make()["spec"]
    one = obj(
        "CronJob",
        "c",
        api_version="batch/v1",
        spec={"schedule": "*/10 * * * *", "timeZone": "UTC", "jobTemplate": {"spec": template_spec}, **spec},
    )
    one["metadata"]["creationTimestamp"] = format_time(NOW)
    return one


LATER = NOW + timedelta(minutes=10, seconds=5)


def test_cron_job_starts_once_for_a_time() -> None:
    """At the time a job is made, named after it; the same time again makes none."""
    one = cron()
    assert cronjob.plan(one, [], NOW + timedelta(minutes=9)).start is None
    plan = cronjob.plan(one, [], LATER)
    assert plan.start == NOW + timedelta(minutes=10)
    assert plan.wait == pytest.approx(595.1)
    made = cronjob.make_job(one, plan.start)
    assert made["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"] == "2030-01-01T12:10:00Z"
    existing = make() | {"metadata": {**make()["metadata"], "name": made["metadata"]["name"]}}
    assert cronjob.plan(one, [existing], LATER).start is None


def test_cron_job_concurrency() -> None:
    """Forbid leaves the time out while one runs; Replace stops that one; Allow does not mind."""
    running = make()
    assert cronjob.plan(cron(concurrencyPolicy="Allow"), [running], LATER).start is not None
    forbidden = cronjob.plan(cron(concurrencyPolicy="Forbid"), [running], LATER)
    assert forbidden.start is None
    assert forbidden.events[0][1] == "JobAlreadyActive"
    replaced = cronjob.plan(cron(concurrencyPolicy="Replace"), [running], LATER)
    assert replaced.replace == [running]
    assert replaced.start is not None


def test_cron_job_deadline_and_suspension() -> None:
    """A time that is too long ago is left out; a suspended one does nothing."""
    late = NOW + timedelta(minutes=10, seconds=40)
    assert cronjob.plan(cron(startingDeadlineSeconds=20), [], late).start is None
    assert cronjob.plan(cron(startingDeadlineSeconds=60), [], late).start is not None
    assert cronjob.plan(cron(suspend=True), [], LATER) == cronjob.Plan()


def test_cron_job_history() -> None:
    """Of the finished jobs the last three that succeeded and the last that failed stay."""

    def finished(kind: str, minute: int) -> Object:
        return make({"startTime": f"2030-01-01T11:{minute:02}:00Z", "conditions": [{"type": kind, "status": "True"}]})

    good = [finished("Complete", minute) for minute in range(5)]
    bad = [finished("Failed", minute) for minute in range(2)]
    assert cronjob.superfluous(cron(), [*reversed(good), *bad]) == [good[0], good[1], bad[0]]
    assert cronjob.superfluous(cron(successfulJobsHistoryLimit=0, failedJobsHistoryLimit=2), good) == good


# ---------------------------------------------------------------------- autoscaler, budget


@pytest.mark.parametrize(("replicas", "expected"), [(0, 0), (1, 2), (2, 2), (3, 3), (9, 4)])
def test_autoscaler_keeps_the_bounds(replicas: int, expected: int) -> None:
    """Without metrics only the bounds count; zero means switched off."""
    one = obj("HorizontalPodAutoscaler", spec={"minReplicas": 2, "maxReplicas": 4, "scaleTargetRef": {}})
    assert horizontalpodautoscaler.desired(one, replicas)[0] == expected


def test_autoscaler_says_that_metrics_are_missing() -> None:
    """ScalingActive is False with the metric's reason; a target that is not there is AbleToScale False."""
    metrics = [{"type": "Resource", "resource": {"name": "cpu"}}]
    one = obj("HorizontalPodAutoscaler", spec={"maxReplicas": 4, "metrics": metrics})
    status = horizontalpodautoscaler.status(one, 2, (2, ""), "", NOW)
    assert {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]} == {
        "AbleToScale": ("True", "SucceededGetScale"),
        "ScalingActive": ("False", "FailedGetResourceMetric"),
    }
    status = horizontalpodautoscaler.status(one, None, (0, ""), "not found", NOW)
    assert [(c["status"], c["reason"]) for c in status["conditions"]] == [("False", "FailedGetScale")]


@pytest.mark.parametrize(
    ("spec", "pods", "wanted", "expected"),
    [
        ({"minAvailable": 2}, 3, 5, (3, 2)),
        ({"minAvailable": "50%"}, 3, 5, (5, 3)),
        ({"maxUnavailable": 1}, 3, 5, (5, 4)),
        ({"maxUnavailable": "50%"}, 3, 5, (5, 2)),
        ({}, 3, 5, (3, 1)),
    ],
)
def test_budget_needs(spec: Object, pods: int, wanted: int, expected: tuple[int, int]) -> None:
    """Numbers are of the pods there are, percentages and maxUnavailable of those there should be."""
    assert poddisruptionbudget.healthy_needed(obj("PodDisruptionBudget", spec=spec), pods, wanted) == expected


def test_budget_counts_evicted_pods_out() -> None:
    """A pod whose eviction was just granted is not healthy any more."""
    pods = [pod("a"), pod("b"), pod("c", ready=False)]
    one = obj(
        "PodDisruptionBudget", spec={}, status={"disruptedPods": {"a": format_time(NOW), "gone": format_time(NOW)}}
    )
    status = poddisruptionbudget.status(one, pods, 3, 1, NOW)
    assert (status["currentHealthy"], status["disruptionsAllowed"], list(status["disruptedPods"])) == (1, 0, ["a"])
    later = poddisruptionbudget.status(one, pods, 3, 1, NOW + timedelta(minutes=3))
    assert (later["currentHealthy"], later["disruptionsAllowed"]) == (2, 1)
