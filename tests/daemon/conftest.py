"""A real API server with the mesh's definitions and a control plane, shared by the tests of a process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pilotfish.api.crds import crds
from pilotfish.kube.client import Client
from pilotfish.kube.resources import CUSTOM_RESOURCE_DEFINITIONS

from .harness import ControlPlane, ensure_namespace, new_namespace

SYSTEM = "istio-system"


@dataclass(frozen=True)
class Cluster:
    kubeconfig: Path
    folder: Path


@pytest.fixture(scope="session")
def bare_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server without the mesh's definitions."""
    yield from _serve(tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server that serves the mesh's kinds."""
    for one in _serve(tmp_path_factory.mktemp("cluster")):
        asyncio.run(_prepare(one.kubeconfig))
        yield one


def _serve(folder: Path) -> Iterator[Cluster]:
    data = folder / "data"
    with (folder / "apiserver.log").open("ab") as log:
        command = [sys.executable, "-m", "pilotfish.local.apiserver", "--data", str(data), "--port", "0"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while not (data / "run" / "apiserver.json").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"the API server does not start: {(folder / 'apiserver.log').read_text()[-2000:]}")
        time.sleep(0.02)
    yield Cluster(data / "kubeconfig", folder)
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def _prepare(kubeconfig: Path) -> None:
    async with Client.from_file(kubeconfig) as client:
        await install_crds(client)
        await ensure_namespace(client, SYSTEM)


async def install_crds(client: Client) -> None:
    await asyncio.gather(*(client.create(CUSTOM_RESOURCE_DEFINITIONS, one) for one in crds()))


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    async with Client.from_file(cluster.kubeconfig) as one:
        yield one


@pytest.fixture
async def namespace(client: Client) -> str:
    return await new_namespace(client)


@pytest.fixture(scope="session")
def shared_plane(cluster: Cluster) -> Iterator[ControlPlane]:
    plane = ControlPlane(cluster.kubeconfig, cluster.folder, SYSTEM)
    plane.start()
    yield plane
    plane.end()


@pytest.fixture
async def plane(shared_plane: ControlPlane) -> ControlPlane:
    """The shared control plane, ready."""
    await shared_plane.ready()
    return shared_plane
