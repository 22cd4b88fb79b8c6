"""Real Helm, to compare with. It comes from the Go module proxy; Debian has no package of it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

VERSION = "v3.19.5"


@pytest.fixture(scope="session")
def helm() -> str:
    """The path of helm: the machine's, else built once by `go install` and kept in the user's cache."""
    if found := shutil.which("helm"):
        return found
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pilotfish-tests" / f"helm-{VERSION}"
    binary = cache / "helm"
    if binary.exists():
        return str(binary)
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        pytest.skip("neither helm nor Go (to build it) is installed: the charts are not compared with Helm")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers of one test run wait for each other
        if not binary.exists():
            command = [go, "install", f"helm.sh/helm/v3/cmd/helm@{VERSION}"]
            environment = {**os.environ, "GOBIN": str(cache / "new"), "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}
            built = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if built.returncode:
                pytest.skip(f"Helm cannot be built here: {built.stderr.strip()[-300:]}")
            (cache / "new" / "helm").rename(binary)
    return str(binary)
