"""What an image is here, and how image names are compared."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from pilotfish.errors import UserError

_DEFAULT_REGISTRY = "docker.io"
_TAG = re.compile(r":[A-Za-z0-9_][A-Za-z0-9_.\-*]*$")


class ImageError(UserError):
    """An image that cannot run; the text says which, why, and what to do."""


@dataclass(frozen=True)
class Image:
    """A command on this machine, as a container image would describe it.

    `command` is the entrypoint and `args` the default arguments, with the meaning they have in a Pod. `mounts` are
    absolute paths to be bound read-only at the same place, `path` are directories to be put in front of PATH, `user`
    is a numeric user id (None: root).
    """

    command: list[str] = field(default_factory=list)
    args: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    mounts: list[str] = field(default_factory=list)
    user: int | None = None
    path: list[str] = field(default_factory=list)


def split(reference: str) -> tuple[str, str]:
    """The name and the version (`:tag` or `@digest`, may be empty) of an image reference."""
    name, at, digest = reference.partition("@")
    tag = _TAG.search(name)
    if tag:
        name = name[: tag.start()]
    return name, at + digest or (tag.group() if tag else "")


def canonical(name: str) -> str:
    """A name without tag in full: `nginx` is `docker.io/library/nginx`, `me/app` is `docker.io/me/app`."""
    first, slash, _ = name.partition("/")
    if slash and ("." in first or ":" in first or "*" in first or first == "localhost"):
        return name
    return f"{_DEFAULT_REGISTRY}/{name}" if slash else f"{_DEFAULT_REGISTRY}/library/{name}"


def matches(pattern: str, reference: str) -> bool:
    """Whether an image reference is meant by a pattern.

    In the name `*` stands for any text, `/` included, so `*/app` is `app` from any registry. A pattern without tag
    or digest means all of them.
    """
    wanted, wanted_version = split(pattern)
    name, version = split(reference)
    return fnmatchcase(canonical(name), canonical(wanted)) and (not wanted_version or wanted_version == version)
