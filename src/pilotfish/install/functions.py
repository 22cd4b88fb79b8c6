"""The functions of our charts' templates, with the meaning Helm gives them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from pilotfish.api.errors import DecodeError
from pilotfish.api.files import dump, load_one


def truth(value: Any) -> bool:
    return bool(value)


def go_text(value: Any) -> str:
    """A value as Go prints it. Nothing is empty text, as Helm has it."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return _number(value)
    if isinstance(value, (list, tuple)):
        return f"[{' '.join(map(go_text, value))}]"
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{key}:{go_text(item)}' for key, item in sorted(value.items()))}]"
    raise TypeError(f"{type(value).__name__} cannot be printed")


def _number(value: float) -> str:
    """Go's %v of a float64, which all numbers in values are: from 1e+06 on with an exponent."""
    mantissa, _, exponent = f"{float(value):.16e}".partition("e")
    power = int(exponent)
    if -4 <= power < 6:
        return repr(float(value)).removesuffix(".0")
    digits = re.sub(r"[^0-9]", "", repr(float(value)).partition("e")[0]).strip("0")
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    sign = "-" if mantissa.startswith("-") else ""
    return f"{sign}{digits[0]}{fraction}e{'-' if power < 0 else '+'}{abs(power):02d}"


def merge_overwrite(target: dict[str, Any], *sources: Mapping[str, Any] | None) -> dict[str, Any]:
    """Deep: maps are merged, everything else is replaced, also by what is empty. `target` is changed and returned."""
    for source in sources:
        for key, value in (source or {}).items():
            old = target.get(key)
            if isinstance(old, dict) and isinstance(value, Mapping):
                merge_overwrite(old, value)
            else:
                target[key] = deepcopy(value)
    return target


def from_yaml(text: str) -> dict[str, Any]:
    """A mapping. What is none becomes one with the key Error, as in Helm."""
    try:
        value = load_one(text)
    except DecodeError as error:
        return {"Error": str(error)}
    if value is None:
        return {}
    return value if isinstance(value, dict) else {"Error": f"no mapping: {text:.40}"}


def _default(default: Any, value: Any = None) -> Any:
    return value if truth(value) else default


def _dict(*pairs: Any) -> dict[str, Any]:
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def _set(target: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    target[key] = value
    return target


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else value[int(key)]
    return value


def _integer(value: Any) -> int:
    return int(float(value)) if value not in (None, "") else 0


def _indent(width: int, text: str) -> str:
    pad = " " * width
    return pad + text.replace("\n", "\n" + pad)


def _quote(value: Any) -> str:
    return "" if value is None else _go_quoted(go_text(value))


def _go_quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\x7f")


def _printf(pattern: str, *values: Any) -> str:
    """%s and %d only."""
    return pattern.replace("%d", "%s") % tuple(go_text(value) for value in values)


def _equal(one: Any, *others: Any) -> bool:
    return any(one == other and isinstance(one, bool) == isinstance(other, bool) for other in others)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "contains": lambda part, text: part in text,
    "deepCopy": deepcopy,
    "default": _default,
    "dict": _dict,
    "eq": _equal,
    "fromYaml": from_yaml,
    "has": lambda item, values: item in (values or ()),
    "hasKey": lambda values, key: key in values,
    "indent": _indent,
    "index": _index,
    "int": _integer,
    "list": lambda *values: list(values),
    "mergeOverwrite": merge_overwrite,
    "ne": lambda one, other: not _equal(one, other),
    "nindent": lambda width, text: "\n" + _indent(width, text),
    "not": lambda value: not truth(value),
    "omit": lambda values, *keys: {key: value for key, value in values.items() if key not in keys},
    "printf": _printf,
    "quote": _quote,
    "replace": lambda old, new, text: text.replace(old, new),
    "set": _set,
    "splitList": lambda separator, text: text.split(separator),
    "ternary": lambda yes, no, condition: yes if truth(condition) else no,
    "toPrettyJson": lambda value: json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False),
    "toString": go_text,
    "toYaml": lambda value: dump(value).removesuffix("\n"),
    "trimPrefix": lambda prefix, text: text.removeprefix(prefix),
}
