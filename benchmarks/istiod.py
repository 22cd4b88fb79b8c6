"""Pilotfish's control plane beside istiod: `python -m benchmarks.istiod --istiod PROGRAM`, see `--help`.

One API server has the same objects for both; they run in turns as plain processes on loopback ports, and the same
simulated proxies (mutual TLS, one connection each, every one another pod) connect to each. Processor time and bytes of
the control plane alone are counted. They say more than wall times, which take turns with the API server and with the
proxies, all on this machine; the last column of a table is ours divided by istiod's. The pods are objects only: nobody
runs them, and their addresses are never connected to.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from grpclib import GRPCError, Status
from grpclib.client import Channel, StreamStreamMethod, UnaryUnaryMethod
from grpclib.config import Configuration

from pilotfish.api import KINDS
from pilotfish.api.crds import crds
from pilotfish.ca.authority import key_pem, new_key
from pilotfish.ca.messages import PATH, CertificateRequest, CertificateResponse
from pilotfish.envoy import CLUSTER, ENDPOINT, LISTENER, ROUTE, proto
from pilotfish.grpc import BytesCodec
from pilotfish.kube.client import Client
from pilotfish.kube.resources import (
    CUSTOM_RESOURCE_DEFINITIONS,
    ENDPOINT_SLICES,
    NAMESPACES,
    PODS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Object,
    ResourceType,
)
from pilotfish.tls import load_key_pair
from pilotfish.xds.service import SERVICE

SPACES = 10
PODS_EACH = 5
SYSTEM = "istio-system"
SETTLED_SECONDS = 0.5
"""What a change costs is counted until nothing has been received for so long."""
DEADLINE_SECONDS = 300.0
SIGNED = 20
"""Certificates signed per round, each over a connection of its own as agents do."""

# ------------------------------------------------------------------ objects


def _kind(name: str) -> ResourceType:
    kind = KINDS[name]
    return ResourceType(kind.group, kind.versions[0], name, kind.plural)


def _meta(n: int) -> Object:
    return {"name": f"svc-{n}", "namespace": f"ns-{n % SPACES}"}


def _address(n: int, e: int) -> str:
    return f"10.{100 + (n >> 8)}.{n & 255}.{e + 1}"


def service(n: int) -> Object:
    spec = {"selector": {"app": f"svc-{n}"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
    return {"metadata": _meta(n), "spec": spec}


def pod(n: int, e: int) -> Object:
    labels = {"app": f"svc-{n}", "version": f"v{e % 2 + 1}", "security.istio.io/tlsMode": "istio"}
    containers = [{"name": "app", "image": "app", "ports": [{"containerPort": 8080}]}]
    return {
        "metadata": {"name": f"svc-{n}-{e}", "namespace": f"ns-{n % SPACES}", "labels": labels},
        "spec": {"serviceAccountName": "app", "nodeName": "node", "containers": containers},
    }


def status(n: int, e: int) -> Object:
    ip = _address(n, e)
    conditions = [{"type": "Ready", "status": "True"}]
    return {"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions}}


def endpoint_slice(n: int, extra: str = "") -> Object:
    endpoints = [
        {
            "addresses": [_address(n, e)],
            "conditions": {"ready": True},
            "targetRef": {"kind": "Pod", "name": f"svc-{n}-{e}", "namespace": f"ns-{n % SPACES}"},
        }
        for e in range(PODS_EACH)
    ]
    if extra:
        endpoints.append({"addresses": [extra], "conditions": {"ready": True}})
    return {
        "metadata": {**_meta(n), "labels": {"kubernetes.io/service-name": f"svc-{n}"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": endpoints,
    }


def virtual_service(n: int, prefix: str = "/some") -> Object:
    def to(subset: str) -> list[Object]:
        return [{"destination": {"host": f"svc-{n}", "subset": subset}}]

    http = [{"match": [{"uri": {"prefix": prefix}}], "route": to("v1")}, {"route": to("v2")}]
    return {"metadata": _meta(n), "spec": {"hosts": [f"svc-{n}"], "http": http}}


def destination_rule(n: int, sni: str = "") -> Object:
    spec: Object = {"host": f"svc-{n}", "subsets": [{"name": v, "labels": {"version": v}} for v in ("v1", "v2")]}
    if sni:
        spec["trafficPolicy"] = {"tls": {"mode": "SIMPLE", "sni": sni}}
    return {"metadata": _meta(n), "spec": spec}


async def fill(client: Client, services: int) -> None:
    """What both control planes read."""
    gate = asyncio.Semaphore(16)

    async def make(kind: ResourceType, obj: Object) -> None:
        async with gate:
            await client.create(kind, obj)

    async def make_pod(n: int, e: int) -> None:
        await make(PODS, pod(n, e))
        async with gate:
            space = f"ns-{n % SPACES}"
            await client.patch(PODS, f"svc-{n}-{e}", status(n, e), space, subresource="status")

    await asyncio.gather(*(make(CUSTOM_RESOURCE_DEFINITIONS, one) for one in crds()))
    spaces = [f"ns-{n}" for n in range(SPACES)]
    await asyncio.gather(*(make(NAMESPACES, {"metadata": {"name": one}}) for one in [SYSTEM, *spaces]))
    accounts = ({"metadata": {"name": "app", "namespace": one}} for one in spaces)
    await asyncio.gather(*(make(SERVICE_ACCOUNTS, one) for one in accounts))
    for n in range(services):
        await asyncio.gather(
            make(SERVICES, service(n)),
            make(ENDPOINT_SLICES, endpoint_slice(n)),
            make(_kind("VirtualService"), virtual_service(n)),
            make(_kind("DestinationRule"), destination_rule(n)),
            *(make_pod(n, e) for e in range(PODS_EACH)),
        )


@contextlib.contextmanager
def api_server(folder: Path) -> Iterator[Path]:
    """Without controllers, which would make EndpointSlices of their own. Gives its kubeconfig."""
    program = (
        "import sys; sys.modules['pilotfish.local.controllers'] = None\n"
        "from pilotfish.local.apiserver.__main__ import main; sys.exit(main())"
    )
    process = subprocess.Popen([sys.executable, "-c", program, "--data", str(folder), "--port", "0"])
    try:
        while not (folder / "run" / "apiserver.json").exists():
            if process.poll() is not None:
                raise SystemExit("the API server did not start")
            time.sleep(0.02)
        yield folder / "kubeconfig"
    finally:
        process.terminate()
        process.wait(30)


# ------------------------------------------------------------ control planes


class ControlPlane:
    """One control plane as a process of its own. `program` is the command before the flags that both know."""

    def __init__(self, name: str, program: list[str], folder: Path, kubeconfig: Path, **env: str) -> None:
        self.name, self.log = name, folder / f"{name}.log".replace(" ", "-")
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(6)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            ports = [one.getsockname()[1] for one in sockets]
        flags = ("httpAddr", "httpsAddr", "grpcAddr", "secureGRPCAddr", "monitoringAddr")
        command = [*program, "discovery", f"--kubeconfig={kubeconfig}"]
        command += [f"--{flag}=127.0.0.1:{port}" for flag, port in zip(flags, ports, strict=False)]
        if name.startswith("istiod"):
            command.append(f"--ctrlz_port={ports[5]}")
        self.http, self.secure = ports[0], ports[3]
        work = folder / "work"  # istiod writes files below its working directory
        work.mkdir(exist_ok=True)
        env = {**os.environ, "POD_NAMESPACE": SYSTEM, "POD_NAME": "istiod-1", "ROOT_CA_DIR": str(work), **env}
        self.started = time.perf_counter()
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=env, cwd=work)

    async def ready(self) -> float:
        """Seconds from the start."""
        async with aiohttp.ClientSession() as session:
            while True:
                if self.process.poll() is not None or time.perf_counter() - self.started > DEADLINE_SECONDS:
                    raise SystemExit(f"{self.name} does not get ready:\n{self.log.read_text()[-3000:]}")
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"http://127.0.0.1:{self.http}/ready") as answer:
                        if answer.status == 200:
                            return time.perf_counter() - self.started
                await asyncio.sleep(0.01)

    @property
    def cpu(self) -> float:
        """Processor seconds so far, user and system, exactly: the kernel's clock of another process."""
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def memory(self, what: str) -> float:
        """MB of `Rss` or `Pss`."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{what}:")) / 1024

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


# ------------------------------------------------------------------- proxies


def _fields(body: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of each length-delimited field of a protobuf message; others are passed over."""
    at, end = 0, len(body)

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = body[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    while at < end:
        tag = varint()
        if tag & 7 == 0:
            varint()
        else:
            size = varint()
            yield tag >> 3, body[at : at + size]
            at += size


def _text(number: int, body: memoryview) -> str:
    return next((bytes(part).decode() for found, part in _fields(body) if found == number), "")


@dataclass
class Traffic:
    """What all proxies have received."""

    received: int = 0
    """Bytes."""
    last: float = 0.0
    marker: bytes = b""
    seen: dict[int, float] = field(default_factory=dict)
    """When each proxy first received a response with the marker in it."""
    all_seen: asyncio.Event = field(default_factory=asyncio.Event)
    proxies: int = 0
    turned_away: int = 0
    """Connections refused because there were too many at a time; istiod limits them."""

    def expect(self, marker: str) -> None:
        self.marker, self.seen = marker.encode(), {}
        self.all_seen.clear()

    def take(self, proxy: int, body: bytes) -> None:
        self.received += len(body)
        self.last = time.perf_counter()
        if self.marker and proxy not in self.seen and self.marker in body:
            self.seen[proxy] = self.last
            if len(self.seen) == self.proxies:
                self.all_seen.set()

    async def settled(self) -> None:
        while time.perf_counter() - self.last < SETTLED_SECONDS:  # noqa: ASYNC110  the same
            await asyncio.sleep(0.02)


def _node(n: int, e: int) -> Object:
    """As Istio's agent describes itself."""
    name, space = f"svc-{n}-{e}", f"ns-{n % SPACES}"
    metadata = {
        "NAMESPACE": space,
        "NAME": name,
        "SERVICE_ACCOUNT": "app",
        "LABELS": pod(n, e)["metadata"]["labels"],
        "WORKLOAD_NAME": f"svc-{n}",
        "OWNER": f"kubernetes://apis/apps/v1/namespaces/{space}/deployments/svc-{n}",
        "CLUSTER_ID": "Kubernetes",
        "MESH_ID": "cluster.local",
        "ISTIO_VERSION": "1.31.0",
        "INTERCEPTION_MODE": "REDIRECT",
        "INSTANCE_IPS": _address(n, e),
        "APP_CONTAINERS": "app",
        "ENVOY_STATUS_PORT": 15021,
        "ENVOY_PROMETHEUS_PORT": 15090,
        "PROXY_CONFIG": {"discoveryAddress": "istiod.istio-system.svc:15012", "concurrency": 2},
    }
    return {
        "id": f"sidecar~{_address(n, e)}~{name}.{space}~{space}.svc.cluster.local",
        "cluster": f"svc-{n}.{space}",
        "metadata": metadata,
        "locality": {},
        "user_agent_name": "envoy",
    }


class Proxy:
    """Asks and acknowledges as Envoy does, and keeps nothing but names."""

    def __init__(self, number: int, services: int, traffic: Traffic, *, delta: bool) -> None:
        self._number, self._traffic, self._delta = number, traffic, delta
        self._node = _node(number % services, number // services)
        self._clusters: set[str] = set()
        self._got: set[str] = set()
        self._version: dict[str, tuple[str, str]] = {}
        self.full = asyncio.Event()

    async def run(self, port: int, tls: ssl.SSLContext) -> None:
        while True:
            try:
                await self._connect(port, tls)
            except GRPCError as error:
                if error.status is not Status.RESOURCE_EXHAUSTED:
                    raise
                self._traffic.turned_away += 1
                await asyncio.sleep(random.uniform(0.5, 1.5))  # noqa: S311  as Envoy: not all at once again

    async def _connect(self, port: int, tls: ssl.SSLContext) -> None:
        window = Configuration(http2_connection_window_size=2**24, http2_stream_window_size=2**24)
        async with Channel("127.0.0.1", port, ssl=tls, codec=BytesCodec(), config=window) as channel:
            name = "DeltaAggregatedResources" if self._delta else "StreamAggregatedResources"
            method: Any = StreamStreamMethod(channel, SERVICE + name, bytes, bytes)
            async with method.open() as self._stream:
                await self._ask(CLUSTER, node=self._node)
                await self._ask(LISTENER)
                while (body := await self._stream.recv_message()) is not None:
                    self._traffic.take(self._number, body)
                    await self._answer(memoryview(body))

    async def _answer(self, body: memoryview) -> None:
        type_url, nonce, version, resources = "", "", "", []
        for number, part in _fields(body):
            if number == 2:
                resources.append(part)
            elif number in (1, 4, 5):
                text = bytes(part).decode()
                version = text if number == 1 else version
                type_url = text if number == 4 else type_url
                nonce = text if number == 5 else nonce
        self._version[type_url] = (version, nonce)
        await self._ask(type_url, acknowledge=True)
        if type_url == CLUSTER:
            # A Resource has its name in field 3, an Any of a Cluster in its value's field 1.
            names = (_text(3, one) if self._delta else self._named(one) for one in resources)
            new = {name for name in names if name.startswith("outbound|")} - self._clusters
            if new:
                self._clusters |= new
                await self._ask(ENDPOINT, new)
        if type_url == LISTENER and LISTENER not in self._got:
            await self._ask(ROUTE, {"80"})
        self._got.add(type_url)
        if len(self._got) == 4:
            self.full.set()

    @staticmethod
    def _named(resource: memoryview) -> str:
        return next(_text(1, value) for number, value in _fields(resource) if number == 2)

    async def _ask(self, type_url: str, new: set[str] | None = None, *, acknowledge: bool = False, **more: Any) -> None:
        version, nonce = self._version.get(type_url, ("", ""))
        fields: Object = {"type_url": type_url, **more}
        if acknowledge or (nonce and not self._delta):
            fields["response_nonce"] = nonce
        if self._delta:
            fields["resource_names_subscribe"] = sorted(new or ())
        else:
            fields["version_info"] = version
            names = {ENDPOINT: sorted(self._clusters), ROUTE: ["80"]}
            fields["resource_names"] = names.get(type_url, [])
        kind = "Delta" if self._delta else ""
        request = proto.encode(f"envoy.service.discovery.v3.{kind}DiscoveryRequest", fields)
        await self._stream.send_message(request)


# ------------------------------------------------------------------ measuring


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # who serves is known here
    context.set_alpn_protocols(["h2"])
    return context


async def _sign(port: int, token: str, csr: str) -> bytes:
    async with Channel("127.0.0.1", port, ssl=_context(), codec=BytesCodec()) as channel:
        method: Any = UnaryUnaryMethod(channel, PATH, bytes, bytes)
        request = CertificateRequest(csr=csr, validity_duration=86400).SerializeToString()
        body = await method(request, metadata={"authorization": f"Bearer {token}"})
        return "".join(CertificateResponse.FromString(body).cert_chain).encode()


async def _tokens(client: Client) -> list[str]:
    spec = {"spec": {"audiences": ["istio-ca"], "expirationSeconds": 3600}}
    made = [
        await client.create(SERVICE_ACCOUNTS, spec, f"ns-{n}", name="app", subresource="token") for n in range(SPACES)
    ]
    return [str(one["status"]["token"]) for one in made]


async def _all(proxies: list[Proxy]) -> None:
    for one in proxies:
        await one.full.wait()


Figures = dict[str, float]


class Run:
    """One control plane, from its start to its end, measured."""

    def __init__(self, plane: ControlPlane, client: Client, services: int, count: int, *, delta: bool) -> None:
        self.plane, self.client, self.services, self.count = plane, client, services, count
        self.delta = delta
        self.figures: Figures = {}
        self.traffic = Traffic(proxies=count)
        self.key = new_key()
        signed = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(self.key, hashes.SHA256())
        self.csr = signed.public_bytes(serialization.Encoding.PEM).decode()

    async def measure(self, changes: int, idle_seconds: float) -> Figures:
        plane, figures = self.plane, self.figures
        figures["start, s"] = await plane.ready()
        figures["start, CPU s"] = plane.cpu
        await asyncio.sleep(3)
        figures["start and 3 s, CPU s"] = plane.cpu
        for what in ("Rss", "Pss"):
            figures[f"memory before proxies, MB {what.upper()}"] = plane.memory(what)
        tokens = await _tokens(self.client)
        chains = [await _sign(plane.secure, one, self.csr) for one in tokens]
        cpu = plane.cpu
        await asyncio.gather(*(_sign(plane.secure, tokens[n % SPACES], self.csr) for n in range(SIGNED)))
        figures["a certificate, CPU ms"] = (plane.cpu - cpu) / SIGNED * 1e3
        contexts = [_context() for _ in range(SPACES)]
        for context, chain in zip(contexts, chains, strict=True):
            load_key_pair(context, chain, key_pem(self.key))
        async with self._connected(contexts):
            figures["memory with proxies, MB RSS"] = plane.memory("Rss")
            figures["memory with proxies, MB PSS"] = plane.memory("Pss")
            cpu, at = plane.cpu, time.perf_counter()
            await asyncio.sleep(idle_seconds)
            figures["idle with proxies, % of a core"] = (plane.cpu - cpu) / (time.perf_counter() - at) * 100
            for what in ("an endpoint", "a VirtualService", "a DestinationRule", "a new Service"):
                await self._change(what, changes)
            figures["memory at the end, MB RSS"] = plane.memory("Rss")
            figures["memory at the end, MB PSS"] = plane.memory("Pss")
        return figures

    @contextlib.asynccontextmanager
    async def _connected(self, contexts: list[ssl.SSLContext]) -> AsyncIterator[None]:
        proxies = [Proxy(n, self.services, self.traffic, delta=self.delta) for n in range(self.count)]
        cpu, at = self.plane.cpu, time.perf_counter()
        tasks = []
        for number, proxy in enumerate(proxies):
            context = contexts[number % self.services % SPACES]
            tasks.append(asyncio.create_task(proxy.run(self.plane.secure, context)))
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                full = asyncio.create_task(_all(proxies))
                await asyncio.wait([full, *tasks], return_when=asyncio.FIRST_COMPLETED)
                for ended in (one for one in tasks if one.done()):
                    ended.result()
                await full
            self.figures["storm, s"] = time.perf_counter() - at
            await self.traffic.settled()
            self.figures["storm, CPU ms a proxy"] = (self.plane.cpu - cpu) / self.count * 1e3
            self.figures["storm, connections refused"] = self.traffic.turned_away
            self.figures["storm, kB a proxy"] = self.traffic.received / self.count / 1e3
            await asyncio.sleep(6)  # what is freed after a storm is freed
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _change(self, what: str, times: int) -> None:
        plane, traffic = self.plane, self.traffic
        costs, sizes, lasts, all_waits = [], [], [], []
        for _ in range(times + 1):
            marker, write, undo = self._edit(what)
            await traffic.settled()
            traffic.expect(marker)
            before, cpu = traffic.received, plane.cpu
            at = time.perf_counter()
            await write
            async with asyncio.timeout(DEADLINE_SECONDS):
                await traffic.all_seen.wait()
            await traffic.settled()
            costs.append(plane.cpu - cpu)
            sizes.append(traffic.received - before)
            waits = [one - at for one in traffic.seen.values()]
            lasts.append(max(waits))
            all_waits.append(waits)
            if undo is not None:
                before = traffic.received
                await undo
                while traffic.received == before:  # noqa: ASYNC110  what is waited for is in another process
                    await asyncio.sleep(0.02)
        # The first of its kind also pays for what is new about it, such as code not run before.
        waits = sorted(one for some in all_waits[1:] for one in some)
        self.figures[f"{what}: CPU ms"] = statistics.median(costs[1:]) * 1e3
        self.figures[f"{what}: kB a proxy"] = statistics.median(sizes[1:]) / self.count / 1e3
        self.figures[f"{what}: last proxy has it, ms"] = statistics.median(lasts[1:]) * 1e3
        self.figures[f"{what}: p50, ms"] = waits[len(waits) // 2] * 1e3
        self.figures[f"{what}: p99, ms"] = waits[int(len(waits) * 0.99)] * 1e3

    numbers: Iterator[int] = iter(range(1, 60_000))

    def _edit(self, what: str) -> tuple[str, Any, Any]:
        """What proxies must receive, the write that causes it, and what takes it back."""
        number, client = next(self.numbers), self.client
        if what == "an endpoint":
            marker = f"10.250.{number >> 8}.{number & 255}"
            body = endpoint_slice(0, marker)
            return marker, client.patch(ENDPOINT_SLICES, "svc-0", body, "ns-0"), None
        if what == "a VirtualService":
            marker = f"/change-{number:05}"
            return marker, client.patch(_kind("VirtualService"), "svc-0", virtual_service(0, marker), "ns-0"), None
        if what == "a DestinationRule":
            marker = f"change-{number:05}.example"
            body = destination_rule(0, marker)
            return marker, client.patch(_kind("DestinationRule"), "svc-0", body, "ns-0"), None
        name = f"new-{number:05}"
        obj: Object = {"metadata": {"name": name, "namespace": "ns-0"}, "spec": service(0)["spec"]}
        return f"{name}.ns-0.svc", client.create(SERVICES, obj), client.delete(SERVICES, name, "ns-0")


def table(rows: Mapping[str, Figures], services: int, count: int, protocol: str, rounds: int) -> None:
    names = list(rows)
    print(f"\n{services} services of {PODS_EACH} pods, {count} proxies, {protocol}; medians of {rounds} rounds")
    print(f"{'':46}" + "".join(f"{name:>18}" for name in names) + f"{'ratio':>9}")
    for figure in rows[names[0]]:
        values = [rows[name].get(figure, float("nan")) for name in names]
        ratio = f"{values[0] / values[1]:9.2f}" if len(values) > 1 and values[1] else ""
        print(f"{figure:46}" + "".join(f"{value:18.2f}" for value in values) + ratio)
    sys.stdout.flush()


async def compare(given: argparse.Namespace, folder: Path) -> None:
    planes: dict[str, tuple[list[str], dict[str, str]]] = {
        "pilotfishd": ([sys.executable, "-m", "pilotfish.daemon"], {}),
        "istiod": ([str(given.istiod)], {}),
        "istiod undelayed": (
            [str(given.istiod)],
            {"PILOT_DEBOUNCE_AFTER": "1ms", "PILOT_MAX_REQUESTS_PER_SECOND": "10000"},
        ),
    }
    chosen = {name: planes[name] for name in planes if not given.only or name in given.only}
    with api_server(folder / "api") as kubeconfig:
        async with Client.from_file(kubeconfig) as client:
            await fill(client, given.services)
            for protocol in given.protocol:
                for count in given.proxies:
                    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in chosen}
                    for _ in range(given.rounds):
                        for name, (program, env) in chosen.items():
                            plane = ControlPlane(name, program, folder, kubeconfig, **env)
                            try:
                                run = Run(plane, client, given.services, count, delta=protocol == "delta")
                                for figure, value in (await run.measure(given.changes, given.idle)).items():
                                    found[name][figure].append(value)
                            finally:
                                plane.end()
                    medians = {
                        name: {figure: statistics.median(values) for figure, values in figures.items()}
                        for name, figures in found.items()
                    }
                    table(medians, given.services, count, protocol, given.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--istiod", type=Path, help="the program pilot-discovery", default="pilot-discovery")
    parser.add_argument("--services", type=int, default=100)
    parser.add_argument("--proxies", type=int, nargs="+", default=[1, 100])
    parser.add_argument("--protocol", nargs="+", choices=("delta", "sotw"), default=["delta"])
    parser.add_argument("--changes", type=int, default=5, help="of each kind")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=float, default=10.0, help="seconds")
    parser.add_argument("--only", nargs="+", help="of `pilotfishd`, `istiod`, `istiod undelayed`")
    given = parser.parse_args()
    if max(given.proxies) > given.services * PODS_EACH:
        parser.error(f"{given.services} services have only {given.services * PODS_EACH} pods to be proxies")
    with (
        tempfile.TemporaryDirectory(prefix="pilotfish-bench-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(compare(given, Path(folder)))


if __name__ == "__main__":
    main()
