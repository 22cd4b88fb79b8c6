"""Where the objects live: SQLite for what must survive, memory for what is read.

One revision counter orders all writes. A write is a short transaction on a WAL database without fsync: what has been
acknowledged is with the operating system and survives the end of the process. Everything read comes from memory.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pilotfish.local.apiserver.errors import ApiError, gone
from pilotfish.local.apiserver.resource import Object

HISTORY = 1000
"""How many changes of one resource are kept for watches that start in the past and for paged lists."""
HISTORY_BYTES = 2 << 20
FRESH = 32
"""Changes of one resource for which what watchers have computed is kept; who lags further computes it again."""
_PAGES = 16 << 10
"""What a write adds to the log besides the object: whole pages of tables and trees, bytes."""
CHECKPOINT_EVERY = 16 << 20
"""Bytes written to the log before a background thread moves them into the database file."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Item:
    """One stored version of one object: its revision and its JSON, decoded again on demand."""

    __slots__ = ("data", "rv")

    def __init__(self, rv: int, data: bytes) -> None:
        self.rv = rv
        self.data = data

    def decode(self) -> Object:
        obj: Object = _decode(self.data)
        return obj


@dataclass(eq=False, slots=True)
class Change:
    """A write: `old` is None for a creation, `new` is None for a deletion; `last` is what a watcher is shown."""

    rv: int
    key: str
    old: Item | None
    new: Item | None
    last: Item
    shared: dict[Any, Any] = field(default_factory=dict)
    """What watchers of this change have computed and may reuse: decoded objects, encoded events."""


class Bucket:
    """All objects of one resource, by `namespace/name` (or `name`), in key order, with their recent history."""

    def __init__(self, name: str, floor: int) -> None:
        self.name = name
        self.items: dict[str, Item] = {}
        self.keys: list[str] = []
        self.log: deque[Change] = deque()
        self.log_bytes = 0
        self.floor = floor
        """The log holds every change after this revision."""
        self.listeners: set[Callable[[Change], None]] = set()

    def range(self, prefix: str) -> list[str]:
        if not prefix:
            return self.keys
        return self.keys[bisect_left(self.keys, prefix) : bisect_left(self.keys, prefix + "\U0010ffff")]

    def record(self, change: Change) -> None:
        key = change.key
        if change.new is None:
            del self.items[key]
            del self.keys[bisect_left(self.keys, key)]
        else:
            self.items[key] = change.new
            if change.old is None:
                insort(self.keys, key)
        self.log.append(change)
        self.log_bytes += len(change.last.data)
        while len(self.log) > HISTORY or self.log_bytes > HISTORY_BYTES:
            dropped = self.log.popleft()
            self.log_bytes -= len(dropped.last.data)
            self.floor = dropped.rv
        if len(self.log) > FRESH:
            self.log[-FRESH - 1].shared.clear()
        for listener in tuple(self.listeners):
            listener(change)

    def since(self, rv: int) -> list[Change]:
        """Changes after `rv`. Raises 410 when they are no longer known."""
        if rv < self.floor:
            raise gone(f"too old resource version: {rv} ({self.floor})")
        newer: list[Change] = []
        for change in reversed(self.log):
            if change.rv <= rv:
                break
            newer.append(change)
        newer.reverse()
        return newer

    def at(self, rv: int, prefix: str) -> list[tuple[str, Item]]:
        """The objects as they were at revision `rv`, in key order. Raises 410 when that is no longer known."""
        undo: dict[str, Item | None] = {}
        for change in reversed(self.since(rv)):
            if change.key.startswith(prefix):
                undo[change.key] = change.old
        state = {key: self.items[key] for key in self.range(prefix)}
        for key, item in undo.items():
            if item is None:
                state.pop(key, None)
            else:
                state[key] = item
        return sorted(state.items())


class StoreError(Exception):
    """The data directory cannot be used; the text says why."""


