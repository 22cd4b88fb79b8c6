"""Names and protocols, the facts everything else stands on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotfish.mesh import names, ports
from pilotfish.mesh.ports import Protocol


@pytest.mark.parametrize(
    ("host", "full"),
    [
        ("reviews", "reviews.ns.svc.cluster.local"),
        ("Reviews", "reviews.ns.svc.cluster.local"),
        ("reviews.prod", "reviews.prod"),
        ("*", "*"),
        ("*.example", "*.example"),
        ("10.0.0.1", "10.0.0.1"),
        ("::1", "::1"),
    ],
)
def test_short_names_are_completed(host: str, full: str) -> None:
    """A name without a dot is a service of the object's namespace; everything else stays."""
    assert names.complete(host, "ns", "cluster.local") == full


@pytest.mark.parametrize(
    ("name", "full"),
    [("gw", "ns/gw"), ("other/gw", "other/gw"), ("mesh", "mesh"), ("gw.other.svc.cluster.local", "other/gw")],
)
def test_gateway_names(name: str, full: str) -> None:
    """A gateway is named in the object's namespace unless it says otherwise; the legacy dotted form still works."""
    assert names.gateway_name(name, "ns") == full


HOSTS = st.lists(st.sampled_from(["a", "b", "test"]), min_size=1, max_size=4).map(".".join)
PATTERNS = st.one_of(HOSTS, HOSTS.map(lambda h: f"*.{h}"), st.just("*"))


@given(HOSTS, st.lists(PATTERNS))
def test_the_most_specific_pattern_covers_and_is_longest(host: str, patterns: list[str]) -> None:
    """Exact beats wildcards, longer wildcards beat shorter ones, and None means that nothing covers the host."""
    best = names.most_specific(host, patterns)
    covering = [p for p in patterns if names.matches(p, host)]
    if best is None:
        assert not covering
    else:
        assert best in covering
        assert best == host if host in patterns else all(len(p) <= len(best) for p in covering)


@given(PATTERNS, PATTERNS)
def test_intersection_is_symmetric_and_narrower(one: str, other: str) -> None:
    """The shared part of two hosts is one of them, covered by the other, whichever comes first."""
    both = names.intersect(one, other)
    assert both == names.intersect(other, one)
    if both is not None:
        assert both in (one, other)
        assert names.matches(one, both)
        assert names.matches(other, both)


@pytest.mark.parametrize(
    ("port", "name", "transport", "app_protocol", "protocol"),
    [
        (80, "http", "TCP", None, Protocol.HTTP),
        (80, "HTTP-web", "TCP", None, Protocol.HTTP),
        (80, "http2-web", "TCP", None, Protocol.HTTP2),
        (80, "grpc", "TCP", None, Protocol.GRPC),
        (80, "grpc-web-x", "TCP", None, Protocol.GRPC_WEB),
        (80, "httpx", "TCP", None, Protocol.AUTO),
        (80, "", "TCP", None, Protocol.AUTO),
        (3306, "", "TCP", None, Protocol.TCP),
        (3306, "mysql", "TCP", None, Protocol.MYSQL),
        (80, "http", "TCP", "tcp", Protocol.TCP),
        (80, "tcp", "TCP", "kubernetes.io/h2c", Protocol.HTTP2),
        (80, "tcp", "TCP", "kubernetes.io/ws", Protocol.HTTP),
        (80, "tcp", "TCP", "kubernetes.io/wss", Protocol.HTTPS),
        (80, "http", "UDP", "http", Protocol.UDP),
        (443, "https", "TCP", None, Protocol.HTTPS),
        (443, "tls-x", "TCP", None, Protocol.TLS),
    ],
)
def test_protocol_of_a_port(port: int, name: str, transport: str, app_protocol: str | None, protocol: Protocol) -> None:
    """UDP first, then appProtocol, then the name up to its first dash; unknown is sniffed but on server-first ports."""
    assert ports.kubernetes(port, name, transport, app_protocol) is protocol
