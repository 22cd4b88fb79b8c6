"""What `istioctl admin log` and `istioctl dashboard controlz` ask, on the loopback only: log levels and the version."""

from __future__ import annotations

import html

from aiohttp import web

from pilotfish.daemon import logs
from pilotfish.daemon.http import BUILD, application

Row = dict[str, object]


def controlz() -> web.Application:
    """`/scopej/` and `/versionj/` as Istio's ControlZ has them, and a page for people."""
    app = application()
    app.router.add_get("/", _index)
    for path in ("/scopej", "/scopej/"):
        app.router.add_get(path, _scopes)
    app.router.add_get("/scopej/{scope}", _scope)
    app.router.add_put("/scopej/{scope}", _change)
    for path in ("/versionj", "/versionj/"):
        app.router.add_get(path, _version)
    return app


def _row(name: str) -> Row:
    return {
        "name": name,
        "description": logs.SCOPES[name].description,
        "output_level": logs.level(name),
        "stack_trace_level": "none",
        "log_callers": False,
    }


async def _index(_: web.Request) -> web.Response:
    rows = "".join(
        f"<tr><td>{name}<td>{html.escape(logs.SCOPES[name].description)}<td>{logs.level(name)}"
        for name in sorted(logs.SCOPES)
    )
    text = f"<!doctype html><title>pilotfishd</title><h1>Log levels</h1><table>{rows}</table>"
    return web.Response(text=text, content_type="text/html")


async def _version(_: web.Request) -> web.Response:
    return web.json_response(BUILD)


async def _scopes(_: web.Request) -> web.Response:
    return web.json_response([_row(name) for name in sorted(logs.SCOPES)])


async def _scope(request: web.Request) -> web.Response:
    name = request.match_info["scope"]
    return web.json_response(_row(name)) if name in logs.SCOPES else _unknown(name)


async def _change(request: web.Request) -> web.Response:
    """A level that is empty or no level stays as it is: istioctl sends only what it wants changed."""
    name = request.match_info["scope"]
    if name not in logs.SCOPES:
        return _unknown(name)
    try:
        wanted = str((await request.json()).get("output_level") or "")
    except (ValueError, AttributeError):
        return web.json_response({"error": "a JSON object is expected"}, status=400)
    if wanted in logs.LEVELS:
        logs.set_level(name, wanted)
    return web.Response(status=202)


def _unknown(name: str) -> web.Response:
    known = ", ".join(sorted(logs.SCOPES))
    return web.json_response({"error": f"there is no scope {name!r}; there are {known}"}, status=400)
