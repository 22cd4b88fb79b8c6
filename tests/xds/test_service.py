"""The service over real connections: gRPC clients and a real Envoy."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from grpclib import GRPCError, Status
from grpclib.client import Channel, StreamStreamMethod
from grpclib.server import Server

from pilotfish.ca.authority import Authority, key_pem, new_key, utc_now
from pilotfish.ca.caller import Authenticator, Caller, ReviewedToken, UnauthenticatedError
from pilotfish.envoy import proto
from pilotfish.envoy.resource import CLUSTER, LISTENER, ROUTE, Resource, build
from pilotfish.grpc import BytesCodec
from pilotfish.xds.fleet import Connection, Fleet
from pilotfish.xds.requests import Node
from pilotfish.xds.service import SERVICE, DiscoveryService
from pilotfish.xds.session import Request, Response, Watch

DAY = timedelta(days=1)
DELTA = "envoy.service.discovery.v3.DeltaDiscoveryRequest"
ME = "spiffe://cluster.local/ns/book/sa/reviews"


class Backend:
    """Resources from a dictionary, the same for everybody."""

    def __init__(self) -> None:
        self.types: dict[str, dict[str, Resource]] = {}
        self.refusals: list[str] = []
        self.synced = True

    def put(self, type_url: str, fields: Mapping[str, Any]) -> None:
        made = build(type_url, fields)
        self.types[type_url] = {**self.types.get(type_url, {}), made.name: made}

    def ready(self) -> bool:
        return self.synced

    def source(self, node: Node, caller: Caller | None) -> Backend:
        return self

    def every(self, type_url: str) -> Mapping[str, Resource]:
        return self.types.setdefault(type_url, {})

    def one(self, type_url: str, name: str) -> Resource | None:
        return self.every(type_url).get(name)

    async def debug(self, caller: Caller, request: Request) -> tuple[str, list[tuple[str, str, bytes]]]:
        return request.type_url, [("", request.type_url, b"{}")]

    def sent(self, connection: Connection, response: Response, seconds: float) -> None: ...

    def refused(self, connection: Connection, watch: Watch) -> None:
        self.refusals.append(watch.last_error)

    def acknowledged(self, connection: Connection, watch: Watch) -> None: ...

    def converged(self, connection: Connection, seconds: float) -> None: ...

    def failed(self, connection: Connection, error: Exception) -> None: ...


@asynccontextmanager
async def serving(
    backend: Backend, authenticate: Authenticator | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, Fleet]]:
    fleet = Fleet()
    server = Server([DiscoveryService(fleet, backend, authenticate)], codec=BytesCodec())
    await server.start("127.0.0.1", 0, ssl=tls)
    assert server._server is not None
    try:
        yield server._server.sockets[0].getsockname()[1], fleet  # type: ignore[attr-defined]  # asyncio's servers do
    finally:
        server.close()
        await server.wait_closed()


async def ask(port: int, fields: Mapping[str, Any], tls: ssl.SSLContext | None = None, token: str = "") -> Any:
    """The first answer to one delta request."""
    metadata = {"authorization": f"Bearer {token}"} if token else {}
    async with Channel("127.0.0.1", port, ssl=tls, codec=BytesCodec()) as channel:
        method: Any = StreamStreamMethod(channel, SERVICE + "DeltaAggregatedResources", bytes, bytes)
        async with asyncio.timeout(60), method.open(metadata=metadata) as stream:
            await stream.send_message(proto.encode(DELTA, fields))
            body = await stream.recv_message()
            await stream.cancel()
            return proto.decode("envoy.service.discovery.v3.DeltaDiscoveryResponse", body)


def node(namespace: str = "book", account: str = "reviews") -> dict[str, Any]:
    metadata = {"SERVICE_ACCOUNT": account, "NAMESPACE": namespace}
    return {"id": f"sidecar~127.0.0.1~pod.{namespace}~{namespace}.svc.cluster.local", "metadata": metadata}


@pytest.fixture
def backend() -> Backend:
    made = Backend()
    made.put(CLUSTER, {"name": "a"})
    return made


async def test_plaintext_port_answers_anybody(backend: Backend) -> None:
    """The port without authentication serves a proxy that only says who it is."""
    async with serving(backend) as (port, _):
        answer = await ask(port, {"node": node(), "type_url": CLUSTER})
    assert [one.name for one in answer.resources] == ["a"]


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"type_url": CLUSTER}, Status.INVALID_ARGUMENT, "missing node information"),
        ({"node": {"id": "sidecar~1"}, "type_url": CLUSTER}, Status.INVALID_ARGUMENT, "has 2 parts"),
    ],
)
async def test_unreadable_node_is_refused(backend: Backend, fields: Any, status: Status, text: str) -> None:
    """A stream whose first request does not say who it is ends with a reason."""
    async with serving(backend) as (port, _):
        with pytest.raises(GRPCError) as refusal:
            await ask(port, fields)
    assert refusal.value.status == status
    assert text in str(refusal.value.message)


async def test_not_ready_is_unavailable(backend: Backend) -> None:
    """Before the configuration has been read, proxies are told to come back: never an empty configuration."""
    backend.synced = False
    async with serving(backend) as (port, _):
        with pytest.raises(GRPCError) as refusal:
            await ask(port, {"node": node(), "type_url": CLUSTER})
    assert refusal.value.status == Status.UNAVAILABLE


async def review(token: str, audiences: tuple[str, ...]) -> ReviewedToken:
    if token != "good":
        raise UnauthenticatedError("unknown token")
    return ReviewedToken("system:serviceaccount:book:reviews", ("system:serviceaccounts",), audiences)


class Secure:
    """A TLS server context that asks for certificates, and client contexts with and without one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.authority = folder, Authority.self_signed("cluster.local", utc_now())
        key, chain = self.authority.sign_server(["istiod.istio-system.svc"], DAY, utc_now())
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._load(self.server, key, chain)
        self.server.set_alpn_protocols(["h2"])
        self.server.load_verify_locations(cadata=self.authority.root_pem.decode())
        self.server.verify_mode = ssl.CERT_OPTIONAL

    def _load(self, context: ssl.SSLContext, key: bytes, chain: bytes) -> None:
        (self.folder / "key").write_bytes(key)
        (self.folder / "chain").write_bytes(chain)
        context.load_cert_chain(self.folder / "chain", self.folder / "key")

    def client(self, uri: str = "", authority: Authority | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=self.authority.root_pem.decode())
        context.set_alpn_protocols(["h2"])
        if uri:
            key, signer = new_key(), authority or self.authority
            leaf = signer.sign_workload(_csr(key), [uri], DAY, utc_now())[0]
            self._load(context, key_pem(key), leaf.encode())
        return context


