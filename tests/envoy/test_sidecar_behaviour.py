"""What connections into and out of a sidecar meet: real Envoys on both sides, real TLS, real backends."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from grpclib.client import Channel
from grpclib.health.service import Health
from grpclib.health.v1.health_grpc import HealthStub
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpclib.server import Server
from jwt.algorithms import RSAAlgorithm
from tests.envoy import rig
from tests.envoy.harness import Case, everything
from tests.envoy.rig import Backend, Envoy

MESH = ("istio-http/1.1", "istio", "http/1.1")


@asynccontextmanager
async def server(
    tmp_path: Path, text: str, *, port: str = "name: http", labels: str = ""
) -> AsyncIterator[tuple[Envoy, Backend]]:
    """A workload `web` with one service port, whose application listens where the inbound cluster will connect to."""
    ip = rig.fresh_ip()
    async with Backend("app", ip).running() as app:
        service = rig.service(
            "web", f"[{{port: 80, targetPort: {app.port}, {port}}}]", (app, "security.istio.io/tlsMode: istio")
        )
        proxy = f"kind: Proxy\nip: {ip}\nlabels: {{app: web{', ' + labels if labels else ''}}}\n---\n"
        case = Case(proxy + service + "\n---\n" + text)
        async with rig.running(everything(case.compiler, case.view()), ip, tmp_path) as envoy:
            yield envoy, app


class Answer:
    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, text

    @property
    def name(self) -> str:
        return str(json.loads(self.text)["name"]) if self.text.startswith("{") else self.text


async def _reply(reader: asyncio.StreamReader) -> bytes:
    """A response with its body, as long as its content-length says."""
    data = b""
    while more := await reader.read(65536):
        data += more
        head, found, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if found and length is not None and len(body) >= int(length[1]):
            break
    return data


async def call(
    envoy: Envoy,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    path: str = "/",
    headers: str = "",
    method: str = "GET",
    raw: bytes | None = None,
) -> Answer:
    """A request to a port of the workload through the inbound capture; `Answer(0, "closed")` when it is closed."""
    reader, writer = await asyncio.open_connection(envoy.ip, 15006)
    try:
        writer.write(f"PROXY TCP4 {envoy.ip} {envoy.ip} 40000 {port}\r\n".encode())
        if tls is not None:
            await asyncio.wait_for(writer.start_tls(tls, server_hostname="x"), 5)
        writer.write(raw or f"{method} {path} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n{headers}\r\n".encode())
        data = await asyncio.wait_for(_reply(reader), 5)
    except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
        return Answer(0, "closed")
    finally:
        writer.close()
    if not data:
        return Answer(0, "closed")
    if not data.startswith(b"HTTP/1.1 "):
        return Answer(-1, data.decode(errors="replace"))
    head, _, body = data.decode().partition("\r\n\r\n")
    return Answer(int(head.split()[1]), body)


def client_tls(
    tmp_path: Path, *alpn: str, identity: str = rig.DEFAULT_ID, authority: rig.Authority = rig.AUTHORITY
) -> ssl.SSLContext:
    """TLS as a mesh client speaks it."""
    made = authority.issue(identity)
    path = tmp_path / f"client-{len(list(tmp_path.glob('client-*')))}.pem"
    path.write_bytes(made.chain + made.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=rig.AUTHORITY.pem.decode())
    context.load_cert_chain(path)
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


def peer(mode: str, namespace: str = "default", extra: str = "") -> str:
    return f"""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: {namespace}}}
