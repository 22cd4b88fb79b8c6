"""A whole local cluster for tests, as root or as an ordinary user, driven with the real kubectl."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.ordinary import NOBODY, ROOT, prefix

SAMPLES = ROOT / "samples"
KUBECTL = Path(sys.prefix) / "bin" / "kubectl"


class CommandError(AssertionError):
    """A command that should have succeeded did not."""


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """The first true value of a condition. Raises AssertionError when it does not come in time."""
    end = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def own_address() -> str:
    """A loopback address that nobody else uses."""
    return "127." + ".".join(str(1 + secrets.randbelow(254)) for _ in range(3))


@dataclass
class Cluster:
    """A cluster with a data directory of its own. `mode`: rootful, rootless, or rootless-ids (with a range)."""

    mode: str
    data: Path
    home: Path
    address: str = field(default_factory=own_address)
    """Where it listens and publishes ports: its own, so that clusters with the same ports can run side by side."""
    environment: dict[str, str] = field(default_factory=dict)

    def prefix(self) -> list[str]:
        """What makes a command run as this cluster's user."""
        return prefix(self.mode, self.data.parent)

    def env(self) -> dict[str, str]:
        """The environment of commands: nothing of the caller's but PATH."""
        bin_ = str(Path(sys.prefix) / "bin")
        return {
            "PATH": f"{bin_}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.home),
            "PILOTFISH_DATA": str(self.data),
            "KUBECONFIG": str(self.data / "kubeconfig"),
            **({"PILOTFISH_TOOLS": tools} if (tools := os.environ.get("PILOTFISH_TOOLS")) else {}),
            **self.environment,
        }

    def pilotfish(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command line as the cluster's user."""
        command = [*self.prefix(), sys.executable, "-c", "from pilotfish.cli import main; main()", *arguments]
        return _run(command, self.env(), check=check, timeout=150)

    def up(self) -> str:
        """Start it; what it said."""
        return self.pilotfish("up", "--port", "0", "--address", self.address).stdout

    def kubectl(self, *arguments: str, input_: str = "", check: bool = True, timeout: float = 120) -> str:
        """Run kubectl as the administrator; what it printed."""
        done = _run([str(KUBECTL), *arguments], self.env(), check=check, input_=input_, timeout=timeout)
        return done.stdout if check else done.stdout + done.stderr

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        """Start kubectl and do not wait for it."""
        return subprocess.Popen([str(KUBECTL), *arguments], env=self.env(), stdout=subprocess.PIPE, text=True)

    def get(self, *arguments: str) -> dict[str, Any]:
        """An object or list, as JSON."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def apply(self, manifest: str, namespace: str = "default") -> str:
        """Apply YAML text."""
        return self.kubectl("apply", "-n", namespace, "-f", "-", input_=manifest)

    def ready(self, namespace: str, *deployments: str, seconds: int = 60) -> None:
        """Wait until Deployments are available (all of the namespace by default)."""
        what = [f"deployment/{name}" for name in deployments] or ["deployment", "--all"]
        try:
            self.kubectl("wait", "-n", namespace, "--for=condition=Available", f"--timeout={seconds}s", *what)
        except CommandError as error:
            seen = self.kubectl("get", "all", "-n", namespace, check=False)
            events = self.kubectl("events", "-n", namespace, check=False)
            logs = "".join((self.data / "logs" / f"{part}.log").read_text()[-3000:] for part in ("apiserver", "node"))
            raise CommandError(f"{error}\n{seen}\n{events[-4000:]}\n{logs}") from error

    def state(self) -> dict[str, Any]:
        """What runs, from `pilotfish status`."""
        found: dict[str, Any] = json.loads(self.pilotfish("status", "-o", "json", check=False).stdout)
        return found

    def pid(self, part: str) -> int:
        """The process of a part."""
        pids = {entry["name"]: entry["pid"] for entry in self.state()["parts"]}
        return int(pids[part])


def _run(
    command: list[str], env: Mapping[str, str], *, check: bool, input_: str = "", timeout: float
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, env=dict(env), input=input_, capture_output=True, text=True, check=False, timeout=timeout, cwd="/"
    )
    if check and done.returncode:
        raise CommandError(
            f"{command[-8:]} exited with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
    return done


@contextlib.contextmanager
def fresh(mode: str) -> Iterator[Cluster]:
    """A cluster that is not started yet; it is stopped and its files are removed at the end."""
    # Not pytest's own directory: that is closed to other users, and too long for sockets.
    base = Path(tempfile.mkdtemp(prefix="pf-"))
    try:
        for name in ("data", "home"):
            (base / name).mkdir()
        base.chmod(0o755)
        if mode != "rootful" and os.geteuid() == 0:
            for path in (base / "data", base / "home"):
                os.chown(path, NOBODY, NOBODY)
        cluster = Cluster(mode, base / "data", base / "home")
        try:
            yield cluster
        finally:
            cluster.pilotfish("down", check=False)
    finally:
        shutil.rmtree(base)


def curl(*arguments: str) -> tuple[int, str]:
    """curl from the machine: its exit code and output."""
    done = subprocess.run(["curl", "-sS", "--max-time", "10", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr
