"""What makes a CustomResourceDefinition right: names, versions, schemas, subresources, columns, conversion."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pilotfish.local.apiserver import crd

Object = dict[str, Any]
INT, STR = {"type": "integer"}, {"type": "string"}


def definition(schema: Object | None = None, **spec: Any) -> Object:
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}
    version = {"name": "v1", "served": True, "storage": True}
    version["schema"] = {"openAPIV3Schema": schema or {"type": "object"}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version], **spec},
    }


def problems(obj: Object) -> list[tuple[str, str]]:
    """(path, reason) of what is wrong with a new definition."""
    obj = copy.deepcopy(obj)
    crd.strategy.default(obj)
    crd.strategy.prepare_for_create(obj)
    errors = crd.strategy.validate(obj) + crd.strategy.validate_create(obj)
    return sorted((error.path, error.reason.value.removeprefix("FieldValue")) for error in errors)


def version(name: str = "v1", **more: Any) -> Object:
    schema = {"openAPIV3Schema": more.pop("schema", {"type": "object"})}
    return {"name": name, "served": True, "storage": True, "schema": schema, **more}


def names(**more: Any) -> Object:
    return {"names": {"plural": "widgets", "kind": "Widget", **more}}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, []),
        ({"scope": ""}, [("spec.scope", "Required")]),
        ({"scope": "Odd"}, [("spec.scope", "NotSupported")]),
        ({"group": ""}, [("metadata.name", "Invalid"), ("spec.group", "Required")]),
        ({"group": "nodots"}, [("metadata.name", "Invalid"), ("spec.group", "Invalid")]),
        (names(plural="Widgets"), [("metadata.name", "Invalid"), ("spec.names.plural", "Invalid")]),
        (names(singular="Widget"), [("spec.names.singular", "Invalid")]),
        (
            names(kind="wid_get"),
            [("spec.names.kind", "Invalid"), ("spec.names.listKind", "Invalid"), ("spec.names.singular", "Invalid")],
        ),
        (names(listKind="Widget"), [("spec.names.listKind", "Invalid")]),
        (names(shortNames=["W"]), [("spec.names.shortNames[0]", "Invalid")]),
        (names(categories=["a b"]), [("spec.names.categories[0]", "Invalid")]),
        (
            {"names": {}},
            [
                ("metadata.name", "Invalid"),
                *((f"spec.names.{n}", "Required") for n in ("kind", "listKind", "plural", "singular")),
            ],
        ),
        ({"versions": []}, [("spec.versions", "Invalid"), ("status.storedVersions", "Invalid")]),
        ({"versions": [version(), version()]}, [("spec.versions", "Invalid"), ("spec.versions", "Invalid")]),
        ({"versions": [version(storage=False)]}, [("spec.versions", "Invalid"), ("status.storedVersions", "Invalid")]),
        (
            {"versions": [version("v1"), version("v2")]},
            [("spec.versions", "Invalid"), ("status.storedVersions", "Invalid")],
        ),
        ({"versions": [version("V1")]}, [("spec.version", "Invalid"), ("spec.versions[0].name", "Invalid")]),
        ({"versions": [version(schema=None)]}, [("spec.versions[0].schema.openAPIV3Schema", "Required")]),
        ({"versions": [version(deprecationWarning="x")]}, [("spec.versions[0].deprecationWarning", "Invalid")]),
        ({"preserveUnknownFields": True}, [("spec.preserveUnknownFields", "Invalid")]),
        ({"conversion": {"strategy": "Odd"}}, [("spec.conversion.strategy", "NotSupported")]),
        (
            {"conversion": {"strategy": "Webhook"}},
            [
                ("spec.conversion.conversionReviewVersions", "Required"),
                ("spec.conversion.webhookClientConfig", "Required"),
            ],
        ),
        (
            {
                "conversion": {
                    "strategy": "Webhook",
                    "webhook": {"conversionReviewVersions": ["v9"], "clientConfig": {"url": "http://x"}},
                }
            },
            [
                ("spec.conversion.conversionReviewVersions", "Invalid"),
                ("spec.conversion.webhookClientConfig.url", "Invalid"),
            ],
        ),
        (
            {
                "conversion": {
                    "strategy": "None",
                    "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": {"url": "https://x"}},
                }
            },
            [
                ("spec.conversion.conversionReviewVersions", "Forbidden"),
                ("spec.conversion.webhookClientConfig", "Forbidden"),
            ],
        ),
        (
            {
                "versions": [
                    version(subresources={"scale": {"specReplicasPath": "spec.n", "statusReplicasPath": ".spec.n"}})
                ]
            },
            [
                ("spec.subresources.scale.specReplicasPath", "Invalid"),
                ("spec.subresources.scale.statusReplicasPath", "Invalid"),
            ],
        ),
        (
            {"versions": [version(subresources={"scale": {}})]},
            [
                ("spec.subresources.scale.specReplicasPath", "Required"),
                ("spec.subresources.scale.statusReplicasPath", "Required"),
            ],
        ),
        (
            {"versions": [version(additionalPrinterColumns=[{"name": "", "type": "odd", "jsonPath": "spec"}])]},
            [
                ("spec.additionalPrinterColumns[0].JSONPath", "Invalid"),
                ("spec.additionalPrinterColumns[0].name", "Required"),
                ("spec.additionalPrinterColumns[0].type", "Invalid"),
            ],
        ),
        (
            {"versions": [version(selectableFields=[{"jsonPath": ".spec.nope"}])]},
            [("spec.selectableFields[0].jsonPath", "Invalid")],
        ),
    ],
)
def test_the_spec_is_checked(spec: Object, expected: list[Any]) -> None:
    """Each mistake has the path and reason of a kube-apiserver."""
    assert problems(definition(**spec)) == sorted(expected)


def test_what_versions_do_not_share_is_found_under_each() -> None:
    """A mistake in the schema of one of two different versions is that version's."""
    bad = {"type": "object", "properties": {"a": {}}}
    versions = [version("v1"), version("v2", schema=bad, storage=False)]
    assert problems(definition(versions=versions)) == [
        ("spec.versions[1].schema.openAPIV3Schema.properties[a].type", "Required")
    ]
    versions = [version("v1", schema=bad), version("v2", schema=bad, storage=False)]
    assert problems(definition(versions=versions)) == [
        ("spec.validation.openAPIV3Schema.properties[a].type", "Required")
    ]


