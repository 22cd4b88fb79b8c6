"""Envoy's page becomes Istio's: names, labels, values for what is not known."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from pilotfish.agent.stats import Pages, Workload, standard_labels

OWN = Workload("reviews-v2", "book", "reviews", "v2", "c1", "reviews", "v2", "spiffe://td/ns/book/sa/reviews")
PEER = "productpage-v1~book~productpage~v1~c1~productpage~v1"
PRINCIPAL = "spiffe://td/ns/book/sa/productpage"
SERVICE = "reviews.book.svc.cluster.local~reviews~book"


def labels(**raw: str) -> dict[str, str]:
    return standard_labels(raw, OWN, tcp=False)


def test_server_side_with_mutual_tls() -> None:
    """The peer is the source, this workload the destination, and both principals are known."""
    found = labels(reporter="destination", peer=PEER, principal=PRINCIPAL, service=SERVICE, response_code="200")
    assert found["source_workload"] == "productpage-v1"
    assert found["source_principal"] == PRINCIPAL
    assert found["destination_workload"] == "reviews-v2"
    assert found["destination_principal"] == OWN.principal
    assert found["destination_service"] == "reviews.book.svc.cluster.local"
    assert found["connection_security_policy"] == "mutual_tls"
    assert list(found)[:3] == ["reporter", "source_workload", "source_canonical_service"]


def test_server_side_from_outside_the_mesh() -> None:
    """Without a certificate nothing is known of the source, and the security policy is none."""
    found = labels(reporter="destination", peer="", principal="", service=SERVICE)
    unknown = {name for name, value in found.items() if name.startswith("source_") and value == "unknown"}
    assert len(unknown) == 7
    assert found["source_canonical_revision"] == "latest"
    assert found["destination_principal"] == "unknown"
    assert found["connection_security_policy"] == "none"


def test_client_side_of_a_workload_without_sidecar() -> None:
    """The endpoint's description names the destination; there are no principals."""
    found = labels(reporter="source", peer="legacy;book;legacy;;c1", principal="", service="legacy.book~legacy~book")
    assert found["destination_workload"] == "legacy"
    assert found["destination_canonical_revision"] == "latest"
    assert found["destination_app"] == "unknown"
    assert (found["source_principal"], found["destination_principal"]) == ("unknown", "unknown")
    assert found["connection_security_policy"] == "unknown"


def test_certificates_of_strangers_describe_nobody() -> None:
    """A name in a certificate from outside the mesh is not taken for a workload."""
    found = labels(reporter="source", peer="www.example.com,example.com", principal="", service="www.example.com~x~ns")
    assert found["destination_workload"] == "unknown"


def test_destinations_that_are_no_service() -> None:
    """What passes through or is stopped has a name of its own."""
    for raw, name in (
        ("PassthroughCluster", "PassthroughCluster"),
        ("block_all", "BlackHoleCluster"),
        ("BlackHoleCluster", "BlackHoleCluster"),
        ("", "unknown"),
        ("some-route", "unknown"),
    ):
        found = labels(reporter="source", peer="", principal="", service=raw)
        assert (found["destination_service_name"], found["destination_service"]) == (name, "unknown")


def test_protocols() -> None:
    """A gRPC status makes it gRPC; TCP has neither code nor status."""
    assert labels(reporter="source", grpc_response_status="0")["request_protocol"] == "grpc"
    assert labels(reporter="source", response_code="0")["request_protocol"] == "http"
    tcp = standard_labels({"reporter": "source"}, OWN, tcp=True)
    assert tcp["request_protocol"] == "tcp"
    assert "response_code" not in tcp


def test_users_tags_win() -> None:
    """Tags that users added or replaced come through, those they removed are gone."""
    found = labels(reporter="source", destination_app="mine", request_host="a.b", source_version="~")
    assert (found["destination_app"], found["request_host"]) == ("mine", "a.b")
    assert "source_version" not in found


PAGE = """# TYPE envoy_istio_requests_total counter
envoy_istio_requests_total{reporter="source",peer="",principal="",service="allow_any",response_code="200"} 2
envoy_istio_requests_total{reporter="source",peer="",principal="",service="PassthroughCluster",response_code="200"} 3
# TYPE envoy_server_live gauge
envoy_server_live{} 1
# TYPE envoy_istio_request_bytes histogram
envoy_istio_request_bytes_bucket{reporter="source",service="",le="0.5"} 1
envoy_istio_request_bytes_sum{reporter="source",service=""} 1.5
"""


def test_page() -> None:
    """One family is one block, series that become equal are added up, Envoy's own metrics stay as they are."""
    page = Pages(OWN).rewrite(PAGE).decode()
    assert page.count("# TYPE istio_requests_total counter") == 1
    series = [line for line in page.splitlines() if line.startswith("istio_requests_total{")]
    assert len(series) == 1
    assert series[0].endswith("} 5")
    assert "envoy_server_live{} 1" in page
    assert 'le="0.5"} 1' in page
    assert "istio_request_bytes_sum{" in page
    assert "envoy_istio" not in page
    assert re.search(r'^istio_build\{component="proxy",tag="\d+\.\d+\.\d+"\} 1$', page, re.MULTILINE)


