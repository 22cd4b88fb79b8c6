"""The engine: for any graph and any edits, incremental equals from scratch, and nothing clean runs again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotfish.engine import CycleError, Db, Facet, Index, Input, Query, QueryFailed, query

Layer = list[list[tuple[int, int]]]

VALUES: Input[int, int] = Input("value")
WHOLE: Input[int, int] = Input("whole")
TENS: Facet[int, int, int] = Facet("tens of whole", WHOLE, lambda _key, value: value // 10)
EVEN: Index[bool, int, int] = Index("by evenness", VALUES, lambda _key, value: [value % 2 == 0])


def graph(layers: list[Layer], runs: list[Any]) -> list[list[Query[[], Any]]]:
    """Queries in layers. Each reads, in turn, items (layer, number) below it; layer 0 is the inputs, a negative number
    an index. Reads depend on values (an odd value read skips the next), so that edges change."""
    made: list[list[Query[[], Any]]] = []

    def build(reads: list[tuple[int, int]], name: str) -> Query[[], Any]:
        def run(db: Db) -> int:
            runs.append(name)
            total, skip = 0, False
            for layer, number in reads:
                if skip:
                    skip = False
                    continue
                if number < 0:
                    got: Any = sum(EVEN(db, number == -1))
                elif layer == 0 or layer > len(made):
                    got = VALUES(db, number) or 0
                else:
                    row = made[layer - 1]
                    try:
                        got = row[number % len(row)](db)
                    except QueryFailed:
                        got = 7
                total += got
                skip = got % 2 == 1
            if total % 11 == 10:
                raise ValueError(total)
            return total // 3

        run.__name__ = name
        return query(run)

    for depth, layer in enumerate(layers):
        made.append([])  # a query may name its own layer and so sit on a cycle only if listed later: forbidden here
        made[depth] = [
            build([(min(at, depth), number) for at, number in reads], f"q{depth}.{i}") for i, reads in enumerate(layer)
        ]
    return made


def outcome(db: Db, run: Callable[[Db], Any]) -> Any:
    try:
        return run(db)
    except QueryFailed as error:
        return str(error)


READS = st.lists(st.tuples(st.integers(0, 4), st.integers(-2, 5)), max_size=5)
LAYERS = st.lists(st.lists(READS, min_size=1, max_size=4), min_size=1, max_size=4)
EDITS = st.lists(
    st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 6)), st.sets(st.integers(0, 15), max_size=3)),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(LAYERS, EDITS)
def test_incremental_equals_from_scratch(layers: list[Layer], edits: Any) -> None:
    """For random graphs and edits, every value pulled equals the one computed from nothing; so does a fork's."""
    runs: list[Any] = []
    made = [q for row in graph(layers, runs) for q in row]
    db, state = Db(), dict[int, int]()
    for key, value, pulls in edits:
        after = {**state, key: value} if value is not None else {k: v for k, v in state.items() if k != key}
        scratch = Db()
        for k, v in after.items():
            scratch.put(VALUES, k, v)
        fork = db.fork({(VALUES, key): value})
        forked = [outcome(fork, made[p % len(made)]) for p in pulls]
        if value is None:
            db.remove(VALUES, key)
        else:
            db.put(VALUES, key, value)
        state = after
        assert [outcome(db, made[p % len(made)]) for p in pulls] == forked
        assert forked == [outcome(scratch, made[p % len(made)]) for p in pulls]
    assert [outcome(db, q) for q in made] == [outcome(scratch_of(state), q) for q in made]
    runs.clear()
    db.put(VALUES, 99, 1)  # odd: an index the graph may read; the input itself is read by nobody
    db.remove(VALUES, 99)
    before = db.computed
    for q in made:
        outcome(db, q)
    assert not runs, "nothing changed, so no query runs"
    assert db.computed - before <= 2, "at most the two index keys are rebuilt"


def scratch_of(state: dict[int, int]) -> Db:
    db = Db()
    for k, v in state.items():
        db.put(VALUES, k, v)
    return db


@settings(max_examples=150, deadline=None)
@given(LAYERS, st.dictionaries(st.integers(0, 5), st.integers(0, 6)), st.integers(0, 5), st.integers(0, 6))
def test_only_dirty_runs(layers: list[Layer], state: dict[int, int], key: int, value: int) -> None:
    """After an edit a query runs only if one of its recorded reads has a new value."""
    runs: list[Any] = []
    rows = graph(layers, runs)
    made = {q.name: q for row in rows for q in row}
    db = scratch_of(state)
    for q in made.values():
        outcome(db, q)
    reads = {name: db.reads(q) for name, q in made.items()}
    values = {name: outcome(db, q) for name, q in made.items()}
    evens = {k: EVEN(db, k) for k in (True, False)}
    old = VALUES(db, key)
    db.put(VALUES, key, value)
    runs.clear()
    for q in made.values():
        outcome(db, q)
    changed: set[Any] = {name for name, q in made.items() if outcome(db, q) != values[name]}
    new_evens = {k: EVEN(db, k) for k in (True, False)}
    for name in runs:
        assert any(
            (source is VALUES and read == (key,) and old != value)
            or (source is EVEN and new_evens[read[0]] != evens[read[0]])
            or source.name in changed
            for source, read in reads[name]
        ), f"{name} ran although nothing it had read changed"
    assert len(runs) == len(set(runs)), "each at most once"


