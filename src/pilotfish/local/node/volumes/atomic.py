"""Files that change all at once, as kubelet's AtomicWriter does it.

The directory holds `..data`, a link to a directory with a time in its name, and for every top-level entry a link
through `..data`. An update makes a new directory and renames one link: a reader sees all old or all new files.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DATA = "..data"


@dataclass(frozen=True)
class File:
    """The content and the mode of a file."""

    data: bytes
    mode: int = 0o644


def write(directory: Path, files: Mapping[str, File], gid: int | None = None) -> bool:
    """Make the directory hold exactly these files; returns whether anything changed. Keys are relative paths."""
    link = directory / DATA
    if link.is_symlink() and _same(link, files):
        return False
    stamp = time.strftime("..%Y_%m_%d_%H_%M_%S", time.gmtime()) + "." + secrets.token_hex(4)
    fresh = directory / stamp
    fresh.mkdir(mode=0o755)
    for name, file in files.items():
        path = fresh / name
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.write_bytes(file.data)
        if gid is not None:
            os.chown(path, -1, gid)
        path.chmod(file.mode)
    old = link.readlink() if link.is_symlink() else None
    temporary = directory / "..data_tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(stamp)
    temporary.rename(link)
    visible = {name.split("/", 1)[0] for name in files}
    for name in visible:
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"{DATA}/{name}")
    for entry in directory.iterdir():
        if not entry.name.startswith("..") and entry.name not in visible:
            entry.unlink()
    if old is not None:
        shutil.rmtree(directory / old, ignore_errors=True)
    return True


def _same(link: Path, files: Mapping[str, File]) -> bool:
    present = {str(path.relative_to(link)): path for path in link.rglob("*") if path.is_file()}
    if present.keys() != files.keys():
        return False
    return all(
        present[name].stat().st_mode & 0o7777 == file.mode and present[name].read_bytes() == file.data
        for name, file in files.items()
    )
