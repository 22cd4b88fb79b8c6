"""Probes and hooks against real servers on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from grpclib.health.service import Health
from grpclib.server import Server

from pilotfish.local.node import probes
from pilotfish.local.node.backoff import Backoff
from pilotfish.local.node.probes import Outcome, Prober, check


class Loopback:
    """A container at 127.0.0.1 with a port named `http`."""

    ip = "127.0.0.1"

    def __init__(self, number: int = 1) -> None:
        self.number = number
        self.result: tuple[int, bytes] = (0, b"")

    def port(self, value: object) -> int:
        if value == "http":
            return self.number
        if isinstance(value, int):
            return value
        raise ValueError(f"container c has no port named {value!r}")

    async def execute(self, command: list[str], timeout_seconds: float) -> tuple[int, bytes]:
        return self.result


@asynccontextmanager
async def http(answers: dict[str, str], seen: list[str]) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        seen.append(request)
        writer.write(answers[request.split()[1]].encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("path", "outcome"),
    [
        ("/ok", Outcome(True)),
        ("/teapot", Outcome(False, "HTTP probe failed with statuscode: 418")),
        ("/moved", Outcome(True)),
        ("/away", Outcome(True)),
        ("/to-error", Outcome(False, "HTTP probe failed with statuscode: 418")),
    ],
)
async def test_http(path: str, outcome: Outcome) -> None:
    """2xx and 3xx are well. Redirects are followed on the same host; one to another host counts as success."""
    answers = {
        "/ok": "HTTP/1.1 200 OK\r\n\r\n",
        "/teapot": "HTTP/1.1 418 I'm a teapot\r\n\r\n",
        "/moved": "HTTP/1.1 302 Found\r\nLocation: /ok\r\n\r\n",
        "/to-error": "HTTP/1.1 302 Found\r\nLocation: /teapot\r\n\r\n",
        "/away": "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n",
    }
    async with http(answers, []) as port:
        assert await check({"httpGet": {"path": path, "port": "http"}}, Loopback(port), 5) == outcome


def test_request_headers() -> None:
    """kubelet's headers, which `httpHeaders` may replace, remove (empty value) or add to."""
    headers = [{"name": "Host", "value": "a.b"}, {"name": "accept", "value": ""}, {"name": "X-A", "value": "1"}]
    assert probes.request_bytes({"httpHeaders": headers}, "10.0.0.1", 80, "/x") == (
        b"GET /x HTTP/1.1\r\nHost: a.b\r\nUser-Agent: kube-probe/1.36\r\nX-A: 1\r\nConnection: close\r\n\r\n"
    )


async def test_refused_silent_and_unknown_ports() -> None:
    """The message says what happened, as kubelet's does."""
    async with http({}, []) as port:
        pass
    refused = await check({"httpGet": {"path": "/x", "port": port}}, Loopback(), 5)
    assert refused.message == (
        f'Get "http://127.0.0.1:{port}/x": dial tcp 127.0.0.1:{port}: connect: connection refused'
    )
    assert not (await check({"tcpSocket": {"port": port}}, Loopback(), 5)).ok
    unknown = await check({"tcpSocket": {"port": "nope"}}, Loopback(), 5)
    assert unknown == Outcome(False, "container c has no port named 'nope'")

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await check({"tcpSocket": {"port": port}}, Loopback(), 5)).ok
        late = await check({"httpGet": {"port": port}}, Loopback(), 0.05)
        assert "context deadline exceeded" in late.message


async def test_grpc() -> None:
    """The standard health service: an unknown service is not well."""
    server = Server([Health()])
    await server.start("127.0.0.1", 0)
    listener: Any = server._server
    port = listener.sockets[0].getsockname()[1]
    assert (await check({"grpc": {"port": port}}, Loopback(), 5)).ok
    assert "NOT_FOUND" in (await check({"grpc": {"port": port, "service": "x"}}, Loopback(), 5)).message
    server.close()
    await server.wait_closed()
    assert "connection refused" in (await check({"grpc": {"port": port}}, Loopback(), 5)).message


async def test_exec_and_sleep() -> None:
    """An exec check is well with exit code 0; sleep always is."""
    target = Loopback()
    assert (await check({"exec": {"command": ["true"]}}, target, 1)).ok
    target.result = (3, b"broken\n")
    assert await check({"exec": {"command": ["false"]}}, target, 1) == Outcome(False, "broken")
    assert (await check({"sleep": {"seconds": 0}}, target, 1)).ok


class Recorder:
    """Writes down what a prober tells."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.event = asyncio.Event()

    def _tell(self, what: Any) -> None:
        self.told.append(what)
        self.event.set()

    def started(self) -> None:
        self._tell("started")

    def ready(self, value: bool) -> None:
        self._tell(("ready", value))

    def unhealthy(self, kind: str, message: str) -> None:
        self._tell(("unhealthy", kind))

    def failed(self, kind: str, probe: Any) -> None:
        self._tell(("failed", kind))

    async def until(self, what: Any) -> None:
        async with asyncio.timeout(60):
            while what not in self.told:
                self.event.clear()
                await self.event.wait()


async def probe_until(container: dict[str, Any], target: Loopback, recorder: Recorder, what: Any) -> None:
    task = asyncio.create_task(Prober(container, target, recorder).run())
    try:
        await recorder.until(what)
    finally:
        task.cancel()
        await asyncio.wait([task])


FAST = {"exec": {"command": ["x"]}, "periodSeconds": 0.02, "timeoutSeconds": 1}


async def test_without_probes_a_container_is_ready_at_once() -> None:
    """Started and ready, in this order."""
    recorder = Recorder()
    await Prober({}, Loopback(), recorder).run()
    assert recorder.told == ["started", ("ready", True)]


async def test_startup_holds_back_the_others() -> None:
    """Nothing is told before the startup probe succeeded; its failures count up to the threshold."""
    recorder, target = Recorder(), Loopback()
    target.result = (1, b"")
    container = {"startupProbe": {**FAST, "failureThreshold": 3}, "readinessProbe": FAST}
    await probe_until(container, target, recorder, ("failed", "Startup"))
    assert recorder.told == [("unhealthy", "Startup")] * 3 + [("failed", "Startup")]


async def test_readiness_comes_and_goes() -> None:
    """Ready after the successes, unready after failureThreshold failures, never restarted for it."""
    recorder, target = Recorder(), Loopback()
    container = {"readinessProbe": {**FAST, "failureThreshold": 2, "successThreshold": 2}}
    task = asyncio.create_task(Prober(container, target, recorder).run())
    await recorder.until(("ready", True))
    target.result = (1, b"")
    await recorder.until(("ready", False))
    task.cancel()
    assert recorder.told == ["started", ("ready", True), *[("unhealthy", "Readiness")] * 2, ("ready", False)]


async def test_liveness_fails_after_its_threshold() -> None:
    """failureThreshold failures in a row restart the container."""
    recorder, target = Recorder(), Loopback()
    target.result = (1, b"")
    await probe_until({"livenessProbe": {**FAST, "failureThreshold": 2}}, target, recorder, ("failed", "Liveness"))
    assert recorder.told[2:] == [("unhealthy", "Liveness")] * 2 + [("failed", "Liveness")]


def test_back_off() -> None:
    """At once, then 10 s doubling to 5 min; from the beginning after 10 min of peace."""
    backoff, now, delays = Backoff(), 0.0, []
    for _ in range(8):
        delay = backoff.next(now)
        delays.append(delay)
        now += delay + 1
    assert delays == [0, 10, 20, 40, 80, 160, 300, 300]
    assert backoff.next(now + 601) == 0
