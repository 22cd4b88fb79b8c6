"""The patch types of the Kubernetes API, but for server-side apply: JSON patch, merge patch, strategic merge patch.

Pure: the object given is never changed; what is not touched is shared with the result. Refusals are ApiError, worded
and coded as a kube-apiserver does, whose JSON patch is laxer than RFC 6902 in places.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

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
            merged[key] = _without_nulls(value)
    return merged


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


# ----------------------------------------------------------------------------------------------- strategic merge patch

_DIRECTIVE = "$patch"
_RETAIN = "$retainKeys"
_DELETE = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"


def strategic_merge(obj: Object, patch: Any, schema: Schema) -> Object:
    """Merge as the schema's patch strategies and merge keys say, with the directives of the patch."""
    if not isinstance(patch, dict):
        raise bad_request("json: cannot unmarshal the patch into Go value of type map[string]interface {}")
    return _strategic(obj, patch, schema)


def _strategic(original: Object | None, patch: Object, schema: Schema | None) -> Object:
    if _DIRECTIVE in patch:
        directive = patch[_DIRECTIVE]
        if directive == "replace":
            return _without_nulls({key: value for key, value in patch.items() if key != _DIRECTIVE})  # type: ignore[no-any-return]  # a dict in, a dict out
        if directive == "delete":
            return {}
        raise _failed(f'unknown patch type "{directive}" in map: {patch}')
    merged = dict(original or {})
    todo = dict(patch)
    _retain_keys(merged, todo)
    for key in [key for key in todo if key.startswith(_ORDER)]:
        _ordered(merged, todo, key, todo.pop(key), schema)
    for key, value in todo.items():
        _strategic_field(merged, key, value, schema)
    return merged


def _strategic_field(merged: Object, key: str, value: Any, schema: Schema | None) -> None:
    deleting = key.startswith(_DELETE)
    if deleting:
        key = key.removeprefix(_DELETE)
    if value is None:
        merged.pop(key, None)
        return
    if key not in merged:
        if not deleting:
            _take_over(merged, key, value)
        return
    current = merged[key]
    if isinstance(current, dict) and isinstance(value, dict):
        child = _field(schema, key)
        if child is not None and "replace" in child.patch_strategy:
            merged[key] = value
        else:
            merged[key] = _strategic(current, value, child)
    elif isinstance(current, list) and isinstance(value, list):
        merged[key] = _strategic_list(current, value, _field(schema, key), deleting=deleting)
    elif not deleting:
        _take_over(merged, key, value)


def _take_over(merged: Object, key: str, value: Any) -> None:
    """The patch's value as it is, but for nulls and for what holds a directive: there is nothing to direct."""
    kept = _undirected(_without_nulls(value))
    if kept is _NOTHING:
        merged.pop(key, None)
    else:
        merged[key] = kept


_NOTHING: Any = object()


