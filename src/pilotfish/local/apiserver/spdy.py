"""SPDY/3.1, as far as Kubernetes uses it: a server to which clients open streams (exec, attach, port-forward).

Framing after https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/. The clients (moby/spdystream) send
no window updates and heed none, so flow control is the transport's.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

_WORDS = (  # noqa: SIM905 (a list of eighty strings would be a page long)
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status"
).split()
_MORE = ("200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin")
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = b"".join(struct.pack(">I", len(word)) + word.encode() for word in (*_WORDS, *_MORE)) + _TAIL.encode()
"""The text that header compression starts from; the protocol fixes it to the byte."""

_VERSION = 3
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _HEADERS, _WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
_FIN = 1
_MAX_FRAME = 1 << 24
_CHUNK = 1 << 16

Send = Callable[[bytes], Awaitable[None]]
Accept = Callable[["Stream"], None]


class SpdyError(Exception):
    """The client does not speak the protocol."""


@dataclass(eq=False)
class Stream:
    """One stream that the client has opened, with the headers it gave."""

    number: int
    headers: dict[str, str]
    connection: Connection
    _data: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    _ended: bool = False

    async def read(self) -> bytes:
        """The next bytes; none at the end."""
        if self._ended and self._data.empty():
            return b""
        return await self._data.get()

    def feed(self, data: bytes) -> None:
        if data and not self._ended:
            self._data.put_nowait(data)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._data.put_nowait(b"")

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), _CHUNK):
            await self.connection.send_data(self.number, data[start : start + _CHUNK], fin=False)

    async def finish(self) -> None:
        """No more comes from us."""
        await self.connection.send_data(self.number, b"", fin=True)

    async def reset(self) -> None:
        await self.connection.send_control(_RST_STREAM, 0, struct.pack(">II", self.number, 5))


class Connection:
    """The server's end. `feed` takes what arrives; `accept` is told of each stream, which has been answered already."""

    def __init__(self, send: Send, accept: Accept) -> None:
        self._send = send
        self._accept = accept
        self._buffer = bytearray()
        self._unpack = zlib.decompressobj(zdict=DICTIONARY)
        self._pack = zlib.compressobj(zdict=DICTIONARY)
        self._streams: dict[int, Stream] = {}
        self._lock = asyncio.Lock()
        self.closed = asyncio.Event()

    async def feed(self, data: bytes) -> None:
        """Bytes from the client. Raises SpdyError."""
        self._buffer += data
        while len(self._buffer) >= 8:
            first, rest = struct.unpack_from(">II", self._buffer)
            size = rest & 0xFFFFFF
            if len(self._buffer) < 8 + size:
                return
            body = bytes(self._buffer[8 : 8 + size])
            del self._buffer[: 8 + size]
            if first >> 31:
                await self._control(first >> 16 & 0x7FFF, first & 0xFFFF, rest >> 24, body)
            else:
                stream = self._streams.get(first)
                if stream is not None:
                    stream.feed(body)
                    if rest >> 24 & _FIN:
                        stream.end()

    def close(self) -> None:
        """The transport has ended."""
        for stream in self._streams.values():
            stream.end()
        self.closed.set()

    async def _control(self, version: int, kind: int, flags: int, body: bytes) -> None:
        if version != _VERSION:
            raise SpdyError(f"version {version} is not spoken here")
        if kind == _SYN_STREAM:
            (number,) = struct.unpack_from(">I", body)
            stream = Stream(number, self._headers(body[10:]), self)
            self._streams[number] = stream
            if flags & _FIN:
                stream.end()
            async with self._lock:
                await self._frame(_SYN_REPLY, 0, struct.pack(">I", number) + self._packed({}))
            self._accept(stream)
        elif kind == _HEADERS:
            self._headers(body[4:])  # keeps the decompressor in step
        elif kind == _RST_STREAM:
            (number,) = struct.unpack_from(">I", body)
            stream_gone = self._streams.pop(number, None)
            if stream_gone is not None:
                stream_gone.end()
        elif kind == _PING:
            await self.send_control(_PING, 0, body)
        elif kind == _GOAWAY:
            self.closed.set()

    def _headers(self, packed: bytes) -> dict[str, str]:
        try:
            block = self._unpack.decompress(packed, _MAX_FRAME)
            (count,) = struct.unpack_from(">I", block)
            at = 4
            out = {}
            for _ in range(count):
                pair = []
                for _ in range(2):
                    (size,) = struct.unpack_from(">I", block, at)
                    pair.append(block[at + 4 : at + 4 + size].decode("latin-1"))
                    at += 4 + size
                out[pair[0].lower()] = pair[1].split("\0")[0]
        except (zlib.error, struct.error) as error:
            raise SpdyError(f"headers cannot be read: {error}") from None
        return out

    def _packed(self, headers: dict[str, str]) -> bytes:
        block = struct.pack(">I", len(headers))
        for name, value in headers.items():
            for text in (name, value):
                block += struct.pack(">I", len(text)) + text.encode("latin-1")
        return self._pack.compress(block) + self._pack.flush(zlib.Z_SYNC_FLUSH)

    async def _frame(self, kind: int, flags: int, body: bytes) -> None:
        head = struct.pack(">II", 1 << 31 | _VERSION << 16 | kind, flags << 24 | len(body))
        await self._send(head + body)

    async def send_control(self, kind: int, flags: int, body: bytes) -> None:
        async with self._lock:
            await self._frame(kind, flags, body)

    async def send_data(self, number: int, data: bytes, *, fin: bool) -> None:
        flags = _FIN if fin else 0
        async with self._lock:
            await self._send(struct.pack(">II", number, flags << 24 | len(data)) + data)
