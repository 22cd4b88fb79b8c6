"""Prometheus' text format, read fast: https://prometheus.io/docs/instrumenting/exposition_formats/.

A page is nearly the same every time it is scraped. So a line is taken apart once, and known by its text afterwards:
reading a page again costs a split and a look-up a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from pilotfish.errors import UserError

WANTED = ("istio_", "pilot_xds", "pilot_total_xds_rejects", "pilot_proxy_convergence_time", "process_")
"""Beginnings of the names that are kept."""
UNWANTED = ("istio_request_bytes_bucket", "istio_response_bytes_bucket")
"""Two thirds of all series, for distributions of sizes that no view shows; their sums and counts are kept."""

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(,|$)')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n"}


class ExpositionError(UserError):
    """A line that is not of the format; the text says which."""


class Series(NamedTuple):
    """A metric's name and its labels, sorted."""

    name: str
    labels: tuple[tuple[str, str], ...]


def lines(page: str, wanted: tuple[str, ...] = WANTED) -> Iterator[tuple[str, str]]:
    """`(series, value)` as texts, of every wanted line. A time behind the value is left out: what counts is when we
    asked. ExpositionError for a line without a value."""
    for line in page.split("\n"):
        if not line.startswith(wanted) or line.startswith(UNWANTED):
            continue
        end = line.rfind("}") + 1
        if end:
            rest = line[end:].split()
            key = line[:end]
        else:
            key, *rest = line.split()
        if not 1 <= len(rest) <= 2:
            raise ExpositionError(f"no value in the line {line[:200]!r}")
        yield key, rest[0]


def series(text: str) -> Series:
    """What stands before the value. Raises ExpositionError."""
    match = _NAME.match(text)
    if match is None:
        raise ExpositionError(f"no metric name in {text[:200]!r}")
    rest = text[match.end() :].strip()
    if not rest:
        return Series(match[0], ())
    if not (rest.startswith("{") and rest.endswith("}")):
        raise ExpositionError(f"labels are not in braces in {text[:200]!r}")
    inner, at = rest[1:-1], 0
    labels: dict[str, str] = {}
    while inner[at:].strip():
        one = _LABEL.match(inner, at)
        if one is None:
            raise ExpositionError(f"label {len(labels) + 1} cannot be read in {text[:200]!r}")
        labels[one[1]] = (
            _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), one[2]) if "\\" in one[2] else one[2]
        )
        at = one.end()
    return Series(match[0], tuple(sorted(labels.items())))


def value(text: str) -> float:
    """A value. `Nan`, `+Inf` and the like are Python's too; underscores are not the format's."""
    try:
        if "_" in text:
            raise ValueError
        return float(text)
    except ValueError as error:
        raise ExpositionError(f"{text[:60]!r} is no number") from error