spec: {{mtls: {{mode: {mode}}}{extra}}}
"""


PORTS = {"http": "name: http", "tcp": "name: tcp", "auto": "name: foo"}
EXPECTED = {
    # mode, port kind: mesh HTTP, mesh TCP, plaintext, own TLS of a client without a mesh certificate
    ("PERMISSIVE", "http"): ("app", "app", "app", "closed"),
    ("PERMISSIVE", "tcp"): ("app", "app", "app", "tls"),
    ("PERMISSIVE", "auto"): ("app", "app", "app", "tls"),
    ("STRICT", "http"): ("app", "app", "closed", "closed"),
    ("STRICT", "tcp"): ("app", "app", "closed", "closed"),
    ("STRICT", "auto"): ("app", "app", "closed", "closed"),
    ("DISABLE", "http"): ("closed", "closed", "app", "closed"),
    ("DISABLE", "tcp"): ("tls", "tls", "app", "tls"),
    ("DISABLE", "auto"): ("tls", "tls", "app", "tls"),
}


@pytest.mark.parametrize(("mode", "kind"), EXPECTED, ids=lambda v: v)
async def test_inbound_matrix(tmp_path: Path, mode: str, kind: str) -> None:
    """Who gets in, by PeerAuthentication mode and port kind. "tls": the bytes reach the application untouched."""
    async with server(tmp_path, peer(mode), port=PORTS[kind]) as (envoy, app):

        async def reached(tls: ssl.SSLContext | None) -> str:
            """The application's name, `tls` when TLS bytes reached it (which it does not speak), or `closed`."""
            before = await _passed(envoy)
            answer = await call(envoy, app.port, tls=tls)
            if answer.status == 0 and await _passed(envoy) > before:
                return "tls"
            return answer.name if answer.status == 200 else "closed"

        plain_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        plain_tls.check_hostname, plain_tls.verify_mode = False, ssl.CERT_NONE
        found = (
            await reached(client_tls(tmp_path, *MESH)),
            await reached(client_tls(tmp_path, "istio")),
            await reached(None),
            await reached(plain_tls),
        )
        assert found == EXPECTED[mode, kind]


async def _passed(envoy: Envoy) -> int:
    """Bytes sent to the application."""
    stats = json.loads(await envoy.ask("/stats?format=json&filter=upstream_cx_tx_bytes_total$"))
    return sum(s["value"] for s in stats["stats"] if "inbound" in s["name"])


async def test_strict_wants_the_meshs_root_and_trust_domain(tmp_path: Path) -> None:
    """A certificate of another root, or of another trust domain, is refused."""
    async with server(tmp_path, peer("STRICT")) as (envoy, app):
        assert (await call(envoy, app.port, tls=client_tls(tmp_path, *MESH))).name == "app"
        foreign = client_tls(tmp_path, *MESH, authority=rig.Authority())
        assert (await call(envoy, app.port, tls=foreign)).status == 0
        elsewhere = client_tls(tmp_path, *MESH, identity="spiffe://other/ns/default/sa/default")
        assert (await call(envoy, app.port, tls=elsewhere)).status == 0


async def test_port_level_mtls_and_ports_without_service(tmp_path: Path) -> None:
    """A port's own mode overrides the workload's, also for a port no service has; passthrough keeps the rest."""
    ip = rig.fresh_ip()
    async with Backend("app", ip).running() as app, Backend("other", ip).running() as other:
        service = rig.service("web", f"[{{port: 80, targetPort: {app.port}, name: http}}]", (app, ""))
        text = f"""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  mtls: {{mode: STRICT}}
  portLevelMtls: {{{other.port}: {{mode: DISABLE}}}}
"""
        case = Case(f"kind: Proxy\nlabels: {{app: web}}\n---\n{service}\n---\n{text}")
        async with rig.running(everything(case.compiler, case.view()), ip, tmp_path) as envoy:
            assert (await call(envoy, app.port)).status == 0
            assert (await call(envoy, app.port, tls=client_tls(tmp_path, *MESH))).name == "app"
            assert (await call(envoy, other.port)).name == "other"


async def test_client_certificate_is_told_to_the_application(tmp_path: Path) -> None:
    """x-forwarded-client-cert names the verified caller; `server` says istio-envoy."""
    async with server(tmp_path, "") as (envoy, app):
        identity = "spiffe://cluster.local/ns/shop/sa/cart"
        await call(envoy, app.port, tls=client_tls(tmp_path, *MESH, identity=identity))
        assert f"URI={identity}" in app.seen[-1]["x-forwarded-client-cert"]
        assert app.seen[-1]["x-request-id"]


