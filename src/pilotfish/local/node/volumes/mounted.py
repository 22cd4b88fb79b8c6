"""The volumes of one pod: made before its containers start, kept up to date while they run, removed with it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilotfish.local.node import env
from pilotfish.local.node.rootfs import Mount
from pilotfish.local.node.volumes import atomic, hostpath, payload
from pilotfish.local.node.volumes.payload import SourceError

Object = Mapping[str, Any]


class VolumeError(RuntimeError):
    """A volume cannot be made at present; the text is fit for a FailedMount event."""


@dataclass
class PodVolumes:
    """`directory` is the pod's own on the node's tmpfs, `data` the cluster's data directory."""

    directory: Path
    data: Path
    full_map: bool
    claim: Callable[[str], str | None]
    """The uid of a PersistentVolumeClaim of the pod's namespace, None if there is none."""
    _paths: dict[str, Path] = field(default_factory=dict)
    _written: set[str] = field(default_factory=set)
    """Volumes whose content the node writes: read-only in containers, as kubelet mounts them."""

    def set_up(self, sources: payload.Sources) -> None:
        """Make every volume that is not there yet. Raises `VolumeError` for the first that cannot be made."""
        spec = sources.pod["spec"]
        group = self._group(spec)
        for volume in spec.get("volumes") or ():
            name = volume["name"]
            if name in self._paths:
                continue
            try:
                self._paths[name] = self._make(volume, sources, group)
            except (SourceError, hostpath.HostPathError, OSError) as error:
                raise VolumeError(f'MountVolume.SetUp failed for volume "{name}" : {error}') from error

    def _group(self, spec: Object) -> int | None:
        group = (spec.get("securityContext") or {}).get("fsGroup")
        return int(group) if group is not None and self.full_map else None

    def _make(self, volume: Object, sources: payload.Sources, group: int | None) -> Path:
        path: Path = self.directory / "volumes" / volume["name"]
        if any(kind in volume for kind in payload.FILE_KINDS):
            files = payload.files(volume, sources)
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
            atomic.write(path, files, group)
            self._written.add(volume["name"])
            return path
        if "emptyDir" in volume:
            path.mkdir(parents=True, exist_ok=True)
            _own(path, group, 0o777)
            return path
        if "hostPath" in volume:
            source = volume["hostPath"]
            return hostpath.locate(source["path"], source.get("type") or "", self.data)
        if "persistentVolumeClaim" in volume:
            name = volume["persistentVolumeClaim"]["claimName"]
            uid = self.claim(name)
            if uid is None:
                raise SourceError(f'persistentvolumeclaim "{name}" not found')
            path = self.data / "volumes" / uid
            path.mkdir(parents=True, exist_ok=True)
            _own(path, group, 0o777)
            return path
        kinds = ", ".join(key for key in volume if key != "name")
        raise SourceError(f"volumes of type {kinds} are not supported on this node")

    def refresh(self, sources: payload.Sources) -> list[str]:
        """Bring the files up to date; returns what could not be, as messages. Old content stays in that case."""
        problems = []
        spec = sources.pod["spec"]
        for volume in spec.get("volumes") or ():
            path = self._paths.get(volume["name"])
            if path is None or not any(kind in volume for kind in payload.FILE_KINDS):
                continue
            try:
                atomic.write(path, payload.files(volume, sources), self._group(spec))
            except (SourceError, OSError) as error:
                problems.append(f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error}')
        return problems

    def mounts(self, container: Object, variables: Mapping[str, str]) -> list[Mount]:
        """The binds of a container. Raises `VolumeError` for a bad sub-path."""
        result = []
        for mount in container.get("volumeMounts") or ():
            source = self._paths.get(mount["name"])
            if source is None:
                raise VolumeError(f'volume "{mount["name"]}" of a volumeMount does not exist')
            sub = mount.get("subPath") or ""
            if mount.get("subPathExpr"):
                sub = env.expand(mount["subPathExpr"], variables)
            if sub:
                source = self._sub_path(source, sub)
            readonly = bool(mount.get("readOnly")) or mount["name"] in self._written
            result.append(Mount(str(source), os.path.normpath(mount["mountPath"]), readonly))
        return result

    def _sub_path(self, source: Path, sub: str) -> Path:
        """A path below a volume, never outside of it. What does not exist is made as a directory."""
        relative = os.path.normpath(sub)
        if relative.startswith(("/", "..")):
            raise VolumeError(f"subPath {sub!r} must stay inside the volume")
        target = source / relative
        real = Path(os.path.realpath(target))
        if not real.is_relative_to(os.path.realpath(source)):
            raise VolumeError(f"subPath {sub!r} leads outside of the volume")
        if not real.exists():
            real.mkdir(parents=True)
        return real

    def remove(self) -> None:
        """Delete what belongs to the pod alone."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self._paths.clear()


def _own(path: Path, group: int | None, mode: int) -> None:
    if group is not None:
        os.chown(path, -1, group)
        mode |= 0o2000
    path.chmod(mode)
