"""The way to the node: its own API on `node.sock`, raw connections into its network through `dial.sock`."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from pilotfish.local.apiserver.errors import ApiError

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest, ConnectionKey
    from aiohttp.tracing import Trace

DIAL_SECONDS = 10
_ANSWER = 4096


class DialError(OSError):
    """The node cannot be reached, or refuses to connect; the text says why."""


class NodeLink:
    """Sockets in `DATA/run/` that the node serves."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._session: aiohttp.ClientSession | None = None

    async def dial(self, **where: Any) -> socket.socket:
        """A connected socket inside the node's network: to host= and port=, or to pod= (its uid) and port=."""
        path = self.run / "dial.sock"
        loop = asyncio.get_running_loop()
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.setblocking(False)
        try:
            await loop.sock_connect(link, str(path))
            await loop.sock_sendall(link, json.dumps(where).encode() + b"\n")
            async with asyncio.timeout(DIAL_SECONDS):
                await _readable(loop, link)
            answer, descriptors, _, _ = socket.recv_fds(link, _ANSWER, 1)
        except FileNotFoundError:
            raise DialError("the node is not running") from None
        except TimeoutError:
            raise DialError(f"no connection within {DIAL_SECONDS} s") from None
        except OSError as error:
            raise DialError(f"the node cannot be reached: {error.strerror or error}") from None
        finally:
            link.close()
        if not descriptors:
            try:
                why = json.loads(answer).get("error", "")
            except ValueError:
                why = ""
            raise DialError(why or "the node gave no connection")
        connected = socket.socket(fileno=descriptors[0])
        connected.setblocking(False)
        return connected

    def session(self) -> aiohttp.ClientSession:
        """A client of the node's own API; any host name in the address will do."""
        if self._session is None or self._session.closed:
            connector = aiohttp.UnixConnector(path=str(self.run / "node.sock"))
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _done(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _readable(loop: asyncio.AbstractEventLoop, link: socket.socket) -> None:
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(link, _done, ready)
    try:
        await ready
    finally:
        loop.remove_reader(link)


class DialConnector(aiohttp.BaseConnector):
    """Connects HTTP clients to one place inside the node's network."""

    def __init__(self, node: NodeLink, **where: Any) -> None:
        super().__init__()
        self._node = node
        self._where = where

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - overrides
    ) -> ResponseHandler:
        _ = traces, timeout
        try:
            connected = await self._node.dial(**self._where)
        except DialError as error:
            raise _connection_error(req.connection_key, error) from error
        context = req.ssl if req.is_ssl() else None
        name = req.server_hostname or req.url.host
        _, protocol = await self._loop.create_connection(
            self._factory,
            sock=connected,
            ssl=context if not isinstance(context, bool | aiohttp.Fingerprint) else True,
            server_hostname=name if context is not None else None,
        )
        handler: ResponseHandler = protocol
        return handler


def _connection_error(key: ConnectionKey, error: OSError) -> aiohttp.ClientConnectorError:
    return aiohttp.ClientConnectorError(key, OSError(errno.EHOSTUNREACH, str(error)))


def unreachable(what: str, error: Exception) -> ApiError:
    """Something in the node's network does not answer: 503."""
    return ApiError(503, "ServiceUnavailable", f"error trying to reach {what}: {error}")
