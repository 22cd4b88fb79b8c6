"""From the bytes of a body to an object of the kind that the address serves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from pilotfish.local.apiserver import protobuf
from pilotfish.local.apiserver.errors import ApiError, FieldError, Reason, bad_request, invalid
from pilotfish.local.apiserver.request import Request
from pilotfish.local.apiserver.resource import Object

if TYPE_CHECKING:
    from pilotfish.local.apiserver.schema import Schema

MAX_BODY = 3 << 20
"""Bytes of a request body, as the real server limits them."""

_JSON = ("application/json", "")
_YAML = ("application/yaml", "application/apply-patch+yaml", "text/yaml", "application/x-yaml")
_decode = msgspec.json.Decoder().decode


async def read(request: Request) -> bytes:
    """The body. Raises 413 when it is larger than `MAX_BODY`."""
    length = request.http.content_length
    if length is not None and length > MAX_BODY:
        raise too_large()
    body = await request.http.read()
    if len(body) > MAX_BODY:
        raise too_large()
    return body


def too_large() -> ApiError:
    why = f"Request entity too large: limit is {MAX_BODY}"
    return ApiError(413, "RequestEntityTooLarge", why)


def media_type(request: Request) -> str:
    return request.http.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def unsupported(*accepted: str) -> ApiError:
    listed = ", ".join(accepted)
    why = f"the body of the request was in an unknown format - accepted media types include: {listed}"
    return ApiError(415, "UnsupportedMediaType", why)


def parse(body: bytes, media: str) -> Any:
    """JSON or YAML to plain values. Raises 415 for another format, 400 for a body that is not what it says."""
    if media in _YAML and body.lstrip()[:1] != b"{":
        return _parse_yaml(body)
    if media in _JSON or media in _YAML:
        try:
            return _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise bad_request(f"couldn't get version/kind; json parse error: {error}") from None
    if media == protobuf.MEDIA:
        return protobuf.decode(body)
    raise unsupported("application/json", "application/yaml", protobuf.MEDIA)


def _parse_yaml(body: bytes) -> Any:
    import yaml  # noqa: PLC0415 - rarely needed: kubectl sends JSON

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        value = yaml.load(body, loader)  # noqa: S506 (a safe loader, the C one where there is one)
        return _decode(json.dumps(value, default=str))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise bad_request(f"error converting YAML to JSON: {error}") from None


def duplicates(body: bytes, media: str) -> list[str]:
    """Messages for keys that come twice in one object: `duplicate field "spec.hostNetwork"`; YAML's tell the line."""
    from pilotfish.local.apiserver import schema as schemas  # noqa: PLC0415 - heavy, and only writes need it

    if media == protobuf.MEDIA:
        return []
    if media in _YAML and body.lstrip()[:1] != b"{":
        return _yaml_duplicates(body)
    return schemas.find_duplicates(body)


def _yaml_duplicates(body: bytes) -> list[str]:
    import yaml  # noqa: PLC0415 - rarely needed: kubectl sends JSON

    found: list[str] = []
    root = yaml.compose(body, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    todo, visited = [root], set()
    while todo:
        node = todo.pop()
        if node is None or id(node) in visited:  # an alias leads to a node that was seen
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo += node.value
        elif isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in keys:
                    found.append(f'line {key.start_mark.line + 1}: key "{key.value}" already set in map')
                keys.add(str(key.value))
                todo.append(value)
    return [f"yaml: unmarshal errors: {'; '.join(found)}"] if found else []


def as_kind(value: Any, api_version: str, kind: str) -> Object:
    """The value as an object of this kind; apiVersion and kind are filled in where absent. Raises 400."""
    if not isinstance(value, dict):
        what = {list: "array", str: "string", type(None): "null"}.get(type(value), "number")
        raise bad_request(
            "couldn't get version/kind; json parse error: json: cannot unmarshal "
            f"{what} into Go value of type struct {{ APIVersion string; Kind string }}"
        )
    given_version, given_kind = value.get("apiVersion") or api_version, value.get("kind") or kind
    if not isinstance(given_version, str) or not isinstance(given_kind, str):
        raise bad_request("couldn't get version/kind; json parse error: apiVersion and kind must be strings")
    if given_kind != kind:
        raise bad_request(
            f'{given_kind} in version "{given_version.rpartition("/")[2]}" cannot be handled as a {kind}: '
            f'no kind "{given_kind}" is expected here, but {kind}'
        )
    if given_version != api_version:
        raise bad_request(
            f"the API version in the data ({given_version}) does not match the expected API version ({api_version})"
        )
    meta = value.get("metadata")
    if meta is None:
        meta = {}
    obj: Object = {"kind": kind, "apiVersion": api_version, "metadata": meta}
    for key, item in value.items():
        if key not in obj:
            obj[key] = item
    return obj


def check(
    schema: Schema, obj: Object, request: Request, repeated: list[str], *, patched: Any = None, body: bytes = b""
) -> None:
    """Refuse wrong JSON types; then treat unknown and repeated fields as fieldValidation says.

    With `body` (the JSON text it was read from) they are told in the order in which they stand there.

    With `patched` (the patch) the refusal is the 422 of a patch, else the 400 of a body.
    """
    from pilotfish.local.apiserver import schema as schemas  # noqa: PLC0415 - heavy, and only writes need it

    version = str(obj["apiVersion"]).rpartition("/")[2]
    prefix = f'{obj["kind"]} in version "{version}" cannot be handled as a {obj["kind"]}: '
    if wrong := schemas.decode_errors(schema, obj):
        raise _refused(prefix, "; ".join(wrong), patched)
    if not isinstance(obj["metadata"], dict):
        raise _refused(prefix, "json: cannot unmarshal metadata: it must be an object", patched)
    mode = request.field_validation
    if mode == "Ignore":
        schemas.prune(schema, obj)
        return
    if repeated and body.lstrip()[:1] == b"{" and not schema.structural:
        unknown = schemas.find_strict(schema, body)
    else:
        unknown = [*repeated, *schemas.find_unknown(schema, obj)]
    if unknown and mode == "Strict":
        raise _refused(prefix, "strict decoding error: " + ", ".join(unknown), patched)
    request.warnings += unknown
    schemas.prune(schema, obj)


def _refused(prefix: str, why: str, patched: Any) -> ApiError:
    if patched is None:
        return bad_request(prefix + why)
    shown = patched if isinstance(patched, str) else json.dumps(patched, separators=(",", ":"))
    error = FieldError(Reason.INVALID, "patch", f'Invalid value: "{shown}": {why}')
    return invalid("", "", "", [error])
