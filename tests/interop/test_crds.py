"""Our definitions of the kinds and Istio's: names, versions, columns, and what each field may be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pilotfish.api.crds import crds
from pilotfish.api.files import load_all

Object = dict[str, Any]

OURS_ONLY = {
    "istiooperators.install.istio.io": "a file of the installer; Istio's charts had it up to 1.23, and files name it",
}
SAME_IN_OTHER_WORDS = {
    ("AuthorizationPolicy", ".spec", "oneOf"): "always true: nothing stands beside provider",
    ("Gateway", ".spec.servers[].tls", "x-kubernetes-validations"): "Istio's third rule is its first again",
    ("Sidecar", ".spec.ingress[].tls", "x-kubernetes-validations"): "as in Gateway",
    ("EnvoyFilter", ".spec.configPatches[].match", "x-kubernetes-validations"): "fewer parentheses",
    ("PeerAuthentication", ".spec", "x-kubernetes-validations"): "has() && instead of a default",
    ("ServiceEntry", ".spec", "x-kubernetes-validations"): "fewer parentheses",
    ("ServiceEntry", ".spec.endpoints[]", "x-kubernetes-validations"): "has() && instead of a default",
    ("WorkloadEntry", ".spec", "x-kubernetes-validations"): "has() && instead of a default",
    ("WorkloadGroup", ".spec.template", "x-kubernetes-validations"): "has() && instead of a default",
    ("Telemetry", ".spec.metrics[].overrides[].tagOverrides{}", "x-kubernetes-validations"): "has() &&",
    ("TrafficExtension", ".spec.wasm.url", "x-kubernetes-validations"): "schemes in another order",
    ("TrafficExtension", ".spec.wasm.vmConfig.env[]", "x-kubernetes-validations"): "has() &&",
    ("WasmPlugin", ".spec.vmConfig.env[]", "x-kubernetes-validations"): "has() &&",
}
"""Keywords that are written differently and mean the same; test_validation.py puts them to the test."""


def _by_name(documents: list[Object]) -> dict[str, Object]:
    return {one["metadata"]["name"]: one for one in documents}


def _keywords(schema: Object, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every keyword of a schema with its place, without descriptions; in an order that does not matter, sorted."""
    for key, value in schema.items():
        if key == "properties":
            for name, part in value.items():
                yield from _keywords(part, f"{path}.{name}")
        elif key in {"items", "additionalProperties"} and isinstance(value, dict):
            yield from _keywords(value, path + ("[]" if key == "items" else "{}"))
        elif key != "description":
            yield path, key, _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key != "description"}
    if isinstance(value, list):
        return sorted((_plain(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    if isinstance(value, str):
        return re.sub(r"\s+", " ", value.replace('"', "'"))
    return value


@pytest.fixture(scope="module")
def theirs(istio_source: Path) -> dict[str, Object]:
    text = (istio_source / "manifests/charts/base/files/crd-all.gen.yaml").read_text()
    return _by_name([obj for obj, _ in load_all(text)])


def test_kinds(theirs: dict[str, Object]) -> None:
    """Each kind of Istio's, and none besides but for a reason."""
    ours = _by_name(crds())
    assert set(ours) == set(theirs) | set(OURS_ONLY)


def test_names_and_versions(theirs: dict[str, Object]) -> None:
    """Group, names, short names, categories, labels; which versions are served, stored, deprecated; columns."""
    ours = _by_name(crds())

    def outside(crd: Object) -> Object:
        spec = crd["spec"]
        return {
            "metadata": crd["metadata"],
            "spec": {key: _plain(value) for key, value in spec.items() if key != "versions"},
            "versions": {
                version["name"]: {key: _plain(value) for key, value in version.items() if key != "schema"}
                for version in spec["versions"]
            },
            "columns": [
                [(column["name"], column["jsonPath"]) for column in version.get("additionalPrinterColumns", ())]
                for version in sorted(spec["versions"], key=lambda version: str(version["name"]))
            ],
        }

    assert {name: outside(ours[name]) for name in theirs} == {name: outside(crd) for name, crd in theirs.items()}


def test_schemas(theirs: dict[str, Object]) -> None:
    """Types, enums, required fields, limits, patterns, rules, what may be null: field by field, in every version."""
    ours = _by_name(crds())
    different, used = [], set()
    for name, crd in theirs.items():
        kind = crd["spec"]["names"]["kind"]
        for version, mine in zip(*(_versions(one) for one in (crd, ours[name])), strict=True):
            wanted = {(path, key): value for path, key, value in _keywords(version)}
            given = {(path, key): value for path, key, value in _keywords(mine)}
            for place in sorted(wanted.keys() | given.keys()):
                if wanted.get(place) == given.get(place):
                    continue
                if (kind, *place) in SAME_IN_OTHER_WORDS:
                    used.add((kind, *place))
                else:
                    different.append(f"{kind}{place}: Istio {wanted.get(place)!r:.300}, we {given.get(place)!r:.300}")
    assert not different, "\n".join(different)
    assert used == set(SAME_IN_OTHER_WORDS)


def _versions(crd: Object) -> list[Object]:
    versions = sorted(crd["spec"]["versions"], key=lambda version: str(version["name"]))
    return [version["schema"]["openAPIV3Schema"] for version in versions]
