"""Jobs and CronJobs."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import resource

RESOURCES = (
    resource(
        "batch/v1",
        "Job",
        "jobs",
        all_category=True,
        status=True,
        has_generation=True,
        field_labels=("status.successful",),
    ),
    resource("batch/v1", "CronJob", "cronjobs", short="cj", all_category=True, status=True, has_generation=True),
)
