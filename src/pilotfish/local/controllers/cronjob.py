"""CronJob: a Job at every time of a schedule.

The rules are those of kubernetes/pkg/controller/cronjob/cronjob_controllerv2.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pilotfish.kube.errors import KubeError, is_already_exists
from pilotfish.kube.meta import (
    Key,
    controller_reference,
    format_time,
    is_controlled_by,
    is_deleting,
    key_of,
    now,
    parse_time,
)
from pilotfish.kube.resources import CRON_JOBS, JOBS, Object
from pilotfish.local.controllers.base import Cluster, Controller
from pilotfish.local.controllers.job import finished_condition
from pilotfish.local.controllers.schedule import ScheduleError, missed, next_time

_SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"
_INSTANTIATED = "cronjob.kubernetes.io/instantiate"
_TOO_MANY = 100
_SLACK = 0.1  # seconds after the time, so that it is past


@dataclass(slots=True)
class Plan:
    start: datetime | None = None
    """The scheduled time of the Job to make."""
    replace: list[Object] = field(default_factory=list)
    """Running Jobs to delete first."""
    remove: list[Object] = field(default_factory=list)
    """Finished Jobs beyond the history limits."""
    wait: float | None = None
    """Seconds until the next time."""
    events: list[tuple[str, str, str]] = field(default_factory=list)


def _created(obj: Mapping[str, Any]) -> tuple[str, str]:
    return obj["metadata"].get("creationTimestamp", ""), obj["metadata"]["name"]


def running(jobs: Sequence[Object]) -> list[Object]:
    return sorted((job for job in jobs if finished_condition(job) is None and not is_deleting(job)), key=_created)


def superfluous(cron_job: Mapping[str, Any], jobs: Sequence[Object]) -> list[Object]:
    """Finished Jobs beyond the history limits, the oldest."""
    spec, result = cron_job["spec"], []
    for kind, name, default in (("Complete", "successfulJobsHistoryLimit", 3), ("Failed", "failedJobsHistoryLimit", 1)):
        limit = spec.get(name)
        limit = default if limit is None else int(limit)
        finished = [job for job in jobs if (finished_condition(job) or {}).get("type") == kind]
        finished.sort(key=lambda job: ((job.get("status") or {}).get("startTime") or "", *_created(job)))
        result += finished[: max(0, len(finished) - limit)]
    return [job for job in result if not is_deleting(job)]


def plan(cron_job: Mapping[str, Any], jobs: Sequence[Object], at: datetime) -> Plan:
    """What to do now. `jobs` are those the CronJob controls. Raises ScheduleError."""
    spec, status = cron_job["spec"], cron_job.get("status") or {}
    result = Plan(remove=superfluous(cron_job, jobs))
    if is_deleting(cron_job) or spec.get("suspend"):
        return result
    schedule, zone = spec["schedule"], spec.get("timeZone")
    coming = next_time(schedule, zone, at)
    result.wait = (coming - at).total_seconds() + _SLACK if coming else None
    since = parse_time(status.get("lastScheduleTime")) or parse_time(cron_job["metadata"]["creationTimestamp"]) or at
    deadline = spec.get("startingDeadlineSeconds")
    if deadline is not None:
        since = max(since, at - timedelta(seconds=int(deadline)))
    latest, count = missed(schedule, zone, since, at)
    if latest is None:
        return result
    if count > _TOO_MANY:
        message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
        result.events.append(("Warning", "TooManyMissedTimes", message))
    if deadline is not None and latest + timedelta(seconds=int(deadline)) < at:
        result.events.append(
            ("Warning", "MissSchedule", f"Missed scheduled time to start a job: {format_time(latest)}")
        )
        return result
    active = running(jobs)
    if job_name(cron_job, latest) in {job["metadata"]["name"] for job in jobs}:
        return result
    policy = spec.get("concurrencyPolicy", "Allow")
    if policy == "Forbid" and active:
        message = "Not starting job because prior execution is running and concurrency policy is Forbid"
        result.events.append(("Normal", "JobAlreadyActive", message))
        return result
    if policy == "Replace":
        result.replace = active
    result.start = latest
    return result


def job_name(cron_job: Mapping[str, Any], scheduled: datetime) -> str:
    """The same for the same time: a Job is not made twice."""
    return f"{cron_job['metadata']['name']}-{int(scheduled.timestamp()) // 60}"


def make_job(cron_job: Mapping[str, Any], scheduled: datetime) -> Object:
    template = deepcopy(cron_job["spec"]["jobTemplate"])
    meta = template.get("metadata") or {}
    return {
        "apiVersion": JOBS.api_version,
        "kind": JOBS.kind,
        "metadata": {
            "name": job_name(cron_job, scheduled),
            "namespace": key_of(cron_job)[0],
            "labels": dict(meta.get("labels") or {}),
            "annotations": {**(meta.get("annotations") or {}), _SCHEDULED: format_time(scheduled)},
            "ownerReferences": [controller_reference(cron_job, CRON_JOBS)],
        },
        "spec": template["spec"],
    }


def status(cron_job: Mapping[str, Any], jobs: Sequence[Object], started: datetime | None) -> Object:
    result = dict(cron_job.get("status") or {})
    result["active"] = [
        {
            "apiVersion": JOBS.api_version,
            "kind": JOBS.kind,
            "name": job["metadata"]["name"],
            "namespace": key_of(job)[0],
            "resourceVersion": job["metadata"]["resourceVersion"],
            "uid": job["metadata"]["uid"],
        }
        for job in running(jobs)
    ]
    # A reference keeps the version at which it was first seen, or every change of a Job would be one of ours.
    before = {one.get("uid"): one for one in (cron_job.get("status") or {}).get("active") or ()}
    result["active"] = [before.get(one["uid"], one) for one in result["active"]]
    if started is not None:
        result["lastScheduleTime"] = format_time(started)
    completed = [(job.get("status") or {}).get("completionTime") for job in jobs]
    result["lastSuccessfulTime"] = max(filter(None, [result.get("lastSuccessfulTime"), *completed]), default=None)
    return {key: value for key, value in result.items() if value}


class CronJobController(Controller):
    name = "cronjob-controller"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._cron_jobs = self.watch(CRON_JOBS).store
        self._jobs = self.watch(JOBS, self.enqueue_owner(CRON_JOBS)).store

    async def sync(self, key: Key) -> None:
        cron_job = self._cron_jobs.get(*key)
        if cron_job is None:
            return
        jobs = self._owned(cron_job)
        try:
            todo = plan(cron_job, jobs, now())
        except ScheduleError as error:
            self.events.record(cron_job, "Warning", "UnparseableSchedule", f"unparseable schedule: {error}")
            return
        for kind, reason, message in todo.events:
            self.events.record(cron_job, "Warning" if kind == "Warning" else "Normal", reason, message)
        for job in [*todo.remove, *todo.replace]:
            await self.cluster.delete(JOBS, job)
            self.events.record(cron_job, "Normal", "SuccessfulDelete", f"Deleted job {job['metadata']['name']}")
        if todo.start is not None:
            await self._start(cron_job, todo.start)
        self._tell_finished(cron_job, jobs)
        wanted = status(cron_job, self._owned(cron_job), todo.start)
        await self.cluster.update_status(CRON_JOBS, cron_job, wanted)
        if todo.wait is not None:
            self.queue.add_after(key, todo.wait)

    def _owned(self, cron_job: Object) -> list[Object]:
        return [job for job in self._jobs.in_namespace(key_of(cron_job)[0]) if is_controlled_by(job, cron_job)]

    async def _start(self, cron_job: Object, scheduled: datetime) -> None:
        job = make_job(cron_job, scheduled)
        try:
            await self.cluster.create(JOBS, job)
        except KubeError as error:
            if is_already_exists(error):
                return
            self.events.record(cron_job, "Warning", "FailedCreate", f"Error creating job: {error}")
            raise
        self.events.record(cron_job, "Normal", "SuccessfulCreate", f"Created job {job['metadata']['name']}")

    def _tell_finished(self, cron_job: Object, jobs: Sequence[Object]) -> None:
        was_active = {one.get("uid") for one in (cron_job.get("status") or {}).get("active") or ()}
        for job in jobs:
            ended = finished_condition(job)
            if ended is not None and job["metadata"]["uid"] in was_active:
                message = f"Saw completed job: {job['metadata']['name']}, condition: {ended['type']}"
                self.events.record(cron_job, "Normal", "SawCompletedJob", message)
