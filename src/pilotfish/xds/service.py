"""The gRPC service `envoy.service.discovery.v3.AggregatedDiscoveryService`, delta and state of the world."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from google.protobuf.message import DecodeError
from grpclib import GRPCError, Status
from grpclib.const import Cardinality, Handler
from grpclib.server import Stream

from pilotfish.ca.caller import Authenticator, Caller, UnauthenticatedError
from pilotfish.envoy.resource import finish
from pilotfish.grpc import receive, send
from pilotfish.xds.fleet import Connection, Fleet
from pilotfish.xds.requests import BadNodeError, Node, parse
from pilotfish.xds.session import Request, Response, Session, Source, Watch
from pilotfish.xds.wire import Pieces, delta_response, sotw_response

log = logging.getLogger(__name__)

SERVICE = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
DEBUG_TYPE = "istio.io/debug"
HEALTH_TYPE = "type.googleapis.com/istio.v1.HealthInformation"
"""Sent by agents only; nothing is answered."""
MOST_NAMES = 200_000
"""Names one stream may subscribe to, of all types."""
MOST_TYPES = 64
MOST_ANSWERS = 8
"""Answers to tools that may wait on the stream of one proxy."""

DebugResource = tuple[str, str, bytes]
"""A name, a type URL, and what is inside."""


_DEBUG_NONCE = "debug-"
_numbers = itertools.count(1)


def is_debug(type_url: str) -> bool:
    """`istio.io/debug` or a type below it."""
    return type_url == DEBUG_TYPE or type_url.startswith(DEBUG_TYPE + "/")


class Backend(Protocol):
    """What stands behind the service: compiled configuration, and whoever wants to hear of proxies."""

    def ready(self) -> bool:
        """False until the configuration has been read completely once."""

    def source(self, node: Node, caller: Caller | None) -> Source:
        """The configuration of a proxy whose identity has been checked."""

    async def debug(self, caller: Caller, request: Request) -> tuple[str, list[DebugResource]]:
        """What a tool asks: the type of the answer, and its resources. Raises GRPCError."""

    def sent(self, connection: Connection, response: Response, seconds: float) -> None: ...
    def acknowledged(self, connection: Connection, watch: Watch) -> None: ...
    def refused(self, connection: Connection, watch: Watch) -> None: ...
    def converged(self, connection: Connection, seconds: float) -> None:
        """A proxy has acknowledged all that changes caused; the first of them came so long ago."""

    def failed(self, connection: Connection, error: Exception) -> None: ...


def check_identity(node: Node, caller: Caller) -> None:
    """A proxy may only be who its certificate or token says it is. Raises GRPCError.

    One identity of the caller must match the namespace and the service account of the node; the trust domain is not
    compared, since it may be changing.
    """
    for identity in caller.identities:
        same_namespace = not node.namespace or identity.namespace == node.namespace
        same_account = not node.service_account or identity.service_account == node.service_account
        if same_namespace and same_account:
            return
    proved = ", ".join(map(str, caller.identities))
    claimed = f"{node.namespace}/{node.service_account or '*'}"
    raise GRPCError(Status.PERMISSION_DENIED, f"the caller is {proved}, which may not act as {claimed}")


@dataclass
class DiscoveryService:
    """One per port: without `authenticate` callers stay anonymous, as on Istio's plaintext port 15010."""

    fleet: Fleet
    backend: Backend
    authenticate: Authenticator | None
    control_plane: bytes = b""
    """Serialised `envoy.config.core.v3.ControlPlane`."""
    on_connect: Callable[[Connection], None] = field(default=lambda _: None)
    on_disconnect: Callable[[Connection], None] = field(default=lambda _: None)
    on_health: Callable[[Connection, str | None], None] = field(default=lambda _, __: None)
    """What a proxy's agent says of its workload: what is wrong with it, None when nothing is."""

    def __mapping__(self) -> Mapping[str, Handler]:
        def handler(function: Any) -> Handler:
            return Handler(function, Cardinality.STREAM_STREAM, bytes, bytes)

        return {
            SERVICE + "DeltaAggregatedResources": handler(self._delta),
            SERVICE + "StreamAggregatedResources": handler(self._sotw),
        }

    async def _delta(self, stream: Stream[bytes, bytes]) -> None:
        await self._serve(stream, delta=True)

    async def _sotw(self, stream: Stream[bytes, bytes]) -> None:
        await self._serve(stream, delta=False)

    async def _serve(self, stream: Stream[bytes, bytes], *, delta: bool) -> None:
        caller = await self._authenticate(stream)
        body = await receive(stream)
        if body is None:
            return
        request, node = _parsed(body, delta=delta)
        if is_debug(request.type_url):
            await self._serve_debug(stream, caller, request, delta=delta)
            return
        connection = self._admit(stream, caller, node, delta=delta)
        self._take(connection, request)
        self.fleet.add(connection)
        self.on_connect(connection)
        log.info("%s connected from %s", connection.id, connection.address)
        writer = asyncio.create_task(self._write(stream, connection))
        connection.task = asyncio.current_task()
        try:
            await self._read(stream, connection)
        except asyncio.CancelledError:
            if not connection.ended or connection.task is None:
                raise
            connection.task.uncancel()
            raise GRPCError(Status.UNAVAILABLE, "disconnected by an operator") from None
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
            self.fleet.remove(connection)
            self.on_disconnect(connection)
            log.info("%s disconnected", connection.id)

    async def _authenticate(self, stream: Stream[bytes, bytes]) -> Caller | None:
        """Who is calling; None on the plaintext port. Raises GRPCError."""
        caller = None
        if self.authenticate is not None:
            try:
                caller = await self.authenticate(stream.peer.cert(), stream.metadata or {})
            except UnauthenticatedError as error:
                log.warning("xDS caller %s refused: %s", stream.peer.addr(), error)
                raise GRPCError(Status.UNAUTHENTICATED, "authentication failure") from error
        if not self.backend.ready():
            raise GRPCError(Status.UNAVAILABLE, "server is not ready to serve discovery information")
        return caller

    def _admit(
        self, stream: Stream[bytes, bytes], caller: Caller | None, node: Node | None, *, delta: bool
    ) -> Connection:
        """The caller as the proxy it says it is. Raises GRPCError when it may not be that."""
        if node is None:
            raise GRPCError(Status.INVALID_ARGUMENT, "missing node information")
        if caller is not None:
            check_identity(node, caller)
        try:
            source = self.backend.source(node, caller)
        except BadNodeError as error:
            raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from error
        host, port, *_ = stream.peer.addr() or ("?", 0)
        address = f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
        session = Session(delta, self.control_plane)
        return Connection(self.fleet.next_id(node), node, address, caller, session, source)

    async def _serve_debug(
        self, stream: Stream[bytes, bytes], caller: Caller | None, request: Request, *, delta: bool
    ) -> None:
        """Questions of tools such as `istioctl proxy-status`: each is answered once and nothing is subscribed."""
        while True:
            if (answer := await self._answer(caller, request, delta=delta)) is not None:
                await stream.send_message(b"".join(answer))
            body = await receive(stream)
            if body is None:
                return
            request, _ = _parsed(body, delta=delta)

    async def _answer(self, caller: Caller | None, request: Request, *, delta: bool) -> Pieces | None:
        """The answer to a tool; None when it only acknowledges one. Raises GRPCError.

        Istio's clients send a nonce of their own with a question, and acknowledge nothing.
        """
        if request.nonce.startswith(_DEBUG_NONCE):
            return None
        if caller is None:
            raise GRPCError(Status.UNAUTHENTICATED, "debug over xDS needs an identity")
        nonce = f"{_DEBUG_NONCE}{next(_numbers)}"
        type_url, found = await self.backend.debug(caller, request)
        resources = [finish(one_type, name, body) for name, one_type, body in found]
        if delta:
            return delta_response(type_url, nonce, resources, (), self.control_plane)
        return sotw_response(type_url, nonce, resources, self.control_plane)

    async def _read(self, stream: Stream[bytes, bytes], connection: Connection) -> None:
        while (body := await receive(stream)) is not None:
            delta = connection.session.delta
            request, _ = _parsed(body, delta=delta)
            if not is_debug(request.type_url):
                self._take(connection, request)
                continue
            # An agent passes on the question of a tool in its pod, on the stream of its proxy.
            if len(connection.answers) > MOST_ANSWERS:
                raise GRPCError(Status.RESOURCE_EXHAUSTED, "too many debug requests wait for their answers")
            if (answer := await self._answer(connection.caller, request, delta=delta)) is not None:
                connection.answers.append(answer)
                connection.wake.set()

    def _take(self, connection: Connection, request: Request) -> None:
        if request.type_url == HEALTH_TYPE:
            self.on_health(connection, request.error)
            return
        known = connection.session.watches.get(request.type_url)
        answers = known is not None and known.outstanding and request.nonce == known.nonce_sent
        watch = connection.session.receive(request)
        watches = connection.session.watches
        if len(watches) > MOST_TYPES or sum(len(one.names) for one in watches.values()) > MOST_NAMES:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, "too many subscriptions on one stream")
        if answers and request.error is None:
            connection.good_state[request.type_url] = connection.sent_state.get(request.type_url, 0)
            self.backend.acknowledged(connection, watch)
        elif answers:
            log.warning("%s refused %s: %s", connection.id, request.type_url.rpartition(".")[2], request.error)
            self.backend.refused(connection, watch)
        connection.wake.set()

    async def _write(self, stream: Stream[bytes, bytes], connection: Connection) -> None:
        await stream.send_initial_metadata()
        while True:
            await connection.wake.wait()
            connection.wake.clear()
            while connection.answers:
                await send(stream, connection.answers.pop(0))
            while (response := self._next(connection)) is not None:
                connection.sent_state[response.type_url] = self.fleet.state
                started = time.perf_counter()
                await send(stream, response.pieces)
                connection.sent_at[response.type_url] = time.time()
                self.backend.sent(connection, response, time.perf_counter() - started)
            if connection.changed_since is not None and connection.idle:
                seconds = asyncio.get_running_loop().time() - connection.changed_since
                connection.changed_since = None
                self.backend.converged(connection, seconds)

    def _next(self, connection: Connection) -> Response | None:
        try:
            return connection.session.next(connection.source)
        except Exception as error:
            log.exception("%s: its configuration cannot be compiled; it keeps what it has", connection.id)
            self.backend.failed(connection, error)
            return None


def _parsed(body: bytes, *, delta: bool) -> tuple[Request, Node | None]:
    try:
        return parse(body, delta=delta)
    except BadNodeError as error:
        raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from error
    except DecodeError as error:
        raise GRPCError(Status.INVALID_ARGUMENT, "the message is not a discovery request") from error
