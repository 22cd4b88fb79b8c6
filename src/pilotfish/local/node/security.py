"""The security context of a container: from the pod, the container and the image to ids and capabilities.

What cannot be had on this machine is told in `Security.warnings`, one sentence each, for an event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_CAPABILITIES = (
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
)
"""What a container has by default: as containerd and Docker give it, but without MKNOD. They give that one because
a device control group takes it back; there is none here, and a block device node would open the machine's disks."""
ALL_CAPABILITIES = (
    *DEFAULT_CAPABILITIES,
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "DAC_READ_SEARCH",
    "IPC_LOCK",
    "IPC_OWNER",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BROADCAST",
    "PERFMON",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
)
_BITS = {
    name: bit
    for bit, name in enumerate(
        (
            *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
            *("LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER"),
            *("SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
            *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL"),
            *("SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ"),
            *("PERFMON", "BPF", "CHECKPOINT_RESTORE"),
        )
    )
}
_MAX_MAPPED_ID = 65535


class SecurityError(ValueError):
    """The container must not run as asked (runAsNonRoot with user 0)."""


@dataclass(frozen=True)
class Limits:
    """What this node can give."""

    rootless: bool
    full_map: bool
    capabilities: frozenset[str]
    """The capabilities the node itself has and can hand on."""


MESH_PROXY = 1337
"""The user of a service mesh's proxy, by which capture rules know its traffic."""


@dataclass(frozen=True)
class Security:
    """Ids, groups and capabilities of a container's first process."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: tuple[str, ...]
    """Names with the prefix `CAP_`: the bounding set."""
    effective: bool
    """Whether the process starts with the capabilities in force (user 0) or could only get them by exec."""
    no_new_privileges: bool
    readonly_root: bool
    privileged: bool
    warnings: tuple[str, ...] = ()


def parse_capability_mask(mask: int) -> frozenset[str]:
    """The names in a capability bit mask as /proc/PID/status shows it."""
    return frozenset(name for name, bit in _BITS.items() if mask >> bit & 1)


def wanted_capabilities(context: Mapping[str, Any]) -> set[str]:
    """Defaults, with `capabilities.add` and `.drop` applied; all of them when privileged."""
    if context.get("privileged"):
        return set(ALL_CAPABILITIES)
    capabilities = context.get("capabilities") or {}
    add = {name.upper().removeprefix("CAP_") for name in capabilities.get("add") or ()}
    drop = {name.upper().removeprefix("CAP_") for name in capabilities.get("drop") or ()}
    # As containerd does: ALL in either list acts on the whole set first, then the single names.
    result = set(ALL_CAPABILITIES) if "ALL" in add else set(DEFAULT_CAPABILITIES)
    if "ALL" in drop:
        result = set() if "ALL" not in add else result
        return (result | add) - {"ALL"}
    return ((result | add) - drop) - {"ALL"}


def resolve(
    pod_context: Mapping[str, Any],
    container_context: Mapping[str, Any],
    image_user: int | None,
    limits: Limits,
) -> Security:
    """Container settings win over the pod's, those over the image's. Raises `SecurityError`."""
    merged = {**pod_context, **container_context}
    asked = merged.get("runAsUser")
    uid = int(asked) if asked is not None else (image_user or 0)
    gid = int(merged.get("runAsGroup") or 0)
    if merged.get("runAsGroup") is None and asked is None and image_user:
        gid = image_user
    if merged.get("runAsNonRoot") and uid == 0:
        where = (
            "container's runAsUser breaks non-root policy"
            if asked is not None
            else ("container has runAsNonRoot and image will run as root")
        )
        raise SecurityError(where)
    groups = {int(group) for group in pod_context.get("supplementalGroups") or ()}
    if pod_context.get("fsGroup") is not None:
        groups.add(int(pod_context["fsGroup"]))
    warnings: list[str] = []
    effective = uid == 0
    uid, gid, groups = _map_ids(uid, gid, groups, limits, warnings)
    wanted = wanted_capabilities(container_context)
    asked_names = {
        n.upper().removeprefix("CAP_") for n in (container_context.get("capabilities") or {}).get("add") or ()
    }
    missing = sorted((asked_names - {"ALL"}) - limits.capabilities)
    if missing:
        warnings.append(f"capabilities not available on this node: {', '.join(missing)}")
    privileged = bool(container_context.get("privileged"))
    given = wanted & limits.capabilities
    if uid != asked and asked == MESH_PROXY and not limits.full_map:
        # It shares its user with the application, so that only a socket mark tells their traffic apart.
        given, effective = given | {"NET_ADMIN"} & limits.capabilities, True
    return Security(
        uid=uid,
        gid=gid,
        groups=tuple(sorted(groups)),
        capabilities=tuple(f"CAP_{name}" for name in sorted(given)),
        effective=effective,
        no_new_privileges=container_context.get("allowPrivilegeEscalation") is False and not privileged,
        readonly_root=bool(container_context.get("readOnlyRootFilesystem")),
        privileged=privileged,
        warnings=tuple(warnings),
    )


def _map_ids(uid: int, gid: int, groups: set[int], limits: Limits, warnings: list[str]) -> tuple[int, int, set[int]]:
    if not limits.rootless:
        return uid, gid, groups
    if not limits.full_map:
        if uid or gid or groups:
            warnings.append(
                f"runs as user 0 without capabilities instead of user {uid}: only one user id exists in this node. "
                "Install the package uidmap and give your user a range in /etc/subuid and /etc/subgid, or run as root"
                if uid
                else "group ids other than 0 do not exist in this node and are ignored"
            )
        return 0, 0, set()
    beyond = [i for i in (uid, gid, *groups) if i > _MAX_MAPPED_ID]
    if beyond:
        warnings.append(f"ids above {_MAX_MAPPED_ID} do not exist in this node and become 65534: {beyond}")
    return min(uid, 65534), min(gid, 65534), {g for g in groups if g <= _MAX_MAPPED_ID}
