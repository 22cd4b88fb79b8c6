"""The pod's DNS proxy, when `ISTIO_META_DNS_CAPTURE` is on: names of the mesh are answered here, others passed on.

The table of names comes from the control plane (NDS). Without it every query goes to the pod's own nameserver, so a
lost control plane costs no names that Kubernetes knows.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from typing import Any, cast

from dnslib import AAAA, QTYPE, RCODE, RR, A, DNSError, DNSRecord
from grpclib import GRPCError
from grpclib.client import Channel, StreamStreamMethod
from grpclib.exceptions import StreamTerminatedError

from pilotfish.agent.certificates import Certificates, split_address
from pilotfish.agent.options import Options
from pilotfish.agent.protowire import chunk, fields, texts
from pilotfish.grpc import BytesCodec
from pilotfish.tls import load_key_pair

log = logging.getLogger(__name__)

NAME_TABLE = "type.googleapis.com/istio.networking.nds.v1.NameTable"
STREAM = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
PORT = 15053
TTL = 30
UPSTREAM_SECONDS = 5.0
RETRY = (0.2, 15.0)


class NameTable:
    """Host name → addresses, with the short forms that the pod's search domains produce."""

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self.names: dict[str, tuple[str, ...]] = {}

    def load(self, table: Mapping[str, tuple[str, ...]]) -> None:
        self.names = {name.lower().rstrip("."): ips for name, ips in table.items()}

    def find(self, name: str) -> tuple[str, ...] | None:
        """None when the name is not the mesh's. A wildcard entry `*.x` answers for any name below x."""
        name = name.lower().rstrip(".")
        for candidate in self._candidates(name):
            if (found := self.names.get(candidate)) is not None:
                return found
            _, dot, parent = candidate.partition(".")
            while dot:
                if (found := self.names.get("*." + parent)) is not None:
                    return found
                _, dot, parent = parent.partition(".")
        return None

    def _candidates(self, name: str) -> list[str]:
        """A resolver appends search domains; a mesh host with one appended is still the mesh host."""
        found = [name]
        parts = self._domain.split(".")
        for at in range(len(parts) - 1):
            suffix = "." + ".".join(parts[at:])
            if name.endswith(suffix) and "." in name.removesuffix(suffix):
                found.append(name.removesuffix(suffix))
            if name.count(".") < 3 and not name.endswith(suffix):
                found.append(name + suffix)
        return found


def parse_table(body: bytes) -> dict[str, tuple[str, ...]]:
    """A NameTable message: map field 1 of name → NameInfo (ips = 1)."""
    table: dict[str, tuple[str, ...]] = {}
    for number, entry in fields(body):
        if number == 1 and isinstance(entry, bytes):
            parts = dict(fields(entry))
            name, info = parts.get(1, b""), parts.get(2, b"")
            if isinstance(name, bytes) and isinstance(info, bytes):
                table[name.decode()] = tuple(texts(info, 1))
    return table


class NameFeed:
    """Keeps a table up to date over one stream to the control plane."""

    def __init__(self, options: Options, certificates: Certificates, table: NameTable) -> None:
        self._options = options
        self._certificates = certificates
        self._table = table

    async def run(self) -> None:
        """Runs until cancelled."""
        pause = RETRY[0]
        await self._certificates.ready.wait()
        while True:
            try:
                await self._stream()
                pause = RETRY[0]
            except (OSError, GRPCError, StreamTerminatedError, TimeoutError, ValueError) as error:
                log.info("the name table's stream ended: %s", error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY[1])

    async def _stream(self) -> None:
        host, port = split_address(self._options.discovery_address)
        channel = Channel(host, port, ssl=self._tls(), codec=BytesCodec())
        method: Any = StreamStreamMethod(channel, STREAM, bytes, bytes)
        try:
            async with method.open() as stream:
                await stream.send_message(self._request())
                while (body := await stream.recv_message()) is not None:
                    await stream.send_message(self._take(body))
        finally:
            channel.close()

    def _tls(self) -> ssl.SSLContext:
        current = self._certificates.current
        assert current is not None  # noqa: S101 (the feed starts when it is there)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=current.roots.decode())
        context.set_alpn_protocols(["h2"])
        load_key_pair(context, current.chain, current.key)
        return context

    def _request(self, nonce: str = "", version: str = "") -> bytes:
        """A DiscoveryRequest whose node says who we are: the server checks it against the certificate."""
        values = {"NAMESPACE": self._options.namespace, "SERVICE_ACCOUNT": self._options.service_account}
        values["DNS_CAPTURE"] = "true"
        struct = b"".join(chunk(1, chunk(1, key) + chunk(2, chunk(3, value))) for key, value in values.items())
        node = chunk(2, chunk(1, self._options.node_id) + chunk(3, struct))
        return chunk(1, version) + node + chunk(4, NAME_TABLE) + chunk(5, nonce)

    def _take(self, body: bytes) -> bytes:
        version = nonce = ""
        for number, value in fields(body):
            if not isinstance(value, bytes):
                continue
            if number == 1:
                version = value.decode()
            elif number == 2:
                self._table.load(parse_table(cast("bytes", dict(fields(value)).get(2, b""))))
            elif number == 5:
                nonce = value.decode()
        return self._request(nonce, version)


