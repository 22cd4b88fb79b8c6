"""YAML as kubectl reads it."""

from __future__ import annotations

import pytest

from pilotfish.api import DecodeError, Source
from pilotfish.api.files import dump, line_of, load_all, load_one

TEXT = """\
# a comment
kind: A
spec:
  http:
  - name: x
    timeout: 1s
---

---
kind: List
items:
- kind: B
- kind: C
  spec: {a: 1}
"""


def test_documents_and_lists() -> None:
    """Every object comes with the line it begins at; lists are taken apart; empty documents are skipped."""
    found = [(value["kind"], source) for value, source in load_all(TEXT, "f.yaml")]
    assert found == [("A", Source("f.yaml", 2)), ("B", Source("f.yaml", 12)), ("C", Source("f.yaml", 13))]


@pytest.mark.parametrize(
    ("line", "path", "expected"),
    [(2, "spec.http[0].timeout", 6), (2, "spec.http[1]", 5), (2, "nothing", 2), (13, "spec.a", 14), (99, "a", 0)],
)
def test_lines_of_fields(line: int, path: str, expected: int) -> None:
    """A field's line, or that of the last part of the path that is there."""
    assert line_of(TEXT, Source("f.yaml", line), path) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-01-01", "2024-01-01"),
        ("12:30:45", "12:30:45"),
        ("1e3", 1000.0),
        ("0o17", 15),
        ("0x1f", 31),
        ("1_000", 1000),
        ("~", None),
        ("yes", True),
        ("1.10.3", "1.10.3"),
        ("1.1", 1.1),
        ("10s", "10s"),
        ("-5", -5),
        ("1.2.3.4", "1.2.3.4"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    """No dates and no base 60: a timestamp stays text."""
    assert load_one(text) == value


def test_errors_have_a_place() -> None:
    """The file and the line of what is no YAML."""
    with pytest.raises(DecodeError, match=r"f\.yaml:3.*no valid YAML"):
        list(load_all("a: b\nc: [", "f.yaml"))


def test_keys_become_text() -> None:
    """As in JSON, which is what reaches the API server."""
    assert load_one("8080: a\ntrue: b\ny: c\n1.5: d\n~: e") == {"8080": "a", "true": "c", "1.5": "d", "null": "e"}


TEXTS = ["x\ny\n", "yes", "y", "1e3", "12:30", "a: b", " lead", "", "null", "0x1", "-", "2020-01-01", "1_000", "#c"]
TEXTS += ["x\n  y", "\n", " a\n b", "a\n\n", "017", "0o17", "1.", "=", "<<", "*", "%REQ(:x)%", "é\t", "a\\b", '"', "'"]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_written_is_read(text: str) -> None:
    """Text stays text, as a value and as a key; a document more does not begin inside it."""
    assert load_one(dump({text: [text, {"a": text}]})) == {text: [text, {"a": text}]}
    assert [value for value, _ in load_all(f"---\n{dump(['a', text])}---\n{dump([text])}")] == [["a", text], [text]]


def test_other_values_are_written() -> None:
    """Numbers, nothing, and empty things; keys are sorted."""
    assert dump({"b": 1000000, "a": 0.5, "c": None, "d": [], "e": {}, "f": True}) == (
        "a: 0.5\nb: 1000000\nc: null\nd: []\ne: {}\nf: true\n"
    )
