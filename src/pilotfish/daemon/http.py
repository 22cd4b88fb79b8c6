"""The HTTP side: readiness and debug on 8080, metrics and debug on 15014, webhooks on 15017."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pilotfish import __version__
from pilotfish.daemon.metrics import Metrics
from pilotfish.daemon.options import Address


def monitoring(metrics: Metrics) -> web.Application:
    """`/metrics` and `/version`."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def version(_: web.Request) -> web.Response:
        return web.Response(text=f"{__version__}-pilotfish-Clean")

    app = web.Application()
    app.router.add_get("/metrics", page)
    app.router.add_get("/version", version)
    return app


def readiness(ready: Callable[[], bool]) -> web.Application:
    """`/ready`: 200 when the configuration has been read and is served."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(status=200 if ready() else 503)

    app = web.Application()
    app.router.add_get("/ready", page)
    return app


async def listen(app: web.Application, address: Address, tls: ssl.SSLContext | None = None) -> web.AppRunner:
    """Serve an application until its runner is cleaned up. Raises OSError when the address cannot be had."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, address.host or None, address.port, ssl_context=tls).start()
    return runner
