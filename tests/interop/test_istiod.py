"""Istio's own control plane runs in the local cluster: the ground that the comparisons stand on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.harness import SAMPLES, Cluster, fresh, wait_until
from tests.envoy.harness import Case, everything

from pilotfish.envoy.proto import envoy_binary

from .istiod import install_istiod

pytestmark = [pytest.mark.xdist_group("interop-istiod")]

PROXY = """
kind: MeshConfig
defaultProviders: {metrics: [prometheus]}
---
apiVersion: v1
kind: Service
metadata: {name: details, namespace: books}
spec: {clusterIP: 10.96.0.9, selector: {app: details}, ports: [{name: http, port: 9080}]}
---
kind: Proxy
namespace: books
labels: {app: details}
"""


@pytest.fixture(scope="module")
def cluster(programs: Path, istio_source: Path) -> Iterator[Cluster]:
    """A cluster with Istio's control plane."""
    with fresh("rootful") as one:
        one.up()
        install_istiod(one, programs, istio_source, envoy_binary())
        yield one


def test_istiod_injects_into_pods_of_the_local_cluster(cluster: Cluster) -> None:
    """Istio's charts install with Helm, its webhook injects, its capture rules apply, its agent gets a certificate."""
    cluster.kubectl("create", "namespace", "books")
    cluster.kubectl("label", "namespace", "books", "istio-injection=enabled")
    cluster.kubectl("apply", "-n", "books", "-f", str(SAMPLES / "bookinfo" / "bookinfo.yaml"))

    def logs() -> str:
        return cluster.kubectl(
            "logs", "-n", "books", "-l", "app=details", "-c", "istio-proxy", "--tail=-1", check=False
        )

    wait_until(lambda: "generated new workload certificate" in logs(), "a certificate for the workload")


def test_istios_own_filters_are_sent_as_istiod_sends_them(cluster: Cluster, programs: Path) -> None:
    """To a proxy that lists them: the same filters, in the same order, with the same settings."""
    case = Case(PROXY)
    found = everything(case.compiler, case.view(extensions=["istio.stats"]))["listeners"]
    asked = [str(programs / "pilot-discovery"), "request", "GET", "/debug/config_dump?proxyID=details"]

    def sent() -> dict[str, Any]:
        text = cluster.kubectl("exec", "-n", "istio-system", "deploy/istiod", "--", *asked, check=False)
        sections = json.JSONDecoder().raw_decode(text)[0]["configs"] if text.startswith("{") else []  # logs follow
        parts = [one["activeState"]["listener"] for s in sections for one in s.get("dynamicListeners", ())]
        return {one["name"]: one for one in parts}

    wait_until(lambda: "virtualInbound" in sent(), "istiod has sent listeners")
    theirs, ours = sent(), json.loads(json.dumps(found, default=str))
    for name in ("virtualInbound", "0.0.0.0_9080"):
        mine, wanted = _istios(ours[name]), _istios(theirs[name])
        assert mine
        assert [one for one in mine if one not in wanted] == []
        assert [one for one in wanted if one not in mine] == []


def _istios(listener: dict[str, Any]) -> list[list[Any]]:
    """The filters of each chain that end at a router: their names, and the settings of Istio's own; camel case."""
    found = []
    for chain in listener.get("filterChains", listener.get("filter_chains", [])):
        config = chain["filters"][-1]["typedConfig" if "typedConfig" in chain["filters"][-1] else "typed_config"]
        filters = config.get("httpFilters", config.get("http_filters"))
        if filters is not None:
            found.append([(one["name"], _settings(one)) for one in filters])
    return found


def _settings(one: dict[str, Any]) -> Any:
    if not one["name"].startswith("istio.") or one["name"] == "istio.alpn":
        return None
    config = one.get("typedConfig") or one["typed_config"]
    value = config.get("value", {key: value for key, value in config.items() if key != "@type"})
    return {re.sub("_([a-z])", lambda m: m[1].upper(), key): setting for key, setting in value.items()}
