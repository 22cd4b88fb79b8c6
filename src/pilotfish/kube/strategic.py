"""Strategic merge patch, as Kubernetes has it: lists are merged by the key that the schema names.

Pure: the object given is never changed; what is not touched is shared with the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

Object = dict[str, Any]


class MergeSchema(Protocol):
    """What a merge needs to know of a place in an object."""

    @property
    def name(self) -> str: ...

    @property
    def patch_strategy(self) -> Any:
        """Holds "merge" for a list that is merged, "replace" for a map that is not."""

    @property
    def patch_merge_key(self) -> str: ...

    @property
    def items(self) -> Any:
        """The schema of a list's items, a MergeSchema or None."""

    def child(self, key: str) -> Any:
        """The schema of a field, a MergeSchema or None."""


class MergeError(Exception):
    """A patch is wrong (`malformed`), does not fit the object (`inapplicable`) or cannot be carried out (`failed`)."""

    def __init__(self, kind: Literal["malformed", "inapplicable", "failed"], message: str) -> None:
        super().__init__(message)
        self.kind = kind


def without_nulls(value: Any) -> Any:
    """JSON without the fields that are null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


_DIRECTIVE = "$patch"
_RETAIN = "$retainKeys"
_DELETE = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"


def strategic_merge(obj: Object, patch: Any, schema: MergeSchema) -> Object:
    """Merge as the schema's patch strategies and merge keys say, with the directives of the patch."""
    if not isinstance(patch, dict):
        raise MergeError("malformed", "json: cannot unmarshal the patch into Go value of type map[string]interface {}")
    return _strategic(obj, patch, schema)


def _strategic(original: Object | None, patch: Object, schema: MergeSchema | None) -> Object:
    if _DIRECTIVE in patch:
        directive = patch[_DIRECTIVE]
        if directive == "replace":
            return without_nulls({key: value for key, value in patch.items() if key != _DIRECTIVE})  # type: ignore[no-any-return]  # a dict in, a dict out
        if directive == "delete":
            return {}
        raise MergeError("failed", f'unknown patch type "{directive}" in map: {patch}')
    merged = dict(original or {})
    todo = dict(patch)
    _retain_keys(merged, todo)
    for key in [key for key in todo if key.startswith(_ORDER)]:
        _ordered(merged, todo, key, todo.pop(key), schema)
    for key, value in todo.items():
        _strategic_field(merged, key, value, schema)
    return merged


def _strategic_field(merged: Object, key: str, value: Any, schema: MergeSchema | None) -> None:
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
    kept = _undirected(without_nulls(value))
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


def _field(schema: MergeSchema | None, key: str) -> MergeSchema | None:
    """The schema of a field that the object has; under free-form maps there is none."""
    return None if schema is None else schema.child(key)


def _retain_keys(merged: Object, todo: Object) -> None:
    if _RETAIN not in todo:
        return
    kept = todo.pop(_RETAIN)
    if not isinstance(kept, list):
        raise MergeError("malformed", "invalid patch format of retainKeys")
    for key, value in todo.items():
        if value is not None and not key.startswith((_DELETE, _ORDER)) and key not in kept:
            raise MergeError("malformed", "invalid patch format of retainKeys")
    for key in [key for key in merged if key not in kept]:
        del merged[key]


def _strategic_list(
    current: list[Any], patch: list[Any], schema: MergeSchema | None, *, deleting: bool = False
) -> list[Any]:
    if schema is None or "merge" not in schema.patch_strategy:
        return without_nulls(patch)  # type: ignore[no-any-return]  # a list in, a list out
    if not current and not patch:
        return current
    merged, order, server_order = _merge_lists(current, patch, schema, deleting=deleting)
    if deleting:
        return merged
    return _arrange(merged, order, server_order, schema.patch_merge_key)


def _merge_lists(
    current: list[Any], patch: list[Any], schema: MergeSchema, *, deleting: bool
) -> tuple[list[Any], list[Any], list[Any]]:
    """The merged items in no particular order, the order the patch wants, the order the object had."""
    if not _of_maps(current, patch):
        if deleting:
            return [item for item in current if item not in patch], [], []
        return list(dict.fromkeys([*current, *patch])), patch, current
    key = schema.patch_merge_key
    if not key:
        raise MergeError("failed", "cannot merge lists without merge key for type struct")
    original, plain = _special_items(current, patch, key)
    items = list(original)
    for item in plain:
        at = _position(items, key, _merge_value(item, key))
        if at < 0:
            items.append(without_nulls(item))
        else:
            items[at] = _strategic(items[at], item, schema.items)
    return items, plain, original


def _of_maps(*lists: list[Any]) -> bool:
    kinds = {type(item) for items in lists for item in items}
    if list in kinds:
        raise MergeError("inapplicable", "lists of lists are not supported")
    if len(kinds) > 1:
        raise MergeError("failed", f"list element types are not identical: {list(lists)}")
    return dict in kinds


def _merge_value(item: Mapping[str, Any], key: str) -> Any:
    if key not in item:
        raise MergeError("failed", f"map: {dict(item)} does not contain declared merge key: {key}")
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
            raise MergeError("failed", "merging lists cannot yet be specified in the patch")
        else:
            raise MergeError("failed", f'unknown patch type "{directive}" in map: {item}')
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


def _ordered(merged: Object, todo: Object, directive: str, order: Any, schema: MergeSchema | None) -> None:
    """`$setElementOrder/x`: merge the list x, then arrange it."""
    key = directive.removeprefix(_ORDER)
    child = _field(schema, key)
    if not isinstance(order, list):
        raise MergeError("failed", f"expected a list for {directive}")
    if schema is not None and child is None:
        raise MergeError("failed", f"unable to find api field in struct {schema.name} for the json field {key!r}")
    current, patch = merged.get(key), todo.pop(key, None)
    for value in (current, patch):
        if value is not None and not isinstance(value, list):
            raise MergeError("failed", f"expected a list for {key}, got {type(value).__name__}")
    merge_key = child.patch_merge_key if child is not None else ""
    _check_order(patch or [], order, merge_key)
    if current is None and patch is None:
        return
    if current is None:
        result = _undirected(without_nulls(patch))
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
        raise MergeError(
            "failed", f"The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n"
        )
