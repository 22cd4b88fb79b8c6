"""Services and EndpointSlices become nftables text."""

from __future__ import annotations

from typing import Any

import pytest

from pilotfish.local.node import services
from pilotfish.local.node.services import Endpoint, Rules, ServicePort, diff, endpoints, rules, service_ports


def service(**spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]
    return {
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"clusterIP": "10.96.0.7", "ports": ports, **spec},
    }


def slice_of(*ends: dict[str, Any], name: str = "http", port: int | None = 8080) -> dict[str, Any]:
    return {"addressType": "IPv4", "ports": [{"name": name, "port": port, "protocol": "TCP"}], "endpoints": list(ends)}


def end(ip: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": [ip], "conditions": conditions}


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([end("10.244.0.9", ready=True), end("10.244.0.10", ready=True)], ["10.244.0.9", "10.244.0.10"]),
        ([end("10.244.0.9", ready=True), end("10.244.0.10", ready=False)], ["10.244.0.9"]),
        ([end("10.244.0.9")], ["10.244.0.9"]),
        ([end("10.244.0.9", ready=False, serving=True, terminating=True)], ["10.244.0.9"]),
        ([end("10.244.0.9", ready=False, serving=False, terminating=True)], []),
        (
            [end("10.244.0.9", ready=True), end("10.244.0.10", ready=False, serving=True, terminating=True)],
            ["10.244.0.9"],
        ),
    ],
)
def test_endpoint_choice(ends: list[dict[str, Any]], expected: list[str]) -> None:
    """Ready endpoints are used; those that end but still serve only when there is no other (as kube-proxy)."""
    assert endpoints([slice_of(*ends)], "http", "TCP") == [Endpoint(ip, 8080) for ip in expected]


def test_endpoints_belong_to_a_port_by_its_name() -> None:
    """A slice's port of another name, or without a number, is not used."""
    assert endpoints([slice_of(end("10.244.0.9"), name="other")], "http", "TCP") == []
    assert endpoints([slice_of(end("10.244.0.9"), port=None)], "http", "TCP") == []


@pytest.mark.parametrize(
    "spec", [{"clusterIP": "None"}, {"type": "ExternalName", "externalName": "a.b"}, {"clusterIP": "fd00::1"}]
)
def test_services_without_an_address_have_no_ports(spec: dict[str, Any]) -> None:
    """Headless, ExternalName and IPv6-only Services are not in the rules."""
    assert service_ports(service(**spec), [slice_of(end("10.244.0.9"))]) == []


def test_addresses_include_external_and_balancer_but_not_loopback() -> None:
    """An address of loopback means the pod itself inside a pod, so it is never rewritten."""
    one = service(externalIPs=["192.0.2.1"], type="LoadBalancer")
    one["status"] = {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}, {"ip": "192.0.2.9"}]}}
    assert services.service_addresses(one) == ("10.96.0.7", "192.0.2.1", "192.0.2.9")


def port(*ips: str, affinity: int = 0, node_port: int = 0) -> ServicePort:
    ends = tuple(Endpoint(ip, 8080) for ip in ips)
    return ServicePort("shop/web:80/tcp", "tcp", 80, node_port, ("10.96.0.7",), ends, affinity)


def test_rules_of_a_service_port() -> None:
    """Golden: one chain, one map element per address and node port, one hairpin element per endpoint."""
    assert diff(Rules(), rules([port("10.244.0.9", "10.244.0.10", node_port=30080)])) == (
        "add chain ip pilotfish svc-8f9f35a593c9938d\n"
        "add rule ip pilotfish svc-8f9f35a593c9938d meta l4proto tcp dnat ip to numgen random mod 2 map "
        "{ 0 : 10.244.0.9 . 8080, 1 : 10.244.0.10 . 8080 }\n"
        "add element ip pilotfish service_ips { 10.96.0.7 . tcp . 80 : goto svc-8f9f35a593c9938d }\n"
        "add element ip pilotfish node_ports { tcp . 30080 : goto svc-8f9f35a593c9938d }\n"
        "add element ip pilotfish hairpins { 10.244.0.10 . 10.244.0.10, 10.244.0.9 . 10.244.0.9 }\n"
    )


def test_an_endpoint_change_touches_only_its_chain() -> None:
    """Replacing an endpoint rewrites one chain and the hairpin set, not the maps."""
    text = diff(rules([port("10.244.0.9")]), rules([port("10.244.0.10")]))
    assert text == (
        "flush chain ip pilotfish svc-8f9f35a593c9938d\n"
        "add rule ip pilotfish svc-8f9f35a593c9938d meta l4proto tcp dnat ip to 10.244.0.10:8080\n"
        "delete element ip pilotfish hairpins { 10.244.0.9 . 10.244.0.9 }\n"
        "add element ip pilotfish hairpins { 10.244.0.10 . 10.244.0.10 }\n"
    )


def test_a_port_without_endpoints_has_no_rules() -> None:
    """Its address stays in no map, so that the packet is refused; the chain goes after what referred to it."""
    text = diff(rules([port("10.244.0.9")]), rules([port()]))
    assert text.splitlines() == [
        "flush chain ip pilotfish svc-8f9f35a593c9938d",
        "delete element ip pilotfish service_ips { 10.96.0.7 . tcp . 80 }",
        "delete element ip pilotfish hairpins { 10.244.0.9 . 10.244.0.9 }",
        "delete chain ip pilotfish svc-8f9f35a593c9938d",
    ]


def test_affinity_keeps_the_clients_of_endpoints_that_stay() -> None:
    """The sets of clients are not touched when another endpoint comes."""
    before, after = rules([port("10.244.0.9", affinity=60)]), rules([port("10.244.0.9", "10.244.0.10", affinity=60)])
    (kept,) = before.sets
    assert kept in after.sets
    assert after.sets[kept] == 60
    assert f"set ip pilotfish {kept} " not in diff(before, after)


def test_equal_rules_need_no_transaction() -> None:
    """Nothing is sent to the kernel when nothing changed."""
    assert diff(rules([port("10.244.0.9")]), rules([port("10.244.0.9")])) == ""
