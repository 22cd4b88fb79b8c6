"""The OpenAPI v2 document in protobuf (gnostic's `openapi.v2.Document`), the only form some of kubectl asks for.

It carries what those readers look for, and no more: which kinds a patch takes, with its parameters (kubectl decides by
`fieldValidation` among them whether the server validates, for `kind: List` for example). Schemas are in v3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MEDIA = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
GVK = "x-kubernetes-group-version-kind"


def document(v2: Mapping[str, Any]) -> bytes:
    """From the JSON document."""
    info = _text(1, str(v2["info"].get("title", ""))) + _text(2, str(v2["info"].get("version", "")))
    paths = b"".join(
        _field(2, _text(1, path) + _field(2, _field(8, _operation(item["patch"]))))
        for path, item in v2["paths"].items()
        if "patch" in item
    )
    return _text(1, "2.0") + _field(2, info) + _field(8, paths)


def _operation(patch: Mapping[str, Any]) -> bytes:
    found = _text(5, str(patch.get("operationId", "")))
    found += b"".join(_parameter(one) for one in patch.get("parameters") or () if one.get("in") == "query")
    kind = patch.get(GVK) or {}
    lines = "".join(f'{key}: "{kind.get(key, "")}"\n' for key in ("group", "kind", "version"))
    return found + _field(13, _text(1, GVK) + _field(2, _text(2, lines)))


def _parameter(one: Mapping[str, Any]) -> bytes:
    query = _text(2, "query") + _text(4, str(one["name"])) + _text(6, str(one.get("type", "string")))
    return _field(8, _field(1, _field(2, _field(3, query))))


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode()) if text else b""


def _field(number: int, payload: bytes) -> bytes:
    size, head = len(payload), bytearray((number << 3 | 2,))
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + payload
