"""A control plane in a process of its own, and simulated proxies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from grpclib.client import Channel, StreamStreamMethod
from prometheus_client.parser import text_string_to_metric_families

from pilotfish import api
from pilotfish.ca.authority import Authority, key_pem, new_key, utc_now
from pilotfish.envoy import proto
from pilotfish.envoy.resource import CLUSTER, LISTENER
from pilotfish.grpc import BytesCodec
from pilotfish.kube.client import Client
from pilotfish.kube.errors import ApiStatusError, is_already_exists
from pilotfish.kube.resources import NAMESPACES, SERVICE_ACCOUNTS, Object, ResourceType
from pilotfish.tls import load_key_pair
from pilotfish.xds.service import SERVICE

DELTA = "envoy.service.discovery.v3.Delta"
SECONDS = 90.0
"""Deadlines: long, since machines are busy."""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


async def until(holds: Callable[[], Any], what: str = "the condition") -> Any:
    """What `holds` (a function, or one that is awaited) gives as soon as it is true."""
    found: Any = None
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                found = holds()
                if asyncio.iscoroutine(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{what} did not come to be; last: {found!r}") from None


def config_type(kind: str) -> ResourceType:
    known = api.KINDS[kind]
    return ResourceType(known.group, known.versions[0], kind, known.plural)


def config(kind: str, namespace: str, name: str, spec: Mapping[str, Any]) -> Object:
    known = api.KINDS[kind]
    return {
        "apiVersion": f"{known.group}/{known.versions[0]}",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": dict(spec),
    }


def service(name: str, namespace: str = "", port: int = 80, port_name: str = "http") -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"name": port_name, "port": port, "targetPort": 8080}]},
    }


async def new_namespace(client: Client, prefix: str = "t", labels: Mapping[str, str] | None = None) -> str:
    """A namespace that is ready: its default service account is there."""
    name = f"{prefix}-{secrets.token_hex(4)}"
    await client.create(NAMESPACES, {"metadata": {"name": name, "labels": dict(labels or {})}})
    await until(lambda: _exists(client, name), "the default service account")
    return name


async def _exists(client: Client, namespace: str) -> bool:
    with contextlib.suppress(ApiStatusError):
        await client.get(SERVICE_ACCOUNTS, "default", namespace)
        return True
    return False


async def ensure_namespace(client: Client, name: str) -> None:
    try:
        await client.create(NAMESPACES, {"metadata": {"name": name}})
    except ApiStatusError as error:
        if not is_already_exists(error):
            raise


async def token(
    client: Client, namespace: str, account: str = "default", audience: str = "istio-ca", pod: Object | None = None
) -> str:
    spec: Object = {"audiences": [audience], "expirationSeconds": 3600}
    if pod is not None:
        meta = pod["metadata"]
        spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]}
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    answer = await client.create(SERVICE_ACCOUNTS, request, namespace, name=account, subresource="token")
    return str(answer["status"]["token"])


class ControlPlane:
    """`pilotfishd discovery` on loopback ports."""

    def __init__(self, kubeconfig: Path, folder: Path, namespace: str, name: str = "istiod-1", **env: str) -> None:
        self.kubeconfig, self.namespace, self.name = kubeconfig, namespace, name
        self.log = folder / f"{name}-{secrets.token_hex(3)}.log"
        self.http, self.https, self.grpc, self.secure, self.monitoring, self.controlz = free_ports(6)
        self._env = {
            "ROOT_CA_DIR": str(folder / "no-cacerts"),
            **env,
            "POD_NAME": name,
            "POD_NAMESPACE": namespace,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        addresses = {
            "httpAddr": self.http,
            "httpsAddr": self.https,
            "grpcAddr": self.grpc,
            "secureGRPCAddr": self.secure,
            "monitoringAddr": self.monitoring,
        }
        flags = [f"--{flag}=127.0.0.1:{port}" for flag, port in addresses.items()]
        flags.append(f"--ctrlz_port={self.controlz}")
        command = [sys.executable, "-m", "pilotfish.daemon", "discovery", f"--kubeconfig={self.kubeconfig}", *flags]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **self._env})

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.process = None
        return code

    async def get(self, path: str, port: int = 0, **headers: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{port or self.monitoring}{path}"
        try:
            async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientError as error:
            return 0, str(error)

    async def ready(self) -> None:
        async def holds() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            return (await self.get("/ready", self.http))[0] == 200

        await until(holds, f"readiness ({self.log})")

    async def metric(self, name: str, **labels: str) -> float | None:
        _, page = await self.get("/metrics")
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return None


@dataclass
class Push:
    """One response, as a proxy sees it."""

    type_url: str
    names: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass
class Proxy:
    """A delta client that asks for everything of a type, or for names, and acknowledges or refuses."""

    stream: Any
    node: Object
    held: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By type: name → (version, bytes)."""
    pushes: list[Push] = field(default_factory=list)
    refuse: Callable[[str, str, bytes], str | None] = lambda *_: None
    """(type URL, name, bytes) → why it is refused, or None."""

    reading: asyncio.Task[None] | None = None
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared, the proxy is slow to acknowledge and refuse."""

    def __post_init__(self) -> None:
        self.answering.set()

    async def verdict(self) -> None:
        """Returns when there was an answer; raises what ended the stream instead."""
        await until(lambda: self.pushes or (self.reading and self.reading.done()), "a verdict")
        if not self.pushes and self.reading:
            self.reading.result()

    async def ask(self, type_url: str, *names: str, versions: Mapping[str, str] | None = None) -> None:
        first = not self.held
        self.held.setdefault(type_url, {})
        fields: Object = {"type_url": type_url, "resource_names_subscribe": list(names)}
        if versions:
            fields["initial_resource_versions"] = dict(versions)
        if first:
            fields["node"] = self.node
        await self.stream.send_message(proto.encode(DELTA + "DiscoveryRequest", fields))

    async def run(self) -> None:
        while (body := await self.stream.recv_message()) is not None:
            answer: Any = proto.decode(DELTA + "DiscoveryResponse", body)
            reply: Object = {"type_url": answer.type_url, "response_nonce": answer.nonce}
            held = self.held.setdefault(answer.type_url, {})
            problems = []
            for one in answer.resources:
                if why := self.refuse(answer.type_url, one.name, one.resource.value):
                    problems.append(f"Error adding/updating {one.name}: {why}")
                else:
                    held[one.name] = (one.version, one.resource.value)
            for name in answer.removed_resources:
                held.pop(name, None)
            if problems:
                reply["error_detail"] = {"code": 13, "message": "; ".join(problems)}
            self.pushes.append(
                Push(answer.type_url, tuple(one.name for one in answer.resources), tuple(answer.removed_resources))
            )
            await self.answering.wait()
            await self.stream.send_message(proto.encode(DELTA + "DiscoveryRequest", reply))

    def body(self, type_url: str, name: str) -> bytes:
        return bytes(self.held.get(type_url, {}).get(name, ("", b""))[1])

    def versions(self, type_url: str) -> dict[str, str]:
        return {name: version for name, (version, _) in self.held.get(type_url, {}).items()}

    async def holds(self, type_url: str, name: str, part: bytes = b"") -> None:
        await until(
            lambda: name in self.held.get(type_url, {}) and part in self.body(type_url, name), f"{name} {part!r}"
        )

    async def lacks(self, type_url: str, name: str) -> None:
        await until(lambda: name not in self.held.get(type_url, {}), f"no {name}")


def node_of(namespace: str, pod: str = "", account: str = "", **metadata: Any) -> Object:
    pod = pod or f"p{secrets.token_hex(3)}"
    known = {"NAMESPACE": namespace, "ISTIO_VERSION": "1.30.0", "WORKLOAD_NAME": pod, **metadata}
    if account:
        known["SERVICE_ACCOUNT"] = account
    return {"id": f"sidecar~10.1.1.1~{pod}.{namespace}~{namespace}.svc.cluster.local", "metadata": known}


def client_tls(folder: Path, signer: Authority | None = None, uri: str = "", *, trust: bytes) -> ssl.SSLContext:
    """A context that trusts `trust`, with a certificate of `signer` for `uri` if they are given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=trust.decode())
    context.set_alpn_protocols(["h2"])
    if signer is not None:
        key = new_key()
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        pem = csr.public_bytes(serialization.Encoding.PEM).decode()
        chain = signer.sign_workload(pem, [uri], timedelta(hours=1), utc_now())
        load_key_pair(context, "".join(chain[:-1]).encode(), key_pem(key))
    return context


@asynccontextmanager
async def connected(
    port: int,
    node: Object,
    *types: str,
    tls: ssl.SSLContext | None = None,
    bearer: str = "",
    sotw: bool = False,
    **options: Any,
) -> AsyncIterator[Proxy]:
    """A proxy that asks for clusters and listeners unless told otherwise. In state of the world the caller talks."""
    metadata = {"authorization": f"Bearer {bearer}"} if bearer else {}
    async with Channel("127.0.0.1", port, ssl=tls, codec=BytesCodec()) as channel:
        name = "StreamAggregatedResources" if sotw else "DeltaAggregatedResources"
        method: Any = StreamStreamMethod(channel, SERVICE + name, bytes, bytes)
        async with method.open(metadata=metadata) as stream:
            proxy = Proxy(stream, node, **options)
            if sotw:  # the caller talks
                yield proxy
                await stream.cancel()
                return
            for type_url in types or (CLUSTER, LISTENER):
                await proxy.ask(type_url)
            reading = proxy.reading = asyncio.create_task(proxy.run())
            try:
                yield proxy
            finally:
                reading.cancel()
                await asyncio.wait([reading])
                with contextlib.suppress(Exception):  # it may have ended by itself
                    await stream.cancel()