class Store:
    """The objects of one data directory. Not thread-safe: all calls come from the event loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.revision = self._start = 1
        self.buckets: dict[str, Bucket] = {}
        self._unsaved = 0
        self._checkpointing: threading.Thread | None = None
        try:
            self._db = sqlite3.connect(path, isolation_level=None, cached_statements=32, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA wal_autocheckpoint=0")
            self._db.execute("PRAGMA cache_size=-1024")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS objects "
                "(bucket TEXT, key TEXT, rv INTEGER, data BLOB, PRIMARY KEY (bucket, key)) WITHOUT ROWID"
            )
            self._db.execute("CREATE TABLE IF NOT EXISTS revision (id INTEGER PRIMARY KEY CHECK (id = 1), rv INTEGER)")
            self._db.execute("INSERT OR IGNORE INTO revision VALUES (1, 1)")
            self._load()
        except sqlite3.Error as error:
            raise StoreError(f"{path}: {error}") from error

    def _load(self) -> None:
        (self.revision,) = self._db.execute("SELECT rv FROM revision").fetchone()
        self._start = self.revision
        for bucket, key, rv, data in self._db.execute("SELECT bucket, key, rv, data FROM objects ORDER BY bucket, key"):
            known = self.bucket(bucket)
            known.items[key] = Item(rv, data)
            known.keys.append(key)
        for known in self.buckets.values():
            known.keys.sort()

    @property
    def empty(self) -> bool:
        return not any(bucket.items for bucket in self.buckets.values())

    def bucket(self, name: str) -> Bucket:
        bucket = self.buckets.get(name)
        if bucket is None:
            bucket = self.buckets[name] = Bucket(name, self._start)
        return bucket

    def put(self, bucket: Bucket, key: str, obj: Object, old: Item | None) -> Item:
        """Create (`old` None) or replace an object; sets its resourceVersion.

        The caller has just looked `old` up; nothing may have run in between (no await). Raises ApiError when the disk
        refuses, and then nothing has changed.
        """
        rv = self.revision + 1
        obj["metadata"]["resourceVersion"] = str(rv)
        item = Item(rv, _encode(obj))
        self._commit(rv, "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", (bucket.name, key, rv, item.data))
        self._unsaved += len(item.data) + _PAGES
        bucket.record(Change(rv, key, old, item, item))
        self._checkpoint()
        return item

    def delete(self, bucket: Bucket, key: str, obj: Object, old: Item) -> Item:
        """Remove an object. `obj` is its last state, which watchers see with the revision of the deletion."""
        rv = self.revision + 1
        obj["metadata"]["resourceVersion"] = str(rv)
        last = Item(rv, _encode(obj))
        self._commit(rv, "DELETE FROM objects WHERE bucket = ? AND key = ?", (bucket.name, key))
        self._unsaved += _PAGES
        bucket.record(Change(rv, key, old, None, last))
        self._checkpoint()
        return last

    def _commit(self, rv: int, statement: str, values: tuple[Any, ...]) -> None:
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            db.execute(statement, values)
            db.execute("UPDATE revision SET rv = ?", (rv,))
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise _refusal(error, self.path) from error
        self.revision = rv

    def _checkpoint(self) -> None:
        """Keep the log short. Moving it into the database waits for the disk, so a thread of its own does it."""
        if self._unsaved < CHECKPOINT_EVERY or (self._checkpointing and self._checkpointing.is_alive()):
            return
        self._unsaved = 0
        self._checkpointing = threading.Thread(target=_checkpoint, args=(self.path,), name="checkpoint")
        self._checkpointing.start()

    def close(self) -> None:
        if self._checkpointing:
            self._checkpointing.join()
        with contextlib.suppress(sqlite3.Error):  # then the log stays, and is read at the next start
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()

    def __iter__(self) -> Iterator[Bucket]:
        return iter(self.buckets.values())


def _checkpoint(path: Path) -> None:
    # On a full disk it fails: writes report that, and the next checkpoint tries again.
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _refusal(error: sqlite3.Error, path: Path) -> ApiError:
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith("SQLITE_FULL"):
        why = f"no space left on the disk that holds {path}; the object was not saved. Free some space and try again"
    elif name.startswith("SQLITE_READONLY"):
        why = f"{path} is read-only; the object was not saved"
    else:
        why = f"{path}: {error}; the object was not saved"
    return ApiError(500, "InternalError", f"Internal error occurred: {why}", {"causes": [{"message": why}]})
