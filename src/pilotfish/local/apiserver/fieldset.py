"""Sets of field paths in the form in which they are stored: the `fieldsV1` of managedFields, taken as a tree.

A key is one step: `f:NAME` a field, `k:{…}` a list item by its keys, `v:…` one by its value, `i:N` one by position.
A step with nothing below it is in the set; one with something below it is in the set when it has a `.` too.
All functions are pure and share what they do not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

Fields = dict[str, Any]
"""A set, or what lies below one step of it. At the top `{}` is the empty set, below it means "just this"."""

LEAF: Final[Fields] = {}
"""A step that is in the set and has nothing below; shared, never changed."""


def member(node: Fields) -> bool:
    """Whether the step itself is in the set."""
    return not node or "." in node


def union(a: Fields, b: Fields) -> Fields:
    """What is in either set."""
    if not a or not b:
        return a or b
    return _union(a, b)


def _union(a: Fields, b: Fields) -> Fields:
    if not a or not b:
        rest = a or b
        return rest if not rest or "." in rest else {".": LEAF, **rest}
    out = dict(a)
    for step, below in b.items():
        mine = out.get(step)
        out[step] = below if mine is None else _union(mine, below)
    return out


def difference(a: Fields, b: Fields) -> Fields:
    """What is in `a` and not in `b`."""
    if not a or not b:
        return a
    out: Fields = {}
    changed = False
    for step, below in a.items():
        left = _difference(below, b[step]) if step in b else below
        if left is not None:
            out[step] = left
        changed = changed or left is not below
    return out if changed else a


def _difference(a: Fields, b: Fields) -> Fields | None:
    keep = member(a) and not member(b)
    out: Fields = {}
    for step, below in a.items():
        if step != ".":
            left = _difference(below, b[step]) if step in b else below
            if left is not None:
                out[step] = left
    if not out:
        return LEAF if keep else None
    return {".": LEAF, **out} if keep else out


def intersection(a: Fields, b: Fields) -> Fields:
    """What is in both sets."""
    return (_intersection(a, b, top=True) or {}) if a and b else {}


def _intersection(a: Fields, b: Fields, *, top: bool = False) -> Fields | None:
    keep = not top and member(a) and member(b)
    out: Fields = {}
    for step, below in a.items():
        if step != "." and step in b:
            both = _intersection(below, b[step])
            if both is not None:
                out[step] = both
    if not out:
        return LEAF if keep else None
    return {".": LEAF, **out} if keep else out


def without_prefix(a: Fields, *steps: str) -> Fields:
    """The set without a path and all below it."""
    first, *rest = steps
    if first not in a:
        return a
    out = dict(a)
    below = out.pop(first)
    if rest:
        left = without_prefix(below, *rest)
        if left is below:
            return a
        if left:
            out[first] = left
    return out


def only_prefix(a: Fields, step: str) -> Fields:
    """What is at or below a top-level field."""
    return {step: a[step]} if step in a else {}


def paths(a: Fields, prefix: str = "") -> Iterator[str]:
    """Every path of the set as kubectl users read it: `.spec.containers[name="app"].image`."""
    for step in sorted(a):
        if step == ".":
            continue
        path = prefix + _readable(step)
        if member(a[step]):
            yield path
        yield from paths(a[step], path)


def _readable(step: str) -> str:
    kind, _, text = step.partition(":")
    if kind == "f":
        return "." + text
    if kind == "k":
        keys = msgspec.json.decode(text)
        return "[" + ",".join(f"{key}={encode(value)}" for key, value in keys.items()) + "]"
    return f"[={text}]" if kind == "v" else f"[{text}]"


def encode(value: Any) -> str:
    """Compact JSON, as it stands inside a step."""
    return msgspec.json.encode(value).decode()
