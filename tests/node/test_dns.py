"""The cluster's DNS answers."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from typing import Any

import pytest
from dnslib import QTYPE, RCODE, DNSRecord

from pilotfish.local.node.dns import DnsServer, Resolver, Zone

SERVICES: dict[tuple[str, str], Any] = {
    ("shop", "web"): {
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]},
    },
    ("shop", "db"): {
        "metadata": {"namespace": "shop", "name": "db"},
        "spec": {"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]},
    },
    ("shop", "alias"): {
        "metadata": {"namespace": "shop", "name": "alias"},
        "spec": {"type": "ExternalName", "externalName": "web.shop.svc.cluster.local"},
    },
    ("shop", "away"): {
        "metadata": {"namespace": "shop", "name": "away"},
        "spec": {"type": "ExternalName", "externalName": "example.com"},
    },
}
SLICES: dict[tuple[str, str], list[Any]] = {
    ("shop", "db"): [
        {
            "metadata": {"namespace": "shop", "name": "db-1", "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4",
            "ports": [{"name": "sql", "port": 5432}],
            "endpoints": [
                {"addresses": ["10.244.0.20"], "hostname": "db-0", "conditions": {"ready": True}},
                {"addresses": ["10.244.0.21"], "conditions": {"ready": True}},
                {"addresses": ["10.244.0.22"], "hostname": "db-2", "conditions": {"ready": False}},
            ],
        }
    ]
}


class Names:
    def service(self, namespace: str, name: str) -> Any:
        return SERVICES.get((namespace, name))

    def slices(self, namespace: str, name: str) -> Iterable[Any]:
        return SLICES.get((namespace, name), [])

    def has_namespace(self, namespace: str) -> bool:
        return namespace == "shop"

    def services_at(self, ip: str) -> Iterable[Any]:
        return [s for s in SERVICES.values() if s["spec"].get("clusterIP") == ip]

    def slices_at(self, ip: str) -> Iterable[Any]:
        return [s for ss in SLICES.values() for s in ss if any(ip in e["addresses"] for e in s["endpoints"])]


@pytest.fixture
def resolver() -> Resolver:
    return Resolver(Zone(Names()))


def ask(resolver: Resolver, name: str, kind: str) -> tuple[str, list[str]]:
    raw = resolver.respond(bytes(DNSRecord.question(name, kind).pack()))
    assert raw is not None
    reply = DNSRecord.parse(raw)
    return RCODE[reply.header.rcode], [f"{QTYPE[r.rtype]} {r.rdata}" for r in reply.rr]


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "answers"),
    [
        ("web.shop.svc.cluster.local", "A", "NOERROR", ["A 10.96.0.7"]),
        ("WEB.Shop.svc.CLUSTER.local", "A", "NOERROR", ["A 10.96.0.7"]),
        ("web.shop.svc.cluster.local", "AAAA", "NOERROR", []),
        ("none.shop.svc.cluster.local", "A", "NXDOMAIN", []),
        ("web.other.svc.cluster.local", "A", "NXDOMAIN", []),
        ("shop.svc.cluster.local", "A", "NOERROR", []),
        ("example.com", "A", "NXDOMAIN", []),
        ("web.shop.svc.cluster.local.example.com", "A", "NXDOMAIN", []),
        ("db.shop.svc.cluster.local", "A", "NOERROR", ["A 10.244.0.20", "A 10.244.0.21"]),
        ("db-0.db.shop.svc.cluster.local", "A", "NOERROR", ["A 10.244.0.20"]),
        ("db-0.db.shop.svc.cluster.local", "AAAA", "NOERROR", []),
        ("10-244-0-21.db.shop.svc.cluster.local", "A", "NOERROR", ["A 10.244.0.21"]),
        ("db-2.db.shop.svc.cluster.local", "A", "NXDOMAIN", []),
        ("x.web.shop.svc.cluster.local", "A", "NXDOMAIN", []),
        ("_http._tcp.web.shop.svc.cluster.local", "SRV", "NOERROR", ["SRV 0 100 80 web.shop.svc.cluster.local."]),
        ("_sql._tcp.web.shop.svc.cluster.local", "SRV", "NXDOMAIN", []),
        (
            "_sql._tcp.db.shop.svc.cluster.local",
            "SRV",
            "NOERROR",
            [
                "SRV 0 50 5432 db-0.db.shop.svc.cluster.local.",
                "SRV 0 50 5432 10-244-0-21.db.shop.svc.cluster.local.",
            ],
        ),
        ("10-244-0-9.shop.pod.cluster.local", "A", "NOERROR", ["A 10.244.0.9"]),
        ("8-8-8-8.shop.pod.cluster.local", "A", "NXDOMAIN", []),
        ("7.0.96.10.in-addr.arpa", "PTR", "NOERROR", ["PTR web.shop.svc.cluster.local."]),
        ("20.0.244.10.in-addr.arpa", "PTR", "NOERROR", ["PTR db-0.db.shop.svc.cluster.local."]),
        ("9.9.9.9.in-addr.arpa", "PTR", "NXDOMAIN", []),
        (
            "alias.shop.svc.cluster.local",
            "A",
            "NOERROR",
            ["CNAME web.shop.svc.cluster.local.", "A 10.96.0.7"],
        ),
        ("away.shop.svc.cluster.local", "A", "NOERROR", ["CNAME example.com."]),
    ],
)
def test_answers(resolver: Resolver, name: str, kind: str, rcode: str, answers: list[str]) -> None:
    """Names, types, NODATA and NXDOMAIN as the DNS specification of Kubernetes has them."""
    assert ask(resolver, name, kind) == (rcode, answers)


def test_the_answer_carries_the_asker_s_id_and_spelling(resolver: Resolver) -> None:
    """Answers are kept by question; the id of each query is its own, and the name comes back as it was written."""
    for number in (1, 2):
        query = DNSRecord.question("wEb.shop.svc.cluster.local")
        query.header.id = number
        reply = DNSRecord.parse(resolver.respond(bytes(query.pack())) or b"")
        assert reply.header.id == number
        assert str(reply.q.qname) == "wEb.shop.svc.cluster.local."
        assert str(reply.rr[0].rname) == "wEb.shop.svc.cluster.local."


def test_changes_are_seen(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `forget` the stores are asked again."""
    name = "new.shop.svc.cluster.local"
    assert ask(resolver, name, "A")[0] == "NXDOMAIN"
    monkeypatch.setitem(SERVICES, ("shop", "new"), SERVICES["shop", "web"])
    resolver.forget()
    assert ask(resolver, name, "A")[0] == "NOERROR"


