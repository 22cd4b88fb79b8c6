"""What serving many proxies costs. `python -m benchmarks.xds [services [proxies]]`.

One process is the streams, compiler and mesh of a control plane (no Kubernetes), another the delta proxies, which
acknowledge everything. The naive way beside it serialises each proxy's whole configuration anew at each change;
compiling it anew as well, which it would have to, is not even counted.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing as mp
import resource
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import uvloop
from benchmarks.compile import endpoint_slice, node, objects, virtual_service
from grpclib.client import Channel, StreamStreamMethod
from grpclib.server import Server

from pilotfish.daemon.memory import trim
from pilotfish.envoy import CLUSTER, ENDPOINT, LISTENER, ROUTE, Compiler, proto
from pilotfish.grpc import BytesCodec
from pilotfish.mesh import World
from pilotfish.mesh.proxies import View
from pilotfish.xds.fleet import Connection, Fleet
from pilotfish.xds.requests import Node
from pilotfish.xds.service import SERVICE, DiscoveryService

VIEWS = 5
DELTA = "envoy.service.discovery.v3.Delta"


class Source:
    def __init__(self, compiler: Compiler, view: View) -> None:
        self.view = view
        self.every = lambda type_url: compiler.every(view, type_url)
        self.one = lambda type_url, name: compiler.one(view, type_url, name)


class Backend:
    """As the daemon's, without Kubernetes."""

    def __init__(self, compiler: Compiler, fleet: Fleet) -> None:
        self._compiler = compiler
        self.waiting = 0
        self.converged_at = 0.0
        fleet.compile = self._compile

    def _compile(self) -> Any:
        changed = self._compiler.changed()
        none: Mapping[str, frozenset[str]] = {}
        return lambda connection: changed.get(connection.source.view, none)

    def ready(self) -> bool:
        return True

    def source(self, of: Node, caller: Any) -> Source:
        view = self._compiler.view(of.json())
        self._compiler.watch(view)
        return Source(self._compiler, view)

    async def debug(self, caller: Any, request: Any) -> Any: ...
    def sent(self, connection: Connection, response: Any, seconds: float) -> None: ...
    def acknowledged(self, connection: Connection, watch: Any) -> None: ...
    def refused(self, connection: Connection, watch: Any) -> None:
        raise AssertionError(watch.last_error)

    def failed(self, connection: Connection, error: Exception) -> None: ...

    def converged(self, connection: Connection, seconds: float) -> None:
        self.waiting -= 1
        self.converged_at = time.perf_counter()


# ------------------------------------------------------------------ the proxies


def proxies(pipe: Pipe, port: int, count: int) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_proxies(pipe, port, count))


async def _proxies(pipe: Pipe, port: int, count: int) -> None:
    request, response = DELTA + "DiscoveryRequest", DELTA + "DiscoveryResponse"
    full = asyncio.Semaphore(0)

    async def proxy(number: int) -> None:
        async with Channel("127.0.0.1", port, codec=BytesCodec()) as channel:
            method: Any = StreamStreamMethod(channel, SERVICE + "DeltaAggregatedResources", bytes, bytes)
            async with method.open() as stream:
                me = node(f"ns-{number % VIEWS}")
                me["id"] = me["id"].replace("client-1", f"client-{number}")
                await stream.send_message(proto.encode(request, {"node": me, "type_url": CLUSTER}))
                await stream.send_message(proto.encode(request, {"type_url": LISTENER}))
                seen: set[str] = set()
                while (body := await stream.recv_message()) is not None:
                    answer: Any = proto.decode(response, body)
                    ack = {"type_url": answer.type_url, "response_nonce": answer.nonce}
                    await stream.send_message(proto.encode(request, ack))
                    if answer.type_url not in seen:
                        seen.add(answer.type_url)
                        if answer.type_url == CLUSTER:
                            names = [one.name for one in answer.resources if one.name.startswith("outbound|")]
                            wanted = {"type_url": ENDPOINT, "resource_names_subscribe": names}
                            await stream.send_message(proto.encode(request, wanted))
                        if answer.type_url == LISTENER:
                            wanted = {"type_url": ROUTE, "resource_names_subscribe": ["80"]}
                            await stream.send_message(proto.encode(request, wanted))
                        if len(seen) == 4:
                            full.release()

    tasks = [asyncio.create_task(proxy(number)) for number in range(count)]
    for _ in range(count):
        await full.acquire()
    pipe.send("full")
    await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
    for task in tasks:
        task.cancel()


