"""Values of templates: JSON in Python's types, with Go's ideas of truth, printing, fields and comparison.

Numbers that come from YAML or JSON are floating point in Go, those a template writes or counts are integers; they print
differently, so `from_data` makes the former floats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Record(Protocol):
    """A value with named fields, a struct in Go."""

    def go_field(self, name: str) -> Any:
        """The field's value; a callable is a method. Raises LookupError for a field that does not exist."""

    def plain(self) -> Any:
        """The value as JSON."""


class StringMap(dict[str, str]):
    """A map whose values are text: what is missing is empty text instead of nothing."""


def from_data(value: Any) -> Any:
    """JSON as Go decodes it: integers become floating point. Maps and lists are copied."""
    if isinstance(value, Mapping):
        return {key: from_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [from_data(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def plain(value: Any) -> Any:
    """A value as JSON is written: whole floating-point numbers become integers."""
    if isinstance(value, Record):
        return plain(value.plain())
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e21 else value


def truth(value: Any) -> bool:
    return bool(value)


def go_text(value: Any, nothing: str = "") -> str:
    """A value as Go's %v prints it. `nothing` stands for a missing one."""
    if value is None:
        return nothing
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, (list, tuple)):
        return f"[{' '.join(go_text(item, '<nil>') for item in value)}]"
    if isinstance(value, Mapping):
        pairs = (f"{key}:{go_text(item, '<nil>')}" for key, item in sorted(value.items()))
        return f"map[{' '.join(pairs)}]"
    if isinstance(value, Record):
        return go_text(value.plain())
    raise TypeError(f"{kind_of(value)} cannot be printed")


def _number(value: float) -> str:
    """Go's %v of a float64: from 1e+21 on with an exponent in JSON, but in text already from 1e+06 on."""
    mantissa, _, exponent = f"{value:.16e}".partition("e")
    if not exponent:
        return {"inf": "+Inf", "-inf": "-Inf"}.get(mantissa, "NaN")
    power = int(exponent)
    if -4 <= power < 6:
        return repr(value).removesuffix(".0")
    digits = re.sub(r"[^0-9]", "", repr(value).partition("e")[0]).strip("0")
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    sign = "-" if mantissa.startswith("-") else ""
    return f"{sign}{digits[0]}{fraction}e{'-' if power < 0 else '+'}{abs(power):02d}"


_KINDS: Mapping[type, str] = {bool: "bool", int: "int", float: "float64", str: "string", list: "slice", dict: "map"}


def kind_of(value: Any) -> str:
    """What Go's reflection calls it."""
    if value is None:
        return "invalid"
    if isinstance(value, str):
        return "string"
    if isinstance(value, Record):
        return "struct"
    return _KINDS.get(type(value)) or ("map" if isinstance(value, Mapping) else type(value).__name__)


def field(value: Any, name: str) -> Any:
    """One field of a value. A missing key of a map is nothing (or empty text); other values have no such fields."""
    if isinstance(value, Record):
        try:
            return value.go_field(name)
        except LookupError:
            raise ValueError(f"there is no field {name}") from None
    if isinstance(value, StringMap):
        return value.get(name, "")
    if isinstance(value, Mapping):
        return value.get(name)
    if value is None:
        raise ValueError(f"there is nothing to take .{name} of")
    raise ValueError(f"a {kind_of(value)} has no field {name}")


def index(value: Any, *keys: Any) -> Any:
    """`index x 1 "a"` is x[1]["a"]."""
    for key in keys:
        if isinstance(value, Mapping):
            value = field(value, key)
        elif isinstance(value, (list, tuple, str)):
            at = int(key)
            if not 0 <= at < len(value):
                raise ValueError(f"index {at} is out of range: there are {len(value)} items")
            value = value[at]
        else:
            raise ValueError(f"a {kind_of(value)} has no items")
    return value


def equal(one: Any, *others: Any) -> bool:
    """Whether `one` equals any of the others. Text, numbers and truth values are compared with their kind only."""
    return any(_same(one, other) for other in others)


def _basic(value: Any) -> str:
    kind = kind_of(value)
    return "number" if kind in {"int", "float64"} else kind


def _same(one: Any, other: Any) -> bool:
    kinds = {_basic(one), _basic(other)}
    if len(kinds) > 1 and kinds <= {"number", "string", "bool"}:
        raise ValueError(f"a {_basic(one)} cannot be compared with a {_basic(other)}")
    return len(kinds) == 1 and bool(one == other)


def ordering(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """A comparison such as `lt`, for two numbers or two texts."""

    def compare(one: Any, other: Any) -> bool:
        if _basic(one) != _basic(other) or _basic(one) not in {"number", "string"}:
            raise ValueError(f"a {_basic(one)} cannot be compared with a {_basic(other)}")
        return test(one, other)

    return compare
