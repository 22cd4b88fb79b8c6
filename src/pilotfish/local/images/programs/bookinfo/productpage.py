"""Bookinfo productpage: the page of a book, made from details, reviews and ratings."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from pilotfish.local.images.programs.bookinfo import page
from pilotfish.local.images.programs.bookinfo.service import Address, port, product_id
from pilotfish.local.images.programs.forward import forwarded
from pilotfish.local.images.programs.http1 import (
    Headers,
    ProtocolError,
    Request,
    Response,
    fetch,
    json_response,
    log,
    serve,
    text,
)

_PRODUCT = {
    "id": 0,
    "title": "The Comedy of Errors",
    "descriptionHtml": "One of William Shakespeare&#x27;s early plays, short and full of mistaken identities.",
}
_TIMEOUT = 3.0
_COOKIE = "session"

_results: Counter[tuple[str, int]] = Counter()
"""Requests to other services by service and status, for /metrics."""


async def _ask(service: str, path: str, request: Request, what: str, attempts: int = 1) -> tuple[int, dict[str, Any]]:
    """Ask another service for JSON: its status and document, or an error that can be shown."""
    address = Address.of(service)
    status = 500
    for _ in range(attempts):
        try:
            answer = await fetch(address.host, address.port, path, headers=_headers(request), timeout=_TIMEOUT)
            _results[service, answer.status] += 1
            if answer.status == 200:
                return 200, json.loads(answer.body)
            status = answer.status
            log(f"{service} answered {status}")
        except (OSError, ProtocolError, ValueError) as error:
            status = 500
            _results[service, status] += 1
            log(f"{service} cannot be asked: {type(error).__name__}: {error}")
    return status, {"error": f"Sorry, {what} are currently unavailable for this book."}


async def _details(number: int, request: Request) -> tuple[int, dict[str, Any]]:
    return await _ask("details", f"/details/{number}", request, "product details")


async def _reviews(number: int, request: Request) -> tuple[int, dict[str, Any]]:
    # The second attempt is part of the contract: Istio's fault injection task counts 2 × 3 s.
    return await _ask("reviews", f"/reviews/{number}", request, "product reviews", attempts=2)


async def _ratings(number: int, request: Request) -> tuple[int, dict[str, Any]]:
    return await _ask("ratings", f"/ratings/{number}", request, "product ratings")


def _user(request: Request) -> str:
    for pair in request.header("cookie").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == _COOKIE:
            return unquote(value)
    return ""


def _headers(request: Request) -> Headers:
    """What is sent on; a user who signed in here is told to the others."""
    user = _user(request)
    headers = forwarded(request)
    return [*(pair for pair in headers if pair[0].lower() != "end-user"), ("end-user", user)] if user else headers


async def _page(request: Request) -> Response:
    number = _PRODUCT["id"]
    assert isinstance(number, int)  # noqa: S101  # tells the type checker
    details, reviews = await asyncio.gather(_details(number, request), _reviews(number, request))
    return _html(page.product(_PRODUCT, details, reviews, _user(request)))


def _html(body: str) -> Response:
    return Response(200, body.encode(), "text/html; charset=utf-8")


def _redirect(request: Request, cookie: str) -> Response:
    place = request.header("referer") or "/productpage"
    return Response(302, headers=[("Location", place), ("Set-Cookie", f"{cookie}; Path=/; HttpOnly; SameSite=Lax")])


def _login(request: Request) -> Response:
    form = parse_qs(request.body.decode("utf-8", "replace"))
    user = form.get("username", [request.parameter("username")])[0]
    return _redirect(request, f"{_COOKIE}={quote(user)}")


async def _api(path: list[str], request: Request) -> Response:
    if not path:
        return json_response([_PRODUCT])
    number = product_id(path[0])
    if number is None:
        return json_response({"error": "please provide a numeric product id"}, 400)
    match path[1:]:
        case []:
            status, document = await _details(number, request)
        case ["reviews"]:
            status, document = await _reviews(number, request)
        case ["ratings"]:
            status, document = await _ratings(number, request)
        case _:
            return text("Not Found\n", 404)
    return json_response(document, status)


def _metrics() -> Response:
    """The counter of the original, in Prometheus' text format."""
    lines = ["# HELP request_result Results of requests", "# TYPE request_result_total counter"]
    for (service, status), count in sorted(_results.items()):
        labels = f'destination_app="{service}",response_code="{status}"'
        lines.append(f"request_result_total{{{labels}}} {count}.0")
    return text("\n".join(lines) + "\n")


async def answer(request: Request) -> Response:
    """The page (at two paths), sign-in and sign-out, health, metrics, and the API below /api/v1/products."""
    match request.path.strip("/").split("/"):
        case [""] | ["index.html"] | ["productpage"]:
            return await _page(request)
        case ["health"]:
            return text("Product page is healthy")
        case ["metrics"]:
            return _metrics()
        case ["login"]:
            return _login(request)
        case ["logout"]:
            return _redirect(request, f"{_COOKIE}=; Max-Age=0")
        case ["api", "v1", "products", *rest]:
            return await _api(rest, request)
    return text("Not Found\n", 404)


def main() -> None:
    """Serve."""
    serve(answer, port(), "productpage")
