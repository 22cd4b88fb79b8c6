"""What Istio's source tree has of objects in YAML: samples, tests, and the data of its analyzers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pilotfish.api import KINDS, DecodeError
from pilotfish.api.files import load_all

Object = dict[str, Any]
_GROUPS = tuple({f"{kind.group}/" for kind in KINDS.values()})


class Document(NamedTuple):
    file: str
    """Relative to the tree."""
    line: int
    obj: Any

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def documents(tree: Path) -> Iterator[Document]:
    """Every Kubernetes object in every YAML file that is no template."""
    for file in sorted([*tree.rglob("*.yaml"), *tree.rglob("*.yml")]):
        text = file.read_text(errors="replace")
        name = str(file.relative_to(tree))
        try:
            found = [Document(name, source.line, obj) for obj, source in load_all(text, name)]
        except DecodeError:
            found = list(_one_by_one(text, name))
        yield from (one for one in found if isinstance(one.obj, dict) and isinstance(one.obj.get("kind"), str))


def _one_by_one(text: str, name: str) -> Iterator[Document]:
    """The documents of a file of which some cannot be read."""
    line = 1
    for part in re.split(r"(?m)^---.*\n", text):
        with suppress(DecodeError):
            yield from (Document(name, line + source.line - 1, obj) for obj, source in load_all(part, name))
        line += part.count("\n") + 1


def istio_objects(tree: Path) -> list[Document]:
    """Those of kinds that we serve."""
    return [one for one in documents(tree) if str(one.obj.get("apiVersion", "")).startswith(_GROUPS)]
