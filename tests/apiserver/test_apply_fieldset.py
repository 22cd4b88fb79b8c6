"""Sets of field paths: the laws of sets, against plain Python sets of paths."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pilotfish.local.apiserver import fieldset
from pilotfish.local.apiserver.fieldset import LEAF, Fields

Path = tuple[str, ...]
STEPS = st.sampled_from(["f:a", "f:b", 'k:{"n":"x"}', 'v:"y"', "i:0"])
PATHS = st.sets(st.lists(STEPS, min_size=1, max_size=4).map(tuple), max_size=8)


def build(paths: set[Path]) -> Fields:
    """A tree that holds just these paths."""
    root: Fields = {}
    for path in sorted(paths):
        node = root
        for i, step in enumerate(path):
            last = i == len(path) - 1
            below = node.get(step)
            if below is None:
                below = node[step] = {} if last else {"?": 1}
            elif (last and below and "." not in below) or (not last and not below):
                below["."] = LEAF
            node = below
            if not last:
                node.pop("?", None)
    return root


def members(node: Fields, prefix: Path = ()) -> set[Path]:
    out: set[Path] = set()
    for step, below in node.items():
        if step == ".":
            continue
        path = (*prefix, step)
        if fieldset.member(below):
            out.add(path)
        out |= members(below, path)
    return out


@given(PATHS)
def test_a_set_holds_what_was_put_in(paths: set[Path]) -> None:
    """And survives JSON, the form in which it is stored."""
    tree = build(paths)
    assert members(tree) == paths
    assert members(msgspec.json.decode(msgspec.json.encode(tree))) == paths


@given(PATHS, PATHS)
def test_union_difference_and_intersection_are_those_of_sets(a: set[Path], b: set[Path]) -> None:
    """The operands stay as they are."""
    left, right = build(a), build(b)
    assert members(fieldset.union(left, right)) == a | b
    assert members(fieldset.difference(left, right)) == a - b
    assert members(fieldset.intersection(left, right)) == a & b
    assert (members(left), members(right)) == (a, b)


@given(PATHS, PATHS)
def test_results_have_no_empty_branches(a: set[Path], b: set[Path]) -> None:
    """Equal sets are equal trees, so that a write that changes no ownership changes no bytes."""
    left, right = build(a), build(b)
    assert fieldset.difference(fieldset.union(left, right), right) == build(a - b)
    assert fieldset.intersection(left, right) == build(a & b)
    assert fieldset.union(left, left) == left


@given(PATHS)
def test_prefixes_can_be_cut(paths: set[Path]) -> None:
    """Everything at and below a path goes, or all else does."""
    tree = build(paths)
    assert members(fieldset.without_prefix(tree, "f:a")) == {p for p in paths if p[0] != "f:a"}
    assert members(fieldset.only_prefix(tree, "f:a")) == {p for p in paths if p[0] == "f:a"}
    assert members(fieldset.without_prefix(tree, "f:a", "f:b")) == {p for p in paths if p[:2] != ("f:a", "f:b")}


def test_paths_read_as_kubectl_prints_them() -> None:
    """Keys of list items in brackets, values of sets with an equals sign."""
    tree: dict[str, Any] = {
        "f:spec": {
            "f:ports": {'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:name": {}}},
            "f:args": {},
            "f:set": {'v:"x"': {}},
        }
    }
    assert list(fieldset.paths(tree)) == [
        ".spec.args",
        '.spec.ports[port=80,protocol="TCP"]',
        '.spec.ports[port=80,protocol="TCP"].name',
        '.spec.set[="x"]',
    ]
