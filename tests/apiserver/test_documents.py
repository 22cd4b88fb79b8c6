"""Discovery and what else is no resource."""

from __future__ import annotations

import json

from tests.apiserver.conftest import ApiServer


def test_both_forms_of_discovery_agree(server: ApiServer) -> None:
    """The aggregated documents name the same resources and verbs as the classic ones; an ETag saves sending them."""
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    aggregated = {}
    for root in ("/api", "/apis"):
        answer = server.call("GET", root, headers={"Accept": accept})
        assert "as=APIGroupDiscoveryList" in answer.headers["Content-Type"]
        for group in answer.json["items"]:
            for version in group["versions"]:
                name = group["metadata"].get("name", "")
                aggregated[name, version["version"]] = {r["resource"]: sorted(r["verbs"]) for r in version["resources"]}
        again = server.call("GET", root, headers={"Accept": accept, "If-None-Match": answer.headers["ETag"]})
        assert (again.code, again.raw) == (304, b"")
    assert ("", "v1") in aggregated
    for (group, version), resources in aggregated.items():
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        classic = server.call("GET", path).json["resources"]
        assert {r["name"]: sorted(r["verbs"]) for r in classic if "/" not in r["name"]} == resources


def test_openapi_documents(server: ApiServer) -> None:
    """The index leads to a document a group version, whose address holds its digest."""
    paths = server.call("GET", "/openapi/v3").json["paths"]
    url = paths["apis/apps/v1"]["serverRelativeURL"]
    answer = server.call("GET", url)
    assert "io.k8s.api.apps.v1.Deployment" in answer.json["components"]["schemas"]
    assert "immutable" in answer.headers["Cache-Control"]
    assert server.call("GET", "/openapi/v3/apis/nope/v1").code == 404


def test_addresses_that_are_not_there(server: ApiServer, namespace: str) -> None:
    """Unknown groups, versions, resources and subresources are 404."""
    for path in (
        "/nope",
        "/apis/nope.example.com/v1/things",
        "/api/v2/pods",
        "/api/v1/nopes",
        f"/api/v1/namespaces/{namespace}/configmaps/x/status",
        f"/api/v1/namespaces/{namespace}/nodes",
        "/api/v1/configmaps/x",
        "/readyz/nope",
    ):
        assert server.call("GET", path).code == 404, path


def test_health(server: ApiServer) -> None:
    """Checks are listed when asked for."""
    text = server.call("GET", "/readyz?verbose").raw.decode()
    assert "[+]ping ok" in text
    assert text.endswith("readyz check passed\n")


def test_kubectl_applies_lists(server: ApiServer, namespace: str) -> None:
    """For `kind: List` kubectl reads OpenAPI v2 in protobuf, and then lets the server validate each item."""
    items = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}} for name in ("a", "b")]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    done = server.kubectl("apply", "-n", namespace, "-f", "-", stdin=text)
    assert done.stdout.splitlines() == ["configmap/a created", "configmap/b created"]
    items[0]["unknown"] = "field"
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    refused = server.kubectl("apply", "-n", namespace, "-f", "-", stdin=text, ok=False)
    assert 'unknown field "unknown"' in refused.stderr
