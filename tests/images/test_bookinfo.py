"""Bookinfo: the answers of the original, and what its services say when another one fails."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from pilotfish.local.images.programs.bookinfo import details, productpage, ratings, reviews
from pilotfish.local.images.programs.http1 import Request, Response, json_response

from .conftest import Serve


@pytest.fixture
def point(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Tells services where another one is."""

    def to(service: str, port: int) -> None:
        monkeypatch.setenv(f"{service.upper()}_HOSTNAME", "127.0.0.1")
        monkeypatch.setenv(f"{service.upper()}_SERVICE_PORT", str(port))

    return to


async def _get(client: aiohttp.ClientSession, port: int, path: str, **kwargs: Any) -> tuple[int, Any]:
    async with client.get(f"http://127.0.0.1:{port}{path}", **kwargs) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if answer.content_type == "application/json" else text


async def test_details(serve: Serve, client: aiohttp.ClientSession) -> None:
    """Details has the original's fields, checks its id and is healthy."""
    port = await serve(details.answer)
    status, book = await _get(client, port, "/details/0")
    assert status == 200
    assert list(book) == ["id", "author", "year", "type", "pages", "publisher", "language", "ISBN-10", "ISBN-13"]
    assert book["id"] == 0
    assert await _get(client, port, "/details/x") == (400, {"error": "please provide numeric product id"})
    assert await _get(client, port, "/health") == (200, {"status": "Details is healthy"})
    assert (await _get(client, port, "/other"))[0] == 404


