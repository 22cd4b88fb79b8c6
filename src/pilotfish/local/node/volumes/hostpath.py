"""Where a hostPath volume leads.

A path of the machine is handed out only when the pod says that it exists there already (type Directory, File, Socket,
CharDevice or BlockDevice). Paths without a type, or with DirectoryOrCreate or FileOrCreate, live below
`DATA/hostpath`: pods of this cluster share them, and nothing is made or changed on the machine. Never handed out are
the cluster's data directory, anything that contains it, and the directories that hold everybody's files.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_EXISTING = {
    "Directory": stat.S_ISDIR,
    "File": stat.S_ISREG,
    "Socket": stat.S_ISSOCK,
    "CharDevice": stat.S_ISCHR,
    "BlockDevice": stat.S_ISBLK,
}
_WORDS = {
    "Directory": "directory",
    "File": "file",
    "Socket": "socket",
    "CharDevice": "character device",
    "BlockDevice": "block device",
}
_REFUSED = ("/", "/home", "/root", "/proc", "/sys", "/dev", "/run", "/var/run", "/etc")


class HostPathError(ValueError):
    """The path cannot be used; the text says why."""


def locate(path: str, kind: str, data: Path) -> Path:
    """The path on the machine of a hostPath volume; makes it when its type says so. Raises `HostPathError`."""
    if kind in _EXISTING:
        return _existing(path, kind, data)
    target = data / "hostpath" / os.path.normpath("/" + path).lstrip("/")
    if kind == "FileOrCreate":
        if not target.parent.is_dir():
            raise HostPathError(f"hostPath {path}: its directory does not exist (below {data / 'hostpath'})")
        target.touch()
    else:
        target.mkdir(parents=True, exist_ok=True)
    return target


def _existing(path: str, kind: str, data: Path) -> Path:
    real = Path(os.path.realpath(path))
    secret = data.resolve()
    if str(real) in _REFUSED or real.is_relative_to(secret) or secret.is_relative_to(real):
        raise HostPathError(f"hostPath {path}: this path of the machine is never given to pods")
    try:
        mode = real.stat().st_mode
    except OSError as error:
        raise HostPathError(
            f"hostPath type check failed: {path} is not a {_WORDS[kind]} ({os.strerror(error.errno or 0)})"
        ) from error
    if not _EXISTING[kind](mode):
        raise HostPathError(f"hostPath type check failed: {path} is not a {_WORDS[kind]}")
    return real
