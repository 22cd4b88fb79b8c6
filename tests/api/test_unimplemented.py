"""Nothing is silently dropped: a field is read by some room of the control plane, or marked UNIMPLEMENTED."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from msgspec import inspect as types

import pilotfish
from pilotfish import api
from pilotfish.api.mesh import MeshConfig, MeshNetworks, decode_mesh_config
from pilotfish.api.meta import UNIMPLEMENTED, Api, Duration
from pilotfish.api.validation import validate_object

ROOMS = ("agent", "ca", "daemon", "envoy", "inject", "mesh", "xds")
NO_EFFECT = {"sourceSubnet", "exponentialDelay", "http2Error", "targetPort", "defaultEndpoint", "consecutiveErrors"}
"""Deprecated in Istio, or refused: they have no effect there either."""
NO_EFFECT |= {
    "verificationKey",
    "stackdriver",
    "debug",
    "maxNumberOfAttributes",
    "maxNumberOfAnnotations",
    "maxNumberOfMessageEvents",
}
NO_EFFECT |= {"extraStatTags"}
"""Not needed: custom tags are labels of the metrics anyway."""


class Inner(Api, frozen=True):
    done: str = ""
    todo: Annotated[Duration | None, UNIMPLEMENTED] = None


class Outer(Api, frozen=True):
    items: tuple[Inner, ...] = ()
    other: Annotated[tuple[str, ...], UNIMPLEMENTED] = ()


def test_fields_that_have_no_effect_are_named() -> None:
    """By their paths, when they are set and only then."""
    spec = Outer(items=(Inner(done="x"), Inner(todo=Duration(1))), other=("a",))
    config: api.Config[Outer] = api.Config(kind="X", api_version="x/v1", name="x", spec=spec)
    assert sorted(api.unimplemented(config)) == ["spec.items[1].todo", "spec.other"]
    assert api.unimplemented(api.Config(kind="X", api_version="x/v1", name="x", spec=Outer())) == []


def test_authors_are_told() -> None:
    """As a warning when the object is applied; the mesh's configuration can be asked."""
    obj = {"apiVersion": "extensions.istio.io/v1alpha1", "kind": "WasmPlugin", "spec": {"url": "oci://a"}}
    told = validate_object(obj).warnings
    marked = api.unimplemented(api.decode(obj))
    assert told == [f"{path}: this is accepted but has no effect yet" for path in marked]
    mesh, _ = decode_mesh_config("extensionProviders: [{name: a, prometheus: {}}]\naccessLogFile: x")
    assert api.unimplemented_in(mesh) == []


def _messages(info: types.Type) -> Iterator[type]:
    if isinstance(info, types.Metadata):
        yield from _messages(info.type)
    elif isinstance(info, types.UnionType):
        for member in info.types:
            yield from _messages(member)
    elif isinstance(info, types.StructType):
        yield info.cls
    elif isinstance(info, types.VarTupleType):
        yield from _messages(info.item_type)
    elif isinstance(info, types.DictType):
        yield from _messages(info.value_type)


def test_every_field_is_read_or_marked() -> None:
    """A field nobody reads must be marked UNIMPLEMENTED in its type. (Who reads it now takes the mark away.)"""
    root = Path(pilotfish.__file__).parent
    files = [file for room in ROOMS for file in sorted((root / room).rglob("*.py"))] + [root / "api" / "meta.py"]
    source = "\n".join(file.read_text() for file in files)
    words = set(re.findall(r"\.(\w+)\b", source)) | set(re.findall(r"\"(\w+)\"", source))
    todo: list[type] = [kind.type for kind in api.KINDS.values()] + [MeshConfig, MeshNetworks]
    seen: set[type] = set()
    unread: list[str] = []
    while todo:
        cls = todo.pop()
        if cls in seen:
            continue
        seen.add(cls)
        for field in types.type_info(cls).fields:  # type: ignore[attr-defined]  # a StructType, we know
            if (getattr(field.type, "extra", None) or {}).get("unimplemented"):
                continue
            if not {field.name, field.encode_name} & words and field.encode_name not in NO_EFFECT:
                unread.append(f"{cls.__module__}.{cls.__name__}.{field.name}")
            todo += _messages(field.type)
    assert not unread, "\n".join(unread)
