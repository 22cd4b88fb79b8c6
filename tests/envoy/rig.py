"""A real Envoy with compiled configuration on a loopback address of its own, and backends behind it.

There is no traffic capture on a test machine. So listeners get sockets on the rig's address, and the inbound capturing
listener learns the original destination from a PROXY protocol header instead of from the kernel.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import yaml
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.envoy.harness import bootstrap, serialise

from pilotfish.envoy import proto

DEFAULT_ID = "spiffe://cluster.local/ns/default/sa/default"
_COUNTER = itertools.count(1)


def fresh_ip() -> str:
    """A loopback address nobody else uses: from the process id, and a counter inside the process."""
    pid = os.getpid()
    return f"127.{64 + (pid >> 12 & 63)}.{pid >> 4 & 255}.{(pid & 15) * 16 + next(_COUNTER) % 16}"


# Certificates


class Credentials(NamedTuple):
    root: bytes
    chain: bytes
    key: bytes


class Authority:
    """A root that signs workload certificates."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "test root")])
        self.root = self._sign(name, name, self.key.public_key(), x509.BasicConstraints(ca=True, path_length=None))
        self.pem = self.root.public_bytes(serialization.Encoding.PEM)

    def _sign(
        self, subject: x509.Name, issuer: x509.Name, key: Any, *extensions: x509.ExtensionType
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(hours=1))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, *names: str) -> Credentials:
        """A certificate for SPIFFE ids or DNS names."""
        key = ec.generate_private_key(ec.SECP256R1())
        sans = [x509.UniformResourceIdentifier(n) if "://" in n else x509.DNSName(n) for n in names]
        made = self._sign(x509.Name([]), self.root.subject, key.public_key(), x509.SubjectAlternativeName(sans))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Credentials(self.pem, made.public_bytes(serialization.Encoding.PEM), private)

    def revocations(self, *revoked: Credentials) -> bytes:
        """A list of revoked certificates, PEM."""
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.root.subject)
        builder = builder.last_update(now - dt.timedelta(minutes=5)).next_update(now + dt.timedelta(hours=1))
        for one in revoked:
            serial = x509.load_pem_x509_certificate(one.chain).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


AUTHORITY = Authority()
"""The mesh's root in these tests."""


def secrets(credentials: Credentials) -> dict[str, Any]:
    """What the agent would serve, as static secrets."""
    return {
        "default": {
            "name": "default",
            "tls_certificate": {
                "certificate_chain": {"inline_string": credentials.chain.decode()},
                "private_key": {"inline_string": credentials.key.decode()},
            },
        },
        "ROOTCA": {
            "name": "ROOTCA",
            "validation_context": {"trusted_ca": {"inline_string": credentials.root.decode()}},
        },
    }


# Backends


class Backend:
    """An HTTP service that says what it was asked. `/status/N` answers N, `/slow/S` waits, `/flaky/N` fails N times."""

    def __init__(self, name: str, ip: str, port: int = 0) -> None:
        self.name, self.ip, self.port = name, ip, port
        self.seen: list[Mapping[str, str]] = []
        self._failed: dict[str, int] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Backend]:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, self.ip, self.port).start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        headers = {k.lower(): v for k, v in request.headers.items()}
        if request.path == "/ws":
            return await self._echo(request)
        self.seen.append({**headers, ":path": request.path_qs, ":method": request.method})
        parts = request.path.strip("/").split("/")
        status = 200
        if parts[0] == "status":
            status = int(parts[1])
        elif parts[0] == "slow":
            await asyncio.sleep(float(parts[1]))
        elif parts[0] == "flaky":
            count = self._failed[request.path] = self._failed.get(request.path, 0) + 1
            status = 503 if count <= int(parts[1]) else 200
        return web.json_response({"name": self.name, "path": request.path_qs, "headers": headers}, status=status)

    async def _echo(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def name(self) -> str:
        """Which backend answered; the status when none did."""
        return str(self.json["name"]) if self.body.startswith("{") else str(self.status)


# Envoy


class Envoy:
    def __init__(self, ip: str, folder: Path) -> None:
        self.ip = ip
        self.admin = folder / "admin.sock"
        self.log = folder / "envoy.log"

    async def ask(self, path: str, method: str = "GET") -> str:
        """The admin interface."""
        connector = aiohttp.UnixConnector(str(self.admin))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://admin{path}") as reply,
        ):
            return await reply.text()

    async def request(
        self,
        port: int,
        path: str = "/",
        *,
        host: str = "example.com",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        sni: str | None = None,
        data: bytes | None = None,
    ) -> Reply:
        async with aiohttp.ClientSession() as session:
            scheme = "https" if tls is not None else "http"
            async with session.request(
                method,
                f"{scheme}://{self.ip}:{port}{path}",
                headers={"host": host, **(headers or {})},
                ssl=tls if tls is not None else True,
                server_hostname=sni,
                allow_redirects=False,
                data=data,
                timeout=aiohttp.ClientTimeout(total=15),
            ) as reply:
                return Reply(reply.status, {k.lower(): v for k, v in reply.headers.items()}, await reply.text())

    async def names(self, port: int, count: int, **keywords: Any) -> dict[str, int]:
        """How often each backend answered."""
        found: dict[str, int] = {}
        for _ in range(count):
            name = (await self.request(port, **keywords)).name
            found[name] = found.get(name, 0) + 1
        return found