def test_cut_off_and_provenance() -> None:
    """A reader of an unchanged result does not run; inputs name what a value stands on, missing keys included."""
    db = Db()
    ran: list[str] = []

    @query
    def half(db: Db, key: int) -> int:
        ran.append("half")
        return (VALUES(db, key) or 0) // 2

    @query
    def report(db: Db) -> str:
        ran.append("report")
        return f"{half(db, 1)} {VALUES(db, 42)}"

    db.put(VALUES, 1, 4)
    assert report(db) == "2 None"
    assert db.inputs(report) == ((VALUES, (1,)), (VALUES, (42,)))
    ran.clear()
    db.put(VALUES, 1, 5)
    assert report(db) == "2 None"
    assert ran == ["half"]
    db.put(VALUES, 42, 0)
    assert report(db) == "2 0", "a key that was missing is an input"


def test_facets() -> None:
    """Who reads a part of an input is not even looked at when the rest changes; forks and missing keys work alike."""
    db = Db()
    ran: list[str] = []

    @query
    def tens(db: Db, key: int) -> int | None:
        ran.append("tens")
        return TENS(db, key)

    assert tens(db, 1) is None
    db.put(WHOLE, 1, 42)
    assert tens(db, 1) == 4
    db.pin(tens, 1)
    ran.clear()
    db.put(WHOLE, 1, 47)
    assert db.stale() == []
    assert tens(db, 1) == 4
    assert not ran
    assert db.inputs(tens, 1) == ((TENS, (1,)),)
    fork = db.fork({(WHOLE, 1): 99})
    assert (tens(fork, 1), tens(db, 1)) == (9, 4)
    db.put(WHOLE, 1, 52)
    assert db.stale() == [(tens, (1,))]
    assert tens(db, 1) == 5
    db.remove(WHOLE, 1)
    assert tens(db, 1) is None


def test_failure_is_contained_names_its_inputs_and_heals() -> None:
    """A query that raises fails alone: a reader may go on without it, and is computed again when the input is cured."""
    db = Db()

    @query
    def inverse(db: Db, key: int) -> float:
        return 6 / (VALUES(db, key) or 0)

    @query
    def total(db: Db) -> float:
        result = 0.0
        for key in (1, 2):
            try:
                result += inverse(db, key)
            except QueryFailed:
                continue
        return result

    db.put(VALUES, 1, 2)
    db.put(VALUES, 2, 0)
    assert total(db) == 3
    with pytest.raises(QueryFailed, match=r"inverse\(2,\): ZeroDivisionError: ") as caught:
        inverse(db, 2)
    assert db.inputs(caught.value.source, *caught.value.key) == ((VALUES, (2,)),)
    db.put(VALUES, 2, 3)
    assert total(db) == 5


def test_cycle_is_an_error_not_a_hang() -> None:
    """Queries that need each other fail with a message that names them, and recover when the cycle is cut."""
    db = Db()
    db.put(VALUES, 1, 1)

    @query
    def one(db: Db) -> int:
        return two(db) if VALUES(db, 1) else 5

    @query
    def two(db: Db) -> int:
        return one(db) + 1

    with pytest.raises(QueryFailed, match=r"one\(\), two\(\)") as caught:
        one(db)
    assert isinstance(caught.value.cause, CycleError)
    with pytest.raises(QueryFailed):
        two(db)
    db.put(VALUES, 1, 2)
    with pytest.raises(QueryFailed):
        two(db)
    db.put(VALUES, 1, 0)
    assert (two(db), one(db)) == (6, 5)


def test_pins_staleness_and_garbage() -> None:
    """A pinned value tells once that it may have changed; what no pin stands on is forgotten."""
    db = Db()

    @query
    def double(db: Db, key: int) -> int:
        return 2 * (VALUES(db, key) or 0)

    db.put(VALUES, 1, 1)
    for key in (1, 2, 3):
        double(db, key)
    db.pin(double, 1)
    db.put(VALUES, 1, 4)
    db.put(VALUES, 1, 5)
    db.put(VALUES, 2, 5)
    assert db.stale() == [(double, (1,))]
    assert db.stale() == []
    assert double(db, 1) == 10
    assert db.outputs(VALUES, 1) == ((double, (1,)),)
    assert db.collect() == 3, "double 2 and 3, and the empty input 3"
    assert sorted(db.keys(VALUES)) == [1, 2]
    db.put(VALUES, 1, 6)
    assert db.stale() == [(double, (1,))]
    db.unpin(double, 1)
    assert db.collect() == 1
    assert double(db, 1) == 12


def test_a_query_may_not_write() -> None:
    """Changing an input from inside a query fails that query."""
    db = Db()

    @query
    def naughty(db: Db) -> bool:
        return db.put(VALUES, 1, 1)

    with pytest.raises(QueryFailed, match="may not change inputs"):
        naughty(db)
