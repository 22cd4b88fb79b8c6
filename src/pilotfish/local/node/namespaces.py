"""The node's own namespaces: user (when not root), net, mount, pid, ipc, uts and cgroup.

`enter` splits the program in two. The outer process stays behind as an ordinary process of the machine: it waits,
hands signals on and ends with the inner one. The inner process returns from `enter` as process 1 of the node.
If either is killed the kernel kills every process of the node, and with them go all interfaces, rules and mounts.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pwd
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pilotfish.local.node import tools

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class NamespaceError(RuntimeError):
    """The kernel, or its settings, do not allow what the node needs."""


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """unshare(2) for the calling thread."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, kind: int) -> None:
    """setns(2) for the calling thread."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def sethostname(name: str) -> None:
    """sethostname(2) in the calling thread's UTS namespace."""
    raw = name.encode()
    _check(_libc.sethostname(raw, ctypes.c_size_t(len(raw))), "sethostname")


def mount(source: str, target: str | Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(
        source.encode(), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None
    )
    _check(result, f"mount {kind or source} on {target}")


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


@dataclass(frozen=True)
class Identity:
    """Which user ids exist inside the node."""

    rootless: bool
    full_map: bool
    """Whether user ids other than 0 exist. Without it every container process runs as user 0 of the node."""


@dataclass(frozen=True)
class IdRange:
    """A line of /etc/subuid or /etc/subgid."""

    start: int
    count: int


def subordinate_ids(text: str, user: str, uid: int) -> IdRange | None:
    """The first range in the text of /etc/subuid (or subgid) that belongs to the user, by name or number."""
    for line in text.splitlines():
        parts = line.strip().split(":")
        if len(parts) == 3 and parts[0] in {user, str(uid)} and parts[1].isdigit() and parts[2].isdigit():
            return IdRange(int(parts[1]), int(parts[2]))
    return None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _map_commands(pid: int, uid: int, gid: int) -> list[list[str]] | None:
    """Commands that map a full range of ids into the user namespace of `pid`; None when this user has no range."""
    user = _user_name(uid)
    uids = subordinate_ids(_read("/etc/subuid"), user, uid)
    gids = subordinate_ids(_read("/etc/subgid"), user, uid)
    if uids is None or gids is None or min(uids.count, gids.count) < 65535:
        return None
    try:
        newuidmap, newgidmap = tools.find("newuidmap").path, tools.find("newgidmap").path
    except tools.ToolMissingError:
        return None
    return [
        [newuidmap, str(pid), "0", str(uid), "1", "1", str(uids.start), "65535"],
        [newgidmap, str(pid), "0", str(gid), "1", "1", str(gids.start), "65535"],
    ]


def enter_user_namespace() -> bool:
    """Enter a user namespace as its root; returns whether a full range of ids is mapped.

    newuidmap must be run by a process outside, so a helper is forked first and waits for a word.
    """
    uid, gid, pid = os.getuid(), os.getgid(), os.getpid()
    ready_read, ready_write = os.pipe()
    done_read, done_write = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(ready_write)
        ok = False
        with contextlib.suppress(Exception):
            import subprocess  # noqa: PLC0415 - the process that stays outside does without

            if os.read(ready_read, 1):
                commands = _map_commands(pid, uid, gid)
                ok = commands is not None and all(
                    subprocess.run(c, capture_output=True, check=False).returncode == 0 for c in commands
                )
        os.write(done_write, b"1" if ok else b"0")
        os._exit(0)
    os.close(ready_read)
    os.close(done_write)
    try:
        unshare(CLONE_NEWUSER)
    except OSError as error:
        raise NamespaceError(
            f"this kernel does not let user {_user_name(uid)} create a user namespace "
            f"({os.strerror(error.errno or 0)}). "
            "Allow it (sysctl kernel.unprivileged_userns_clone=1; user.max_user_namespaces > 0), or run as root"
        ) from error
    os.write(ready_write, b"x")
    full = os.read(done_read, 1) == b"1"
    os.close(ready_write)
    os.close(done_read)
    os.waitpid(helper, 0)
    if not full:
        _write_single_map(uid, gid)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    if full:
        os.setgroups([])
    return full


def _write_single_map(uid: int, gid: int) -> None:
    try:
        Path("/proc/self/setgroups").write_text("deny")
        if not _read("/proc/self/uid_map").strip():
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        if not _read("/proc/self/gid_map").strip():
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    except OSError as error:
        raise NamespaceError(f"cannot map user {uid} into a new user namespace: {error}") from error


def enter(at_end: Callable[[], None] = lambda: None) -> Identity:
    """Become process 1 of new namespaces. Only the inner process returns; the outer one ends when the inner does,
    after it has called `at_end`.

    Raises `NamespaceError` when the kernel forbids it, in the outer process, before anything was made.
    """
    rootless = os.geteuid() != 0
    full = True if not rootless else enter_user_namespace()
    try:
        unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | CLONE_NEWPID)
    except OSError as error:
        hint = (
            "On Ubuntu 23.10 and later AppArmor forbids it to ordinary users: "
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run as root"
            if rootless
            else "CAP_SYS_ADMIN is needed"
        )
        raise NamespaceError(
            f"cannot create the node's namespaces ({os.strerror(error.errno or 0)}). {hint}"
        ) from error
    outer = os.getpid()
    child = os.fork()
    if child == 0:
        die_with_parent()
        # A parent that died before the line above leaves this process with another parent: 0 is "outside".
        if os.getppid() not in {0, outer}:
            os._exit(1)
        return Identity(rootless, full)
    _wait_for(child, at_end)
    raise AssertionError("unreachable")


def _wait_for(child: int, at_end: Callable[[], None]) -> None:
    """Hand signals on to the inner process and end as it does. Never returns."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda n, _: os.kill(child, n))
    while True:
        try:
            _, status = os.waitpid(child, 0)
        except InterruptedError:
            continue
        code = os.waitstatus_to_exitcode(status)
        at_end()
        os._exit(code if code >= 0 else 128 - code)


def prepare_mounts(directory: Path) -> None:
    """Make this mount namespace the node's: its own /proc, a tmpfs on `directory`, cgroup2 where crun looks."""
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    try:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError as error:
        raise NamespaceError(
            f"cannot mount /proc inside the node ({os.strerror(error.errno or 0)}): this environment masks parts of "
            "/proc, as unprivileged containers do. Run the container privileged, or use the machine itself"
        ) from error
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    _prepare_cgroup2()


def _filesystem_type(path: str) -> str:
    """The type of the file system mounted last on `path`, empty if it is no mount point."""
    found = ""
    for line in _read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[4] == path:
            found = right.split()[0]
    return found


def _prepare_cgroup2() -> None:
    root = "/sys/fs/cgroup"
    if _filesystem_type(root) == "cgroup2":
        return
    with contextlib.suppress(OSError):
        if _filesystem_type(f"{root}/unified") == "cgroup2":
            mount(f"{root}/unified", root, "", MS_BIND)
            return
    try:
        mount("cgroup2", root, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise NamespaceError(f"{root} does not exist: the kernel has no control groups, crun needs them") from error
        raise NamespaceError(
            f"cannot mount cgroup2 on {root} inside the node ({os.strerror(error.errno or 0)}); crun needs it"
        ) from error
