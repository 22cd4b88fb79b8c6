"""YAML as Kubernetes reads it, with the line of every document and field."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator
from typing import Any, ClassVar

import yaml

from pilotfish.api.errors import DecodeError, FieldError
from pilotfish.api.meta import Source


class _Loader(yaml.CSafeLoader):
    """YAML 1.1 as kubectl reads it: no dates, no base-60 numbers, `y` and `n` are booleans, keys become text."""

    bool_values: ClassVar[dict[str, bool]] = {**yaml.CSafeLoader.bool_values, "y": True, "n": False}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        found = super().construct_mapping(node, deep)
        return {key if isinstance(key, str) else json.dumps(key): value for key, value in found.items()}


class _Dumper(yaml.CSafeDumper):
    """Writes what `_Loader` reads: text that would be read as something else is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.CSafeDumper, value: str) -> yaml.Node:
    lines = "\n" in value
    plain = value[:1] not in {"\n", " "} and not value.endswith("\n\n")
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=("|" if plain else '"') if lines else None)


_Dumper.add_representer(str, _text)
_OTHERWISE = {f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "int", "float")}
_INTEGER = re.compile(r"^(?:[-+]?0b[0-1_]+|[-+]?0o?[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OTHERWISE]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_implicit_resolvers = _RESOLVERS
_YES_NO = re.compile(r"^[yYnN]$")
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:bool", _YES_NO, list("yYnN"))
    _side.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def dump(value: Any) -> str:
    """A value as YAML, keys sorted."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=True, width=10**9, allow_unicode=True, default_flow_style=False)


def load_one(text: str) -> Any:
    """The value of a YAML text with one document. Raises DecodeError where it is no YAML."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise _yaml_error(error, "") from None


def load_all(text: str, file: str = "") -> Iterator[tuple[Any, Source]]:
    """Every document that is not empty, with the line it begins at. Lists (`kind: List`) are taken apart.

    Raises DecodeError where the text is no YAML.
    """
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            value = loader.construct_document(node)
            if value is None:
                continue
            if isinstance(value, dict) and value.get("kind") == "List" and isinstance(value.get("items"), list):
                items = _child(node, "items")
                for item, item_node in zip(value["items"], items.value, strict=True):
                    yield item, Source(file, item_node.start_mark.line + 1)
            else:
                yield value, Source(file, node.start_mark.line + 1)
    except yaml.YAMLError as error:
        raise _yaml_error(error, file) from None
    finally:
        loader.dispose()


def line_of(text: str, source: Source, path: str) -> int:
    """The line (from 1) of a field such as `spec.http[0].timeout` in the document that begins at `source.line`.

    When the field is not there, the line of the last part of the path that is. 0 when there is no such document.
    """
    for document in yaml.compose_all(text, _Loader):
        node = _starting_at(document, source.line)
        if node is None:
            continue
        line = node.start_mark.line + 1
        for key, index in re.findall(r"([^.\[\]]+)|\[([^\]]*)\]", path):
            child = _child(node, key or index)
            if child is None:
                break
            node = child
            line = child.start_mark.line + 1
        return int(line)
    return 0


def _starting_at(node: Any, line: int) -> Any:
    if node is None or node.start_mark.line + 1 == line:
        return node
    for item in getattr(_child(node, "items"), "value", None) or []:
        if isinstance(item, yaml.Node) and item.start_mark.line + 1 == line:
            return item
    return None


def _child(node: Any, key: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        return next((value for name, value in node.value if name.value == key), None)
    if isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
        return node.value[int(key)]
    return None


def _yaml_error(error: yaml.YAMLError, file: str) -> DecodeError:
    mark = getattr(error, "problem_mark", None)
    where = Source(file, mark.line + 1) if mark is not None else Source(file)
    problem = getattr(error, "problem", None) or str(error)
    return DecodeError(
        [FieldError("", f"this is no valid YAML: {problem}")], str(where) if file else f"line {where.line}"
    )