def adapted(resources: Mapping[str, Mapping[str, Any]], ip: str, credentials: Credentials | None) -> dict[str, Any]:
    """The resources as they can run here."""
    listeners = {n: _rebound(r, ip) for n, r in resources["listeners"].items() if n != "virtualOutbound"}
    made: dict[str, Any] = {**resources, "listeners": listeners}
    made["secrets"] = {**resources.get("secrets", {}), **secrets(credentials or AUTHORITY.issue(DEFAULT_ID))}
    return {k: _static_secrets(v) for k, v in made.items()}


def _rebound(listener: Any, ip: str) -> Any:
    made = {k: v for k, v in listener.items() if k not in ("bind_to_port", "use_original_dst", "transparent")}
    where = listener["address"]["socket_address"]
    made["address"] = {"socket_address": {**where, "address": ip}}
    if listener["name"] == "virtualInbound":
        proxy = {
            "name": "envoy.filters.listener.proxy_protocol",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"
            },
        }
        made["listener_filters"] = [
            proxy if f["name"] == "envoy.filters.listener.original_dst" else f for f in listener["listener_filters"]
        ]
    return made


def _static_secrets(value: Any) -> Any:
    if isinstance(value, list):
        return [_static_secrets(v) for v in value]
    if isinstance(value, dict):
        return {k: _static_secrets(v) for k, v in value.items() if k != "sds_config"}
    return value


@asynccontextmanager
async def running(
    resources: Mapping[str, Mapping[str, Any]],
    ip: str,
    folder: Path,
    credentials: Credentials | None = None,
    more: Mapping[str, Any] | None = None,
) -> AsyncIterator[Envoy]:
    """Start Envoy, wait until its listeners are up, stop it at the end. `more` is for its bootstrap."""
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240  local and small
    envoy = Envoy(ip, folder)
    configuration = bootstrap(adapted(resources, ip, credentials), admin=str(envoy.admin))
    configuration.pop("dynamic_resources")
    configuration |= more or {}
    path = folder / "bootstrap.pb"
    path.write_bytes(serialise(configuration))
    with envoy.log.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(proto.envoy_binary()),
            *("-c", str(path), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"),
            *("--file-flush-interval-msec", "200"),
            stdout=log,
            stderr=log,
        )
    try:
        await _ready(envoy, process)
        yield envoy
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _ready(envoy: Envoy, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(60):
        while process.returncode is None:
            try:
                if (await envoy.ask("/ready")).startswith("LIVE"):
                    return
            except (aiohttp.ClientError, OSError):
                pass
            await asyncio.sleep(0.02)
    raise AssertionError(envoy.log.read_text())


@asynccontextmanager
async def backends(ip: str, *names: str) -> AsyncIterator[dict[str, Backend]]:
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(Backend(name, ip).running()) for name in names}


# Objects


def service(
    name: str, ports: str, *members: tuple[Backend | None, str], namespace: str = "default", extra: str = ""
) -> str:
    """A Service with its pods and slice. `ports` is YAML of the Service's ports; members are backends with labels.

    Each backend is an endpoint of every port of the Service.
    """
    declared = yaml.safe_load(ports)
    text = f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{clusterIP: 10.0.0.{sum(name.encode()) % 200 + 1}, selector: {{app: {name}}}, ports: {ports} {extra}}}
---
"""
    for number, (backend, labels) in enumerate(members):
        ip, port = (backend.ip, backend.port) if backend is not None else ("127.0.0.1", 1)
        listed = ", ".join(f"{{name: '{p.get('name', '')}', port: {port}}}" for p in declared)
        text += f"""
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-{number}, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{listed}]
endpoints: [{{addresses: [{ip}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {name}-{number}}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}-{number}, namespace: {namespace}, labels: {{app: {name}{", " + labels if labels else ""}}}}}
spec: {{serviceAccountName: {name}, containers: []}}
status: {{podIP: {ip}}}
---
"""
    return text
