"""Bookinfo details: facts about a book."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from pilotfish.local.images.programs.bookinfo.service import port, product_id
from pilotfish.local.images.programs.http1 import Request, Response, json_response, log, serve, text

_ISBN = "0486424618"


def _own(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "publisher": "PublisherA",
        "language": "English",
        "ISBN-10": "1234567890",
        "ISBN-13": "123-1234567890",
    }


def _from_catalogue(number: int) -> dict[str, Any]:
    """The same from the public book catalogue, as version 2 does with `ENABLE_EXTERNAL_BOOK_SERVICE`."""
    from urllib.request import urlopen  # noqa: PLC0415  # big, and only this version needs it

    scheme = "http" if os.environ.get("DO_NOT_ENCRYPT") == "true" else "https"
    with urlopen(f"{scheme}://www.googleapis.com/books/v1/volumes?q=isbn:{_ISBN}", timeout=5) as answer:  # noqa: S310  # a fixed address
        book = json.load(answer)["items"][0]["volumeInfo"]
    isbn = {entry["type"]: entry["identifier"] for entry in book.get("industryIdentifiers", [])}
    return {
        "id": number,
        "author": book["authors"][0],
        "year": book["publishedDate"],
        "type": "paperback" if book.get("printType") == "BOOK" else "unknown",
        "pages": book["pageCount"],
        "publisher": book["publisher"],
        "language": "English" if book.get("language") == "en" else "unknown",
        "ISBN-10": isbn.get("ISBN_10", ""),
        "ISBN-13": isbn.get("ISBN_13", ""),
    }


async def answer(request: Request) -> Response:
    """`/details/{id}` and `/health`."""
    match request.path.strip("/").split("/"):
        case ["health"]:
            return json_response({"status": "Details is healthy"})
        case ["details", name]:
            number = product_id(name)
            if number is None:
                return json_response({"error": "please provide numeric product id"}, 400)
            if os.environ.get("ENABLE_EXTERNAL_BOOK_SERVICE") != "true":
                return json_response(_own(number))
            try:
                return json_response(await asyncio.to_thread(_from_catalogue, number))
            except (OSError, ValueError, LookupError) as error:
                log(f"the book catalogue cannot be used: {error}")
                return json_response({"error": f"the book catalogue cannot be used: {error}"}, 500)
    return text("Not Found\n", 404)


def main() -> None:
    """Serve."""
    serve(answer, port(), "details")
