"""The rules for the schema of a CustomResourceDefinition: structural, with valid defaults and rules that compile.

A schema is structural when types stand only outside allOf, anyOf, oneOf and not, and everything named inside those is
named outside as well. Paths and the order of checks follow the Kubernetes API server.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.schema import compile_schema, prune, validate
from pilotfish.local.apiserver.schema.validation import BadPattern, compile_pattern, same

Errors = Iterator[FieldError]
OpenApi = Mapping[str, Any]

_TYPES = ["array", "boolean", "integer", "number", "object", "string"]
_LISTS = ["atomic", "set", "map"]
_MAPS = ["atomic", "granular"]
_REASONS = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"]
_JUNCTORS = ("allOf", "anyOf", "oneOf")
_INT_OR_STRING = [{"type": "integer"}, {"type": "string"}]
_UNSUPPORTED = ("id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref")
_FORBIDDEN_INSIDE = (
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
)


def schema_errors(path: str, schema: OpenApi) -> list[FieldError]:
    """Everything wrong with the schema of a version, found at `path`."""
    errors: list[FieldError] = []
    if not _unsupported(schema):  # else it cannot even be read as a structural schema, which `_openapi` says
        errors = list(dict.fromkeys([*_structure(path, schema, "root"), *_completeness(path, path, schema, schema)]))
        if not errors and _known_types(schema):
            errors = list(_defaults(path, schema, root=True))
    sound = not errors
    below = list(_openapi(path, schema, root=True))
    errors += below
    if sound and not _unsupported(schema) and _known_types(schema) and _has_rules(schema):
        from pilotfish.local.apiserver.cel import checking  # noqa: PLC0415 - heavy, and most definitions have no rules

        errors += checking.rule_errors(path, schema, [error.path for error in below])
    return errors


def _subschemas(schema: OpenApi, path: str) -> Iterator[tuple[str, OpenApi]]:
    """The schemas of fields, items and entries, but not those that only judge."""
    for key, child in (schema.get("properties") or {}).items():
        yield f"{path}.properties[{key}]", child
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            yield f"{path}.{key}", schema[key]


def _has_rules(schema: OpenApi) -> bool:
    return bool(schema.get("x-kubernetes-validations")) or any(
        _has_rules(child) for _, child in _subschemas(schema, "")
    )


def _unsupported(schema: OpenApi) -> bool:
    """Whether there is something in it that a structural schema has no place for."""
    if any(schema.get(key) for key in _UNSUPPORTED) or isinstance(schema.get("items"), list):
        return True
    return any(_unsupported(child) for _, child in _subschemas(schema, ""))


def _known_types(schema: OpenApi) -> bool:
    return schema.get("type", "object") in _TYPES and all(_known_types(child) for _, child in _subschemas(schema, ""))


# ----------------------------------------------------------------------------------------------------------- structure


def _structure(path: str, schema: OpenApi, level: str) -> Errors:
    kind = schema.get("type") or ""
    if kind == "array" and schema.get("items") is None:
        yield FieldError.required(f"{path}.items", "must be specified")
    for key, child in (schema.get("properties") or {}).items():
        yield from _structure(f"{path}.properties[{key}]", child, "field")
    if isinstance(schema.get("items"), Mapping):
        yield from _structure(f"{path}.items", schema["items"], "item")
    additional = schema.get("additionalProperties")
    if additional is not None:
        if level == "root":
            yield FieldError.forbidden(f"{path}.additionalProperties", "must not be used at the root")
        if isinstance(additional, Mapping):
            yield from _structure(f"{path}.additionalProperties", additional, "field")
    int_or_string = bool(schema.get("x-kubernetes-int-or-string"))
    for extension in ("preserve-unknown-fields", "embedded-resource"):
        if int_or_string and schema.get(f"x-kubernetes-{extension}"):
            where = f"{path}.x-kubernetes-{extension}"
            yield FieldError.invalid(where, value=True, detail="must be false if x-kubernetes-int-or-string is true")
    yield from _values(path, schema, int_or_string=int_or_string)
    yield from _type(path, schema, kind, level)
    yield from _resource(path, schema, level)


def _type(path: str, schema: OpenApi, kind: str, level: str) -> Errors:
    embedded = bool(schema.get("x-kubernetes-embedded-resource"))
    where = f"{path}.type"
    if embedded and kind != "object":
        why = "must be object if x-kubernetes-embedded-resource is true"
        yield FieldError.invalid(where, kind, why) if kind else FieldError.required(where, why)
    elif not kind and not (
        schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
    ):
        why = {
            "root": "must not be empty at the root",
            "item": "must not be empty for specified array items",
            "field": "must not be empty for specified object fields",
        }[level]
        yield FieldError.required(where, why)
    if embedded and schema.get("additionalProperties") is not None:
        why = "must not be used if x-kubernetes-embedded-resource is set"
        yield FieldError.forbidden(f"{path}.additionalProperties", why)
    if level == "root" and kind and kind != "object":
        yield FieldError.invalid(where, kind, "must be object at the root")


def _resource(path: str, schema: OpenApi, level: str) -> Errors:
    """What is said of apiVersion, kind and metadata of a whole object."""
    embedded = bool(schema.get("x-kubernetes-embedded-resource"))
    properties = schema.get("properties") or {}
    whole = level == "root" or embedded
    for key in ("kind", "apiVersion"):
        if whole and key in properties and properties[key].get("type") != "string":
            where = f"{path}.properties[{key}].type"
            yield FieldError.invalid(where, properties[key].get("type", ""), "must be string")
    metadata = properties.get("metadata")
    if metadata is not None:
        where = f"{path}.properties[metadata]"
        if whole and metadata.get("type") != "object":
            yield FieldError.invalid(f"{where}.type", metadata.get("type", ""), "must be object")
        if level == "root" and not _plain_metadata(metadata):
            yield FieldError.forbidden(
                where,
                "must not specify anything other than name and generateName, but metadata is implicitly specified",
            )
    if embedded and not schema.get("x-kubernetes-preserve-unknown-fields") and not properties:
        yield FieldError.required(
            f"{path}.properties",
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        )


def _plain_metadata(metadata: OpenApi) -> bool:
    properties = metadata.get("properties") or {}
    if properties.keys() - {"name", "generateName"}:
        return False
    return not {key for key, value in metadata.items() if value} - {"type", "properties", "default"}


def _values(path: str, schema: OpenApi, *, int_or_string: bool) -> Errors:
    """allOf, anyOf, oneOf, not and the pattern; two ways of writing "integer or string" are let through."""
    for junctor in _JUNCTORS:
        for i, nested in enumerate(schema.get(junctor) or ()):
            if int_or_string and junctor == "anyOf" and schema[junctor] == _INT_OR_STRING:
                continue
            spared = int_or_string and junctor == "allOf" and i == 0 and nested.get("anyOf") == _INT_OR_STRING
            yield from _nested(f"{path}.{junctor}[{i}]", nested, spare_any_of=spared)
    if schema.get("not") is not None:
        yield from _nested(f"{path}.not", schema["not"])
    if pattern := schema.get("pattern"):
        try:
            compile_pattern(pattern)
        except BadPattern as error:
            why = f"must be a valid regular expression, but isn't: error parsing regexp: {error}"
            yield FieldError.invalid(f"{path}.pattern", pattern, why)


def _nested(path: str, schema: OpenApi, *, spare_any_of: bool = False) -> Errors:
    """A schema that only judges."""
    spared = {**schema, "anyOf": None} if spare_any_of else schema
    yield from _values(path, spared, int_or_string=False)
    if isinstance(schema.get("items"), Mapping):
        yield from _nested(f"{path}.items", schema["items"])
    for key, child in (schema.get("properties") or {}).items():
        yield from _nested(f"{path}.properties[{key}]", child)
    for key, why in _FORBIDDEN_INSIDE:
        if schema.get(key) not in (None, "", False, []):
            yield FieldError.forbidden(f"{path}.{key}", why)
    if "metadata" in (schema.get("properties") or {}):
        yield FieldError.forbidden(f"{path}.properties[metadata]", "must not be specified in a nested context")


def _completeness(path: str, inside: str, values: OpenApi, schema: OpenApi | None) -> Errors:
    """What allOf, anyOf, oneOf and not speak of must be there outside of them."""
    nested = [(f"{inside}.{j}[{i}]", one) for j in _JUNCTORS for i, one in enumerate(values.get(j) or ())]
    if values.get("not") is not None:
        nested.append((f"{inside}.not", values["not"]))
    for where, one in nested:
        yield from _covered(path, where, one, schema)


def _covered(path: str, inside: str, nested: OpenApi, schema: OpenApi | None) -> Errors:
    if schema is None:
        yield FieldError.required(path, f"because it is defined in {inside}")
        return
    yield from _completeness(path, inside, nested, schema)
    if isinstance(nested.get("items"), Mapping):
        yield from _covered(f"{path}.items", f"{inside}.items", nested["items"], schema.get("items"))
    for key, child in (nested.get("properties") or {}).items():
        known = (schema.get("properties") or {}).get(key)
        yield from _covered(f"{path}.properties[{key}]", f"{inside}.properties[{key}]", child, known)


# ------------------------------------------------------------------------------------------------------------ defaults


def _defaults(path: str, schema: OpenApi, *, root: bool = False) -> Errors:
    """Defaults must be values that the schema itself takes. There are none inside additionalProperties."""
    if schema.get("default") is not None:
        yield from _default(f"{path}.default", schema, schema["default"])
    for key, child in (schema.get("properties") or {}).items():
        if not (root and key in ("metadata", "apiVersion", "kind")):
            yield from _defaults(f"{path}.properties[{key}]", child)
    if isinstance(schema.get("items"), Mapping):
        yield from _defaults(f"{path}.items", schema["items"])


def _default(path: str, schema: OpenApi, value: Any) -> Errors:
    compiled = compile_schema(schema, root=False)
    pruned = copy.deepcopy(value)
    prune(compiled, pruned)
    if not same(pruned, value):
        yield FieldError.invalid(path, value, "must not have unknown fields")
    yield from validate(compiled, value, path=path)


# ------------------------------------------------------------------------------------------------------------- OpenAPI


def _openapi(path: str, schema: OpenApi, *, root: bool = False, defaults: str = "") -> Errors:
    """The rules of OpenAPI in Kubernetes for a schema and all below it. `defaults` says why there may be none."""
    yield from _supported(path, schema, defaults)
    additional, properties = schema.get("additionalProperties"), schema.get("properties") or {}
    if properties and additional is not None and additional is not True:
        why = "additionalProperties and properties are mutual exclusive"
        yield FieldError.forbidden(f"{path}.additionalProperties", why)
    if isinstance(additional, Mapping):
        yield from _openapi(f"{path}.additionalProperties", additional, defaults=defaults)
    for key, child in properties.items():
        why = f"in top-level {key}" if root and key in ("metadata", "apiVersion", "kind") else defaults
        yield from _openapi(f"{path}.properties[{key}]", child, defaults=why)
    for junctor in _JUNCTORS:
        for i, one in enumerate(schema.get(junctor) or ()):
            yield from _openapi(f"{path}.{junctor}[{i}]", one, defaults=defaults)
    for key in ("items", "not"):
        if isinstance(schema.get(key), Mapping):
            yield from _openapi(f"{path}.{key}", schema[key], defaults=defaults)
    yield from _extensions(path, schema)
    for i, rule in enumerate(schema.get("x-kubernetes-validations") or ()):
        yield from _rule(f"{path}.x-kubernetes-validations[{i}]", rule, schema)


def _supported(path: str, schema: OpenApi, defaults: str) -> Errors:
    kind = schema.get("type") or ""
    if kind and kind not in _TYPES:
        yield FieldError.not_supported(f"{path}.type", kind, _TYPES)
    if schema.get("default") is not None and defaults:
        yield FieldError.forbidden(f"{path}.default", f"must not be set {defaults}")
    for key in _UNSUPPORTED:
        if schema.get(key) is not None:
            yield FieldError.forbidden(f"{path}.{key}", f"{key} is not supported")
    if kind == "null":
        yield FieldError.forbidden(f"{path}.type", "type cannot be set to null, use nullable as an alternative")
    if isinstance(schema.get("items"), list):
        yield FieldError.forbidden(f"{path}.items", "items must be a schema object and not an array")
    if schema.get("uniqueItems"):
        yield FieldError.forbidden(
            f"{path}.uniqueItems",
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        )


def _extensions(path: str, schema: OpenApi) -> Errors:
    kind = schema.get("type") or ""
    if schema.get("x-kubernetes-preserve-unknown-fields") is False:
        where = f"{path}.x-kubernetes-preserve-unknown-fields"
        yield FieldError.invalid(where, value=False, detail="must be true or undefined")
    map_type, list_type = schema.get("x-kubernetes-map-type"), schema.get("x-kubernetes-list-type")
    for extension, value, wanted, allowed in (
        ("map", map_type, "object", _MAPS),
        ("list", list_type, "array", _LISTS),
    ):
        if value is None:
            continue
        if kind != wanted:
            why = f"must be {wanted} if x-kubernetes-{extension}-type is specified"
            yield FieldError.invalid(f"{path}.type", kind, why) if kind else FieldError.required(f"{path}.type", why)
        if value not in allowed:
            yield FieldError.not_supported(f"{path}.x-kubernetes-{extension}-type", value, allowed)
    items = schema.get("items")
    if list_type == "set" and kind == "array" and isinstance(items, Mapping):
        yield from _set_items(f"{path}.items", items)
    keys = schema.get("x-kubernetes-list-map-keys") or []
    if keys and list_type != "map":
        why = "must be map if x-kubernetes-list-map-keys is non-empty"
        where = f"{path}.x-kubernetes-list-type"
        yield FieldError.required(where, why) if list_type is None else FieldError.invalid(where, list_type, why)
    if list_type == "map":
        yield from _map_keys(path, items, keys)
    if list_type in ("set", "map") and isinstance(items, Mapping) and items.get("nullable"):
        why = f"cannot be nullable when x-kubernetes-list-type is {list_type}"
        yield FieldError.forbidden(f"{path}.items.nullable", why)


def _set_items(path: str, items: OpenApi) -> Errors:
    why = "must be atomic as item of a list with x-kubernetes-list-type=set"
    list_type, map_type = items.get("x-kubernetes-list-type"), items.get("x-kubernetes-map-type")
    if items.get("type") == "array" and list_type not in (None, "atomic"):
        yield FieldError.invalid(f"{path}.x-kubernetes-list-type", list_type, why)
    if items.get("type") == "object" and map_type != "atomic":
        yield FieldError.invalid(f"{path}.x-kubernetes-map-type", map_type, why)


def _map_keys(path: str, items: Any, keys: list[str]) -> Errors:
    where = f"{path}.x-kubernetes-list-map-keys"
    if not keys:
        yield FieldError.required(where, "must not be empty if x-kubernetes-list-type is map")
    if items is None:
        yield FieldError.required(f"{path}.items", "must have a schema if x-kubernetes-list-type is map")
    if not isinstance(items, Mapping):
        return
    if items.get("type") != "object":
        why = "must be object if parent array's x-kubernetes-list-type is map"
        yield FieldError.invalid(f"{path}.items.type", items.get("type", ""), why)
        return
    for i, key in enumerate(keys):
        if key in keys[:i]:
            yield FieldError.invalid(where, keys, "must not contain duplicate entries")
        known = (items.get("properties") or {}).get(key)
        if known is None:
            yield FieldError.invalid(where, keys, "entries must all be names of item properties")
            continue
        at = f"{path}.items.properties[{key}]"
        if known.get("type") in ("array", "object"):
            why = "must be a scalar type if parent array's x-kubernetes-list-type is map"
            yield FieldError.invalid(f"{at}.type", known["type"], why)
        if key not in (items.get("required") or ()) and known.get("default") is None:
            yield FieldError.required(
                f"{at}.default",
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            )
        if known.get("nullable"):
            why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable"
            yield FieldError.forbidden(f"{at}.nullable", why)


# --------------------------------------------------------------------------------------------------------------- rules


def _rule(path: str, rule: OpenApi, schema: OpenApi) -> Errors:
    """What can be said of a rule without compiling it."""
    text, message = str(rule.get("rule") or "").strip(), rule.get("message") or ""
    if not text:
        yield FieldError.required(f"{path}.rule", "rule is not specified")
    elif message and not message.strip():
        yield FieldError.invalid(f"{path}.message", message, "must be non-empty if specified")
    elif "\n" in message.strip() or "\r" in message.strip():
        yield FieldError.invalid(f"{path}.message", message, "must not contain line breaks")
    elif "\n" in text and not message.strip():
        yield FieldError.required(f"{path}.message", "message must be specified if rule contains line breaks")
    expression = rule.get("messageExpression") or ""
    if expression and not expression.strip():
        why = "messageExpression must be non-empty if specified"
        yield FieldError.required(f"{path}.messageExpression", why)
    reason = rule.get("reason")
    if reason is not None and reason not in _REASONS:
        yield FieldError.not_supported(f"{path}.reason", reason, _REASONS)
    field = rule.get("fieldPath") or ""
    if field and not field.strip():
        yield FieldError.invalid(f"{path}.fieldPath", field, "must be non-empty if specified")
    elif "\n" in field:
        yield FieldError.invalid(f"{path}.fieldPath", field, "must not contain line breaks")
    elif field and not _leads_somewhere(field, schema):
        yield FieldError.invalid(f"{path}.fieldPath", field, "must be a valid path")


_PATH_STEP = re.compile(r"\.(?P<name>[A-Za-z_][\w-]*)|\['(?P<quoted>(?:[^'\\]|\\.)+)'\]")


def _leads_somewhere(field: str, schema: OpenApi) -> bool:
    """Whether a rule's fieldPath names a field of the schema; list items cannot be named."""
    at = 0
    node: OpenApi | None = schema
    while at < len(field):
        match = _PATH_STEP.match(field, at)
        if match is None or node is None:
            return False
        name = match["name"] or match["quoted"].replace("\\'", "'").replace("\\\\", "\\")
        if isinstance(node.get("additionalProperties"), Mapping):
            node = node["additionalProperties"]
        else:
            node = (node.get("properties") or {}).get(name)
        at = match.end()
    return node is not None