async def test_ratings(serve: Serve, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratings has two reviewers, takes new stars, and refuses what is no JSON object."""
    monkeypatch.setattr(ratings, "_posted", {})
    port = await serve(ratings.answer)
    stars = {"id": 0, "ratings": {"Reviewer1": 5, "Reviewer2": 4}}
    assert await _get(client, port, "/ratings/0") == (200, stars)
    async with client.post(f"http://127.0.0.1:{port}/ratings/7", json={"Reviewer1": 1}) as answer:
        assert answer.status == 200
    assert await _get(client, port, "/ratings/7") == (200, {"id": 7, "ratings": {"Reviewer1": 1}})
    async with client.post(f"http://127.0.0.1:{port}/ratings/7", data=b"[") as answer:
        assert answer.status == 400
    assert (await _get(client, port, "/ratings/x"))[0] == 400


async def test_faulty_ratings_fail_half_of_the_time(
    serve: Serve, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version v-faulty answers both 200 and 503."""
    monkeypatch.setenv("SERVICE_VERSION", "v-faulty")
    port = await serve(ratings.answer)
    assert {(await _get(client, port, "/ratings/0"))[0] for _ in range(64)} == {200, 503}


@pytest.mark.parametrize(
    ("env", "rating"),
    [
        ({"ENABLE_RATINGS": "false"}, None),
        ({"ENABLE_RATINGS": "true"}, {"stars": 5, "color": "black"}),
        ({"ENABLE_RATINGS": "true", "STAR_COLOR": "red"}, {"stars": 5, "color": "red"}),
    ],
)
async def test_reviews_versions(
    serve: Serve,
    client: aiohttp.ClientSession,
    point: Any,
    monkeypatch: pytest.MonkeyPatch,
    env: dict[str, str],
    rating: dict[str, Any] | None,
) -> None:
    """v1 has no stars, v2 black and v3 red ones; all say which pod they are."""
    for name, value in (env | {"HOSTNAME": "reviews-abc", "CLUSTER_NAME": "c1"}).items():
        monkeypatch.setenv(name, value)
    point("ratings", await serve(ratings.answer))
    status, document = await _get(client, await serve(reviews.answer), "/reviews/0")
    assert status == 200
    assert list(document) == ["id", "podname", "clustername", "reviews"]
    assert (document["id"], document["podname"], document["clustername"]) == ("0", "reviews-abc", "c1")
    assert [review["reviewer"] for review in document["reviews"]] == ["Reviewer1", "Reviewer2"]
    assert document["reviews"][0].get("rating") == rating


async def test_reviews_without_ratings(
    serve: Serve, client: aiohttp.ClientSession, point: Any, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    """When ratings cannot be reached, or fails, reviews says so in place of the stars."""
    monkeypatch.setenv("ENABLE_RATINGS", "true")
    port = await serve(reviews.answer)
    unavailable = {"error": "Ratings service is currently unavailable"}
    point("ratings", unused_tcp_port)
    assert (await _get(client, port, "/reviews/0"))[1]["reviews"][0]["rating"] == unavailable

    async def fail(_: Request) -> Response:
        return json_response({"error": "x"}, 500)

    point("ratings", await serve(fail))
    status, document = await _get(client, port, "/reviews/0")
    assert status == 200
    assert document["reviews"][1]["rating"] == unavailable


async def test_the_page(
    serve: Serve, client: aiohttp.ClientSession, point: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page joins details, reviews and stars, escapes what it shows, and names the pod of reviews."""
    monkeypatch.setenv("ENABLE_RATINGS", "true")
    monkeypatch.setenv("STAR_COLOR", "red")
    monkeypatch.setenv("HOSTNAME", "reviews-v3-<1>")
    point("ratings", await serve(ratings.answer))
    point("reviews", await serve(reviews.answer))
    point("details", await serve(details.answer))
    port = await serve(productpage.answer)
    for path in ("/", "/productpage", "/productpage?u=normal"):
        status, html = await _get(client, port, path)
        assert status == 200
        assert "<title>Simple Bookstore App</title>" in html
    assert "PublisherA" in html
    assert "reviews-v3-&lt;1&gt;" in html
    assert '<font color="red">' in html
    assert html.count('"glyphicon glyphicon-star"') == 9
    assert html.count('"glyphicon glyphicon-star-empty"') == 1


async def test_the_page_with_failures(
    serve: Serve, client: aiohttp.ClientSession, point: Any, unused_tcp_port: int
) -> None:
    """The page stays up when others are down, asks reviews twice, and its API has their status."""
    asked = 0

    async def fail(_: Request) -> Response:
        nonlocal asked
        asked += 1
        return json_response({}, 503)

    point("reviews", await serve(fail))
    point("details", unused_tcp_port)
    point("ratings", unused_tcp_port)
    port = await serve(productpage.answer)
    status, html = await _get(client, port, "/productpage")
    assert status == 200
    assert "Error fetching product details!" in html
    assert "Error fetching product reviews!" in html
    assert "Sorry, product reviews are currently unavailable for this book." in html
    assert asked == 2
    assert (await _get(client, port, "/api/v1/products/0/reviews"))[0] == 503
    assert (await _get(client, port, "/api/v1/products/0"))[0] == 500
    assert (await _get(client, port, "/api/v1/products/0/ratings"))[0] == 500


async def test_slow_reviews_are_given_up(
    serve: Serve, client: aiohttp.ClientSession, point: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that does not answer in time counts as failed."""
    monkeypatch.setattr(productpage, "_TIMEOUT", 0.05)
    released = asyncio.Event()

    async def hang(_: Request) -> Response:
        await released.wait()
        return json_response({})

    point("reviews", await serve(hang))
    point("details", await serve(details.answer))
    status, html = await _get(client, await serve(productpage.answer), "/productpage")
    released.set()
    assert status == 200
    assert "Error fetching product reviews!" in html
    assert "Error fetching product details!" not in html


async def test_sign_in(serve: Serve, client: aiohttp.ClientSession, point: Any) -> None:
    """After signing in the page shows the name and tells it to the others as end-user; after signing out no more."""
    seen: list[str] = []

    async def record(request: Request) -> Response:
        seen.append(request.header("end-user", "-"))
        return json_response({"reviews": []})

    point("reviews", await serve(record))
    point("details", await serve(record))
    base = f"http://127.0.0.1:{await serve(productpage.answer)}"
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as browser:
        form = {"username": "jason", "passwd": ""}
        async with browser.post(f"{base}/login", data=form, headers={"Referer": f"{base}/productpage"}) as answer:
            html = await answer.text()
        assert str(answer.url) == f"{base}/productpage"
        assert "jason" in html
        assert set(seen) == {"jason"}
        async with browser.get(f"{base}/logout") as answer:
            assert "Sign in" in await answer.text()
        assert seen[-1] == "-"


async def test_headers_are_forwarded(serve: Serve, client: aiohttp.ClientSession, point: Any) -> None:
    """Tracing and identity headers go on to the others; what is meant for the page alone does not."""
    seen: list[Request] = []

    async def record(request: Request) -> Response:
        seen.append(request)
        return json_response({"reviews": []})

    point("reviews", await serve(record))
    point("details", await serve(record))
    forwarded = {
        "x-request-id": "1",
        "x-b3-traceid": "2",
        "traceparent": "3",
        "end-user": "jason",
        "Authorization": "Bearer x",
        "User-Agent": "agent",
        "x-ot-span-context": "5",
        "sw8": "6",
    }
    await _get(client, await serve(productpage.answer), "/productpage", headers=forwarded | {"x-other": "no"})
    assert len(seen) == 2
    for request in seen:
        assert {name: request.header(name.lower()) for name in forwarded} == forwarded
        assert request.header("x-other", "-") == "-"


async def test_products(serve: Serve, client: aiohttp.ClientSession, point: Any) -> None:
    """The API lists the one product and passes on the documents of the others."""
    point("ratings", await serve(ratings.answer))
    point("details", await serve(details.answer))
    port = await serve(productpage.answer)
    status, products = await _get(client, port, "/api/v1/products")
    assert status == 200
    assert [(p["id"], p["title"]) for p in products] == [(0, "The Comedy of Errors")]
    assert (await _get(client, port, "/api/v1/products/0"))[1]["author"] == "William Shakespeare"
    assert (await _get(client, port, "/api/v1/products/0/ratings"))[1]["ratings"]["Reviewer1"] == 5
    assert await _get(client, port, "/health") == (200, "Product page is healthy")
    metrics = (await _get(client, port, "/metrics"))[1]
    assert 'request_result_total{destination_app="ratings",response_code="200"} ' in metrics
