"""Judging a custom resource by its schema. Wording, reasons and paths are those of the Kubernetes API server."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Hashable, Iterator
from functools import lru_cache
from typing import Any

from pilotfish.local.apiserver.errors import FieldError, Reason
from pilotfish.local.apiserver.schema import formats
from pilotfish.local.apiserver.schema.node import ABSENT, Schema

_NO_PATH = "<nil>"
"""How Kubernetes prints the path of an error that belongs to the whole object."""
_BLOCKING = frozenset({Reason.NOT_SUPPORTED, Reason.REQUIRED, Reason.TOO_LONG, Reason.TOO_MANY, Reason.TYPE_INVALID})


def validate(s: Schema, obj: Any, old: Any = None, *, path: str = "") -> list[FieldError]:
    """What is wrong with `obj`, in the order of Kubernetes: schema, embedded objects, lists, CEL rules.

    With `old` (an update) values that were wrong before and have not changed are tolerated, and transition rules run.
    """
    if not s.structural:
        return []  # built-in kinds have rules in code
    before = ABSENT if old is None else old
    errors = list(_check(s, obj, before, path))
    errors += _embedded(s, obj, path, root=True)
    if old is None or not any(True for _ in _list_errors(s, old, path)):
        errors += _list_errors(s, obj, path)
    if has_rules(s):
        if any(error.reason in _BLOCKING for error in errors):
            errors.append(
                FieldError.invalid(
                    _NO_PATH,
                    None,
                    "some validation rules were not checked because the object was invalid; "
                    "correct the existing errors to complete validation",
                )
            )
        else:
            from pilotfish.local.apiserver import cel  # noqa: PLC0415 - heavy, and most resources have no rules

            errors += cel.check_rules(s, obj, before, path)
    return errors


def has_rules(s: Schema) -> bool:
    """Whether there is a CEL rule here or below; remembered on the node (structural schemas have no cycles)."""
    if s.has_rules is None:
        children = [*s.properties.values(), *(child for child in (s.items, s.additional) if child is not None)]
        s.has_rules = s.structural and (
            bool(s.validations) or any(child is not s and has_rules(child) for child in children)
        )
    return s.has_rules


# -------------------------------------------------------------------------------------------------------- value checks


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _step(s: Schema, path: str, key: str) -> str:
    """A field by its name, an entry of a map in brackets."""
    return _join(path, key) if key in s.properties else f"{path}[{key}]"


def same(a: Any, b: Any) -> bool:
    """Equal as JSON values: true is not 1."""
    if type(a) is bool or type(b) is bool:
        return a is b
    if type(a) is dict and type(b) is dict:
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if type(a) is list and type(b) is list:
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def _check(s: Schema, value: Any, old: Any, path: str) -> Iterator[FieldError]:
    """The errors of a value and what is below it; none where it is what it was."""
    if old is not ABSENT and same(value, old):
        return
    if value is None and s.nullable:
        return
    wrong = _type_error(s, value, path)
    if wrong is not None:
        yield wrong
        return
    if s.enum is not None and not any(same(value, one) for one in s.enum):
        yield _unsupported(path, value, s.enum)
    kind = type(value)
    if kind is str:
        yield from _string(s, value, path)
    elif kind is int or kind is float:
        yield from _number(s, value, path)
    elif kind is list:
        yield from _array(s, value, old, path)
    elif kind is dict:
        yield from _object(s, value, old, path)
    yield from _logic(s, value, path)


def _unsupported(path: str, value: Any, allowed: tuple[Any, ...]) -> FieldError:
    return FieldError.not_supported(
        path, value, [one if isinstance(one, str) else json.dumps(one, separators=(",", ":")) for one in allowed]
    )


def type_name(value: Any) -> str:
    if value is None:
        return "null"
    if type(value) is float:
        return "number" if value != int(value) else "integer" if math.isfinite(value) else "number"
    return {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}[type(value)]


_FITS: dict[str, Callable[[Any], bool]] = {
    "object": lambda v: type(v) is dict,
    "array": lambda v: type(v) is list,
    "string": lambda v: type(v) is str,
    "boolean": lambda v: type(v) is bool,
    "integer": lambda v: type(v) is int or (type(v) is float and v.is_integer()),
    "number": lambda v: type(v) is int or type(v) is float,
}


def _type_error(s: Schema, value: Any, path: str) -> FieldError | None:
    if s.int_or_string:
        if type(value) in (int, str):
            return None
        wanted = "integer,string"
    elif not s.type or _FITS[s.type](value):
        return None
    else:
        wanted = s.type
    name = type_name(value)  # Kubernetes shows the type in place of the value
    return FieldError.type_invalid(
        path or _NO_PATH, name, f"{path} in body must be of type {wanted}: {json.dumps(name)}"
    )


def _invalid(path: str, value: Any, rule: str) -> FieldError:
    return FieldError.invalid(path or _NO_PATH, value, f"{path} in body {rule}")


class BadPattern(ValueError):  # noqa: N818 - the pattern is bad, nothing failed
    """Go would not take this regular expression."""


@lru_cache(2048)
def compile_pattern(pattern: str) -> Any:
    """A pattern in Go's dialect, which is RE2's. BadPattern when it is not one."""
    import re2  # noqa: PLC0415 - loaded when the first pattern is used

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        why = error.args[0] if error.args else error
        raise BadPattern(why.decode() if isinstance(why, bytes) else str(why)) from None


def _string(s: Schema, value: str, path: str) -> Iterator[FieldError]:
    if s.max_length is not None and len(value) > s.max_length:
        yield FieldError.too_long(path, s.max_length)
    if s.min_length is not None and len(value) < s.min_length:
        yield _invalid(path, value, f"should be at least {s.min_length} chars long")
    if s.pattern is not None and not compile_pattern(s.pattern).search(value):
        yield _invalid(path, value, f"should match '{s.pattern}'")
    if s.format and not formats.valid(s.format, value):
        yield _invalid(path, value, f"must be of type {s.format}: {json.dumps(value)}")


def _number(s: Schema, value: float, path: str) -> Iterator[FieldError]:
    if s.minimum is not None and (value < s.minimum or (s.exclusive_minimum and value == s.minimum)):
        relation = "greater than" if s.exclusive_minimum else "greater than or equal to"
        yield _invalid(path, value, f"should be {relation} {_plain(s.minimum)}")
    if s.maximum is not None and (value > s.maximum or (s.exclusive_maximum and value == s.maximum)):
        relation = "less than" if s.exclusive_maximum else "less than or equal to"
        yield _invalid(path, value, f"should be {relation} {_plain(s.maximum)}")
    if s.multiple_of:
        times = value / s.multiple_of
        if times != math.floor(times):
            yield _invalid(path, value, f"should be a multiple of {_plain(s.multiple_of)}")
    if s.format in formats.INTEGER_BITS and not s.int_or_string and not formats.fits(s.format, value):
        yield _invalid(path, value, f"must be of type {s.format}: {json.dumps(value)}")


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() and abs(number) < 1e21 else repr(number)


def _array(s: Schema, value: list[Any], old: Any, path: str) -> Iterator[FieldError]:
    if s.max_items is not None and len(value) > s.max_items:
        yield FieldError.too_many(path, len(value), s.max_items)
    if s.min_items is not None and len(value) < s.min_items:
        yield _invalid(path, len(value), f"should have at least {s.min_items} items")
    if s.unique_items and len({json.dumps(one, sort_keys=True) for one in value}) < len(value):
        yield _invalid(path, value, "shouldn't contain duplicates")
    if s.items is not None:
        counterpart = old_items(s, old)
        for i, item in enumerate(value):
            yield from _check(s.items, item, counterpart(item), f"{path}[{i}]")


def old_items(s: Schema, old: Any) -> Callable[[Any], Any]:
    """Finds what an item of a list was before: only items of maps by key have a past, as only they have an identity."""
    if type(old) is not list or s.list_type != "map":
        return lambda _: ABSENT
    index = {item_key(s, item): item for item in old}
    return lambda item: index.get(item_key(s, item), ABSENT)


def item_key(s: Schema, item: Any) -> Hashable:
    """The identity of an item of a list of type map."""
    if type(item) is not dict:
        return None
    return tuple(_hashable(item.get(key, default)) for key, default in s.item_keys)


def _hashable(value: Any) -> Hashable:
    return (type(value), value) if type(value) in (str, int, float, bool) else json.dumps(value, default=str)


def _object(s: Schema, value: dict[str, Any], old: Any, path: str) -> Iterator[FieldError]:
    if s.max_properties is not None and len(value) > s.max_properties:
        yield FieldError.too_many(path, len(value), s.max_properties)
    if s.min_properties is not None and len(value) < s.min_properties:
        yield _invalid(path, len(value), f"should have at least {s.min_properties} properties")
    for key in s.required:
        if key not in value:
            yield FieldError.required(_join(path, key))
    before: dict[str, Any] = old if type(old) is dict else {}
    for key, item in value.items():
        child = s.properties.get(key) or s.additional
        if child is None or (not child.structural and not child.properties):
            continue
        if child.structural:
            yield from _check(child, item, before.get(key, ABSENT), _join(path, key))
        elif s.resource_root and key == "metadata" and type(item) is dict:
            yield from _limited_meta(child, item, before.get(key), _join(path, key))


def _limited_meta(s: Schema, meta: dict[str, Any], old: Any, path: str) -> Iterator[FieldError]:
    """Metadata is the server's to judge, except for name and generateName where the schema limits them."""
    for key in ("name", "generateName"):
        child = s.properties.get(key)
        if child is not None and child.structural and key in meta:
            past = old.get(key, ABSENT) if isinstance(old, dict) else ABSENT
            yield from _check(child, meta[key], past, _join(path, key))


