"""Bookinfo ratings: the stars that each reviewer gives."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from typing import Any

from pilotfish.local.images.programs.bookinfo.service import port, product_id
from pilotfish.local.images.programs.http1 import Request, Response, json_response, serve, text

_STARS = {"Reviewer1": 5, "Reviewer2": 4}
_DELAY = 7.0
"""Seconds that `v-delayed` waits, for half of the requests."""

_posted: dict[int, dict[str, Any]] = {}


async def _fault() -> Response | None:
    """The faults of the versions v-faulty, v-delayed, v-unavailable (every other minute) and v-unhealthy (quarter)."""
    unavailable = json_response({"error": "Service unavailable"}, 503)
    match os.environ.get("SERVICE_VERSION"):
        case "v-faulty" if random.random() < 0.5:  # noqa: S311  # a coin
            return unavailable
        case "v-delayed" if random.random() < 0.5:  # noqa: S311  # a coin
            await asyncio.sleep(_DELAY)
        case "v-unavailable" if time.monotonic() // 60 % 2:
            return unavailable
        case "v-unhealthy" if time.monotonic() // 900 % 2:
            return unavailable
    return None


def _post(number: int, body: bytes) -> Response:
    try:
        ratings = json.loads(body)
    except ValueError:
        ratings = None
    if not isinstance(ratings, dict):
        return json_response({"error": "please provide valid ratings JSON"}, 400)
    _posted[number] = ratings
    return json_response({"id": number, "ratings": ratings})


async def answer(request: Request) -> Response:
    """`/ratings/{id}` (GET and POST) and `/health`."""
    match request.path.strip("/").split("/"):
        case ["health"]:
            if os.environ.get("SERVICE_VERSION") == "v-unhealthy" and await _fault():
                return json_response({"status": "Ratings is not healthy"}, 500)
            return json_response({"status": "Ratings is healthy"})
        case ["ratings", name]:
            number = product_id(name)
            if number is None:
                return json_response({"error": "please provide numeric product ID"}, 400)
            if request.method == "POST":
                return _post(number, request.body)
            return await _fault() or json_response({"id": number, "ratings": _posted.get(number, _STARS)})
    return text("Not Found\n", 404)


def main() -> None:
    """Serve."""
    serve(answer, port(), "ratings")
