"""The cluster's DNS server: names of Services, their endpoints and pods, as the DNS specification of Kubernetes has
them (version 1.1). It knows nothing else and asks nobody: other names do not exist.

`Zone.answer` is a pure look-up in the stores of Services and EndpointSlices. Answers are kept as bytes by question
until anything changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Protocol

from dnslib import CNAME, PTR, QTYPE, RCODE, RD, RR, SOA, SRV, A, DNSHeader, DNSRecord

from pilotfish.local.network import CLUSTER_DOMAIN, POD_CIDR
from pilotfish.local.node import services

Object = Mapping[str, Any]

TTL = 5
_CACHE_SIZE = 20_000
_MAX_UDP = 512
_MAX_CNAMES = 8
_DOMAIN = tuple(reversed(CLUSTER_DOMAIN.split(".")))


class Names(Protocol):
    """Where the zone looks objects up."""

    def service(self, namespace: str, name: str) -> Object | None:
        """A Service."""

    def slices(self, namespace: str, name: str) -> Iterable[Object]:
        """The EndpointSlices of a Service."""

    def has_namespace(self, namespace: str) -> bool:
        """Whether there is anything in the namespace."""

    def services_at(self, ip: str) -> Iterable[Object]:
        """Services with this ClusterIP."""

    def slices_at(self, ip: str) -> Iterable[Object]:
        """EndpointSlices with this address."""


@dataclass(frozen=True)
class Answer:
    """What is said to a question: rcode, answers, and records that go with them."""

    rcode: int
    records: tuple[RR, ...] = ()
    additional: tuple[RR, ...] = ()


_NXDOMAIN = Answer(RCODE.NXDOMAIN)
_NODATA = Answer(RCODE.NOERROR)


def _rr(name: str, kind: int, data: RD) -> RR:
    return RR(name, kind, ttl=TTL, rdata=data)


def endpoint_hostname(endpoint: Object, ip: str) -> str:
    """The label of an endpoint below its headless Service: its hostname, else its address with dashes."""
    return str(endpoint.get("hostname") or ip.replace(".", "-"))


def _ready_endpoints(slices: Iterable[Object]) -> list[tuple[Object, str]]:
    """(endpoint, address) pairs that are ready, each address once."""
    found: dict[tuple[str, str], tuple[Object, str]] = {}
    for one in slices:
        if one.get("addressType", "IPv4") != "IPv4":
            continue
        for endpoint in one.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready", True) is False:
                continue
            for ip in endpoint.get("addresses") or ():
                found.setdefault((endpoint_hostname(endpoint, ip), ip), (endpoint, ip))
    return list(found.values())


@dataclass
class Zone:
    """Answers questions from the stores."""

    names: Names

    def answer(self, name: str, kind: int) -> Answer:
        """The answer for a name (any case, with or without the final dot) and a record type."""
        labels = tuple(reversed(name.rstrip(".").lower().split(".")))
        if labels[:2] == ("arpa", "in-addr"):
            return self._reverse(name, labels[2:], kind)
        if labels[: len(_DOMAIN)] != _DOMAIN:
            return _NXDOMAIN
        rest = labels[len(_DOMAIN) :]
        if not rest or rest in {("svc",), ("pod",)}:
            return _NODATA
        if rest[0] == "pod":
            return self._pod(name, rest[1:], kind)
        if rest[0] == "svc":
            return self._service(name, rest[1:], kind)
        return _NXDOMAIN

    def _pod(self, name: str, rest: tuple[str, ...], kind: int) -> Answer:
        if len(rest) == 1:
            return _NODATA if self.names.has_namespace(rest[0]) else _NXDOMAIN
        try:
            ip = IPv4Address(rest[1].replace("-", "."))
        except ValueError:
            return _NXDOMAIN
        if len(rest) != 2 or ip not in POD_CIDR or not self.names.has_namespace(rest[0]):
            return _NXDOMAIN
        return Answer(RCODE.NOERROR, (_rr(name, QTYPE.A, A(str(ip))),)) if kind in {QTYPE.A, QTYPE.ANY} else _NODATA

    def _service(self, name: str, rest: tuple[str, ...], kind: int) -> Answer:
        if len(rest) == 1:
            return _NODATA if self.names.has_namespace(rest[0]) else _NXDOMAIN
        namespace, service_name = rest[0], rest[1]
        service = self.names.service(namespace, service_name)
        if service is None:
            return _NXDOMAIN
        inner = rest[2:]
        spec = service.get("spec") or {}
        if spec.get("type") == "ExternalName":
            return self._external(name, spec, kind) if not inner else _NXDOMAIN
        if not inner:
            return self._addresses(name, service, kind)
        if inner[0].startswith("_"):
            return self._srv(name, service, inner, kind)
        if len(inner) == 1 and not services.service_addresses(service):
            return self._endpoint(name, service, inner[0], kind)
        return _NXDOMAIN

    def _slices(self, service: Object) -> Iterable[Object]:
        return self.names.slices(service["metadata"]["namespace"], service["metadata"]["name"])

    def _addresses(self, name: str, service: Object, kind: int) -> Answer:
        ips = _cluster_ips(service) or [ip for _, ip in _ready_endpoints(self._slices(service))]
        if kind in {QTYPE.A, QTYPE.ANY}:
            records = tuple(_rr(name, QTYPE.A, A(ip)) for ip in dict.fromkeys(ips))
            return Answer(RCODE.NOERROR, records)
        if kind == QTYPE.SRV:
            return self._srv(name, service, (), kind)
        return _NODATA

    def _endpoint(self, name: str, service: Object, label: str, kind: int) -> Answer:
        ips = [ip for e, ip in _ready_endpoints(self._slices(service)) if endpoint_hostname(e, ip).lower() == label]
        if not ips:
            return _NXDOMAIN
        if kind not in {QTYPE.A, QTYPE.ANY}:
            return _NODATA
        return Answer(RCODE.NOERROR, tuple(_rr(name, QTYPE.A, A(ip)) for ip in ips))

    def _srv(self, name: str, service: Object, inner: tuple[str, ...], kind: int) -> Answer:
        """`_port._protocol.service…`; without the two labels all ports."""
        wanted_protocol = inner[0][1:] if inner else None
        wanted_port = inner[1][1:] if len(inner) > 1 and inner[1].startswith("_") else None
        if len(inner) > 2 or (len(inner) == 2 and wanted_port is None):
            return _NXDOMAIN
        meta = service["metadata"]
        base = f"{meta['name']}.{meta['namespace']}.svc.{CLUSTER_DOMAIN}"
        targets: list[tuple[str, str, int]] = []
        cluster = _cluster_ips(service)
        if cluster:
            ports = (service.get("spec") or {}).get("ports") or ()
            targets = [
                (base, cluster[0], int(port["port"])) for port in ports if _is_port(port, wanted_port, wanted_protocol)
            ]
        else:
            for one in self._slices(service):
                for port in one.get("ports") or ():
                    if port.get("port") and _is_port(port, wanted_port, wanted_protocol):
                        targets += [
                            (f"{endpoint_hostname(e, ip)}.{base}", ip, int(port["port"]))
                            for e, ip in _ready_endpoints([one])
                        ]
        if not targets:
            return _NXDOMAIN if inner else _NODATA
        if kind not in {QTYPE.SRV, QTYPE.ANY}:
            return _NODATA
        weight = max(1, 100 // len(targets))
        records = tuple(_rr(name, QTYPE.SRV, SRV(0, weight, port, target)) for target, _, port in targets)
        extra = tuple(_rr(target, QTYPE.A, A(ip)) for target, ip in dict.fromkeys((t, ip) for t, ip, _ in targets))
        return Answer(RCODE.NOERROR, records, extra)

    def _external(self, name: str, spec: Object, kind: int) -> Answer:
        target = str(spec.get("externalName") or "").rstrip(".")
        records = [_rr(name, QTYPE.CNAME, CNAME(target))]
        if kind == QTYPE.CNAME:
            return Answer(RCODE.NOERROR, tuple(records))
        for _ in range(_MAX_CNAMES):  # follow it as long as it stays in the cluster
            found = self.answer(target, kind)
            records += found.records
            if not found.records or found.records[-1].rtype != QTYPE.CNAME:
                break
            target = str(found.records[-1].rdata).rstrip(".")
        return Answer(RCODE.NOERROR, tuple(records))

    def _reverse(self, name: str, labels: tuple[str, ...], kind: int) -> Answer:
        if len(labels) != 4:
            return _NXDOMAIN
        ip = ".".join(labels)
        targets = []
        for service in self.names.services_at(ip):
            meta = service["metadata"]
            targets.append(f"{meta['name']}.{meta['namespace']}.svc.{CLUSTER_DOMAIN}")
        for one in self.names.slices_at(ip):
            meta = one["metadata"]
            owner = (meta.get("labels") or {}).get("kubernetes.io/service-name")
            for endpoint, address in _ready_endpoints([one]):
                if address == ip and owner and endpoint.get("hostname"):
                    label = endpoint_hostname(endpoint, ip)
                    targets.append(f"{label}.{owner}.{meta['namespace']}.svc.{CLUSTER_DOMAIN}")
        if not targets:
            return _NXDOMAIN
        if kind not in {QTYPE.PTR, QTYPE.ANY}:
            return _NODATA
        return Answer(RCODE.NOERROR, tuple(_rr(name, QTYPE.PTR, PTR(t)) for t in dict.fromkeys(targets)))


def _cluster_ips(service: Object) -> list[str]:
    spec = service.get("spec") or {}
    ips = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return [ip for ip in ips if ip and ip != "None" and ":" not in ip]


def _is_port(port: Object, name: str | None, protocol: str | None) -> bool:
    return (name is None or (port.get("name") or "").lower() == name) and (
        protocol is None or (port.get("protocol") or "TCP").lower() == protocol
    )


class Resolver:
    """Questions and answers as bytes."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._cache: dict[bytes, bytes] = {}
        self._soa = RR(
            CLUSTER_DOMAIN,
            QTYPE.SOA,
            ttl=TTL,
            rdata=SOA(f"ns.dns.{CLUSTER_DOMAIN}", f"hostmaster.{CLUSTER_DOMAIN}", (1, 7200, 1800, 86400, TTL)),
        )

    def forget(self) -> None:
        """Something changed: answers are to be made anew."""
        self._cache.clear()

    def respond(self, request: bytes, limit: int = 65535) -> bytes | None:
        """The response to a query; None for what is none. Longer ones than `limit` are truncated."""
        if len(request) < 12 or request[2] & 0xF8:  # a response, or another operation
            return None
        key = request[2:]
        cached = self._cache.get(key)
        if cached is None:
            cached = self._make(request)
            if cached is None:
                return None
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            self._cache[key] = cached
        if len(cached) + 2 > limit:
            limit = max(limit, _edns_size(request))
            if len(cached) + 2 > limit:
                return _truncated(request)
        return request[:2] + cached

    def _make(self, request: bytes) -> bytes | None:
        try:
            query = DNSRecord.parse(request)
            question = query.q
        except Exception:  # noqa: BLE001 - dnslib raises anything on malformed input; such a packet is dropped
            return None
        found = self._zone.answer(str(question.qname), question.qtype)
        reply = DNSRecord(DNSHeader(id=0, qr=1, aa=1, rd=query.header.rd, ra=1, rcode=found.rcode), q=question)
        for record in found.records:
            record.rname = question.qname if record.rname == question.qname else record.rname
            reply.add_answer(record)
        for record in found.additional:
            reply.add_ar(record)
        if not found.records:
            reply.add_auth(self._soa)
        return bytes(reply.pack()[2:])

    def lookup(self, name: str) -> str | None:
        """The first address of a name, for callers in this process."""
        found = self._zone.answer(name, QTYPE.A)
        return next((str(record.rdata) for record in found.records if record.rtype == QTYPE.A), None)


