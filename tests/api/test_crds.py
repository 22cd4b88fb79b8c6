"""The CustomResourceDefinitions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pilotfish import api
from pilotfish.api.crds import crds

CRDS = {crd["metadata"]["name"]: crd for crd in crds()}


def _schemas(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, item in schema.get("properties", {}).items():
        yield from _schemas(item, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from _schemas(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _schemas(schema["additionalProperties"], f"{path}{{}}")


def test_names() -> None:
    """Istio's fifteen kinds, and the file format of its installer."""
    assert sorted(CRDS) == sorted(
        [
            "authorizationpolicies.security.istio.io",
            "destinationrules.networking.istio.io",
            "envoyfilters.networking.istio.io",
            "gateways.networking.istio.io",
            "istiooperators.install.istio.io",
            "peerauthentications.security.istio.io",
            "proxyconfigs.networking.istio.io",
            "requestauthentications.security.istio.io",
            "serviceentries.networking.istio.io",
            "sidecars.networking.istio.io",
            "telemetries.telemetry.istio.io",
            "trafficextensions.extensions.istio.io",
            "virtualservices.networking.istio.io",
            "wasmplugins.extensions.istio.io",
            "workloadentries.networking.istio.io",
            "workloadgroups.networking.istio.io",
        ]
    )


@pytest.mark.parametrize("name", sorted(CRDS))
def test_structural(name: str) -> None:
    """Every schema is structural: each part has a type, one version is stored, status is a subresource."""
    spec = CRDS[name]["spec"]
    assert [version["storage"] for version in spec["versions"]].count(True) == 1
    for version in spec["versions"]:
        assert version["subresources"] == {"status": {}}
        for path, schema in _schemas(version["schema"]["openAPIV3Schema"]):
            known = {"object", "array", "string", "integer", "number", "boolean"}
            assert schema.get("type") in known or schema.get("x-kubernetes-int-or-string"), path
            assert not ("properties" in schema and "additionalProperties" in schema), path


def test_every_field_is_described() -> None:
    """What `kubectl explain` shows: each field of a spec has a sentence."""
    for kind, known in api.KINDS.items():
        schema = CRDS[known.crd_name]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        missing = [
            path for path, part in _schemas(schema) if not path.endswith(("[]", "{}")) and not part.get("description")
        ]
        assert missing == [], kind


def test_virtual_service() -> None:
    """Short name, categories, columns and versions as users of kubectl know them."""
    spec = CRDS["virtualservices.networking.istio.io"]["spec"]
    assert spec["names"]["shortNames"] == ["vs"]
    assert spec["names"]["categories"] == ["istio-io", "networking-istio-io"]
    assert [(version["name"], version["storage"]) for version in spec["versions"]] == [
        ("v1", True),
        ("v1beta1", False),
        ("v1alpha3", False),
    ]
    columns = spec["versions"][0]["additionalPrinterColumns"]
    assert [(column["name"], column["jsonPath"]) for column in columns] == [
        ("Gateways", ".spec.gateways"),
        ("Hosts", ".spec.hosts"),
        ("Age", ".metadata.creationTimestamp"),
    ]
    route = spec["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["http"]["items"]
    assert route["properties"]["timeout"]["x-kubernetes-validations"][0]["rule"] == "duration(self) >= duration('1ms')"
    assert {"required": ["exact"]} in route["properties"]["match"]["items"]["properties"]["uri"]["oneOf"]
    assert route["properties"]["route"]["items"]["required"] == ["destination"]
    assert "mirror_percent" in route["properties"]
