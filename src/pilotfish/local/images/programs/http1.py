"""HTTP/1.1 on asyncio streams, both sides, as far as the built-in programs need it (RFC 9112)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from asyncio import IncompleteReadError, LimitOverrunError, StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import parse_qs, unquote

if TYPE_CHECKING:
    from ssl import SSLContext

MAX_HEAD = 64 * 1024
MAX_BODY = 64 * 1024 * 1024

Headers = list[tuple[str, str]]
"""Names (as received) and values, in order."""


class ProtocolError(Exception):
    """What came is not HTTP/1.1, or too big."""


def header(headers: Headers, name: str, default: str = "") -> str:
    """The first value of a header."""
    return next((value for key, value in headers if key.lower() == name), default)


def has_token(headers: Headers, name: str, token: str) -> bool:
    """Whether a header that is a list of tokens (`Connection`, `Upgrade`, …) has the token."""
    values = (value for key, value in headers if key.lower() == name)
    return any(part.strip().lower() == token for value in values for part in value.split(","))


@dataclass(slots=True)
class Request:
    """A request that has arrived whole."""

    method: str
    target: str
    version: str
    headers: Headers
    body: bytes
    peer: str
    path: str = ""
    query: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        target = self.target
        if target.startswith(("http://", "https://")):
            target = "/" + target.split("/", 3)[3] if target.count("/") > 2 else "/"
        path, _, query = target.partition("?")
        self.path = unquote(path)
        if query:
            self.query = parse_qs(query, keep_blank_values=True)

    def header(self, name: str, default: str = "") -> str:
        """The first value of a header; `name` in lower case."""
        return header(self.headers, name, default)

    def parameter(self, name: str, default: str = "") -> str:
        """The last value of a query parameter."""
        return self.query.get(name, [default])[-1]


@dataclass(slots=True)
class Response:
    """A status, a body and further headers; length and connection handling are added on the wire."""

    status: int = 200
    body: bytes = b""
    type: str = "text/plain; charset=utf-8"
    headers: Headers = field(default_factory=list)


Handler = Callable[[Request], Awaitable[Response]]
Upgrade = Callable[[Request, StreamReader, StreamWriter], Awaitable[None]]
Serve = Callable[[StreamReader, StreamWriter], Awaitable[None]]


def text(body: str, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Response:
    """A response of plain text."""
    return Response(status, body.encode(), headers=list(headers))


def json_response(value: Any, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Response:
    """A response of JSON."""
    return Response(status, json.dumps(value).encode(), "application/json", list(headers))


def log(line: str) -> None:
    """Write a line to the container's log in one piece."""
    sys.stdout.write(f"{line}\n")


def log_request(request: Request, response: Response, started: float) -> None:
    """Write the log line of a request that `started` at a monotonic time."""
    log(
        f'{time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())} {request.peer} "{request.method} {request.target} '
        f'{request.version}" {response.status} {len(response.body)} {(time.monotonic() - started) * 1000:.0f}ms'
    )


def reason(status: int) -> str:
    """The phrase of a status code, `Unknown` for codes nobody registered."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


async def read_head(reader: StreamReader) -> tuple[str, Headers] | None:
    """The first line and the headers of a message, None when the connection ends before one starts."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except IncompleteReadError as error:
        if error.partial.strip():
            raise ProtocolError("the connection ended inside a message") from None
        return None
    except LimitOverrunError:
        raise ProtocolError("the headers are too big") from None
    lines = head.decode("latin-1").lstrip("\r\n").split("\r\n")
    headers: Headers = []
    for line in lines[1:]:
        if line:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise ProtocolError(f"not a header: {line[:80]!r}")
            headers.append((name, value.strip()))
    return lines[0], headers


