"""Probes and lifecycle handlers: asking a container whether it is well, or telling it something.

A check is one coroutine in this process; only `exec` starts a program. `Prober` is the schedule of one container:
the startup probe first, then liveness and readiness side by side.
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol
from urllib.parse import urlsplit

Object = Mapping[str, Any]

USER_AGENT = "kube-probe/1.36"
_MAX_BODY = 10 * 1024
_MAX_REDIRECTS = 10
_EAGER = (0.1, 1.0)
"""First and longest pause, seconds, between tries of a container that has not been seen well yet."""
_FIRST_SECONDS = 1.0
"""How long after the start (and the initial delay) failures do not count: programs need a moment to listen."""


@dataclass(frozen=True)
class Outcome:
    """What a check found; `message` says why it failed."""

    ok: bool
    message: str = ""


class Target(Protocol):
    """The container that is checked."""

    @property
    def ip(self) -> str:
        """The pod's address."""

    def port(self, value: object) -> int:
        """A port number, or the number of a named container port; raises ValueError."""

    async def execute(self, command: list[str], timeout_seconds: float) -> tuple[int, bytes]:
        """Run a program in the container: exit code and output. Raises TimeoutError."""


@cache
def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def request_bytes(action: Object, host: str, port: int, path: str) -> bytes:
    """The request of an `httpGet` action, with kubelet's default headers."""
    headers = {
        "host": ("Host", f"{host}:{port}"),
        "user-agent": ("User-Agent", USER_AGENT),
        "accept": ("Accept", "*/*"),
    }
    extra = []
    for header in action.get("httpHeaders") or ():
        key = header["name"].lower()
        if key in headers:
            headers[key] = (header["name"], header.get("value") or "")
        else:
            extra.append((header["name"], header.get("value") or ""))
    shown = [*(pair for pair in headers.values() if pair[1]), *extra, ("Connection", "close")]
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in shown)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _fetch(action: Object, host: str, port: int, path: str, tls: bool) -> tuple[int, str]:
    """Status code and Location of one request."""
    reader, writer = await asyncio.open_connection(host, port, ssl=_unverified() if tls else None, limit=_MAX_BODY)
    try:
        writer.write(request_bytes(action, host, port, path))
        words = (await reader.readline()).split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
            raise ConnectionError("malformed HTTP response")
        code, location = int(words[1]), ""
        if 300 <= code < 400:
            while (line := (await reader.readline()).strip()) != b"":
                name, _, value = line.partition(b":")
                if name.lower() == b"location":
                    location = value.strip().decode(errors="replace")
        return code, location
    finally:
        writer.transport.abort()


async def _http(action: Object, target: Target) -> Outcome:
    host = action.get("host") or target.ip
    port = target.port(action["port"])
    tls = (action.get("scheme") or "HTTP") == "HTTPS"
    path = action.get("path") or "/"
    path = path if path.startswith("/") else "/" + path
    url = f"{'https' if tls else 'http'}://{host}:{port}{path}"
    try:
        for _ in range(_MAX_REDIRECTS):
            code, location = await _fetch(action, host, port, path, tls)
            if not location or not 300 <= code < 400:
                break
            parts = urlsplit(location)
            if parts.hostname and parts.hostname != host:
                break  # as kubelet: elsewhere is not our business, and counts as success
            if parts.scheme:
                tls = parts.scheme == "https"
                port = parts.port or (443 if tls else 80)
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        else:
            return Outcome(False, f'Get "{url}": stopped after {_MAX_REDIRECTS} redirects')
    except (OSError, ValueError) as error:
        return Outcome(False, f'Get "{url}": {_why(error, host, port)}')
    if 200 <= code < 400:
        return Outcome(True)
    return Outcome(False, f"HTTP probe failed with statuscode: {code}")