class DnsProxy(asyncio.DatagramProtocol):
    """Answers on 127.0.0.1:15053, UDP and TCP."""

    def __init__(self, table: NameTable, upstream: str) -> None:
        self._table = table
        self._upstream = upstream
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = PORT) -> None:
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", port))
        self._tcp = await asyncio.start_server(self._serve_tcp, "127.0.0.1", port)

    async def close(self) -> None:
        if self._udp:
            self._udp.close()
        if self._tcp:
            self._tcp.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        task = asyncio.ensure_future(self._reply(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reply(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        answer = await self.answer(data, over_tcp=False)
        if answer and self._udp:
            self._udp.sendto(answer, addr)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                answer = await self.answer(await reader.readexactly(size), over_tcp=True)
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass  # the client has gone
        finally:
            writer.close()

    async def answer(self, data: bytes, *, over_tcp: bool) -> bytes:
        """The reply to a query in wire format; empty when it cannot even be read."""
        try:
            query = DNSRecord.parse(data)
        except DNSError:
            return b""
        question = query.q
        ips = self._table.find(str(question.qname)) if question.qtype in (QTYPE.A, QTYPE.AAAA) else None
        if ips is None:
            try:
                return await self._forward(data, over_tcp=over_tcp)
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                failed = query.reply()
                failed.header.rcode = RCODE.SERVFAIL
                return bytes(failed.pack())
        reply = query.reply()
        for ip in ips:
            v6 = ":" in ip
            if v6 == (question.qtype == QTYPE.AAAA):
                kind, data_type = (QTYPE.AAAA, AAAA) if v6 else (QTYPE.A, A)
                reply.add_answer(RR(question.qname, kind, ttl=TTL, rdata=data_type(ip)))
        answer = bytes(reply.pack())
        if not over_tcp and len(answer) > _most(query):
            return bytes(reply.truncate().pack())  # asked again over TCP
        return answer

    async def _forward(self, data: bytes, *, over_tcp: bool) -> bytes:
        async with asyncio.timeout(UPSTREAM_SECONDS):
            if over_tcp:
                reader, writer = await asyncio.open_connection(self._upstream, 53)
                try:
                    writer.write(len(data).to_bytes(2, "big") + data)
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    return await reader.readexactly(size)
                finally:
                    writer.close()
            loop = asyncio.get_running_loop()
            done: asyncio.Future[bytes] = loop.create_future()
            transport, _ = await loop.create_datagram_endpoint(lambda: _Once(done), remote_addr=(self._upstream, 53))
            try:
                transport.sendto(data)
                return await done
            finally:
                transport.close()


def _most(query: DNSRecord) -> int:
    """Bytes that the asker can take in a datagram: what its EDNS record says (RFC 6891), else 512."""
    sizes: list[int] = [one.rclass for one in query.ar if one.rtype == QTYPE.OPT]
    return max([512, *sizes])


class _Once(asyncio.DatagramProtocol):
    def __init__(self, done: asyncio.Future[bytes]) -> None:
        self._done = done

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if not self._done.done():
            self._done.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(exc)
