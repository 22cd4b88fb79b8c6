"""Container logs: the file format, rotation, and what readers get."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pilotfish.local.node.logs import MAX_LINE, LogFile, LogOptions, read


async def text(path: Path, **query: str) -> str:
    return b"".join([chunk async for chunk in read(path, LogOptions.from_query(query), None)]).decode()


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


async def test_format(tmp_path: Path) -> None:
    """Lines carry time, stream and tag; an unfinished line waits for its rest."""
    log = LogFile(tmp_path / "d/0.log")
    log.write("stdout", b"one\ntw")
    log.write("stderr", b"err\n")
    log.write("stdout", b"o\nlast")
    log.close()
    lines = log.path.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z std(out|err) F ", line) for line in lines)
    assert [line.split(" ", 3)[1:] for line in lines] == [
        ["stdout", "F", "one"],
        ["stderr", "F", "err"],
        ["stdout", "F", "two"],
        ["stdout", "F", "last"],
    ]


async def test_long_lines_come_back_in_one_piece(tmp_path: Path) -> None:
    """A line longer than a record is stored in parts and read as one."""
    log = LogFile(tmp_path / "0.log")
    line = b"x" * (MAX_LINE * 2 + 5)
    log.write("stdout", line[:20000])
    log.write("stdout", line[20000:] + b"\nnext\n")
    assert await text(log.path) == line.decode() + "\nnext\n"
    assert await text(log.path, tailLines="2") == line.decode() + "\nnext\n"
    log.close()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, "".join(f"line {i}\n" for i in range(3000))),
        ({"tailLines": "2"}, "line 2998\nline 2999\n"),
        ({"tailLines": "0"}, ""),
        ({"limitBytes": "10"}, "line 0\nlin"),
        ({"sinceSeconds": "100"}, "".join(f"line {i}\n" for i in range(3000))),
    ],
)
async def test_options(tmp_path: Path, query: dict[str, str], expected: str) -> None:
    """tailLines, limitBytes and sinceSeconds, over a file of many blocks."""
    log = LogFile(tmp_path / "0.log")
    log.write("stdout", b"".join(b"line %d\n" % i for i in range(3000)))
    assert await text(log.path, **query) == expected
    log.close()


async def test_since_and_timestamps(tmp_path: Path) -> None:
    """Lines older than sinceTime are left out; with timestamps every line begins with its time."""
    path = tmp_path / "0.log"
    path.write_text("2026-01-01T00:00:00.000000001Z stdout F old\n2026-01-02T00:00:00.000000001Z stderr F new\n")
    assert await text(path, sinceTime="2026-01-01T12:00:00Z") == "new\n"
    assert await text(path, timestamps="true", tailLines="1") == "2026-01-02T00:00:00.000000001Z new\n"


def test_bad_options() -> None:
    """The wrong parameter is named."""
    with pytest.raises(ValueError, match="tailLines: 'x' is not a whole number"):
        LogOptions.from_query({"tailLines": "x"})
    with pytest.raises(ValueError, match="sinceTime"):
        LogOptions.from_query({"sinceTime": "yesterday"})


def test_since_seconds_count_from_now() -> None:
    """sinceSeconds is turned into a moment."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert LogOptions.from_query({"sinceSeconds": "60"}, now).since == now - timedelta(seconds=60)


async def test_rotation_and_follow(tmp_path: Path) -> None:
    """A follower sees every line across a rotation, and ends with the container; one old file is kept."""
    log = LogFile(tmp_path / "0.log", max_bytes=2000)
    collected: list[bytes] = []

    async def follow() -> None:
        collected.extend([chunk async for chunk in read(log.path, LogOptions(follow=True), log)])

    task = asyncio.create_task(follow())
    for i in range(100):
        log.write("stdout", b"line %d\n" % i)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    log.close()
    await asyncio.wait_for(task, 60)
    assert b"".join(collected).decode() == "".join(f"line {i}\n" for i in range(100))
    assert names(tmp_path) == ["0.log", "0.log.1"]


async def test_tail_reaches_into_the_rotated_file(tmp_path: Path) -> None:
    """tailLines takes older lines from the file that was rotated away."""
    log = LogFile(tmp_path / "0.log", max_bytes=300)
    for i in range(10):
        log.write("stdout", b"line %d\n" % i)
    assert await text(log.path, tailLines="3") == "line 7\nline 8\nline 9\n"
    log.close()