def test_a_protected_group_needs_approval() -> None:
    """As annotated by those who approved it."""
    obj = definition(group="x.k8s.io")
    obj["metadata"]["name"] = "widgets.x.k8s.io"
    assert problems(obj) == [("metadata.annotations[api-approved.kubernetes.io]", "Required")]
    obj["metadata"]["annotations"] = {"api-approved.kubernetes.io": "https://example.com/1"}
    assert problems(obj) == []


ROOT = "spec.validation.openAPIV3Schema"
A = f"{ROOT}.properties[a]"


def field(**schema: Any) -> Object:
    return {"type": "object", "properties": {"a": schema}}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (field(**STR, default="x"), []),
        (field(type="array", items={}), [(f"{A}.items.type", "Required")]),
        (
            field(type="object", additionalProperties={"type": "object", "properties": {"b": {}}}),
            [(f"{A}.additionalProperties.properties[b].type", "Required")],
        ),
        (
            field(type="object", additionalProperties=STR, properties={"b": STR}),
            [(f"{A}.additionalProperties", "Forbidden")],
        ),
        (field(**{"x-kubernetes-preserve-unknown-fields": True}), []),
        (
            field(**{"x-kubernetes-preserve-unknown-fields": False}),
            [(f"{A}.type", "Required"), (f"{A}.x-kubernetes-preserve-unknown-fields", "Invalid")],
        ),
        (field(**{"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}), []),
        (
            field(**INT, anyOf=[{"type": "integer"}, {"type": "string"}]),
            [(f"{A}.anyOf[0].type", "Forbidden"), (f"{A}.anyOf[1].type", "Forbidden")],
        ),
        (field(**{"x-kubernetes-embedded-resource": True, "type": "object"}), [(f"{A}.properties", "Required")]),
        (
            field(**{"x-kubernetes-embedded-resource": True, "type": "string"}),
            [(f"{A}.properties", "Required"), (f"{A}.type", "Invalid")],
        ),
        (
            field(type="object", properties={"b": INT}) | {"oneOf": [{"properties": {"c": {"minimum": 1}}}]},
            [(f"{ROOT}.properties[c]", "Required")],
        ),
        (
            field(**STR, allOf=[{"default": "x", "nullable": True}]),
            [(f"{A}.allOf[0].default", "Forbidden"), (f"{A}.allOf[0].nullable", "Forbidden")],
        ),
        (field(type="object", default={"b": 1}, properties={}), [(f"{A}.default", "Invalid")]),
        (field(type="object", default={"b": "x"}, properties={"b": INT}), [(f"{A}.default.b", "TypeInvalid")]),
        (
            field(**{"type": "array", "items": STR, "x-kubernetes-list-type": "odd"}),
            [(f"{A}.x-kubernetes-list-type", "NotSupported")],
        ),
        (field(**{**STR, "x-kubernetes-list-type": "set"}), [(f"{A}.type", "Invalid")]),
        (field(**{**STR, "x-kubernetes-map-type": "atomic"}), [(f"{A}.type", "Invalid")]),
        (
            field(**{"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "set"}),
            [(f"{A}.items.x-kubernetes-map-type", "Invalid")],
        ),
        (
            field(**{"type": "array", "items": STR, "x-kubernetes-list-map-keys": ["k"]}),
            [(f"{A}.x-kubernetes-list-type", "Required")],
        ),
        (
            field(
                **{
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["k", "k"],
                    "items": {"type": "object", "properties": {"k": STR}},
                }
            ),
            [
                (f"{A}.items.properties[k].default", "Required"),
                (f"{A}.items.properties[k].default", "Required"),
                (f"{A}.x-kubernetes-list-map-keys", "Invalid"),
            ],
        ),
        (
            field(
                **{
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["z"],
                    "items": {"type": "object", "required": ["k"], "properties": {"k": STR}},
                }
            ),
            [(f"{A}.x-kubernetes-list-map-keys", "Invalid")],
        ),
        ({"type": "object", "nullable": True}, [(f"{ROOT}.nullable", "Forbidden")]),
        (
            {
                "type": "object",
                "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}},
            },
            [(f"{ROOT}.properties[metadata]", "Forbidden")],
        ),
        (
            {
                "type": "object",
                "properties": {"metadata": {"type": "object", "properties": {"name": {**STR, "maxLength": 3}}}},
            },
            [],
        ),
        ({"type": "object", "properties": {"kind": INT}}, [(f"{ROOT}.properties[kind].type", "Invalid")]),
        (field(**STR, pattern="(?=x)"), [(f"{A}.pattern", "Invalid")]),
        (field(**STR, **{"$ref": "#/x"}), [(f"{A}.$ref", "Forbidden")]),
        (field(type="null"), [(f"{A}.type", "Forbidden"), (f"{A}.type", "NotSupported")]),
    ],
)
def test_the_schema_is_structural(schema: Object, expected: list[Any]) -> None:
    """Each rule for schemas names the place that breaks it."""
    assert problems(definition(schema)) == sorted(expected)


def test_only_some_keywords_stand_at_the_root_with_a_status() -> None:
    """With the status subresource the root may not judge spec and status together."""
    schema = {"type": "object", "properties": {"a": INT}, "oneOf": [{"required": ["a"]}]}
    assert problems(definition(versions=[version(schema=schema)])) == []
    assert problems(definition(versions=[version(schema=schema, subresources={"status": {}})])) == [(ROOT, "Invalid")]


def test_names_and_conversion_have_defaults() -> None:
    """The singular is the kind in lower case, the list its name with List behind."""
    obj = definition(names={"plural": "widgets", "kind": "Widget"})
    crd.strategy.default(obj)
    assert (obj["spec"]["names"]["singular"], obj["spec"]["names"]["listKind"]) == ("widget", "WidgetList")
    assert obj["spec"]["conversion"] == {"strategy": "None"}


def stored(obj: Object) -> Object:
    obj = copy.deepcopy(obj)
    crd.strategy.default(obj)
    crd.strategy.prepare_for_create(obj)
    obj["status"]["conditions"] = [{"type": "Established", "status": "True"}]
    return obj


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"scope": "Cluster"}, "spec.scope"),
        ({"group": "other.com"}, "spec.group"),
        (names(kind="Gadget"), "spec.names.kind"),
        (names(plural="gadgets"), "spec.names.plural"),
    ],
)
def test_what_objects_are_stored_under_cannot_change(change: Object, path: str) -> None:
    """Once established, the scope and kind; the group and plural always."""
    old = stored(definition())
    new = copy.deepcopy(old)
    new["spec"] |= change
    assert [error.path for error in crd.strategy.validate_update(new, old)] == [path]


