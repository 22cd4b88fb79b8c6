"""The programs of other packages that the node starts, found on PATH or in an extracted package root.

The environment variable `PILOTFISH_TOOLS` may name a directory that Debian packages were extracted into
(`dpkg -x PACKAGE DIR`). Programs found there are started with their libraries beside them.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGES = {
    "crun": "crun",
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "newuidmap": "uidmap",
    "newgidmap": "uidmap",
}
"""Program name → Debian package that has it."""

_SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_PREFIXES = ("usr/sbin", "usr/bin", "sbin", "bin")


class ToolMissingError(RuntimeError):
    """A program the node needs is not installed."""


@dataclass(frozen=True)
class Tool:
    """A program: its path and the environment it needs."""

    path: str
    env: dict[str, str]


def _library_path(root: Path) -> str:
    parents = [root / "usr/lib", root / "lib"]
    found = [d for parent in parents if parent.is_dir() for d in (*sorted(parent.glob("*-linux-gnu*")), parent)]
    return ":".join(str(d) for d in found)


@cache
def find(name: str) -> Tool:
    """The program `name`; raises `ToolMissingError` with the package to install when there is none."""
    env = {"PATH": ":".join(_SYSTEM_PATH), "LC_ALL": "C"}
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":" + ":".join(_SYSTEM_PATH))
    if path:
        return Tool(path, env)
    root = os.environ.get("PILOTFISH_TOOLS")
    if root:
        for prefix in _PREFIXES:
            candidate = Path(root) / prefix / name
            if os.access(candidate, os.X_OK):
                return Tool(str(candidate), {**env, "LD_LIBRARY_PATH": _library_path(Path(root))})
    package = PACKAGES.get(name, name)
    raise ToolMissingError(
        f"{name} is not installed: install the package {package} (apt-get install {package}), "
        f"or extract it (apt-get download {package}; dpkg -x FILE DIR) and set PILOTFISH_TOOLS=DIR"
    )
