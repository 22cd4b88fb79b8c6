"""The user's own images: `DATA/images.yaml`, described in docs/images.md."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from pilotfish.local.images.builtin import outside_system
from pilotfish.local.images.image import Image, ImageError, matches

FILE = "images.yaml"
_HEADER = "# Images of the local cluster: names mapped to commands. `pilotfish image --help` tells more.\nimages:\n"

_PYTHON = re.compile(r"(python|pypy)[0-9.]*")

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


def describe(command: list[str], workdir: Path, mounts: list[Path], env: dict[str, str], user: int | None) -> Image:
    """An entry for a command line of this machine, with what it needs to be seen in the container.

    A `workdir` of / is the container's own root.
    Raises `ImageError` when the command cannot be found.
    """
    place = workdir.resolve()
    program = shutil.which(command[0], path=os.environ.get("PATH", os.defpath)) or shutil.which(place / command[0])
    if program is None:
        raise ImageError(f"{command[0]}: no such command on PATH or in {place}")
    absolute = Path(program).absolute()
    if _PYTHON.fullmatch(absolute.name):  # a version manager's stand-in would not work in the container
        absolute = Path(_python(absolute, "print(sys.executable)")[0])
    # In / the command starts at the container's own root: the machine's is never shown as a whole.
    needed = [*([place] if place != Path("/") else []), *mounts, *_needs(absolute)]
    shown = outside_system([str(path.absolute()) for path in needed])
    return Image([str(absolute), *command[1:]], [], env, str(place), shown, user)


def _needs(program: Path) -> list[Path]:
    """What a program reads when it starts: where it lives, its interpreter's home, Python's module path."""
    needs = [program]
    with program.open("rb") as file:
        first = file.readline(256)
    if first.startswith(b"#!"):
        words = first[2:].decode(errors="replace").split()
        words = [word for word in words[1:] if not word.startswith("-")] if words[0].endswith("/env") else words
        interpreter = shutil.which(words[0]) if words else None
        return needs + (_needs(Path(interpreter)) if interpreter else [])
    if _PYTHON.fullmatch(program.name):
        found = _python(program, "print(*{sys.prefix, sys.base_prefix, *filter(None, sys.path)}, sep='\\n')")
        needs += [Path(line) for line in found if Path(line).exists()]
    for place in {program, program.resolve()}:
        home = place.parent.parent
        needs.append(home if place.parent.name == "bin" and home != Path("/") else place)
    return needs


def _python(program: Path, script: str) -> list[str]:
    """What a script says, run by the interpreter in question."""
    command = [str(program), "-c", f"import sys; {script}"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout:
        raise ImageError(f"{program} does not run: {' '.join(done.stderr.split())}")
    return done.stdout.splitlines()


def add(data: Path, pattern: str, image: Image) -> bool:
    """Write an entry, in the place of one with the same name; whether there was one."""
    fields = {name: value for name, value in asdict(image).items() if value not in ([], {}, None)}
    block = yaml.safe_dump({pattern: fields}, sort_keys=False, allow_unicode=True, width=10_000)
    return _edit(data, pattern, [f"  {line}" for line in block.splitlines()])


def remove(data: Path, pattern: str) -> bool:
    """Remove an entry; whether there was one."""
    return pattern in load(data) and _edit(data, pattern, [])


def _edit(data: Path, pattern: str, block: list[str]) -> bool:
    """Replace the lines of an entry by `block` (or append it). All other lines, comments too, stay as they are."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data / FILE
    lock = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = path.read_text(encoding="utf-8") if path.exists() else _HEADER
        parse(text, str(path))
        lines = text.splitlines()
        found = _lines_of(pattern, text, str(path))
        if found:
            lines[found.start : found.stop] = block
        elif block:
            if not any(line.startswith("images:") for line in lines):
                lines.append("images:")
            lines += block
        changed = "\n".join(lines) + "\n"
        try:
            parse(changed, str(path))
        except ImageError as error:
            raise ImageError(
                f"{path} is written in a way that cannot be edited here; edit it by hand ({error})"
            ) from error
        temporary = path.with_suffix(".new")
        temporary.write_text(changed, encoding="utf-8")
        temporary.replace(path)
    finally:
        os.close(lock)
    return found is not None


def _lines_of(pattern: str, text: str, where: str) -> range | None:
    """The lines of an entry: its key and all that is indented deeper."""
    for _, images in _fields(compose(text, where), None, where, "the file"):
        for key, _ in getattr(images, "value", []):
            if key.value == pattern:
                lines = text.splitlines()
                start = end = key.start_mark.line
                for number in range(start + 1, len(lines)):
                    indent = len(lines[number]) - len(lines[number].lstrip())
                    if lines[number].strip() and indent <= key.start_mark.column:
                        break
                    end = number if lines[number].strip() else end
                return range(start, end + 1)
    return None


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


def _workdir(node: yaml.Node, where: str, what: str) -> str:
    path = _text(node, where, what)
    return path if path == "/" else _absolute(path, node, where, what)


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
    "workdir": _workdir,
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