@given(st.text(), st.text(), st.text(alphabet=st.characters(codec="ascii")))
def test_whatever_peers_say_is_one_value(peer: str, principal: str, service: str) -> None:
    """Every series has all standard labels, whatever stands in a certificate."""
    found = labels(reporter="destination", peer=peer, principal=principal, service=service)
    assert len(found) == 25


def test_messages_of_grpc_streams() -> None:
    """Envoy counts streams by how many messages they had; the page has the messages, each direction on its own."""
    tags = 'reporter="source",peer="",principal="",service="x",response_code="200",grpc_response_status="0"'
    page = "# TYPE envoy_istio_request_messages_total counter\n# TYPE envoy_istio_response_messages_total counter\n"
    for family in ("request", "response"):
        for messages, streams in (("1,1", 5), ("1,0", 2), ("13,7", 1), ("-", 4)):
            page += f'envoy_istio_{family}_messages_total{{{tags},messages="{messages}"}} {streams}\n'
    lines = [line for line in Pages(OWN).rewrite(page).decode().splitlines() if re.match("istio_(?!build)", line)]
    assert [line.split("{")[0] for line in lines] == ["istio_request_messages_total", "istio_response_messages_total"]
    assert [line.rpartition(" ")[2] for line in lines] == ["20", "12"]
    assert all("messages=" not in line.partition("{")[2] for line in lines)


def test_descriptions_count_only_with_an_identity_of_the_mesh() -> None:
    """A certificate from elsewhere may say what it likes."""
    for principal in ("", "spiffe://td/other", "https://example.com"):
        found = labels(reporter="destination", peer=PEER, principal=principal, service=SERVICE)
        assert found["source_workload"] == "unknown", principal


def test_sums_do_not_fall() -> None:
    """What Envoy forgets of a sum stays in it; what counts anew after that is added. A series that is forgotten as a
    whole begins anew, and all that was forgotten is told."""
    pages = Pages(OWN)

    def shown(**streams: int) -> dict[str, float]:
        tags = 'reporter="source",peer="",principal="",service="x",response_code="200",grpc_response_status="0"'
        page = "# TYPE envoy_istio_request_messages_total counter\n"
        for messages, count in streams.items():
            name = messages.removeprefix("m")
            page += f'envoy_istio_request_messages_total{{{tags},messages="{name},1"}} {count}\n'
        found = {}
        for line in pages.rewrite(page).decode().splitlines():
            if re.match("(istio|pilotfish)_(?!build)", line):
                found[line.partition("{")[0].partition(" ")[0]] = float(line.rpartition(" ")[2])
        return found

    name, expired = "istio_request_messages_total", "pilotfish_series_expired_total"
    assert shown(m1=5) == {name: 5, expired: 0}
    assert shown(m1=5, m3=2) == {name: 11, expired: 0}
    assert shown(m1=6) == {name: 12, expired: 1}, "three is forgotten"
    assert shown(m1=6, m3=1) == {name: 15, expired: 1}, "and counts anew"
    assert shown(m1=6, m3=2, m4=1) == {name: 22, expired: 1}
    assert shown(m4=1) == {name: 22, expired: 3}
    assert shown() == {expired: 4}
    assert shown(m1=1) == {name: 1, expired: 4}
    assert shown(m1=1, m2=1) == {name: 3, expired: 4}


def test_part_of_a_page() -> None:
    """A page of which only a part was asked for shows its series as the whole does, and nothing counts as expired."""
    pages, line = Pages(OWN), 'envoy_istio_requests_total{reporter="source",service="%s",response_code="200"} %d\n'
    pages.rewrite(line % ("allow_any", 5) + line % ("PassthroughCluster", 2))
    part = pages.rewrite(line % ("allow_any", 5), whole=False).decode()
    assert part.count("} 7\n") == 1
    assert "pilotfish_series_expired_total 0\n" in part


def test_open_connections() -> None:
    """Bytes of open connections count in the series in which they will be when these end, once; nothing falls when a
    connection ends while the page is made, or when the counter is forgotten."""
    pages = Pages(OWN)

    def shown(closed: int | None, **connections: int) -> str:
        tags = 'reporter="source",peer="",principal="",service="db.x~db~x"'
        page = "" if closed is None else f"envoy_istio_tcp_sent_bytes_total{{{tags}}} {closed}\n"
        for name, count in connections.items():
            page += f'envoy_istio_tcp_sent_bytes_open{{{tags},connection="{name}"}} {count}\n'
        lines = [line for line in pages.rewrite(page).decode().splitlines() if re.match("istio_(?!build)", line)]
        assert len(lines) < 2
        assert all("connection=" not in line for line in lines)
        return lines[0].rpartition(" ")[2] if lines else ""

    assert shown(None, a=100) == "100"
    assert shown(None, a=150, b=1) == "151"
    assert shown(None, a=150, b=0) == "151", "b ended and is not counted yet"
    assert shown(3, a=150, b=0) == "153"
    assert shown(153, a=0, b=0) == "153"
    assert shown(153, c=7) == "160"
    assert shown(None, c=8) == "161", "the counter is forgotten"
    assert shown(8) == "161"
    assert shown(10) == "163"
    assert shown(None) == ""
    assert shown(5) == "5"
