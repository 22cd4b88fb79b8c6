"""A bounded window of samples and spans in one SQLite file.

Counters are kept as they were read, but only when they changed: an idle mesh costs nothing. What they increased by,
resets included, is found out when it is asked for. A series is a name, labels, and for a bucket of a histogram its
bound; the labels of all series of one histogram are kept once.

The file is a cache: when it cannot be read it is made anew. One thread writes and one reads, so the event loop never
waits for the disk.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sqlite3
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import msgspec

from pilotfish.errors import UserError
from pilotfish.telemetry.exposition import Series
from pilotfish.telemetry.spans import Span, Trace, trace_key

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

WINDOW, SIZE_LIMIT = 3600.0, 256 * 2**20
"""Defaults: seconds and bytes."""
_PAGE = 4096
_VERSION = 1
"""Of the tables below; a file of another is made anew."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS labels(id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS series(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, labels INTEGER NOT NULL, le TEXT NOT NULL, UNIQUE(labels, name, le)
);
CREATE TABLE IF NOT EXISTS samples(
    series INTEGER NOT NULL, time INTEGER NOT NULL, value REAL, PRIMARY KEY(series, time)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spans(
    trace TEXT NOT NULL, id TEXT NOT NULL, side TEXT NOT NULL, service TEXT NOT NULL, start INTEGER NOT NULL,
    duration INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE(trace, id, side)
);
CREATE INDEX IF NOT EXISTS spans_start ON spans(start);
CREATE INDEX IF NOT EXISTS spans_service ON spans(service, start);
"""
# What each series increased by in each step after :start. A counter that falls was reset: all of it is new.
_INCREASES = """
WITH chosen(id) AS (SELECT value FROM json_each(:ids)),
points AS (
    SELECT s.series, s.time, s.value FROM chosen JOIN samples s ON s.series = chosen.id
    WHERE s.time > :start AND s.time <= :end
    UNION ALL
    SELECT s.series, s.time, s.value FROM chosen JOIN samples s ON s.series = chosen.id
    WHERE s.time = (SELECT max(b.time) FROM samples b WHERE b.series = chosen.id AND b.time <= :start)
),
steps AS (SELECT series, time, value, lag(value) OVER (PARTITION BY series ORDER BY time) AS before FROM points)
SELECT series, (time - :start - 1) / :step, sum(CASE WHEN value >= before THEN value - before ELSE value END)
FROM steps WHERE before IS NOT NULL AND time > :start GROUP BY 1, 2
"""
# The last sample before the horizon stays: it is what the first one inside is compared with.
_EXPIRE = """
DELETE FROM samples WHERE series = :series
AND time < (SELECT max(b.time) FROM samples b WHERE b.series = :series AND b.time <= :horizon)
"""

_encode = msgspec.json.Encoder().encode
_span = msgspec.json.Decoder(Span).decode


class StoreError(UserError):
    """The store cannot be opened, read or written; the text says why."""


class Row(NamedTuple):
    """A sample to be kept. `time` is milliseconds since the epoch."""

    series: int
    time: int
    value: float


@dataclass(slots=True)
class Counts:
    """What the store has done since it was opened."""

    samples: int = 0
    """Written; unchanged ones are not."""
    spans: int = 0
    samples_expired: int = 0
    spans_expired: int = 0
    samples_dropped: int = 0
    """Young enough, but the size limit was reached."""
    spans_dropped: int = 0
    spans_outside: int = 0
    """Not taken: older than the window or in the future."""
    failures: int = 0
    """Writes that the disk or the limit refused."""


class Store:
    """Open it with `Store.open`, close it with `close`. Every method raises StoreError when the file fails."""

    def __init__(self, path: Path, window: float, size_limit: int) -> None:
        self.path = path
        self.window = window
        self.size_limit = size_limit
        self.counts = Counts()
        self.problem = ""
        """Why the last write failed; empty when it did not."""
        self._writer = ThreadPoolExecutor(1, "store-write")
        self._reader = ThreadPoolExecutor(1, "store-read")
        self._write_to: sqlite3.Connection
        self._read_from: sqlite3.Connection
        self._labels: dict[int, dict[str, str]] = {}
        self._series: dict[str, dict[int, tuple[int, str]]] = {}
        """Name → id → labels and bound."""
        self._last: dict[int, float] = {}
        self._seen: dict[int, int] = {}

    @classmethod
    async def open(cls, path: Path, *, window: float = WINDOW, size_limit: int = SIZE_LIMIT) -> Self:
        """`window` in seconds, `size_limit` in bytes (the file and its log may be up to a tenth larger)."""
        store = cls(path, window, size_limit)
        try:
            await store._run(store._writer, store._open)
            await store._run(store._reader, store._open_reader)
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        for executor, name in ((self._writer, "_write_to"), (self._reader, "_read_from")):
            if (connection := getattr(self, name, None)) is not None:
                await asyncio.get_running_loop().run_in_executor(executor, connection.close)
            executor.shutdown()

    async def _run(self, executor: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, work)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self.path}: {error}") from error

    async def _write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        def transaction() -> _T:
            with self._write_to:
                return work(self._write_to)

        try:
            result = await self._run(self._writer, transaction)
        except StoreError as error:
            self.counts.failures += 1
            if not self.problem:
                _log.error("nothing is kept at present: %s", error)
            self.problem = str(error)
            raise
        if self.problem:
            _log.info("%s: written again", self.path)
            self.problem = ""
        return result

    # ------------------------------------------------------------------ opening

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._write_to = self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            _log.warning("%s cannot be used (%s): made anew, what it held is lost", self.path, error)
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            self._write_to = self._connect()
        for key, text in self._write_to.execute("SELECT id, text FROM labels"):
            self._labels[key] = _interned(json.loads(text))
        now = _milliseconds(time.time())
        for key, name, labels, le in self._write_to.execute("SELECT id, name, labels, le FROM series"):
            self._series.setdefault(sys.intern(name), {})[key] = (labels, sys.intern(le))
            self._seen[key] = now
        # What another clock has written would come after all that is new.
        with self._write_to:
            self._last = _rewind(self._write_to, now)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA page_size = {_PAGE}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA temp_store = MEMORY")  # the rest of the file system may be read-only
            connection.execute("PRAGMA cache_size = -2048")
            connection.execute(f"PRAGMA journal_size_limit = {4 * 2**20}")
            connection.execute(f"PRAGMA max_page_count = {max(int(self.size_limit * 1.1) // _PAGE, 32)}")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables and version != _VERSION:
                raise sqlite3.DatabaseError(f"its form is {version}, not {_VERSION}")
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_reader(self) -> None:
        self._read_from = sqlite3.connect(self.path, check_same_thread=False)
        self._read_from.execute("PRAGMA query_only = ON")
        self._read_from.execute("PRAGMA temp_store = MEMORY")
        self._read_from.execute("PRAGMA cache_size = -4096")

    # ------------------------------------------------------------------ samples

    async def register(self, found: Sequence[Series]) -> list[int]:
        """The ids of series, made where they are new. An id holds while its series is written within the window."""

        def work(connection: sqlite3.Connection) -> list[tuple[int, int, str, str, str]]:
            result = []
            for name, labels in found:
                le = next((value for key, value in labels if key == "le"), "")
                text = json.dumps([pair for pair in labels if pair[0] != "le"], separators=(",", ":"))
                connection.execute("INSERT OR IGNORE INTO labels(text) VALUES (?)", (text,))
                (shared,) = connection.execute("SELECT id FROM labels WHERE text = ?", (text,)).fetchone()
                key = (name, shared, le)
                connection.execute("INSERT OR IGNORE INTO series(name, labels, le) VALUES (?, ?, ?)", key)
                query = "SELECT id FROM series WHERE name = ? AND labels = ? AND le = ?"
                (one,) = connection.execute(query, key).fetchone()
                result.append((one, shared, text, name, le))
            return result

        made = await self._write(work)
        now = _milliseconds(time.time())
        for one, shared, text, name, le in made:
            if shared not in self._labels:
                self._labels[shared] = _interned(json.loads(text))
            self._series.setdefault(sys.intern(name), {})[one] = (shared, sys.intern(le))
            self._seen[one] = now
        return [one[0] for one in made]

    async def append(self, rows: Iterable[Row]) -> None:
        """Keep samples. The times of a series must ascend."""
        changed: list[Row] = []
        before: dict[int, float | None] = {}
        for row in rows:
            self._seen[row.series] = row.time
            last = self._last.get(row.series)
            if last != row.value and math.isfinite(row.value):
                before.setdefault(row.series, last)
                self._last[row.series] = row.value
                changed.append(row)
        if not changed:
            return
        try:
            await self._write(lambda c: c.executemany("INSERT OR REPLACE INTO samples VALUES (?, ?, ?)", changed))
        except StoreError:
            for key, last in before.items():
                if last is None:
                    del self._last[key]
                else:
                    self._last[key] = last
            raise
        self.counts.samples += len(changed)

    async def rewind(self, now: float) -> None:
        """The clock went back: forget samples of the time (seconds) that is still to come, and count on from those
        before."""
        self._last = await self._write(lambda connection: _rewind(connection, _milliseconds(now)))

    def known(self, series: int) -> bool:
        """Whether a sample of this series is kept."""
        return series in self._last

    def select(self, name: str, where: Mapping[str, str | Collection[str]], since: float = 0.0) -> dict[int, Labels]:
        """The series of a name whose labels have the given values (or one of them), seen after a time (seconds)."""
        found: dict[int, Labels] = {}
        matching: dict[int, bool] = {}
        horizon = _milliseconds(since)
        for key, (shared, le) in self._series.get(name, {}).items():
            if self._seen.get(key, 0) < horizon:
                continue
            if shared not in matching:
                matching[shared] = matches(self._labels[shared], where)
            if matching[shared]:
                found[key] = Labels(self._labels[shared], le)
        return found

    async def increases(
        self, series: Collection[int], start: float, end: float, step: float | None = None
    ) -> dict[int, dict[int, float]]:
        """What counters increased by after `start` up to `end` (seconds), by series and number of the step.

        A reset (a value smaller than the one before) counts from zero. The value before `start` is the base, however
        old; a series without one has no increase at its first sample.
        """
        first, last = _milliseconds(start), _milliseconds(end)
        # Rounded up, or a step that is no whole number of milliseconds leaves a rest after the last one.
        width = max(math.ceil(round(step * 1000, 3)) if step is not None else last - first, 1)
        arguments = {"ids": json.dumps(list(series)), "start": first, "end": last, "step": width}
        rows = await self._run(self._reader, lambda: self._read_from.execute(_INCREASES, arguments).fetchall())
        result: dict[int, dict[int, float]] = {}
        for one, number, increase in rows:
            result.setdefault(one, {})[number] = increase
        return result

    # ------------------------------------------------------------------ spans

    async def add_spans(self, spans: Sequence[Span]) -> None:
        """Keep spans. The same span of the same side replaces itself; those outside the window are counted."""
        now = time.time()
        oldest, newest = (now - self.window) * 1e6, (now + 300) * 1e6
        rows = []
        for span in spans:
            if span.timestamp is None:
                span.timestamp = int(now * 1e6)
            if not oldest <= span.timestamp <= newest:
                self.counts.spans_outside += 1
                continue
            side = span.kind or ""
            rows.append((span.trace_id, span.id, side, span.service, span.timestamp, span.duration or 0, _encode(span)))
        if not rows:
            return
        await self._write(lambda c: c.executemany("INSERT OR REPLACE INTO spans VALUES (?, ?, ?, ?, ?, ?, ?)", rows))
        self.counts.spans += len(rows)

    async def services(self) -> list[str]:
        """Who has reported spans."""
        query = """
        WITH RECURSIVE each(name) AS (
            SELECT min(service) FROM spans WHERE service > ''
            UNION ALL SELECT (SELECT min(service) FROM spans WHERE service > each.name) FROM each WHERE name NOT NULL
        ) SELECT name FROM each WHERE name NOT NULL"""
        rows = await self._run(self._reader, lambda: self._read_from.execute(query).fetchall())
        return [name for (name,) in rows]

    async def names(self, service: str) -> list[str]:
        """The names of a service's spans."""
        query = "SELECT DISTINCT json_extract(CAST(body AS TEXT), '$.name') FROM spans WHERE service = ?"
        rows = await self._run(self._reader, lambda: self._read_from.execute(query, (service,)).fetchall())
        return sorted(name for (name,) in rows if name)

    async def find(
        self,
        *,
        service: str = "",
        since: float,
        until: float,
        tags: Mapping[str, str] | None = None,
        name: str = "",
        min_duration: float = 0.0,
        max_duration: float | None = None,
        limit: int = 20,
    ) -> list[Trace]:
        """The latest traces with a span that has all of this; times and durations in seconds."""
        conditions, arguments = ["start BETWEEN ? AND ?"], [int(since * 1e6), int(until * 1e6)]
        values: list[Any] = list(arguments)

        def condition(text: str, *more: Any) -> None:
            conditions.append(text)
            values.extend(more)

        if service:
            condition("service = ?", service)
        if name:
            condition("json_extract(CAST(body AS TEXT), '$.name') = ?", name)
        if min_duration:
            condition("duration >= ?", int(min_duration * 1e6))
        if max_duration is not None:
            condition("duration <= ?", int(max_duration * 1e6))
        for key, text in (tags or {}).items():
            each = "EXISTS (SELECT 1 FROM json_each(CAST(body AS TEXT), '$.tags') WHERE key = ?"
            condition(f"{each})" if text == "" else f"{each} AND value = ?)", key, *([] if text == "" else [text]))
        query = f"""SELECT trace FROM spans WHERE {" AND ".join(conditions)}
            GROUP BY trace ORDER BY max(start) DESC LIMIT ?"""  # noqa: S608 - the conditions are ours

        def work() -> list[Trace]:
            found = [key for (key,) in self._read_from.execute(query, [*values, limit])]
            return [self._trace(key) for key in found]

        return await self._run(self._reader, work)

    async def trace(self, trace_id: str) -> Trace:
        """All spans of a trace, empty when there are none. ValueError for what is no trace id."""
        key = trace_key(trace_id)
        return await self._run(self._reader, lambda: self._trace(key))

    def _trace(self, key: str) -> Trace:
        # What begins at the same moment: a client's side comes before its server's, the longer before the shorter.
        query = "SELECT body FROM spans WHERE trace = ? ORDER BY start, side = 'SERVER', duration DESC LIMIT 10000"
        return [_span(body) for (body,) in self._read_from.execute(query, (key,))]

    # ------------------------------------------------------------------ bounds

    async def prune(self, now: float | None = None) -> None:
        """Forget what is older than the window, and the oldest of the rest while the file is over its limit."""
        now = time.time() if now is None else now
        horizon = now - self.window
        samples, spans = await self._cut(horizon)
        self.counts.samples_expired += samples
        self.counts.spans_expired += spans
        await self._forget(_milliseconds(horizon))
        while await self.size() > self.size_limit and horizon < now:
            horizon += self.window / 10
            samples, spans = await self._cut(horizon)
            self.counts.samples_dropped += samples
            self.counts.spans_dropped += spans
            if samples + spans:
                _log.warning("%s is over its limit: %d samples and %d spans dropped", self.path, samples, spans)

    async def size(self) -> int:
        """Bytes in use, without pages that are free to be used again."""

        def work() -> int:
            ((pages,), (free,)) = (
                self._write_to.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count")
            )
            return int(pages - free) * _PAGE

        return await self._run(self._writer, work)

    async def _cut(self, horizon: float) -> tuple[int, int]:
        keys = [
            {"series": key, "horizon": _milliseconds(horizon)} for of_name in self._series.values() for key in of_name
        ]

        def work(connection: sqlite3.Connection) -> tuple[int, int]:
            samples = connection.executemany(_EXPIRE, keys).rowcount if keys else 0
            spans = connection.execute("DELETE FROM spans WHERE start < ?", (int(horizon * 1e6),)).rowcount
            return max(samples, 0), max(spans, 0)

        return await self._write(work)

    async def _forget(self, horizon: int) -> None:
        """Series that nobody has shown since."""
        gone = {key for key, seen in self._seen.items() if seen < horizon}
        if not gone:
            return
        for of_name in self._series.values():
            for key in gone & of_name.keys():
                del of_name[key]
        for key in gone:
            del self._seen[key]
            self._last.pop(key, None)
        used = {shared for of_name in self._series.values() for shared, _ in of_name.values()}
        unused = self._labels.keys() - used
        for shared in unused:
            del self._labels[shared]
        ids = [(key,) for key in gone]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM samples WHERE series = ?", ids)
            connection.executemany("DELETE FROM series WHERE id = ?", ids)
            connection.executemany("DELETE FROM labels WHERE id = ?", [(shared,) for shared in unused])

        await self._write(work)


class Labels(NamedTuple):
    """The labels of a series; `le` is the bound of a bucket, else empty. Shared: never change them."""

    labels: Mapping[str, str]
    le: str

    def get(self, name: str) -> str:
        return self.le if name == "le" else self.labels.get(name, "")


def matches(labels: Mapping[str, str], where: Mapping[str, str | Collection[str]]) -> bool:
    """Whether labels have these values, or one of several. A label that is missing is empty, as in PromQL."""
    return all(
        labels.get(name, "") == value if isinstance(value, str) else labels.get(name, "") in value
        for name, value in where.items()
    )


def _rewind(connection: sqlite3.Connection, now: int) -> dict[int, float]:
    """Without samples after `now`; the last values of all series."""
    connection.execute("DELETE FROM samples WHERE time > ?", (now,))
    last = "SELECT id, (SELECT value FROM samples WHERE series = id ORDER BY time DESC LIMIT 1) FROM series"
    return {key: value for key, value in connection.execute(last) if value is not None}


def _interned(pairs: Iterable[Sequence[str]]) -> dict[str, str]:
    return {sys.intern(name): sys.intern(value) for name, value in pairs}


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
