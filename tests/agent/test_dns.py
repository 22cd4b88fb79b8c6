"""The pod's DNS proxy: what it answers itself, and what it passes on."""

from __future__ import annotations

import pytest
from dnslib import QTYPE, DNSRecord

from pilotfish.agent.dns import DnsProxy, NameTable, parse_table
from pilotfish.envoy import proto


@pytest.fixture
def table() -> NameTable:
    made = NameTable("book.svc.cluster.local")
    made.load(
        {
            "reviews.book.svc.cluster.local": ("10.0.0.1", "fd00::1"),
            "api.example.com": ("240.240.0.1",),
            "*.wild.example.com": ("240.240.0.2",),
            "many.book.svc.cluster.local": tuple(f"10.1.0.{n}" for n in range(100)),
        }
    )
    return made


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("reviews.book.svc.cluster.local.", "10.0.0.1"),
        ("REVIEWS.book.svc.Cluster.local", "10.0.0.1"),
        ("api.example.com", "240.240.0.1"),
        ("api.example.com.book.svc.cluster.local", "240.240.0.1"),
        ("a.b.wild.example.com", "240.240.0.2"),
        ("wild.example.com", None),
        ("example.com", None),
        ("api.example.org", None),
    ],
)
def test_names_of_the_mesh(table: NameTable, name: str, first: str | None) -> None:
    """Exact names, names with a search domain appended and wildcards are the mesh's; others are not."""
    found = table.find(name)
    assert (found[0] if found else None) == first


def test_the_control_planes_message_is_read() -> None:
    """A NameTable as the control plane encodes it."""
    fields = {"table": {"a.b": {"ips": ["10.0.0.1", "10.0.0.2"], "registry": "Kubernetes"}}}
    assert parse_table(proto.encode(proto.NAME_TABLE, fields)) == {"a.b": ("10.0.0.1", "10.0.0.2")}


async def test_answers_by_family(table: NameTable) -> None:
    """A and AAAA get the addresses of their family; an empty answer where there is none, so that nobody asks on."""
    proxy = DnsProxy(table, "127.0.0.1")
    for name, kind, expected in (
        ("reviews.book.svc.cluster.local", "A", ["10.0.0.1"]),
        ("reviews.book.svc.cluster.local", "AAAA", ["fd00::1"]),
        ("api.example.com", "AAAA", []),
    ):
        answer = DNSRecord.parse(await proxy.answer(DNSRecord.question(name, kind).pack(), over_tcp=False))
        assert [str(one.rdata) for one in answer.rr] == expected
        assert answer.header.rcode == 0


async def test_long_answers_are_asked_again_over_tcp(table: NameTable) -> None:
    """What does not fit the asker's datagram is marked as cut off; over TCP all of it is there."""
    proxy = DnsProxy(table, "127.0.0.1")
    query = DNSRecord.question("many.book.svc.cluster.local").pack()
    short = await proxy.answer(query, over_tcp=False)
    assert len(short) <= 512
    assert DNSRecord.parse(short).header.tc
    full = DNSRecord.parse(await proxy.answer(query, over_tcp=True))
    assert len([one for one in full.rr if one.rtype == QTYPE.A]) == 100


@pytest.mark.parametrize("garbage", [b"", b"\0", b"\xff" * 40])
async def test_garbage_is_not_answered(table: NameTable, garbage: bytes) -> None:
    """What is no query gets no answer and harms nobody."""
    assert await DnsProxy(table, "127.0.0.1").answer(garbage, over_tcp=False) == b""
