"""Memory limits: finding a place for control groups, and reading what the kernel tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotfish.local.node import cgroups
from pilotfish.local.node.cgroups import Cgroup


@pytest.mark.parametrize(
    ("version", "file", "text", "killed"),
    [
        (2, "memory.events", "low 0\nmax 3\noom 1\noom_kill 1\n", True),
        (2, "memory.events", "low 0\nmax 3\noom 0\noom_kill 0\n", False),
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", True),
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", False),
    ],
)
def test_oom_kills(version: int, file: str, text: str, killed: bool, tmp_path: Path) -> None:
    """Whether a process was killed for want of memory, by either version's counters."""
    (tmp_path / file).write_text(text)
    assert Cgroup(tmp_path, version).oom_killed() is killed


def test_an_unreadable_group_was_not_killed(tmp_path: Path) -> None:
    """A group that is gone tells nothing."""
    assert not Cgroup(tmp_path / "gone", 2).oom_killed()
    assert Cgroup(tmp_path / "gone", 2).usage() is None


def test_a_machine_without_control_groups(tmp_path: Path) -> None:
    """There are no limits, and the reason is fit for the node's condition."""
    found = cgroups.find("x", tmp_path / "note", tmp_path)
    assert found.create("c", 1) is None
    assert found.reason == "control groups with the memory controller are not mounted"
    found.remove_all()


def test_a_hierarchy_that_cannot_be_used(tmp_path: Path) -> None:
    """A directory that is no control group is left as it was, and the reason names it."""
    root = tmp_path / "cgroup"
    root.mkdir()
    (root / "cgroup.controllers").write_text("memory pids\n")
    found = cgroups.find("x", tmp_path / "note", root)
    assert found.create("c", 1) is None
    assert "cannot make a control group in" in found.reason
    assert not list(root.rglob("pilotfish-*"))
    assert not (tmp_path / "note").exists()


def test_a_group_left_by_a_killed_node_is_removed(tmp_path: Path) -> None:
    """The next node finds the note of the last one."""
    left = tmp_path / "left"
    (left / "container").mkdir(parents=True)
    note = tmp_path / "note"
    note.write_text(str(left))
    cgroups.find("x", note, tmp_path / "none")
    assert not left.exists()
    assert not note.exists()
