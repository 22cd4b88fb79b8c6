"""The command line's frame: lazy commands, kind errors, exit codes."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

from pilotfish import cli


def _run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pilotfish.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False, cwd="/")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_is_there(name: str) -> None:
    """Every name in the table has its module with a click command, and the module's help says something."""
    command = import_module(f"pilotfish.cli.{name.replace('-', '_')}").command
    assert isinstance(command, click.Command)
    assert command.help
    assert cli.COMMANDS[name].endswith(".")


def test_help_imports_no_command() -> None:
    """--help lists every command and imports none of them, nor what they need."""
    script = (
        "import sys; from pilotfish.cli import group\n"
        "try: group(['--help'])\n"
        "finally: print('imported:', sorted(m for m in sys.modules if m.startswith(('pilotfish.', 'aiohttp', 'yaml'))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for name, what in cli.COMMANDS.items():
        assert name in done.stdout
        assert what.split()[0] in done.stdout
    assert done.stdout.splitlines()[-1] == "imported: ['pilotfish.cli', 'pilotfish.errors']"


def test_wrong_usage() -> None:
    """An unknown command or option is exit code 2 and says how to get help."""
    for arguments in (["bogus"], ["up", "--bogus"], ["up", "--port", "70000"]):
        done = _run(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert "help" in done.stderr


def test_refusals_are_one_line(tmp_path: Path) -> None:
    """What cannot be done is one line on standard error and exit code 1."""
    for arguments in (["kubeconfig"], ["image", "remove", "nothing"], ["image", "add", "x", "--", "no-such-command"]):
        done = _run(*arguments, PILOTFISH_DATA=str(tmp_path / "data"), PATH="/usr/bin")
        assert done.returncode == 1
        assert done.stderr.startswith("pilotfish: ")
        assert done.stderr.count("\n") == 1


def test_unexpected_errors_have_no_traceback(tmp_path: Path) -> None:
    """An error nobody foresaw is a line too; a traceback only on request."""
    (tmp_path / "kubeconfig").mkdir()
    done = _run("kubeconfig", "--raw", "--data", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "IsADirectoryError" in done.stderr
    assert "Traceback" in _run("kubeconfig", "--raw", "--data", str(tmp_path), PILOTFISH_DEBUG="1").stderr


def test_version() -> None:
    """The version is told both ways."""
    assert _run("version").stdout == _run("--version").stdout != ""


def test_status_of_nothing(tmp_path: Path) -> None:
    """Where nothing runs, status says so with exit code 3, down and reset do nothing and succeed."""
    data = str(tmp_path / "data")
    done = _run("status", "--data", data)
    assert done.returncode == 3
    assert "stopped" in done.stdout
    for command in ("down", "reset"):
        assert _run(command, "--data", data).returncode == 0
    assert not (tmp_path / "data").exists()
