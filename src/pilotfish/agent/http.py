"""HTTP/1.1 in small: a server of a few paths and a client of single requests, on h11.

A web framework would cost every pod of the mesh twenty megabytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import h11

log = logging.getLogger(__name__)

MAX_BODY = 10 * 1024 * 1024
IDLE_SECONDS = 75.0


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    target: str
    headers: Mapping[str, str]
    """Names in lower case."""
    peer: str

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]


@dataclass(frozen=True, slots=True)
class Response:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Serve = Callable[[Request], Awaitable[Response]]


class HttpServer:
    """Requests one after another on each connection; bodies of requests are read and dropped."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str | None, port: int) -> int:
        """Listen; the port is returned, for 0."""
        self._server = await asyncio.start_server(self._accept, host, port, reuse_address=True)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            await self._connection(reader, writer)
        except (h11.RemoteProtocolError, OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the peer's business
        finally:
            writer.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        peer = (writer.get_extra_info("peername") or ("",))[0]
        while True:
            event = await _next(connection, reader)
            if not isinstance(event, h11.Request):
                return
            headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
            while isinstance(await _next(connection, reader), h11.Data):
                pass
            request = Request(event.method.decode(), event.target.decode("latin-1"), headers, str(peer))
            response = await self._answer(request)
            lines = [(name.encode(), value.encode()) for name, value in response.headers.items()]
            lines.append((b"content-length", str(len(response.body)).encode()))
            head = connection.send(h11.Response(status_code=response.status, headers=lines)) or b""
            # h11 knows that a HEAD request has no body in its answer.
            data = b"" if request.method == "HEAD" else connection.send(h11.Data(data=response.body)) or b""
            writer.write(head + data + (connection.send(h11.EndOfMessage()) or b""))
            await writer.drain()
            if connection.our_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._serve(request)
        except Exception:
            log.exception("%s %s", request.method, request.path)
            return Response(500, b"internal error\n")


async def _next(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Event | None:
    """The next event; None when the connection cannot go on."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await asyncio.wait_for(reader.read(65536), IDLE_SECONDS))
    return event if isinstance(event, h11.Event) else None


class TooLargeError(Exception):
    """The answer is larger than the caller is willing to read."""


async def fetch(
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    timeout: float = 10.0,  # noqa: ASYNC109 (part of what is asked, not a way to cancel)
    source: str | None = None,
    limit: int = MAX_BODY,
    connect_to: tuple[str, int] | None = None,
) -> Response:
    """One request on a connection of its own, TLS not verified. Raises OSError, TimeoutError, TooLargeError.

    `source` is the local address to come from; `connect_to` overrides where the URL's host is.
    """
    async with asyncio.timeout(timeout):
        return await _fetch(url, method, headers or {}, source, limit, connect_to)


async def _fetch(
    url: str,
    method: str,
    headers: Mapping[str, str],
    source: str | None,
    limit: int,
    connect_to: tuple[str, int] | None,
) -> Response:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host = parts.hostname or ""
    port = parts.port or (443 if secure else 80)
    reader, writer = await asyncio.open_connection(
        *(connect_to or (host, port)),
        ssl=_unverified() if secure else None,
        server_hostname=host if secure else None,
        local_addr=(source, 0) if source else None,
    )
    try:
        lines = {"host": parts.netloc, "connection": "close", **{k.lower(): v for k, v in headers.items()}}
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = h11.Connection(h11.CLIENT)
        begin = h11.Request(method=method, target=target, headers=list(lines.items()))
        writer.write((connection.send(begin) or b"") + (connection.send(h11.EndOfMessage()) or b""))
        await writer.drain()
        return await _read(connection, reader, limit)
    except h11.RemoteProtocolError as error:
        raise ConnectionError(f"{url}: not an HTTP/1.1 answer: {error}") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _read(connection: h11.Connection, reader: asyncio.StreamReader, limit: int) -> Response:
    status, headers, body = 0, {}, bytearray()
    while True:
        event = await _next(connection, reader)
        if isinstance(event, h11.Response):
            status = event.status_code
            headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > limit:
                raise TooLargeError
        elif not isinstance(event, h11.InformationalResponse):
            return Response(status, bytes(body), headers)


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # a kubelet's probes do not verify either
    return context
