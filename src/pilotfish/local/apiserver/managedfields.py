"""Who owns which field: what every write does to metadata.managedFields.

The rules are those of structured-merge-diff (sigs.k8s.io/structured-merge-diff) and of the field managers around it in
the Kubernetes API server.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.fieldset import LEAF, Fields, difference, encode, intersection, only_prefix, union
from pilotfish.local.apiserver.fieldset import without_prefix as without
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.schema import Schema
from pilotfish.local.apiserver.schema.node import ABSENT, ANY, ANY_KEPT

APPLY, UPDATE = "Apply", "Update"
BEFORE_FIRST_APPLY = "before-first-apply"
_ANCIENT = "ancient-changes"
_MAX_UPDATERS = 10
_UNTRACKED = (
    *("apiVersion", "kind"),
    *("name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation"),
    *("managedFields", "resourceVersion"),
)
_UNTRACKED_TOP = frozenset(f"f:{name}" for name in _UNTRACKED[:2])
_UNTRACKED_META = frozenset([".", *(f"f:{name}" for name in _UNTRACKED[2:])])

ManagerKey = tuple[str, str, str, str]
"""(manager, operation, apiVersion, subresource). The version is empty for Apply: there is one entry a subresource."""


class NoIdentity(ValueError):  # noqa: N818 - a fact about a list item
    """An item of a list map or set lacks what would tell it from the others."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one manager owns, in which version, since when."""

    fields: Fields
    api_version: str
    time: str | None


Managers = dict[ManagerKey, Entry]


# ----------------------------------------------------------------------------------------------- values to field sets


def child_of(s: Schema, key: str) -> Schema:
    """The schema below a key; for what the schema does not know, that of free-form values."""
    return s.properties.get(key) or s.additional or (ANY_KEPT if s.preserve_unknown else ANY)


def atomic(s: Schema, value: Any) -> bool:
    """Whether a map or list is owned as a whole."""
    if type(value) is dict:
        return s.map_type == "atomic"
    return s.list_type == "atomic"


def item_step(s: Schema, item: Any) -> str:
    """How an item of a list map or set is named in a path. NoIdentity when it cannot be."""
    if s.list_type == "set":
        if item is None or type(item) in (dict, list):
            raise NoIdentity("associative list without keys has an element that is not a scalar")
        return "v:" + encode(item)
    if type(item) is not dict:
        raise NoIdentity("associative list with keys may not have non-map elements")
    keys = {}
    for key, default in s.item_keys:
        value = item.get(key, default)
        if value is ABSENT:
            raise NoIdentity(
                f'associative list with keys has an element that omits key field "{key}" '
                "(and doesn't have default value)"
            )
        keys[key] = value
    return "k:" + encode(keys)


def items_of(s: Schema) -> Schema:
    return s.items or ANY


def whole(s: Schema, value: Any) -> Fields:
    """The set of a value that has just come, or gone: itself and all below."""
    if type(value) is dict:
        if not value or s.map_type == "atomic":
            return LEAF
        node: Fields = {".": LEAF}
        for key, item in value.items():
            node["f:" + key] = whole(child_of(s, key), item) if type(item) in (dict, list) else LEAF
        return node
    if type(value) is list and value and s.list_type != "atomic":
        node = {".": LEAF}
        items = items_of(s)
        for item in value:
            step = item_step(s, item)
            node[step] = LEAF if step in node else whole(items, item)
        return node
    return LEAF


def compare(s: Schema, old: Any, new: Any) -> tuple[Fields | None, Fields | None]:
    """What a change added or modified, and what it removed, as sets below this place (None: nothing)."""
    if old is new or (old == new and old is not None):
        return None, None
    kind = dict if type(old) is dict or type(new) is dict else list
    for value in (old, new):
        if value is not None and type(value) is not kind:
            return LEAF, None
    if (not old and not new) or atomic(s, old if new is None else new):
        return (None, None) if old is new else (LEAF, None)
    return _compare_maps(s, old or {}, new or {}) if kind is dict else _compare_lists(s, old or [], new or [])


def _compare_maps(s: Schema, old: Object, new: Object) -> tuple[Fields | None, Fields | None]:
    changed: Fields = {}
    removed: Fields = {}
    for key, value in new.items():
        if key not in old:
            changed["f:" + key] = whole(child_of(s, key), value)
            continue
        before = old[key]
        if before is value:
            continue
        if type(value) in (dict, list) or type(before) in (dict, list):
            more, less = compare(child_of(s, key), before, value)
            if more is not None:
                changed["f:" + key] = more
            if less is not None:
                removed["f:" + key] = less
        elif before != value:
            changed["f:" + key] = LEAF
    if len(old) + len(changed) > len(new):
        for key, value in old.items():
            if key not in new:
                removed["f:" + key] = whole(child_of(s, key), value)
    return changed or None, removed or None