def _csr(key: Any) -> str:
    from cryptography import x509  # noqa: PLC0415 (only here)
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415

    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


async def test_secure_port_serves_only_whom_it_knows(backend: Backend, tmp_path: Path) -> None:
    """A certificate or a token for the node's own identity is served; none, a bad one or another's is not."""
    secure = Secure(tmp_path)
    request = {"node": node(), "type_url": CLUSTER}
    stranger = Authority.self_signed("cluster.local", utc_now())
    async with serving(backend, Authenticator(review, "cluster.local"), secure.server) as (port, fleet):
        for tls, token in ((secure.client(ME), ""), (secure.client(), "good")):
            answer = await ask(port, request, tls, token)
            assert len(answer.resources) == 1
        for tls, token, status in (
            (secure.client(), "", Status.UNAUTHENTICATED),
            (secure.client(), "stolen", Status.UNAUTHENTICATED),
            (secure.client("spiffe://cluster.local/ns/book/sa/ratings"), "", Status.PERMISSION_DENIED),
            (secure.client("spiffe://cluster.local/ns/other/sa/reviews"), "", Status.PERMISSION_DENIED),
        ):
            with pytest.raises(GRPCError) as refusal:
                await ask(port, request, tls, token)
            assert refusal.value.status == status
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=secure.client(ME, stranger))
        with contextlib.suppress(ssl.SSLError):
            assert await reader.read() == b"", "HTTP/2 began for a certificate of another root"
        writer.close()
        async with asyncio.timeout(60):
            while len(fleet):
                await asyncio.sleep(0.01)


async def sotw(stream: Any, **fields: Any) -> Any:
    """One request and its answer."""
    await stream.send_message(proto.encode("envoy.service.discovery.v3.DiscoveryRequest", fields))
    return proto.decode("envoy.service.discovery.v3.DiscoveryResponse", await stream.recv_message())


