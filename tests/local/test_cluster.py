"""Starting and stopping: what is refused, and what is left when a start fails. The whole is tested in tests/e2e."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilotfish.errors import UserError
from pilotfish.local import cluster, prerequisites
from pilotfish.local.data import default_data
from pilotfish.local.node import tools
from pilotfish.local.process import Process


@pytest.fixture
def said() -> list[str]:
    """What was said."""
    return []


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of loopback that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_default_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """PILOTFISH_DATA wins, then an absolute XDG_DATA_HOME, then the home directory."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.delenv("PILOTFISH_DATA", raising=False)
    assert default_data() == Path("/home/me/.local/share/pilotfish")
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert default_data() == Path("/xdg/pilotfish")
    monkeypatch.setenv("PILOTFISH_DATA", "/own")
    assert default_data() == Path("/own")


def test_taken_port(tmp_path: Path, said: list[str], taken: int) -> None:
    """A taken port is refused before anything is started, and nothing is left running."""
    with pytest.raises(UserError, match=f"{taken}.*--port"):
        cluster.up(tmp_path / "data", taken, "127.0.0.1", said.append)
    assert not (tmp_path / "data" / "run").exists()


def test_unusable_directory(tmp_path: Path, said: list[str]) -> None:
    """A data directory that cannot be made is one clear message."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--data"):
        cluster.up(tmp_path / "file", 0, None, said.append)
    with pytest.raises(UserError, match="--data"):
        cluster.up(tmp_path / "file" / "data", 0, None, said.append)


def test_long_path(tmp_path: Path) -> None:
    """A path too long for sockets is refused at once."""
    with pytest.raises(UserError, match="too long"):
        prerequisites.check(tmp_path / ("x" * 100))


def test_missing_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All programs that are missing are named in one message, with the packages that have them."""
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.delenv("PILOTFISH_TOOLS", raising=False)
    tools.find.cache_clear()
    try:
        with pytest.raises(UserError) as caught:
            prerequisites.check(tmp_path)
    finally:
        tools.find.cache_clear()
    for package in ("crun", "iproute2", "nftables"):
        assert f"apt-get install {package}" in str(caught.value)


@pytest.mark.parametrize("part", cluster.PARTS)
def test_failed_start(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """When a part ends instead of becoming ready, its last log lines are shown and what was started is stopped."""
    started: list[Process] = []

    def start(name: str, data: Path, _: cluster.State) -> Process:
        script = "import time; time.sleep(60)" if name != part else "print('the reason'); raise SystemExit(1)"
        started.append(Process.start([sys.executable, "-c", script], data / "logs" / f"{name}.log", os.environ))
        return started[-1]

    monkeypatch.setattr(cluster, "_start", start)
    if part == "node":
        monkeypatch.setitem(cluster._READY, "apiserver", lambda *_: None)
        monkeypatch.setattr(cluster, "_Api", lambda _: None)
    data = tmp_path / "data"
    with pytest.raises(UserError, match="the reason"):
        cluster.up(data, 0, None, said.append)
    assert started
    assert not any(process.alive() for process in started)
    assert not (data / "run").exists()


def test_reset_empties_only_its_own(tmp_path: Path, said: list[str]) -> None:
    """A directory that `up` did not make is never emptied; of its own, reset keeps images.yaml."""
    (tmp_path / "precious").touch()
    with pytest.raises(UserError, match="nothing is removed"):
        cluster.reset(tmp_path, said.append)
    assert (tmp_path / "precious").exists()
    data = tmp_path / "data"
    data.mkdir()
    (data / "images.yaml").touch()
    with cluster._locked(data, create=True):
        pass
    for _ in range(2):
        (data / "objects.db").touch()
        (data / "pki").mkdir()
        cluster.reset(data, said.append)
        assert sorted(entry.name for entry in data.iterdir()) == ["images.yaml", "pilotfish-data"]


def test_torn_state_is_no_state(tmp_path: Path, said: list[str]) -> None:
    """A state file cut short by a crash of the machine counts as nothing running."""
    with cluster._locked(tmp_path, create=True):
        (tmp_path / "run" / "cluster.json").write_text('{"port": 64')
    assert [part.pid for part in cluster.status(tmp_path).parts] == [None, None]
    cluster.down(tmp_path, said.append)
    assert not (tmp_path / "run").exists()
