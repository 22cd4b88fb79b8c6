"""Image names, the built-in table and the user's file."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pilotfish.cli import image as command
from pilotfish.local.images import builtin, resolve, userfile
from pilotfish.local.images.image import Image, ImageError, canonical, matches, split


@pytest.mark.parametrize(
    ("reference", "name", "version"),
    [
        ("nginx", "nginx", ""),
        ("nginx:1.25", "nginx", ":1.25"),
        ("localhost:5000/a/b", "localhost:5000/a/b", ""),
        ("localhost:5000/a/b:v1", "localhost:5000/a/b", ":v1"),
        ("a/b@sha256:0123", "a/b", "@sha256:0123"),
        ("a/b:v1@sha256:0123", "a/b", "@sha256:0123"),
    ],
)
def test_split(reference: str, name: str, version: str) -> None:
    """A port of a registry is no tag; a digest wins over a tag."""
    assert split(reference) == (name, version)


def test_canonical() -> None:
    """Short names are Docker Hub's."""
    assert canonical("nginx") == "docker.io/library/nginx"
    assert canonical("me/app") == "docker.io/me/app"
    assert canonical("quay.io/me/app") == "quay.io/me/app"
    assert canonical("localhost/app") == "localhost/app"


@pytest.mark.parametrize(
    ("pattern", "reference", "fits"),
    [
        ("docker.io/me/app", "me/app:v1", True),
        ("me/app", "docker.io/me/app@sha256:00", True),
        ("me/app", "quay.io/me/app", False),
        ("*/me/app", "quay.io/me/app:1", True),
        ("*/app", "localhost:5000/x/y/app", True),
        ("me/app:v1", "me/app:v1", True),
        ("me/app:v1", "me/app:v2", False),
        ("me/app:v1", "me/app", False),
        ("me/*", "me/other", True),
        ("*/nginx", "nginx", True),
        ("*/nginx", "my-nginx", False),
    ],
)
def test_matches(pattern: str, reference: str, fits: bool) -> None:
    """A pattern means any tag unless it has one; `*` stands for any registry or path."""
    assert matches(pattern, reference) is fits


@pytest.mark.parametrize(
    "reference",
    [
        *(
            f"docker.io/istio/examples-bookinfo-{name}:1.20.2"
            for name in ("productpage-v1", "details-v1", "ratings-v1")
        ),
        *(f"registry.example.com/x/examples-bookinfo-reviews-v{n}@sha256:00" for n in (1, 2, 3)),
        "calculating",
        "me/greeting:latest",
        "curlimages/curl:8.5.0",
        "governmentpaas/curl-ssl",
        "busybox",
        "registry.k8s.io/pause:3.9",
        "docker.io/kong/httpbin",
        "mccutchen/go-httpbin:v2.15.0",
        "istio/examples-helloworld-v1",
        "nicholasjackson/fake-service:v0.26.0",
        "nginx:1.14.2",
    ],
)
def test_built_in(reference: str, tmp_path: Path) -> None:
    """The images of well-known manifests are there under any registry and tag, and name files that exist."""
    image = resolve(reference, tmp_path)
    assert image is not None
    words = [*image.command, *image.args]
    assert words
    assert all(Path(word).exists() for word in words if word.startswith("/"))
    assert all(Path(path).is_absolute() and Path(path).exists() for path in image.mounts)


def test_programs_are_visible() -> None:
    """What a built-in program needs is within its mounts or the system's directories."""
    image = resolve("examples-bookinfo-ratings-v1", Path("/nonexistent"))
    assert image is not None
    for needed in (image.command[0], os.path.realpath(image.command[0]), sys.prefix, userfile.__file__):
        assert builtin.outside_system([*image.mounts, needed]) == image.mounts


def test_unknown(tmp_path: Path) -> None:
    """An image nobody mapped is None; Bookinfo's databases are refused with the way out."""
    assert resolve("docker.io/me/app", tmp_path) is None
    with pytest.raises(ImageError, match="examples-bookinfo-ratings-v1"):
        resolve("istio/examples-bookinfo-mysqldb:1.20.2", tmp_path)