async def test_authorization(tmp_path: Path) -> None:
    """DENY comes before ALLOW, ALLOW turns the rest off, conditions combine; refusals are 403 with Istio's body."""
    text = (
        peer("STRICT")
        + """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow}
spec:
  selector: {matchLabels: {app: web}}
  rules:
    - from: [{source: {principals: ["cluster.local/ns/default/sa/friend"]}}]
      to: [{operation: {methods: [GET], paths: ["/ok*", "/one"]}}]
    - from: [{source: {namespaces: [shop]}}]
      when: [{key: "request.headers[x-token]", values: [right], notValues: [wrong]}]
    - to: [{operation: {paths: ["/tenants/{*}/open"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: istio-system}
spec: {action: DENY, rules: [{to: [{operation: {paths: ["*/secret"]}}]}]}
"""
    )
    friend, shop = ("spiffe://cluster.local/ns/default/sa/friend", "spiffe://cluster.local/ns/shop/sa/x")
    async with server(tmp_path, text) as (envoy, app):

        async def status(identity: str, path: str, *, method: str = "GET", headers: str = "") -> int:
            tls = client_tls(tmp_path, *MESH, identity=identity)
            return (await call(envoy, app.port, tls=tls, path=path, method=method, headers=headers)).status

        assert await status(friend, "/ok/x") == 200
        assert await status(friend, "/one") == 200
        assert await status(friend, "/two") == 403
        assert await status(friend, "/ok", method="POST") == 403
        assert await status(friend, "/ok/secret") == 403
        assert await status(rig.DEFAULT_ID, "/ok") == 403
        assert await status(shop, "/x", headers="x-token: right\r\n") == 200
        assert await status(shop, "/x") == 403
        assert await status(rig.DEFAULT_ID, "/tenants/a/open") == 200
        assert await status(rig.DEFAULT_ID, "/tenants/a/b/open") == 403
        refused = await call(envoy, app.port, tls=client_tls(tmp_path, *MESH), path="/no")
        assert refused.text == "RBAC: access denied"


async def test_authorization_on_tcp(tmp_path: Path) -> None:
    """On TCP an ALLOW rule with HTTP fields allows nothing, and a refusal closes the connection."""
    text = (
        peer("STRICT")
        + """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow}
spec:
  rules:
    - from: [{source: {serviceAccounts: [default/friend]}}]
    - to: [{operation: {methods: [GET]}}]
"""
    )
    async with server(tmp_path, text, port="name: tcp") as (envoy, app):
        friend = client_tls(tmp_path, "istio", identity="spiffe://cluster.local/ns/default/sa/friend")
        assert (await call(envoy, app.port, tls=friend)).name == "app"
        assert (await call(envoy, app.port, tls=client_tls(tmp_path, "istio"))).status == 0


async def test_request_authentication(tmp_path: Path) -> None:
    """No token passes, a valid one does and its claims can be asked for; invalid ones and unknown issuers' are 401."""
    key = rsa.generate_private_key(65537, 2048)
    public = json.loads(RSAAlgorithm.to_jwk(key.public_key()))
    keys = json.dumps({"keys": [{**public, "kid": "k", "alg": "RS256"}]})
    text = f"""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: a}}
spec:
  jwtRules:
    - {{issuer: good, jwks: '{keys}', outputClaimToHeaders: [{{header: x-sub, claim: sub}}]}}
    - {{issuer: unknown, jwksUri: "https://nowhere.test/keys"}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: admins}}
spec:
  action: DENY
  rules:
    - to: [{{operation: {{paths: [/admin]}}}}]
      when: [{{key: "request.auth.claims[groups]", notValues: [admin]}}]
    - to: [{{operation: {{paths: [/in]}}}}]
      from: [{{source: {{notRequestPrincipals: ["*"]}}}}]
"""

    def token(issuer: str = "good", signer: rsa.RSAPrivateKey = key, **claims: object) -> str:
        payload = {"iss": issuer, "sub": "me", "exp": int(time.time()) + 600, **claims}
        return f"Authorization: Bearer {jwt.encode(payload, signer, 'RS256', headers={'kid': 'k'})}\r\n"

    async with server(tmp_path, text) as (envoy, app):

        async def status(path: str, headers: str = "") -> int:
            return (await call(envoy, app.port, path=path, headers=headers)).status

        assert await status("/") == 200
        assert await status("/", token()) == 200
        assert app.seen[-1]["x-sub"] == "me"
        assert "authorization" not in app.seen[-1], "not forwarded unless asked"
        assert await status("/", token(signer=rsa.generate_private_key(65537, 2048))) == 401
        assert await status("/", token(exp=1)) == 401
        assert await status("/", token("unknown")) == 401
        assert await status("/admin", token(groups=["user", "admin"])) == 200
        assert await status("/admin", token(groups="user")) == 403
        assert await status("/in") == 403
        assert await status("/in", token()) == 200


