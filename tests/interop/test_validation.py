"""What users write is accepted or refused as Istio does it: its samples and test data, our own cases, and variations.

Three verdicts are compared: what the API server refuses by the definition, and, of what it lets pass, what the webhook
refuses and what it warns of. We may warn of more than Istio: of fields that have no effect here, and of what it accepts
in silence although it does nothing.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pilotfish import api
from pilotfish.api.files import load_one

from . import verdict
from .corpus import istio_objects
from .mutate import unique, variations
from .oracle import Oracle

Object = dict[str, Any]
CASES = Path(__file__).parents[1] / "api" / "cases"
VARIATIONS, SEED = 12000, 20

DELIBERATE = {
    r"^metadata\.name: name .* must be a lower-case DNS name$": (
        "every API server refuses such a name before it asks a webhook; who checks a file hears of it, too"
    ),
    r"HTTP status 600 must be in the range 200 to 599": (
        "600 is no status: Envoy refuses the whole table of routes it stands in"
    ),
    r"localityLbSetting\.distribute.* overlap$": (
        "whether Istio sees that two localities overlap depends on the order in which a map happens to be read"
    ),
    r"\.jwks: is no JSON Web Key Set": "a single key, or text after the set, passes Istio, and Envoy refuses it",
}
"""Words of our refusals of what Istio accepts, and why we refuse."""


@pytest.fixture(scope="module")
def oracle(programs: Path, istio_source: Path) -> Oracle:
    return Oracle(programs, istio_source)


def _in_namespace(obj: Object) -> Object:
    """As the API server stores it: with a namespace."""
    metadata = obj.get("metadata") or {}
    return {**obj, "metadata": {"namespace": "default", **metadata}}


def _cases() -> list[Object]:
    kinds = {re.sub(r"(?<=.)(?=[A-Z])", "_", kind).lower(): kind for kind in api.KINDS}
    found = []
    for file in sorted(CASES.glob("*.yaml")):
        kind = kinds[file.stem]
        for _, spec, *_ in load_one(file.read_text()):
            metadata = {"name": "x", "namespace": "ns"}
            found.append({"apiVersion": api.KINDS[kind].api_version, "kind": kind, "metadata": metadata, "spec": spec})
    return found


def _differences(oracle: Oracle, objects: list[Object]) -> list[str]:
    found = []
    for obj, theirs in zip(objects, oracle.ask({"object": obj} for obj in objects), strict=True):
        ours = verdict.of_object(obj)
        schema, refused = theirs.get("schema", ""), theirs.get("refused", "")
        what = ""
        if bool(schema) != bool(ours.schema):
            what = f"API server: Istio {schema!r}, we {ours.schema!r}"
        elif not schema and bool(refused) != bool(ours.refused):
            if not ours.refused or not all(map(_deliberate, ours.refused.split("; "))):
                what = f"webhook: Istio {refused!r}, we {ours.refused!r}"
        elif not schema and not refused and theirs.get("warnings") and not ours.warnings:
            what = f"warnings: Istio {theirs['warnings']}, we none"
        if what:
            found.append(f"{what}\n    {json.dumps(obj)[:2000]}")
    return found


def _deliberate(refusal: str) -> bool:
    return any(re.search(words, refusal) for words in DELIBERATE)


def test_istios_files(oracle: Oracle, istio_source: Path) -> None:
    """Every object in YAML in Istio's repository: samples, integration tests, analyzers' and validation's test data."""
    documents = istio_objects(istio_source)
    assert len(documents) > 700
    assert {one.obj["kind"] for one in documents} == set(api.KINDS)
    found = _differences(oracle, [_in_namespace(one.obj) for one in documents])
    assert not found, "\n".join(found)


def test_our_cases(oracle: Oracle) -> None:
    """Each rule of ours, from both sides: tests/api/cases has an object for each that breaks it."""
    found = _differences(oracle, _cases())
    assert not found, "\n".join(found)


def test_variations(oracle: Oracle, istio_source: Path) -> None:
    """Good objects with one to three fields changed, left out or added: wrong types, hosts, ports, durations, …"""
    known = unique([_in_namespace(one.obj) for one in istio_objects(istio_source)] + _cases())
    answers = oracle.ask({"object": obj} for obj in known)
    seeds = [obj for obj, said in zip(known, answers, strict=True) if "refused" not in said and "schema" not in said]
    assert {seed["kind"] for seed in seeds} == set(api.KINDS)
    found = _differences(oracle, list(variations(seeds, VARIATIONS, SEED)))
    assert not found, f"{len(found)} of {VARIATIONS}:\n" + "\n".join(found[:40])
