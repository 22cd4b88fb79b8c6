"""The schedules of CronJobs: five fields, or `@hourly` and its like, or `@every 1h30m`."""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...], int], ...] = (
    ("minute", 0, 59, (), 0),
    ("hour", 0, 23, (), 0),
    ("day of month", 1, 31, (), 0),
    ("month", 1, 12, _MONTHS, 1),
    ("day of week", 0, 6, _DAYS, 0),
)
_NAMED = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_DURATION = re.compile(r"[+-]?([0-9]*\.?[0-9]+(ns|us|µs|μs|ms|s|m|h))+")
_ZONE = re.compile(r"[A-Za-z._0-9+-]{1,14}")


def problem(schedule: str) -> str:
    """What is wrong with a schedule; empty when nothing is."""
    if schedule.startswith(("TZ=", "CRON_TZ=")):
        zone, _, schedule = schedule.partition(" ")
        if found := zone_problem(zone.partition("=")[2]):
            return found
        schedule = schedule.strip()
    if schedule.startswith("@"):
        every = schedule.removeprefix("@every ")
        if schedule in _NAMED or (every != schedule and (_DURATION.fullmatch(every) or every == "0")):
            return ""
        return f"unrecognized descriptor: {schedule}"
    fields = schedule.split()
    if len(fields) != len(_FIELDS):
        return f"expected exactly 5 fields, found {len(fields)}: {schedule}"
    for text, (what, low, high, names, first) in zip(fields, _FIELDS, strict=True):
        for part in text.split(","):
            if found := _part_problem(part, low, high, names, first):
                return f"{what}: {found}"
    return ""


def _part_problem(part: str, low: int, high: int, names: tuple[str, ...], first: int) -> str:
    span, slash, step = part.partition("/")
    if slash and (not step.isdecimal() or int(step) == 0):
        return f"step of a range must be a positive number: {part}"
    if span in ("*", "?"):
        return ""
    ends = span.split("-")
    if len(ends) > 2:
        return f"too many hyphens: {part}"
    numbers = []
    for end in ends:
        if end.lower() in names:
            numbers.append(names.index(end.lower()) + first)
        elif end.isdecimal():
            numbers.append(int(end))
        else:
            return f"not a number: {end!r}"
    if numbers[0] < low or numbers[-1] > high:
        return f"must be between {low} and {high}: {part}"
    if numbers[0] > numbers[-1]:
        return f"beginning of range is beyond its end: {part}"
    return ""


def zone_problem(zone: str) -> str:
    """What is wrong with the name of a time zone; empty when nothing is."""
    unknown = f"unknown time zone {zone}"
    for part in zone.split("/"):
        if part in (".", "..") or part.startswith("-") or not _ZONE.fullmatch(part):
            return unknown
    if zone.lower() == "local":
        return "must be an explicit time zone as defined in https://www.iana.org/time-zones"
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return unknown
    return ""
