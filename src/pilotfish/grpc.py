"""What every gRPC server and client of ours needs: messages as bytes, and a limit to what strangers may send."""

from __future__ import annotations

import zlib
from typing import Any

from grpclib import GRPCError, Status
from grpclib.encoding.base import CodecBase
from grpclib.server import Stream

MAX_MESSAGE = 4 * 1024 * 1024
"""Bytes, gRPC's own default."""


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
