"""JSON values as CEL sees them: numbers are doubles where the schema says so, times are times, names are escaped."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from pilotfish.local.apiserver.cel.names import escape
from pilotfish.local.apiserver.schema.node import Schema

_TIMES = frozenset({"date", "date-time", "datetime"})
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def convert(s: Schema, value: Any) -> Any:
    """The value for CEL; itself where nothing differs."""
    if s.cel_plain is None:
        _mark(s, set())
    return value if s.cel_plain else _convert(s, value)


def _mark(s: Schema, active: set[int]) -> bool:
    """Note on every node whether values pass unchanged; structural schemas have no cycles."""
    if s.cel_plain is not None or id(s) in active:
        return s.cel_plain is not False
    active.add(id(s))
    children = [*s.properties.values(), *(c for c in (s.items, s.additional) if c is not None)]
    marks = [_mark(child, active) for child in children]  # every child is to be marked, also after a False
    plain = all(marks) and s.type != "number" and not (s.type == "string" and s.format in {*_TIMES, "duration", "byte"})
    s.cel_plain = plain and all(escape(key) == key for key in s.properties)
    return s.cel_plain


def _convert(s: Schema, value: Any) -> Any:
    if s.cel_plain:
        return value
    if type(value) is dict:
        out = {}
        for key, item in value.items():
            child = s.properties.get(key)
            name = escape(key) if child is not None else key
            child = child or s.additional
            if name is not None:
                out[name] = item if child is None or child.cel_plain else _convert(child, item)
        return out
    if type(value) is list:
        return value if s.items is None else [_convert(s.items, item) for item in value]
    if type(value) is int and s.type == "number":
        return float(value)
    return _special(s, value) if type(value) is str and s.type == "string" else value


def _special(s: Schema, value: str) -> Any:
    from google.protobuf import timestamp_pb2  # noqa: PLC0415 - megabytes, and few rules see a time

    try:
        if s.format in _TIMES:
            moment = timestamp_pb2.Timestamp()
            moment.FromJsonString(value if "T" in value.upper() else value + "T00:00:00Z")
            return moment
        if s.format == "duration":
            return duration(value)
        if s.format == "byte":
            return base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        return value
    return value


def duration(text: str) -> Any:
    """A Go duration such as `1h30m`, as protobuf has it. ValueError when it is none."""
    from google.protobuf import duration_pb2  # noqa: PLC0415 - as above

    digits = text.lstrip("+-")
    total, at = 0.0, 0
    for match in _DURATION.finditer(digits):
        if match.start() != at:
            break
        total += float(match[1]) * _UNITS[match[2]]
        at = match.end()
    if at != len(digits) or not digits:
        raise ValueError(text)
    found = duration_pb2.Duration()
    found.FromNanoseconds(int(-total if text.startswith("-") else total))
    return found
