"""The file system a container sees: the machine's programs read-only, everything else its own.

A container's root is a directory on the node's tmpfs. `/usr` and its friends are the machine's, bound read-only; `/etc`
holds only what programs need; `/tmp`, `/var`, `/run`, `/home` and `/root` are empty and writable. Home directories of
the machine and the cluster's data directory are not in it. What an image asks for is bound at its own path, so that it
is reachable whatever the modes of the directories above it on the machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

SYSTEM_DIRECTORIES = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt")
_ETC_BINDS = (
    "ssl/certs",
    "ssl/openssl.cnf",
    "pki/tls/certs",
    "pki/ca-trust/extracted",
    "ca-certificates.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "localtime",
    "protocols",
    "services",
    "ethertypes",
    "rpc",
    "mime.types",
    "xtables.conf",
)
_OWN = {
    "tmp": 0o1777,
    "var": 0o755,
    "var/tmp": 0o1777,
    "var/lib": 0o755,
    "var/log": 0o755,
    "var/cache": 0o755,
    "run": 0o755,
    "home": 0o755,
    "root": 0o755,
    "srv": 0o755,
    "mnt": 0o755,
    "etc": 0o755,
    "proc": 0o755,
    "sys": 0o755,
    "dev": 0o755,
}
_NSSWITCH = (
    "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n"
)
_USERS = (
    "root:x:0:0:root:/root:/bin/sh\n"
    "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
    "istio-proxy:x:1337:1337::/home/istio-proxy:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
)
_GROUP = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nistio-proxy:x:1337:\nnogroup:x:65534:\n"


@dataclass(frozen=True)
class Mount:
    """A bind mount: `source` outside, `target` in the container."""

    source: str
    target: str
    readonly: bool = True


@dataclass(frozen=True)
class Overlay:
    """A read-only join of directories, the first on top: mount points that `lower` lacks come from `skeleton`."""

    target: str
    skeleton: str
    lower: str


@dataclass(frozen=True)
class System:
    """What of the machine every container gets; the same for all, looked up once."""

    links: dict[str, str]
    """Root entries that are symbolic links on the machine (`bin` → `usr/bin`)."""
    mounts: tuple[Mount, ...]


def inspect(root: Path = Path("/")) -> System:
    """Look at the machine: which system directories are links and which are to be bound."""
    links: dict[str, str] = {}
    mounts: list[Mount] = []
    for name in SYSTEM_DIRECTORIES:
        path = root / name
        if path.is_symlink():
            links[name] = str(path.readlink()).lstrip("/")
        elif path.is_dir():
            mounts.append(Mount(str(path), f"/{name}"))
    for name in _ETC_BINDS:
        path = root / "etc" / name
        if path.exists():
            mounts.append(Mount(str(path.resolve()), f"/etc/{name}"))
    return System(links, tuple(mounts))


def hidden(mounts: Iterable[Mount], secret: Path) -> list[str]:
    """Paths in the container at which `secret` (the data directory) would appear and has to be covered."""
    found = []
    for mount in mounts:
        source = Path(mount.source)
        if secret == source or secret.is_relative_to(source):
            found.append(str(Path(mount.target) / secret.relative_to(source)))
    return sorted(set(found))


def passwd(uid: int, gid: int) -> str:
    """The text of /etc/passwd: the usual few, and the user of the container."""
    if any(line.split(":")[2] == str(uid) for line in _USERS.splitlines()):
        return _USERS
    return f"{_USERS}user{uid}:x:{uid}:{gid}::/home:/bin/sh\n"


def build(root: Path, system: System, mounts: Sequence[Mount], uid: int, gid: int, hostname: str) -> list[Overlay]:
    """Make the directory that becomes a container's root, with a mount point for every mount.

    A mount below a read-only directory of the machine that has no such entry needs a mount point there. Nothing may
    be made on the machine, so the directory is to be mounted as one of the returned overlays instead of bound.
    """
    root.mkdir(mode=0o755, parents=True)
    for name, mode in _OWN.items():
        path = root / name
        path.mkdir()
        path.chmod(mode)
    (root / "var/run").symlink_to("../run")  # relative, so that mount points made below stay inside
    for name, target in system.links.items():
        (root / name).symlink_to(target)
    etc = root / "etc"
    (etc / "passwd").write_text(passwd(uid, gid))
    (etc / "group").write_text(_GROUP)
    (etc / "nsswitch.conf").write_text(_NSSWITCH)
    (etc / "hostname").write_text(hostname + "\n")
    (etc / "mtab").symlink_to("/proc/self/mounts")
    overlays: dict[str, Overlay] = {}
    skeletons = root.with_name(root.name + "-mountpoints")
    for mount in mounts:
        target = "/" + str((root / mount.target.lstrip("/")).resolve().relative_to(root.resolve()))
        parent = _parent(target, mount, mounts)
        if parent is None:
            _mount_point(root / target.lstrip("/"), mount.source)
            continue
        inner = target[len(parent.target) :].lstrip("/")
        if (Path(parent.source) / inner).exists() or not parent.readonly:
            # A writable parent is a volume: the runtime makes the mount point in it, as on any node.
            continue
        skeleton = skeletons / parent.target.strip("/").replace("/", "-")
        overlays[parent.target] = Overlay(parent.target, str(skeleton), parent.source)
        _mount_point(skeleton / inner, mount.source)
    return list(overlays.values())


def _parent(target: str, mount: Mount, mounts: Sequence[Mount]) -> Mount | None:
    """The mount that `target` lies in, the deepest one."""
    above = [m for m in mounts if m is not mount and target.startswith(m.target.rstrip("/") + "/")]
    return max(above, key=lambda m: len(m.target), default=None)


def _mount_point(target: Path, source: str) -> None:
    if target.exists():
        return
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if Path(source).is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
