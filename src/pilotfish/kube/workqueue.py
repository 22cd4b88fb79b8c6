"""Work by key: each key waits once at most, is worked on by one worker at a time, and is tried again with back-off."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from pilotfish.kube.errors import KubeError, is_conflict

_log = logging.getLogger(__name__)
_BACKOFF = (0.005, 60.0)  # first and longest delay, seconds; doubles each time (as client-go's default limiter)

_SAID_EVERY = 8  # failures of one key, so that a lasting fault does not fill the log

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """A queue of keys.

    A key added while it waits is not added twice; one added while it is worked on waits until that work is done.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._waiting: deque[K] = deque()
        self._dirty: set[K] = set()
        self._busy: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._dirty)

    def add(self, key: K) -> None:
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._busy:
            self._waiting.append(key)
            self._wake.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Add it later. Of several times for one key the earliest counts."""
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self._due, key)

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def retry(self, key: K) -> None:
        """Add it after a delay that doubles with every failure."""
        first, longest = _BACKOFF
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self.add_after(key, min(first * 2 ** min(failures, 30), longest))

    def forget(self, key: K) -> None:
        """It went well: the next failure is the first again."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key; call `done` for it."""
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        key = self._waiting.popleft()
        self._dirty.discard(key)
        self._busy.add(key)
        return key

    def done(self, key: K) -> None:
        self._busy.discard(key)
        if key in self._dirty:
            self._waiting.append(key)
            self._wake.set()

    def stop(self) -> None:
        """Cancel the timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    async def run(self, work: Callable[[K], Awaitable[None]], workers: int = 1) -> None:
        """Work on keys until cancelled. A key whose work raises is retried; the reason is logged."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._worker(work), name=f"worker {self.name}")
        finally:
            self.stop()

    async def _worker(self, work: Callable[[K], Awaitable[None]]) -> None:
        while True:
            key = await self.get()
            try:
                await work(key)
            except KubeError as error:
                # A conflict means that we are about to see a newer object; not worth a line.
                quiet = is_conflict(error) or self._failures.get(key, 0) % _SAID_EVERY
                _log.log(logging.DEBUG if quiet else logging.WARNING, "%s %s: %s", self.name, key, error)
                self.retry(key)
            except Exception:  # noqa: BLE001 - a bug met by one key must not stop the others
                _log.exception("%s %s", self.name, key)
                self.retry(key)
            else:
                self.forget(key)
            finally:
                self.done(key)
