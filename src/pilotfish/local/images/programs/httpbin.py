"""A useful part of httpbin: what was received, and answers made to order."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import random
import re
import sys
import uuid
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs

from pilotfish.local.images.programs.http1 import Headers, Request, Response, reason, serve, text

_MAX_DELAY = 10.0
_MAX_BYTES = 100 * 1024
_METHODS = {"get": "GET", "post": "POST", "put": "PUT", "patch": "PATCH", "delete": "DELETE"}
_lists = False
"""Whether header and argument values are lists, as the Go implementation has them."""


def _values(values: list[str]) -> Any:
    return values if _lists or len(values) > 1 else values[0]


def _headers(request: Request) -> dict[str, Any]:
    collected: dict[str, list[str]] = {}
    for name, value in request.headers:
        collected.setdefault(name.title(), []).append(value)
    return {name: values if _lists else ",".join(values) for name, values in sorted(collected.items())}


def _document(value: Any, status: int = 200, headers: Headers | None = None) -> Response:
    return Response(status, (json.dumps(value, indent=2) + "\n").encode(), "application/json", headers or [])


def _origin(request: Request) -> str:
    return request.header("x-forwarded-for") or request.peer


def _received(request: Request, *, body: bool) -> dict[str, Any]:
    scheme = request.header("x-forwarded-proto", "http")
    document: dict[str, Any] = {
        "args": {name: _values(values) for name, values in request.query.items()},
        "headers": _headers(request),
        "origin": _origin(request),
        "url": f"{scheme}://{request.header('host')}{request.target}",
    }
    if body:
        data = request.body.decode("utf-8", "replace")
        form = request.header("content-type").startswith("application/x-www-form-urlencoded")
        try:
            parsed = None if form else json.loads(data)
        except ValueError:
            parsed = None
        fields = {name: _values(values) for name, values in parse_qs(data).items()} if form else {}
        document |= {"data": "" if form else data, "files": {}, "form": fields, "json": parsed}
    return document


def _status(choices: str) -> Response:
    """One of `503` or, by weight, `200:0.9,503:0.1`."""
    pairs = [choice.partition(":") for choice in choices.split(",")]
    try:
        code = random.choices([int(c) for c, _, _ in pairs], [float(w or 1) for _, _, w in pairs])[0]  # noqa: S311  # no secret
    except ValueError:
        return text("Invalid status code\n", 400)
    if not 200 <= code <= 599:
        return text("Invalid status code\n", 400)
    headers = [("Location", "/redirect/1")] if 300 <= code < 400 and code != 304 else []
    return text("" if code == 200 else f"{reason(code)}\n", code, headers)


async def _delay(request: Request, seconds: str) -> Response:
    try:
        await asyncio.sleep(min(float(seconds), _MAX_DELAY))
    except ValueError:
        return text("Invalid delay\n", 400)
    return _document(_received(request, body=True))


def _bytes(count: str) -> Response:
    size = int(count) if re.fullmatch(r"\d{1,9}", count) else -1
    if size < 0:
        return text("Invalid size\n", 400)
    return Response(200, os.urandom(min(size, _MAX_BYTES)), "application/octet-stream")


def _response_headers(request: Request) -> Response:
    pairs = [(name, value) for name, values in request.query.items() for value in values]
    if any(not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", n) or re.search(r"[\r\n]", v) for n, v in pairs):
        return text("Invalid header\n", 400)
    return _document({name: _values(values) for name, values in request.query.items()}, headers=pairs)


def _redirect(count: str) -> Response:
    left = int(count) if count.isdecimal() else 0
    return Response(302, headers=[("Location", f"/redirect/{left - 1}" if left > 1 else "/get")])


def _basic_auth(request: Request, user: str, password: str) -> Response:
    try:
        given = base64.b64decode(request.header("authorization").removeprefix("Basic ")).decode()
    except (binascii.Error, UnicodeDecodeError):
        given = ""
    if given != f"{user}:{password}":
        return Response(401, headers=[("WWW-Authenticate", 'Basic realm="Fake Realm"')])
    return _document({"authenticated": True, "user": user})


def _cookies(request: Request) -> dict[str, str]:
    pairs = [pair.strip().partition("=") for pair in request.header("cookie").split(";") if pair.strip()]
    return {name: value for name, _, value in pairs}


async def answer(request: Request) -> Response:  # noqa: C901, PLR0912  # a table of paths; splitting it would hide it
    """Route by path."""
    match request.path.strip("/").split("/"):
        case [""]:
            return Response(200, b"<!DOCTYPE html><title>httpbin</title><h1>httpbin</h1>\n", "text/html; charset=utf-8")
        case [name] if name in _METHODS:
            if request.method not in {_METHODS[name], "HEAD", "OPTIONS"}:
                return text("Method Not Allowed\n", 405, [("Allow", _METHODS[name])])
            return _document(_received(request, body=name != "get"))
        case ["anything", *_]:
            return _document({"method": request.method} | _received(request, body=True))
        case ["headers"]:
            return _document({"headers": _headers(request)})
        case ["ip"]:
            return _document({"origin": _origin(request)})
        case ["user-agent"]:
            return _document({"user-agent": request.header("user-agent")})
        case ["uuid"]:
            return _document({"uuid": str(uuid.uuid4())})
        case ["status", choices]:
            return _status(choices)
        case ["delay", seconds]:
            return await _delay(request, seconds)
        case ["bytes", count]:
            return _bytes(count)
        case ["response-headers"]:
            return _response_headers(request)
        case ["redirect", count]:
            return _redirect(count)
        case ["basic-auth", user, password]:
            return _basic_auth(request, user, password)
        case ["cookies"]:
            return _document({"cookies": _cookies(request)})
        case ["html"]:
            return Response(200, b"<!DOCTYPE html><h1>httpbin</h1>\n", "text/html; charset=utf-8")
        case ["json"]:
            return _document({"slideshow": {"author": "Pilotfish", "slides": [], "title": "Sample"}})
    return text("Not Found\n", 404)


def main() -> None:
    """Serve: `httpbin [PORT] [lists]`; 80 by default. Also understands gunicorn's `-b ADDRESS:PORT`."""
    global _lists  # noqa: PLW0603  # set once, before serving
    words = sys.argv[1:]
    _lists = "lists" in words
    bind = next((b for a, b in pairwise(words) if a in {"-b", "--bind"}), "")
    port = bind.rpartition(":")[2] or next((word for word in words if word.isdecimal()), "80")
    serve(answer, int(port), "httpbin")
