"""Memory limits, where the machine's control groups can be had.

A container with a memory limit gets a control group of its own below the node's. Version 2 is used where the
controller `memory` is there and this process may make groups; else version 1. Without either there is no limit, and
the node says so in a condition. The groups are removed with their containers; those of a killed node are removed when
the next one starts.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)
_PREFIX = "pilotfish-"


@dataclass(frozen=True)
class Cgroup:
    """The control group of one container."""

    path: Path
    version: int

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """A command that joins the group first."""
        return ["sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', str(self.path), *argv]

    def oom_killed(self) -> bool:
        """Whether the kernel killed a process of the group for want of memory."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        try:
            lines = (self.path / name).read_text().splitlines()
        except OSError:
            return False
        return any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in lines)

    def usage(self) -> int | None:
        """Bytes in use."""
        name = "memory.current" if self.version == 2 else "memory.usage_in_bytes"
        try:
            return int((self.path / name).read_text())
        except (OSError, ValueError):
            return None

    def remove(self) -> None:
        """Remove the group; it is empty by now."""
        with contextlib.suppress(OSError):
            self.path.rmdir()


class Cgroups:
    """Makes groups for containers with a memory limit."""

    def __init__(self, parent: Path | None, version: int, reason: str = "") -> None:
        # The node mounts other things over its view of the hierarchy; descriptors still lead there.
        self._fd = self._place_fd = -1
        if parent is not None:
            self._fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._place_fd = os.open(parent.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._name = parent.name
        self._version = version
        self.reason = reason
        """Why there are no limits; empty when there are."""

    def create(self, name: str, memory: int) -> Cgroup | None:
        """A group that may use `memory` bytes; None when there are no limits on this machine."""
        if self._fd < 0:
            return None
        path = Path(f"/proc/{os.getpid()}/fd/{self._fd}") / name
        try:
            path.mkdir()
            self._limit(path, memory)
        except OSError as error:
            _log.warning("no control group for a container: %s", error)
            return None
        return Cgroup(path, self._version)

    def _limit(self, path: Path, memory: int) -> None:
        if self._version == 2:
            (path / "memory.max").write_text(str(memory))
            for file, value in (("memory.oom.group", "1"), ("memory.swap.max", "0")):
                with contextlib.suppress(OSError):
                    (path / file).write_text(value)
        else:
            (path / "memory.limit_in_bytes").write_text(str(memory))

    def remove_all(self) -> None:
        """Remove the node's own group, at its end."""
        if self._fd < 0:
            return
        for child in os.scandir(self._fd):
            if child.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    os.rmdir(child.name, dir_fd=self._fd)
        with contextlib.suppress(OSError):
            os.rmdir(self._name, dir_fd=self._place_fd)


def _remove_tree(path: Path) -> None:
    for child in path.glob("*/"):
        with contextlib.suppress(OSError):
            child.rmdir()
    with contextlib.suppress(OSError):
        path.rmdir()


def _own_group(text: str, controller: str) -> str | None:
    """The path in /proc/self/cgroup for a controller (empty: version 2)."""
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") if controller else controllers == "":
            return path
    return None


def find(identity: str, note: Path, root: Path = Path("/sys/fs/cgroup")) -> Cgroups:
    """Look for a place to make groups in. Call it before cgroup2 is mounted over a hybrid hierarchy, and before the
    node enters its own cgroup namespace. `identity` tells the nodes of one machine apart. The place is noted in the
    file `note`; one that a killed node left there is removed."""
    with contextlib.suppress(OSError):
        _remove_tree(Path(note.read_text()))
    note.unlink(missing_ok=True)
    own = Path("/proc/self/cgroup").read_text()
    name = _PREFIX + identity
    reason = "control groups with the memory controller are not mounted"
    controllers = root / "cgroup.controllers"
    candidates: list[tuple[Path, int]] = []
    if controllers.exists():
        group = _own_group(own, "")
        # A group that has processes cannot have limited children, the topmost excepted: use the parent's level.
        candidates = [(root, 2)] if group is None else [((root / group.lstrip("/")).parent, 2), (root, 2)]
    elif (root / "memory").is_dir():
        group = _own_group(own, "memory") or "/"
        candidates = [(root / "memory" / group.lstrip("/"), 1), (root / "memory", 1)]
    for place, version in candidates:
        try:
            path = _prepare(place / name, version)
            note.write_text(str(path))
            return Cgroups(path, version)
        except OSError as error:
            why = os.strerror(error.errno or errno.EIO)
            reason = f"cannot make a control group in {place}: {why}"
    return Cgroups(None, 0, reason)


def _prepare(path: Path, version: int) -> Path:
    _remove_tree(path)
    path.mkdir(exist_ok=True)
    try:
        if version == 2:
            if "memory" not in (path / "cgroup.controllers").read_text().split():
                with contextlib.suppress(OSError):
                    (path.parent / "cgroup.subtree_control").write_text("+memory")
            (path / "cgroup.subtree_control").write_text("+memory")
        elif not (path / "memory.limit_in_bytes").exists():
            raise OSError(errno.ENOTSUP, "no memory controller")
        if not os.access(path / "cgroup.procs", os.W_OK):
            raise PermissionError(errno.EACCES, "not writable")
    except OSError:
        _remove_tree(path)
        raise
    return path