@pytest.mark.parametrize("packet", [b"", b"\x00" * 5, b"\xff" * 40, b"\x00" * 12])
def test_malformed_packets_do_no_harm(resolver: Resolver, packet: bytes) -> None:
    """What is no query is dropped or answered, never an exception."""
    resolver.respond(packet)


async def test_udp_truncates_and_tcp_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that does not fit into 512 bytes is marked as truncated over UDP, and whole over TCP."""
    many = [{"addresses": [f"10.244.1.{i}"], "conditions": {"ready": True}} for i in range(100)]
    monkeypatch.setitem(SLICES["shop", "db"][0], "endpoints", many)
    server = DnsServer(Resolver(Zone(Names())))
    await server.start("127.0.0.1", 0)
    assert server._udp is not None
    assert server._tcp is not None
    try:
        query = bytes(DNSRecord.question("db.shop.svc.cluster.local").pack())
        received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        class Client(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: Any) -> None:
                received.set_result(data)

        udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            Client, remote_addr=server._udp.get_extra_info("sockname")
        )
        udp.sendto(query)
        reply = DNSRecord.parse(await asyncio.wait_for(received, 60))
        udp.close()
        assert reply.header.tc == 1
        reader, writer = await asyncio.open_connection(*server._tcp.sockets[0].getsockname())
        writer.write(struct.pack("!H", len(query)) + query)
        size = struct.unpack("!H", await reader.readexactly(2))[0]
        assert len(DNSRecord.parse(await reader.readexactly(size)).rr) == 100
        writer.close()
    finally:
        server.close()