async def read_body(reader: StreamReader, headers: Headers, *, until_close: bool = False) -> bytes:
    """The body of a message with the given headers."""
    if has_token(headers, "transfer-encoding", "chunked"):
        return await _read_chunks(reader)
    length = header(headers, "content-length")
    if length:
        if not length.isdecimal() or int(length) > MAX_BODY:
            raise ProtocolError(f"a bad or too big Content-Length: {length[:20]}")
        return await reader.readexactly(int(length))
    return await reader.read(-1) if until_close else b""


async def _read_chunks(reader: StreamReader) -> bytes:
    chunks: list[bytes] = []
    total = 0
    while True:
        line = (await reader.readline()).split(b";")[0].strip()
        try:
            size = int(line, 16)
        except ValueError:
            raise ProtocolError(f"not a chunk size: {line[:20]!r}") from None
        total += size
        if total > MAX_BODY or size < 0:
            raise ProtocolError("the body is too big")
        if size == 0:
            while (await reader.readline()).strip():
                pass  # trailers
            return b"".join(chunks)
        chunks.append(await reader.readexactly(size))
        await reader.readexactly(2)


class _Work:
    """How many requests are being answered, and when the last one was."""

    def __init__(self) -> None:
        self.open = 0
        self.last = -float("inf")
        self._none = asyncio.Event()

    def __enter__(self) -> None:
        self.open += 1
        self._none.clear()

    def __exit__(self, *_: object) -> None:
        self.open -= 1
        self.last = time.monotonic()
        if not self.open:
            self._none.set()

    async def ended(self) -> None:
        """Wait until nobody is answered any more, nor will be: callers hear late that a pod goes."""
        if not self.open and time.monotonic() - self.last > _LINGER:
            return
        await asyncio.sleep(_LINGER)
        if self.open:
            await self._none.wait()


_LINGER = 1.0
"""Seconds: longer than it takes until nobody sends requests to a pod that is being deleted."""
_work = _Work()


