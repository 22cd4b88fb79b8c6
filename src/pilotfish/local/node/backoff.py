"""How long to wait before something that failed is tried again."""

from __future__ import annotations


class Backoff:
    """Nothing the first time, then 10 s, doubling to 5 min; anew after 10 min without a try (as kubelet)."""

    def __init__(self, first: float = 10.0, longest: float = 300.0, reset: float = 600.0) -> None:
        self._first = first
        self._longest = longest
        self._reset = reset
        self._current = 0.0
        self._last: float | None = None

    def next(self, now: float) -> float:
        """The delay, seconds, before the try that is due at `now` (any clock)."""
        if self._last is None or now - self._last > self._reset:
            delay, self._current = 0.0, self._first
        else:
            delay = self._current
            self._current = min(self._current * 2, self._longest)
        self._last = now + delay
        return delay
