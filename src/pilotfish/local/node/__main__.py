"""The node's program: `python -m pilotfish.local.node --data DIR`.

It is started after the API server and runs in the foreground until it gets SIGTERM or SIGINT. When it is ready it
writes `DATA/run/node.json`: `{"pid": its process 1 as the machine sees it, "started": time}`. Exit code 2: the node
cannot run here, and the message on standard error says why and what to do.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import zlib
from pathlib import Path

from pilotfish.local.node import cgroups, namespaces, tools


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pilotfish.local.node", description="The node of a local cluster.")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the cluster's data directory")
    parser.add_argument("--verbose", action="store_true", help="say more on standard error")
    return parser.parse_args()


def _lock(run: Path) -> int:
    """Hold the node's lock for the life of this process and its child."""
    fd = os.open(run / "node.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise namespaces.NamespaceError(f"another node runs on {run.parent} already") from error
    return fd


def main() -> int:
    """Enter the node's namespaces and run in them."""
    arguments = _arguments()
    data: Path = arguments.data.resolve()
    run = data / "run"
    try:
        if not (data / "pki" / "node.kubeconfig").exists():
            raise namespaces.NamespaceError(f"{data} has no API server: start that first (pilotfish up starts both)")
        run.mkdir(mode=0o700, exist_ok=True)
        _lock(run)
        for name in ("crun", "ip", "nft", "nsenter"):
            tools.find(name)
        groups = cgroups.find(f"{zlib.crc32(os.fsencode(data)):08x}", run / "node.cgroup")
        identity = namespaces.enter(at_end=groups.remove_all)
        pid = int(Path("/proc/self").readlink().name)  # still the machine's /proc
        namespaces.prepare_mounts(data / "run" / "node")
    except (namespaces.NamespaceError, tools.ToolMissingError, OSError) as error:
        print(f"the node cannot run: {error}", file=sys.stderr)
        return 2
    # Imported here: the process outside, which only waits, stays small.
    from pilotfish.local.node import node  # noqa: PLC0415

    return node.run(data, identity, groups, pid, verbose=arguments.verbose)


if __name__ == "__main__":
    sys.exit(main())