def _grouped(s: Schema, items: list[Any]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for item in items:
        groups.setdefault(item_step(s, item), []).append(item)
    return groups


def _compare_lists(s: Schema, old: list[Any], new: list[Any]) -> tuple[Fields | None, Fields | None]:
    before, after = _grouped(s, old), _grouped(s, new)
    items = items_of(s)
    changed: Fields = {}
    removed: Fields = {}
    for step in before.keys() | after.keys():
        was, now = before.get(step, []), after.get(step, [])
        if len(was) < 2 and len(now) < 2:
            if not was:
                changed[step] = whole(items, now[0])
            elif not now:
                removed[step] = whole(items, was[0])
            else:
                more, less = compare(items, was[0], now[0])
                if more is not None:
                    changed[step] = more
                if less is not None:
                    removed[step] = less
        elif len(was) > 1 and len(now) > 1:  # items that cannot be told apart are one leaf
            if was != now:
                changed[step] = LEAF
        elif len(was) > 1:
            if now:
                changed[step] = whole(items, now[0])
            removed[step] = LEAF
        else:
            if was:
                removed[step] = whole(items, was[0])
            changed[step] = LEAF
    return changed or None, removed or None


def field_set(s: Schema, value: Any) -> Fields:
    """The fields a configuration speaks of: leaves, list items and entries of maps, but not the structs around them."""
    if type(value) is dict:
        if s.map_type == "atomic":
            return LEAF
        out: Fields = {}
        for key, item in value.items():
            declared = s.properties.get(key)
            node = _below(declared or child_of(s, key), item)
            if node is LEAF or item is None or item == {}:
                out["f:" + key] = LEAF
            elif declared is None:
                out["f:" + key] = {".": LEAF, **node}
            elif node:
                out["f:" + key] = node
        return out
    out = {}
    if type(value) is list and s.list_type != "atomic":
        items = items_of(s)
        for item in value:
            node = _below(items, item)
            out[item_step(s, item)] = {".": LEAF, **node} if node else LEAF
    return out


def _below(s: Schema, value: Any) -> Fields:
    """LEAF itself for what is owned as a whole, otherwise the set below (which may be empty)."""
    if type(value) not in (dict, list) or atomic(s, value):
        return LEAF
    return field_set(s, value)


# --------------------------------------------------------------------------------------------- entries and their rules


def read_managers(entries: Any) -> Managers | None:
    """The entries of an object by manager; None when they cannot be read."""
    managers: Managers = {}
    for entry in entries or ():
        if not isinstance(entry, dict):
            return None
        operation = entry.get("operation")
        fields = entry.get("fieldsV1", {})
        if operation not in (APPLY, UPDATE) or not isinstance(fields, dict) or "apiVersion" not in entry:
            return None
        version = entry["apiVersion"]
        key = (
            entry.get("manager", ""),
            operation,
            version if operation == UPDATE else "",
            entry.get("subresource", ""),
        )
        managers[key] = Entry(fields, version, entry.get("time"))
    return managers


def write_managers(managers: Managers) -> list[Object]:
    """The entries as they are stored: appliers first, then by time and name."""
    out = []
    for key in sorted(managers, key=lambda k: (k[1], managers[k].time or "", k[0], managers[k].api_version, k[3])):
        manager, operation, _, subresource = key
        entry = managers[key]
        written: Object = {
            "manager": manager or "unknown",
            "operation": operation,
            "apiVersion": entry.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": entry.fields,
        }
        if entry.time:
            written["time"] = entry.time
        if subresource:
            written["subresource"] = subresource
        out.append(written)
    return out


def strip(fields: Fields) -> Fields:
    """Without what the system alone decides."""
    meta = fields.get("f:metadata")
    if meta is None:
        if _UNTRACKED_TOP.isdisjoint(fields):
            return fields
        return {step: below for step, below in fields.items() if step not in _UNTRACKED_TOP}
    out = {step: below for step, below in fields.items() if step not in _UNTRACKED_TOP}
    left = {step: below for step, below in meta.items() if step not in _UNTRACKED_META}
    if left:
        out["f:metadata"] = left
    else:
        del out["f:metadata"]
    return out


def owned(s: Schema, fields: Fields, subresource: str) -> Fields:
    """Without what a write to this subresource (or to the main resource) cannot change anyway."""
    if subresource == "status":
        if s.structural:
            return only_prefix(fields, "f:status")
        return without(fields, "f:spec")
    if not subresource and "f:status" in fields and _has_status_subresource(s):
        return without(fields, "f:status")
    return fields


def _has_status_subresource(s: Schema) -> bool:
    """Custom resources say so by their definition; a built-in kind with a status always has the subresource."""
    return s.status_subresource if s.structural else "status" in s.properties


def take_over(managers: Managers, changed: Fields, removed: Fields) -> Managers:
    """The other managers lose what was changed or removed by this write."""
    gone = union(changed, removed)
    out: Managers = {}
    for key, entry in managers.items():
        left = difference(entry.fields, gone)
        if left:
            out[key] = entry if left is entry.fields else Entry(left, entry.api_version, entry.time)
    return out


def _cap(managers: Managers) -> Managers:
    """At most ten updaters: the oldest of a version are merged into one."""
    updaters = [key for key in managers if key[1] == UPDATE]
    excess = len(updaters) - _MAX_UPDATERS
    if excess <= 0:
        return managers
    out = dict(managers)
    first_of: dict[str, ManagerKey] = {}
    for key in sorted(updaters, key=lambda k: (managers[k].time or "", k)):
        if excess <= 0:
            break
        version = managers[key].api_version
        bucket = (_ANCIENT, UPDATE, version, "")
        if version not in first_of:
            first_of[version] = key
            continue
        if bucket not in out:
            out[bucket] = out.pop(first_of[version])
        if key != bucket:
            entry = out.pop(key)
            out[bucket] = Entry(union(entry.fields, out[bucket].fields), version, entry.time)
        excess -= 1
    return out


def _is_reset(entries: Any) -> bool:
    """A client that sends an empty list (or one empty entry) wants the bookkeeping gone."""
    return isinstance(entries, list) and entries in ([], [{}])


def _starting_point(old: Object | None, new: Object, subresource: str) -> Managers:
    """The managers a write starts from: those it sends, when they can be read, else those of the stored object."""
    live = old["metadata"].get("managedFields") if old is not None else None
    if not subresource:
        sent = new["metadata"].get("managedFields")
        if _is_reset(sent):
            return {}
        if sent and sent is not live:
            managers = read_managers(sent)
            if managers:
                return managers
    return read_managers(live) or {}


def on_update(
    old: Object | None, new: Object, s: Schema, manager: str, api_version: str, subresource: str, now: str
) -> None:
    """Note in `new`, in place, that `manager` wrote it: it now owns what differs from `old` (None: created).

    `now` is an RFC 3339 time. Nothing changes when nothing differs. Schemas of both objects must be `s`.
    """
    meta = new["metadata"]
    managers = _starting_point(old, new, subresource)
    sent = meta.pop("managedFields", None)
    if old is not None and not managers:
        return  # bookkeeping was reset, or never begun: it starts anew only with the first apply
    try:
        changed, removed = _changes(s, old, new, subresource)
    except NoIdentity:  # such a list is refused by validation, or tolerated; either way ownership stays as it was
        if sent:
            meta["managedFields"] = sent
        return
    managers = take_over(managers, changed, removed)
    fields = strip(changed)
    if fields:
        key = (manager, UPDATE, api_version, subresource)
        previous = managers.get(key)
        managers[key] = Entry(fields if previous is None else union(previous.fields, fields), api_version, now)
    if entries := write_managers(_cap(managers)):
        meta["managedFields"] = entries


def _changes(s: Schema, old: Object | None, new: Object, subresource: str) -> tuple[Fields, Fields]:
    """Added or modified fields, and removed ones, without managedFields and what this write does not reach."""
    before = s.zero() if old is None else _without_managed_fields(old)
    changed, removed = _compare_maps(s, before, new)
    return owned(s, changed or {}, subresource), owned(s, removed or {}, subresource)


def _without_managed_fields(obj: Object) -> Object:
    meta = obj.get("metadata")
    if not meta or "managedFields" not in meta:
        return obj
    return obj | {"metadata": {key: value for key, value in meta.items() if key != "managedFields"}}


def validate_managed_fields(entries: Any, path: str = "metadata.managedFields") -> list[FieldError]:
    """What is wrong with entries that a client sent."""
    return list(_entry_errors(entries, path))


def _entry_errors(entries: Any, path: str) -> Iterator[FieldError]:
    for i, entry in enumerate(entries or ()):
        at = f"{path}[{i}]"
        if entry.get("operation") not in (APPLY, UPDATE):
            yield FieldError.invalid(f"{at}.operation", entry.get("operation", ""), "must be `Apply` or `Update`")
        if entry.get("fieldsType", "") not in ("FieldsV1", ""):
            yield FieldError.invalid(f"{at}.fieldsType", entry["fieldsType"], "must be `FieldsV1`")
        manager = entry.get("manager", "")
        if len(manager) > 128:
            yield FieldError.too_long(f"{at}.manager", 128)
        elif not manager.isprintable():
            yield FieldError.invalid(f"{at}.manager", manager, "should only contain printable characters")
        if len(entry.get("subresource", "")) > 256:
            yield FieldError.too_long(f"{at}.subresource", 256)


__all__ = [
    "APPLY",
    "BEFORE_FIRST_APPLY",
    "UPDATE",
    "Entry",
    "Managers",
    "NoIdentity",
    "compare",
    "field_set",
    "intersection",
    "on_update",
    "read_managers",
    "take_over",
    "validate_managed_fields",
    "write_managers",
]
