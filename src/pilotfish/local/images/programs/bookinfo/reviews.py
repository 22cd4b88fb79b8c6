"""Bookinfo reviews: v1 without stars, v2 with black ones, v3 with red ones."""

from __future__ import annotations

import json
import os
from typing import Any

from pilotfish.local.images.programs.bookinfo.service import Address, port, product_id
from pilotfish.local.images.programs.forward import forwarded
from pilotfish.local.images.programs.http1 import (
    ProtocolError,
    Request,
    Response,
    fetch,
    json_response,
    log,
    serve,
    text,
)

_TEXTS = {
    "Reviewer1": "Two pairs of twins, one town, and not a quiet minute. I laughed from the first scene to the last.",
    "Reviewer2": "Great fun on a rainy evening, although the later plays have more to say.",
}


async def _stars(number: int, request: Request) -> dict[str, int]:
    """What the ratings service says, empty when it cannot be asked."""
    address = Address.of("ratings")
    # The original waits longer for black stars than for red ones; Istio's fault injection task builds on it.
    timeout = 10.0 if _color() == "black" else 2.5
    try:
        answer = await fetch(
            address.host, address.port, f"/ratings/{number}", headers=forwarded(request), timeout=timeout
        )
        if answer.status == 200:
            return {name: int(stars) for name, stars in json.loads(answer.body)["ratings"].items()}
        log(f"ratings answered {answer.status}")
    except (OSError, ProtocolError, ValueError, LookupError, AttributeError, TypeError) as error:
        log(f"ratings cannot be asked: {type(error).__name__}: {error}")
    return {}


def _color() -> str:
    return os.environ.get("STAR_COLOR", "black")


def _rating(stars: int | None) -> dict[str, Any]:
    if stars is None:
        return {"error": "Ratings service is currently unavailable"}
    return {"stars": stars, "color": _color()}


async def _reviews(number: int, request: Request) -> Response:
    rated = os.environ.get("ENABLE_RATINGS") == "true"
    stars = await _stars(number, request) if rated else {}
    reviews: list[dict[str, Any]] = []
    for reviewer, words in _TEXTS.items():
        review: dict[str, Any] = {"reviewer": reviewer, "text": words}
        if rated:
            review["rating"] = _rating(stars.get(reviewer))
        reviews.append(review)
    return json_response(
        {
            "id": str(number),
            "podname": os.environ.get("HOSTNAME", "null"),
            "clustername": os.environ.get("CLUSTER_NAME", "null"),
            "reviews": reviews,
        }
    )


async def answer(request: Request) -> Response:
    """`/reviews/{id}` and `/health`."""
    match request.path.strip("/").split("/"):
        case ["health"]:
            return json_response({"status": "Reviews is healthy"})
        case ["reviews", name] if (number := product_id(name)) is not None:
            return await _reviews(number, request)
    return text("Not Found\n", 404)


def main() -> None:
    """Serve."""
    serve(answer, port(), "reviews")
