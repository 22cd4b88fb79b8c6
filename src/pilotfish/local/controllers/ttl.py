"""Finished Jobs go after their spec.ttlSecondsAfterFinished."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pilotfish.kube.client import Propagation
from pilotfish.kube.meta import Key, is_deleting, now, parse_time
from pilotfish.kube.resources import JOBS
from pilotfish.local.controllers.base import Cluster, Controller
from pilotfish.local.controllers.job import finished_condition


def seconds_left(job: Mapping[str, Any], at: datetime) -> float | None:
    """How long the Job still has; None when it runs, or stays for good."""
    ttl, ended = job["spec"].get("ttlSecondsAfterFinished"), finished_condition(job)
    when = parse_time(ended.get("lastTransitionTime")) if ended is not None else None
    if ttl is None or when is None or is_deleting(job):
        return None
    return (when + timedelta(seconds=int(ttl)) - at).total_seconds()


class TTLController(Controller):
    name = "ttl-after-finished-controller"
    workers = 1

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._jobs = self.watch(JOBS).store

    async def sync(self, key: Key) -> None:
        job = self._jobs.get(*key)
        left = seconds_left(job, now()) if job is not None else None
        if job is None or left is None:
            return
        if left > 0:
            self.queue.add_after(key, left)
        else:
            await self.cluster.delete(JOBS, job, propagation=Propagation.FOREGROUND)
