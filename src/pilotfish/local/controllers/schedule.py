"""Schedules of CronJobs, as github.com/robfig/cron reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_EVERY = re.compile(r"@every (?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$")
_TOO_MANY = 100  # missed times


class ScheduleError(ValueError):
    """The schedule or the time zone cannot be understood."""


def _zone(name: str | None) -> tzinfo:
    if not name:
        return datetime.now().astimezone().tzinfo or UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ScheduleError(f"unknown time zone {name}") from error


def times_after(schedule: str, zone: str | None, start: datetime) -> Iterator[datetime]:
    """The times of a schedule after `start`, without end. Without a zone it is the machine's."""
    text = schedule.strip()
    if match := _EVERY.match(text):
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        step = timedelta(hours=hours, minutes=minutes, seconds=seconds)
        if not step:
            raise ScheduleError(f"schedule {schedule!r}: the interval is zero")
        moment = start.replace(microsecond=0)
        while True:
            moment += step
            yield moment
    try:
        # robfig/cron reads `?` as `*`.
        times = CronSim(_MACROS.get(text, text).replace("?", "*"), start.astimezone(_zone(zone)))
    except CronSimError as error:
        raise ScheduleError(f"schedule {schedule!r}: {error}") from error
    for moment in times:
        yield moment.astimezone(UTC)


def next_time(schedule: str, zone: str | None, after: datetime) -> datetime | None:
    """None for a schedule that never comes (30 February)."""
    return next(times_after(schedule, zone, after), None)


def missed(schedule: str, zone: str | None, since: datetime, until: datetime) -> tuple[datetime | None, int]:
    """The latest time after `since` that is not after `until`, and how many there were (counted up to a hundred)."""
    latest, count = None, 0
    for moment in islice(times_after(schedule, zone, since), _TOO_MANY + 1):
        if moment > until:
            return latest, count
        latest, count = moment, count + 1
    # So many that counting would take for ever: look for the last one from near the end.
    for hours in (1, 24, 24 * 31, 24 * 366):
        start = max(since, until - timedelta(hours=hours))
        recent = None
        for moment in times_after(schedule, zone, start):
            if moment > until:
                break
            recent = moment
        if recent is not None:
            return recent, count
    return latest, count
