"""Our own word on what users write, in the shape of the oracle's."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from pilotfish import api
from pilotfish.api.crds import crds
from pilotfish.api.validation import Validation
from pilotfish.daemon.webhooks import judge
from pilotfish.local.apiserver import crd, schema
from pilotfish.local.apiserver.schema import Schema
from pilotfish.local.apiserver.schema.node import compile_definition

Object = dict[str, Any]


class Verdict(NamedTuple):
    refused: str
    """Why the webhook refuses the object; empty when it does not."""
    warnings: tuple[str, ...]
    """What the webhook warns of, without fields that are told to have no effect here."""
    schema: str
    """Why the API server refuses it by the definition, unknown fields included."""


def of_object(obj: Object) -> Verdict:
    """What our webhook and our API server say."""
    stored, refused = _schema(obj)
    try:
        found = judge(stored)
    except api.DecodeError as error:
        found = Validation(list(error.errors), [])
    unknown = _unknown(stored)
    warnings = tuple(one for one in found.warnings if one not in unknown and "has no effect yet" not in one)
    return Verdict("; ".join(map(str, found.errors)), warnings, refused)


def _unknown(obj: Object) -> set[str]:
    """Our warnings of unknown fields: the API server has pruned them before it asks Istio's webhook."""
    try:
        return {f"{path}: {message}" for path, message in api.decode(obj).unknown}
    except api.DecodeError:
        return set()


@cache
def _compiled() -> dict[tuple[str, str], Schema]:
    found = {}
    for definition in crds():
        definitions = crd.definitions_of(definition)
        for resource in crd.resources_of(definition):
            found[resource.api_version, resource.kind] = compile_definition(resource.definition, definitions)
    return found


def _schema(obj: Object) -> tuple[Object, str]:
    """The object as the webhook sees it, and what is wrong with it by the definition."""
    compiled = _compiled().get((str(obj.get("apiVersion")), str(obj.get("kind"))))
    if compiled is None:
        return obj, "no such kind"
    filled = _copy(obj)
    schema.apply_defaults(compiled, filled)
    errors = [str(error) for error in schema.validate(compiled, filled)]
    errors += [one for one in schema.find_unknown(compiled, filled) if 'unknown field "metadata.' not in one]
    return filled, "; ".join(errors)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value
