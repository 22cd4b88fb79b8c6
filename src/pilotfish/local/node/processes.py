"""Child processes of the node. The node is process 1: it starts programs, and it inherits and reaps every orphan.

The standard library's subprocess support waits for single children and would lose to a reaper of all, so everything
is started here with `posix_spawn` and collected in one SIGCHLD handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pilotfish.local.node import tools

_UNCLAIMED_SECONDS = 10.0
_MAX_OUTPUT = 1 << 20


@dataclass(frozen=True)
class Result:
    """How a program ended: exit code (128 + signal number if killed) and what it wrote."""

    code: int
    out: bytes
    err: bytes

    @property
    def message(self) -> str:
        """What the program said, errors first, in one line."""
        text = (self.err or self.out).decode(errors="replace").strip()
        return " ".join(text.split()) or f"exit code {self.code}"


def exit_code(status: int) -> int:
    """A wait status as the exit code a shell and Kubernetes report: 128 + n for a death by signal n."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


class Processes:
    """Starts children and collects all that end, including orphans that were never started here."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._unclaimed: OrderedDict[int, tuple[float, int]] = OrderedDict()
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def install(self) -> None:
        """Handle SIGCHLD in the running loop."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self.reap)
        self.reap()

    def close(self) -> None:
        """Stop handling SIGCHLD."""
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)
        os.close(self._null)

    def reap(self) -> None:
        """Collect every child that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            waiter = self._waiting.pop(pid, None)
            if waiter is None:
                self._remember(pid, exit_code(status))
            elif not waiter.done():
                waiter.set_result(exit_code(status))

    def _remember(self, pid: int, code: int) -> None:
        now = time.monotonic()
        self._unclaimed.pop(pid, None)
        self._unclaimed[pid] = (now, code)
        while self._unclaimed:
            first = next(iter(self._unclaimed))
            if self._unclaimed[first][0] > now - _UNCLAIMED_SECONDS:
                return
            del self._unclaimed[first]

    def ended(self, pid: int) -> asyncio.Future[int]:
        """A future of the exit code of the child (or adopted orphan) `pid`."""
        existing = self._waiting.get(pid)
        if existing is not None:
            return existing
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        past = self._unclaimed.pop(pid, None)
        if past is not None:
            future.set_result(past[1])
        else:
            self._waiting[pid] = future
        return future

    def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Start a program and return its pid; descriptors left out are /dev/null. Use `ended` to wait for it."""
        tool = tools.find(argv[0])
        actions = [
            (os.POSIX_SPAWN_DUP2, self._null if fd is None else fd, target)
            for target, fd in ((0, stdin), (1, stdout), (2, stderr))
        ]
        pid = os.posix_spawn(
            tool.path,
            list(argv),
            {**tool.env, **(env or {})},
            file_actions=actions,
            setsigdef=[signal.SIGCHLD, signal.SIGPIPE, signal.SIGTERM, signal.SIGINT],
            setsigmask=[],
        )
        self._unclaimed.pop(pid, None)  # an older process of the same number
        return pid

    async def run(
        self, argv: Sequence[str], *, stdin: bytes | None = None, env: Mapping[str, str] | None = None
    ) -> Result:
        """Run a short program to its end. Output goes to memory files, so no pipe has to be read meanwhile."""
        out = os.memfd_create("stdout")
        err = os.memfd_create("stderr")
        given = None
        try:
            if stdin is not None:
                given = os.memfd_create("stdin")
                os.write(given, stdin)
                os.lseek(given, 0, os.SEEK_SET)
            pid = self.spawn(argv, stdin=given, stdout=out, stderr=err, env=env)
            code = await self.ended(pid)
            return Result(code, os.pread(out, _MAX_OUTPUT, 0), os.pread(err, _MAX_OUTPUT, 0))
        finally:
            os.close(out)
            os.close(err)
            if given is not None:
                os.close(given)