# ---------------------------------------------------------------- the control plane


def rss() -> float:
    """MB now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


async def serve(services: int, count: int) -> None:
    start = rss()
    world = World()
    for one in objects(services):
        world.apply(one)
    compiler, fleet = Compiler(world), Fleet()
    backend = Backend(compiler, fleet)
    for number in range(VIEWS):
        compiler.watch(compiler.view(node(f"ns-{number}")))
    loaded = rss()
    print(f"{services} services × 10 endpoints, {VIEWS} views: {(loaded - start) * 1000 / services:.0f} kB a service")
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    service = DiscoveryService(fleet, backend, None)
    service.on_disconnect = lambda connection: compiler.release(connection.source.view)  # type: ignore[attr-defined]
    server = Server([service], codec=BytesCodec())
    await server.start("127.0.0.1", 0)
    assert server._server is not None  # noqa: SLF001  there is no public way to learn the port
    port = server._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # noqa: SLF001  asyncio's servers do
    ours, theirs = mp.get_context("spawn").Pipe()
    child = mp.get_context("spawn").Process(target=proxies, args=(theirs, port, count), daemon=True)
    child.start()
    loop = asyncio.get_running_loop()
    cpu, began = time.process_time(), time.perf_counter()
    await loop.run_in_executor(None, ours.recv)
    cpu, took = time.process_time() - cpu, time.perf_counter() - began
    print(f"{'connect storm of ' + str(count):44}{took * 1e3:10.0f} ms   {cpu / count * 1e3:8.2f} ms CPU a proxy")
    gc.collect()
    grown = rss() - loaded
    trim()
    live = rss() - loaded
    print(f"{'memory':44}{live * 1000 / count:10.0f} kB a proxy   {grown * 1000 / count:8.0f} kB before it was trimmed")
    while not all(one.idle for one in fleet):  # noqa: ASYNC110  what is waited for is in another process
        await asyncio.sleep(0.05)
    cpu = time.process_time()
    await asyncio.sleep(3)
    print(f"{'idle':44}{(time.process_time() - cpu) / 3 * 100:10.2f} % of a core")

    view = compiler.view(node("ns-0"))

    def naive() -> float:
        """One proxy's configuration made into messages and serialised for it alone."""
        at = time.perf_counter()
        for type_url in (CLUSTER, ENDPOINT, LISTENER, ROUTE):
            for one in compiler.every(view, type_url).values():
                message = type_url.removeprefix(proto.TYPE_URL)
                proto.decode(message, one.body).SerializeToString(deterministic=True)
        return time.perf_counter() - at

    each = naive()
    changes: dict[str, Callable[[int], dict[str, Any]]] = {
        "one endpoint": lambda n: endpoint_slice(0, 1 + n % 2),
        "one VirtualService": lambda n: virtual_service(0, 10 + n),
    }
    for what, change in changes.items():
        costs, times = [], []
        for n in range(5):
            backend.waiting = count
            cpu, began = time.process_time(), time.perf_counter()
            world.apply(change(n))
            fleet.changed()
            while backend.waiting:  # noqa: ASYNC110  the same
                await asyncio.sleep(0.002)
            costs.append(time.process_time() - cpu)
            times.append(backend.converged_at - began)
        cost = sorted(costs)[2]
        text = f"{what + ' to all, acknowledged':44}{sorted(times)[2] * 1e3:10.0f} ms"
        print(f"{text}   {cost / count * 1e6:8.0f} µs CPU a proxy   1/{each * count / cost:.0f} of naive")
    ours.send("end")
    child.join(10)
    server.close()


def main() -> None:
    services = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(services, count))


if __name__ == "__main__":
    main()