def test_versions_that_objects_are_stored_in_are_remembered() -> None:
    """The new storage version joins them; none of them can go from the spec."""
    old = stored(definition())
    new = copy.deepcopy(old)
    new["spec"]["versions"] = [version("v1", storage=False), version("v2")]
    crd.strategy.prepare_for_update(new, old)
    assert new["status"]["storedVersions"] == ["v1", "v2"]
    assert old["status"]["storedVersions"] == ["v1"]
    assert crd.strategy.validate(new) == []
    gone = copy.deepcopy(new)
    gone["spec"]["versions"] = [version("v2")]
    crd.strategy.prepare_for_update(gone, new)
    assert [error.path for error in crd.strategy.validate(gone)] == ["status.storedVersions[0]"]


def test_a_name_belongs_to_one_definition_of_a_group() -> None:
    """The second is refused the name and keeps the others; another group may use it."""
    first = stored(definition())
    first["status"]["acceptedNames"] = first["spec"]["names"]
    rival = stored(definition(names={"plural": "others", "kind": "Widget", "shortNames": ["widget"]}))
    rival["metadata"]["name"] = "others.example.com"
    naming = crd.names_conflict(rival, [first, rival])
    assert naming.condition["status"] == "False"
    assert naming.established["reason"] == "NotAccepted"
    assert naming.accepted["plural"] == "others"
    assert "kind" not in naming.accepted
    elsewhere = copy.deepcopy(rival)
    elsewhere["spec"]["group"] = "example.org"
    assert crd.names_conflict(elsewhere, [first]).condition["reason"] == "NoConflicts"
    assert crd.names_conflict(first, [first]).established["reason"] == "InitialNamesAccepted"
