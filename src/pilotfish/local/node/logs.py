"""Container logs: written in the format of the container runtime interface, read back for `kubectl logs`.

A line of the file is `TIME STREAM TAG TEXT`: an RFC 3339 time with nanoseconds, `stdout` or `stderr`, `F` for a full
line or `P` for a part of a long one. A file that has grown beyond 10 MB is renamed to `NAME.1` (one such is kept).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

MAX_BYTES = 10 * 1024 * 1024
MAX_LINE = 16 * 1024
_BLOCK = 64 * 1024


def timestamp(nanoseconds: int) -> str:
    """An RFC 3339 time with nanoseconds, UTC."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


class LogFile:
    """The log of one run of a container, being written."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self._max = max_bytes
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size
        self._rest: dict[str, bytes] = {}
        self._changed = asyncio.Event()
        self._listeners: set[Callable[[str, bytes], None]] = set()
        self.closed = False

    def write(self, stream: str, data: bytes) -> None:
        """Add what the container wrote. An unfinished line waits for its end."""
        for listener in tuple(self._listeners):
            listener(stream, data)
        data = self._rest.pop(stream, b"") + data
        *lines, rest = data.split(b"\n")
        stamp = f"{timestamp(time.time_ns())} {stream} ".encode()
        out = bytearray()
        for line in lines:
            _append(out, stamp, line, b"F")
        if len(rest) >= MAX_LINE:
            _append(out, stamp, rest, b"P")
        elif rest:
            self._rest[stream] = rest
        self._emit(out)

    def _emit(self, out: bytes | bytearray) -> None:
        if not out or self.closed:
            return
        with contextlib.suppress(OSError):  # a full disk must not stop the container
            os.write(self._fd, out)
        self._size += len(out)
        if self._size > self._max:
            self._rotate()
        self._wake()

    def _rotate(self) -> None:
        os.close(self._fd)
        with contextlib.suppress(OSError):
            self.path.rename(self.path.with_name(self.path.name + ".1"))
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = 0

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Wait until something is added or the log is closed."""
        await self._changed.wait()

    def listen(self, listener: Callable[[str, bytes], None]) -> None:
        """Have `listener(stream, data)` called with everything written from now on, unformatted; at the end with
        an empty stream."""
        self._listeners.add(listener)

    def unlisten(self, listener: Callable[[str, bytes], None]) -> None:
        self._listeners.discard(listener)

    def close(self) -> None:
        """The container has ended."""
        if self.closed:
            return
        stamp = timestamp(time.time_ns())
        for stream, rest in self._rest.items():
            out = bytearray()
            _append(out, f"{stamp} {stream} ".encode(), rest, b"F")
            self._emit(out)
        self._rest.clear()
        self.closed = True
        os.close(self._fd)
        self._changed.set()
        for listener in tuple(self._listeners):
            listener("", b"")


def _append(out: bytearray, stamp: bytes, line: bytes, tag: bytes) -> None:
    while len(line) > MAX_LINE:
        out += stamp + b"P " + line[:MAX_LINE] + b"\n"
        line = line[MAX_LINE:]
    out += stamp + tag + b" " + line + b"\n"


@dataclass(frozen=True)
class LogOptions:
    """The query of `GET /containerLogs`, as PodLogOptions."""

    tail_lines: int | None = None
    since: datetime | None = None
    timestamps: bool = False
    limit_bytes: int | None = None
    follow: bool = False

    @classmethod
    def from_query(cls, query: dict[str, str], now: datetime | None = None) -> LogOptions:
        """Raises ValueError naming the parameter that is wrong."""

        def number(name: str) -> int | None:
            text = query.get(name)
            if text is None or text == "":
                return None
            if not text.isdigit():
                raise ValueError(f"{name}: {text!r} is not a whole number")
            return int(text)

        def flag(name: str) -> bool:
            return query.get(name, "").lower() in {"true", "1"}

        since = None
        seconds = number("sinceSeconds")
        if seconds is not None:
            since = (now or datetime.now(UTC)) - timedelta(seconds=seconds)
        elif query.get("sinceTime"):
            try:
                since = datetime.fromisoformat(query["sinceTime"])
            except ValueError as error:
                raise ValueError(f"sinceTime: {query['sinceTime']!r} is not an RFC 3339 time") from error
            if since.tzinfo is None:
                since = since.replace(tzinfo=UTC)
        return cls(number("tailLines"), since, flag("timestamps"), number("limitBytes"), flag("follow"))


