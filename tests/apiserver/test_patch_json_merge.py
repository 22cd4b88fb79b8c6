"""JSON patch and merge patch, against the RFCs and where a kube-apiserver differs from them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotfish.local.apiserver.errors import ApiError
from pilotfish.local.apiserver.patch import json_patch, merge_patch

SCALARS = st.one_of(st.integers(-5, 5), st.booleans(), st.sampled_from(["", "x", "y"]))
KEYS = st.sampled_from(["a", "b", "c", "d/e", "f~g"])
VALUES = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=3), max_leaves=8
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=4)
PATCHES = st.dictionaries(
    KEYS,
    st.recursive(
        st.none() | SCALARS,
        lambda below: st.lists(SCALARS, max_size=2) | st.dictionaries(KEYS, below, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@pytest.mark.parametrize(
    ("ops", "expected"),
    [
        ([{"op": "add", "path": "/b", "value": 1}], {"a": [1, 2], "m": {"k": "v"}, "b": 1}),
        ([{"op": "add", "path": "/a/-", "value": 3}], {"a": [1, 2, 3], "m": {"k": "v"}}),
        ([{"op": "add", "path": "/a/0", "value": 0}], {"a": [0, 1, 2], "m": {"k": "v"}}),
        ([{"op": "remove", "path": "/a/0"}], {"a": [2], "m": {"k": "v"}}),
        ([{"op": "remove", "path": "/a/-1"}], {"a": [1], "m": {"k": "v"}}),
        ([{"op": "replace", "path": "/a/1", "value": 9}], {"a": [1, 9], "m": {"k": "v"}}),
        ([{"op": "replace", "path": "/new", "value": 9}], {"a": [1, 2], "m": {"k": "v"}, "new": 9}),
        ([{"op": "move", "from": "/m/k", "path": "/k"}], {"a": [1, 2], "m": {}, "k": "v"}),
        ([{"op": "copy", "from": "/a", "path": "/c"}], {"a": [1, 2], "m": {"k": "v"}, "c": [1, 2]}),
        ([{"op": "add", "path": "/m/x~1y", "value": 1}], {"a": [1, 2], "m": {"k": "v", "x/y": 1}}),
        ([{"op": "test", "path": "/a/0", "value": 1}], {"a": [1, 2], "m": {"k": "v"}}),
        ([{"op": "test", "path": "/nope", "value": None}], {"a": [1, 2], "m": {"k": "v"}}),
        ([], {"a": [1, 2], "m": {"k": "v"}}),
    ],
)
def test_an_operation_does_what_it_says(ops: list[Any], expected: Any) -> None:
    """Also `replace` of a key that is not there, which a kube-apiserver lets pass."""
    original = {"a": [1, 2], "m": {"k": "v"}}
    kept = copy.deepcopy(original)
    assert json_patch(original, ops) == expected
    assert original == kept


@pytest.mark.parametrize(
    "op",
    [
        {"op": "remove", "path": "/nope"},
        {"op": "remove", "path": "/a/7"},
        {"op": "add", "path": "/nope/x", "value": 1},
        {"op": "add", "path": "/a/5", "value": 1},
        {"op": "add", "path": "/a/x", "value": 1},
        {"op": "replace", "path": "/a/2", "value": 1},
        {"op": "test", "path": "/a/0", "value": 2},
        {"op": "test", "path": "/a/0", "value": True},
        {"op": "move", "from": "/nope", "path": "/x"},
        {"op": "sing", "path": "/a"},
        {"op": "add"},
    ],
)
def test_what_cannot_be_applied_is_422(op: dict[str, Any]) -> None:
    """With the one message that a kube-apiserver has for it."""
    with pytest.raises(ApiError) as refused:
        json_patch({"a": [1]}, [op])
    assert (refused.value.code, refused.value.reason) == (422, "Invalid")
    assert refused.value.message == "the server rejected our request due to an error in our request"


@pytest.mark.parametrize("ops", [{}, "x", None, [1], [[]]])
def test_what_is_no_patch_is_400(ops: Any) -> None:
    """A list of operations is wanted."""
    with pytest.raises(ApiError) as refused:
        json_patch({}, ops)
    assert refused.value.code == 400


def rfc7396(target: Any, patch: Any) -> Any:
    """The algorithm of RFC 7396, section 2, word for word."""
    if not isinstance(patch, dict):
        return patch
    out = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = rfc7396(out.get(key), value)
    return out


@given(OBJECTS, PATCHES)
def test_merge_patch_is_that_of_the_rfc(obj: dict[str, Any], patch: dict[str, Any]) -> None:
    """For every object and patch; the object is not touched."""
    kept = copy.deepcopy(obj)
    merged = merge_patch(obj, patch)
    assert merged == rfc7396(obj, patch) or _null_over_scalar(obj, patch)
    assert obj == kept


def _null_over_scalar(obj: Any, patch: Any) -> bool:
    """Where an object of nulls replaces something else, both readings are the same after decoding."""
    return bool(_without_nulls(merge_patch(obj, patch)) == _without_nulls(rfc7396(obj, patch)))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


@given(OBJECTS, PATCHES)
def test_merging_twice_is_merging_once(obj: dict[str, Any], patch: dict[str, Any]) -> None:
    """A merge patch says how things shall be."""
    once = merge_patch(obj, patch)
    assert merge_patch(once, patch) == once


@given(OBJECTS, VALUES)
def test_adding_and_removing_is_nothing(obj: dict[str, Any], value: Any) -> None:
    """JSON patch: add then remove leaves the object as it was, and shares nothing with the patch."""
    patched = json_patch(obj, [{"op": "add", "path": "/new", "value": value}])
    assert patched["new"] == value
    assert patched["new"] is not value or not isinstance(value, dict | list)
    assert json_patch(patched, [{"op": "remove", "path": "/new"}]) == obj


@pytest.mark.parametrize("patch", [[], "x", None, 1])
def test_a_merge_patch_is_an_object(patch: Any) -> None:
    """Anything else is a bad request."""
    with pytest.raises(ApiError) as refused:
        merge_patch({}, patch)
    assert refused.value.code == 400