class Connection:
    """Serves requests on one connection, one after the other."""

    def __init__(
        self, handler: Handler, *, name: str = "", upgrade: Upgrade | None = None, http2: Serve | None = None
    ) -> None:
        """`upgrade` takes over requests for another protocol, `http2` connections that start with its preface."""
        self._handler = handler
        self._upgrade = upgrade
        self._http2 = http2
        self._name = name

    async def __call__(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve until either side is done, then close."""
        try:
            while await self._one(reader, writer):
                pass
        except ProtocolError as error:
            self._write(writer, "HTTP/1.1", Response(400, f"{error}\n".encode()), close=True, bodiless=False)
        except (OSError, IncompleteReadError):
            pass  # the peer went away, which is its right
        finally:
            writer.close()

    async def _one(self, reader: StreamReader, writer: StreamWriter) -> bool:
        head = await read_head(reader)
        if head is None:
            return False
        line, headers = head
        words = line.split(" ")
        if self._http2 and line == "PRI * HTTP/2.0":
            await self._http2(reader, writer)
            return False
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise ProtocolError(f"not a request: {line[:80]!r}")
        if has_token(headers, "expect", "100-continue"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        with _work:
            return await self._answer(words, headers, reader, writer)

    async def _answer(self, words: list[str], headers: Headers, reader: StreamReader, writer: StreamWriter) -> bool:
        started = time.monotonic()
        peer = writer.get_extra_info("peername")
        request = Request(
            words[0], words[1], words[2], headers, await read_body(reader, headers), peer[0] if peer else ""
        )
        if self._upgrade and has_token(headers, "connection", "upgrade"):
            await self._upgrade(request, reader, writer)
            return False
        try:
            response = await self._handler(request)
        except Exception as error:  # noqa: BLE001  # a fault in one request must not end the program
            log(f"{request.method} {request.target}: {type(error).__name__}: {error}")
            response = text("Internal Server Error\n", 500)
        keep = request.version == "HTTP/1.1" or has_token(headers, "connection", "keep-alive")
        close = not keep or has_token(headers, "connection", "close")
        self._write(writer, request.version, response, close=close, bodiless=request.method == "HEAD")
        await writer.drain()
        log_request(request, response, started)
        return not close

    def _write(self, writer: StreamWriter, version: str, response: Response, *, close: bool, bodiless: bool) -> None:
        lines = [f"{version} {response.status} {reason(response.status)}"]
        empty = response.status in {204, 304} or response.status < 200
        if not empty:
            lines += [f"Content-Type: {response.type}", f"Content-Length: {len(response.body)}"]
        lines += [f"{name}: {value}" for name, value in response.headers]
        if self._name:
            lines.append(f"Server: {self._name}")
        if close:
            lines.append("Connection: close")
        elif version == "HTTP/1.0":
            lines.append("Connection: keep-alive")
        head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
        writer.write(head if bodiless or empty else head + response.body)


async def listen(port: int, connection: Serve, tls: SSLContext | None = None) -> asyncio.Server:
    """Serve connections on a port of all addresses (0: any free port)."""
    return await asyncio.start_server(
        connection,
        "0.0.0.0",  # noqa: S104  # a pod's network is its own
        port,
        limit=MAX_HEAD,
        backlog=1024,
        ssl=tls,
    )


def port_of(server: asyncio.Server) -> int:
    """The port a server listens on."""
    port: int = server.sockets[0].getsockname()[1]
    return port


def run(start: Callable[[], Awaitable[None]]) -> NoReturn:
    """Run a program: `start` sets its servers up; it then serves until SIGTERM or SIGINT.

    After SIGTERM, a program that has had requests lately answers those that are under way or still come.
    """

    def stop(number: int, _frame: object) -> None:
        os._exit(0 if number == signal.SIGTERM else 130)  # at once: nothing has to be saved

    async def main() -> None:
        asked = asyncio.Event()
        await start()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
        await asked.wait()
        signal.signal(signal.SIGTERM, stop)  # a second one means it
        await _work.ended()
        os._exit(0)  # without waiting for connections that are only kept open

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        asyncio.run(main())
    except OSError as error:
        sys.exit(f"cannot listen: {error.strerror or error}")
    sys.exit(0)


def serve(handler: Handler, port: int, name: str) -> NoReturn:
    """Run a program that is one HTTP server."""

    async def start() -> None:
        server = await listen(port, Connection(handler, name=name))
        log(f"{name} listens on port {port_of(server)}")

    run(start)


async def fetch(
    host: str,
    port: int,
    target: str,
    *,
    headers: Headers | None = None,
    timeout: float,  # noqa: ASYNC109  # the whole exchange, as the callers' contracts say
    method: str = "GET",
    body: bytes = b"",
) -> Response:
    """Send one request on a connection of its own. Raises OSError (TimeoutError is one) or ProtocolError.

    A connection per request lets a Service spread requests over its endpoints when there is no sidecar to do it.
    """
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}:{port}", "Connection: close", "Accept: */*"]
    lines += [f"{name}: {value}" for name, value in headers or []]
    if body or method in {"POST", "PUT"}:
        lines.append(f"Content-Length: {len(body)}")
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(host, port, limit=MAX_HEAD, family=socket.AF_INET)
        try:
            writer.write("\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body)
            return await _read_response(reader, bodiless=method == "HEAD")
        except IncompleteReadError:
            raise ProtocolError("the connection ended inside the answer") from None
        finally:
            writer.close()


async def _read_response(reader: StreamReader, *, bodiless: bool) -> Response:
    while True:
        head = await read_head(reader)
        if head is None:
            raise ProtocolError("the connection ended without an answer")
        words = head[0].split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
            raise ProtocolError(f"not an answer: {head[0][:80]!r}")
        status = int(words[1])
        if status < 200:
            continue
        body = b"" if bodiless or status in {204, 304} else await read_body(reader, head[1], until_close=True)
        return Response(status, body, header(head[1], "content-type"), head[1])
