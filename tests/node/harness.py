"""A real node with an API server, started as root, or as an ordinary user with or without a range of user ids."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from tests.e2e.harness import own_address
from tests.ordinary import NOBODY, prefix

from pilotfish.kube import config
from pilotfish.kube.client import Client
from pilotfish.kube.errors import ApiStatusError, is_not_found
from pilotfish.kube.resources import PODS, Object, ResourceType

SECONDS = 90.0


def wait_for(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class NodeCluster:
    """An API server and a node on a data directory of their own."""

    mode: str
    data: Path
    server: subprocess.Popen[bytes] | None = None
    node: subprocess.Popen[bytes] | None = None
    address: str = field(default_factory=own_address)
    environment: dict[str, str] = field(default_factory=dict)

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", module, "--data", str(self.data), *arguments]
        command = [*prefix(self.mode, self.data.parent), *program]
        with self.log(module).open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **self.environment})

    def log(self, module: str) -> Path:
        return self.data.with_name(f"{module}.log")

    def start_server(self) -> None:
        """Start the API server and wait until it answers."""
        self.server = self._start("pilotfish.local.apiserver", "--port", "0", "--address", self.address)
        wait_for((self.data / "run/apiserver.json").exists, "the API server starts")

    def start_node(self) -> None:
        """Start the node and wait until it is ready."""
        self.node = self._start("pilotfish.local.node")
        node = self.node
        wait_for(lambda: (self.data / "run/node.json").exists() or node.poll() is not None, "the node starts")
        assert node.poll() is None, self.log("pilotfish.local.node").read_text()

    @property
    def node_pid(self) -> int:
        """Process 1 of the node."""
        return int(json.loads((self.data / "run/node.json").read_text())["pid"])

    def stop_node(self, number: int = signal.SIGTERM) -> None:
        """End the node with a signal to its process 1, and wait for its end."""
        assert self.node is not None
        os.kill(self.node_pid, number)
        self.node.wait(60)

    def client(self) -> Client:
        """The administrator's client."""
        return Client(config.load(self.data / "kubeconfig"))

    def stop(self) -> None:
        """End both."""
        for process in (self.node, self.server):
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(60)


@contextlib.contextmanager
def fresh(mode: str, *, node: bool = True) -> Iterator[NodeCluster]:
    """A running cluster that is removed at the end."""
    top = Path(tempfile.mkdtemp(prefix="pilotfish-node-"))
    top.chmod(0o711)
    data = top / "data"
    data.mkdir(mode=0o700)
    if mode != "rootful" and os.geteuid() == 0:
        os.chown(data, NOBODY, NOBODY)
    cluster = NodeCluster(mode, data)
    try:
        cluster.start_server()
        if node:
            cluster.start_node()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(top)


@dataclass
class World:
    """What a test does with a cluster, in a namespace of its own."""

    cluster: NodeCluster
    client: Client
    namespace: str

    async def create(self, resource: ResourceType, name: str, **rest: Any) -> Object:
        """Create an object."""
        body = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, **rest}
        return await self.client.create(resource, body, self.namespace)

    async def pod(self, name: str, *command: str, **spec: Any) -> Object:
        """Create a pod with one container `c` running a shell command, or with the containers in `spec`."""
        meta: dict[str, Any] = {"name": name, "labels": {"app": name}, **spec.pop("metadata", {})}
        container = {"name": "c", "image": "curlimages/curl", "command": list(command), **spec.pop("container", {})}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": meta,
            "spec": {
                "nodeName": "pilotfish",
                "terminationGracePeriodSeconds": 1,
                "serviceAccountName": "default",
                "automountServiceAccountToken": False,
                "containers": [container],
                **spec,
            },
        }
        return await self.client.create(PODS, body, self.namespace)

    async def get(self, name: str) -> Object:
        return await self.client.get(PODS, name, self.namespace)

    async def until(self, name: str, condition: Callable[[Object], Any], what: str, seconds: float = SECONDS) -> Object:
        """The pod when a condition holds for it."""
        end = time.monotonic() + seconds
        while True:
            pod = await self.get(name)
            with contextlib.suppress(KeyError, IndexError, TypeError):
                if condition(pod):
                    return pod
            status = json.dumps(pod.get("status"), indent=1)
            log = self.cluster.log("pilotfish.local.node").read_text()[-3000:]
            assert time.monotonic() < end, f"pod {name} not within {seconds} s: {what}\n{status}\n{log}"
            await asyncio.sleep(0.02)

    async def ready(self, name: str, seconds: float = SECONDS) -> Object:
        """The pod when it is Ready."""
        return await self.until(
            name, lambda p: any(c["type"] == "Ready" and c["status"] == "True" for c in conditions(p)), "ready", seconds
        )

    async def phase(self, name: str, phase: str) -> Object:
        """The pod when it has a phase."""
        return await self.until(name, lambda p: p["status"]["phase"] == phase, phase)

    async def gone(self, name: str, seconds: float = SECONDS) -> None:
        """Wait until the pod's object is gone."""
        end = time.monotonic() + seconds
        while True:
            try:
                await self.get(name)
            except ApiStatusError as error:
                if not is_not_found(error):
                    raise
                return
            assert time.monotonic() < end, f"pod {name} is still there"
            await asyncio.sleep(0.02)

    async def delete(self, name: str, grace: int | None = None) -> None:
        """Delete a pod and wait until it is gone."""
        await self.client.delete(PODS, name, self.namespace, grace_seconds=grace)
        await self.gone(name)

    def session(self) -> aiohttp.ClientSession:
        """A client of the node's own API."""
        return aiohttp.ClientSession(
            "http://node", connector=aiohttp.UnixConnector(str(self.cluster.data / "run/node.sock"))
        )

    async def logs(self, name: str, container: str = "c", **query: str) -> str:
        """The log of a container."""
        async with (
            self.session() as session,
            session.get(f"/containerLogs/{self.namespace}/{name}/{container}", params=query) as answer,
        ):
            text = await answer.text()
            assert answer.status == 200, text
            return text

    async def run(self, name: str, *command: str, container: str = "c") -> tuple[int, str]:
        """Run a command in a container: exit code and output."""
        query = [("command", word) for word in command] + [("stdout", "true"), ("stderr", "true")]
        output, code = b"", -1
        async with (
            self.session() as session,
            session.ws_connect(
                f"/exec/{self.namespace}/{name}/{container}", params=query, protocols=["v5.channel.k8s.io"]
            ) as socket,
        ):
            async for message in socket:
                channel, data = message.data[0], message.data[1:]
                if channel == 3:
                    code = exit_code(json.loads(data))
                else:
                    output += data
        return code, output.decode()

    async def output(self, name: str, *command: str) -> str:
        """What a successful command prints, stripped."""
        code, text = await self.run(name, *command)
        assert code == 0, text
        return text.strip()


def exit_code(status: dict[str, Any]) -> int:
    """The exit code in the Status that ends an exec."""
    if status["status"] == "Success":
        return 0
    causes = (status.get("details") or {}).get("causes") or []
    return next((int(c["message"]) for c in causes if c["reason"] == "ExitCode"), 255)


def conditions(pod: Object) -> list[dict[str, Any]]:
    """The conditions of a pod."""
    return list((pod.get("status") or {}).get("conditions") or [])


def container_state(pod: Object, name: str = "c") -> dict[str, Any]:
    """The status of a container."""
    status = pod["status"]
    entries = [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]
    found: dict[str, dict[str, Any]] = {one["name"]: one for one in entries}
    return found[name]