def format_line(raw: bytes, options: LogOptions) -> bytes:
    """What the reader gets for a line of the file (with its end), empty if it is too old."""
    stamp, _, rest = raw.partition(b" ")
    _, _, rest = rest.partition(b" ")
    tag, _, text = rest.partition(b" ")
    if options.since is not None and _parse_time(stamp) < options.since:
        return b""
    if tag == b"P":
        text = text.removesuffix(b"\n")
    return stamp + b" " + text if options.timestamps else text


def _parse_time(stamp: bytes) -> datetime:
    try:
        return datetime.fromisoformat(stamp[:26].decode() + "Z")
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)


def _lines_reversed(path: Path) -> Iterator[bytes]:
    """The lines of a file with their ends, last first, read in blocks."""
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        rest = b""
        while position > 0:
            size = min(_BLOCK, position)
            position -= size
            file.seek(position)
            lines = (file.read(size) + rest).splitlines(keepends=True)
            rest = lines[0]
            yield from reversed(lines[1:])
        if rest:
            yield rest


def _tail(path: Path, count: int) -> list[bytes]:
    found: list[bytes] = []
    for file in (path, path.with_name(path.name + ".1")):
        if not file.exists():
            continue
        for line in _lines_reversed(file):
            if b" P " not in line[:48]:  # parts belong to the line that ends them
                if count == 0:
                    return found[::-1]
                count -= 1
            found.append(line)
    return found[::-1]


async def read(path: Path, options: LogOptions, live: LogFile | None) -> AsyncIterator[bytes]:
    """The log as chunks of bytes; with `follow` until the container ends (`live` is the log if it still runs)."""
    left = options.limit_bytes
    async for chunk in _read(path, options, live):
        if left is None:
            yield chunk
            continue
        yield chunk[:left]
        left -= len(chunk)
        if left <= 0:
            return


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


async def _read(path: Path, options: LogOptions, live: LogFile | None) -> AsyncIterator[bytes]:
    first = _open(path)
    if first is None:
        return
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(first)
        if options.tail_lines is not None:
            file.seek(0, os.SEEK_END)
            yield b"".join(format_line(line, options) for line in _tail(path, options.tail_lines))
        else:
            older = _open(path.with_name(path.name + ".1"))
            if older is not None:
                with older as old:
                    while lines := old.readlines(_BLOCK):
                        yield b"".join(format_line(line, options) for line in lines)
        while True:
            while lines := file.readlines(_BLOCK):
                yield b"".join(format_line(line, options) for line in lines)
            if not options.follow or live is None:
                return
            if _replaced(file.fileno(), path):
                newer = _open(path)
                if newer is not None:
                    file = stack.enter_context(newer)
                    continue
            if live.closed:
                return
            await live.changed()


def _replaced(fd: int, path: Path) -> bool:
    try:
        return path.stat().st_ino != os.fstat(fd).st_ino
    except OSError:
        return False


class LogReader:
    """Reads a pipe or terminal of a container into its log until it ends."""

    def __init__(self, fd: int, stream: str, log: LogFile) -> None:
        self._fd = fd
        self._stream = stream
        self._log = log
        self._loop = asyncio.get_running_loop()
        self.done = asyncio.Event()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _BLOCK)
        except BlockingIOError:
            return
        except OSError:  # a terminal whose other side is closed
            data = b""
        if data:
            self._log.write(self._stream, data)
        else:
            self.close()

    def close(self) -> None:
        """Stop reading. The descriptor is closed, too."""
        if not self.done.is_set():
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self.done.set()
