"""Gives memory back after a storm of connections.

The C library keeps what responses took while they waited to be sent, several MB a proxy; it is asked to let go of it
when the storm is over. Other C libraries than glibc have no such call and need none.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes

QUIET_SECONDS = 5.0


class Trimmer:
    """`later()` again and again costs nothing until it has been quiet for a while."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(QUIET_SECONDS, trim)


def trim() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