def _logic(s: Schema, value: Any, path: str) -> Iterator[FieldError]:
    """allOf, anyOf, oneOf, not. Their own errors belong to no field, as in Kubernetes."""
    for one in s.all_of:
        yield from _check(one, value, ABSENT, path)
    label = json.dumps(path) if path else '""'
    if s.any_of:
        failures = [list(_check(one, value, ABSENT, path)) for one in s.any_of]
        if all(failures):
            yield FieldError.invalid(_NO_PATH, "", f"{label} must validate at least one schema (anyOf)")
            yield from min(failures, key=len)
    if s.one_of:
        failures = [list(_check(one, value, ABSENT, path)) for one in s.one_of]
        passed = sum(not failed for failed in failures)
        if passed != 1:
            found = "Found none valid" if not passed else f"Found {passed} valid alternatives"
            yield FieldError.invalid(_NO_PATH, "", f"{label} must validate one and only one schema (oneOf). {found}")
            if not passed:
                yield from min(failures, key=len)
    if s.negated is not None and not any(True for _ in _check(s.negated, value, ABSENT, path)):
        yield FieldError.invalid(_NO_PATH, "", f"{label} must not validate the schema (not)")


# ---------------------------------------------------------------------------------------------------- whole structures


def _embedded(s: Schema, value: Any, path: str, *, root: bool = False) -> Iterator[FieldError]:
    """Objects inside the object need to say what they are."""
    if type(value) is dict:
        if s.resource_root and not root:
            yield from _type_meta(value, path)
        for key, item in value.items():
            child = s.properties.get(key) or s.additional
            if child is not None and child.structural:
                yield from _embedded(child, item, _step(s, path, key))
    elif type(value) is list and s.items is not None:
        for i, item in enumerate(value):
            yield from _embedded(s.items, item, f"{path}[{i}]")


