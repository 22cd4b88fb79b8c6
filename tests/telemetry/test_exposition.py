"""The text format: our reader and the one of the Prometheus client read the same."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pilotfish.telemetry import exposition
from pilotfish.telemetry.exposition import ExpositionError

NAMES = st.from_regex(r"istio_[a-z_]{1,8}x", fullmatch=True)
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12
) | st.sampled_from(['a"b', "a\\b", "a\nb", "}", "{", ",", "a=b", "\\n", '"} 5', " "])
LABELS = st.dictionaries(st.from_regex(r"[a-z][a-z_]{0,5}", fullmatch=True), TEXTS, max_size=4)


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


@given(st.lists(st.tuples(NAMES, LABELS, st.floats(allow_nan=False)), max_size=6))
def test_same_as_the_client_library(samples: list[tuple[str, dict[str, str], float]]) -> None:
    """Names, labels with whatever text, and values; comments and other families are passed over."""
    lines = ["# HELP x y", "# TYPE istio_a counter", "other_total 5"]
    for name, labels, value in samples:
        inner = ",".join(f'{key}="{escaped(text)}"' for key, text in labels.items())
        lines.append(f"{name}{{{inner}}} {value!r}" if inner else f"{name} {value!r}")
    page = "\n".join(lines) + "\n"
    ours = [
        (*exposition.series(key), exposition.value(text)) for key, text in exposition.lines(page, wanted=("istio_",))
    ]
    theirs = [
        (one.name, tuple(sorted(one.labels.items())), one.value)
        for family in text_string_to_metric_families(page)
        for one in family.samples
        if one.name.startswith("istio_")
    ]
    assert sorted(ours) == sorted(theirs)


@given(st.text(max_size=60))
def test_garbage_is_refused_with_a_message(text: str) -> None:
    """Whatever stands behind a wanted name is read, or refused; nothing else happens."""
    with contextlib.suppress(ExpositionError):
        _read("istio_" + text)


def _read(page: str) -> list[tuple[exposition.Series, float]]:
    return [(exposition.series(key), exposition.value(text)) for key, text in exposition.lines(page)]


@pytest.mark.parametrize(
    "line",
    ["istio_a", 'istio_a{b="c"}', 'istio_a{b="c} 1', "istio_a{b=c} 1", 'istio_a{b="c"d="e"} 1', "istio_a 1 2 3",
     "istio_a 1_000", "istio_a one", 'istio_a{="c"} 1'],
)  # fmt: skip
def test_what_is_wrong_is_named(line: str) -> None:
    """A line cut off, without quotes, without commas, with too much, with no number."""
    with pytest.raises(ExpositionError, match=r"in |is no"):
        _read(line)


def test_times_and_sizes_are_passed_over() -> None:
    """A time behind the value does not matter; buckets of sizes are left out, their sums are not."""
    page = (
        'istio_a{b="c"} 3 1700000000000\nistio_request_bytes_bucket{le="1"} 4\nistio_request_bytes_sum 5\nistio_b +Inf'
    )
    found = [(key, exposition.value(text)) for key, text in exposition.lines(page)]
    assert found == [('istio_a{b="c"}', 3.0), ("istio_request_bytes_sum", 5.0), ("istio_b", math.inf)]