def test_user_entries_win_and_are_read_again(tmp_path: Path) -> None:
    """The user's file comes before what is built in; a change of it is seen at the next call."""
    file = tmp_path / userfile.FILE
    file.write_text("images:\n  '*/nginx': {command: [/bin/true]}\n")
    found = resolve("nginx:1", tmp_path)
    assert found == Image(["/bin/true"])
    file.write_text("images:\n  '*/nginx': {command: [/bin/false, a], env: {N: 1}, user: 5, workdir: /srv}\n")
    assert resolve("nginx:1", tmp_path) == Image(["/bin/false", "a"], env={"N": "1"}, user=5, workdir="/srv")
    file.unlink()
    again = resolve("nginx:1", tmp_path)
    assert again is not None
    assert again.args == ["80"]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("images: [", 1, "not YAML"),
        ("image:\n  a: {command: [x]}\n", 1, "no field 'image'"),
        ("images:\n  a:\n    command: x\n", 3, "must be a list"),
        ("images:\n  a:\n    cmd: [x]\n", 3, "no field 'cmd'"),
        ("images:\n  a:\n    env: {A: b}\n", 3, "command is missing"),
        ("images:\n  a:\n    command: [x]\n    user: root\n", 4, "numeric user id"),
        ("images:\n  a:\n    command: [x]\n    workdir: here\n", 4, "absolute path"),
        ("images:\n  a:\n    command: [x]\n    mounts: [/]\n", 4, "absolute path"),
        ("images:\n  a: {command: [x]}\n  a: {command: [y]}\n", 3, "twice"),
        ("- a\n", 1, "must be a mapping"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, line: int, message: str) -> None:
    """A bad file gives one message with file, line and field."""
    (tmp_path / userfile.FILE).write_text(text)
    with pytest.raises(ImageError, match=message) as caught:
        resolve("a", tmp_path)
    assert f"{userfile.FILE}:{line}: " in str(caught.value)


def test_add_list_remove(tmp_path: Path) -> None:
    """Entries are added, replaced and removed by command; other lines of the file stay as they are."""
    data = tmp_path / "data"
    work = tmp_path / "work"
    work.mkdir()

    def run(line: str) -> str:
        words = shlex.split(line)
        result = CliRunner().invoke(command.command, [words[0], "--data", str(data), *words[1:]])
        assert result.exit_code == 0, result.output + str(result.exception)
        return result.output

    run(f"add docker.io/me/app --workdir {work} --env A=b -- {shlex.quote(sys.executable)} app.py --flag")
    file = data / userfile.FILE
    file.write_text(file.read_text() + "  # mine\n  other: {command: [/bin/true]}\n")
    image = resolve("me/app:v3", data)
    assert image is not None
    assert image.command == [sys.executable, "app.py", "--flag"]
    assert (image.env, image.workdir) == ({"A": "b"}, str(work))
    for needed in (str(work), sys.prefix, os.path.realpath(sys.executable)):
        assert builtin.outside_system([*image.mounts, needed]) == image.mounts
    run(f"add docker.io/me/app --workdir {work} -- /bin/sleep 1")
    assert list(userfile.load(data)) == ["docker.io/me/app", "other"]
    assert "docker.io/me/app  /bin/sleep 1" in run("list")
    run("remove docker.io/me/app")
    assert list(userfile.load(data)) == ["other"]
    assert "# mine" in file.read_text()


def test_add_with_the_root_as_its_place(tmp_path: Path) -> None:
    """A command that starts in / starts at the container's own root; nothing of the machine is shown for that."""
    words = ["add", "--data", str(tmp_path), "--workdir", "/", "a", "--", "/bin/sleep", "1"]
    assert CliRunner().invoke(command.command, words).exit_code == 0
    image = resolve("a", tmp_path)
    assert image is not None
    assert (image.workdir, image.mounts) == ("/", [])


def test_add_refusals(tmp_path: Path) -> None:
    """A command that does not exist is refused and the file stays untouched."""
    result = CliRunner().invoke(command.command, ["add", "--data", str(tmp_path), "a", "--", "no-such-command"])
    assert isinstance(result.exception, ImageError)
    assert "no-such-command" in str(result.exception)
    assert not (tmp_path / userfile.FILE).exists()