def _edns_size(request: bytes) -> int:
    """The size of UDP answers the asker takes: from the OPT record at the end of the query."""
    if struct.unpack_from("!H", request, 10)[0] == 0:
        return _MAX_UDP
    with contextlib.suppress(Exception):
        for record in DNSRecord.parse(request).ar:
            if record.rtype == QTYPE.OPT:
                return int(record.rclass)
    return _MAX_UDP


def _truncated(request: bytes) -> bytes:
    query = DNSRecord.parse(request)
    header = DNSHeader(id=query.header.id, qr=1, aa=1, tc=1, rd=query.header.rd, ra=1)
    return bytes(DNSRecord(header, q=query.q).pack())


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # asyncio types it as the base class

    def datagram_received(self, data: bytes, addr: Any) -> None:
        response = self._resolver.respond(data, _MAX_UDP)
        if response is not None and self._transport is not None:
            self._transport.sendto(response, addr)


class DnsServer:
    """Serves UDP and TCP at one address."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._udp: asyncio.BaseTransport | None = None
        self._tcp: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self._resolver), local_addr=(host, port))
        self._tcp = await asyncio.start_server(self._serve, host, port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            while True:
                async with asyncio.timeout(30):
                    size = struct.unpack("!H", await reader.readexactly(2))[0]
                    request = await reader.readexactly(size)
                response = self._resolver.respond(request)
                if response is None:
                    break
                writer.write(struct.pack("!H", len(response)) + response)
                await writer.drain()
        writer.close()

    def close(self) -> None:
        """Stop."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