def _why(error: Exception, host: str, port: int) -> str:
    if isinstance(error, OSError) and error.errno:
        return f"dial tcp {host}:{port}: connect: {os.strerror(error.errno).lower()}"
    return str(error) or type(error).__name__


async def _tcp(action: Object, target: Target) -> Outcome:
    host, port = action.get("host") or target.ip, target.port(action["port"])
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        return Outcome(False, _why(error, host, port))
    writer.transport.abort()
    return Outcome(True)


async def _grpc(action: Object, target: Target) -> Outcome:
    # Imported when first used: few pods have gRPC probes, and protobuf costs memory.
    from grpclib.client import Channel  # noqa: PLC0415
    from grpclib.exceptions import GRPCError  # noqa: PLC0415
    from grpclib.health.v1.health_grpc import HealthStub  # noqa: PLC0415
    from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse  # noqa: PLC0415

    channel = Channel(target.ip, target.port(action["port"]))
    try:
        answer = await HealthStub(channel).Check(HealthCheckRequest(service=action.get("service") or ""))
    except GRPCError as error:
        return Outcome(False, f"service unhealthy: {error.status.name} {error.message or ''}".strip())
    except OSError as error:
        return Outcome(False, _why(error, target.ip, target.port(action["port"])))
    finally:
        channel.close()
    if answer.status == HealthCheckResponse.SERVING:
        return Outcome(True)
    name = HealthCheckResponse.ServingStatus.Name(answer.status)
    return Outcome(False, f"service unhealthy (responded with {name!r})")


async def check(handler: Object, target: Target, timeout_seconds: float) -> Outcome:
    """Perform a probe's or a hook's action once."""
    try:
        async with asyncio.timeout(timeout_seconds):
            if handler.get("httpGet"):
                return await _http(handler["httpGet"], target)
            if handler.get("tcpSocket"):
                return await _tcp(handler["tcpSocket"], target)
            if handler.get("grpc"):
                return await _grpc(handler["grpc"], target)
            if handler.get("exec"):
                code, output = await target.execute(list(handler["exec"].get("command") or ()), timeout_seconds)
                text = output[:_MAX_BODY].decode(errors="replace").strip()
                return Outcome(code == 0, text or f"command exited with {code}")
            if handler.get("sleep") is not None:
                await asyncio.sleep(float(handler["sleep"].get("seconds") or 0))
            return Outcome(True)
    except TimeoutError:
        return Outcome(False, f"timed out after {timeout_seconds:g}s (context deadline exceeded)")
    except ValueError as error:
        return Outcome(False, str(error))


@dataclass(frozen=True)
class Schedule:
    """The numbers of a probe, with Kubernetes' defaults."""

    initial_delay: float
    period: float
    timeout: float
    successes: int
    failures: int

    @classmethod
    def of(cls, probe: Object) -> Schedule:
        return cls(
            float(probe.get("initialDelaySeconds") or 0),
            float(probe.get("periodSeconds") or 10),
            float(probe.get("timeoutSeconds") or 1),
            int(probe.get("successThreshold") or 1),
            int(probe.get("failureThreshold") or 3),
        )


class Watcher(Protocol):
    """Who is told what the probes of a container find."""

    def started(self) -> None:
        """The startup probe succeeded, or there is none."""

    def ready(self, value: bool) -> None:
        """The readiness changed."""

    def unhealthy(self, kind: str, message: str) -> None:
        """A probe failed once; `kind` is Startup, Liveness or Readiness."""

    def failed(self, kind: str, probe: Object) -> None:
        """A startup or liveness probe failed so often that the container must be restarted."""


