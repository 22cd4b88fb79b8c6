"""The HTML of the product page."""

from __future__ import annotations

from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; color: #223; background: #f6f7f9; }
header { background: #22303f; color: #fff; padding: .8rem 1.5rem; display: flex; justify-content: space-between; }
header form { display: inline; }
header a { color: #9cf; }
main { max-width: 62rem; margin: 1.5rem auto; padding: 0 1.5rem; }
h1, h3 { margin: .3rem 0; }
.columns { display: grid; grid-template-columns: 1fr 2fr; gap: 2rem; }
section { background: #fff; border: 1px solid #dde1e7; border-radius: 6px; padding: 1rem 1.5rem; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem; }
blockquote { margin: 0 0 1rem; border-left: 3px solid #dde1e7; padding-left: 1rem; }
small { color: #667; }
.error { color: #a33; }
.glyphicon-star::before { content: "\\2605"; }
.glyphicon-star-empty::before { content: "\\2606"; }
"""
_DETAILS = {
    "Type": "type",
    "Pages": "pages",
    "Publisher": "publisher",
    "Language": "language",
    "ISBN-10": "ISBN-10",
    "ISBN-13": "ISBN-13",
}


def product(
    book: dict[str, Any], details: tuple[int, dict[str, Any]], reviews: tuple[int, dict[str, Any]], user: str
) -> str:
    """The whole page; `details` and `reviews` are statuses and documents, or errors to be shown."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Simple Bookstore App</title>
<style>{_STYLE}</style>
</head>
<body>
<header><strong>BookInfo Sample</strong><span>{_session(user)}</span></header>
<main>
<h1>{escape(book["title"])}</h1>
<p>Summary: {book["descriptionHtml"]}</p>
<div class="columns">
<section>{_details(*details)}</section>
<section>{_reviews(*reviews)}</section>
</div>
</main>
</body>
</html>
"""


def _session(user: str) -> str:
    if user:
        return f'{escape(user)} (<a href="logout">sign out</a>)'
    return (
        '<form method="post" action="login"><input name="username" placeholder="User name" required> '
        '<input type="password" name="passwd" placeholder="Password"> <button>Sign in</button></form>'
    )


def _failure(what: str, document: dict[str, Any]) -> str:
    return f'<h4 class="error">Error fetching {what}!</h4>\n<p>{escape(str(document.get("error", "")))}</p>'


def _details(status: int, document: dict[str, Any]) -> str:
    if status != 200:
        return _failure("product details", document)
    rows = "\n".join(
        f"<dt>{label}:</dt><dd>{escape(str(document.get(name, '')))}</dd>" for label, name in _DETAILS.items()
    )
    return f"<h3>Book Details</h3>\n<dl>\n{rows}\n</dl>"


def _reviews(status: int, document: dict[str, Any]) -> str:
    if status != 200:
        return _failure("product reviews", document)
    reviews = "\n".join(_review(review) for review in document.get("reviews", []))
    cluster = document.get("clustername", "null")
    place = f" on cluster <u>{escape(str(cluster))}</u>" if cluster != "null" else ""
    served = f"<p>Reviews served by: <u>{escape(str(document.get('podname', '')))}</u>{place}</p>"
    return f"<h3>Book Reviews</h3>\n{reviews}\n{served}"


def _review(review: dict[str, Any]) -> str:
    reviewer, words = escape(str(review.get("reviewer", ""))), escape(str(review.get("text", "")))
    return f"<blockquote>\n<p>{words}</p>\n<small>{reviewer}</small>\n{_stars(review.get('rating'))}</blockquote>"


def _stars(rating: dict[str, Any] | None) -> str:
    if not rating:
        return ""
    if "error" in rating:
        return f"<p><i>{escape(str(rating['error']))}</i></p>\n"
    stars = max(0, min(5, int(rating.get("stars", 0))))
    full = '<span class="glyphicon glyphicon-star"></span>' * stars
    empty = '<span class="glyphicon glyphicon-star-empty"></span>' * (5 - stars)
    return f'<font color="{escape(str(rating.get("color", "black")))}">\n{full}{empty}\n</font>\n'
