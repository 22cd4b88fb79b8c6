"""The configuration of a container for an OCI runtime (runtime-spec 1.0), from plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pilotfish.local.node.rootfs import Mount, Overlay
from pilotfish.local.node.security import Security

_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
)
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True)
class Namespaces:
    """Paths of the namespaces a container joins; an empty one is made new for it."""

    net: str
    ipc: str = ""
    uts: str = ""
    pid: str = ""
    host_pid: bool = False


@dataclass(frozen=True)
class Process:
    """A program in a container: its first one, or one started by exec."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    security: Security
    terminal: bool = False
    size: tuple[int, int] = (80, 24)
    """Columns and rows of the terminal."""


@dataclass(frozen=True)
class Container:
    """Everything a container's configuration is made from."""

    root: str
    process: Process
    namespaces: Namespaces
    mounts: tuple[Mount, ...] = ()
    overlays: tuple[Overlay, ...] = ()
    """Mounted in place of the binds of the same targets."""
    hidden: tuple[str, ...] = ()
    """Directories in the container to be covered by an empty one."""
    shm: str = ""
    """Directory of the pod that becomes /dev/shm."""
    full_map: bool = True


def process(one: Process) -> dict[str, Any]:
    """The `process` object, also the file for `exec --process`."""
    security = one.security
    capabilities = list(security.capabilities)
    in_force = capabilities if security.effective else []
    result: dict[str, Any] = {
        "terminal": one.terminal,
        "user": {"uid": security.uid, "gid": security.gid, "umask": 0o022},
        "args": list(one.args),
        "env": list(one.env),
        "cwd": one.cwd or "/",
        "capabilities": {
            "bounding": capabilities,
            "effective": in_force,
            "permitted": in_force,
            "inheritable": [],
            "ambient": [],
        },
        "noNewPrivileges": security.no_new_privileges,
    }
    if security.groups:
        result["user"]["additionalGids"] = list(security.groups)
    if one.terminal:
        result["consoleSize"] = {"width": one.size[0], "height": one.size[1]}
    return result


def config(one: Container) -> dict[str, Any]:
    """The whole `config.json`."""
    security = one.process.security
    linux: dict[str, Any] = {"namespaces": _namespaces(one.namespaces)}
    if not security.privileged:
        linux["maskedPaths"] = list(_MASKED)
        linux["readonlyPaths"] = list(_READONLY)
    return {
        "ociVersion": "1.0.2",
        "process": process(one.process),
        "root": {"path": one.root, "readonly": security.readonly_root},
        "mounts": [*_basic_mounts(one), *_mounts(one), *map(_cover, one.hidden)],
        "linux": linux,
        # Without a full id map the kernel denies setgroups(2), which crun would call.
        "annotations": {} if one.full_map else {"run.oci.keep_original_groups": "1"},
    }


def _namespaces(one: Namespaces) -> list[dict[str, str]]:
    result = [{"type": "mount"}]
    for kind, path in (("network", one.net), ("ipc", one.ipc), ("uts", one.uts), ("pid", one.pid)):
        if kind == "pid" and one.host_pid:
            continue
        result.append({"type": kind, "path": path} if path else {"type": kind})
    return result


def _basic_mounts(one: Container) -> list[dict[str, Any]]:
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    if one.full_map:
        pts.append("gid=5")
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "noexec", "strictatime", "mode=755", "size=64k"],
        },
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": pts},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {
            "destination": "/sys",
            "type": "sysfs",
            "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "rw" if one.process.security.privileged else "ro"],
        },
    ]
    if one.shm:
        mounts.append(_bind(Mount(one.shm, "/dev/shm", readonly=False)))  # noqa: S108 - the container's own
    return mounts


def _mounts(one: Container) -> list[dict[str, Any]]:
    """The binds and overlays, outer ones first."""
    overlays = {o.target: o for o in one.overlays}
    ordered = sorted(one.mounts, key=lambda m: m.target.count("/"))
    return [_overlay(overlays[m.target]) if m.target in overlays else _bind(m) for m in ordered]


def _overlay(one: Overlay) -> dict[str, Any]:
    return {
        "destination": one.target,
        "type": "overlay",
        "source": "overlay",
        "options": [f"lowerdir={one.skeleton}:{one.lower}", "ro"],
    }


def _bind(mount: Mount) -> dict[str, Any]:
    return {
        "destination": mount.target,
        "type": "bind",
        "source": mount.source,
        "options": ["rbind", "rprivate", "nosuid" if mount.readonly else "suid", "ro" if mount.readonly else "rw"],
    }


def _cover(target: str) -> dict[str, Any]:
    options: Sequence[str] = ("nosuid", "nodev", "noexec", "ro", "size=4k", "mode=0755")
    return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": list(options)}