_KIND = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def _type_meta(value: dict[str, Any], path: str) -> Iterator[FieldError]:
    for key in ("apiVersion", "kind"):
        at, text = _join(path, key), value.get(key)
        if key not in value:
            yield FieldError.required(at)
        elif type(text) is not str:
            yield FieldError.invalid(at, text, "must be a string")
        elif not text:
            yield FieldError.invalid(at, text, "must not be empty")
        elif key == "kind" and not (len(text) < 64 and _KIND.fullmatch(text.lower())):
            yield FieldError.invalid(at, text, "may have mixed case, but should otherwise be a DNS-1035 label")
        elif key == "apiVersion" and text.count("/") > 1:
            yield FieldError.invalid(at, text, f"unexpected GroupVersion string: {text}")


def _list_errors(s: Schema, value: Any, path: str) -> Iterator[FieldError]:
    """Sets and maps hold everything once."""
    if type(value) is dict:
        for key, item in value.items():
            child = s.properties.get(key) or s.additional
            if child is not None and child.structural and type(item) in (dict, list):
                yield from _list_errors(child, item, _step(s, path, key))
    elif type(value) is list and s.items is not None:
        seen: set[Hashable] = set()
        for i, item in enumerate(value):
            if s.list_type == "set":
                identity, shown = _hashable(item), item
            elif s.list_type == "map" and type(item) is dict:
                identity = item_key(s, item)
                shown = {k: item.get(k, d) for k, d in s.item_keys if k in item or d is not ABSENT}
            else:
                continue
            if identity in seen:
                yield FieldError.duplicate(f"{path}[{i}]", shown)
            seen.add(identity)
        for i, item in enumerate(value):
            if type(item) in (dict, list):
                yield from _list_errors(s.items, item, f"{path}[{i}]")
