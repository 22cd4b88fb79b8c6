"""The patch types of the Kubernetes API, but for server-side apply: JSON patch, merge patch, strategic merge patch.

Pure: the object given is never changed; what is not touched is shared with the result. Refusals are ApiError, worded
and coded as a kube-apiserver does, whose JSON patch is laxer than RFC 6902 in places.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from pilotfish.kube import strategic
from pilotfish.kube.strategic import without_nulls
from pilotfish.local.apiserver.errors import ApiError, bad_request
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.schema import Schema

_MAX_OPERATIONS = 10_000


def _does_not_apply(why: str) -> ApiError:
    """A patch that reads well but cannot be applied. kubectl users know this message, so `why` stays in our hands."""
    error = ApiError(422, "Invalid", "the server rejected our request due to an error in our request")
    error.add_note(why)
    return error


def _failed(message: str) -> ApiError:
    """What a kube-apiserver has no better answer to than 500, without a reason."""
    return ApiError(500, "", message)


# ---------------------------------------------------------------------------------------------------------- JSON patch


def json_patch(obj: Object, ops: Any) -> Object:
    """RFC 6902. `replace` of a key that is not there adds it."""
    if not isinstance(ops, list) or not all(isinstance(op, dict) for op in ops):
        raise bad_request("json: cannot unmarshal the patch into Go value of type jsonpatch.Patch: it is not a list")
    if len(ops) > _MAX_OPERATIONS:
        raise ApiError(
            413,
            "RequestEntityTooLarge",
            f"The allowed maximum operations in a JSON patch is {_MAX_OPERATIONS}, got {len(ops)}",
        )
    document: Any = copy.deepcopy(obj)
    for op in ops:
        document = _operate(document, op)
    if not isinstance(document, dict):
        raise _does_not_apply("the result is not an object")
    return document


def _operate(document: Any, op: Mapping[str, Any]) -> Any:
    verb, path = op.get("op"), op.get("path")
    if not isinstance(path, str):
        raise _does_not_apply(f"{verb} operation does not apply: missing path")
    operation = _OPERATIONS.get(verb) if isinstance(verb, str) else None
    if operation is None:
        raise _does_not_apply(f"Unexpected kind: {verb}")
    if path == "":
        if verb == "replace" and "value" in op:
            return copy.deepcopy(op["value"])
        if verb == "test":
            if not _same(document, op.get("value")):
                raise _does_not_apply("testing path  failed: test failed")
            return document
    operation(document, op, path)
    return document


def _steps(path: str) -> list[str]:
    return [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]


def _container(document: Any, path: str, verb: str) -> tuple[Any, str]:
    """What holds the last step of the path, and that step."""
    steps = _steps(path)
    missing = _does_not_apply(f"{verb} operation does not apply: doc is missing path: {path}: missing value")
    if not steps:
        raise missing
    for step in steps[:-1]:
        if isinstance(document, dict):
            document = document.get(step)
        elif isinstance(document, list):
            try:
                document = document[int(step)]
            except (ValueError, IndexError):
                raise missing from None
        else:
            raise missing
    if not isinstance(document, dict | list):
        raise missing
    return document, steps[-1]


def _index(items: list[Any], step: str, path: str, *, extra: int = 0) -> int:
    """A position in a list; the last ones may be counted from the end."""
    try:
        index = int(step)
    except ValueError:
        raise _does_not_apply(f"invalid index {step!r} in {path}") from None
    size = len(items) + extra
    if not -size <= index < size:
        raise _does_not_apply(f"Unable to access invalid index: {index}: invalid index referenced")
    return index + size if index < 0 else index


def _get(holder: Any, step: str, path: str) -> Any:
    if isinstance(holder, dict):
        return holder.get(step)
    return holder[_index(holder, step, path)]


def _put(holder: Any, step: str, path: str, value: Any) -> None:
    if isinstance(holder, dict):
        holder[step] = value
    elif step == "-":
        holder.append(value)
    else:
        holder.insert(_index(holder, step, path, extra=1), value)


def _take(holder: Any, step: str, path: str) -> Any:
    if isinstance(holder, list):
        return holder.pop(_index(holder, step, path))
    if step not in holder:
        raise _does_not_apply(
            f"remove operation does not apply: doc is missing path: {path}: Unable to remove nonexistent key: {step}"
        )
    return holder.pop(step)


def _value(op: Mapping[str, Any]) -> Any:
    return copy.deepcopy(op.get("value"))


def _add(document: Any, op: Mapping[str, Any], path: str) -> None:
    _put(*_container(document, path, "add"), path, _value(op))


def _remove(document: Any, _: Mapping[str, Any], path: str) -> None:
    _take(*_container(document, path, "remove"), path)


def _replace(document: Any, op: Mapping[str, Any], path: str) -> None:
    holder, step = _container(document, path, "replace")
    if isinstance(holder, dict):
        holder[step] = _value(op)
    else:
        holder[_index(holder, step, path)] = _value(op)


def _from(op: Mapping[str, Any]) -> str:
    source = op.get("from")
    if not isinstance(source, str):
        raise _does_not_apply(f"{op['op']} operation does not apply: missing from")
    return source


def _move(document: Any, op: Mapping[str, Any], path: str) -> None:
    source = _from(op)
    value = _take(*_container(document, source, "move"), source)
    _put(*_container(document, path, "move"), path, value)


def _copy(document: Any, op: Mapping[str, Any], path: str) -> None:
    source = _from(op)
    value = copy.deepcopy(_get(*_container(document, source, "copy"), source))
    _put(*_container(document, path, "copy"), path, value)


def _test(document: Any, op: Mapping[str, Any], path: str) -> None:
    if not _same(_get(*_container(document, path, "test"), path), op.get("value")):
        raise _does_not_apply(f"testing path {path} failed: test failed")


_OPERATIONS: dict[str, Callable[[Any, Mapping[str, Any], str], None]] = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "move": _move,
    "copy": _copy,
    "test": _test,
}


def _same(a: Any, b: Any) -> bool:
    """Equal as JSON: true is not 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


# --------------------------------------------------------------------------------------------------------- merge patch


def merge_patch(obj: Object, patch: Any) -> Object:
    """RFC 7396: null deletes, maps merge, everything else replaces."""
    if not isinstance(patch, dict):
        raise bad_request("Invalid JSON Patch")
    return _merge(obj, patch)


def _merge(original: Object, patch: Mapping[str, Any]) -> Object:
    merged = dict(original)
    for key, value in patch.items():
        current = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(current, dict):
            merged[key] = _merge(current, value) if isinstance(value, dict) else value
        else:
            merged[key] = without_nulls(value)
    return merged


# ----------------------------------------------------------------------------------------------- strategic merge patch


def strategic_merge(obj: Object, patch: Any, schema: Schema) -> Object:
    """Merge as the schema's patch strategies and merge keys say, with the directives of the patch."""
    try:
        return strategic.strategic_merge(obj, patch, schema)
    except strategic.MergeError as error:
        raise {"malformed": bad_request, "inapplicable": _does_not_apply, "failed": _failed}[error.kind](
            str(error)
        ) from None
