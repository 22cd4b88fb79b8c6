"""What the local cluster needs of the machine, checked before anything is started."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from pilotfish.errors import UserError
from pilotfish.local.node import tools

_PROGRAMS = ("crun", "ip", "nft", "nsenter")
_MAX_SOCKET_PATH = 100
"""A Unix socket's path has 108 bytes; what is in DATA/run needs some."""

# Run in namespaces of its own, in which it may do what it likes.
_PROBE = """
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
ip, nft, rootless = sys.argv[1], sys.argv[2], os.geteuid() != 0
flags = 0x20000 | 0x40000000 | (0x10000000 if rootless else 0)
if libc.unshare(flags):
    print("namespaces", os.strerror(ctypes.get_errno()))
    sys.exit()
if rootless:
    open("/proc/self/setgroups", "w").write("deny")
    open("/proc/self/uid_map", "w").write(f"0 {os.environ['OUTER_UID']} 1")
for what, command in (
    ("veth", [ip, "link", "add", "probe0", "type", "veth", "peer", "name", "probe1"]),
    ("bridge", [ip, "link", "add", "probe2", "type", "bridge"]),
    ("nftables", [nft, "add table ip probe; add chain ip probe c { type nat hook prerouting priority 0; }"]),
):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(what, " ".join(done.stderr.split()))
"""

_HINTS = {
    "namespaces": "the kernel does not allow new namespaces ({error}); {who}",
    "veth": "the kernel has no veth interfaces ({error}); load the module: modprobe veth",
    "bridge": "the kernel has no bridges ({error}); load the module: modprobe bridge",
    "nftables": "the kernel has no nftables with NAT ({error}); load the modules: modprobe nf_tables nft_chain_nat",
}


def check(data: Path) -> None:
    """Raise `UserError` with everything that is missing, a line each."""
    missing = _place(data) + _programs()
    if not missing:
        missing = _kernel()
    if missing:
        raise UserError("this machine cannot run the local cluster:\n" + "\n".join(f"  - {line}" for line in missing))


def check_port(address: str, port: int) -> None:
    """Raise `UserError` when a port cannot be had."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise UserError(
                f"cannot listen on {address}:{port}: {error.strerror}; choose another port with --port N (0: any free)"
            ) from error


def _place(data: Path) -> list[str]:
    if sys.platform != "linux":
        return [f"the system is {sys.platform}; Linux is needed"]
    if len(str(data).encode()) > _MAX_SOCKET_PATH - len("/run/hostlink.sock"):
        return [f"the path {data} is too long for the sockets in it; choose a shorter one with --data"]
    return []


def _programs() -> list[str]:
    missing = []
    for name in _PROGRAMS:
        try:
            tools.find(name)
        except tools.ToolMissingError as error:
            missing.append(str(error))
    return missing


def _kernel() -> list[str]:
    ip, nft = tools.find("ip"), tools.find("nft")
    who = (
        "as an ordinary user: sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000 "
        "kernel.apparmor_restrict_unprivileged_userns=0, as far as this kernel has them, or run as root"
        if os.geteuid()
        else "CAP_SYS_ADMIN is needed: start the container privileged, or use the machine itself"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _PROBE, ip.path, nft.path],
        env={**nft.env, **ip.env, "OUTER_UID": str(os.geteuid())},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return [f"the kernel cannot be probed: {' '.join(done.stderr.split()[-20:])}"]
    lines = [line.partition(" ") for line in done.stdout.splitlines()]
    return [_HINTS[what].format(error=error, who=who) for what, _, error in lines]
