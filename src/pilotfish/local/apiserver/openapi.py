"""OpenAPI documents of what is served: v3 one a group version, v2 all in one.

Made for their readers: `kubectl explain` finds a kind by the group-version-kind of a path, `kubectl apply` looks for
`fieldValidation` and the strategic merge patch among what a patch takes, and for the patch extensions in the schemas.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pilotfish.local.apiserver.resource import Resource, Subresource
from pilotfish.local.apiserver.schema import CustomDefinition
from pilotfish.local.apiserver.schema.node import OBJECT_META

OpenApi = dict[str, Any]
Definitions = Mapping[str, Mapping[str, Any]]

_META = "io.k8s.apimachinery.pkg.apis.meta.v1"
_V3, _V2 = "#/components/schemas/", "#/definitions/"
_JSON_TYPES = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"]
_PATCH_TYPES = ["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"]
_STRATEGIC = "application/strategic-merge-patch+json"
_ACTIONS = {"get": "get", "put": "update", "patch": "patch", "post": "create", "delete": "delete"}
_LIST_QUERY = (
    *("allowWatchBookmarks:boolean", "continue:string", "fieldSelector:string", "labelSelector:string"),
    *("limit:integer", "resourceVersion:string", "resourceVersionMatch:string", "sendInitialEvents:boolean"),
    *("timeoutSeconds:integer", "watch:boolean"),
)
_WRITE_QUERY = ("dryRun:string", "fieldManager:string", "fieldValidation:string")
_DELETE_QUERY = (
    *("dryRun:string", "gracePeriodSeconds:integer", "orphanDependents:boolean", "propagationPolicy:string"),
)
_QUERY = {"put": _WRITE_QUERY, "post": _WRITE_QUERY, "patch": (*_WRITE_QUERY, "force:boolean"), "delete": _DELETE_QUERY}
_ONLY_V3 = ("nullable", "oneOf", "anyOf", "not", "x-kubernetes-validations")


def v3_document(group_version: str, resources: Iterable[Resource], definitions: Definitions) -> OpenApi:
    """The document of `v1` or `apps/v1`: the paths of its resources and every definition they reach."""
    ours = [resource for resource in resources if resource.api_version == group_version]
    paths = dict(_paths(ours, definitions, _V3))
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "components": {
            "schemas": _reached(paths, ours, definitions, _V3),
            "securitySchemes": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}},
        },
    }


def v2_document(resources: Iterable[Resource], definitions: Definitions) -> OpenApi:
    """All resources in Swagger 2.0, which has no alternatives and no null: those parts of the schemas are left out."""
    everything = list(resources)
    paths = dict(_paths(everything, definitions, _V2))
    reached = _reached(paths, everything, definitions, _V2)
    return {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "definitions": {name: _plain(schema) for name, schema in reached.items()},
        "securityDefinitions": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}],
    }


# --------------------------------------------------------------------------------------------------------------- paths


def _paths(resources: Iterable[Resource], definitions: Definitions, prefix: str) -> Iterator[tuple[str, OpenApi]]:
    by_kind = _index(definitions)
    for resource in resources:
        root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
        maker = _Maker(resource, by_kind, prefix)
        base = f"{root}/namespaces/{{namespace}}" if resource.namespaced else root
        if collection := maker.collection():
            yield f"{base}/{resource.plural}", collection
        if single := maker.single():
            yield f"{base}/{resource.plural}/{{name}}", single
        if resource.namespaced and "list" in resource.verbs:
            yield f"{root}/{resource.plural}", {"get": maker.operation("get", "list", everywhere=True)}
        for subresource in resource.subresources.values():
            yield f"{base}/{resource.plural}/{{name}}/{subresource.name}", maker.subresource(subresource)


def _index(definitions: Definitions) -> dict[tuple[str, str, str], str]:
    """Names of definitions by (group, version, kind)."""
    return {
        (one["group"], one["version"], one["kind"]): name
        for name, schema in definitions.items()
        for one in schema.get("x-kubernetes-group-version-kind") or ()
    }


class _Maker:
    """The operations of one resource."""

    def __init__(self, resource: Resource, by_kind: Mapping[tuple[str, str, str], str], prefix: str) -> None:
        self.resource = resource
        self.by_kind = by_kind
        self.prefix = prefix
        self.v3 = prefix == _V3
        self.custom = "io.k8s." not in resource.definition

    def collection(self) -> OpenApi:
        verbs = {
            "list": ("get", "list"),
            "create": ("post", "post"),
            "deletecollection": ("delete", "deletecollection"),
        }
        return {
            method: self.operation(method, action)
            for verb, (method, action) in verbs.items()
            if verb in self.resource.verbs
        }

    def single(self) -> OpenApi:
        methods = {"get": "get", "put": "update", "patch": "patch", "delete": "delete"}
        return {
            method: self.operation(method, method, named=True)
            for method, verb in methods.items()
            if verb in self.resource.verbs
        }

    def subresource(self, sub: Subresource) -> OpenApi:
        kind = (
            sub.group or ("" if sub.version else self.resource.group),
            sub.version or self.resource.version,
            sub.kind,
        )
        definition = self.by_kind.get(kind) or (self.resource.definition if sub.kind == self.resource.kind else "")
        return {
            method: self.operation(method, method, named=True, sub=sub, kind=kind, definition=definition)
            for method, verb in _ACTIONS.items()
            if verb in sub.verbs
        }

    def operation(
        self,
        method: str,
        action: str,
        *,
        named: bool = False,
        everywhere: bool = False,
        sub: Subresource | None = None,
        kind: tuple[str, str, str] | None = None,
        definition: str | None = None,
    ) -> OpenApi:
        resource = self.resource
        group, version, name = kind or (resource.group, resource.version, resource.kind)
        definition = resource.definition if definition is None else definition
        answered = definition + "List" if action == "list" else definition
        if action in ("delete", "deletecollection"):
            answered = f"{_META}.Status"
        scope = "Namespaced" if resource.namespaced and not everywhere else ""
        what = f"{scope}{resource.kind}{sub.name.capitalize() if sub else ''}{'ForAllNamespaces' if everywhere else ''}"
        made: OpenApi = {
            "tags": [f"{resource.group.split('.')[0] or 'core'}_{resource.version}"],
            "description": f"{action} {resource.plural}" + (f"/{sub.name}" if sub else ""),
            "operationId": f"{action}{_camel(resource.group) or 'Core'}{resource.version.capitalize()}{what}",
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": group, "kind": name, "version": version},
        }
        parameters = [_parameter(one, "query", self.v3) for one in self.query(method, action)]
        if named:
            parameters.append(_parameter("name:string", "path", self.v3))
        if resource.namespaced and not everywhere:
            parameters.append(_parameter("namespace:string", "path", self.v3))
        self.content(made, parameters, method, definition, answered, created=action == "post")
        made["parameters"] = parameters
        return made

    @staticmethod
    def query(method: str, action: str) -> tuple[str, ...]:
        if action == "list":
            return _LIST_QUERY
        if action == "deletecollection":
            return (*_LIST_QUERY[1:6], *_DELETE_QUERY)
        return _QUERY.get(method, ())

    def content(
        self, made: OpenApi, parameters: list[OpenApi], method: str, definition: str, answered: str, *, created: bool
    ) -> None:
        """What the operation takes and answers."""
        body, takes = "", _JSON_TYPES
        if method in ("put", "post"):
            body = definition
        elif method == "patch":
            body = f"{_META}.Patch"
            takes = _PATCH_TYPES if self.custom else [*_PATCH_TYPES, _STRATEGIC]
        elif method == "delete":
            body = f"{_META}.DeleteOptions"
        body_schema = {"$ref": self.prefix + body} if body else {}
        answer = {"$ref": self.prefix + answered} if answered else {"type": "string"}
        codes = ("200", "201") if created or method in ("put", "patch") else ("200",)
        if self.v3:
            if body:
                made["requestBody"] = {
                    "content": {media: {"schema": body_schema} for media in takes},
                    "required": method != "delete",
                }
            content = {"application/json": {"schema": answer}}
            made["responses"] = {code: {"description": "OK", "content": content} for code in codes}
            return
        made["consumes"], made["produces"] = takes if body else ["*/*"], _JSON_TYPES
        if body:
            parameters.append({"name": "body", "in": "body", "required": method != "delete", "schema": body_schema})
        made["responses"] = {code: {"description": "OK", "schema": answer} for code in codes}


def _camel(group: str) -> str:
    return "".join(part.capitalize() for part in group.removesuffix(".k8s.io").split("."))


_parameters: dict[tuple[str, str, bool], OpenApi] = {}


def _parameter(text: str, where: str, v3: bool) -> OpenApi:
    """`name:type` as a parameter; shared between operations."""
    key = (text, where, v3)
    if key not in _parameters:
        name, kind = text.split(":")
        made: OpenApi = {"name": name, "in": where}
        if where == "path":
            made["required"] = True
        made |= {"schema": {"type": kind, "uniqueItems": True}} if v3 else {"type": kind, "uniqueItems": True}
        _parameters[key] = made
    return _parameters[key]


# --------------------------------------------------------------------------------------------------------- definitions


def _reached(paths: OpenApi, resources: Iterable[Resource], definitions: Definitions, prefix: str) -> OpenApi:
    """The definitions that the paths refer to, and those that these refer to."""
    custom = {}
    for resource in resources:
        definition = definitions.get(resource.definition)
        if isinstance(definition, CustomDefinition):
            custom[resource.definition] = _whole(resource, definition)
            custom[resource.definition + "List"] = _list(resource)
    wanted = set(_references(paths))
    found: OpenApi = {}
    while wanted:
        name = wanted.pop()
        schema = custom.get(name) or definitions.get(name) or _MISSING.get(name)
        if schema is None:
            found[name] = {"type": "object"}
            continue
        found[name] = _published(schema, prefix)
        wanted |= set(_references(schema)) - found.keys()
    return dict(sorted(found.items()))


_MISSING: Definitions = {
    f"{_META}.Patch": {
        "type": "object",
        "description": "A JSON patch, a merge patch, a strategic merge patch, or the configuration to apply.",
    },
}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        reference = value.get("$ref")
        if isinstance(reference, str):
            yield reference.rpartition("/")[2]
        for item in value.values():
            if isinstance(item, Mapping | list):
                yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


_INTERNAL = "x-omit-zero"
"""An extension of ours that tells how a field is printed; it is nobody else's business."""
_RENAMED = {"x-enum": "enum"}
"""What built-in kinds may hold is checked by their strategies, but published like the enums of custom kinds."""


