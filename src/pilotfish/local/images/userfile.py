"""The user's own images: `DATA/images.yaml`, described in docs/images.md."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pilotfish.local.images.image import Image, ImageError, matches

FILE = "images.yaml"

_cache: dict[Path, tuple[tuple[int, int, int], dict[str, Image]]] = {}


def lookup(reference: str, data: Path) -> Image | None:
    """What the user mapped an image reference to: the first entry that fits."""
    for pattern, image in load(data).items():
        if matches(pattern, reference):
            return image
    return None


def load(data: Path) -> dict[str, Image]:
    """The entries of the file in their order, empty when there is no file. Raises `ImageError` naming file and line."""
    path = data / FILE
    try:
        status = path.stat()
    except FileNotFoundError:
        _cache.pop(path, None)
        return {}
    stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
    cached = _cache.get(path)
    if cached is None or cached[0] != stamp:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ImageError(f"{path}: cannot be read: {error}") from error
        cached = _cache[path] = (stamp, parse(text, str(path)))
    return cached[1]


def parse(text: str, where: str) -> dict[str, Image]:
    """The entries in the text of an image file; `where` is the file's name for messages."""
    root = compose(text, where)
    images: dict[str, Image] = {}
    for name, node in _fields(root, {"images"}, where, "the file"):
        for pattern, entry in _fields(node, None, where, name):
            if pattern in images:
                raise _refusal(where, entry, f"{pattern} is there twice")
            images[pattern] = _image(entry, where, pattern)
    return images


def compose(text: str, where: str) -> yaml.Node | None:
    """The YAML nodes of an image file, which know their lines."""
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ImageError(
            f"{where}:{mark.line + 1 if mark else 1}: not YAML: {error.problem or error.context}"
        ) from error
    except yaml.YAMLError as error:
        raise ImageError(f"{where}: not YAML: {error}") from error
    return node


def _refusal(where: str, node: yaml.Node, message: str) -> ImageError:
    return ImageError(f"{where}:{node.start_mark.line + 1}: {message}")


def _fields(node: yaml.Node | None, known: set[str] | None, where: str, what: str) -> Iterator[tuple[str, yaml.Node]]:
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")):
        return
    if not isinstance(node, yaml.MappingNode):
        raise _refusal(where, node, f"{what} must be a mapping")
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _refusal(where, key, f"{what} has a key that is not text")
        if known is not None and key.value not in known:
            raise _refusal(where, key, f"{what} has no field {key.value!r}; there are {', '.join(sorted(known))}")
        yield key.value, value


def _text(node: yaml.Node, where: str, what: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag.endswith(":null"):
        raise _refusal(where, node, f"{what} must be text")
    return str(node.value)


def _list(node: yaml.Node, where: str, what: str) -> list[str]:
    if not isinstance(node, yaml.SequenceNode):
        raise _refusal(where, node, f"{what} must be a list, such as [python3, app.py]")
    return [_text(item, where, f"{what}[{i}]") for i, item in enumerate(node.value)]


def _paths(node: yaml.Node, where: str, what: str) -> list[str]:
    paths = _list(node, where, what)
    for path, item in zip(paths, node.value, strict=True):
        _absolute(path, item, where, what)
    return paths


def _absolute(path: str, node: yaml.Node, where: str, what: str) -> str:
    if not path.startswith("/") or os.path.normpath(path) == "/":
        raise _refusal(where, node, f"{what} must be an absolute path below /, not {path!r}")
    return path


def _env(node: yaml.Node, where: str, what: str) -> dict[str, str]:
    return {key: _text(value, where, f"{what}.{key}") for key, value in _fields(node, None, where, what)}


def _user(node: yaml.Node, where: str, what: str) -> int:
    text = _text(node, where, what)
    if not text.isdecimal():
        raise _refusal(where, node, f"{what} must be a numeric user id, not {text!r}")
    return int(text)


_READERS = {
    "command": _list,
    "args": _list,
    "env": _env,
    "workdir": lambda node, where, what: _absolute(_text(node, where, what), node, where, what),
    "mounts": _paths,
    "user": _user,
    "path": _paths,
}


def _image(node: yaml.Node, where: str, pattern: str) -> Image:
    values: dict[str, Any] = {}
    for name, value in _fields(node, set(_READERS), where, pattern):
        values[name] = _READERS[name](value, where, f"{pattern}.{name}")
    if not values.get("command"):
        raise _refusal(where, node, f"{pattern}.command is missing: a list, such as [python3, app.py]")
    return Image(**values)
