"""metadata.managedFields: what each write leaves in it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotfish.local.apiserver import schema, types
from pilotfish.local.apiserver.managedfields import on_update, validate_managed_fields
from pilotfish.local.apiserver.schema import Schema

Object = dict[str, Any]


def builtin(name: str) -> Schema:
    return schema.compile_definition(name, types.definitions())


CONFIG_MAP = builtin("io.k8s.api.core.v1.ConfigMap")
POD = builtin("io.k8s.api.core.v1.Pod")
CUSTOM = schema.compile_schema(
    {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": True,
                "properties": {
                    "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                    "list": {"type": "array", "items": {"type": "string"}},
                    "whole": {
                        "type": "object",
                        "x-kubernetes-map-type": "atomic",
                        "additionalProperties": {"type": "string"},
                    },
                },
            }
        },
    }
)


def config_map(data: dict[str, str] | None = None, **meta: Any) -> Object:
    obj: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", **meta}}
    return obj if data is None else obj | {"data": data}


def write(old: Object | None, new: Object, manager: str = "m", s: Schema = CONFIG_MAP, **more: Any) -> Object:
    new = copy.deepcopy(new)
    if old is not None and "managedFields" not in new["metadata"] and "managedFields" in old["metadata"]:
        new["metadata"]["managedFields"] = copy.deepcopy(old["metadata"]["managedFields"])
    on_update(old, new, s, manager, more.get("version", "v1"), more.get("subresource", ""), more.get("now", "T1"))
    return new


def owners(obj: Object) -> dict[str, Any]:
    return {entry["manager"]: entry["fieldsV1"] for entry in obj["metadata"].get("managedFields", [])}


def test_a_creator_owns_what_it_set() -> None:
    """Maps that were not there before are owned themselves, structs that always are, are not."""
    made = write(None, config_map({"a": "1"}, labels={"x": "y"}))
    assert made["metadata"]["managedFields"] == [
        {
            "manager": "m",
            "operation": "Update",
            "apiVersion": "v1",
            "time": "T1",
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:data": {".": {}, "f:a": {}},
                "f:metadata": {"f:labels": {".": {}, "f:x": {}}},
            },
        }
    ]


def test_what_kubernetes_owns_of_a_pod() -> None:
    """spec and containers come with every pod; items of lists, and lists that need not be there, are owned."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {
            "containers": [
                {
                    "name": "app",
                    "image": "i",
                    "args": ["x"],
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "resources": {},
                }
            ],
            "nodeSelector": {"a": "b"},
        },
    }
    assert owners(write(None, pod, s=POD)) == {
        "m": {
            "f:spec": {
                "f:containers": {
                    'k:{"name":"app"}': {
                        ".": {},
                        "f:args": {},
                        "f:image": {},
                        "f:name": {},
                        "f:ports": {
                            ".": {},
                            'k:{"containerPort":80,"protocol":"TCP"}': {
                                ".": {},
                                "f:containerPort": {},
                                "f:protocol": {},
                            },
                        },
                        "f:resources": {},
                    }
                },
                "f:nodeSelector": {},
            }
        }
    }


def test_a_custom_resource_begins_with_nothing() -> None:
    """Its spec is owned itself; sets by value, plain lists and atomic maps whole, free-form maps by field."""
    obj = {
        "apiVersion": "example.com/v1",
        "kind": "W",
        "metadata": {"name": "w"},
        "spec": {"set": ["a"], "list": ["a"], "whole": {"a": "b"}, "free": {"x": {"y": [1]}}, "empty": {}},
    }
    assert owners(write(None, obj, s=CUSTOM)) == {
        "m": {
            "f:spec": {
                ".": {},
                "f:set": {".": {}, 'v:"a"': {}},
                "f:list": {},
                "f:whole": {},
                "f:free": {".": {}, "f:x": {".": {}, "f:y": {}}},
                "f:empty": {},
            }
        }
    }


def test_a_change_moves_ownership_and_a_removal_ends_it() -> None:
    """Only of what changed; a manager with nothing left is forgotten."""
    made = write(None, config_map({"a": "1", "b": "1"}), "one")
    changed = write(made, config_map({"a": "2", "b": "1"}), "two", now="T2")
    assert owners(changed) == {"one": {"f:data": {".": {}, "f:b": {}}}, "two": {"f:data": {"f:a": {}}}}
    removed = write(changed, config_map({"b": "1"}), "one", now="T3")
    assert owners(removed) == {"one": {"f:data": {".": {}, "f:b": {}}}}
    assert write(removed, config_map(), "three")["metadata"].get("managedFields") is None


def test_a_write_that_changes_nothing_leaves_no_trace() -> None:
    """Not even a new time."""
    made = write(None, config_map({"a": "1"}), "one")
    assert write(made, made, "two", now="T9") == made


