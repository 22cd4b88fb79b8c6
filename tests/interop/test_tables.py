"""What istioctl shows of a mesh does not depend on who runs it: Istio's control plane, then ours, with the same pods.

Rows that are equal count once: routes of a replaced listener stay in a proxy until its connections are drained.
"""

from __future__ import annotations

import difflib
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.harness import SAMPLES, Cluster, fresh
from tests.e2e.mesh import BOOKS, GATEWAY, SUBSETS
from tests.ordinary import ROOT

from pilotfish.envoy.proto import envoy_binary

from .istiod import STOCK, install_istiod, run_helm
from .test_istioctl import RULES

pytestmark = pytest.mark.xdist_group("interop-tables")

PER_PROXY = {
    "clusters": ("proxy-config", "cluster"),
    "listeners": ("proxy-config", "listener"),
    "routes": ("proxy-config", "route"),
    "endpoints": ("proxy-config", "endpoint"),
    "localities": ("proxy-config", "eds"),
    "secrets": ("proxy-config", "secret"),
    "versions": ("proxy-config", "bootstrap", "-o", "short"),
    "extensions": ("proxy-config", "ecds"),
    "policies": ("experimental", "authz", "check"),
    "description": ("experimental", "describe", "pod"),
    "difference": ("proxy-status",),
}
FOR_ALL = {
    "states": ("proxy-status",),
    "clusters of the mesh": ("remote-clusters",),
    "service": ("experimental", "describe", "service", f"reviews.{BOOKS}"),
    "upgrade": ("experimental", "precheck"),
}
SECONDS = 120
"""Until all proxies have come over, on a loaded machine."""


@pytest.fixture(scope="module")
def cluster(programs: Path, istio_source: Path) -> Iterator[Cluster]:
    """A mesh run by Istio, with a gateway, Bookinfo and rules."""
    with fresh("rootful") as one:
        one.up()
        install_istiod(one, programs, istio_source, envoy_binary(), *STOCK)
        one.kubectl("apply", "-f", str(SAMPLES / "ingress" / "ingress.yaml"))
        one.kubectl("create", "namespace", BOOKS)
        one.kubectl("label", "namespace", BOOKS, "istio-injection=enabled")
        one.kubectl("apply", "-n", BOOKS, "-f", str(SAMPLES / "bookinfo" / "bookinfo.yaml"))
        for manifest in (GATEWAY, SUBSETS, RULES):
            one.apply(manifest, BOOKS)
        one.ready(BOOKS)
        one.ready("istio-ingress")
        yield one


def _shown(cluster: Cluster, programs: Path) -> dict[str, list[str]]:
    """The tables by what they are of, without what is the control plane's own name, address or time."""
    (istiod,) = (
        one
        for one in cluster.get("pods", "-n", "istio-system", "-l", "app=istiod")["items"]
        if "deletionTimestamp" not in one["metadata"]
    )
    own = {istiod["metadata"]["name"]: "ISTIOD", istiod["status"]["podIP"]: "ADDRESS"}
    books = cluster.get("pods", "-n", BOOKS)["items"]
    pods = {one["metadata"]["labels"]["app"]: f"{one['metadata']['name']}.{BOOKS}" for one in books}
    (gateway,) = cluster.get("pods", "-n", "istio-ingress")["items"]
    pods = {
        "gateway": f"{gateway['metadata']['name']}.istio-ingress",
        **{n: pods[n] for n in ("productpage", "details")},
    }
    wanted = {f"{name} of {who}": (*words, pod) for who, pod in pods.items() for name, words in PER_PROXY.items()}
    found = {}
    for name, words in (wanted | FOR_ALL).items():
        done = subprocess.run(
            [str(programs / "istioctl"), *words],
            env=cluster.env(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        text = done.stdout + done.stderr
        for there, here in own.items():
            text = text.replace(there, here)
        text = re.sub(r"RDS last loaded at [^)]*", "TIME", text)
        # Columns are as wide as their widest cell, and the order of equals is nobody's concern.
        found[name] = sorted({re.sub(r" {2,}", "  ", line).rstrip() for line in text.splitlines()})
    return found


def _differences(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    found = []
    for name, lines in before.items():
        changed = (
            one
            for one in difflib.unified_diff(lines, after[name], lineterm="", n=0)
            if one[:2] not in ("--", "++", "@@")
        )
        # Istio has no such cluster at gateways; nothing there refers to ours.
        kept = [one for one in changed if not (name == "clusters of gateway" and one.startswith("+PassthroughCluster"))]
        found += [f"{name}: {one}" for one in kept]
    return found


def test_tables(cluster: Cluster, programs: Path) -> None:
    """Clusters, listeners, routes, endpoints, secrets, policies, descriptions and states are equal, row by row."""
    before = _shown(cluster, programs)
    assert any("outbound|9080|v1|reviews" in line for line in before["endpoints of productpage"])
    assert "Clusters Match" in before["difference of productpage"]
    for release, chart in (("istio-base", "base"), ("istiod", "istiod")):
        where = ("-n", "istio-system", "--wait", "--reset-values")
        run_helm(cluster, "upgrade", release, str(ROOT / "charts" / chart), *where)
    end = time.monotonic() + SECONDS
    while found := _differences(before, _shown(cluster, programs)):
        assert time.monotonic() < end, "\n".join(found)
        time.sleep(2)