def _undirected(value: Any) -> Any:
    if isinstance(value, dict):
        if _DIRECTIVE in value:
            return _NOTHING
        kept = {key: _undirected(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not _NOTHING}
    if isinstance(value, list):
        return [item for item in map(_undirected, value) if item is not _NOTHING]
    return value


def _field(schema: Schema | None, key: str) -> Schema | None:
    """The schema of a field that the object has; under free-form maps there is none."""
    return None if schema is None else schema.child(key)


def _retain_keys(merged: Object, todo: Object) -> None:
    if _RETAIN not in todo:
        return
    kept = todo.pop(_RETAIN)
    if not isinstance(kept, list):
        raise bad_request("invalid patch format of retainKeys")
    for key, value in todo.items():
        if value is not None and not key.startswith((_DELETE, _ORDER)) and key not in kept:
            raise bad_request("invalid patch format of retainKeys")
    for key in [key for key in merged if key not in kept]:
        del merged[key]


def _strategic_list(
    current: list[Any], patch: list[Any], schema: Schema | None, *, deleting: bool = False
) -> list[Any]:
    if schema is None or "merge" not in schema.patch_strategy:
        return _without_nulls(patch)  # type: ignore[no-any-return]  # a list in, a list out
    if not current and not patch:
        return current
    merged, order, server_order = _merge_lists(current, patch, schema, deleting=deleting)
    if deleting:
        return merged
    return _arrange(merged, order, server_order, schema.patch_merge_key)


def _merge_lists(
    current: list[Any], patch: list[Any], schema: Schema, *, deleting: bool
) -> tuple[list[Any], list[Any], list[Any]]:
    """The merged items in no particular order, the order the patch wants, the order the object had."""
    if not _of_maps(current, patch):
        if deleting:
            return [item for item in current if item not in patch], [], []
        return list(dict.fromkeys([*current, *patch])), patch, current
    key = schema.patch_merge_key
    if not key:
        raise _failed("cannot merge lists without merge key for type struct")
    original, plain = _special_items(current, patch, key)
    items = list(original)
    for item in plain:
        at = _position(items, key, _merge_value(item, key))
        if at < 0:
            items.append(_without_nulls(item))
        else:
            items[at] = _strategic(items[at], item, schema.items)
    return items, plain, original


def _of_maps(*lists: list[Any]) -> bool:
    kinds = {type(item) for items in lists for item in items}
    if list in kinds:
        raise _does_not_apply("lists of lists are not supported")
    if len(kinds) > 1:
        raise _failed(f"list element types are not identical: {list(lists)}")
    return dict in kinds


def _merge_value(item: Mapping[str, Any], key: str) -> Any:
    if key not in item:
        raise _failed(f"map: {dict(item)} does not contain declared merge key: {key}")
    return item[key]


def _position(items: list[Any], key: str, value: Any) -> int:
    return next((i for i, item in enumerate(items) if key in item and item[key] == value), -1)


def _special_items(current: list[Any], patch: list[Any], key: str) -> tuple[list[Any], list[Any]]:
    """Carry out the directives among the items: what is left of the object's list, and the items to merge into it."""
    original, plain, replace = list(current), [], False
    for item in patch:
        directive = item.get(_DIRECTIVE)
        if _DIRECTIVE not in item:
            plain.append(item)
        elif directive == "delete":
            value = _merge_value(item, key)
            original = [one for one in original if not (key in one and one[key] == value)]
        elif directive == "replace":
            replace = True
        elif directive == "merge":
            raise _failed("merging lists cannot yet be specified in the patch")
        else:
            raise _failed(f'unknown patch type "{directive}" in map: {item}')
    return (plain, []) if replace else (original, plain)


def _arrange(items: list[Any], order: list[Any], server_order: list[Any], key: str) -> list[Any]:
    """Items the patch names come in its order; the others keep their place among them as in the object."""

    def identity(item: Any) -> Any:
        return _merge_value(item, key) if key and isinstance(item, dict) else item

    wanted = [identity(item) for item in order]
    had = [identity(item) for item in server_order]

    def place(sequence: list[Any], item: Any) -> int:
        value = identity(item)
        return sequence.index(value) if value in sequence else -1

    named = sorted((item for item in items if identity(item) in wanted), key=lambda item: place(wanted, item))
    others = sorted((item for item in items if identity(item) not in wanted), key=lambda item: place(had, item))
    arranged: list[Any] = []
    while named and others:
        left, right = place(had, others[0]), place(had, named[0])
        arranged.append((others if 0 <= left < right else named).pop(0))
    return arranged + named + others


def _ordered(merged: Object, todo: Object, directive: str, order: Any, schema: Schema | None) -> None:
    """`$setElementOrder/x`: merge the list x, then arrange it."""
    key = directive.removeprefix(_ORDER)
    child = _field(schema, key)
    if not isinstance(order, list):
        raise _failed(f"expected a list for {directive}")
    if schema is not None and child is None:
        raise _failed(f"unable to find api field in struct {schema.name} for the json field {key!r}")
    current, patch = merged.get(key), todo.pop(key, None)
    for value in (current, patch):
        if value is not None and not isinstance(value, list):
            raise _failed(f"expected a list for {key}, got {type(value).__name__}")
    merge_key = child.patch_merge_key if child is not None else ""
    _check_order(patch or [], order, merge_key)
    if current is None and patch is None:
        return
    if current is None:
        result = _undirected(_without_nulls(patch))
    else:
        result = current if patch is None else _strategic_list(current, patch, child)
    merged[key] = _arrange(result, order, current or [], merge_key)


def _check_order(patch: list[Any], order: list[Any], key: str) -> None:
    """The items of the patch must be among those ordered, in the same order (deletions aside)."""

    def identity(item: Any) -> Any:
        return _merge_value(item, key) if key and isinstance(item, dict) else item

    items = [identity(item) for item in patch if not (isinstance(item, dict) and _DIRECTIVE in item)]
    if not items or not order:
        return
    rest = iter(identity(item) for item in order)
    if not all(any(item == other for other in rest) for item in items):
        raise _failed(f"The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n")
