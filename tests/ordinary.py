"""Commands of tests that run as an ordinary user, whoever runs the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOBODY = 65534
MODES = ("rootful", "rootless", "rootless-ids")
"""Started by root, or by an ordinary user without or with a range of user ids."""

# Run by root in a mount namespace of its own: makes the given paths reachable for everybody although they may lie
# below closed directories, gives the user a range of ids (`$1`) or none, and becomes that user.
_AS_USER = """
set -e
umask 022
ids=$1; shift
hold=$(mktemp -d); n=0
while [ "$1" != -- ]; do
    at=$1; closed=
    while [ "$at" != / ]; do
        at=$(dirname "$at"); case $(stat -c %a "$at") in *[1357]) ;; *) closed=$at ;; esac
    done
    if [ -n "$closed" ]; then
        n=$((n + 1)); mkdir "$hold/$n"; echo "$1" > "$hold/$n.path"; echo "$closed" >> "$hold/closed"
        mount --bind "$1" "$hold/$n"
    fi
    shift
done
shift
if [ "$n" != 0 ]; then
    sort -u "$hold/closed" | while read -r at; do mount -t tmpfs -o mode=755 none "$at"; done
fi
for i in $(seq "$n"); do
    path=$(cat "$hold/$i.path"); [ -d "$path" ] || mkdir -p "$path"
    mount --bind "$hold/$i" "$path"; umount "$hold/$i"
done
if [ -n "$ids" ]; then echo "$ids"; fi > "$hold/ids"
for file in /etc/subuid /etc/subgid; do [ ! -e "$file" ] || mount --bind "$hold/ids" "$file"; done
rm -r "$hold"
exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all -- "$@"
"""


def unable(mode: str) -> str:
    """Why this machine or user cannot have a mode; empty when it can."""
    root = os.geteuid() == 0
    if mode == "rootful":
        return "" if root else "only root can start a rootful cluster"
    if root and shutil.which("setpriv") is None:
        return "needs setpriv (package util-linux) to become an ordinary user"
    if mode == "rootless-ids" and not (root and shutil.which("newuidmap") and Path("/etc/subuid").exists()):
        return "needs root, to prepare /etc/subuid, and the package uidmap"
    probe = ["setpriv", "--reuid", str(NOBODY), "--clear-groups"] if root else []
    tried = subprocess.run([*probe, "unshare", "-Ur", "true"], capture_output=True, text=True, check=False)
    return f"the kernel does not let ordinary users make user namespaces: {tried.stderr}" if tried.returncode else ""


def prefix(mode: str, *paths: Path) -> list[str]:
    """What makes a command run as the user of a mode: Python, this checkout and `paths` are there for it."""
    if mode == "rootful" or os.geteuid() != 0:
        return []
    interpreter = Path(sys.executable).resolve().parent.parent
    needed = {Path(sys.prefix), Path(sys.base_prefix), interpreter, ROOT, *paths} - {Path("/usr")}
    ids = f"{NOBODY}:200000:65536" if mode == "rootless-ids" else ""
    return ["unshare", "-m", "sh", "-c", _AS_USER, "sh", ids, *sorted(map(str, needed)), "--"]
