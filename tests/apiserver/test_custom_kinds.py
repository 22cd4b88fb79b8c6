"""CustomResourceDefinitions in the running server."""

from __future__ import annotations

from typing import Any

from tests.apiserver.conftest import ApiServer, wait

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MERGE = "application/merge-patch+json"


def definition(group: str, **more: Any) -> dict[str, Any]:
    spec = {"type": "object", "properties": {"n": {"type": "integer", "default": 1}}}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "properties": {
                    "spec": spec,
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        },
        "subresources": {"status": {}},
        "additionalPrinterColumns": [{"name": "N", "type": "integer", "jsonPath": ".spec.n"}],
    }
    names = {"plural": "things", "kind": "Thing", "shortNames": ["th"]}
    return {
        "metadata": {"name": f"things.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version], **more},
    }


def states(server: ApiServer, name: str) -> dict[str, str]:
    """The conditions of a definition."""
    found = server.call("GET", f"{DEFINITIONS}/{name}").json["status"]["conditions"]
    return {condition["type"]: condition["status"] for condition in found}


def test_a_kind_is_served_as_soon_as_it_is_defined(server: ApiServer, namespace: str) -> None:
    """Discovery, kubectl by short name, defaults, pruning, columns, status apart from spec, generation."""
    group = f"{namespace}.example.com"
    server.create(DEFINITIONS, definition(group))
    conditions = states(server, f"things.{group}")
    assert conditions == {"NamesAccepted": "True", "Established": "True"}
    path = f"/apis/{group}/v1/namespaces/{namespace}/things"
    body = {"kind": "Thing", "metadata": {"name": "t"}, "spec": {"other": 2}, "status": {"x": 1}}
    thing = server.create(path, body)
    assert thing["spec"] == {"n": 1}
    assert "status" not in thing
    assert thing["metadata"]["generation"] == 1
    changed = server.call("PATCH", path + "/t/status", {"status": {"x": 2}, "spec": {"n": 9}}, content_type=MERGE).json
    assert (changed["status"], changed["spec"], changed["metadata"]["generation"]) == ({"x": 2}, {"n": 1}, 1)
    changed = server.call("PATCH", path + "/t", {"status": {"x": 3}, "spec": {"n": 9}}, content_type=MERGE).json
    assert (changed["status"], changed["spec"], changed["metadata"]["generation"]) == ({"x": 2}, {"n": 9}, 2)
    shown = server.kubectl("get", "th", "-n", namespace).stdout.splitlines()
    assert [line.split() for line in shown] == [["NAME", "N"], ["t", "9"]]
    server.call("DELETE", f"{DEFINITIONS}/things.{group}")
    wait(lambda: server.call("GET", path).code == 404, "the end of the kind")


def test_objects_go_with_their_definition(server: ApiServer, namespace: str) -> None:
    """A definition waits for objects with finalizers; defined anew, the kind starts empty."""
    group = f"{namespace}.example.com"
    server.create(DEFINITIONS, definition(group))
    path = f"/apis/{group}/v1/namespaces/{namespace}/things"
    server.create(path, {"kind": "Thing", "metadata": {"name": "free"}})
    server.create(path, {"kind": "Thing", "metadata": {"name": "held", "finalizers": ["example.com/x"]}})
    server.call("DELETE", f"{DEFINITIONS}/things.{group}")
    wait(lambda: server.call("GET", path + "/free").code == 404, "the deletion of what is not held")
    assert server.call("GET", f"{DEFINITIONS}/things.{group}").json["metadata"]["deletionTimestamp"]
    refused = server.call("POST", path, {"kind": "Thing", "metadata": {"name": "late"}})
    assert (refused.code, refused.json["reason"]) == (405, "MethodNotAllowed")
    server.call("PATCH", path + "/held", {"metadata": {"finalizers": None}}, content_type=MERGE)
    wait(lambda: server.call("GET", f"{DEFINITIONS}/things.{group}").code == 404, "the end of the definition")
    server.create(DEFINITIONS, definition(group))
    assert server.call("GET", path).json["items"] == []
    server.call("DELETE", f"{DEFINITIONS}/things.{group}")


def test_a_name_has_one_owner(server: ApiServer, namespace: str) -> None:
    """A second definition of a kind is refused its names until the first is gone."""
    group = f"{namespace}.example.com"
    server.create(DEFINITIONS, definition(group))
    rival = definition(group, names={"plural": "others", "kind": "Thing"})
    rival["metadata"]["name"] = f"others.{group}"
    server.create(DEFINITIONS, rival)
    assert states(server, f"others.{group}") == {"NamesAccepted": "False", "Established": "False"}
    server.call("DELETE", f"{DEFINITIONS}/things.{group}")
    path = f"/apis/{group}/v1/namespaces/{namespace}/others"
    wait(lambda: server.call("GET", path).code == 200, "the turn of the rival")
    server.call("DELETE", f"{DEFINITIONS}/others.{group}")


def test_watches_of_a_kind_end_with_it(server: ApiServer, namespace: str) -> None:
    """A watcher sees its objects deleted, then the end of the stream."""
    group = f"{namespace}.example.com"
    server.create(DEFINITIONS, definition(group))
    path = f"/apis/{group}/v1/namespaces/{namespace}/things"
    server.create(path, {"kind": "Thing", "metadata": {"name": "t"}})
    with server.watch(path) as stream:
        assert stream.next()["type"] == "ADDED"
        server.call("DELETE", f"{DEFINITIONS}/things.{group}")
        types = []
        while event := stream.next():
            types.append(event["type"])
        assert types in (["DELETED"], [])


def test_watches_outlive_a_change_of_status(server: ApiServer, namespace: str) -> None:
    """A write to the status of a definition does not disturb who watches its objects."""
    group = f"{namespace}.example.com"
    server.create(DEFINITIONS, definition(group))
    path = f"/apis/{group}/v1/namespaces/{namespace}/things"
    with server.watch(path, timeoutSeconds=20) as stream:
        name = f"{DEFINITIONS}/things.{group}"
        found = server.call("GET", name).json
        found["status"]["conditions"].append(
            {
                "type": "Odd",
                "status": "True",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
                "reason": "A",
                "message": "",
            }
        )
        assert server.call("PUT", f"{name}/status", found).code == 200
        server.create(path, {"kind": "Thing", "metadata": {"name": "t"}})
        assert stream.next()["object"]["metadata"]["name"] == "t"
    server.call("DELETE", f"{DEFINITIONS}/things.{group}")


def test_definitions_survive_a_restart(own_server: ApiServer) -> None:
    """Kinds are served again from the first moment."""
    own_server.create(DEFINITIONS, definition("restart.example.com"))
    path = "/apis/restart.example.com/v1/namespaces/default/things"
    own_server.create(path, {"kind": "Thing", "metadata": {"name": "t"}, "spec": {}})
    own_server.stop()
    own_server.start()
    assert own_server.call("GET", path + "/t").json["spec"] == {"n": 1}
