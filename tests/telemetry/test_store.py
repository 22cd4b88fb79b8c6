"""The store: what goes in comes out, within bounds, whatever the disk does."""

from __future__ import annotations

import logging
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotfish.telemetry.embedded import StoredMetrics
from pilotfish.telemetry.exposition import Series
from pilotfish.telemetry.spans import Endpoint, Span
from pilotfish.telemetry.store import Row, Store, StoreError

NOW = 1_700_000_000.0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    one = await Store.open(tmp_path / "t.db", window=3600)
    yield one
    await one.close()


def series(name: str = "istio_requests_total", **labels: str) -> Series:
    return Series(name, tuple(sorted(labels.items())))


async def write(store: Store, one: Series, *samples: tuple[float, float]) -> int:
    """Samples `(seconds since NOW, value)`."""
    (key,) = await store.register([one])
    for when, value in samples:
        await store.append([Row(key, round((NOW + when) * 1000), value)])
    return key


def increase_by_hand(samples: list[tuple[int, float]], start: int, end: int) -> float:
    """What a counter increased by: falls are resets."""
    total, before = 0.0, None
    for when, value in samples:
        if when > end:
            break
        if before is not None and when > start:
            total += value - before if value >= before else value
        before = value
    return total


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 50)), max_size=12),
    st.integers(-10, 200),
    st.integers(1, 200),
    st.integers(1, 5),
)
async def test_increase_with_resets(steps: list[tuple[int, int]], start: int, length: int, parts: int) -> None:
    """Over any window, from any samples, whether a value repeats, falls or stays: the sum is the one made by hand, and
    steps add up to it."""
    samples, when = [], 0
    for gap, value in steps:
        when += gap
        samples.append((when, float(value)))
    with tempfile.TemporaryDirectory() as directory:
        store = await Store.open(Path(directory) / "t.db")
        try:
            key = await write(store, series(), *samples)
            begin, end = NOW + start, NOW + start + length
            found = await store.increases([key], begin, end, length / parts)
            whole = await store.increases([key], begin, end)
        finally:
            await store.close()
    expected = increase_by_hand(samples, start, start + length)
    assert sum(whole.get(key, {}).values()) == pytest.approx(expected)
    assert sum(found.get(key, {}).values()) == pytest.approx(expected)
    assert all(0 <= number < parts for number in found.get(key, {}))


async def test_only_changes_are_written(store: Store) -> None:
    """A value that stays costs nothing, and the next change counts from it however old it is."""
    key = await write(store, series(), (-900, 5), (-600, 5), (-300, 5), (-1, 8))
    assert store.counts.samples == 2
    assert await store.increases([key], NOW - 60, NOW) == {key: {0: 3.0}}


async def test_rates_are_grouped_by_labels(store: Store) -> None:
    """Series are summed by the labels asked for; those that lack one have it empty; `where` takes one or many."""
    for code, count in (("200", 60), ("404", 30), ("500", 6)):
        await write(store, series(app="a", response_code=code), (-60, 0), (-5, count))
    await write(store, series(app="b"), (-60, 0), (-5, 12))
    source = StoredMetrics(store)
    store._seen = dict.fromkeys(store._seen, round(NOW * 1000))
    rates = {
        tuple(labels.values()): value
        for labels, value in await source.rates("istio_requests_total", by=["app"], at=NOW)
    }
    assert rates == {("a",): pytest.approx(1.6), ("b",): pytest.approx(0.2)}
    some = await source.rates("istio_requests_total", by=[], where={"response_code": ["404", "500"]}, at=NOW)
    assert [(labels, round(value, 6)) for labels, value in some] == [({}, 0.6)]
    missing = await source.rates("istio_requests_total", by=["response_code"], where={"response_code": ""}, at=NOW)
    assert [labels for labels, _ in missing] == [{"response_code": ""}]


async def test_series_outlive_a_restart(tmp_path: Path) -> None:
    """After a restart the next value counts from the last one, and a series has its old id."""
    store = await Store.open(tmp_path / "t.db")
    key = await write(store, series(a="b"), (-60, 10))
    await store.close()
    store = await Store.open(tmp_path / "t.db")
    try:
        assert await write(store, series(a="b"), (-30, 15)) == key
        assert await store.increases([key], NOW - 40, NOW) == {key: {0: 5.0}}
    finally:
        await store.close()


async def test_window(store: Store) -> None:
    """What is older than the window goes, but for the value that the first change inside counts from; series that
    nobody has shown for so long go too."""
    key = await write(store, series(a="1"), (-9000, 1), (-8000, 2), (-4000, 3), (-10, 7))
    old = await write(store, series(a="2"), (-9000, 1))
    await store.prune(NOW)
    with sqlite3.connect(store.path) as connection:
        rows = connection.execute("SELECT series, value FROM samples ORDER BY time").fetchall()
        assert connection.execute("SELECT count(*) FROM series").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM labels").fetchone() == (1,)
    assert rows == [(key, 3.0), (key, 7.0)]
    assert store.counts.samples_expired == 2
    assert not store.known(old)
    assert await store.increases([key], NOW - 3600, NOW) == {key: {0: 4.0}}


