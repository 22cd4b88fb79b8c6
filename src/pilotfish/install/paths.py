"""Paths into JSON, as `--set` and IstioOperator overlays write them: `a.b[0].c`, `a[name:x].b`, `a.b\\.c`."""

from __future__ import annotations

import re
from typing import Any

from pilotfish.api.files import load_one
from pilotfish.errors import UserError

_PART = re.compile(r"\[([^\]]*)\]|((?:[^.\[\\]|\\.)+)")


def assign(root: dict[str, Any], path: str, value: Any) -> None:
    """Set what `path` names, making maps and list items on the way. `None` takes a list item or a field away.

    Raises UserError when something else stands in the way.
    """
    parts = _parts(path)
    place: Any = root
    for number, part in enumerate(parts[:-1]):
        place = _step(place, part, parts[number + 1], path)
    last = parts[-1]
    if isinstance(place, list):
        index = _find(place, last, path)
        if value is None and index < len(place):
            del place[index]
        elif index < len(place):
            place[index] = value
        else:
            place.append(value)
    elif isinstance(place, dict) and isinstance(last, str):
        place[last] = value
        if value is None:
            del place[last]
    else:
        raise UserError(f"{path}: {last!r} cannot be set in {place!r:.40}")


def read_setting(text: str) -> tuple[str, Any]:
    """`path=value` of `--set`. The value is a number, true, false, null, `{a,b}` (a list) or text."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise UserError(f"--set {text}: write path=value, for example --set meshConfig.accessLogFile=/dev/stdout")
    if value.startswith("{") and value.endswith("}"):
        return path, [_scalar(item.strip()) for item in value[1:-1].split(",") if item.strip()]
    return path, _scalar(value)


def _scalar(text: str) -> Any:
    if re.fullmatch(r"-?(0|[1-9]\d{0,17})|true|false|null", text):
        return load_one(text)
    return text


def _parts(path: str) -> list[str | int | tuple[str, str]]:
    """Names, list indices and (key, value) of list items."""
    parts: list[str | int | tuple[str, str]] = []
    for match in _PART.finditer(path):
        if match[2] is not None:
            parts.append(re.sub(r"\\(.)", r"\1", match[2]))
        elif match[1].isdigit():
            parts.append(int(match[1]))
        else:
            key, _, value = match[1].partition(":")
            parts.append((key, value) if key else ("", value))
    if not parts:
        raise UserError(f"{path!r} is no path")
    return parts


def _step(place: Any, part: Any, following: Any, path: str) -> Any:
    empty: Any = {} if isinstance(following, str) else []
    if isinstance(place, dict) and isinstance(part, str):
        if place.get(part) is None:
            place[part] = empty
        return place[part]
    if isinstance(place, list) and not isinstance(part, str):
        index = _find(place, part, path)
        if index == len(place):
            place.append({part[0]: part[1]} if isinstance(part, tuple) and part[0] else empty)
        return place[index]
    raise UserError(f"{path}: {part!r} is not in {place!r:.40}")


def _find(items: list[Any], part: Any, path: str) -> int:
    """Where the item is, or the length when it is not there."""
    if isinstance(part, int):
        if part > len(items):
            raise UserError(f"{path}: there are only {len(items)} items")
        return part
    if not isinstance(part, tuple):
        raise UserError(f"{path}: {part!r} is no list item; write [0] or [name:x]")
    key, value = part
    for index, item in enumerate(items):
        if (isinstance(item, dict) and str(item.get(key)) == value) if key else str(item) == value:
            return index
    return len(items)
