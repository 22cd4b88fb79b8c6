"""What every gRPC server and client of ours needs: messages as bytes, and a limit to what strangers may send."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from grpclib import GRPCError, Status
from grpclib.encoding.base import CodecBase
from grpclib.server import Stream

MAX_MESSAGE = 4 * 1024 * 1024
"""Bytes, gRPC's own default."""


_BLOCK = 32 * 1024
"""Bytes given to a connection at a time. OpenSSL keeps for each connection as much as it was ever given at once."""


class BytesCodec(CodecBase):
    """Messages are bytes already."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> Any:
        return data


async def receive(stream: Stream[bytes, bytes], most: int = MAX_MESSAGE, *, packed: bool = False) -> bytes | None:
    """The next message, None at the end. Raises GRPCError before more than `most` bytes are taken in.

    grpclib itself sets no limit to the size of messages; what else is limited is limited by `h2`: 100 streams a
    connection, 64 KiB of headers. `packed` takes messages that are compressed (gzip, deflate), too.
    The form is that of https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md: a flag, the size, the message.
    """
    raw = stream._stream  # noqa: SLF001  the public way reads whatever size is announced
    try:
        head = await raw.recv_data(5)
        if not head:
            return None
        if head[0] and not packed:
            raise GRPCError(Status.UNIMPLEMENTED, "compressed messages are not supported")
        size = int.from_bytes(head[1:], "big")
        if size > most:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, f"the message has {size} bytes; at most {most} are accepted")
        body: bytes = await raw.recv_data(size)
    except AssertionError as error:  # how grpclib tells that less came than was asked for
        raise GRPCError(Status.INTERNAL, "the message is cut off") from error
    return _unpacked(body, most) if head[0] else body


async def send(stream: Stream[bytes, bytes], pieces: Sequence[bytes | memoryview]) -> None:
    """Send one message, given in pieces; the stream's headers must have been sent.

    A long message is never in memory as a whole: pieces that many callers share are copied block by block, when the
    connection takes them. grpclib would copy it several times and go through all of `h2` for every 16 KiB.
    """
    raw: Any = stream._stream  # noqa: SLF001  the public way takes a whole message only
    connection, h2 = raw.connection, raw._h2_connection  # noqa: SLF001
    head = b"\0" + sum(map(len, pieces)).to_bytes(4, "big")
    for block in _blocks(itertools.chain((head,), pieces)):
        left = memoryview(block)
        while left:
            await connection.write_ready.wait()
            window = h2.local_flow_control_window(raw.id)
            if window <= 0:
                raw.window_updated.clear()
                await raw.window_updated.wait()
                continue
            now, left = left[:window], left[window:]
            h2.outbound_flow_control_window -= len(now)
            h2.streams[raw.id].outbound_flow_control_window -= len(now)
            size = h2.max_outbound_frame_size
            frames = (now[at : at + size] for at in range(0, len(now), size))
            raw._transport.write(  # noqa: SLF001
                h2.data_to_send() + b"".join(part for one in frames for part in (_data_head(len(one), raw.id), one))
            )
            raw.data_sent += len(now)
            connection.data_sent += len(now)
            connection.data_send_process()
    connection.messages_sent += 1


def _data_head(size: int, stream: int) -> bytes:
    """The head of an HTTP/2 DATA frame without flags (https://www.rfc-editor.org/rfc/rfc9113#section-4.1)."""
    return (size << 48 | stream).to_bytes(9, "big")


def _blocks(pieces: Iterator[bytes | memoryview]) -> Iterator[bytes]:
    """Pieces joined until there is enough to send at once."""
    found: list[bytes | memoryview] = []
    size = 0
    for one in pieces:
        found.append(one)
        size += len(one)
        if size >= _BLOCK:
            yield b"".join(found)
            found, size = [], 0
    if found:
        yield b"".join(found)


def _unpacked(body: bytes, most: int) -> bytes:
    # Which of both it is stands in a header that grpclib keeps to itself, and in the first bytes.
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        message = unpacker.decompress(body, most)
    except zlib.error as error:
        raise GRPCError(Status.UNIMPLEMENTED, "compressed messages are read as gzip and deflate only") from error
    if unpacker.unconsumed_tail:
        raise GRPCError(Status.RESOURCE_EXHAUSTED, f"unpacked, the message has more than {most} bytes")
    if not unpacker.eof:
        raise GRPCError(Status.INTERNAL, "the compressed message is cut off")
    return message
