"""Strategic merge patch: lists by their keys, directives, order."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotfish.local.apiserver import schema, types
from pilotfish.local.apiserver.errors import ApiError
from pilotfish.local.apiserver.patch import strategic_merge

POD = schema.compile_definition("io.k8s.api.core.v1.Pod", types.definitions())
DEPLOYMENT = schema.compile_definition("io.k8s.api.apps.v1.Deployment", types.definitions())
SERVICE = schema.compile_definition("io.k8s.api.core.v1.Service", types.definitions())


def pod() -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "labels": {"a": "1", "b": "2"}, "finalizers": ["x/a", "x/b"]},
        "spec": {
            "containers": [
                {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
                {"name": "b", "image": "b:1", "args": ["one", "two"]},
            ],
            "tolerations": [{"key": "k", "operator": "Exists"}],
            "imagePullSecrets": [{"name": "p1"}],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "configMap": {"name": "c"}}],
        },
    }


def patched(spec: Any = None, **meta: Any) -> dict[str, Any]:
    original = pod()
    body = ({"spec": spec} if spec is not None else {}) | ({"metadata": meta} if meta else {})
    result = strategic_merge(original, body, POD)
    assert original == pod(), "the object given must not change"
    return result


def names(items: list[dict[str, Any]]) -> list[str]:
    return [item["name"] for item in items]


def test_items_are_found_by_their_merge_key() -> None:
    """One field of one container changes; a new container is added behind."""
    spec = patched({"containers": [{"name": "b", "image": "b:2"}, {"name": "c", "image": "c:1"}]})["spec"]
    assert [(c["name"], c["image"]) for c in spec["containers"]] == [("a", "a:1"), ("b", "b:2"), ("c", "c:1")]
    assert spec["containers"][1]["args"] == ["one", "two"]


def test_lists_without_a_strategy_are_replaced() -> None:
    """args and tolerations are what the patch says."""
    spec = patched({"containers": [{"name": "b", "args": ["x"]}], "tolerations": [{"key": "n"}]})["spec"]
    assert spec["containers"][1]["args"] == ["x"]
    assert spec["tolerations"] == [{"key": "n"}]


def test_items_are_deleted_by_directive() -> None:
    """Also deep inside; deleting what is not there is no error."""
    spec = patched({"containers": [{"name": "a", "env": [{"name": "X", "$patch": "delete"}]}]})["spec"]
    assert spec["containers"][0]["env"] == [{"name": "Y", "value": "2"}]
    assert names(patched({"containers": [{"name": "b", "$patch": "delete"}]})["spec"]["containers"]) == ["a"]
    assert names(patched({"containers": [{"name": "z", "$patch": "delete"}]})["spec"]["containers"]) == ["a", "b"]


def test_a_list_is_replaced_by_directive() -> None:
    """`$patch: replace` as an item replaces the whole list."""
    spec = patched({"containers": [{"name": "n", "image": "n"}, {"$patch": "replace"}]})["spec"]
    assert names(spec["containers"]) == ["n"]
    assert patched({"imagePullSecrets": [{"$patch": "replace"}]})["spec"]["imagePullSecrets"] == []


def test_maps_merge_and_have_directives() -> None:
    """null deletes a key, `$patch: replace` all others, `$patch: delete` everything."""
    assert patched(labels={"a": None, "c": "3"})["metadata"]["labels"] == {"b": "2", "c": "3"}
    assert patched(labels={"$patch": "replace", "c": "3"})["metadata"]["labels"] == {"c": "3"}
    assert patched(labels={"$patch": "delete"})["metadata"]["labels"] == {}


def test_lists_of_scalars_merge_and_lose_items() -> None:
    """Finalizers are a set: a patch adds, `$deleteFromPrimitiveList` removes, null deletes all."""
    assert sorted(patched(finalizers=["x/c", "x/a"])["metadata"]["finalizers"]) == ["x/a", "x/b", "x/c"]
    assert patched(**{"$deleteFromPrimitiveList/finalizers": ["x/a"]})["metadata"]["finalizers"] == ["x/b"]
    assert "finalizers" not in patched(finalizers=None)["metadata"]


def test_the_order_can_be_set() -> None:
    """`$setElementOrder` arranges the items it names; others keep their place among them."""
    spec = patched(
        {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "b:3"}]}
    )["spec"]
    assert [(c["name"], c["image"]) for c in spec["containers"]] == [("b", "b:3"), ("a", "a:1")]
    spec = patched({"$setElementOrder/volumes": [{"name": "w"}]})["spec"]
    assert names(spec["volumes"]) == ["v", "w"]


def test_retained_keys_drop_the_others() -> None:
    """`$retainKeys` of a volume: another source replaces the one it had."""
    spec = patched({"volumes": [{"name": "w", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}]})["spec"]
    assert spec["volumes"][1] == {"name": "w", "emptyDir": {}}
    original = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    changed = strategic_merge(
        original, {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}, DEPLOYMENT
    )
    assert changed["spec"]["strategy"] == {"type": "Recreate"}


def test_directives_about_what_is_not_there_do_nothing() -> None:
    """They do not become part of the object, and neither do nulls."""
    spec = patched(
        {
            "initContainers": [{"name": "i", "$patch": "delete"}, {"name": "j", "image": "j", "tty": None}],
            "nodeSelector": {"$patch": "delete"},
            "securityContext": {"sysctls": [{"$patch": "replace"}], "runAsUser": 1},
            "$deleteFromPrimitiveList/readinessGates": ["x"],
        }
    )["spec"]
    assert spec["initContainers"] == [{"name": "j", "image": "j"}]
    assert "nodeSelector" not in spec
    assert spec["securityContext"] == {"sysctls": [], "runAsUser": 1}
    assert "readinessGates" not in spec


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"spec": {"containers": [{"image": "x"}]}}, 500),
        ({"spec": {"containers": [{"$patch": "delete"}]}}, 500),
        ({"spec": {"containers": [{"name": "a", "$patch": "sing"}]}}, 500),
        ({"spec": {"containers": [{"name": "a", "$patch": "merge"}]}}, 500),
        ({"spec": {"$patch": "sing"}}, 500),
        ({"spec": {"volumes": [{"name": "w", "$retainKeys": "x"}]}}, 400),
        ({"spec": {"volumes": [{"name": "w", "$retainKeys": ["name"], "emptyDir": {}}]}}, 400),
        ({"spec": {"$setElementOrder/containers": "x"}}, 500),
        ({"spec": {"$setElementOrder/nope": []}}, 500),
        ({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}}, 500),
        ({"spec": {"containers": [[]]}}, 422),
        ([], 400),
    ],
)
def test_what_cannot_be_merged_has_the_code_of_the_real_server(body: Any, code: int) -> None:
    """Some of it is 500 without a reason: Kubernetes has no better word for it."""
    with pytest.raises(ApiError) as refused:
        strategic_merge(pod(), body, POD)
    assert refused.value.code == code
    assert refused.value.reason == {500: "", 400: "BadRequest", 422: "Invalid"}[code]


def test_ports_of_a_service_merge_by_port() -> None:
    """Their server-side apply key has the protocol as well; the merge key is the port alone."""
    service = {"spec": {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}}
    body = {"spec": {"ports": [{"port": 81, "targetPort": 8081}, {"port": 82, "name": "c"}]}}
    assert strategic_merge(service, body, SERVICE)["spec"]["ports"] == [
        {"name": "a", "port": 80},
        {"name": "b", "port": 81, "targetPort": 8081},
        {"port": 82, "name": "c"},
    ]


ENV = st.lists(st.sampled_from("ABCDE"), unique=True, max_size=5)


@given(ENV, ENV, st.sets(st.sampled_from("ABCDE")))
def test_merging_lists_follows_the_rule(had: list[str], given_: list[str], deleted: set[str]) -> None:
    """The result has what was there or is patched, but for what is deleted; patched items come in the patch's order."""
    original = {"spec": {"containers": [{"name": "c", "env": [{"name": n, "value": "old"} for n in had]}]}}
    kept = copy.deepcopy(original)
    env: list[dict[str, Any]] = [{"name": n, "value": "new"} for n in given_ if n not in deleted]
    env += [{"name": n, "$patch": "delete"} for n in sorted(deleted)]
    result = strategic_merge(original, {"spec": {"containers": [{"name": "c", "env": env}]}}, POD)
    assert original == kept
    found = {item["name"]: item["value"] for item in result["spec"]["containers"][0]["env"]}
    wanted = {n: "old" for n in had if n not in deleted} | {n: "new" for n in given_ if n not in deleted}
    assert found == wanted
    order = [item["name"] for item in result["spec"]["containers"][0]["env"]]
    assert [n for n in order if n in given_] == [n for n in given_ if n not in deleted]
    untouched = [n for n in had if n not in deleted and n not in given_]
    assert [n for n in order if n in untouched] == untouched
