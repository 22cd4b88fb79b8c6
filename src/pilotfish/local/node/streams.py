"""exec and attach: WebSocket connections with the channels of the Kubernetes remote command protocol.

A binary message is one channel byte and data: 0 standard input, 1 output, 2 errors, 3 the final Status, 4 terminal
size. Version 5 adds 255 (`[255, 0]` closes standard input); version 4 cannot close it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

from pilotfish.local.node.container import ContainerWorker
from pilotfish.local.node.host import first_of
from pilotfish.local.node.hostlink import wake
from pilotfish.local.node.runtime import Started, StartError

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")

_STDIN, _STDOUT, _STDERR, _ERROR, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255
_BLOCK = 32 * 1024
_PING_SECONDS = 30.0
_DRAIN_SECONDS = 1.0


@dataclass(frozen=True)
class Options:
    """The query of exec and attach, in the API server's or the kubelet's spelling."""

    command: tuple[str, ...]
    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool

    @classmethod
    def from_request(cls, request: web.Request) -> Options:
        query = request.query

        def flag(*names: str) -> bool:
            return any(query.get(name, "").lower() in {"1", "true"} for name in names)

        return cls(
            tuple(query.getall("command", [])),
            flag("stdin", "input"),
            flag("stdout", "output"),
            flag("stderr", "error"),
            flag("tty"),
        )


def status(code: int, error: str = "") -> dict[str, Any]:
    """The Status object that ends a session."""
    if error:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": error,
            "reason": "InternalError",
            "code": 500,
        }
    if code == 0:
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def set_size(terminal: int, message: Mapping[str, Any]) -> None:
    """Apply a resize message `{"Width": columns, "Height": rows}`."""
    size = struct.pack("HHHH", int(message.get("Height") or 0), int(message.get("Width") or 0), 0, 0)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)


class _Writer:
    """Writes to a descriptor that may be full, in order."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        os.set_blocking(fd, False)

    async def write(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.fd, view) :]
            except BlockingIOError:
                ready: asyncio.Future[None] = loop.create_future()
                loop.add_writer(self.fd, wake, ready)
                try:
                    await ready
                finally:
                    loop.remove_writer(self.fd)


async def _pump(fd: int, channel: int, socket: web.WebSocketResponse) -> None:
    """Send everything readable from a descriptor until its end; closes it."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    try:
        while True:
            try:
                data = os.read(fd, _BLOCK)
            except BlockingIOError:
                ready: asyncio.Future[None] = loop.create_future()
                loop.add_reader(fd, wake, ready)
                try:
                    await ready
                finally:
                    loop.remove_reader(fd)
                continue
            except OSError:  # a terminal whose other side is closed
                return
            if not data:
                return
            await socket.send_bytes(bytes([channel]) + data)
    finally:
        os.close(fd)


async def _take_input(socket: web.WebSocketResponse, stdin: _Input, terminal: int | None) -> None:
    """Messages of the client until it goes away."""
    async for message in socket:
        if message.type != WSMsgType.BINARY or not message.data:
            continue
        channel, data = message.data[0], message.data[1:]
        if channel == _STDIN and stdin.writer is not None and data:
            with contextlib.suppress(OSError):
                await stdin.writer.write(data)
        elif channel == _RESIZE and terminal is not None:
            with contextlib.suppress(OSError, ValueError, msgspec.DecodeError):
                set_size(terminal, msgspec.json.decode(data))
        elif channel == _CLOSE and data[:1] == b"\x00" and terminal is None:
            stdin.close()


async def _finish(socket: web.WebSocketResponse, message: Mapping[str, Any]) -> None:
    with contextlib.suppress(ConnectionError, RuntimeError):
        await socket.send_bytes(bytes([_ERROR]) + msgspec.json.encode(message))
        await socket.close()


async def _open(request: web.Request, options: Options) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(protocols=PROTOCOLS, heartbeat=_PING_SECONDS, max_msg_size=0, compress=False)
    await socket.prepare(request)
    # As kubelet: an empty message on the first channel tells the client that the streams are open.
    if options.stdout or options.stderr:
        await socket.send_bytes(bytes([_STDOUT if options.stdout else _STDERR]))
    return socket


class _Pipes:
    """The pipes of a program without a terminal: our ends and the program's, by file descriptor number."""

    def __init__(self, options: Options) -> None:
        self.ours: dict[int, int] = {}
        self.theirs: dict[int, int] = {}
        if options.tty:
            return
        if options.stdin:
            self.theirs[0], self.ours[0] = os.pipe()
        for number, wanted in ((1, options.stdout), (2, options.stderr)):
            if wanted:
                self.ours[number], self.theirs[number] = os.pipe()

    @staticmethod
    def close(ends: dict[int, int]) -> None:
        for fd in ends.values():
            os.close(fd)
        ends.clear()


