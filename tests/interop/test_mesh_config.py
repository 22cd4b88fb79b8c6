"""The mesh's configuration: every field of Istio's, its defaults, what it is after a merge, and what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilotfish.api import DecodeError, from_json
from pilotfish.api.crds import schema_of
from pilotfish.api.files import load_one
from pilotfish.api.mesh import MeshConfig, MeshNetworks, decode_mesh_config, decode_mesh_networks
from pilotfish.api.validation import validate_mesh

from .corpus import documents
from .mutate import made
from .oracle import Oracle

Object = dict[str, Any]
TRIES, SEED = 4000, 7

FREE = {"fields"}
"""What a google.protobuf.Struct looks like inside."""
OURS_ONLY = {
    ".defaultConfig.tracing.zipkin.accessToken",
    ".defaultConfig.tracing.datadog.accessToken",
}
"""One type of ours for three of Istio's; the token is Lightstep's."""


DELIBERATE = {
    "http2KeepAlive": "without interval and timeout Istio refuses it in a DestinationRule; here it goes unseen",
}
"""Words of our refusals of what Istio accepts, and why we refuse."""


@pytest.fixture(scope="module")
def oracle(programs: Path, istio_source: Path) -> Oracle:
    return Oracle(programs, istio_source)


def _shape(schema: Object, path: str = "") -> Iterator[tuple[str, str]]:
    """Every field with its type, or its values."""
    yield path, ",".join(sorted(schema["enum"])) if "enum" in schema else schema["type"]
    for name, part in (schema.get("properties") or {}).items():
        if name not in FREE:
            yield from _shape(part, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _shape(schema[key], f"{path}[]")


@pytest.mark.parametrize(("name", "type_"), [("MeshConfig", MeshConfig), ("MeshNetworks", MeshNetworks)])
def test_every_field(oracle: Oracle, name: str, type_: type[Any]) -> None:
    """Each field of Istio's message is read, with its type and its values."""
    theirs = dict(_shape(next(oracle.ask([{"describe": name}]))["value"]))
    ours = dict(_shape(schema_of(type_)))
    assert {path: kind for path, kind in ours.items() if path not in OURS_ONLY} == theirs


def _verdict(text: str, networks: bool) -> tuple[Any, str, bool]:
    """What a text says, why it is refused, and whether it sets several fields of which one can be."""
    try:
        value, unknown = (decode_mesh_networks if networks else decode_mesh_config)(text)
    except DecodeError as error:
        return None, str(error), False
    errors, warnings = validate_mesh(value)
    several = any("only the last counts" in one for one in warnings)
    return value, "; ".join(map(str, (*errors, *unknown))), several


def _settled(mesh: MeshConfig) -> MeshConfig:
    """Without what does not matter: the order of aliases, and a sampling of 0, which is none."""
    tracing = mesh.default_config.tracing
    if tracing is not None:
        tracing = msgspec.structs.replace(tracing, sampling=tracing.sampling or None)
    proxy = msgspec.structs.replace(mesh.default_config, tracing=tracing)
    aliases = tuple(sorted(set(mesh.trust_domain_aliases)))
    return msgspec.structs.replace(mesh, default_config=proxy, trust_domain_aliases=aliases)


def _differences(oracle: Oracle, texts: list[str], *, networks: bool = False) -> list[str]:
    found = []
    for text, theirs in zip(
        texts, oracle.ask({"networks" if networks else "mesh": text} for text in texts), strict=True
    ):
        ours, refused, several = _verdict(text, networks)
        if several or any(words in refused for words in DELIBERATE):
            continue
        if bool(theirs.get("refused")) != bool(refused):
            found.append(f"Istio {theirs.get('refused', '')!r}, we {refused!r}\n    {text[:1000]}")
        elif not refused and not networks:
            value, unknown = from_json(theirs["value"], MeshConfig)
            found += [f"unknown to us: {one}\n    {text[:1000]}" for one in unknown]
            for path, one, other in _parts(_settled(value), _settled(ours)):
                found.append(f"{path}: Istio {one}, we {other}\n    {text[:1000]}")
    return found


def _parts(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two values differ."""
    if isinstance(one, msgspec.Struct) and type(one) is type(other):
        for name in one.__struct_fields__:
            yield from _parts(getattr(one, name), getattr(other, name), f"{path}.{name}")
    elif one != other:
        yield path, one, other


def test_defaults(oracle: Oracle) -> None:
    """An empty configuration is Istio's default one, and so is a text without one."""
    assert not _differences(oracle, ["", "{}", "defaultConfig: {}"])


def test_istios_files(oracle: Oracle, istio_source: Path) -> None:
    """What its samples and charts have as mesh: in ConfigMaps, in IstioOperator files, and in values."""
    texts, networks = [], []
    for one in documents(istio_source):
        spec, data = one.obj.get("spec"), one.obj.get("data")
        if one.obj["kind"] == "ConfigMap" and isinstance(data, dict):
            texts += [data["mesh"]] if isinstance(data.get("mesh"), str) and "{{" not in data["mesh"] else []
            networks += [data["meshNetworks"]] if isinstance(data.get("meshNetworks"), str) else []
        if one.obj["kind"] == "IstioOperator" and isinstance(spec, dict) and isinstance(spec.get("meshConfig"), dict):
            texts.append(json.dumps(spec["meshConfig"]))
    assert len(texts) > 20
    readable = [text for text in texts if isinstance(load_one(text), dict)]
    assert not _differences(oracle, readable)
    assert not _differences(oracle, networks, networks=True)


def test_variations(oracle: Oracle) -> None:
    """Any fields with any values: refused alike, and read alike."""
    dice = random.Random(SEED)  # noqa: S311 - repeatable on purpose
    fields = next(oracle.ask([{"describe": "MeshConfig"}]))["value"]["properties"]
    of_networks = next(oracle.ask([{"describe": "MeshNetworks"}]))["value"]["properties"]["networks"]
    texts, networks = [], []
    for number in range(TRIES):
        names = dice.sample(sorted(fields), dice.choice((1, 1, 2, 3)))
        if number % 3 == 0:
            names.append("defaultConfig")
        texts.append(json.dumps({name: made(dice, fields[name], name) for name in names}))
        if number % 4 == 0:
            networks.append(json.dumps({"networks": made(dice, of_networks, "networks")}))
    found = _differences(oracle, texts) + _differences(oracle, networks, networks=True)
    assert not found, f"{len(found)}:\n" + "\n".join(found[:20])