def span(number: int, *, start: float, trace: int = 1, parent: int = 0, **more: object) -> Span:
    fields = {"local_endpoint": Endpoint("shop.default"), "duration": 1000, "name": "get", **more}
    ids = {"trace_id": f"{trace:032x}", "id": f"{number:016x}", "parent_id": f"{parent:016x}" if parent else None}
    return Span(**ids, timestamp=int(start * 1e6), **fields)  # type: ignore[arg-type]  # fields vary by test


async def test_spans_by_what_they_have(store: Store) -> None:
    """By service, time, name, tags and duration; the latest first; a whole trace even when one span fits."""
    now = time.time()
    await store.add_spans(
        [
            span(1, start=now - 30, trace=1, tags={"http.status_code": "200"}, duration=5000),
            span(2, start=now - 29, trace=1, parent=1, local_endpoint=Endpoint("books.default")),
            span(3, start=now - 20, trace=2, tags={"http.status_code": "503", "error": "true"}, duration=900),
            span(4, start=now - 10, trace=3, name="post", local_endpoint=Endpoint("books.default")),
        ]
    )

    async def found(**question: object) -> list[int]:
        traces = await store.find(since=now - 60, until=now, **question)  # type: ignore[arg-type]  # varies
        return [int(trace[0].trace_id, 16) for trace in traces]

    assert await found() == [3, 2, 1]
    assert await found(service="books.default") == [3, 1]
    assert await found(tags={"http.status_code": "503"}) == [2]
    assert await found(tags={"error": ""}) == [2]
    assert await found(tags={"' OR 1=1 --": "x"}) == []
    assert await found(name="post") == [3]
    assert await found(min_duration=0.002) == [1]
    assert await found(max_duration=0.00095) == [2]
    assert await found(limit=1) == [3]
    assert await store.services() == ["books.default", "shop.default"]
    assert await store.names("books.default") == ["get", "post"]
    trace = await store.trace("1")
    assert [one.id[-1] for one in trace] == ["1", "2"]
    assert trace[1].parent_id == trace[0].id
    with pytest.raises(ValueError, match="no trace id"):
        await store.trace("../etc")


async def test_spans_outside_the_window_are_not_taken(store: Store) -> None:
    """A clock that is far off cannot fill the store; it is counted."""
    now = time.time()
    await store.add_spans([span(1, start=now - 7200), span(2, start=now + 86400), span(3, start=now)])
    assert (store.counts.spans, store.counts.spans_outside) == (1, 2)


async def test_a_span_costs_little_more_than_its_text(store: Store) -> None:
    """A file of limited size holds as many as it can: text of about 1.4 kB is kept in less than 2.5."""
    before, now = await store.size(), time.time()
    await store.add_spans([span(i, start=now, trace=i, tags={"x": "y" * 1200}) for i in range(1, 501)])
    assert (await store.size() - before) / 500 < 2560


async def test_size_limit(tmp_path: Path) -> None:
    """The oldest goes first when the file is over its limit, and is counted; the newest stays."""
    store = await Store.open(tmp_path / "t.db", size_limit=2**20)
    try:
        now = time.time()
        for minute in range(40, 0, -1):
            some = [
                span(minute * 100 + i, trace=minute, start=now - minute * 60, tags={"x": "y" * 400}) for i in range(80)
            ]
            await store.add_spans(some)
            if await store.size() > store.size_limit:
                await store.prune(now)
        await store.prune(now)
        assert await store.size() <= 2**20
        assert store.counts.spans_dropped > 0
        assert not await store.trace("28")
        assert len(await store.trace("1")) == 80
    finally:
        await store.close()


async def test_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Writing fails with one message, asking goes on, and when there is room again nothing of a counter is lost."""
    store = await Store.open(tmp_path / "t.db", size_limit=2**20)
    try:
        key = await write(store, series(), (-60, 1))
        store._write_to.execute("PRAGMA max_page_count = 1")  # as full as can be: not one page more
        now = time.time()
        many = [span(i, start=now, trace=i, tags={"x": "y" * 1000}) for i in range(1, 200)]
        with caplog.at_level(logging.INFO):
            for _ in range(3):
                with pytest.raises(StoreError, match="full"):
                    await store.add_spans(many)
        assert len([one for one in caplog.records if one.levelno >= logging.ERROR]) == 1
        assert "full" in store.problem
        assert store.counts.failures == 3
        assert await store.trace("1") == []
        store._write_to.execute("PRAGMA max_page_count = 100000")
        await store.append([Row(key, round(NOW * 1000), 9.0)])
        assert store.problem == ""
        assert await store.increases([key], NOW - 30, NOW) == {key: {0: 8.0}}
    finally:
        await store.close()


async def test_a_damaged_file_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is a cache: the process starts and says what was lost."""
    path = tmp_path / "t.db"
    path.write_bytes(b"no database at all" * 1000)
    store = await Store.open(path)
    try:
        key = await write(store, series(), (-60, 1), (-5, 3))
        assert await store.increases([key], NOW - 30, NOW) == {key: {0: 2.0}}
    finally:
        await store.close()
    assert "cannot be used" in caplog.text
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 77")
    store = await Store.open(path)
    await store.close()
    assert "its form is 77" in caplog.text


async def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """One error with the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        await Store.open(tmp_path / "file" / "t.db")
