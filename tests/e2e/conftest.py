"""One running cluster per mode for all tests that only use it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from tests.ordinary import unable

from .harness import Cluster, fresh
from .mesh import Mesh, installed
from .shop import Shop, opened

CLUSTERS = ["rootful", "rootless"]
_names = count(1)


def skip_unless_possible(mode: str) -> None:
    """Skip a mode that this machine's kernel or user cannot have."""
    if why := unable(mode):
        pytest.skip(why)


@pytest.fixture(
    scope="session", params=[pytest.param(m, marks=pytest.mark.xdist_group(f"cluster-{m}")) for m in CLUSTERS]
)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A running cluster that tests share; each keeps to a namespace of its own."""
    skip_unless_possible(request.param)
    with fresh(request.param) as started:
        started.up()
        yield started


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace for one test."""
    name = f"test-{next(_names)}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def mesh() -> Iterator[Mesh]:
    """Installed once for all tests of the group `mesh`."""
    skip_unless_possible("rootful")
    with installed() as one:
        yield one


@pytest.fixture(scope="session")
def shop(mesh: Mesh) -> Shop:
    """Small workloads in the mesh and outside of it, for tests of traffic and security."""
    return opened(mesh)