def test_managers_are_told_apart_by_operation_version_and_subresource() -> None:
    """The status subresource is an owner of its own, and owns no spec."""
    pod: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": []}}
    made = write(None, pod | {"status": {"phase": "Running"}}, s=POD)
    assert "f:status" not in owners(made).get("m", {})
    after = write(
        made,
        pod | {"spec": {"containers": [], "nodeName": "n"}, "status": {"phase": "Failed"}},
        s=POD,
        subresource="status",
    )
    entry = after["metadata"]["managedFields"][-1]
    assert (entry["subresource"], entry["fieldsV1"]) == ("status", {"f:status": {"f:phase": {}}})


def test_a_client_may_reset_the_bookkeeping() -> None:
    """An empty list, or one empty entry, ends it; writes do not begin it again."""
    made = write(None, config_map({"a": "1"}))
    resets: list[list[Object]] = [[], [{}]]
    for reset in resets:
        gone = write(made, config_map({"a": "2"}, managedFields=reset))
        assert "managedFields" not in gone["metadata"]
        assert "managedFields" not in write(gone, config_map({"a": "3"}))["metadata"]


def test_a_client_may_rewrite_the_bookkeeping() -> None:
    """kubectl does so to take over from client-side apply; what cannot be read is ignored."""
    made = write(None, config_map({"a": "1"}))
    entries = [{**made["metadata"]["managedFields"][0], "manager": "kubectl", "operation": "Apply"}]
    taken = write(made, config_map({"a": "1"}, managedFields=entries))
    assert owners(taken).keys() == {"kubectl"}
    broken = write(made, config_map({"a": "1"}, managedFields=[{"manager": "x", "operation": "Sing"}]))
    assert owners(broken) == owners(made)


def test_only_ten_updaters_are_remembered_by_name() -> None:
    """The oldest are merged into one, which owns all of theirs."""
    obj = write(None, config_map({"k0": "x"}), "m0", now="T00")
    data = {"k0": "x"}
    for i in range(1, 14):
        data = {**data, f"k{i}": "x"}
        obj = write(obj, config_map(data), f"m{i}", now=f"T{i:02}")
    entries = obj["metadata"]["managedFields"]
    assert len(entries) == 10
    ancient = next(entry for entry in entries if entry["manager"] == "ancient-changes")
    assert {"f:k0", "f:k1", "f:k4"} <= ancient["fieldsV1"]["f:data"].keys()


def test_items_that_cannot_be_told_apart_are_one() -> None:
    """Repeated environment variables, which Kubernetes tolerates, are owned together."""

    def pod(*values: str) -> Object:
        env = [{"name": "X", "value": value} for value in values]
        spec = {"containers": [{"name": "a", "env": env}]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}

    made = write(None, pod("1", "2"), s=POD)
    env = owners(made)["m"]["f:spec"]["f:containers"]['k:{"name":"a"}']["f:env"]
    assert env == {".": {}, 'k:{"name":"X"}': {}}
    single = write(made, pod("1"), "other", s=POD)
    env = owners(single)["other"]["f:spec"]["f:containers"]['k:{"name":"a"}']["f:env"]
    assert env == {'k:{"name":"X"}': {".": {}, "f:name": {}, "f:value": {}}}


DATA = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("123"), max_size=6)


@given(st.lists(st.tuples(st.sampled_from(["one", "two", "three"]), DATA), min_size=1, max_size=6))
def test_every_field_has_just_one_updater(writes: list[tuple[str, dict[str, str]]]) -> None:
    """After any history each key of the object is owned by the manager that last changed it, and nothing else is."""
    obj: Object | None = None
    last: dict[str, str] = {}
    values: dict[str, str] = {}
    for manager, data in writes:
        obj = (
            write(obj, config_map(data or None), manager) if obj is None or "managedFields" in obj["metadata"] else obj
        )
        if "managedFields" not in obj["metadata"]:
            return  # nothing is owned any more: bookkeeping has ended
        for key, value in data.items():
            if values.get(key) != value:
                last[key] = manager
        values = data
    assert obj is not None
    found = {
        key.removeprefix("f:"): manager
        for manager, fields in owners(obj).items()
        for key in fields.get("f:data", {})
        if key != "."
    }
    assert found == {key: last[key] for key in values}


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        ({"operation": "Sing"}, "metadata.managedFields[0].operation"),
        ({"operation": "Apply", "fieldsType": "V2"}, "metadata.managedFields[0].fieldsType"),
        ({"operation": "Apply", "manager": "m" * 129}, "metadata.managedFields[0].manager"),
        ({"operation": "Apply", "manager": "a\nb"}, "metadata.managedFields[0].manager"),
    ],
)
def test_entries_that_clients_send_are_checked(entry: Object, path: str) -> None:
    """The field that is wrong is named."""
    assert [error.path for error in validate_managed_fields([entry])] == [path]
