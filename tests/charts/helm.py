"""Real Helm, to compare with. It comes from the Go module proxy; Debian has no package of it.

`python tests/charts/helm.py` builds it, once, into the user's cache; `make test` does that before the tests, because it
takes minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "v3.19.5"
_SECONDS = 1200


def _binary() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "pilotfish-tests" / f"helm-{VERSION}" / "helm"


def find() -> str | None:
    """The path of helm: the machine's, else ours, else None."""
    return shutil.which("helm") or (str(_binary()) if _binary().exists() else None)


def _build() -> str:
    """Build Helm. Why it cannot be built, or nothing."""
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        return "neither helm nor Go (to build it) is installed"
    binary = _binary()
    new = binary.with_name(f"new-{os.getpid()}")
    environment = {**os.environ, "GOBIN": str(new), "CGO_ENABLED": "0"}
    command = [go, "install", f"helm.sh/helm/v3/cmd/helm@{VERSION}"]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=_SECONDS, cwd="/"
        )
        if done.returncode:
            return f"Helm cannot be built: {done.stderr.strip()[-300:]}"
        (new / "helm").replace(binary)
    except subprocess.TimeoutExpired:
        return f"Helm was not built within {_SECONDS} s"
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return ""


def main() -> None:
    """Build Helm if it is not there; without it the tests that need it are skipped."""
    if find() is None:
        print("setup: building Helm for the tests of the charts, once (some minutes)", flush=True)
        if why := _build():
            print(f"setup: {why}; tests that compare with Helm will be skipped", file=sys.stderr)


if __name__ == "__main__":
    main()