class Prober:
    """Runs the probes of one run of a container until cancelled."""

    def __init__(self, container: Object, target: Target, watcher: Watcher) -> None:
        self._container = container
        self._target = target
        self._watcher = watcher
        self._begin = time.monotonic()

    async def run(self) -> None:
        """Runs until cancelled."""
        startup = self._container.get("startupProbe")
        if startup and not await self._startup(startup):
            return
        self._watcher.started()
        loops: list[Awaitable[None]] = []
        if self._container.get("readinessProbe"):
            loops.append(self._readiness(self._container["readinessProbe"]))
        else:
            self._watcher.ready(True)
        if self._container.get("livenessProbe"):
            loops.append(self._liveness(self._container["livenessProbe"]))
        if loops:
            async with asyncio.TaskGroup() as group:
                for loop in loops:
                    group.create_task(_as_coroutine(loop))

    async def _delay(self, schedule: Schedule) -> None:
        left = schedule.initial_delay - (time.monotonic() - self._begin)
        if left > 0:
            await asyncio.sleep(left)

    async def _startup(self, probe: Object) -> bool:
        """Whether the container came up. Tries between two periods do not count as failures."""
        schedule = Schedule.of(probe)
        await self._delay(schedule)
        failures = successes = 0
        due = time.monotonic() + min(_FIRST_SECONDS, schedule.period)
        pause = _EAGER[0]
        while True:
            outcome = await check(probe, self._target, schedule.timeout)
            now = time.monotonic()
            if outcome.ok:
                successes += 1
                if successes >= schedule.successes:
                    return True
            else:
                successes = 0
                if now >= due:
                    due = now + schedule.period
                    failures += 1
                    self._watcher.unhealthy("Startup", outcome.message)
                    if failures >= schedule.failures:
                        self._watcher.failed("Startup", probe)
                        return False
            await asyncio.sleep(min(pause, schedule.period, max(due - now, 0.01)))
            pause = min(pause * 2, _EAGER[1])

    async def _readiness(self, probe: Object) -> None:
        schedule = Schedule.of(probe)
        await self._delay(schedule)
        ready = seen = False
        failures = successes = 0
        due = time.monotonic() + min(_FIRST_SECONDS, schedule.period)
        pause = _EAGER[0]
        while True:
            outcome = await check(probe, self._target, schedule.timeout)
            now = time.monotonic()
            if outcome.ok:
                successes, failures, seen = successes + 1, 0, True
                if not ready and successes >= schedule.successes:
                    ready = True
                    self._watcher.ready(True)
            elif now >= due or seen:
                successes, failures = 0, failures + 1
                self._watcher.unhealthy("Readiness", outcome.message)
                if ready and failures >= schedule.failures:
                    ready = False
                    self._watcher.ready(False)
            if now >= due:
                due = now + schedule.period
            if seen:
                await asyncio.sleep(schedule.period)
            else:
                await asyncio.sleep(min(pause, schedule.period))
                pause = min(pause * 2, _EAGER[1])

    async def _liveness(self, probe: Object) -> None:
        schedule = Schedule.of(probe)
        await self._delay(schedule)
        await asyncio.sleep(min(_FIRST_SECONDS, schedule.period))
        failures = 0
        while True:
            outcome = await check(probe, self._target, schedule.timeout)
            if outcome.ok:
                failures = 0
            else:
                failures += 1
                self._watcher.unhealthy("Liveness", outcome.message)
                if failures >= schedule.failures:
                    self._watcher.failed("Liveness", probe)
                    return
            await asyncio.sleep(schedule.period)


async def _as_coroutine(loop: Awaitable[None]) -> None:
    await loop


async def collect(
    start: Callable[[int], Awaitable[tuple[int, asyncio.Future[int]]]], timeout_seconds: float
) -> tuple[int, bytes]:
    """Start a program with its output going to a memory file, wait, and kill it when it takes too long.

    `start(fd)` returns its pid and the future of its exit code.
    """
    output = os.memfd_create("output")
    try:
        pid, exited = await start(output)
        try:
            async with asyncio.timeout(timeout_seconds):
                code = await asyncio.shield(exited)
        except (TimeoutError, asyncio.CancelledError):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            raise
        return code, os.pread(output, _MAX_BODY, 0)
    finally:
        os.close(output)
