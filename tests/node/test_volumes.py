"""Volumes: atomic updates, content from objects, sub-paths, hostPath."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pilotfish.local.node.volumes import atomic, hostpath, payload
from pilotfish.local.node.volumes.atomic import File
from pilotfish.local.node.volumes.mounted import PodVolumes, VolumeError

MAPS = {"cm": {"kind": "ConfigMap", "metadata": {"namespace": "ns", "name": "cm"}, "data": {"a": "1", "b": "2"}}}
SECRETS = {"sec": {"kind": "Secret", "metadata": {"namespace": "ns", "name": "sec"}, "data": {"p": "czM="}}}


def pod(*volumes: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "x"}},
        "spec": {"containers": [], "volumes": list(volumes), **spec},
    }


def sources(one: dict[str, Any], token: bytes | None = b"tok") -> payload.Sources:
    return payload.Sources(one, MAPS.get, SECRETS.get, lambda _: token, {"cpu": "2"})


def test_an_update_replaces_all_files_at_once(tmp_path: Path) -> None:
    """Readers go through `..data`: its link changes once, old files vanish, new ones appear, the rest is kept."""
    assert atomic.write(tmp_path, {"a": File(b"1"), "sub/b": File(b"2", 0o600)})
    first = (tmp_path / "..data").readlink()
    assert (tmp_path / "a").readlink() == Path("..data/a")
    assert (tmp_path / "sub").readlink() == Path("..data/sub")
    assert (tmp_path / "sub/b").stat().st_mode & 0o777 == 0o600
    assert atomic.write(tmp_path, {"c": File(b"3")})
    assert (tmp_path / "..data").readlink() != first
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("..")) == ["c"]
    assert not (tmp_path / first).exists()


def test_equal_content_changes_nothing(tmp_path: Path) -> None:
    """Writing the same files again keeps the very same directory, so watchers of files see no change."""
    files = {"a": File(b"1")}
    atomic.write(tmp_path, files)
    link = (tmp_path / "..data").readlink()
    assert not atomic.write(tmp_path, files)
    assert (tmp_path / "..data").readlink() == link


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        ({"configMap": {"name": "cm"}}, {"a": (b"1", 0o644), "b": (b"2", 0o644)}),
        ({"configMap": {"name": "cm", "items": [{"key": "a", "path": "x/y"}]}}, {"x/y": (b"1", 0o644)}),
        ({"configMap": {"name": "none", "optional": True}}, {}),
        ({"secret": {"secretName": "sec", "defaultMode": 0o400}}, {"p": (b"s3", 0o400)}),
        (
            {"secret": {"secretName": "sec", "items": [{"key": "p", "path": "q", "mode": 0o600}]}},
            {"q": (b"s3", 0o600)},
        ),
        (
            {"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"l": (b'app="x"', 0o644)},
        ),
        (
            {
                "projected": {
                    "defaultMode": 0o440,
                    "sources": [
                        {"configMap": {"name": "cm", "items": [{"key": "a", "path": "a"}]}},
                        {"secret": {"name": "sec"}},
                        {"serviceAccountToken": {"path": "token", "audience": "x"}},
                    ],
                }
            },
            {"a": (b"1", 0o440), "p": (b"s3", 0o440), "token": (b"tok", 0o440)},
        ),
    ],
)
def test_content(volume: dict[str, Any], expected: dict[str, tuple[bytes, int]]) -> None:
    """The files of every kind of volume that is made from objects."""
    found = payload.files(volume, sources(pod()))
    assert {name: (file.data, file.mode) for name, file in found.items()} == expected


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
        ({"secret": {"secretName": "none"}}, 'secret "none" not found'),
        (
            {"configMap": {"name": "cm", "items": [{"key": "z", "path": "z"}]}},
            "references non-existent config key: z",
        ),
        ({"projected": {"sources": [{"clusterTrustBundle": {"path": "x"}}]}}, "clusterTrustBundle is not supported"),
    ],
)
def test_missing_sources(volume: dict[str, Any], message: str) -> None:
    """What is missing is named."""
    with pytest.raises(payload.SourceError, match=message):
        payload.files(volume, sources(pod()))


def test_fs_group_may_read_what_the_owner_may() -> None:
    """With fsGroup a 0600 file becomes 0640, so that the group that owns it can read it."""
    one = pod(securityContext={"fsGroup": 5})
    found = payload.files({"secret": {"secretName": "sec", "defaultMode": 0o600}}, sources(one))
    assert found["p"].mode == 0o640


def test_references_of_volumes() -> None:
    """The objects whose change matters."""
    volume = {"projected": {"sources": [{"configMap": {"name": "a"}}, {"secret": {"name": "b"}}]}}
    assert payload.references(volume) == {("ConfigMap", "a"), ("Secret", "b")}
    assert payload.references({"secret": {"secretName": "c"}}) == {("Secret", "c")}


@pytest.fixture
def volumes(tmp_path: Path) -> PodVolumes:
    return PodVolumes(tmp_path / "pod", tmp_path / "data", True, {"claim": "uid-1"}.get)


def test_mounts(volumes: PodVolumes, tmp_path: Path) -> None:
    """Volumes whose content the node writes are read-only, others as asked; sub-paths may have variables."""
    one = pod(
        {"name": "cm", "configMap": {"name": "cm"}},
        {"name": "e", "emptyDir": {}},
        {"name": "pvc", "persistentVolumeClaim": {"claimName": "claim"}},
        {"name": "h", "hostPath": {"path": "/var/x"}},
    )
    volumes.set_up(sources(one))
    container = {
        "volumeMounts": [
            {"name": "cm", "mountPath": "/cm/"},
            {"name": "cm", "mountPath": "/a", "subPath": "a"},
            {"name": "e", "mountPath": "/e", "subPathExpr": "$(X)/y"},
            {"name": "e", "mountPath": "/r", "readOnly": True},
            {"name": "pvc", "mountPath": "/p"},
            {"name": "h", "mountPath": "/h"},
        ]
    }
    found = [(m.target, m.readonly, m.source) for m in volumes.mounts(container, {"X": "v"})]
    root = tmp_path / "pod/volumes"
    assert found == [
        ("/cm", True, str(root / "cm")),
        ("/a", True, str((root / "cm/a").resolve())),
        ("/e", False, str(root / "e/v/y")),
        ("/r", True, str(root / "e")),
        ("/p", False, str(tmp_path / "data/volumes/uid-1")),
        ("/h", False, str(tmp_path / "data/hostpath/var/x")),
    ]
    assert (root / "e/v/y").is_dir()
    assert (root / "e").stat().st_mode & 0o777 == 0o777
    volumes.remove()
    assert not (tmp_path / "pod").exists()
    assert (tmp_path / "data/volumes/uid-1").is_dir()


@pytest.mark.parametrize("sub", ["../x", "/etc", "link/x"])
def test_a_sub_path_stays_inside(volumes: PodVolumes, sub: str, tmp_path: Path) -> None:
    """Neither dots, nor absolute paths, nor links made by a container lead out of a volume."""
    volumes.set_up(sources(pod({"name": "e", "emptyDir": {}})))
    (tmp_path / "pod/volumes/e/link").symlink_to("/usr")
    with pytest.raises(VolumeError, match="subPath"):
        volumes.mounts({"volumeMounts": [{"name": "e", "mountPath": "/e", "subPath": sub}]}, {})


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"persistentVolumeClaim": {"claimName": "none"}}, 'persistentvolumeclaim "none" not found'),
        ({"nfs": {"server": "s", "path": "/"}}, "volumes of type nfs are not supported"),
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
    ],
)
def test_volumes_that_cannot_be_made(volumes: PodVolumes, volume: dict[str, Any], message: str) -> None:
    """The message is kubelet's, with the name of the volume."""
    with pytest.raises(VolumeError, match=f'MountVolume.SetUp failed for volume "v" : {message}'):
        volumes.set_up(sources(pod({"name": "v", **volume})))


