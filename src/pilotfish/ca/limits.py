"""Receiving messages of strangers: grpclib itself sets no limit to their size.

What else is limited is limited by `h2`: 100 streams a connection, 64 KiB of headers.
"""

from __future__ import annotations

from grpclib import GRPCError, Status
from grpclib.server import Stream

MAX_MESSAGE = 4 * 1024 * 1024
"""Bytes, as istiod has it."""


async def receive(stream: Stream[bytes, bytes], most: int = MAX_MESSAGE) -> bytes | None:
    """The next message, None at the end. Raises GRPCError before more than `most` bytes are taken in.

    The form is that of https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md: a flag, the size, the message.
    """
    raw = stream._stream  # noqa: SLF001  the public way reads whatever size is announced
    head = await raw.recv_data(5)
    if not head:
        return None
    if head[0]:
        raise GRPCError(Status.UNIMPLEMENTED, "compressed messages are not supported")
    size = int.from_bytes(head[1:], "big")
    if size > most:
        raise GRPCError(Status.RESOURCE_EXHAUSTED, f"the message has {size} bytes; at most {most} are accepted")
    body: bytes = await raw.recv_data(size)
    if len(head) < 5 or len(body) < size:
        raise GRPCError(Status.INTERNAL, "the message is cut off")
    return body
