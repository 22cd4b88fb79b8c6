"""The HTTP side: readiness and debug on 8080, metrics and debug on 15014, webhooks on 15017."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pilotfish import ISTIO_VERSION, __version__
from pilotfish.daemon.metrics import Metrics
from pilotfish.daemon.options import Address

BUILD = {
    "version": ISTIO_VERSION,
    "revision": f"pilotfish.{__version__}",
    "golang_version": "",
    "status": "Clean",
    "tag": ISTIO_VERSION,
}
"""What Istio's tools want to know of a program: the API it has, and in place of the commit who made it."""


def monitoring(metrics: Metrics) -> web.Application:
    """`/metrics` and `/version`."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def version(_: web.Request) -> web.Response:
        return web.Response(text="-".join((BUILD["version"], BUILD["revision"], BUILD["status"])))

    app = application()
    app.router.add_get("/metrics", page)
    app.router.add_get("/version", version)
    return app


def readiness(ready: Callable[[], bool]) -> web.Application:
    """`/ready`: 200 when the configuration has been read and is served."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(status=200 if ready() else 503)

    app = application()
    app.router.add_get("/ready", page)
    return app


def application() -> web.Application:
    """An application that forgives doubled slashes in paths."""
    # Go's servers send //version to /version, and istioctl relies on it.
    return web.Application(middlewares=[web.normalize_path_middleware(append_slash=False)])


async def listen(app: web.Application, address: Address, tls: ssl.SSLContext | None = None) -> web.AppRunner:
    """Serve an application until its runner is cleaned up. Raises OSError when the address cannot be had."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, address.host or None, address.port, ssl_context=tls).start()
    return runner
