"""HTTP/2 on asyncio streams with the h2 library, for connections that start with the HTTP/2 preface."""

from __future__ import annotations

import asyncio
import time
from asyncio import StreamReader, StreamWriter
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import H2Error

from pilotfish.local.images.programs.http1 import Handler, Headers, Request, Response, log_request

_PREFACE = b"PRI * HTTP/2.0\r\n\r\n"
_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade"}


@dataclass
class _Stream:
    headers: Headers
    body: bytearray = field(default_factory=bytearray)


class Connection:
    """Serves the streams of connections; call it with the preface's first line read already."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve until either side is done."""
        await _Session(self._handler, writer).serve(reader)


class _Session:
    def __init__(self, handler: Handler, writer: StreamWriter) -> None:
        self._handler = handler
        self._writer = writer
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="latin-1"))
        self._streams: dict[int, _Stream] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._window = asyncio.Event()

    async def serve(self, reader: StreamReader) -> None:
        self._h2.initiate_connection()
        data = _PREFACE
        try:
            while data:
                for event in self._h2.receive_data(data):
                    self._handle(event)
                await self._flush()
                data = await reader.read(64 * 1024)
        except H2Error:
            await self._flush()  # what h2 wants to say about the violation
        finally:
            for task in self._tasks.values():
                task.cancel()

    async def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())
        await self._writer.drain()

    def _handle(self, event: Event) -> None:
        match event:
            case RequestReceived(stream_id=int(number), headers=headers):
                self._streams[number] = _Stream([(str(name), str(value)) for name, value in headers or ()])
            case DataReceived(stream_id=int(number), data=data, flow_controlled_length=int(length)):
                self._streams[number].body += data or b""
                self._h2.acknowledge_received_data(length, number)
            case StreamEnded(stream_id=int(number)):
                task = asyncio.create_task(self._answer(number, self._streams.pop(number)))
                self._tasks[number] = task
                task.add_done_callback(lambda _: self._tasks.pop(number, None))
            case StreamReset(stream_id=int(number)):
                self._streams.pop(number, None)
                if task_ := self._tasks.get(number):
                    task_.cancel()
            case WindowUpdated():
                self._window.set()
            case ConnectionTerminated():
                self._writer.close()

    async def _answer(self, number: int, stream: _Stream) -> None:
        started = time.monotonic()
        pseudo = {name: value for name, value in stream.headers if name.startswith(":")}
        headers = [("host", pseudo.get(":authority", "")), *(h for h in stream.headers if not h[0].startswith(":"))]
        peer = self._writer.get_extra_info("peername")
        request = Request(
            pseudo.get(":method", ""), pseudo.get(":path", ""), "HTTP/2", headers, bytes(stream.body), peer[0]
        )
        response = await self._handler(request)
        try:
            await self._send(number, response, bodiless=request.method == "HEAD")
        except (H2Error, OSError):
            return  # the peer reset the stream or went away, which is its right
        log_request(request, response, started)

    async def _send(self, number: int, response: Response, *, bodiless: bool) -> None:
        headers = [(":status", str(response.status)), ("content-type", response.type)]
        headers += [("content-length", str(len(response.body)))]
        headers += [(name.lower(), value) for name, value in response.headers if name.lower() not in _HOP]
        body = b"" if bodiless else response.body
        self._h2.send_headers(number, headers, end_stream=not body)
        while body:
            room = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
            if room <= 0:
                self._window.clear()
                await self._flush()
                await self._window.wait()
                continue
            self._h2.send_data(number, body[:room], end_stream=len(body) <= room)
            body = body[room:]
        await self._flush()