async def test_tools_are_answered_on_streams_of_their_own_and_on_those_of_proxies(
    backend: Backend, tmp_path: Path
) -> None:
    """Questions carry nonces of the asker's; only what acknowledges an answer is not answered."""
    secure = Secure(tmp_path)
    async with (
        serving(backend, Authenticator(review, "cluster.local"), secure.server) as (port, _),
        Channel("127.0.0.1", port, ssl=secure.client(ME), codec=BytesCodec()) as channel,
        asyncio.timeout(60),
    ):
        method: Any = StreamStreamMethod(channel, SERVICE + "StreamAggregatedResources", bytes, bytes)
        for first in ({"type_url": CLUSTER, "node": node()}, {"type_url": "istio.io/debug/syncz"}):
            async with method.open() as stream:
                await sotw(stream, **first, response_nonce="2026")
                answer = await sotw(stream, type_url="istio.io/debug", response_nonce="2026")
                assert answer.resources[0].value == b"{}"
                acknowledged = {"type_url": "istio.io/debug", "response_nonce": answer.nonce}
                await stream.send_message(proto.encode("envoy.service.discovery.v3.DiscoveryRequest", acknowledged))
                again = await sotw(stream, type_url="istio.io/debug/syncz", response_nonce="2027")
                assert again.type_url == "istio.io/debug/syncz"
                assert again.nonce != answer.nonce
                await stream.cancel()
    async with serving(backend) as (port, _), Channel("127.0.0.1", port, codec=BytesCodec()) as channel:
        method = StreamStreamMethod(channel, SERVICE + "StreamAggregatedResources", bytes, bytes)
        with pytest.raises(GRPCError) as refusal:
            async with method.open() as stream:
                await sotw(stream, type_url="istio.io/debug/syncz")
        assert refusal.value.status == Status.UNAUTHENTICATED


async def test_an_operator_ends_a_stream(backend: Backend) -> None:
    """The proxy is told why, and is gone from the list."""
    async with serving(backend) as (port, fleet), Channel("127.0.0.1", port, codec=BytesCodec()) as channel:
        method: Any = StreamStreamMethod(channel, SERVICE + "StreamAggregatedResources", bytes, bytes)

        async def until_ended() -> None:
            async with asyncio.timeout(60), method.open() as stream:
                await sotw(stream, type_url=CLUSTER, node=node())
                next(iter(fleet)).end()
                await stream.recv_message()

        with pytest.raises(GRPCError) as refusal:
            await until_ended()
        assert refusal.value.status == Status.UNAVAILABLE
        assert not len(fleet)


def listener(port: int) -> dict[str, Any]:
    manager = {
        "stat_prefix": "x",
        "rds": {"route_config_name": "r", "config_source": {"ads": {}, "resource_api_version": "V3"}},
        "http_filters": [
            proto.extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router")
        ],
    }
    name = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    return {
        "name": "l",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [proto.extension("hcm", name, manager)]}],
    }


def route(text: str) -> dict[str, Any]:
    answer = {"status": 200, "body": {"inline_string": text}}
    entry = {"match": {"prefix": "/"}, "direct_response": answer}
    return {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [entry]}]}


def bootstrap(port: int) -> str:
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    ads = {"ads": {}, "resource_api_version": "V3"}
    service = {"envoy_grpc": {"cluster_name": "xds"}}
    return yaml.safe_dump(
        {
            "node": {"id": "sidecar~127.0.0.1~pod.book~book.svc.cluster.local", "cluster": "c"},
            "dynamic_resources": {
                "lds_config": ads,
                "cds_config": ads,
                "ads_config": {
                    "api_type": "DELTA_GRPC",
                    "transport_api_version": "V3",
                    "grpc_services": [service],
                    "set_node_on_first_message_only": True,
                },
            },
            "static_resources": {
                "clusters": [
                    {
                        "name": "xds",
                        "typed_extension_protocol_options": http2,
                        "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [endpoint]}]},
                    }
                ]
            },
        }
    )


async def _get(port: int) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as answer:
        return await answer.text()


async def _until(port: int, text: str) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                if await _get(port) == text:
                    return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.01)


def _free_port() -> int:
    import socket  # noqa: PLC0415

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def test_real_envoy_gets_updates_and_its_refusals_are_heard(backend: Backend, tmp_path: Path) -> None:
    """Requests follow a route update; a listener that Envoy refuses is reported, and the old one goes on."""
    port = _free_port()
    backend.put(CLUSTER, {"name": "a"})
    backend.put(LISTENER, listener(port))
    backend.put(ROUTE, route("one"))
    async with serving(backend) as (xds_port, fleet):
        (tmp_path / "envoy.yaml").write_text(bootstrap(xds_port))
        envoy = await asyncio.create_subprocess_exec(
            str(proto.envoy_binary()),
            *("-c", str(tmp_path / "envoy.yaml"), "--disable-hot-restart", "--concurrency", "1", "-l", "error"),
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await _until(port, "one")
            backend.put(ROUTE, route("two"))
            fleet.changed()
            await _until(port, "two")
            backend.put(LISTENER, {**listener(port), "filter_chains": [{"filters": [{"name": "nonsense"}]}]})
            fleet.changed()
            async with asyncio.timeout(60):
                while not backend.refusals:
                    await asyncio.sleep(0.01)
            assert "nonsense" in backend.refusals[0]
            assert await _get(port) == "two"
        finally:
            envoy.terminate()
            await envoy.wait()