def test_refresh(volumes: PodVolumes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A changed ConfigMap appears; one that is gone leaves the old files and is told."""
    one = pod({"name": "cm", "configMap": {"name": "cm"}})
    volumes.set_up(sources(one))
    monkeypatch.setitem(MAPS, "cm", {**MAPS["cm"], "data": {"a": "new"}})
    assert volumes.refresh(sources(one)) == []
    assert (tmp_path / "pod/volumes/cm/a").read_text() == "new"
    monkeypatch.delitem(MAPS, "cm")
    assert "not found" in volumes.refresh(sources(one))[0]
    assert (tmp_path / "pod/volumes/cm/a").read_text() == "new"


def test_host_paths_live_in_the_data_directory(tmp_path: Path) -> None:
    """Without a type, and with the types that create, nothing of the machine is touched."""
    assert hostpath.locate("/etc/../var/x", "", tmp_path) == tmp_path / "hostpath/var/x"
    assert hostpath.locate("/../../x", "DirectoryOrCreate", tmp_path) == tmp_path / "hostpath/x"
    assert hostpath.locate("/x/f", "FileOrCreate", tmp_path).is_file()


def test_existing_host_paths(tmp_path: Path) -> None:
    """A path that the pod says exists is the machine's, if it is of that kind."""
    data, other = tmp_path / "data", tmp_path / "other"
    data.mkdir()
    other.mkdir()
    assert hostpath.locate(str(other), "Directory", data) == other
    with pytest.raises(hostpath.HostPathError, match="is not a file"):
        hostpath.locate(str(other), "File", data)
    with pytest.raises(hostpath.HostPathError, match="is not a directory"):
        hostpath.locate(str(tmp_path / "none"), "Directory", data)


@pytest.mark.parametrize("path", ["/", "/home", "{data}", "{data}/pki", "{parent}", "{link}"])
def test_refused_host_paths(path: str, tmp_path: Path) -> None:
    """Never the data directory with its keys, what contains it, a link to it, or everybody's homes."""
    data = tmp_path / "data"
    (data / "pki").mkdir(parents=True)
    link = tmp_path.parent / f"link-{os.getpid()}-{tmp_path.name}"
    link.symlink_to(data)
    try:
        with pytest.raises(hostpath.HostPathError, match="never given to pods"):
            hostpath.locate(path.format(data=data, parent=tmp_path, link=link), "Directory", data)
    finally:
        link.unlink()
