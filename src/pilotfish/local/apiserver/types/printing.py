"""What the columns of `kubectl get` show, in the words its users know."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pilotfish.local.apiserver.resource import Column, Object

NONE = "<none>"
UNSET = "<unset>"
UNKNOWN = "<unknown>"

_TYPES = {"#": "integer", "?": "boolean"}


def columns(text: str) -> tuple[Column, ...]:
    """Columns from `Name, Desired#, Suspend?, Node*`: # is an integer, ? a boolean, * shown with `-o wide` only."""
    made = []
    for word in text.split(","):
        name = word.strip()
        wide = name.endswith("*")
        name = name.removesuffix("*")
        kind = _TYPES.get(name[-1], "string")
        name = name.rstrip("#?")
        shown = "name" if name == "Name" else ""
        made.append(Column(name, kind, priority=int(wide), format=shown))
    return tuple(made)


def seconds(timestamp: str) -> float:
    """A timestamp of an object, as seconds since 1970."""
    return datetime.fromisoformat(timestamp).timestamp()


def duration(elapsed: float) -> str:
    """A length of time in seconds, with at most two units: `45s`, `9m30s`, `7h5m`, `2d3h`, `400d`, `3y20d`."""
    whole = int(elapsed)
    if whole < -1:
        return "<invalid>"
    if whole < 0:
        return "0s"
    if whole < 120:
        return f"{whole}s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes < 180:
        return _two(minutes, "m", whole % 60 if minutes < 10 else 0, "s")
    if hours < 48:
        return _two(hours, "h", minutes % 60 if hours < 8 else 0, "m")
    if days < 730:
        return _two(days, "d", hours % 24 if days < 8 else 0, "h")
    return _two(days // 365, "y", days % 365 if days < 8 * 365 else 0, "d")


def _two(large: int, unit: str, small: int, small_unit: str) -> str:
    return f"{large}{unit}{small}{small_unit}" if small else f"{large}{unit}"


def ago(timestamp: str | None) -> str:
    return duration(time.time() - seconds(timestamp)) if timestamp else UNKNOWN


def age(obj: Object) -> str:
    return ago(obj["metadata"].get("creationTimestamp"))


def name(obj: Object) -> str:
    return str(obj["metadata"].get("name", ""))


def labels(found: Mapping[str, str] | None) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((found or {}).items())) or NONE


def selector(found: Mapping[str, Any] | None, *, empty: str = NONE) -> str:
    """A label selector as it is written on a command line; None selects nothing and is empty, too."""
    if found is None:
        return empty
    parts = [(key, f"{key}={value}") for key, value in (found.get("matchLabels") or {}).items()]
    for requirement in found.get("matchExpressions") or []:
        key, values = requirement.get("key", ""), sorted(requirement.get("values") or [])
        match requirement.get("operator"):
            case "In" | "NotIn" as operator:
                text = f"{key} {operator.lower()} ({','.join(values)})"
            case "Exists":
                text = key
            case "DoesNotExist":
                text = f"!{key}"
            case _:
                return "<error>"
        parts.append((key, text))
    return ",".join(text for _, text in sorted(parts, key=lambda part: part[0])) or empty


def container_cells(spec: Mapping[str, Any]) -> list[str]:
    """The names and the images of a pod's containers."""
    found = spec.get("containers") or []
    return [",".join(one.get(field, "") for one in found) for field in ("name", "image")]


def shortened(texts: Sequence[str], count: int, empty: str, limit: int = 3) -> str:
    """The first of `count` texts, and how many more there are."""
    shown = ",".join(texts[:limit])
    if count > limit:
        return f"{shown} + {count - limit} more..."
    return shown or empty


def addresses(ingress: Iterable[Mapping[str, Any]]) -> str:
    """The addresses of a load balancer."""
    return ",".join(sorted({text for one in ingress if (text := one.get("ip") or one.get("hostname"))}))


ACCESS_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def access_modes(modes: Iterable[str] | None) -> str:
    given = set(modes or ())
    return ",".join(short for mode, short in ACCESS_MODES.items() if mode in given)
