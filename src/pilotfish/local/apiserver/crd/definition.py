"""The rules for CustomResourceDefinitions themselves.

Field paths follow the Kubernetes API server, which checks an internal form: what all versions have in common stands at
the top there (`spec.validation`, `spec.subresources`, …) and only what differs under `spec.versions[i]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from pilotfish.local.apiserver.crd.jsonpath import JsonPathError, compile_path
from pilotfish.local.apiserver.crd.structural import schema_errors
from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.meta import LABEL_1035_RULE
from pilotfish.local.apiserver.resource import Object, Strategy
from pilotfish.local.apiserver.selectors import SUBDOMAIN_RULE

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_COLUMN_TYPES = ["boolean", "date", "integer", "number", "string"]
_COLUMN_FORMATS = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"]
_ROOT_FIELDS = {
    *("description", "type", "format", "title", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"),
    *("maxLength", "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "multipleOf", "required", "items"),
    *("properties", "externalDocs", "example", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-validations"),
}
_PROTECTED = (".k8s.io", ".kubernetes.io")
_APPROVAL = "api-approved.kubernetes.io"
_REVIEW_VERSIONS = ("v1", "v1beta1")
_MAX_SELECTABLE = 8

Errors = Iterator[FieldError]


class DefinitionStrategy(Strategy):
    """CustomResourceDefinition: defaults, validation, what may change, and which versions are stored."""

    def default(self, obj: Object) -> None:
        spec = obj.get("spec") or {}
        names = spec.get("names") or {}
        if kind := names.get("kind"):
            names["singular"] = names.get("singular") or kind.lower()
            names["listKind"] = names.get("listKind") or kind + "List"
        conversion = spec.setdefault("conversion", {"strategy": "None"})
        service = ((conversion.get("webhook") or {}).get("clientConfig") or {}).get("service")
        if service is not None:
            service.setdefault("port", 443)

    def prepare_for_create(self, obj: Object) -> None:
        names = {"kind": "", "plural": ""}
        obj["status"] = {"acceptedNames": names, "conditions": [], "storedVersions": []}
        _note_storage(obj)

    def prepare_for_update(self, new: Object, old: Object) -> None:
        status = dict(old.get("status") or {})
        status["storedVersions"] = list(status.get("storedVersions") or ())
        new["status"] = status
        _note_storage(new)

    def validate_create(self, obj: Object) -> list[FieldError]:
        return list(_create_errors(obj))

    def validate(self, obj: Object) -> list[FieldError]:
        return [*_spec_errors(obj.get("spec") or {}), *_status_errors(obj)]

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        return list(_update_errors(new, old))

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        _ = old
        return list(_name_errors((new.get("status") or {}).get("acceptedNames") or {}, "status.acceptedNames"))


def _note_storage(obj: Object) -> None:
    """The version now used for storage joins those that objects may be stored in."""
    stored = obj["status"]["storedVersions"]
    for version in (obj.get("spec") or {}).get("versions") or ():
        if version.get("storage"):
            if version.get("name") not in stored:
                stored.append(version.get("name", ""))
            break


def _create_errors(obj: Object) -> Errors:
    spec, meta = obj.get("spec") or {}, obj["metadata"]
    name = meta.get("name", "")
    if name and name != f"{(spec.get('names') or {}).get('plural', '')}.{spec.get('group', '')}":
        yield FieldError.invalid("metadata.name", name, 'must be spec.names.plural+"."+spec.group')
    if str(spec.get("group", "")).endswith(_PROTECTED) and not (meta.get("annotations") or {}).get(_APPROVAL):
        yield FieldError.required(
            f"metadata.annotations[{_APPROVAL}]",
            f"protected groups must have approval annotation {_APPROVAL!r}, see "
            "https://github.com/kubernetes/enhancements/pull/1111",
        )
    if spec.get("preserveUnknownFields"):
        yield FieldError.invalid(
            "spec.preserveUnknownFields",
            True,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        )


def _update_errors(new: Object, old: Object) -> Errors:
    a, b = new["spec"], old["spec"]
    conditions = (old.get("status") or {}).get("conditions") or ()
    fixed = [("group", a.get("group"), b.get("group")), *_named(a, b, "plural")]
    if any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions):
        fixed = [("scope", a.get("scope"), b.get("scope")), *_named(a, b, "kind"), *fixed]
    for path, value, before in fixed:
        if value != before:
            yield FieldError.invalid(f"spec.{path}", value, "field is immutable")


def _named(a: Object, b: Object, field: str) -> list[tuple[str, Any, Any]]:
    return [(f"names.{field}", a["names"].get(field), b["names"].get(field))]


# ---------------------------------------------------------------------------------------------------------------- spec


def _label_errors(path: str, value: str, prefix: str = "") -> Errors:
    problems = []
    if len(value) > 63:
        problems.append("must be no more than 63 bytes")
    if not _LABEL.fullmatch(value):
        problems.append(LABEL_1035_RULE)
    if problems:
        yield FieldError.invalid(path, value, prefix + ",".join(problems))


def _spec_errors(spec: Object) -> Errors:
    group, versions = spec.get("group", ""), spec.get("versions") or []
    if not group:
        yield FieldError.required("spec.group")
    elif not _SUBDOMAIN.fullmatch(group) or len(group) > 253:
        yield FieldError.invalid("spec.group", group, SUBDOMAIN_RULE)
    elif "." not in group:
        yield FieldError.invalid("spec.group", group, "should be a domain with at least one dot")
    scope = spec.get("scope", "")
    if not scope:
        yield FieldError.required("spec.scope")
    elif scope not in ("Cluster", "Namespaced"):
        yield FieldError.not_supported("spec.scope", scope, ["Cluster", "Namespaced"])
    yield from _version_errors(versions)
    names = spec.get("names") or {}
    for field in ("plural", "singular", "kind", "listKind"):
        if not names.get(field):
            yield FieldError.required(f"spec.names.{field}")
    yield from _name_errors(names, "spec.names")
    yield from _content_errors(versions)
    yield from _conversion_errors(spec.get("conversion"))


def _version_errors(versions: list[Object]) -> Errors:
    seen: set[str] = set()
    for i, version in enumerate(versions):
        name = version.get("name", "")
        yield from _label_errors(f"spec.versions[{i}].name", name)
        warning = version.get("deprecationWarning")
        if warning is not None:
            path = f"spec.versions[{i}].deprecationWarning"
            yield from (FieldError.invalid(path, warning, why) for why in _deprecation(version, warning))
        if not (version.get("schema") or {}).get("openAPIV3Schema"):
            yield FieldError.required(f"spec.versions[{i}].schema.openAPIV3Schema", "schemas are required")
        seen.add(name)
    if len(seen) < len(versions):
        yield FieldError.invalid("spec.versions", versions, "must contain unique version names")
    if sum(bool(version.get("storage")) for version in versions) != 1:
        yield FieldError.invalid("spec.versions", versions, "must have exactly one version marked as storage version")
    if versions and versions[0].get("name"):
        yield from _label_errors("spec.version", versions[0]["name"])


def _deprecation(version: Object, warning: str) -> Iterator[str]:
    if not version.get("deprecated"):
        yield "can only be set for deprecated versions"
    if not warning:
        yield "cannot be empty if specified"
    if len(warning.encode()) > 256:
        yield "must be <= 256 bytes"
    if not warning.isprintable():
        yield "must only contain printable UTF-8 characters"


def _name_errors(names: Object, path: str) -> Errors:
    mixed = "may have mixed case, but should otherwise match: "
    for field in ("plural", "singular"):
        if names.get(field):
            yield from _label_errors(f"{path}.{field}", names[field])
    for field in ("kind", "listKind"):
        if names.get(field) and any(True for _ in _label_errors("", names[field].lower())):
            yield FieldError.invalid(f"{path}.{field}", names[field], mixed + LABEL_1035_RULE)
    for i, name in enumerate(names.get("shortNames") or ()):
        yield from _label_errors(f"{path}.shortNames[{i}]", name)
    if names.get("kind") and names.get("kind") == names.get("listKind"):
        yield FieldError.invalid(f"{path}.listKind", names["listKind"], "kind and listKind may not be the same")
    for i, category in enumerate(names.get("categories") or ()):
        yield from _label_errors(f"{path}.categories[{i}]", category)


# ------------------------------------------------------------------------------- what versions share or have themselves


def _placed(versions: list[Object], field: str, top: str) -> Iterator[tuple[str, Object, Any]]:
    """Where the server sees a field of the versions: at the top once when all agree, else under each."""
    values = [version.get(field) for version in versions]
    if not values:
        return
    if all(value == values[0] for value in values):
        yield f"spec.{top}", versions[0], values[0]
        return
    for i, (version, value) in enumerate(zip(versions, values, strict=True)):
        yield f"spec.versions[{i}].{field}", version, value


def _content_errors(versions: list[Object]) -> Errors:
    for path, version, value in _placed(versions, "schema", "validation"):
        if schema := (value or {}).get("openAPIV3Schema"):
            yield from _root_errors(f"{path}.openAPIV3Schema", version, schema)
            yield from schema_errors(f"{path}.openAPIV3Schema", schema)
    for path, _, value in _placed(versions, "subresources", "subresources"):
        yield from _scale_errors(f"{path}.scale", (value or {}).get("scale"))
    for path, _, value in _placed(versions, "additionalPrinterColumns", "additionalPrinterColumns"):
        for i, column in enumerate(value or ()):
            yield from _column_errors(f"{path}[{i}]", column)
    for path, version, value in _placed(versions, "selectableFields", "selectableFields"):
        schema = (version.get("schema") or {}).get("openAPIV3Schema") or {}
        yield from _selectable_errors(path, value or [], schema)


def _root_errors(path: str, version: Object, schema: Object) -> Errors:
    if (version.get("subresources") or {}).get("status") is not None:
        if schema.get("type", "object") != "object":
            yield FieldError.invalid(
                f"{path}.type",
                schema["type"],
                'only "object" is allowed as the type at the root of the schema if the status subresource is enabled',
            )
        elif odd := [key for key, value in schema.items() if key not in _ROOT_FIELDS and value not in (None, False)]:
            yield FieldError.invalid(
                path,
                {key: schema[key] for key in odd},
                f"only {sorted(_ROOT_FIELDS)} fields are allowed at the root of the schema "
                "if the status subresource is enabled",
            )
    if schema.get("nullable"):
        yield FieldError.forbidden(f"{path}.nullable", "nullable cannot be true at the root")


def _scale_errors(path: str, scale: Object | None) -> Errors:
    if scale is None:
        return
    for field, under, needed in (
        ("specReplicasPath", ".spec.", True),
        ("statusReplicasPath", ".status.", True),
        ("labelSelectorPath", ".status.|.spec.", False),
    ):
        value = scale.get(field) or ""
        if not value:
            if needed:
                yield FieldError.required(f"{path}.{field}")
        elif value[0] != ".":
            yield FieldError.invalid(f"{path}.{field}", value, "must be a simple json path starting with .")
        elif not value.startswith(tuple(under.split("|"))):
            where = under.replace(".|", " or ").strip(".")
            yield FieldError.invalid(f"{path}.{field}", value, f"should be a json path under .{where}")


def _column_errors(path: str, column: Object) -> Errors:
    if not column.get("name"):
        yield FieldError.required(f"{path}.name")
    kind, shape = column.get("type", ""), column.get("format", "")
    if not kind:
        yield FieldError.required(f"{path}.type", f"must be one of {','.join(_COLUMN_TYPES)}")
    elif kind not in _COLUMN_TYPES:
        yield FieldError.invalid(f"{path}.type", kind, f"must be one of {','.join(_COLUMN_TYPES)}")
    if shape and shape not in _COLUMN_FORMATS:
        yield FieldError.invalid(f"{path}.format", shape, f"must be one of {','.join(_COLUMN_FORMATS)}")
    json_path = column.get("jsonPath", "")
    if not json_path:
        yield FieldError.required(f"{path}.JSONPath")
    elif json_path[0] != ".":
        yield FieldError.invalid(f"{path}.JSONPath", json_path, "must be a simple json path starting with .")
    else:
        try:
            compile_path(json_path)
        except JsonPathError as error:
            yield FieldError.invalid(f"{path}.JSONPath", json_path, str(error))


def _selectable_errors(path: str, fields: list[Object], schema: Object) -> Errors:
    seen: set[str] = set()
    if len(fields) > _MAX_SELECTABLE:
        yield FieldError.too_many(path, len(fields), _MAX_SELECTABLE)
    for i, field in enumerate(fields):
        json_path, at = field.get("jsonPath", ""), f"{path}[{i}].jsonPath"
        if not json_path:
            yield FieldError.required(at)
            continue
        if problem := _unselectable(json_path, schema):
            yield FieldError.invalid(at, json_path, problem)
        if json_path in seen:
            yield FieldError.duplicate(at, json_path)
        seen.add(json_path)


def _unselectable(json_path: str, schema: Object) -> str:
    """Why a field cannot be used in field selectors; empty when it can."""
    if not re.fullmatch(r"(\.\w[\w-]*)+", json_path):
        return "is an invalid path: does not refer to a valid field"
    steps = json_path[1:].split(".")
    if steps[0] == "metadata":
        return "must not point to fields in metadata"
    node: Object = schema
    for step in steps:
        node = (node.get("properties") or {}).get(step) or {}
    if not node:
        return "is an invalid path: does not refer to a valid field"
    if node.get("type") not in ("string", "integer", "boolean"):
        return "must point to a field of type string, integer, or boolean"
    return ""


# ---------------------------------------------------------------------------------------------------------- conversion


def _conversion_errors(conversion: Object | None) -> Errors:
    if conversion is None:
        return
    strategy, path = conversion.get("strategy", ""), "spec.conversion"
    webhook = conversion.get("webhook") or {}
    client, reviews = webhook.get("clientConfig"), webhook.get("conversionReviewVersions") or []
    if not strategy:
        yield FieldError.required(f"{path}.strategy")
    elif strategy not in ("None", "Webhook"):
        yield FieldError.not_supported(f"{path}.strategy", strategy, ["None", "Webhook"])
    if strategy != "Webhook":
        unwanted = "should not be set when strategy is not set to Webhook"
        if client is not None:
            yield FieldError.forbidden(f"{path}.webhookClientConfig", unwanted)
        if reviews:
            yield FieldError.forbidden(f"{path}.conversionReviewVersions", unwanted)
        return
    if client is None:
        yield FieldError.required(f"{path}.webhookClientConfig", "required when strategy is set to Webhook")
    else:
        yield from _client_errors(f"{path}.webhookClientConfig", client)
    yield from _review_errors(f"{path}.conversionReviewVersions", reviews)


def _client_errors(path: str, client: Object) -> Errors:
    url, service = client.get("url"), client.get("service")
    if (url is None) == (service is None):
        yield FieldError.required(path, "exactly one of url or service is required")
    elif url is not None:
        parts = urlsplit(url)
        form = "; desired format: https://host[/path]"
        if parts.scheme != "https":
            yield FieldError.invalid(f"{path}.url", url, f'"https" is the only allowed URL scheme{form}')
        if not parts.hostname:
            yield FieldError.invalid(f"{path}.url", "", f"host must be specified{form}")
        if parts.username:
            yield FieldError.invalid(f"{path}.url", url, "user information is not permitted in the URL")
        if parts.query:
            yield FieldError.invalid(f"{path}.url", parts.query, "query parameters are not permitted in the URL")
        if parts.fragment:
            yield FieldError.invalid(f"{path}.url", parts.fragment, "fragments are not permitted in the URL")
    elif service is not None:
        for field in ("name", "namespace"):
            if not service.get(field):
                yield FieldError.required(f"{path}.service.{field}", f"service {field} is required")
        port = service.get("port", 443)
        if not 0 < port < 65536:
            yield FieldError.invalid(f"{path}.service.port", port, "port is not valid: must be between 1 and 65535")
        if (route := service.get("path")) is not None and not route.startswith("/"):
            yield FieldError.invalid(f"{path}.service.path", route, "must start with a '/'")


def _review_errors(path: str, reviews: list[str]) -> Errors:
    if not reviews:
        yield FieldError.required(path)
        return
    for i, version in enumerate(reviews):
        if version in reviews[:i]:
            yield FieldError.invalid(f"{path}[{i}]", version, "duplicate version")
        else:
            yield from _label_errors(f"{path}[{i}]", version)
    if not set(reviews) & set(_REVIEW_VERSIONS):
        yield FieldError.invalid(path, reviews, f"must include at least one of {', '.join(_REVIEW_VERSIONS)}")


# -------------------------------------------------------------------------------------------------------------- status


def _status_errors(obj: Object) -> Errors:
    status = obj.get("status") or {}
    yield from _name_errors(status.get("acceptedNames") or {}, "status.acceptedNames")
    stored, path = status.get("storedVersions") or [], "status.storedVersions"
    if not stored:
        yield FieldError.invalid(path, stored, "must have at least one stored version")
        return
    versions = (obj.get("spec") or {}).get("versions") or []
    for version in versions:
        if version.get("storage") and version.get("name") not in stored:
            yield FieldError.invalid(path, version, f"must have the storage version {version.get('name')}")
    names = {version.get("name") for version in versions}
    for i, name in enumerate(stored):
        if name not in names:
            yield FieldError.invalid(f"{path}[{i}]", name, "must appear in spec.versions")
