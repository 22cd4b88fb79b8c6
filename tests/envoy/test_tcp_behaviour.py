"""TCP and TLS passing through: by port, by server name, by weight; and TLS that a sidecar originates."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.envoy import rig
from tests.envoy.harness import Case, everything
from tests.envoy.rig import Backend


@asynccontextmanager
async def says(ip: str, name: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A TCP server that says its name and hangs up; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        writer.write(name.encode())
        writer.close()

    server = await asyncio.start_server(answer, ip, 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def hear(ip: str, port: int, tls: ssl.SSLContext | None = None, sni: str | None = None) -> str:
    """What the server says; empty when the connection is refused or broken."""
    try:
        reader, writer = await asyncio.open_connection(ip, port, ssl=tls, server_hostname=sni)
        data = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    except (OSError, ssl.SSLError):
        return ""
    return data.decode()


def server_context(tmp_path: Path, *names: str) -> ssl.SSLContext:
    made = rig.AUTHORITY.issue(*names)
    path = tmp_path / f"{names[0]}.pem"
    path.write_bytes(made.chain + made.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=rig.AUTHORITY.pem.decode())


async def test_server_names_choose_the_destination(tmp_path: Path) -> None:
    """Through a sidecar and a gateway in PASSTHROUGH, the client's TLS reaches the server its SNI names, untouched."""
    ip = rig.fresh_ip()
    async with (
        says(ip, "a", server_context(tmp_path, "a.test")) as a,
        says(ip, "b", server_context(tmp_path, "b.test")) as b,
    ):
        text = f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: a}}
spec:
  hosts: [a.test]
  ports: [{{number: 443, name: tls, protocol: TLS, targetPort: {a}}}]
  resolution: STATIC
  endpoints: [{{address: {ip}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: b}}
spec:
  hosts: [b.test, c.test]
  ports: [{{number: 443, name: tls, protocol: TLS, targetPort: {b}}}]
  resolution: STATIC
  endpoints: [{{address: {ip}}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: gw}}
spec:
  selector: {{istio: gw}}
  servers: [{{port: {{number: 8443, name: tls, protocol: TLS}}, hosts: ["*.test"], tls: {{mode: PASSTHROUGH}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: sni}}
spec:
  hosts: [a.test, b.test]
  gateways: [gw]
  tls:
    - {{match: [{{sniHosts: [a.test]}}], route: [{{destination: {{host: a.test}}}}]}}
    - {{match: [{{sniHosts: [b.test]}}], route: [{{destination: {{host: b.test}}}}]}}
"""
        sidecar, gateway = (
            Case(f"kind: Proxy\n---\n{text}"),
            Case(f"kind: Proxy\ntype: router\nlabels: {{istio: gw}}\n---\n{text}"),
        )
        for case, port in ((sidecar, 443), (gateway, 8443)):
            async with rig.running(everything(case.compiler, case.view()), ip, tmp_path / str(port)):
                assert await hear(ip, port, trusting(), "a.test") == "a"
                assert await hear(ip, port, trusting(), "b.test") == "b"
                assert await hear(ip, port, trusting(), "d.test") == ""


async def test_tcp_routes_by_weight_and_subnet(tmp_path: Path) -> None:
    """TCP rules divide connections by weight; a service without rules goes to its endpoints."""
    ip = rig.fresh_ip()
    async with says(ip, "one") as one, says(ip, "two") as two:
        text = "kind: Proxy\n---\n"
        for name, port in (("one", one), ("two", two)):
            text += f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}.test]
  addresses: [203.0.113.{1 if name == "one" else 2}]
  ports: [{{number: {7001 if name == "one" else 7002}, name: tcp, protocol: TCP, targetPort: {port}}}]
  resolution: STATIC
  endpoints: [{{address: {ip}}}]
---
"""
        text += """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: split}
spec:
  hosts: [one.test]
  tcp:
    - match: [{port: 7001}]
      route:
        - {destination: {host: one.test, port: {number: 7001}}, weight: 50}
        - {destination: {host: two.test, port: {number: 7002}}, weight: 50}
"""
        case = Case(text)
        async with rig.running(everything(case.compiler, case.view()), ip, tmp_path):
            assert await hear(ip, 7002) == "two"
            heard = [await hear(ip, 7001) for _ in range(60)]
            assert 10 < heard.count("one") < 50
            assert set(heard) == {"one", "two"}


async def test_tls_origination(tmp_path: Path) -> None:
    """Plain HTTP from the application leaves as TLS, with the server's name checked against the CA that is given."""
    ip = rig.fresh_ip()
    (tmp_path / "ca.pem").write_bytes(rig.AUTHORITY.pem)
    from aiohttp import web  # noqa: PLC0415

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"name": request.url.scheme})

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, ip, 0, ssl_context=server_context(tmp_path, "good.test")).start()
    port = runner.addresses[0][1]
    text = "kind: Proxy\n"
    for name in ("good", "bad"):
        text += f"""
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}.test]
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}]
  resolution: STATIC
  endpoints: [{{address: {ip}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}}}
spec: {{host: {name}.test, trafficPolicy: {{tls: {{mode: SIMPLE, caCertificates: {tmp_path}/ca.pem}}}}}}
"""
    case = Case(text)
    resources = everything(case.compiler, case.view())
    resources["secrets"][f"file-root:{tmp_path}/ca.pem"] = {
        "name": f"file-root:{tmp_path}/ca.pem",
        "validation_context": {"trusted_ca": {"inline_string": rig.AUTHORITY.pem.decode()}},
    }
    try:
        async with rig.running(resources, ip, tmp_path) as envoy:
            assert (await envoy.request(80, host="good.test")).name == "https"
            assert (await envoy.request(80, host="bad.test")).status == 503, "the certificate is for another name"
    finally:
        await runner.cleanup()


async def test_all_names_of_a_service(tmp_path: Path) -> None:
    """A service answers to all its names, with and without the port, and its namespace's short form."""
    ip = rig.fresh_ip()
    async with Backend("app", ip).running() as app:
        case = Case("kind: Proxy\n---\n" + rig.service("web", "[{name: http, port: 80}]", (app, "")))
        async with rig.running(everything(case.compiler, case.view()), ip, tmp_path) as envoy:
            names = (
                "web",
                "web.default",
                "web.default.svc",
                "web.default.svc.cluster.local",
                "web.default.svc.cluster.local.",
            )
            for host in (*names, "web:80", "web.default.svc.cluster.local:80"):
                assert (await envoy.request(80, host=host)).name == "app", host


async def test_dynamic_dns(tmp_path: Path) -> None:
    """A wildcard host with resolution DYNAMIC_DNS is resolved when it is asked for, and goes to the port asked for."""
    ip = rig.fresh_ip()
    async with Backend("app", "127.0.0.1").running() as app:
        text = """
kind: Proxy
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: any}
spec: {hosts: ["*.localhost"], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DYNAMIC_DNS}
"""
        case = Case(text)
        async with rig.running(everything(case.compiler, case.view()), ip, tmp_path) as envoy:
            assert (await envoy.request(80, host=f"some.localhost:{app.port}")).name == "app"
