"""What a CustomResourceDefinition serves: resources, tables, field selectors, scale, conversion."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotfish.local.apiserver import crd, openapi, schema, types
from pilotfish.local.apiserver.crd.jsonpath import JsonPathError, find
from pilotfish.local.apiserver.errors import ApiError

Object = dict[str, Any]


def definition(**v1: Any) -> Object:
    spec_schema = {"type": "object", "properties": {"n": {"type": "integer"}, "color": {"type": "string"}}}
    root = {
        "type": "object",
        "properties": {"spec": spec_schema, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
    }
    other = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer"}}}}}
    return {
        "metadata": {"name": "widgets.example.com", "uid": repr(v1), "generation": 1},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {
                "plural": "widgets",
                "singular": "widget",
                "kind": "Widget",
                "listKind": "WidgetList",
                "shortNames": ["wd"],
            },
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": root}, **v1},
                {"name": "v2", "served": True, "storage": False, "schema": {"openAPIV3Schema": other}},
                {"name": "v3", "served": False, "storage": False, "schema": {"openAPIV3Schema": other}},
            ],
        },
    }


def widget(**spec: Any) -> Object:
    meta = {"name": "w", "uid": "u", "creationTimestamp": "2020-01-01T00:00:00Z"}
    return {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": meta, "spec": spec}


def test_every_served_version_is_a_resource() -> None:
    """With the names it has been given, stored in the one storage version."""
    one, two = crd.resources_of(definition(subresources={"status": {}}))
    assert (one.api_version, two.api_version) == ("example.com/v1", "example.com/v2")
    assert (one.definition, one.storage_version, one.short_names) == ("com.example.v1.Widget", "v1", ("wd",))
    assert (list(one.subresources), list(two.subresources)) == (["status"], [])
    compiled = schema.compile_definition(one.definition, crd.definitions_of(definition(subresources={"status": {}})))
    assert compiled.status_subresource
    assert compiled is schema.compile_definition(
        one.definition, crd.definitions_of(definition(subresources={"status": {}}))
    )


def test_columns_are_filled_by_path_and_type() -> None:
    """Values of another type, and absent ones, are null; dates are ages; without columns there is the age."""
    columns = [
        {"name": "N", "type": "integer", "jsonPath": ".spec.n"},
        {"name": "Text", "type": "string", "jsonPath": ".spec", "priority": 1},
        {"name": "Odd", "type": "boolean", "jsonPath": ".spec.n"},
        {"name": "Since", "type": "date", "jsonPath": ".spec.since"},
        {"name": "Bad", "type": "date", "jsonPath": ".spec.color"},
        {"name": "None", "type": "string", "jsonPath": ".spec.nope"},
        {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
    ]
    resource = crd.resources_of(definition(additionalPrinterColumns=columns))[0]
    assert [c.name for c in resource.columns] == ["Name", "N", "Text", "Odd", "Since", "Bad", "None", "Ready"]
    assert resource.row is not None
    obj = widget(n=3, color="red", since="2020-01-01T00:00:00Z")
    obj["status"] = {"conditions": [{"type": "Other", "status": "1"}, {"type": "Ready", "status": "True"}]}
    cells = resource.row(obj)
    assert cells[:4] == ["w", 3, '{"n":3,"color":"red","since":"2020-01-01T00:00:00Z"}', None]
    assert cells[4].endswith(("y", "d"))
    assert cells[5:] == ["<invalid>", None, "True"]
    plain = crd.resources_of(definition())[0]
    assert [(c.name, c.type) for c in plain.columns] == [("Name", "string"), ("Age", "date")]


def test_scale_is_where_the_definition_says() -> None:
    """A replica count below zero is refused at the path as it was written."""
    scale = {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n", "labelSelectorPath": ".status.s"}
    resource = crd.resources_of(definition(subresources={"scale": scale}))[0]
    paths = crd.scale_paths(resource)
    assert paths is not None
    assert (paths.spec, paths.status, paths.selector) == (".spec.n", ".status.n", ".status.s")
    assert [error.path for error in resource.strategy.validate(widget(n=-1))] == [".spec.n"]
    assert resource.strategy.validate(widget(n=1)) == []
    assert crd.scale_paths(crd.resources_of(definition())[0]) is None


def test_fields_can_be_selected() -> None:
    """By the path without its leading dot; absent ones are empty."""
    resource = crd.resources_of(definition(selectableFields=[{"jsonPath": ".spec.color"}, {"jsonPath": ".spec.n"}]))[0]
    assert resource.field_labels == ("spec.color", "spec.n")
    assert resource.strategy.field_labels(widget(color="red")) == {"spec.color": "red", "spec.n": ""}
    assert resource.strategy.field_labels(widget(n=2))["spec.n"] == "2"


def test_deprecated_versions_warn() -> None:
    """In the words of the definition, or in ours."""
    resource = crd.resources_of(definition(deprecated=True))[0]
    assert resource.strategy.warnings(widget(), None) == ["example.com/v1 Widget is deprecated"]
    resource = crd.resources_of(definition(deprecated=True, deprecationWarning="no more"))[0]
    assert resource.strategy.warnings(widget(), None) == ["no more"]


async def no_webhook(_: Object, __: Object) -> Object:
    raise AssertionError("no webhook is to be called")


async def test_without_a_webhook_only_the_version_changes() -> None:
    """And fields that the other version lacks go; the stored object stays as it was."""
    stored = widget(n=1, color="red")
    kept = copy.deepcopy(stored)
    (converted,) = await crd.convert_objects(definition(), [stored], "v2", no_webhook)
    assert (converted["apiVersion"], converted["spec"]) == ("example.com/v2", {"n": 1})
    assert stored == kept
    assert await crd.convert_objects(definition(), [stored], "v1", no_webhook) == [stored]


async def test_defaults_that_came_later_are_seen_in_older_objects() -> None:
    """Once the definition has changed, objects are not shown as they were stored; the stored object stays as it is."""
    obj = definition()
    assert not crd.resources_of(obj)[0].reread
    obj["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["n"]["default"] = 4
    assert not crd.resources_of(obj)[0].reread
    obj["metadata"] |= {"generation": 2, "uid": "later"}
    assert [resource.reread for resource in crd.resources_of(obj)] == [True, False]
    stored = widget(color="red")
    (shown,) = await crd.convert_objects(obj, [stored], "v1", no_webhook)
    assert shown["spec"] == {"color": "red", "n": 4}
    assert stored["spec"] == {"color": "red"}


def webhooked() -> Object:
    obj = definition(served=True)
    client = {"url": "https://127.0.0.1/convert"}
    obj["spec"]["conversion"] = {"strategy": "Webhook", "webhook": {"clientConfig": client}}
    return obj


async def test_a_webhook_converts_all_at_once() -> None:
    """It is asked once for those in another version; of metadata it may change labels and annotations only."""
    asked: list[Object] = []

    async def hook(client: Object, review: Object) -> Object:
        assert client == {"url": "https://127.0.0.1/convert"}
        asked.append(review["request"])
        converted = copy.deepcopy(review["request"]["objects"])
        for obj in converted:
            obj["apiVersion"] = review["request"]["desiredAPIVersion"]
            obj["metadata"]["labels"] = {"by": "hook"}
            obj["metadata"]["generation"] = 99
            obj["spec"]["n"] += 1
        response = {"uid": review["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": converted}
        return {"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": response}

    already = widget(n=5) | {"apiVersion": "example.com/v2"}
    out = await crd.convert_objects(webhooked(), [widget(n=1), already, widget(n=2)], "v2", hook)
    assert [obj["spec"]["n"] for obj in out] == [2, 5, 3]
    assert len(asked) == 1
    assert len(asked[0]["objects"]) == 2
    assert out[0]["metadata"]["labels"] == {"by": "hook"}
    assert "generation" not in out[0]["metadata"]


@pytest.mark.parametrize(
    ("response", "text"),
    [
        ({"result": {"status": "Failure", "message": "no way"}}, "no way"),
        ({"result": {"status": "Success"}, "convertedObjects": []}, "expected 1 converted objects, got 0"),
        ({"result": {"status": "Success"}, "convertedObjects": [{}]}, "no object with metadata"),
        ({"result": {"status": "Success"}, "uid": "other"}, "expected response.uid"),
        ({"result": {"status": "Success"}, "convertedObjects": [widget()]}, "expected converted objects of version"),
        (
            {
                "result": {"status": "Success"},
                "convertedObjects": [
                    {**widget(), "apiVersion": "example.com/v2", "metadata": {"name": "other", "uid": "u"}}
                ],
            },
            r"metadata\.name must not change",
        ),
        (None, "no ConversionReview"),
    ],
)
async def test_a_webhook_that_answers_badly_is_an_internal_error(response: Object | None, text: str) -> None:
    """With what is wrong in the message."""

    async def hook(_: Object, review: Object) -> Object:
        answer = None if response is None else {"uid": review["request"]["uid"], **response}
        return {"kind": "ConversionReview", "response": answer}

    with pytest.raises(ApiError, match=text) as refused:
        await crd.convert_objects(webhooked(), [widget(n=1)], "v2", hook)
    assert refused.value.code == 500


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".a.b", [1]),
        ("$.a.b", [1]),
        ("{.a.b}", [1]),
        (".l[0].n", ["x"]),
        (".l[-1].n", ["y"]),
        (".l[*].n", ["x", "y"]),
        (".l[0:1].n", ["x"]),
        (".l[?(@.n=='y')].v", [2]),
        (".l[?(@.v>1)].n", ["y"]),
        (".l[?(@.w)].n", ["y"]),
        ("..n", ["x", "y"]),
        (".d['x.y/z']", [3]),
        (".d.x\\.y/z", []),
        (".nope.x", []),
        (".a.*", [1]),
        (".l[9]", []),
        (".", [{"a": {"b": 1}, "l": [{"n": "x", "v": 1}, {"n": "y", "v": 2, "w": 0}], "d": {"x.y/z": 3}}]),
    ],
)
def test_paths_lead_to_values(path: str, found: list[Any]) -> None:
    """The JSONPath of kubectl."""
    obj = {"a": {"b": 1}, "l": [{"n": "x", "v": 1}, {"n": "y", "v": 2, "w": 0}], "d": {"x.y/z": 3}}
    assert find(path, obj) == found


@pytest.mark.parametrize("path", [".a[", "a b", ".l[x]", ".l[?(n==1)]", ".l[?(@.n==x)]", "..", "]"])
def test_what_is_no_path_says_so(path: str) -> None:
    """JsonPathError names the path."""
    with pytest.raises(JsonPathError):
        find(path, {"l": [{"n": 1}]})


@given(st.text(alphabet=".[]*'ab0?(@=)\"$:-", max_size=12))
def test_no_text_is_too_odd_for_a_path(text: str) -> None:
    """It is a path or it is none, and nothing else happens."""
    with contextlib.suppress(JsonPathError):
        assert isinstance(find(text, {"a": [{"b": 1}]}), list)


def test_openapi_tells_kubectl_what_it_looks_for() -> None:
    """A custom kind is found by its group-version-kind, has metadata, takes fieldValidation and no strategic patch."""
    obj = definition(subresources={"status": {}})
    resources = [*types.resources(), *crd.resources_of(obj)]
    definitions = {**types.definitions(), **crd.definitions_of(obj)}
    document = openapi.v3_document("example.com/v1", resources, definitions)
    path = document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"]
    assert path["patch"]["x-kubernetes-group-version-kind"] == {
        "group": "example.com",
        "kind": "Widget",
        "version": "v1",
    }
    assert {"fieldValidation", "fieldManager", "dryRun", "force"} <= {p["name"] for p in path["patch"]["parameters"]}
    assert "application/strategic-merge-patch+json" not in path["patch"]["requestBody"]["content"]
    schemas = document["components"]["schemas"]
    assert schemas["com.example.v1.Widget"]["properties"]["spec"]["properties"]["n"] == {"type": "integer"}
    assert "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta" in schemas
    assert "io.k8s.api.core.v1.Pod" not in schemas
    assert "/apis/example.com/v1/namespaces/{namespace}/widgets/{name}/status" in document["paths"]


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(item) for item in value.values()))
    return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()


def test_openapi_documents_refer_only_to_what_they_hold() -> None:
    """Every reference of every document leads somewhere, and nothing of ours leaks."""
    obj = definition()
    resources = [*types.resources(), *crd.resources_of(obj)]
    definitions = {**types.definitions(), **crd.definitions_of(obj)}
    for group_version in {resource.api_version for resource in resources}:
        document = openapi.v3_document(group_version, resources, definitions)
        held = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
        assert references(document) <= held
    document = openapi.v2_document(resources, definitions)
    assert references(document) <= {f"#/definitions/{name}" for name in document["definitions"]}
    assert "x-omit-zero" not in str(document)
    assert document["definitions"]["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"] == [
        {"group": "", "kind": "Pod", "version": "v1"}
    ]