class _Input:
    """The writing end of a program's standard input, closed once."""

    def __init__(self, fd: int | None, ended: Callable[[], None] = lambda: None) -> None:
        self.writer = _Writer(fd) if fd is not None else None
        self._ended = ended

    def close(self) -> None:
        if self.writer is not None:
            os.close(self.writer.fd)
            self.writer = None
            self._ended()


async def execute(request: web.Request, worker: ContainerWorker) -> web.StreamResponse:
    """Serve exec: run a program in the container with its streams on the WebSocket."""
    options = Options.from_request(request)
    running, process = worker.running, worker.process
    if running is None or process is None:
        raise web.HTTPBadRequest(text=f"container {worker.name} is not running")
    if not options.command:
        raise web.HTTPBadRequest(text="you must specify at least one command for the container")
    socket = await _open(request, options)
    environment = process.env
    if options.tty and not any(one.startswith("TERM=") for one in environment):
        environment = (*environment, "TERM=xterm")
    program = replace(process, args=options.command, env=environment, terminal=options.tty)
    pipes = _Pipes(options)
    stdin, stdout, stderr = (pipes.theirs.get(number) for number in range(3))
    try:
        started = await worker.pod.host.runtime.exec(running, program, stdin=stdin, stdout=stdout, stderr=stderr)
    except StartError as error:
        pipes.close(pipes.ours)
        await _finish(socket, status(0, f"error executing command in container: {error}"))
        return socket
    finally:
        pipes.close(pipes.theirs)
    await _converse(socket, started, pipes, options)
    return socket


async def _converse(socket: web.WebSocketResponse, started: Started, pipes: _Pipes, options: Options) -> None:
    """Carry data both ways until the program ends or the client goes away."""
    terminal = started.terminal
    source = pipes.ours.pop(0, None)
    if terminal is not None and options.stdin:
        source = os.dup(terminal)
    stdin = _Input(source)
    outputs = [(os.dup(terminal), _STDOUT)] if terminal is not None else [(fd, n) for n, fd in pipes.ours.items()]
    pumps = [asyncio.create_task(_pump(fd, channel, socket)) for fd, channel in outputs]
    listener = asyncio.create_task(_take_input(socket, stdin, terminal))
    try:
        await first_of(started.exited, listener)
        if not started.exited.done():
            if terminal is not None:  # it hangs up when its user goes away
                with contextlib.suppress(ProcessLookupError):
                    os.kill(started.pid, signal.SIGHUP)
            return
        if pumps:  # a child left in the background may hold the pipes open for ever
            await asyncio.wait(pumps, timeout=_DRAIN_SECONDS)
        await _finish(socket, status(started.exited.result()))
    finally:
        listener.cancel()
        for pump in pumps:
            pump.cancel()
        stdin.close()
        if terminal is not None:
            os.close(terminal)


async def attach(request: web.Request, worker: ContainerWorker) -> web.StreamResponse:
    """Serve attach: the streams of the container's own program, from now on."""
    options = Options.from_request(request)
    running, log = worker.running, worker.log
    if running is None or log is None:
        raise web.HTTPBadRequest(text=f"container {worker.name} is not running")
    socket = await _open(request, options)
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    channels = {"stdout": _STDOUT, "stderr": _STDERR}
    wanted = {"stdout": options.stdout, "stderr": options.stderr}

    def listen(stream: str, data: bytes) -> None:
        if not stream:
            queue.put_nowait(None)
        elif wanted[stream]:
            queue.put_nowait(bytes([channels[stream]]) + data)

    async def forward() -> None:
        while (data := await queue.get()) is not None:
            await socket.send_bytes(data)

    def input_ended() -> None:
        if options.stdin and worker.spec.get("stdinOnce"):
            worker.close_stdin()  # the program sees the end of its input when the first client has no more

    source = running.terminal if running.terminal is not None else worker.stdin
    stdin = _Input(os.dup(source) if options.stdin and source is not None else None, input_ended)
    log.listen(listen)
    sender = asyncio.create_task(forward())
    receiver = asyncio.create_task(_take_input(socket, stdin, running.terminal))
    try:
        await first_of(sender, receiver)
        if sender.done() and sender.exception() is None:
            await _finish(socket, status(await asyncio.shield(running.exited)))
    finally:
        log.unlisten(listen)
        sender.cancel()
        receiver.cancel()
        stdin.close()
    return socket
