"""Server-side apply: merge what a manager declares, drop what it no longer declares, refuse what others own.

The rules are those of structured-merge-diff (sigs.k8s.io/structured-merge-diff) and of the field managers around it in
the Kubernetes API server.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pilotfish.local.apiserver.errors import ApiError, bad_request
from pilotfish.local.apiserver.fieldset import LEAF, Fields, difference, encode, intersection, member, paths, union
from pilotfish.local.apiserver.managedfields import (
    APPLY,
    BEFORE_FIRST_APPLY,
    UPDATE,
    Entry,
    ManagerKey,
    Managers,
    NoIdentity,
    atomic,
    child_of,
    compare,
    field_set,
    item_step,
    items_of,
    owned,
    read_managers,
    strip,
    take_over,
    write_managers,
)
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.schema import Schema

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_KUBECTL = "kubectl"


def server_side_apply(
    live: Object | None,
    patch: Object,
    s: Schema,
    manager: str,
    force: bool,
    api_version: str,
    subresource: str,
    now: str,
) -> Object:
    """The object that results when `manager` applies `patch` to `live` (None: there is none yet), with managedFields.

    It is equal to `live` when nothing changes. All three are in `api_version`; `now` is an RFC 3339 time.
    ApiError 400 for a patch in another version, 409 with the conflicting fields as causes, 500 (sic) for fields or
    types that the schema does not have.
    """
    _check_patch(patch, s, api_version)
    if live is None:
        current: Object = {}
        managers: Managers = {}
    else:
        meta = live.get("metadata", {})
        managers = read_managers(meta.get("managedFields")) or {}
        current = live | {"metadata": {key: value for key, value in meta.items() if key != "managedFields"}}
        if not managers:
            managers = _adopt(current, s, api_version, subresource, now)
    key = (manager, APPLY, "", subresource)
    try:
        merged, after = _apply_or_adopt(current, patch, s, managers, key, api_version, subresource, force=force)
    except NoIdentity as error:
        raise ApiError(500, "", f"failed to create typed live object ({_label(current)}): {error}") from None
    changed = live is None or merged != current
    if changed or _others_changed(managers, after, key):
        entry = after.get(key)
        if entry is not None:
            after[key] = Entry(entry.fields, entry.api_version, now)
    elif key in after and key in managers:
        after[key] = managers[key]
    return _finished(live, merged, patch, managers, after, manager, subresource)


def _others_changed(before: Managers, after: Managers, key: ManagerKey) -> bool:
    old, new = before.get(key), after.get(key)
    if (old is None) != (new is None):
        return True
    return old is not None and new is not None and old.fields != new.fields


def _finished(
    live: Object | None,
    merged: Object,
    patch: Object,
    before: Managers,
    after: Managers,
    manager: str,
    subresource: str,
) -> Object:
    meta = dict(merged.get("metadata") or {})
    if manager == _KUBECTL and not subresource and live is not None:
        _sync_last_applied(meta, patch)
    if live is not None and before == after:
        entries = live.get("metadata", {}).get("managedFields")
    else:
        entries = write_managers(after)
    if entries:
        meta["managedFields"] = entries
    return merged | {"metadata": meta}


# ---------------------------------------------------------------------------------------------------- the patch itself


def _check_patch(patch: Object, s: Schema, api_version: str) -> None:
    version = patch.get("apiVersion", "")
    if version != api_version:
        raise bad_request(
            f"Incorrect version specified in apply patch. Specified patch version: {version}, expected: {api_version}"
        )
    meta = patch.get("metadata")
    if isinstance(meta, dict) and meta.get("managedFields") is not None:
        raise bad_request("metadata.managedFields must be nil")
    errors = list(_typed_errors(s, patch, ""))
    if errors:
        text = errors[0] if len(errors) == 1 else "errors:" + "".join(f"\n  {error}" for error in errors)
        raise ApiError(500, "", f"failed to create typed patch object ({_label(patch)}): {text}")


def _label(patch: Object) -> str:
    meta = patch.get("metadata")
    meta = meta if isinstance(meta, dict) else {}
    group, _, version = patch.get("apiVersion", "").rpartition("/")
    return f"{meta.get('namespace', '')}/{meta.get('name', '')}; {group}/{version}, Kind={patch.get('kind', '')}"


def _typed_errors(s: Schema, value: Any, path: str) -> Iterator[str]:
    """What keeps a value from being one of this schema. Null fits everywhere."""
    if value is None:
        return
    if type(value) is dict:
        if s.type not in ("object", "") or s.quantity or s.int_or_string:
            yield f"{path or '.'}: expected {_expected(s)}, got map"
            return
        for key, item in value.items():
            child = s.properties.get(key) or s.additional
            if child is not None:
                yield from _typed_errors(child, item, f"{path}.{key}")
            elif not s.preserve_unknown:
                yield f"{path}.{key}: field not declared in schema"
    elif type(value) is list:
        if s.type not in ("array", "") or s.quantity or s.int_or_string:
            yield f"{path}: expected {_expected(s)}, got list"
            return
        yield from _list_errors(s, value, path)
    elif not _scalar_fits(s, value):
        yield f"{path}: expected {_expected(s)}, got {json.dumps(value)}"


def _list_errors(s: Schema, value: list[Any], path: str) -> Iterator[str]:
    seen: set[str] = set()
    for i, item in enumerate(value):
        where = f"{path}[{i}]"
        if s.list_type != "atomic":
            try:
                step = item_step(s, item)
            except NoIdentity as error:
                yield f"{path}: element {i}: {error}"
                continue
            if step in seen:
                yield f"{path}: duplicate entries for key {next(iter(paths({step: LEAF})))}"
            seen.add(step)
            where = path + next(iter(paths({step: LEAF})))
        yield from _typed_errors(items_of(s), item, where)


_SCALARS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int, float),
    "number": (int, float),
    "boolean": (bool,),
    "object": (),
    "array": (),
}


def _scalar_fits(s: Schema, value: Any) -> bool:
    if s.int_or_string or s.quantity or not s.type:
        return True
    return type(value) in _SCALARS[s.type]


def _expected(s: Schema) -> str:
    words = {"object": "map", "array": "list", "integer": "numeric (int or float)", "number": "numeric (int or float)"}
    return words.get(s.type, s.type or "scalar")


# ------------------------------------------------------------------------------------------------------------- merging


def _merge(s: Schema, left: Any, right: Any) -> Any:
    """`right` over `left`; neither is changed."""
    if type(right) is dict and type(left) is dict and right and left and not atomic(s, right):
        out = dict(left)
        for key, value in right.items():
            out[key] = _merge(child_of(s, key), left[key], value) if key in left else value
        return out
    if type(right) is list and type(left) is list and right and left and not atomic(s, right):
        return _merge_lists(s, left, right)
    if right in (None, [], {}) and left and type(left) in (dict, list) and not atomic(s, left):
        return left
    return right


def _merge_lists(s: Schema, left: list[Any], right: list[Any]) -> list[Any]:
    """Items of both, those of `right` in its order, those only in `left` where they stood among the shared ones."""
    left_steps = [item_step(s, item) for item in left]
    right_steps = [item_step(s, item) for item in right]
    ours = dict(zip(left_steps, left, strict=True))
    theirs = dict(zip(right_steps, right, strict=True))
    shared = [step for step in right_steps if step in ours]
    items = items_of(s)
    done: set[str] = set()
    out: list[Any] = []

    def take(step: str) -> None:
        done.add(step)
        if shared and shared[0] == step:
            shared.pop(0)
        out.append(_merge(items, ours[step], theirs[step]) if step in ours else theirs[step])

    i = j = 0
    while i < len(left) or j < len(right):
        if i < len(left) and j < len(right):
            if left_steps[i] == right_steps[j]:
                take(right_steps[j])
                i, j = i + 1, j + 1
                continue
            if left_steps[i] in theirs and shared and shared[0] != left_steps[i]:
                i += 1  # comes later, where the patch has it
                continue
        if i < len(left):
            if left_steps[i] not in theirs:
                out.append(left[i])
                i += 1
                continue
            if left_steps[i] in done:
                i += 1
        if j < len(right):
            take(right_steps[j])
            j += 1
    return out


# ------------------------------------------------------------------------------------------------------------- pruning


def _named(s: Schema, fields: Fields) -> Fields:
    """The set with the declared fields on the way to its members, which are not normally in it."""
    out: Fields = {}
    for step, below in fields.items():
        if step == ".":
            out[step] = below
            continue
        child, declared = _step_schema(s, step)
        if below:
            below = _named(child, below)  # noqa: PLW2901 - the same step, completed
            if declared and not member(below):
                below = {".": LEAF, **below}  # noqa: PLW2901 - as above
        out[step] = below
    return out


def _step_schema(s: Schema, step: str) -> tuple[Schema, bool]:
    """The schema below a step, and whether it is a declared field."""
    if step.startswith("f:"):
        key = step[2:]
        return child_of(s, key), key in s.properties
    return items_of(s), False


def _remove(s: Schema, value: Any, fields: Fields) -> Any:
    """The value without the items of the set. A map or list that is not in the set itself stays, be it empty."""
    if type(value) not in (dict, list) or not value or not fields:
        return value
    if atomic(s, value):
        return None
    if type(value) is dict:
        out: Object = {}
        for key, item in value.items():
            below = fields.get("f:" + key)
            if below is None:
                out[key] = item
            elif not member(below):
                left = _remove(child_of(s, key), item, below)
                if left is not None or item is None:
                    out[key] = left
        return out
    kept: list[Any] = []
    for item in value:
        below = fields.get(item_step(s, item))
        if below is None:
            kept.append(item)
        elif not member(below):
            left = _remove(items_of(s), item, below)
            if left is not None:
                kept.append(left)
    return kept


_IDENTITY: Fields = {"f:metadata": {"f:name": LEAF, "f:namespace": LEAF, "f:uid": LEAF}}
"""Never dropped, whatever a patch leaves out."""


def _prune(merged: Object, s: Schema, managers: Managers, last: Fields) -> Object:
    """Drop what the manager declared last time and nobody declares now."""
    last = _named(s, last)
    pruned = _remove(s, merged, last) or {}
    everybody: Fields = _IDENTITY
    for entry in managers.values():
        everybody = union(everybody, entry.fields)
    merged_set = _named(s, field_set(s, merged))
    kept = union(_named(s, field_set(s, pruned)), _named(s, everybody))
    pruned = _remove(s, merged, difference(merged_set, kept)) or {}
    pruned_set = _named(s, field_set(s, pruned))
    return _remove(s, merged, intersection(difference(merged_set, pruned_set), last)) or {}


# ------------------------------------------------------------------------------------------------------------ applying


def _adopt(live: Object, s: Schema, api_version: str, subresource: str, now: str) -> Managers:
    """An object without bookkeeping: all it holds was set before the first apply."""
    changed, _ = compare(s, s.zero(), live)
    fields = strip(owned(s, changed or {}, subresource))
    if not fields:
        return {}
    return {(BEFORE_FIRST_APPLY, UPDATE, api_version, subresource): Entry(fields, api_version, now)}


def _apply(
    live: Object,
    patch: Object,
    s: Schema,
    managers: Managers,
    key: ManagerKey,
    api_version: str,
    subresource: str,
    *,
    force: bool,
) -> tuple[Object, Managers, list[tuple[ManagerKey, Fields]]]:
    """The new object, who owns what then, and the conflicts (which, unless forced, forbid it)."""
    merged = _merge(s, live, patch)
    declared = owned(s, field_set(s, patch), subresource)
    after = dict(managers)
    after[key] = Entry(declared, api_version, None)
    last = managers.get(key)
    if last is not None and last.fields:
        merged = _prune(merged, s, after, last.fields)
    changed, removed = compare(s, live, merged)
    changed, removed = owned(s, changed or {}, subresource), owned(s, removed or {}, subresource)
    others = {k: entry for k, entry in after.items() if k != key}
    conflicts = [(k, both) for k, entry in others.items() if (both := intersection(entry.fields, changed))]
    if conflicts and not force:
        return live, managers, conflicts
    result = take_over(others, changed, removed)
    if fields := strip(declared):
        result[key] = Entry(fields, api_version, last.time if last is not None else None)
    return merged, result, []


def _apply_or_adopt(
    live: Object,
    patch: Object,
    s: Schema,
    managers: Managers,
    key: ManagerKey,
    api_version: str,
    subresource: str,
    *,
    force: bool,
) -> tuple[Object, Managers]:
    """Apply; kubectl may take over without force what its client-side apply has set. ApiError 409 on conflicts."""
    merged, after, conflicts = _apply(live, patch, s, managers, key, api_version, subresource, force=force)
    if conflicts and key[0] == _KUBECTL and not subresource:
        allowed = _last_applied_fields(live, s, api_version)
        conflicts = [(k, left) for k, fields in conflicts if (left := difference(fields, allowed))]
        if not conflicts:
            merged, after, _ = _apply(live, patch, s, managers, key, api_version, subresource, force=True)
    if conflicts:
        raise _conflict_error(conflicts)
    return merged, after


def _last_applied(meta: Object) -> str:
    text = (meta.get("annotations") or {}).get(_LAST_APPLIED, "")
    return text if isinstance(text, str) else ""


def _last_applied_fields(live: Object, s: Schema, api_version: str) -> Fields:
    """What client-side apply set and nobody has changed since."""
    try:
        applied = json.loads(_last_applied(live.get("metadata", {})) or "null")
        if not isinstance(applied, dict) or applied.get("apiVersion") != api_version:
            return {}
        fields = field_set(s, applied)
        changed, removed = compare(s, applied, live)
    except (ValueError, NoIdentity):
        return {}
    return difference(difference(fields, changed or {}), removed or {})


def _sync_last_applied(meta: Object, patch: Object) -> None:
    """kubectl's own annotation, where an object has it, follows what kubectl applies."""
    if not _last_applied(meta):
        return
    bare = dict(patch)
    if isinstance(bare.get("metadata"), dict):
        bare["metadata"] = own = dict(bare["metadata"])
        if isinstance(own.get("annotations"), dict):
            own["annotations"] = {k: v for k, v in own["annotations"].items() if k != _LAST_APPLIED}
    text = encode(bare) + "\n"
    if len(text) <= 262144:
        meta["annotations"] = meta["annotations"] | {_LAST_APPLIED: text}


# ----------------------------------------------------------------------------------------------------------- conflicts


def _conflict_error(conflicts: list[tuple[ManagerKey, Fields]]) -> ApiError:
    listed = sorted((_printed(key), path) for key, fields in conflicts for path in paths(fields))
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": path}
        for manager, path in listed
    ]
    if len(listed) == 1:
        text = f"1 conflict: conflict with {listed[0][0]}: {listed[0][1]}"
    else:
        lines: list[str] = []
        for manager in dict.fromkeys(manager for manager, _ in listed):
            lines.append(f"conflicts with {manager}:")
            lines += [f"- {path}" for owner, path in listed if owner == manager]
        text = f"{len(listed)} conflicts: " + "\n".join(lines)
    return ApiError(409, "Conflict", f"Apply failed with {text}", {"causes": causes})


def _printed(key: ManagerKey) -> str:
    manager, operation, version, subresource = key
    text = encode(manager or "unknown")
    if subresource:
        text += f" with subresource {encode(subresource)}"
    return f"{text} using {version}" if operation == UPDATE else text
