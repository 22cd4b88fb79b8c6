"""The kubelet's HTTP API on `DATA/run/node.sock`: logs, exec, attach, statistics. Only the API server's process can
open the socket; it has authenticated and authorised the caller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from pilotfish.local.node import logs, streams, unixpath
from pilotfish.local.node.container import ContainerWorker
from pilotfish.local.node.kubelet import Kubelet
from pilotfish.local.node.pod import PodWorker
from pilotfish.local.node.stats import Stats


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


class Server:
    """Serves the API."""

    def __init__(self, path: Path, kubelet: Kubelet) -> None:
        self._path = path
        self._kubelet = kubelet
        self._stats = Stats()
        app = web.Application()
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/pods", self._pods)
        app.router.add_get("/stats/summary", self._summary)
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        for verb, handler in (("exec", self._exec), ("attach", self._attach)):
            app.router.add_route("*", f"/{verb}/{{namespace}}/{{pod}}/{{container}}", handler)
            app.router.add_route("*", f"/{verb}/{{namespace}}/{{pod}}/{{uid}}/{{container}}", handler)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)

    async def start(self) -> None:
        """Listen."""
        await self._runner.setup()
        self._path.unlink(missing_ok=True)
        with unixpath.short(self._path) as path:
            await web.UnixSite(self._runner, path).start()
        self._path.chmod(0o600)

    async def close(self) -> None:
        """Stop."""
        await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _pods(self, _: web.Request) -> web.Response:
        items = [worker.object for worker in self._kubelet.workers()]
        return _json({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})

    async def _summary(self, _: web.Request) -> web.Response:
        return _json(self._stats.summary(self._kubelet.workers()))

    def _find(self, request: web.Request) -> tuple[PodWorker, ContainerWorker]:
        info = request.match_info
        worker = self._kubelet.find(info["namespace"], info["pod"])
        if worker is None:
            raise web.HTTPNotFound(text=f'pod "{info["pod"]}" is not on this node')
        container = worker.container(info["container"])
        if container is None:
            raise web.HTTPNotFound(text=f'container "{info["container"]}" not found in pod "{info["pod"]}"')
        return worker, container

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        _, container = self._find(request)
        try:
            options = logs.LogOptions.from_query(dict(request.query))
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        name = f'container "{container.name}" in pod "{request.match_info["pod"]}"'
        previous = request.query.get("previous", "").lower() in {"true", "1"}
        run = container.view.restarts - (1 if previous else 0)
        path = container.log_path(run)
        if previous and not path.exists():
            raise web.HTTPBadRequest(text=f"previous terminated {name} not found")
        if not previous and not path.exists():
            # Between two runs the last one is shown, as kubelet does.
            path = container.log_path(run - 1)
            waiting = container.view.state.get("waiting")
            if not path.exists():
                reason = (waiting or {}).get("reason") or "ContainerCreating"
                raise web.HTTPBadRequest(text=f"{name} is waiting to start: {reason}")
        live = container.log if container.log is not None and container.log.path == path else None
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        try:
            async for chunk in logs.read(path, options, live if live is not None and not previous else None):
                if chunk:
                    await response.write(chunk)
            await response.write_eof()
        except ConnectionError:
            pass  # the reader went away
        return response

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        return await streams.execute(request, self._find(request)[1])

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        return await streams.attach(request, self._find(request)[1])
