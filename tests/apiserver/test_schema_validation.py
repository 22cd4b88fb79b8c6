"""Validation of custom resources: reasons, paths and wording of the Kubernetes API server."""

from __future__ import annotations

from typing import Any

import pytest

from pilotfish.local.apiserver import schema

INT = {"type": "integer"}
STR = {"type": "string"}


def errors(spec_schema: dict[str, Any], value: Any, old: Any = None) -> list[tuple[str, str]]:
    """(path, reason) of what is wrong with a spec."""
    compiled = schema.compile_schema({"type": "object", "properties": {"spec": spec_schema}})
    wrapped = [
        {"apiVersion": "example.com/v1", "kind": "W", "metadata": {"name": "w"}, "spec": one} for one in (value, old)
    ]
    found = schema.validate(compiled, wrapped[0], wrapped[1] if old is not None else None)
    return [(error.path, error.reason.value) for error in found]


def objects(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


@pytest.mark.parametrize(
    ("spec_schema", "value", "expected"),
    [
        (objects("a", a=INT), {}, [("spec.a", "FieldValueRequired")]),
        (objects(a=INT), {"a": "x"}, [("spec.a", "FieldValueTypeInvalid")]),
        (objects(a=INT), {"a": 1.5}, [("spec.a", "FieldValueTypeInvalid")]),
        (objects(a=INT), {"a": 1.0}, []),
        (objects(a=INT), {"a": True}, [("spec.a", "FieldValueTypeInvalid")]),
        (objects(a={"type": "number"}), {"a": 1}, []),
        (objects(a={**STR, "enum": ["x", "y"]}), {"a": "z"}, [("spec.a", "FieldValueNotSupported")]),
        (objects(a={**INT, "minimum": 1}), {"a": 0}, [("spec.a", "FieldValueInvalid")]),
        (objects(a={**INT, "minimum": 1, "exclusiveMinimum": True}), {"a": 1}, [("spec.a", "FieldValueInvalid")]),
        (objects(a={**INT, "maximum": 1}), {"a": 2}, [("spec.a", "FieldValueInvalid")]),
        (objects(a={**INT, "multipleOf": 3}), {"a": 4}, [("spec.a", "FieldValueInvalid")]),
        (objects(a={**INT, "format": "int32"}), {"a": 1 << 40}, [("spec.a", "FieldValueInvalid")]),
        (objects(a={**STR, "maxLength": 2}), {"a": "abc"}, [("spec.a", "FieldValueTooLong")]),
        (objects(a={**STR, "minLength": 2}), {"a": "a"}, [("spec.a", "FieldValueInvalid")]),
        (objects(a={**STR, "pattern": "^a+$"}), {"a": "b"}, [("spec.a", "FieldValueInvalid")]),
        (objects(a={**STR, "pattern": "^a+$"}), {"a": "aa\n"}, [("spec.a", "FieldValueInvalid")]),
        (objects(a={**STR, "pattern": "b"}), {"a": "abc"}, []),
        (objects(a={**STR, "format": "ipv4"}), {"a": "1.2.3"}, [("spec.a", "FieldValueInvalid")]),
        (objects(a={**STR, "format": "date-time"}), {"a": "2024-13-01T00:00:00Z"}, [("spec.a", "FieldValueInvalid")]),
        (objects(a={**STR, "format": "date-time"}), {"a": "2024-12-01T00:00:00.5+02:00"}, []),
        (objects(a={**STR, "format": "no-such-format"}), {"a": "?"}, []),
        (objects(a={"type": "array", "items": INT, "maxItems": 1}), {"a": [1, 2]}, [("spec.a", "FieldValueTooMany")]),
        (objects(a={"type": "array", "items": INT, "minItems": 1}), {"a": []}, [("spec.a", "FieldValueInvalid")]),
        (objects(a={"type": "array", "items": INT}), {"a": [1, "x"]}, [("spec.a[1]", "FieldValueTypeInvalid")]),
        (
            {"type": "object", "maxProperties": 1, "additionalProperties": INT},
            {"a": 1, "b": 2},
            [("spec", "FieldValueTooMany")],
        ),
        ({"type": "object", "minProperties": 1, "additionalProperties": INT}, {}, [("spec", "FieldValueInvalid")]),
        ({"type": "object", "additionalProperties": INT}, {"k": "x"}, [("spec.k", "FieldValueTypeInvalid")]),
        (objects(a={"x-kubernetes-int-or-string": True}), {"a": "5%"}, []),
        (objects(a={"x-kubernetes-int-or-string": True}), {"a": []}, [("spec.a", "FieldValueTypeInvalid")]),
        (objects(a=STR), {"a": None}, [("spec.a", "FieldValueTypeInvalid")]),
        (objects(a={**STR, "nullable": True, "enum": ["x"]}), {"a": None}, []),
    ],
)
def test_a_value_is_judged_by_its_schema(spec_schema: dict[str, Any], value: Any, expected: list[Any]) -> None:
    """Each keyword has its reason and names the field."""
    assert errors(spec_schema, value) == expected


def test_alternatives_belong_to_no_field() -> None:
    """The error of oneOf, anyOf and not itself is that of the whole object; the best alternative's errors follow."""
    one_of = objects(a=INT, b=INT) | {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}
    assert errors(one_of, {"a": 1}) == []
    assert errors(one_of, {"a": 1, "b": 1}) == [("<nil>", "FieldValueInvalid")]
    assert errors(one_of, {}) == [("<nil>", "FieldValueInvalid"), ("spec.a", "FieldValueRequired")]
    any_of = objects(a=INT, b=INT) | {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
    assert errors(any_of, {"a": 1, "b": 1}) == []
    assert errors(any_of, {})[0] == ("<nil>", "FieldValueInvalid")
    negated = objects(a=INT) | {"not": {"required": ["a"]}}
    assert errors(negated, {"a": 1}) == [("<nil>", "FieldValueInvalid")]
    all_of = objects(a=INT) | {"allOf": [{"properties": {"a": {"minimum": 2}}}]}
    assert errors(all_of, {"a": 1}) == [("spec.a", "FieldValueInvalid")]


def test_sets_and_maps_hold_everything_once() -> None:
    """A repeated item is a duplicate at its own place; keys with a default count with it."""
    numbers = objects(a={"type": "array", "items": INT, "x-kubernetes-list-type": "set"})
    assert errors(numbers, {"a": [1, 2, 1]}) == [("spec.a[2]", "FieldValueDuplicate")]
    ports = objects(
        a={
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["port", "protocol"],
            "items": objects("port", port=INT, protocol={**STR, "default": "TCP"}),
        }
    )
    assert errors(ports, {"a": [{"port": 1}, {"port": 1, "protocol": "UDP"}]}) == []
    assert errors(ports, {"a": [{"port": 1}, {"port": 1, "protocol": "TCP"}]}) == [("spec.a[1]", "FieldValueDuplicate")]


def test_an_embedded_object_says_what_it_is() -> None:
    """apiVersion and kind are required of it, whatever its schema says."""
    embedded = objects(
        e={"type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True}
    )
    assert errors(embedded, {"e": {"x": 1}}) == [
        ("spec.e.apiVersion", "FieldValueRequired"),
        ("spec.e.kind", "FieldValueRequired"),
    ]
    assert errors(embedded, {"e": {"apiVersion": "v1", "kind": "X"}}) == []


def test_what_was_wrong_before_and_has_not_changed_is_tolerated() -> None:
    """An update is judged by what it changes; list items have a past only where they have keys."""
    limited = objects(a={**INT, "minimum": 5}, b=INT)
    assert errors(limited, {"a": 1, "b": 2}, {"a": 1, "b": 1}) == []
    assert errors(limited, {"a": 2, "b": 1}, {"a": 1, "b": 1}) == [("spec.a", "FieldValueInvalid")]
    item = objects("k", k=STR, n={**INT, "minimum": 5})
    keyed = objects(
        l={"type": "array", "items": item, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}
    )
    old = {"l": [{"k": "a", "n": 1}, {"k": "b", "n": 9}]}
    assert errors(keyed, {"l": [{"k": "c", "n": 9}, {"k": "a", "n": 1}]}, old) == []
    plain = objects(l={"type": "array", "items": item})
    assert errors(plain, {"l": [{"k": "c", "n": 9}, {"k": "a", "n": 1}]}, old) == [("spec.l[1].n", "FieldValueInvalid")]


def test_names_can_be_limited_by_the_schema() -> None:
    """metadata.name is the only part of metadata, with generateName, that a schema may judge."""
    compiled = schema.compile_schema(
        {
            "type": "object",
            "properties": {"metadata": {"type": "object", "properties": {"name": {**STR, "maxLength": 3}}}},
        }
    )
    obj = {"apiVersion": "example.com/v1", "kind": "W", "metadata": {"name": "long", "labels": {"a": "b"}}}
    assert [error.path for error in schema.validate(compiled, obj)] == ["metadata.name"]


def test_wording_is_what_kubernetes_users_know() -> None:
    """The sentences name the field as it is called in the body."""
    compiled = schema.compile_schema(
        {"type": "object", "properties": {"spec": objects(n={**INT, "minimum": 0}, s=STR)}}
    )
    obj = {"apiVersion": "example.com/v1", "kind": "W", "metadata": {"name": "w"}, "spec": {"n": -1, "s": 5}}
    assert [str(error) for error in schema.validate(compiled, obj)] == [
        "spec.n: Invalid value: -1: spec.n in body should be greater than or equal to 0",
        'spec.s: Invalid value: "integer": spec.s in body must be of type string: "integer"',
    ]
