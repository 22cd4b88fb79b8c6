"""Proxies of Istio's build are measured by its filters, others by the logger that they have, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import pytest
from tests.envoy.harness import Case, everything

from pilotfish.envoy import proto
from pilotfish.xds.requests import parse

MESH = """
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  clusterIP: 10.96.0.9
  selector: {app: echo}
  ports: [{name: http, port: 80}, {name: tcp, port: 9090}]
---
kind: Telemetry
apiVersion: telemetry.istio.io/v1
metadata: {name: fewer, namespace: istio-system}
spec:
  metrics:
  - providers: [{name: prometheus}]
    reportingInterval: 1.5s
    overrides:
    - {match: {metric: REQUEST_SIZE}, disabled: true}
    - match: {metric: REQUEST_COUNT}
      tagOverrides: {response_flags: {operation: REMOVE}, method: {value: request.method}}
---
kind: Proxy
labels: {app: echo}
"""
CHANGES = [
    {"name": "request_bytes", "drop": True},
    {"name": "requests_total", "dimensions": {"method": "request.method"}, "tags_to_remove": ["response_flags"]},
]


def chains(listeners: dict[str, Any]) -> Iterator[tuple[bool, list[dict[str, Any]]]]:
    """Of all filter chains: whether they are inbound, and their filters; those of HTTP instead of their manager."""
    for name, listener in listeners.items():
        for chain in (*listener.get("filter_chains", ()), listener.get("default_filter_chain")):
            if chain is None:
                continue
            *before, last = chain["filters"]
            http = last["typed_config"].get("http_filters")
            yield name == "virtualInbound", http if http is not None else [*before, last]


def listed(*names: str) -> Any:
    """What the control plane knows of a proxy whose Envoy has these extensions."""
    node = {"id": "sidecar~10.1.0.1~a.b~b.svc.cluster.local", "extensions": [{"name": name} for name in names]}
    _, found = parse(proto.encode("envoy.service.discovery.v3.DeltaDiscoveryRequest", {"node": node}), delta=True)
    assert found is not None
    return found.json()["extensions"]


def test_istios_envoy_is_measured_by_its_own_filter() -> None:
    """Before the router and before each TCP proxy, with the changes that Telemetry asks for; peers are exchanged before
    all other HTTP filters; the logger is left out."""
    case = Case(MESH)
    view = case.view(extensions=listed("istio.stats", "envoy.access_loggers.stats", "envoy.filters.http.router"))
    listeners = everything(case.compiler, view)["listeners"]
    assert not case.compiler.errors()
    assert "access_loggers.stats" not in str(listeners)
    seen = set()
    for inbound, filters in chains(listeners):
        names = [one["name"] for one in filters]
        seen.add((inbound, names[-1]))
        assert names[-2] == "istio.stats"
        config = filters[-2]["typed_config"]
        assert config["type_url"] == "type.googleapis.com/stats.PluginConfig"
        assert sorted(config["value"].pop("metrics"), key=itemgetter("name")) == CHANGES
        assert config["value"].pop("tcp_reporting_duration") == "1.5s"
        assert config["value"] == ({"disable_host_header_fallback": True} if inbound else {})
        if names[-1] == "envoy.filters.http.router":
            assert names[0] == "istio.metadata_exchange"
            assert ("downstream_discovery" in filters[0]["typed_config"]["value"]) is inbound
    proxies = ("envoy.filters.http.router", "envoy.filters.network.tcp_proxy")
    assert seen == {(inbound, name) for inbound in (True, False) for name in proxies}


@pytest.mark.parametrize(
    ("names", "logger"), [((), True), (("envoy.access_loggers.stats",), True), (("envoy.filters.http.router",), False)]
)
def test_other_envoys_are_sent_no_filters_of_istio(names: tuple[str, ...], logger: bool) -> None:
    """Stock Envoy has the logger; one too old for it gets none; one that does not say is taken for stock Envoy."""
    case = Case(MESH)
    text = str(everything(case.compiler, case.view(extensions=listed(*names)))["listeners"])
    assert ("access_loggers.stats" in text) is logger
    assert "istio.stats" not in text
    assert "istio.metadata_exchange" not in text
