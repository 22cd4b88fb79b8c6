"""A real API server with its controllers, one for each test process, and a stand-in for the node."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pilotfish.kube.client import Client
from pilotfish.kube.errors import KubeError, is_already_exists, is_conflict, is_not_found
from pilotfish.kube.informer import Informer
from pilotfish.kube.meta import format_time, is_deleting, now
from pilotfish.kube.resources import NAMESPACES, NODES, PODS, ResourceType

Object = dict[str, Any]


@dataclass(frozen=True)
class ApiServer:
    data: Path
    process: subprocess.Popen[bytes]

    @property
    def kubeconfig(self) -> Path:
        return self.data / "kubeconfig"


def start(data: Path, port: int = 0) -> ApiServer:
    log = (data.parent / f"{data.name}.log").open("ab")
    command = [sys.executable, "-m", "pilotfish.local.apiserver", "--data", str(data), "--port", str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    deadline = time.monotonic() + 30
    while not (data / "run" / "apiserver.json").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"the API server does not start: {Path(log.name).read_text()[-2000:]}")
        time.sleep(0.02)
    return ApiServer(data, process)


def stop(server: ApiServer) -> None:
    server.process.terminate()
    try:
        server.process.wait(60)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    server = start(tmp_path_factory.mktemp("cluster") / "data")
    yield server
    stop(server)


@pytest.fixture
async def client(api_server: ApiServer) -> AsyncIterator[Client]:
    async with Client.from_file(api_server.kubeconfig) as one:
        yield one


@pytest.fixture
async def namespace(client: Client) -> AsyncIterator[str]:
    name = f"t-{secrets.token_hex(4)}"
    await client.create(NAMESPACES, {"metadata": {"name": name}})
    yield name
    await client.delete(NAMESPACES, name)


class Kubelet:
    """Runs no program: a pod that has a node is Running and Ready at once.

    The annotation `test/exit` makes it end with that code instead, `test/unready` keeps it from being ready.
    """

    node = "test-node"

    def __init__(self, client: Client, namespace: str) -> None:
        self.client = client
        self.informer = Informer(client, PODS, namespace)
        self._addresses = 0

    async def register(self) -> None:
        node = {"metadata": {"name": self.node, "labels": {"topology.kubernetes.io/zone": "z1"}}}
        try:
            await self.client.create(NODES, node)
        except KubeError as error:
            if not is_already_exists(error):
                raise

    async def run(self) -> None:
        follow = asyncio.create_task(self.informer.run())
        try:
            async for change in self.informer.changes():
                pod = change.new
                if pod is not None and pod["spec"].get("nodeName"):
                    try:
                        await self._see_to(pod)
                    except KubeError as error:
                        if not is_not_found(error) and not is_conflict(error):
                            raise
        finally:
            follow.cancel()
            await asyncio.wait([follow])

    async def _see_to(self, pod: Object) -> None:
        meta = pod["metadata"]
        name, namespace = meta["name"], meta["namespace"]
        if is_deleting(pod):
            await self.client.delete(PODS, name, namespace, grace_seconds=0, uid=meta["uid"])
            return
        annotations = meta.get("annotations") or {}
        moment = format_time(now())
        status = pod.get("status") or {}
        wanted: Object = {"phase": "Running", "podIP": status.get("podIP")}
        ready = annotations.get("test/unready") != "true"
        if "test/exit" in annotations:
            code = int(annotations["test/exit"])
            ended = {"exitCode": code, "finishedAt": moment, "startedAt": moment}
            wanted["phase"] = "Failed" if code else "Succeeded"
            wanted["containerStatuses"] = [
                {
                    "name": one["name"],
                    "image": one["image"],
                    "imageID": "",
                    "ready": False,
                    "restartCount": 0,
                    "state": {"terminated": ended},
                }
                for one in pod["spec"]["containers"]
            ]
            ready = False
        current = {one["type"]: one["status"] for one in status.get("conditions") or ()}
        if status.get("phase") == wanted["phase"] and current.get("Ready") == str(ready):
            return
        if not wanted["podIP"]:
            self._addresses += 1
            wanted["podIP"] = f"10.244.9.{self._addresses}"
        wanted["podIPs"] = [{"ip": wanted["podIP"]}]
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": moment}
        wanted["conditions"] = [*(c for c in status.get("conditions") or () if c["type"] != "Ready"), condition]
        patch = {"metadata": {"uid": meta["uid"]}, "status": wanted}
        await self.client.patch(PODS, name, patch, namespace, subresource="status")


@pytest.fixture
async def kubelet(client: Client, namespace: str) -> AsyncIterator[Kubelet]:
    one = Kubelet(client, namespace)
    await one.register()
    task = asyncio.create_task(one.run())
    yield one
    task.cancel()
    await asyncio.wait([task])


@pytest.fixture
def kubectl(api_server: ApiServer, namespace: str, tmp_path: Path) -> Callable[..., Any]:
    """`await kubectl("get", "pods")` gives what it printed; a failure raises."""
    program = Path(sys.executable).parent / "kubectl"
    env = {**os.environ, "KUBECONFIG": str(api_server.kubeconfig), "HOME": str(tmp_path)}

    async def run(*args: str, stdin: Any = None) -> str:
        process = await asyncio.create_subprocess_exec(
            str(program),
            "-n",
            namespace,
            *args,
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate(json.dumps(stdin).encode() if stdin is not None else b"")
        assert process.returncode == 0, f"kubectl {' '.join(args)}: {err.decode()}"
        return out.decode()

    return run


@pytest.fixture
def until(client: Client, namespace: str) -> Callable[..., Any]:
    """`await until(PODS, lambda pods: len(pods) == 2)`: the objects once the predicate holds, by watching."""

    async def wait(
        resource: ResourceType,
        holds: Callable[[list[Object]], object],
        *,
        where: str | None = None,
        seconds: float = 60.0,
    ) -> list[Object]:
        informer = Informer(client, resource, namespace if where is None else where)
        task = asyncio.create_task(informer.run())
        try:
            async with asyncio.timeout(seconds):
                await informer.synced.wait()
                await informer.until(lambda: bool(holds(informer.store.values())), seconds)
            found = informer.store.values()
            assert holds(found), f"{resource.plural} are still {json.dumps(found, indent=1)[:3000]}"
            return found
        finally:
            task.cancel()
            await asyncio.wait([task])

    return wait
