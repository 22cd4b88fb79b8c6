"""The PID namespace of a pod with `shareProcessNamespace`: held by a process that only reaps orphans."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pilotfish.local.node.processes import Processes

# The shell reaps every child that it inherits while it waits for its own.
_REAPER = "trap 'exit 0' TERM; while :; do sleep 2147483647 & wait; done"


def _namespace(path: str) -> str:
    """The identity of a namespace; empty while it is not there."""
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


@dataclass
class PidHolder:
    """Process 1 of a shared PID namespace. When it is killed the kernel kills all the others."""

    outer: int
    """The process that waits for it in the node's own namespace."""
    exited: asyncio.Future[int]

    @property
    def path(self) -> str:
        return f"/proc/{self.outer}/ns/pid_for_children"

    @classmethod
    async def start(cls, processes: Processes) -> Self:
        """Make the namespace and its first process."""
        outer = processes.spawn(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", _REAPER])
        path = f"/proc/{outer}/ns/pid_for_children"
        own = _namespace("/proc/self/ns/pid")
        for _ in range(200):
            if _namespace(path) not in {"", own}:
                break
            await asyncio.sleep(0.005)
        return cls(outer, processes.ended(outer))

    async def stop(self) -> None:
        """End the namespace and everything in it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.outer, signal.SIGKILL)
        await self.exited
