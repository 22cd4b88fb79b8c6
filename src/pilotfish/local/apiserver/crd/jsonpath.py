"""JSONPath as kubectl and CustomResourceDefinitions use it: `.spec.a[0]`, `['a.b']`, `[*]`, `..a`, `[?(@.x=="y")]`."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

Step = Callable[[Any], Iterable[Any]]

_NAME = re.compile(r"[^\s.\[\]()'\"]+")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_FILTER = re.compile(r"\s*(?P<left>@[^=!<>]*?)\s*(?:(?P<op>==|!=|<=|>=|<|>)\s*(?P<right>.+?))?\s*")


class JsonPathError(ValueError):
    """The path cannot be read."""


def find(path: str, obj: Any) -> list[Any]:
    """Every value the path leads to. JsonPathError when it is no path."""
    values: Iterable[Any] = [obj]
    for step in compile_path(path):
        values = [found for value in values for found in step(value)]
    return list(values)


@lru_cache(1024)
def compile_path(path: str) -> tuple[Step, ...]:
    """The steps of a path, with or without a leading `$` or surrounding braces."""
    text = path.strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    return tuple(_steps(text.removeprefix("$"), path))


def _steps(text: str, path: str) -> Iterator[Step]:
    at = 0
    while at < len(text):
        if text.startswith("..", at):
            match = _NAME.match(text, at + 2)
            if match is None:
                raise JsonPathError(f"{path}: a name must follow `..`")
            yield _deep(match[0])
            at = match.end()
        elif text[at] == ".":
            match = _NAME.match(text, at + 1)
            if match is None:
                if text[at + 1 :].startswith("[") or at + 1 == len(text):
                    at += 1
                    continue
                raise JsonPathError(f"{path}: a name must follow `.`")
            yield _every if match[0] == "*" else _field(match[0])
            at = match.end()
        elif text[at] == "[":
            end = _closing(text, at, path)
            yield _bracket(text[at + 1 : end].strip(), path)
            at = end + 1
        else:
            raise JsonPathError(f"{path}: unexpected {text[at]!r}")


def _closing(text: str, at: int, path: str) -> int:
    quote = ""
    depth = 0
    for i in range(at, len(text)):
        char = text[i]
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "[":
            depth += 1
        elif char == "]":
            depth -= 1
            if not depth:
                return i
    raise JsonPathError(f"{path}: unterminated array")


def _bracket(inner: str, path: str) -> Step:
    if inner == "*":
        return _every
    if inner.startswith("?(") and inner.endswith(")"):
        return _filter(inner[2:-1], path)
    if inner[:1] in ("'", '"') and inner[-1:] == inner[:1] and len(inner) > 1:
        return _field(inner[1:-1])
    if re.fullmatch(r"-?\d+", inner):
        return _item(int(inner))
    if match := re.fullmatch(r"(-?\d*):(-?\d*)(?::(-?\d+))?", inner):
        bounds = [int(part) if part else None for part in match.groups()]
        return lambda value: value[slice(*bounds)] if isinstance(value, list) else ()
    raise JsonPathError(f"{path}: invalid array index {inner}")


def _field(name: str) -> Step:
    name = name.replace("\\.", ".")
    return lambda value: (value[name],) if isinstance(value, dict) and name in value else ()


def _item(index: int) -> Step:
    return lambda value: (value[index],) if isinstance(value, list) and -len(value) <= index < len(value) else ()


def _every(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _deep(name: str) -> Step:
    def search(value: Any) -> Iterator[Any]:
        if isinstance(value, dict) and name in value:
            yield value[name]
        for below in _every(value):
            yield from search(below)

    return search


def _filter(expression: str, path: str) -> Step:
    match = _FILTER.fullmatch(expression)
    if match is None:
        raise JsonPathError(f"{path}: unrecognized filter {expression}")
    left = tuple(_steps(match["left"][1:], path))
    wanted = _literal(match["right"], path) if match["op"] else None
    compare = _COMPARE.get(match["op"] or "")

    def holds(item: Any) -> bool:
        values: list[Any] = [item]
        for step in left:
            values = [found for value in values for found in step(value)]
        if compare is None:
            return bool(values)
        try:
            return any(compare(value, wanted) for value in values)
        except TypeError:
            return False

    return lambda value: [item for item in value if holds(item)] if isinstance(value, list) else ()


def _literal(text: str, path: str) -> Any:
    if text[:1] == "'" and text[-1:] == "'":
        return text[1:-1]
    try:
        return json.loads(text)
    except ValueError:
        raise JsonPathError(f"{path}: {text} is no literal") from None