def _published(value: Any, prefix: str) -> Any:
    """A schema as the document has it: its references begin with `prefix`."""
    if isinstance(value, Mapping):
        return {
            _RENAMED.get(key, key): item.replace(_V3, prefix)
            if key == "$ref" and isinstance(item, str)
            else _published(item, prefix)
            for key, item in value.items()
            if key != _INTERNAL and not (key == "default" and item is None)
        }
    return [_published(item, prefix) for item in value] if isinstance(value, list) else value


def _whole(resource: Resource, definition: Mapping[str, Any]) -> OpenApi:
    """A custom resource's schema with what every object has."""
    texts = {
        "apiVersion": "The group and version of this object's form.",
        "kind": "The kind of this object.",
    }
    properties = dict(definition.get("properties") or {})
    for key, text in texts.items():
        properties[key] = {"type": "string", "description": text}
    metadata = {"description": "Name, namespace, labels, annotations and what the system keeps about the object."}
    properties["metadata"] = {**metadata, "allOf": [{"$ref": _V3 + OBJECT_META}]}
    return {
        **definition,
        "properties": properties,
        "x-kubernetes-group-version-kind": [_gvk(resource, resource.kind)],
    }


def _list(resource: Resource) -> OpenApi:
    return {
        "type": "object",
        "description": f"A list of {resource.kind} objects.",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"allOf": [{"$ref": f"{_V3}{_META}.ListMeta"}]},
            "items": {"type": "array", "items": {"$ref": _V3 + resource.definition}},
        },
        "x-kubernetes-group-version-kind": [_gvk(resource, resource.list_kind or resource.kind + "List")],
    }


def _gvk(resource: Resource, kind: str) -> OpenApi:
    return {"group": resource.group, "kind": kind, "version": resource.version}


def _plain(schema: Any) -> Any:
    """A schema without what Swagger 2.0 has not."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    all_of = schema.get("allOf") or []
    out: OpenApi = {}
    for key, value in schema.items():
        if key == "properties" and isinstance(value, Mapping):
            out[key] = {name: _plain(child) for name, child in value.items()}
        elif key == "default":
            out[key] = value
        elif key not in _ONLY_V3 and key != "allOf":
            out[key] = _plain(value)
    if len(all_of) == 1 and "$ref" in all_of[0]:
        out["$ref"] = all_of[0]["$ref"]
    if schema.get("format") in ("int-or-string", "quantity"):
        out["type"] = "string"
    if schema.get("nullable"):
        out.pop("type", None)
    return out
