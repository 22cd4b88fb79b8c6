"""Processes that are known by pid and start time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from pilotfish.local.process import Process, memory, tree

_IGNORES_TERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
)


def _start(log: Path, script: str) -> Process:
    return Process.start([sys.executable, "-c", script], log, os.environ)


def test_start_and_stop(tmp_path: Path) -> None:
    """A process runs in a session of its own, writes to its log, and is gone after stop."""
    log = tmp_path / "log"
    process = _start(log, "import time; print('hello', flush=True); time.sleep(60)")
    assert process.alive()
    assert os.getsid(process.pid) == process.pid
    assert process.pid in tree(os.getpid())
    assert memory(process.pid) > 0
    process.stop(5)
    assert not process.alive()
    process.stop(5)


def test_force(tmp_path: Path) -> None:
    """A process that ignores SIGTERM is killed after the grace period."""
    log = tmp_path / "log"
    process = _start(log, _IGNORES_TERM)
    while not log.read_text():
        assert process.alive()
    process.stop(0.1)
    assert not process.alive()


def test_a_later_process_with_the_same_pid_is_another(tmp_path: Path) -> None:
    """A pid alone proves nothing: with another start time the process is not ours, and stop leaves it alone."""
    process = _start(tmp_path / "log", "import time; time.sleep(60)")
    other = Process(process.pid, process.started + "1")
    assert not other.alive()
    other.stop(0)
    assert process.alive()
    process.stop(5)


def test_a_dead_process_that_nobody_waited_for(tmp_path: Path) -> None:
    """A process that ended is not alive, whether or not its parent has taken note."""
    process = _start(tmp_path / "log", "import time; time.sleep(60)")
    os.kill(process.pid, signal.SIGKILL)
    process.stop(5)
    assert not process.alive()
    with subprocess.Popen(["/bin/true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        fields = Path(f"/proc/{child.pid}/stat").read_text().split()
        assert fields[2] == "Z"
        assert memory(child.pid) == 0
