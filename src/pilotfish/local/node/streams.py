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
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

from pilotfish.local.node.container import ContainerWorker
from pilotfish.local.node.runtime import StartError

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")

_STDIN, _STDOUT, _STDERR, _ERROR, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255
_BLOCK = 32 * 1024
_PING_SECONDS = 30.0


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
                loop.add_writer(self.fd, lambda f=ready: f.done() or f.set_result(None))  # type: ignore[misc]
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
                loop.add_reader(fd, lambda f=ready: f.done() or f.set_result(None))  # type: ignore[misc]
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


async def _take_input(
    socket: web.WebSocketResponse, stdin: _Writer | None, terminal: int | None, close_stdin: Any
) -> None:
    """Messages of the client until it goes away."""
    async for message in socket:
        if message.type != WSMsgType.BINARY or not message.data:
            continue
        channel, data = message.data[0], message.data[1:]
        if channel == _STDIN and stdin is not None and data:
            with contextlib.suppress(OSError):
                await stdin.write(data)
        elif channel == _RESIZE and terminal is not None:
            with contextlib.suppress(OSError, ValueError, msgspec.DecodeError):
                set_size(terminal, msgspec.json.decode(data))
        elif channel == _CLOSE and data[:1] == b"\x00":
            stdin = None
            close_stdin()


async def _finish(socket: web.WebSocketResponse, message: Mapping[str, Any]) -> None:
    with contextlib.suppress(ConnectionError, RuntimeError):
        await socket.send_bytes(bytes([_ERROR]) + msgspec.json.encode(message))
        await socket.close()


async def _open(request: web.Request, options: Options) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(protocols=PROTOCOLS, heartbeat=_PING_SECONDS, max_msg_size=0, compress=False)
    await socket.prepare(request)
    # Clients wait for a first message on every channel before they show anything.
    for channel, wanted in ((_STDOUT, options.stdout), (_STDERR, options.stderr and not options.tty)):
        if wanted:
            await socket.send_bytes(bytes([channel]))
    return socket


async def execute(request: web.Request, worker: ContainerWorker) -> web.StreamResponse:
    """Serve exec: run a program in the container with its streams on the WebSocket."""
    options = Options.from_request(request)
    running, process = worker.running, worker.process
    if running is None or process is None:
        raise web.HTTPBadRequest(text=f"container {worker.name} is not running")
    if not options.command:
        raise web.HTTPBadRequest(text="you must specify at least one command for the container")
    socket = await _open(request, options)
    ours: dict[int, int] = {}
    theirs: list[int | None] = [None, None, None]
    if not options.tty:
        if options.stdin:
            theirs[0], ours[0] = os.pipe()
        for number, wanted in ((1, options.stdout), (2, options.stderr)):
            if wanted:
                ours[number], theirs[number] = os.pipe()
    environment = process.env
    if options.tty and not any(one.startswith("TERM=") for one in environment):
        environment = (*environment, "TERM=xterm")
    program = replace(process, args=options.command, env=environment, terminal=options.tty)
    try:
        started = await worker.pod.host.runtime.exec(
            running, program, stdin=theirs[0], stdout=theirs[1], stderr=theirs[2]
        )
    except StartError as error:
        for fd in ours.values():
            os.close(fd)
        await _finish(socket, status(0, f"error executing command in container: {error}"))
        return socket
    finally:
        for fd in theirs:
            if fd is not None:
                os.close(fd)
    terminal = started.terminal
    stdin_fd = os.dup(terminal) if terminal is not None and options.stdin else ours.pop(0, None)
    closed = False

    def close_stdin() -> None:
        nonlocal closed
        if stdin_fd is not None and not closed:
            closed = True
            os.close(stdin_fd)

    stdin = _Writer(stdin_fd) if stdin_fd is not None else None
    outputs = [(os.dup(terminal), _STDOUT)] if terminal is not None else [(ours[n], n) for n in sorted(ours)]
    pumps = [asyncio.create_task(_pump(fd, channel, socket)) for fd, channel in outputs]
    listener = asyncio.create_task(_take_input(socket, stdin, terminal, close_stdin))
    try:
        exited = asyncio.ensure_future(asyncio.shield(started.exited))
        await asyncio.wait({exited, listener}, return_when=asyncio.FIRST_COMPLETED)
        if not exited.done() and options.tty:
            # The client went away: its terminal hangs up.
            with contextlib.suppress(ProcessLookupError):
                os.kill(started.pid, signal.SIGHUP)
        if not exited.done():
            close_stdin()
            exited.cancel()
            return socket
        # A child left in the background may hold the pipes open for ever.
        await asyncio.wait(pumps, timeout=1.0) if pumps else None
        await _finish(socket, status(started.exited.result()))
    finally:
        listener.cancel()
        for pump in pumps:
            pump.cancel()
        close_stdin()
        if terminal is not None:
            os.close(terminal)
    return socket


async def attach(request: web.Request, worker: ContainerWorker) -> web.StreamResponse:
    """Serve attach: the streams of the container's own program, from now on."""
    options = Options.from_request(request)
    running, log = worker.running, worker.log
    if running is None or log is None:
        raise web.HTTPBadRequest(text=f"container {worker.name} is not running")
    socket = await _open(request, options)
    queue: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
    wanted = {"stdout": options.stdout, "stderr": options.stderr}
    channels = {"stdout": _STDOUT, "stderr": _STDERR}

    def listen(stream: str, data: bytes) -> None:
        if wanted[stream]:
            queue.put_nowait((channels[stream], data))

    async def forward() -> None:
        while True:
            channel, data = await queue.get()
            await socket.send_bytes(bytes([channel]) + data)

    source = running.terminal if running.terminal is not None else worker.stdin
    stdin = _Writer(os.dup(source)) if options.stdin and source is not None else None

    def close_stdin() -> None:
        # `stdinOnce`: the program sees the end of its input when the first client goes.
        if worker.spec.get("stdinOnce") and worker.stdin is not None:
            os.close(worker.stdin)
            worker.stdin = None

    log.listen(listen)
    sender = asyncio.create_task(forward())
    receiver = asyncio.create_task(_take_input(socket, stdin, running.terminal, close_stdin))
    try:
        exited = asyncio.ensure_future(asyncio.shield(running.exited))
        await asyncio.wait({exited, receiver, sender}, return_when=asyncio.FIRST_COMPLETED)
        if exited.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    while not log.closed or not queue.empty():
                        await asyncio.sleep(0.01)
            await _finish(socket, status(exited.result()))
        else:
            exited.cancel()
    finally:
        log.unlisten(listen)
        sender.cancel()
        receiver.cancel()
        if stdin is not None:
            os.close(stdin.fd)
            if options.stdin:
                close_stdin()
    return socket
