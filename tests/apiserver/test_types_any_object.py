"""Whatever a client sends that has the right types is answered, with errors if need be, but never with a crash."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from tests.apiserver import builtin

from pilotfish.local.apiserver import schema, types
from pilotfish.local.apiserver.errors import ApiError
from pilotfish.local.apiserver.resource import Resource
from pilotfish.local.apiserver.types import admission

Object = dict[str, Any]

DEFINITIONS = types.definitions()
KINDS = [r for r in types.resources() if r.stored]
TEXTS = [
    *("", "a", "A_", "a.b", "0", "x/y", "*", "1", "-1", "10%", "/", "/a", "..", "0,2-5", "1.2.3.4", "10.0.0.0/8", "é"),
    *("Resource", "Utilization", "Exists", "In", "Indexed", "None", "metadata.name", "limits.cpu", "* * * * *"),
    *("RollingUpdate", "Container", "2026-01-01T00:00:00Z"),
]
SPECIAL: dict[str, list[Any]] = {
    "quantity": ["1", "0", "-1", "100m", "1Gi", "1.5", "1e3"],
    "int-or-string": [0, 1, -1, "10%", "a", "", "120%", 70000],
    "date-time": ["2026-01-01T00:00:00Z", "2020-01-01T00:00:00Z"],
    "byte": ["eA==", "", "e30="],
}
PLAIN: dict[str, list[Any]] = {
    "string": TEXTS,
    "integer": [0, 1, -1, 2, 80, 70000, 2**31 - 1],
    "number": [1.5],
    "boolean": [True, False],
}


class Nothing:
    """A cluster without objects, but with every class that is asked for."""

    def get(self, api_version: str, kind: str, namespace: str, name: str) -> Object | None:
        return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": namespace}}

    def list(self, api_version: str, kind: str, namespace: str) -> list[Object]:
        return [] if namespace else [{"apiVersion": api_version, "kind": kind, "metadata": {"name": "a"}}]


class Maker:
    """Random values of a definition; most fields of deep objects are left out."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)  # noqa: S311 - no secret

    def value(self, of: Object, depth: int = 0) -> Any:
        if "allOf" in of:
            return self.value(of["allOf"][0], depth)
        if "$ref" in of:
            return self.value(DEFINITIONS[of["$ref"].rpartition("/")[2]], depth)
        if choices := of.get("x-enum") or SPECIAL.get(of.get("format", "")) or PLAIN.get(of.get("type", "")):
            return self.random.choice(choices)
        if of.get("type") == "array":
            return [self.value(of["items"], depth + 1) for _ in range(self.random.choice([0, 1, 1, 2]))]
        if "properties" in of:
            return {
                name: self.value(one, depth + 1)
                for name, one in of["properties"].items()
                if self._takes(of, name, depth)
            }
        if "additionalProperties" in of:
            names = self.random.choices(TEXTS, k=self.random.choice([0, 1, 2]))
            return {name: self.value(of["additionalProperties"], depth + 1) for name in names}
        return {"a": 1}

    def _takes(self, of: Object, name: str, depth: int) -> bool:
        wanted = name in of.get("required", ()) or (depth == 0 and name in ("spec", "status"))
        return self.random.random() < (0.85 if wanted else 0.35 if depth < 3 else 0.25 if depth < 7 else 0.1)

    def obj(self, resource: Resource) -> Object:
        made: Object = self.value(DEFINITIONS[resource.definition])
        given = made.get("metadata") or {}
        metadata = {"name": "x"} | {key: given[key] for key in ("labels", "annotations") if key in given}
        made |= {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
        schema.normalise(builtin.schema_of(resource.definition), made)
        return builtin.read(made)


def _admitted(resource: Resource, obj: Object) -> None:
    try:
        admission.mutate(resource, "CREATE", obj, None, Nothing())
        admission.validate(resource, "CREATE", obj, None, Nothing())
    except ApiError as refused:
        assert refused.code == 403  # noqa: PT017 - either is fine


@pytest.mark.parametrize("resource", KINDS, ids=[f"{r.api_version} {r.kind}" for r in KINDS])
def test_any_object(resource: Resource) -> None:
    """Creating, updating, showing and converting work for objects with any values of the right types."""
    for i in range(12):
        maker = Maker(f"{resource.api_version} {resource.kind} {i}")
        first, second = maker.obj(resource), maker.obj(resource)
        status = copy.deepcopy(first.get("status"))
        _admitted(resource, first)
        first = builtin.created(first)
        builtin.problems(first)
        if status is not None:
            first["status"] = status
        second["metadata"] = first["metadata"]
        resource.strategy.prepare_for_update(second, first)
        builtin.problems(second, first)
        resource.strategy.prepare_for_status_update(second, first)
        resource.strategy.validate_status_update(second, first)
        for obj, old in ((first, None), (second, first)):
            assert all(isinstance(text, str) for text in resource.strategy.warnings(obj, old))
            assert all(isinstance(text, str) for text in resource.strategy.field_labels(obj).values())
            if resource.row:
                assert len(resource.row(obj)) == len(resource.columns)
            if resource.convert:
                for other in KINDS:
                    if other.kind == resource.kind:
                        resource.convert(copy.deepcopy(obj), other.api_version)
