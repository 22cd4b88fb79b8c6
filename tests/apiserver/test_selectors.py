"""Selectors as text."""

from __future__ import annotations

import pytest

from pilotfish.local.apiserver.errors import ApiError
from pilotfish.local.apiserver.selectors import (
    field_selector,
    label_selector,
    match_fields,
    match_labels,
    selector_text,
)

LABELS = {"app": "web", "tier": "front", "size": "3"}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier=front", True),
        ("app!=web", False),
        ("nope!=x", True),
        ("app", True),
        ("!app", False),
        ("!nope", True),
        ("app in (web, other)", True),
        ("app in (other)", False),
        ("app notin (other),tier notin (back)", True),
        ("nope notin (x)", True),
        ("nope in (x)", False),
        ("size>2", True),
        ("size<3", False),
        ("app in ()", False),
    ],
)
def test_label_selectors(text: str, selected: bool) -> None:
    """Each form of requirement selects what Kubernetes says it does."""
    test = label_selector(text)
    assert (test is None or test(LABELS)) is selected


@pytest.mark.parametrize("text", ["app in web", "a b=c", "app=x y", "=x", "app=web,", "app in (a", "!app=x", "size>x"])
def test_label_selectors_that_do_not_parse(text: str) -> None:
    """They are refused with 400 and name the selector."""
    with pytest.raises(ApiError) as refused:
        label_selector(text)
    assert refused.value.code == 400


def test_field_selectors() -> None:
    """Terms are joined by and; escapes are undone; unknown fields are refused by name."""
    values = {"metadata.name": "a,b", "status.phase": "Running"}
    assert match_fields(field_selector(r"metadata.name=a\,b,status.phase!=Failed", ("status.phase",)), values)
    assert not match_fields(field_selector("status.phase=Failed", ("status.phase",)), values)
    with pytest.raises(ApiError, match=r"field label not supported: spec\.x"):
        field_selector("spec.x=1", ("status.phase",))
    with pytest.raises(ApiError, match=r'"spec\.x" is not a known field selector'):
        field_selector("spec.x=1", ())


def test_selector_objects_and_their_text() -> None:
    """A LabelSelector object selects what its text selects."""
    selector = {
        "matchLabels": {"app": "web"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["front", "back"]},
            {"key": "old", "operator": "DoesNotExist"},
        ],
    }
    assert match_labels(selector, LABELS)
    text = selector_text(selector)
    assert text == "app=web,tier in (back,front),!old"
    compiled = label_selector(text)
    assert compiled is not None
    assert compiled(LABELS)
