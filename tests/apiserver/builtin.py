"""Built-in kinds without a server: read, default and judge an object as the write path does."""

from __future__ import annotations

import copy
import functools
from typing import Any

import yaml

from pilotfish.local.apiserver import schema, types
from pilotfish.local.apiserver.resource import Resource

Object = dict[str, Any]


@functools.cache
def kind(api_version: str, name: str) -> Resource:
    (found,) = (r for r in types.resources() if (r.api_version, r.kind) == (api_version, name))
    return found


def of(obj: Object) -> Resource:
    return kind(obj["apiVersion"], obj["kind"])


@functools.cache
def schema_of(definition: str) -> schema.Schema:
    return schema.compile_definition(definition, types.definitions())


def read(given: str | Object) -> Object:
    """An object as it is after decoding and defaulting."""
    obj: Object = yaml.safe_load(given) if isinstance(given, str) else copy.deepcopy(given)
    resource = of(obj)
    compiled = schema_of(resource.definition)
    obj.setdefault("metadata", {}).setdefault("name", "x")
    if resource.namespaced:
        obj["metadata"].setdefault("namespace", "default")
    assert schema.decode_errors(compiled, obj) == []
    assert schema.find_unknown(compiled, obj) == []
    schema.normalise(compiled, obj)
    schema.apply_defaults(compiled, obj)
    resource.strategy.default(obj)
    return obj


def created(given: str | Object) -> Object:
    """The object as it is stored."""
    obj = read(given)
    obj["metadata"] |= {"uid": "6b0d0f9c-3c3c-4f0e-9d0f-0a0b0c0d0e0f", "creationTimestamp": "2026-01-01T00:00:00Z"}
    of(obj).strategy.prepare_for_create(obj)
    return obj


def problems(obj: Object, old: Object | None = None) -> list[tuple[str, str]]:
    """Reason and path of each field error, the reason without `FieldValue`."""
    resource = of(obj)
    errors = schema.validate(schema_of(resource.definition), obj, old) + resource.strategy.validate(obj)
    if old is None:
        errors += resource.strategy.validate_create(obj)
    else:
        errors += resource.strategy.validate_update(obj, old)
    return [(error.reason.value.removeprefix("FieldValue"), error.path) for error in errors]


def updated(old: Object, **spec: Any) -> Object:
    """The object with fields of its spec replaced (None: removed), as an update would store it."""
    new = copy.deepcopy(old)
    for field, value in spec.items():
        if value is None:
            new["spec"].pop(field, None)
        else:
            new["spec"][field] = value
    new = read(new)
    of(new).strategy.prepare_for_update(new, old)
    return new


def pod(container: Object | None = None, /, **spec: Any) -> Object:
    """A pod of one container `app`."""
    main = {"name": "app", "image": "nginx:1"} | (container or {})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [main]} | spec}


def make(api_version: str, name: str, **body: Any) -> Object:
    return {"apiVersion": api_version, "kind": name, "metadata": {"name": "x"}, **body}


def template(container: Object | None = None, /, **spec: Any) -> Object:
    return {"metadata": {"labels": {"app": "x"}}, "spec": pod(container, **spec)["spec"]}


def workload(name: str, **spec: Any) -> Object:
    """A Deployment, StatefulSet, DaemonSet or ReplicaSet of one container."""
    return make("apps/v1", name, spec={"selector": {"matchLabels": {"app": "x"}}, "template": template()} | spec)


def value(obj: Any, path: str) -> Any:
    """What is at `spec.containers.0.name`; KeyError when there is nothing."""
    for part in path.split("."):
        obj = obj[int(part)] if isinstance(obj, list) else obj[part]
    return obj
