"""The parts of the process, put together: store, scraper, receiver, sources, API."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from grpclib.server import Server

from pilotfish.console.access import Access, Anonymous, Tokens, for_all
from pilotfish.console.api import Api
from pilotfish.console.main import TRACE_SYSTEMS, Options
from pilotfish.errors import UserError
from pilotfish.grpc import BytesCodec
from pilotfish.kube.client import Client
from pilotfish.kube.errors import KubeError
from pilotfish.kube.informer import Informer
from pilotfish.kube.resources import ENDPOINT_SLICES, PODS
from pilotfish.telemetry.embedded import StoredMetrics
from pilotfish.telemetry.jaeger import JaegerTraces
from pilotfish.telemetry.otlp import TraceService
from pilotfish.telemetry.prometheus import PrometheusMetrics
from pilotfish.telemetry.query import MetricsSource, TraceSource
from pilotfish.telemetry.receive import Receiver, runner
from pilotfish.telemetry.scrape import Scraper, pod_fields
from pilotfish.telemetry.store import Store, StoreError
from pilotfish.telemetry.tempo import TempoTraces
from pilotfish.telemetry.zipkin import ZipkinTraces

_log = logging.getLogger(__name__)
_PRUNE_SECONDS = 30.0


@dataclass(slots=True)
class Running:
    """What runs. A task that ends has failed."""

    port: int = 0
    receive_port: int = 0
    otlp_port: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self.tasks.append(asyncio.create_task(work, name=name))


@asynccontextmanager
async def collector(options: Options) -> AsyncIterator[Running]:
    """Runs from entry to exit. Raises UserError or OSError when it cannot start."""
    async with AsyncExitStack() as stack:
        metrics_source = await _metrics(options, stack)
        trace_source = await _traces(options, stack)
        store = await Store.open(options.data / "telemetry.db", window=options.window, size_limit=options.size_limit)
        stack.push_async_callback(store.close)
        running = Running()
        stack.push_async_callback(_stop, running)
        receiver = Receiver(store)
        running.start(receiver.run(), "receive")
        running.start(_prune(store), "prune")
        scraper: Scraper | None = None
        access: Access = Anonymous()
        scrapes = metrics_source is None and options.cluster
        if scrapes or options.auth == "token":
            client = _client(options, stack)
            if scrapes:
                scraper = _scraper(client, options, store, running)
            if options.auth == "token":
                access = Tokens(client)
        api = Api(
            metrics_source or StoredMetrics(store),
            trace_source or store,
            store,
            receiver,
            scraper,
            options,
            access,
        )
        running.port = await _serve(api.routes(), options.address, options.port, stack)
        spans = [*receiver.routes(), *for_all(receiver.query_routes(), access)]
        running.receive_port = await _serve(spans, options.address, options.receive_port, stack)
        running.otlp_port = await _serve_grpc(receiver.trace_service(), options.address, options.otlp_port, stack)
        ports = (running.port, running.receive_port, running.otlp_port)
        if options.auth == "anonymous":
            _log.info("no login: whoever can connect to %s sees everything", options.address)
        _log.info("listening on ports %d (API), %d (spans by HTTP) and %d (spans by gRPC)", *ports)
        yield running


async def _metrics(options: Options, stack: AsyncExitStack) -> MetricsSource | None:
    return await stack.enter_async_context(PrometheusMetrics(options.prometheus)) if options.prometheus else None


async def _traces(options: Options, stack: AsyncExitStack) -> TraceSource | None:
    if not options.traces:
        return None
    system, _, url = options.traces.partition("=")
    if system == "zipkin":
        return await stack.enter_async_context(ZipkinTraces(url))
    if system == "jaeger":
        return await stack.enter_async_context(JaegerTraces(url))
    if system == "tempo":
        return await stack.enter_async_context(TempoTraces(url))
    raise UserError(f"--traces {options.traces!r}: write SYSTEM=URL, where SYSTEM is one of {', '.join(TRACE_SYSTEMS)}")


def _client(options: Options, stack: AsyncExitStack) -> Client:
    try:
        client = Client.from_file(options.kubeconfig, user_agent="pilotfish-console")
    except KubeError as error:
        raise UserError(str(error)) from error
    stack.push_async_callback(client.close)
    return client


def _scraper(client: Client, options: Options, store: Store, running: Running) -> Scraper:
    pods = Informer(client, PODS, transform=pod_fields)
    slices = Informer(client, ENDPOINT_SLICES, options.namespace, labels="kubernetes.io/service-name=istiod")
    scraper = Scraper(store, pods, slices, interval=options.interval)
    for work, name in ((pods.run(), "pods"), (slices.run(), "endpoints"), (scraper.run(), "scrape")):
        running.start(work, name)
    return scraper


async def _prune(store: Store) -> None:
    while True:
        try:
            await store.prune()
        except StoreError as error:
            _log.debug("not pruned: %s", error)  # the store has told
        await asyncio.sleep(_PRUNE_SECONDS)


async def _serve(routes: list[web.RouteDef], address: str, port: int, stack: AsyncExitStack) -> int:
    server = runner(routes)
    await server.setup()
    stack.push_async_callback(server.cleanup)
    await web.TCPSite(server, address, port).start()
    return int(server.addresses[0][1])


async def _serve_grpc(service: TraceService, address: str, port: int, stack: AsyncExitStack) -> int:
    server = Server([service], codec=BytesCodec())
    listener = socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    stack.callback(server.close)
    await server.start(sock=listener)
    return int(listener.getsockname()[1])


async def _stop(running: Running) -> None:
    for task in running.tasks:
        task.cancel()
    await asyncio.gather(*running.tasks, return_exceptions=True)
