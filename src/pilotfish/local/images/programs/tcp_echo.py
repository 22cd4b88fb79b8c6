"""A TCP echo: every line comes back with a prefix."""

from __future__ import annotations

import sys
from asyncio import StreamReader, StreamWriter

from pilotfish.local.images.programs.http1 import listen, log, port_of, run


class Lines:
    """Sends lines back on a connection, each with a prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = f"{prefix} ".encode() if prefix else b""

    async def __call__(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve until the peer is done."""
        peer = writer.get_extra_info("peername")
        try:
            while line := await reader.readline():
                log(f"{peer[0] if peer else ''} {len(line)} bytes")
                writer.write(self._prefix + line)
                await writer.drain()
        except (OSError, ValueError):
            pass  # the peer went away, or its line has no end
        finally:
            writer.close()


def main() -> None:
    """Serve: `tcp_echo PORT[,PORT…] [PREFIX]`, as Istio's sample image is called; 9000 and "hello" by default."""
    ports = sys.argv[1] if len(sys.argv) > 1 else "9000"
    prefix = sys.argv[2] if len(sys.argv) > 2 else "hello"

    async def start() -> None:
        for port in ports.split(","):
            server = await listen(int(port), Lines(prefix))
            log(f"listens on port {port_of(server)}, prefix {prefix!r}")

    run(start)
