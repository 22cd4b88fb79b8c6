"""The relay behind published ports."""

from __future__ import annotations

import asyncio

from pilotfish.local.node.publish import Published, _Outside


class _NeverPaused(_Outside):
    """As with releases of Python that forget a pause asked for in connection_made."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.resume_reading()


async def test_what_arrives_early_is_not_lost() -> None:
    """Data, and the end of data, that arrive before the Service has accepted are handed on when it has."""

    async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read(-1)).upper())
        writer.close()

    loop = asyncio.get_running_loop()
    service = await asyncio.start_server(upper, "127.0.0.1", 0)
    target = Published(("default", "web"), "127.0.0.1", service.sockets[0].getsockname()[1])
    relay = await loop.create_server(lambda: _NeverPaused(target), "127.0.0.1", 0)
    try:
        for _ in range(20):
            reader, writer = await asyncio.open_connection(*relay.sockets[0].getsockname())
            writer.write(b"hello")
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(-1), 60) == b"HELLO"
            writer.close()
    finally:
        relay.close()
        service.close()
