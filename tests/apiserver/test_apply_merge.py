"""Server-side apply: what results, who owns it, what conflicts."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotfish.local.apiserver import schema, types
from pilotfish.local.apiserver.apply import server_side_apply
from pilotfish.local.apiserver.errors import ApiError
from pilotfish.local.apiserver.managedfields import on_update
from pilotfish.local.apiserver.schema import Schema

Object = dict[str, Any]


def builtin(name: str) -> Schema:
    return schema.compile_definition(name, types.definitions())


CONFIG_MAP = builtin("io.k8s.api.core.v1.ConfigMap")
SERVICE = builtin("io.k8s.api.core.v1.Service")
DEPLOYMENT = builtin("io.k8s.api.apps.v1.Deployment")
POD = builtin("io.k8s.api.core.v1.Pod")


def config_map(data: dict[str, str] | None = None, **meta: Any) -> Object:
    obj: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", **meta}}
    return obj if data is None else obj | {"data": data}


def apply(
    live: Object | None,
    patch: Object,
    manager: str = "a",
    *,
    s: Schema = CONFIG_MAP,
    force: bool = False,
    subresource: str = "",
    now: str = "T1",
) -> Object:
    kept = copy.deepcopy((live, patch))
    result = server_side_apply(live, patch, s, manager, force, patch["apiVersion"], subresource, now)
    assert (live, patch) == kept, "neither is to change"
    return result


def update(live: Object, new: Object, manager: str = "u", s: Schema = CONFIG_MAP) -> Object:
    new = copy.deepcopy(new)
    new["metadata"].setdefault("managedFields", live["metadata"].get("managedFields"))
    on_update(live, new, s, manager, new["apiVersion"], "", "T1")
    return new


def owners(obj: Object) -> dict[str, Any]:
    return {f"{e['manager']} {e['operation']}": e["fieldsV1"] for e in obj["metadata"].get("managedFields", [])}


def conflicts(call: Any) -> list[str]:
    with pytest.raises(ApiError) as refused:
        call()
    assert (refused.value.code, refused.value.reason) == (409, "Conflict")
    causes = refused.value.details["causes"]
    assert {cause["reason"] for cause in causes} == {"FieldManagerConflict"}
    return [cause["field"] for cause in causes]


def test_what_is_no_longer_applied_goes() -> None:
    """Unless somebody else owns it."""
    one = apply(None, config_map({"a": "1", "b": "1"}))
    two = apply(one, config_map({"b": "1", "c": "1"}), "other")
    three = apply(two, config_map(), now="T2")
    assert three["data"] == {"b": "1", "c": "1"}
    assert owners(three) == {"other Apply": {"f:data": {"f:b": {}, "f:c": {}}}}


def test_an_empty_map_is_declared_too() -> None:
    """Applying `data: {}` owns the map, and is not the same as applying none."""
    one = apply(apply(None, config_map({"a": "1"})), config_map({}))
    assert one["data"] == {}
    assert owners(one) == {"a Apply": {"f:data": {}}}
    assert apply(one, config_map({}), now="T9") == one


def test_the_same_again_changes_nothing() -> None:
    """No new time, so no new version of the object."""
    one = apply(None, config_map({"a": "1"}, labels={"x": "y"}))
    assert apply(one, config_map({"a": "1"}, labels={"x": "y"}), now="T9") == one


def test_the_same_value_is_owned_together() -> None:
    """Then it goes only when both have dropped it."""
    one = apply(apply(None, config_map({"a": "1"})), config_map({"a": "1"}), "b")
    assert owners(one) == {"a Apply": {"f:data": {"f:a": {}}}, "b Apply": {"f:data": {"f:a": {}}}}
    two = apply(one, config_map())
    assert two["data"] == {"a": "1"}
    assert "data" not in apply(two, config_map(), "b")


def test_another_value_is_a_conflict_and_can_be_forced() -> None:
    """The message names the manager as kubectl users know it; force takes the field away."""
    one = apply(None, config_map({"a": "1", "b": "1"}))
    assert conflicts(lambda: apply(one, config_map({"a": "2"}), "b")) == [".data.a"]
    forced = apply(one, config_map({"a": "2"}), "b", force=True)
    assert forced["data"] == {"a": "2", "b": "1"}
    assert owners(forced) == {"a Apply": {"f:data": {"f:b": {}}}, "b Apply": {"f:data": {"f:a": {}}}}
    with pytest.raises(ApiError) as refused:
        apply(update(one, config_map({"a": "3", "b": "4"})), config_map({"a": "1", "b": "1"}), "kubectl")
    assert refused.value.message == (
        'Apply failed with 2 conflicts: conflicts with "u" using v1:\n- .data.a\n- .data.b'
    )


def test_lists_merge_by_their_keys() -> None:
    """Two managers own different ports of one service; the order of neither is lost."""

    def service(*ports: int) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "s"},
            "spec": {"ports": [{"port": p, "name": f"p{p}", "protocol": "TCP"} for p in ports]},
        }

    one = apply(None, service(80, 81), s=SERVICE)
    two = apply(one, service(82, 81), "b", s=SERVICE)
    assert [p["port"] for p in two["spec"]["ports"]] == [80, 82, 81]
    three = apply(two, service(81), s=SERVICE)
    assert [p["port"] for p in three["spec"]["ports"]] == [82, 81]
    four = apply(three, service(), "b", s=SERVICE)
    assert [p["port"] for p in four["spec"]["ports"]] == [81]


def test_an_absent_key_is_its_default() -> None:
    """A port without a protocol is the TCP one."""
    body: Object = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
    one = apply(None, body | {"spec": {"ports": [{"port": 80, "protocol": "TCP"}]}}, s=SERVICE)
    two = apply(one, body | {"spec": {"ports": [{"port": 80, "name": "x"}]}}, "b", s=SERVICE)
    assert two["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "name": "x"}]


def test_sets_merge_and_lose_only_their_own() -> None:
    """Finalizers of two managers."""
    one = apply(None, config_map(finalizers=["x/a"]))
    two = apply(one, config_map(finalizers=["x/b"]), "b")
    assert two["metadata"]["finalizers"] == ["x/a", "x/b"]
    three = apply(two, config_map())
    assert three["metadata"]["finalizers"] == ["x/b"]


def test_what_is_atomic_is_owned_whole() -> None:
    """A node selector is replaced, and conflicts, as one."""

    def pod(**selector: str) -> Object:
        spec = {"nodeSelector": selector, "containers": [{"name": "a", "image": "i"}]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}

    one = apply(None, pod(a="1"), s=POD)
    assert apply(one, pod(b="1"), s=POD)["spec"]["nodeSelector"] == {"b": "1"}
    assert conflicts(lambda: apply(one, pod(a="1", b="1"), "b", s=POD)) == [".spec.nodeSelector"]


def test_nested_items_go_with_their_fields() -> None:
    """A container that is no longer applied goes with all that is in it; what defaults set in another stays."""

    def deployment(*containers: str, **more: Any) -> Object:
        items = [{"name": name, "image": name, **more} for name in containers]
        spec = {"selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": items}}}
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec}

    one = apply(None, deployment("a", "b", args=["x"]), s=DEPLOYMENT)
    two = copy.deepcopy(one)
    for container in two["spec"]["template"]["spec"]["containers"]:
        container["imagePullPolicy"] = "Always"
    three = apply(two, deployment("b"), s=DEPLOYMENT)
    assert three["spec"]["template"]["spec"]["containers"] == [{"name": "b", "image": "b", "imagePullPolicy": "Always"}]


def test_an_object_from_before_has_an_owner_too() -> None:
    """Without managedFields everything in it counts as set before the first apply; a different value conflicts."""
    live = config_map({"a": "1", "b": "1"}, uid="u")
    assert conflicts(lambda: apply(live, config_map({"a": "2"}))) == [".data.a"]
    same = apply(live, config_map({"a": "1"}))
    assert owners(same) == {
        "a Apply": {"f:data": {"f:a": {}}},
        "before-first-apply Update": {"f:data": {".": {}, "f:a": {}, "f:b": {}}},
    }


def test_kubectl_takes_over_what_its_client_side_apply_set() -> None:
    """Only where the annotation says so and the value is still that; the annotation follows."""
    key = "kubectl.kubernetes.io/last-applied-configuration"
    applied = config_map({"a": "1", "b": "1"})
    live = config_map({"a": "1", "b": "changed"}, annotations={key: json.dumps(applied)})
    live = update(config_map(), live, "kubectl-client-side-apply")
    live["metadata"]["managedFields"] = [
        {
            "manager": "kubectl-client-side-apply",
            "operation": "Update",
            "apiVersion": "v1",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {".": {}, "f:a": {}, "f:b": {}}},
        }
    ]
    taken = apply(live, config_map({"a": "2"}), "kubectl")
    assert taken["data"] == {"a": "2", "b": "changed"}
    assert json.loads(taken["metadata"]["annotations"][key]) == config_map({"a": "2"})
    assert conflicts(lambda: apply(live, config_map({"b": "2"}), "kubectl")) == [".data.b"]
    assert conflicts(lambda: apply(live, config_map({"a": "2"}), "other")) == [".data.a"]


def test_status_is_applied_through_its_subresource() -> None:
    """Through the main resource status is neither owned nor a reason for a conflict."""
    pod: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
    live = pod | {"spec": {"containers": [{"name": "a", "image": "i"}]}, "status": {"phase": "Pending"}}
    update(pod | {"spec": {"containers": []}}, live, s=POD)
    one = apply(live, pod | {"status": {"message": "m"}}, s=POD, subresource="status")
    assert owners(one)["a Apply"] == {"f:status": {"f:message": {}}}
    two = apply(one, pod | {"status": {"message": "other"}}, "b", s=POD)
    assert "b Apply" not in owners(two)


@pytest.mark.parametrize(
    ("patch", "code", "text"),
    [
        ({"dta": {}}, 500, ".dta: field not declared in schema"),
        ({"data": []}, 500, ".data: expected map, got list"),
        ({"data": {"a": 1}}, 500, ".data.a: expected string, got 1"),
        ({"metadata": {"name": "c", "managedFields": []}}, 400, "metadata.managedFields must be nil"),
        ({"apiVersion": "v2"}, 400, "Incorrect version specified in apply patch"),
    ],
)
def test_a_patch_that_does_not_fit_is_refused(patch: Object, code: int, text: str) -> None:
    """A field or type that the schema has not is 500 without a reason, as from a kube-apiserver."""
    with pytest.raises(ApiError) as refused:
        server_side_apply(None, config_map() | patch, CONFIG_MAP, "a", False, "v1", "", "T1")
    assert refused.value.code == code
    assert text in refused.value.message
    assert refused.value.reason == ("" if code == 500 else "BadRequest")


def test_repeated_items_are_refused() -> None:
    """A list map or set of a patch holds everything once."""
    ports = [{"port": 80, "protocol": "TCP"}, {"port": 80, "protocol": "TCP"}]
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}}
    with pytest.raises(ApiError, match=r"duplicate entries for key \[port=80,protocol=\"TCP\"\]"):
        apply(None, body, s=SERVICE)


KEYS = st.sampled_from("abcd")
DATA = st.dictionaries(KEYS, st.sampled_from("12"), max_size=4)
HISTORY = st.lists(st.tuples(st.sampled_from(["one", "two", "three"]), DATA), min_size=1, max_size=8)


@given(HISTORY)
def test_the_object_is_what_its_appliers_declare(history: list[tuple[str, dict[str, str]]]) -> None:
    """With force: each key has the value of the manager that applied it last, as long as somebody declares it."""
    obj: Object | None = None
    declared: dict[str, dict[str, str]] = {}
    for manager, data in history:
        obj = apply(obj, config_map(data or None), manager, force=True)
        for other in declared.values():
            for key in [k for k, v in other.items() if data.get(k, v) != v]:
                del other[key]
        declared[manager] = dict(data)
        expected: dict[str, str] = {}
        for values in declared.values():
            expected |= values
        assert (obj.get("data") or {}) == expected
        assert apply(obj, config_map(data or None), manager, force=True) == obj
        found = {name.split()[0]: set(f.get("f:data", {})) - {"."} for name, f in owners(obj).items()}
        assert found == {m: {f"f:{k}" for k in d} for m, d in declared.items() if d}


ITEMS = st.lists(st.sampled_from([80, 81, 82, 83]), unique=True, max_size=4)


@given(ITEMS, ITEMS)
def test_merged_lists_keep_both_orders(first: list[int], second: list[int]) -> None:
    """Items of the patch come in its order; those only in the object keep theirs."""

    def service(ports: list[int]) -> Object:
        spec = {"ports": [{"port": p, "protocol": "TCP"} for p in ports]}
        return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec}

    merged = apply(apply(None, service(first), s=SERVICE), service(second), "b", s=SERVICE)
    order = [p["port"] for p in merged["spec"]["ports"]]
    assert sorted(order) == sorted({*first, *second})
    assert [p for p in order if p in second] == second
    assert [p for p in order if p not in second] == [p for p in first if p not in second]
