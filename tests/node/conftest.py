"""A running node per mode, shared by the tests that only use it; each test has a namespace of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest
from tests.ordinary import MODES, unable

from pilotfish.kube.errors import ApiStatusError
from pilotfish.kube.resources import NAMESPACES, SERVICE_ACCOUNTS

from .harness import NodeCluster, World, fresh

_numbers = count(1)


@pytest.fixture(
    scope="session", params=[pytest.param(mode, marks=pytest.mark.xdist_group(f"node-{mode}")) for mode in MODES]
)
def node_cluster(request: pytest.FixtureRequest) -> Iterator[NodeCluster]:
    """A running API server and node."""
    mode: str = request.param
    if why := unable(mode):
        pytest.skip(why)
    with fresh(mode) as cluster:
        yield cluster


@pytest.fixture
async def world(node_cluster: NodeCluster) -> AsyncIterator[World]:
    """A client and a new namespace of the cluster."""
    name = f"t{next(_numbers)}"
    async with node_cluster.client() as client:
        await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        async with asyncio.timeout(60):
            while True:
                try:
                    await client.get(SERVICE_ACCOUNTS, "default", name)
                    break
                except ApiStatusError:
                    await asyncio.sleep(0.02)
        yield World(node_cluster, client, name)
        await client.delete(NAMESPACES, name)