async def test_sidecar_ingress_endpoint(tmp_path: Path) -> None:
    """A Sidecar's ingress replaces the service's ports; its default endpoint is where requests go."""
    ip = rig.fresh_ip()
    async with Backend("app", "127.0.0.1").running() as app:
        text = f"""
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: web}}
spec:
  workloadSelector: {{labels: {{app: web}}}}
  ingress: [{{port: {{number: 9999, protocol: HTTP, name: http}}, defaultEndpoint: "127.0.0.1:{app.port}"}}]
"""
        case = Case(f"kind: Proxy\nlabels: {{app: web}}\n---\n{text}")
        async with rig.running(everything(case.compiler, case.view()), ip, tmp_path) as envoy:
            assert (await call(envoy, 9999)).name == "app"


@asynccontextmanager
async def pair(
    tmp_path: Path, text: str, port: str, *, tls: bool = True, app_port: int = 0
) -> AsyncIterator[tuple[Envoy, Envoy, Backend]]:
    """A client's sidecar and a server's. The server's listener has the endpoint's own address and port."""
    client_ip, server_ip = rig.fresh_ip(), rig.fresh_ip()
    async with Backend("app", "127.0.0.1").running() as app:
        capable = "security.istio.io/tlsMode: istio" if tls else ""
        target = Backend("pod", server_ip, 9080)
        service = rig.service("web", f"[{{port: 80, targetPort: 9080, {port}}}]", (target, capable))
        own = f"""
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: web}}
spec:
  workloadSelector: {{labels: {{app: web}}}}
  ingress:
    - port: {{number: 9080, protocol: "{_protocol(port)}", name: p}}
      captureMode: NONE
      defaultEndpoint: "127.0.0.1:{app_port or app.port}"
"""
        case = Case(f"kind: Proxy\n---\n{service}\n---\n{own}\n---\n{text}")
        server_resources = everything(case.compiler, case.view(labels={"app": "web"}))
        server_resources["listeners"] = {"own": server_resources["listeners"]["0.0.0.0_9080"]}
        client_resources = everything(case.compiler, case.view())
        identity = rig.AUTHORITY.issue("spiffe://cluster.local/ns/default/sa/web")
        async with (
            rig.running(server_resources, server_ip, tmp_path / "server", identity) as serving,
            rig.running(client_resources, client_ip, tmp_path / "client") as calling,
        ):
            yield calling, serving, app


def _protocol(port: str) -> str:
    return {"name: http": "HTTP", "name: grpc": "GRPC", "name: foo": "", "name: tcp": "TCP"}[port]


async def _handshakes(envoy: Envoy) -> int:
    stats = json.loads(await envoy.ask("/stats?format=json&filter=ssl.handshake$"))
    return sum(s["value"] for s in stats["stats"] if s["name"].startswith("listener"))


@pytest.mark.parametrize("port", ["name: http", "name: foo"])
async def test_auto_mtls_end_to_end(tmp_path: Path, port: str) -> None:
    """A client's sidecar speaks mTLS to a STRICT server by itself, and both sides see HTTP, declared or sniffed."""
    async with pair(tmp_path, peer("STRICT"), port) as (client, serving, app):
        reply = await client.request(80, "/x", host="web")
        assert reply.status == 200, reply.body
        assert reply.name == "app"
        assert "URI=spiffe://cluster.local/ns/default/sa/default" in app.seen[-1]["x-forwarded-client-cert"]
        assert await _handshakes(serving) == 1


@pytest.mark.parametrize("port", ["name: grpc", "name: foo"])
async def test_grpc_end_to_end(tmp_path: Path, port: str) -> None:
    """gRPC passes both sidecars over mTLS, on a declared port and on a sniffed one, with its trailers."""
    server = Server([Health()])
    await server.start("127.0.0.1", 0)
    app_port = server._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]  # the library has no other way
    try:
        async with pair(tmp_path, peer("STRICT"), port, app_port=app_port) as (client, serving, _):
            async with Channel(client.ip, 80) as channel:
                channel._authority = "web"
                reply = await HealthStub(channel).Check(HealthCheckRequest(), timeout=5)
            assert reply.status == HealthCheckResponse.SERVING
            assert await _handshakes(serving) == 1
            stats = await serving.ask("/stats?filter=http2.*rx_reset|downstream_rq_http2_total|downstream_rq_2xx")
            assert re.search(r"http\.inbound_.*downstream_rq_http2_total: 1", stats), stats
    finally:
        server.close()
        await server.wait_closed()


