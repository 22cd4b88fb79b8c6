"""The echo over gRPC: `pilotfish.echo.Echo` and the standard health service.

Messages are `google.protobuf.Struct`, so that a client needs no generated code.
"""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.struct_pb2 import Struct
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.health.service import Health
from grpclib.server import Server, Stream

from pilotfish.local.images.programs.echo.report import identity, seconds
from pilotfish.local.images.programs.http1 import log

SERVICE = "pilotfish.echo.Echo"


class Echo:
    """`Echo` answers one message with a report, `Stream` every message of a stream.

    A message may ask for `delay` (a duration) and `code` (a number of a gRPC status).
    """

    async def echo(self, stream: Stream[Struct, Struct]) -> None:
        """Report one message."""
        message = await stream.recv_message()
        if message is not None:
            await stream.send_message(await self._report(stream, message))

    async def stream(self, stream: Stream[Struct, Struct]) -> None:
        """Report every message."""
        async for message in stream:
            await stream.send_message(await self._report(stream, message))

    async def _report(self, stream: Stream[Struct, Struct], message: Struct) -> Struct:
        asked = dict(message)
        if asked.get("delay"):
            await asyncio.sleep(seconds(str(asked["delay"])))
        if asked.get("code"):
            raise GRPCError(Status(int(float(str(asked["code"])))), "as asked")
        metadata = {name: str(value) for name, value in (stream.metadata or {}).items()}
        answer = Struct()
        answer.update({"protocol": "gRPC", "message": asked, "metadata": metadata, **identity()})
        log(f"gRPC {SERVICE}")
        return answer

    def __mapping__(self) -> dict[str, Handler]:
        """The methods, as grpclib wants them."""
        return {
            f"/{SERVICE}/Echo": Handler(self.echo, Cardinality.UNARY_UNARY, Struct, Struct),
            f"/{SERVICE}/Stream": Handler(self.stream, Cardinality.STREAM_STREAM, Struct, Struct),
        }


async def listen(port: int) -> int:
    """Serve gRPC on a port of all addresses; the port that was bound."""
    server = Server([Echo(), Health()])
    await server.start("0.0.0.0", port)  # noqa: S104  # a pod's network is its own
    listener: Any = server._server  # noqa: SLF001  # grpclib does not tell the port in another way
    bound: int = listener.sockets[0].getsockname()[1]
    return bound
