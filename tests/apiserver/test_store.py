"""The object store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pilotfish.local.apiserver import store as stores
from pilotfish.local.apiserver.errors import ApiError
from pilotfish.local.apiserver.store import Store


def _object(name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": data}


def test_objects_and_revision_survive_a_new_start(tmp_path: Path) -> None:
    """What was written is there again, and the revision goes on from where it was, deletions included."""
    store = Store(tmp_path / "objects.db")
    bucket = store.bucket("/configmaps")
    first = store.put(bucket, "ns/a", _object("a"), None)
    second = store.put(bucket, "ns/b", _object("b"), None)
    store.delete(bucket, "ns/a", first.decode(), first)
    revision = store.revision
    # not closed, as after a crash
    again = Store(tmp_path / "objects.db")
    assert again.revision == revision == second.rv + 1
    assert again.bucket("/configmaps").keys == ["ns/b"]
    assert again.bucket("/configmaps").items["ns/b"].decode()["metadata"]["resourceVersion"] == str(second.rv)


def test_state_of_the_past_is_rebuilt_from_history(tmp_path: Path) -> None:
    """A paged list sees one revision, whatever is written between its pages."""
    store = Store(tmp_path / "objects.db")
    bucket = store.bucket("/configmaps")
    a = store.put(bucket, "ns/a", _object("a", v="1"), None)
    b = store.put(bucket, "ns/b", _object("b"), None)
    then = store.revision
    store.put(bucket, "ns/a", _object("a", v="2"), a)
    store.delete(bucket, "ns/b", b.decode(), b)
    store.put(bucket, "ns/c", _object("c"), None)
    past = bucket.at(then, "ns/")
    assert [key for key, _ in past] == ["ns/a", "ns/b"]
    assert past[0][1].decode()["data"] == {"v": "1"}


def test_history_is_bounded_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes older than the window are answered with 410 Expired, newer ones in order."""
    monkeypatch.setattr(stores, "HISTORY", 3)
    store = Store(tmp_path / "objects.db")
    bucket = store.bucket("/configmaps")
    item = store.put(bucket, "ns/a", _object("a"), None)
    for number in range(5):
        item = store.put(bucket, "ns/a", _object("a", n=str(number)), item)
    with pytest.raises(ApiError) as refused:
        bucket.since(2)
    assert (refused.value.code, refused.value.reason) == (410, "Expired")
    assert [change.rv for change in bucket.since(item.rv - 2)] == [item.rv - 1, item.rv]


def test_a_full_disk_refuses_the_write_and_changes_nothing(tmp_path: Path) -> None:
    """The refusal says what to do; object, revision and watchers are as before; later writes work again."""
    store = Store(tmp_path / "objects.db")
    bucket = store.bucket("/configmaps")
    item = store.put(bucket, "ns/a", _object("a", v="old"), None)
    seen: list[int] = []
    bucket.listeners.add(lambda change: seen.append(change.rv))
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(ApiError) as refused:
        store.put(bucket, "ns/a", _object("a", v="x" * 500_000), item)
    assert refused.value.code == 500
    assert "no space left" in refused.value.message
    assert bucket.items["ns/a"] is item
    assert store.revision == item.rv
    assert seen == []
    store._db.execute("PRAGMA max_page_count=1000000")
    assert store.put(bucket, "ns/a", _object("a", v="new"), item).rv == item.rv + 1


def test_the_log_is_moved_into_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long runs of writes do not grow the write-ahead log without end."""
    monkeypatch.setattr(stores, "CHECKPOINT_EVERY", 200_000)
    store = Store(tmp_path / "objects.db")
    bucket = store.bucket("/configmaps")
    item = None
    for _ in range(200):
        item = store.put(bucket, "ns/a", _object("a", v="x" * 5_000), item)
        if store._checkpointing:
            store._checkpointing.join()
    assert (tmp_path / "objects.db-wal").stat().st_size < 600_000
    store.close()
