"""Answers in the form asked for: the object, a Table, only its metadata; JSON or YAML; compressed when large."""

from __future__ import annotations

import asyncio
import json
import zlib
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from pilotfish.local.apiserver import table
from pilotfish.local.apiserver.core import encode
from pilotfish.local.apiserver.errors import ApiError
from pilotfish.local.apiserver.request import Request
from pilotfish.local.apiserver.resource import Object, Resource

GZIP_FROM = 128 * 1024
"""Bytes from which an answer is compressed for a client that takes gzip, as the real server does."""

JSON = "application/json"

PIECE = 32 * 1024
"""Bytes of an answer written at a time: OpenSSL keeps, for each connection, as much as it was ever given at once."""


class _Pieces(Payload):
    """A long body."""

    _value: bytes

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._size = len(body)

    async def write(self, writer: AbstractStreamWriter) -> None:
        view = memoryview(self._value)
        for at in range(0, len(view), PIECE):
            await writer.write(view[at : at + PIECE])

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)


def _headers(warnings: list[str]) -> list[tuple[str, str]]:
    shown = dict.fromkeys(warnings)
    return [("Warning", '299 - "' + w.replace("\\", "\\\\").replace('"', '\\"') + '"') for w in shown]


async def raw(request: Request, body: bytes, code: int = 200, media: str = JSON) -> web.Response:
    """Bytes as the answer, with the warnings gathered so far."""
    if request.accept.yaml and media == JSON:
        import yaml  # noqa: PLC0415 - rarely asked for

        body, media = yaml.safe_dump(json.loads(body), sort_keys=False).encode(), "application/yaml"
    response = web.Response(body=body, status=code, headers={"Content-Type": media})
    for name, value in _headers(request.warnings):
        response.headers.add(name, value)
    if len(body) >= GZIP_FROM and "gzip" in request.http.headers.get("Accept-Encoding", ""):
        body = response.body = await asyncio.to_thread(_gzip, body)
        response.headers["Content-Encoding"] = "gzip"
        response.headers["Vary"] = "Accept-Encoding"
    if len(body) > PIECE:
        response.body = _Pieces(body)
    return response


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()


async def value(request: Request, body: Any, code: int = 200) -> web.Response:
    """A value that has one form only, such as a Status."""
    return await raw(request, encode(body), code)


async def one(request: Request, resource: Resource, obj: Object, code: int = 200) -> web.Response:
    """An object of `resource`, in the form asked for."""
    form = request.accept
    if form.as_ == "Table" and obj.get("kind") == resource.kind:
        return await value(request, table.of(resource, [obj], form.v, request.query.get("includeObject", "")), code)
    if form.as_ == "PartialObjectMetadata":
        return await value(request, table.partial(obj, form.v), code)
    return await value(request, obj, code)


async def refusal(request: Request | None, error: ApiError) -> web.Response:
    body = encode(error.status())
    if request is not None:
        response = await raw(request, body, error.code)
    else:
        response = web.Response(body=body, status=error.code, headers={"Content-Type": JSON})
    seconds = error.details.get("retryAfterSeconds")
    if seconds:
        response.headers["Retry-After"] = str(seconds)
    return response
