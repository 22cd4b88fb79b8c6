"""The string and number formats that the API server knows; any other `format` means nothing."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from datetime import date, datetime
from urllib.parse import urlsplit

INTEGER_BITS = {"int32": 32, "int64": 64}

_UUID = r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?%s[0-9a-f]{3}-?%s[0-9a-f]{3}-?[0-9a-f]{12}$"
_PATTERNS = {
    "uuid": _UUID % ("[0-9a-f]", "[0-9a-f]"),
    "uuid3": _UUID % ("3", "[0-9a-f]"),
    "uuid4": _UUID % ("4", "[89ab]"),
    "uuid5": _UUID % ("5", "[89ab]"),
    "mac": r"^([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}$",
    "hostname": r"^([a-zA-Z0-9\u00C0-\uFFFF]([a-zA-Z0-9\u00C0-\uFFFF-]{0,62}[a-zA-Z0-9\u00C0-\uFFFF])?\.?)+$",
    "hexcolor": r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$",
    "rgbcolor": r"^rgb\(\s*\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}\s*\)$",
    "ssn": r"^\d{3}[- ]?\d{2}[- ]?\d{4}$",
    "creditcard": r"^\d{13,19}$",
    "isbn10": r"^(?:\d[- ]?){9}[\dX]$",
    "isbn13": r"^(?:\d[- ]?){13}$",
    "bsonobjectid": r"^[0-9a-fA-F]{24}$",
    "duration": r"^([+-]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))+$|^[+-]?0$|^(\d+\s*(ns|us|µs|ms|s|m|h|d|w|"
    r"nanoseconds?|microseconds?|milliseconds?|seconds?|minutes?|hours?|days?|weeks?)\s*)+$",
    "date-time": r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$",
    "email": r"^[^@\s]+@[^@\s]+$",
    "k8s-short-name": r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
    "k8s-long-name": r"^(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
}
_COMPILED = {name: re.compile(pattern) for name, pattern in _PATTERNS.items()}
_LENGTHS = {"hostname": 255}


def _attempt(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def works(text: str) -> bool:
        try:
            parse(text)
        except (ValueError, binascii.Error):
            return False
        return True

    return works


def _uri(text: str) -> object:
    parts = urlsplit(text)
    if not (parts.scheme or text.startswith("/")) or re.search(r"\s", text):
        raise ValueError(text)
    return parts


def _date_time(text: str) -> bool:
    if not _COMPILED["date-time"].match(text):
        return False
    return _attempt(lambda t: datetime.fromisoformat(re.sub(r"\.\d+", "", t.upper())))(text)


_base64 = _attempt(lambda text: base64.b64decode(text, validate=True))

_CHECKS: dict[str, Callable[[str], bool]] = {
    "ipv4": _attempt(ipaddress.IPv4Address),
    "ipv6": _attempt(ipaddress.IPv6Address),
    "cidr": lambda text: "/" in text and _attempt(lambda t: ipaddress.ip_network(t, strict=False))(text),
    "byte": lambda text: bool(text) and _base64(text),  # Kubernetes takes the empty text for no base64
    "date": _attempt(date.fromisoformat),
    "date-time": _date_time,
    "datetime": _date_time,
    "uri": _attempt(_uri),
}


def valid(name: str, text: str) -> bool:
    """Whether the text has the format; true for formats that nobody knows."""
    if check := _CHECKS.get(name):
        return check(text)
    pattern = _COMPILED.get(name)
    return pattern is None or (len(text) <= _LENGTHS.get(name, 1 << 30) and pattern.match(text) is not None)


def fits(name: str, number: float) -> bool:
    """Whether the number is an integer of so many bits."""
    half = 1 << (INTEGER_BITS[name] - 1)
    return float(number).is_integer() and -half <= number < half
