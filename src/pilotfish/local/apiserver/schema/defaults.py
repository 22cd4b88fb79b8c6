"""Filling in what the schema says about absent fields, and dropping what it has no place for."""

from __future__ import annotations

import copy
from typing import Any

from pilotfish.local.apiserver.schema.node import ABSENT, Schema


def apply_defaults(s: Schema, obj: Any) -> None:
    """Give absent fields the schema's `default`, in place, also inside what was just filled in.

    In custom resources a null where none is allowed counts as absent (and is dropped where there is no default).
    """
    if s.structural:
        _structural(s, obj)
    elif s.default_keys or s.default_children or s.items is not None or s.additional is not None:
        _typed(s, obj)


def _fresh(default: Any) -> Any:
    if type(default) is dict:
        return copy.deepcopy(default) if default else {}
    return copy.deepcopy(default) if type(default) is list else default


def _typed(s: Schema, value: Any) -> None:
    if type(value) is dict:
        for key, default in s.default_keys:
            if key not in value:
                value[key] = _fresh(default)
        for key, child in s.default_children:
            if (item := value.get(key)) is not None:
                _typed(child, item)
        additional = s.additional
        if additional is not None and (additional.default_keys or additional.default_children):
            for item in value.values():
                _typed(additional, item)
    elif type(value) is list and s.items is not None:
        items = s.items
        if items.default_keys or items.default_children or items.items is not None:
            for item in value:
                _typed(items, item)


def _structural(s: Schema, value: Any) -> None:
    if type(value) is dict:
        for key in [k for k, item in value.items() if item is None]:
            child = s.properties.get(key) or s.additional
            if child is not None and not child.nullable and child.structural:
                if child.default is ABSENT or child.default is None:
                    del value[key]
                else:
                    value[key] = _fresh(child.default)
        for key, default in s.default_keys:
            if key not in value:
                value[key] = _fresh(default)
        for key, item in value.items():
            if type(item) is dict or type(item) is list:
                child = s.properties.get(key) or s.additional
                if child is not None and child.structural:
                    _structural(child, item)
    elif type(value) is list and s.items is not None:
        items = s.items
        for i, item in enumerate(value):
            if item is None and not items.nullable and items.default is not ABSENT:
                value[i] = _fresh(items.default)
            _structural(items, value[i])


def prune(s: Schema, obj: Any) -> None:
    """Drop, in place, the fields that a custom resource's schema does not know."""
    if type(obj) is dict:
        gone: list[str] | None = None
        for key, item in obj.items():
            child = s.properties.get(key) or s.additional
            if child is None:
                if not s.preserve_unknown:
                    (gone := gone or []).append(key)
            elif type(item) is dict or type(item) is list:
                prune(child, item)
        for key in gone or ():
            del obj[key]
    elif type(obj) is list and s.items is not None:
        for item in obj:
            prune(s.items, item)
