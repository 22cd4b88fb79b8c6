"""A WebSocket endpoint that sends every message back (RFC 6455, without extensions)."""

from __future__ import annotations

import base64
import hashlib
import struct
from asyncio import StreamReader, StreamWriter

from pilotfish.local.images.programs.http1 import ProtocolError, Request, log

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CLOSE, _PING, _PONG = 0x8, 0x9, 0xA
_MAX = 16 * 1024 * 1024


async def serve(request: Request, reader: StreamReader, writer: StreamWriter) -> None:
    """Take over the connection of an upgrade request."""
    if request.header("upgrade").lower() != "websocket":
        raise ProtocolError(f"no upgrade to {request.header('upgrade')[:40]!r} here, only to websocket")
    digest = hashlib.sha1(f"{request.header('sec-websocket-key')}{_GUID}".encode(), usedforsecurity=False).digest()
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
    )
    messages = 0
    while True:
        head, payload = await _frame(reader)
        opcode = head & 0x0F
        messages += opcode < _CLOSE
        answer = head & 0xF0 | _PONG if opcode == _PING else head
        if opcode != _PONG:
            writer.write(_header(answer, len(payload)) + payload)
            await writer.drain()
        if opcode == _CLOSE:
            log(f'{request.peer} "WEBSOCKET {request.target}" closed after {messages} messages')
            return


async def _frame(reader: StreamReader) -> tuple[int, bytes]:
    """The first byte and the unmasked payload of a frame."""
    head, size = await reader.readexactly(2)
    masked, length = size & 0x80, size & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
    elif length == 127:
        (length,) = struct.unpack("!Q", await reader.readexactly(8))
    if not masked or length > _MAX:
        raise ProtocolError("a WebSocket frame that is not masked or too big")
    key = await reader.readexactly(4)
    payload = await reader.readexactly(length)
    mask = int.from_bytes((key * (length // 4 + 1))[:length], "big")
    return head, (int.from_bytes(payload, "big") ^ mask).to_bytes(length, "big")


def _header(first: int, length: int) -> bytes:
    if length < 126:
        return struct.pack("!BB", first, length)
    return struct.pack("!BBH", first, 126, length) if length < 1 << 16 else struct.pack("!BBQ", first, 127, length)