async def test_plaintext_to_who_has_no_sidecar(tmp_path: Path) -> None:
    """An endpoint that cannot do mTLS gets plaintext."""
    async with pair(tmp_path, "", "name: http", tls=False) as (client, serving, app):
        assert (await client.request(80, "/x", host="web")).name == "app"
        assert await _handshakes(serving) == 0
        assert "x-forwarded-client-cert" not in app.seen[-1]


async def test_destination_rule_disable_against_strict(tmp_path: Path) -> None:
    """A rule that switches TLS off is obeyed, and STRICT refuses the plaintext."""
    text = (
        peer("STRICT")
        + """
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec: {host: web, trafficPolicy: {tls: {mode: DISABLE}}}
"""
    )
    async with pair(tmp_path, text, "name: http") as (client, _, app):
        assert (await client.request(80, "/x", host="web")).status == 503
        assert not app.seen


async def test_unknown_hosts(tmp_path: Path) -> None:
    """REGISTRY_ONLY answers 502 for a host nobody knows on a known port; a VirtualService alone can serve a host."""
    ip = rig.fresh_ip()
    async with Backend("app", ip).running() as app:
        text = f"""
kind: Proxy
---
kind: MeshConfig
outboundTrafficPolicy: {{mode: REGISTRY_ONLY}}
---
{rig.service("web", "[{name: http, port: 80}]", (app, ""))}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: alias}}
spec: {{hosts: [nick.name], http: [{{route: [{{destination: {{host: web}}}}]}}]}}
"""
        case = Case(text)
        async with rig.running(everything(case.compiler, case.view()), ip, tmp_path) as envoy:
            assert (await envoy.request(80, host="unknown.test")).status == 502
            assert (await envoy.request(80, host="web:80")).name == "app"
            reply = await envoy.request(80, host="nick.name")
            assert reply.name == "app"
            assert reply.headers["server"] == "envoy"


async def test_websocket(tmp_path: Path) -> None:
    """An upgrade passes both sidecars."""
    async with (
        pair(tmp_path, peer("STRICT"), "name: http") as (client, _, _),
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://{client.ip}:80/ws", headers={"host": "web"}) as socket,
    ):
        await socket.send_str("hello")
        assert (await socket.receive_str(timeout=5)) == "hello"


async def test_the_upgrade_between_proxies_is_not_the_applications(tmp_path: Path) -> None:
    """With `h2UpgradePolicy: UPGRADE` on its service, an application that speaks HTTP/1.1 still gets HTTP/1.1."""
    rule = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: default}
spec: {host: web, trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}}
"""
    async with server(tmp_path, rule) as (envoy, app):
        answer = await call(envoy, app.port)
        assert (answer.status, answer.name) == (200, "app")


async def test_header_case_is_kept(tmp_path: Path) -> None:
    """With `preserveHttp1HeaderCase` the application sees header names as the client wrote them."""
    settings = "kind: MeshConfig\ndefaultConfig: {proxyHeaders: {preserveHttp1HeaderCase: true}}\n---\n"
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    ip = rig.fresh_ip()
    application = await asyncio.start_server(answer, ip, 0)
    async with application:
        port = application.sockets[0].getsockname()[1]
        service = rig.service("web", "[{name: http, port: 80}]", (Backend("app", ip, port), ""))
        case = Case(f"kind: Proxy\n---\n{settings}{service}")
        async with rig.running(everything(case.compiler, case.view()), ip, tmp_path) as envoy:
            reader, writer = await asyncio.open_connection(envoy.ip, 80)
            writer.write(b"GET / HTTP/1.1\r\nHost: web\r\nX-MiXed: a\r\nConnection: close\r\n\r\n")
            assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 200")
            writer.close()
    assert b"X-MiXed: a" in heads[0]


async def test_a_service_account_is_of_the_policys_namespace(tmp_path: Path) -> None:
    """`serviceAccounts: [alice]` means nobody's alice of another namespace."""
    text = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: alice}
spec: {rules: [{from: [{source: {serviceAccounts: [alice]}}]}]}
"""
    async with server(tmp_path, text) as (envoy, app):
        for namespace, status in (("default", 200), ("other", 403)):
            identity = f"spiffe://cluster.local/ns/{namespace}/sa/alice"
            answer = await call(envoy, app.port, tls=client_tls(tmp_path, *MESH, identity=identity))
            assert answer.status == status
