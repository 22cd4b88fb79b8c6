"""Istio's own control plane runs in the local cluster: the ground that the comparisons stand on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.harness import SAMPLES, Cluster, fresh, wait_until

from pilotfish.envoy.proto import envoy_binary

from .istiod import install_istiod

pytestmark = [pytest.mark.xdist_group("interop-istiod")]


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
