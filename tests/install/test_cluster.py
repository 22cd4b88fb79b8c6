"""Installing into a real API server: our installer and Helm, from the same charts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.charts.conftest import helm  # noqa: F401 - a fixture
from tests.e2e.conftest import skip_unless_possible
from tests.e2e.harness import Cluster, fresh

from pilotfish.install.charts import directory

VALUES = Path(__file__).parents[1] / "charts" / "values"
pytestmark = pytest.mark.xdist_group("install")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of this file's own: the mesh has one set of custom kinds."""
    mode = "rootful" if os.geteuid() == 0 else "rootless"
    skip_unless_possible(mode)
    with fresh(mode) as started:
        started.up()
        yield started


def _names(cluster: Cluster, *what: str) -> set[str]:
    return {item["metadata"]["name"] for item in cluster.get(*what)["items"]}


def _install(cluster: Cluster, *arguments: str) -> str:
    return cluster.pilotfish("install", "-y", "--readiness-timeout", "90s", *arguments).stdout


def test_install_change_and_uninstall(cluster: Cluster, tmp_path: Path) -> None:
    """Dry run changes nothing, install waits until all works, what is no longer wanted goes, purge leaves nothing."""
    assert "would be installed" in cluster.pilotfish("install", "--dry-run").stdout
    assert _names(cluster, "crd") == set()

    said = _install(cluster, "--set", "profile=minimal", "--set", "revisionTags={prod}")
    assert said.splitlines() == ["✔ Istio core installed", "✔ Istiod installed", "✔ Installation complete"]
    assert len(_names(cluster, "crd")) == 16
    deployment: dict[str, Any] = cluster.get("deployment", "istiod", "-n", "istio-system")
    assert deployment["status"]["availableReplicas"] == 1
    hooks = cluster.get("mutatingwebhookconfigurations", "istio-revision-tag-prod")["webhooks"]
    assert all(hook["clientConfig"]["caBundle"] for hook in hooks)

    said = cluster.pilotfish("upgrade", "-y", "--set", "profile=minimal").stdout
    assert "istio-revision-tag-prod is no longer needed and removed" in said
    assert "istio-revision-tag-prod" not in _names(cluster, "mutatingwebhookconfigurations")

    refused = cluster.pilotfish("upgrade", "-y", "--revision", "other", check=False)
    assert refused.returncode == 1
    assert "no installation of revision other was found" in refused.stderr

    said = cluster.pilotfish("uninstall", "-y", "--purge").stdout
    assert "✔ Uninstall complete" in said
    assert _names(cluster, "crd") == set()
    for kind in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"):
        assert _names(cluster, kind) == set()
    again = cluster.pilotfish("uninstall", "-y", "--purge", check=False)
    assert "nothing was found" in again.stderr


def test_objects_of_users_are_checked(cluster: Cluster) -> None:
    """The CRD's schema and the webhook refuse with field paths; nulls and every version are accepted."""
    _install(cluster, "--set", "profile=minimal")
    route = """
apiVersion: networking.istio.io/{version}
kind: VirtualService
metadata: {{name: {name}}}
spec:
  hosts: [reviews]
  gateways: ~
  http:
  - route: [{{destination: {{host: reviews}}, weight: {weight}}}]
    timeout: {timeout}
"""
    for version in ("v1", "v1beta1", "v1alpha3"):
        cluster.apply(route.format(version=version, name=version, weight=1, timeout="10s"))
    assert _names(cluster, "vs") == {"v1", "v1beta1", "v1alpha3"}
    printed = cluster.kubectl("get", "istio-io")
    assert '["reviews"]' in printed
    refused = cluster.kubectl(
        "apply", "-f", "-", input_=route.format(version="v1", name="x", weight=-1, timeout="1s"), check=False
    )
    assert "spec.http[0].route[0].weight: weight -1 must not be negative" in refused
    refused = cluster.kubectl(
        "apply", "-f", "-", input_=route.format(version="v1", name="x", weight=1, timeout="1us"), check=False
    )
    assert "spec.http[0].timeout" in refused
    unknown = route.format(version="v1", name="x", weight=1, timeout="1s") + "    timeOut: 1s\n"
    assert 'unknown field "spec.http[0].timeOut"' in cluster.kubectl("apply", "-f", "-", input_=unknown, check=False)
    cluster.pilotfish("uninstall", "-y", "--purge")


def test_helm(cluster: Cluster, helm: str) -> None:  # noqa: F811 - the fixture
    """The three charts one after the other under real Helm, with a values file for Istio's gateway chart."""

    def run(*arguments: str) -> str:
        environment = {**cluster.env(), "HOME": str(cluster.home)}
        done = subprocess.run(
            [helm, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("install", "istio-base", str(directory() / "base"), "-n", "istio-system", "--create-namespace")
    run("install", "istiod", str(directory() / "istiod"), "-n", "istio-system", "--wait")
    gateway = ("istio-ingressgateway", str(directory() / "gateway"), "-n", "istio-system")
    run("install", *gateway, "-f", str(VALUES / "gateway-1.20.yaml"), "--wait")
    pods = cluster.get("pods", "-n", "istio-system", "-l", "istio=ingressgateway")["items"]
    assert [container["image"] for container in pods[0]["spec"]["containers"]] == ["docker.io/pilotfish/proxyv2:0.1.0"]
    service = cluster.get("service", "istio-ingressgateway", "-n", "istio-system")
    assert [port["port"] for port in service["spec"]["ports"]] == [8080, 8443]
    run("upgrade", "istiod", str(directory() / "istiod"), "-n", "istio-system", "--set", "meshConfig.accessLogFile=/x")
    mesh = cluster.get("configmap", "istio", "-n", "istio-system")["data"]["mesh"]
    assert "accessLogFile: /x" in mesh
    for release in ("istio-ingressgateway", "istiod", "istio-base"):
        run("uninstall", release, "-n", "istio-system")
    assert len(_names(cluster, "crd")) == 16, "the chart keeps the custom kinds, with all objects of users"
