"""What `pilotfish traces` draws."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pilotfish.cli.traces import tree
from pilotfish.telemetry.spans import Endpoint, Span


def span(key: str, parent: str = "", *, at: int = 0, service: str = "a", **more: object) -> Span:
    ids = {"trace_id": "1".zfill(32), "id": key, "parent_id": parent or None}
    return Span(**ids, timestamp=at, local_endpoint=Endpoint(service), **more)  # type: ignore[arg-type]  # varies


def test_a_tree_with_durations() -> None:
    """Children below parents in order of time, with kind, duration, when they began and how they ended."""
    lines = tree(
        [
            span("1", service="gate", at=1_000_000, duration=12_300, kind="SERVER", name="page"),
            span("3", "1", service="gate", at=1_009_000, duration=900, kind="CLIENT", tags={"http.status_code": "503"}),
            span("2", "1", service="gate", at=1_001_000, duration=5_000, kind="CLIENT", name="books"),
            span("2", "1", service="books", at=1_001_500, duration=4_000, kind="SERVER", name="books"),
            span("4", "2", service="db", at=1_002_000, duration=2_500_000, tags={"response_flags": "UF"}),
        ]
    )
    rows = [line.split() for line in lines[3:]]
    assert lines[0] == f"Trace {'1'.zfill(32)}, 5 spans"
    assert rows == [
        ["gate", "server", "page", "12.3ms", "+0us", "-"],
        ["├─", "gate", "client", "books", "5.0ms", "+1.0ms", "-"],
        ["│", "└─", "books", "server", "books", "4.0ms", "+1.5ms", "-"],
        ["│", "└─", "db", "internal", "2.50s", "+2.0ms", "UF"],
        ["└─", "gate", "client", "900us", "+9.0ms", "503", "error"],
    ]
    assert lines[6].index("└─") > lines[5].index("└─")


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["", *"abcde"]), st.integers(0, 5)), max_size=8))
def test_every_span_once(parts: list[tuple[str, str, int]]) -> None:
    """Whatever the parents are: missing, each other, themselves."""
    spans = [span(key, parent, at=at, kind="SERVER" if at % 2 else "CLIENT") for key, parent, at in parts]
    if spans:
        assert len(tree(spans)) == len(spans) + 3


def test_deep_traces() -> None:
    """A chain of thousands is no stack overflow."""
    spans = [span(f"{i:x}", f"{i - 1:x}" if i > 1 else "", at=i) for i in range(1, 3000)]
    assert len(tree(spans)) == 3002
