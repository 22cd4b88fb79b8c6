"""The same objects, the same Envoy, the same requests: once configured by Istio's code and once by ours."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from tests.envoy import rig
from tests.envoy.harness import Case, everything, view
from tests.envoy.rig import Backend, Envoy
from tests.envoy.test_sidecar_behaviour import MESH, client_tls
from tests.interop import xds

pytestmark = [pytest.mark.xdist_group("interop-xds")]

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS = json.dumps({"keys": [{**json.loads(RSAAlgorithm.to_jwk(KEY.public_key())), "kid": "k"}]})


class Ask(NamedTuple):
    """A request and what is expected of both sides; see `behaviour.yaml`."""

    expect: str | int
    path: str = "/"
    host: str = "web"
    port: int = 80
    method: str = "GET"
    headers: Mapping[str, str] = {}
    sni: str = ""
    identity: str = ""
    mesh: bool = False
    raw: str = ""
    websocket: bool = False

    def met(self, answer: Mapping[str, Any]) -> bool:
        """Whether an answer is what the table says."""
        if self.expect == 0:
            return bool(answer.get("closed"))
        if self.raw or self.websocket:
            return str(self.expect) in answer["text"]
        return self.expect in (answer.get("name"), answer.get("status"))


class Scenario(NamedTuple):
    """Objects, and requests that meet them."""

    name: str
    asks: tuple[Ask, ...]
    objects: str = ""
    proxy: str = "client"
    mesh: Mapping[str, Any] = {}
    ports: str = ""


def _tokens(text: str) -> str:
    """`TOKEN{claims}` as a signed token."""

    def signed(found: re.Match[str]) -> str:
        return jwt.encode({"exp": 4_000_000_000, **json.loads(found[1])}, KEY, "RS256", {"kid": "k"})

    return re.sub(r"TOKEN(\{.*?\})", signed, text)


def _ask(fields: dict[str, Any]) -> Ask:
    headers = {k: _tokens(v) for k, v in fields.get("headers", {}).items()}
    return Ask(**{**fields, "headers": headers, "path": _tokens(fields.get("path", "/"))})


SCENARIOS = [
    Scenario(**{**one, "asks": tuple(_ask(fields) for fields in one["asks"])})
    for one in yaml.safe_load(Path(__file__).with_name("behaviour.yaml").read_text())
]

# What differs from request to request, and what tracing adds: Istio's code traces without saying where to.
_NOISE = re.compile(
    r"^(x-request-id|x-envoy-decorator-operation|date|x-envoy-upstream-service-time|traceparent|tracestate|x-b3-.*|content-length|x-forwarded-client-cert|set-cookie)$"
)


@pytest.fixture(scope="module")
def oracle(programs: Path) -> Iterator[xds.Oracle]:
    """Istio's code, without its private filters: those are not in a stock Envoy."""
    made = xds.Oracle(programs, PILOT_ENABLE_ALPN_FILTER="false")
    yield made
    made.close()


class World(NamedTuple):
    ip: str
    found: dict[str, Backend]
    scenario: Scenario
    folder: Path

    def objects(self) -> xds.Objects:
        """The proxy, and the scenario's objects with its Services."""
        scenario = self.scenario
        v1, v2, app = self.found["v1"], self.found["v2"], self.found["app"]
        if scenario.proxy == "server":
            mutual = "security.istio.io/tlsMode: istio"
            web = rig.service("web", f"[{{name: http, port: 80, targetPort: {app.port}}}]", (app, mutual))
        else:
            members = [(v1, "version: v1"), (v2, "version: v2")]
            members = members if "subset: v2" in scenario.objects else members[:1]
            web = rig.service("web", f"[{{name: http, port: 80}}, {scenario.ports}]", *members)
        other = rig.service("other", "[{name: http, port: 80}]", (v2, ""))
        text = scenario.objects.replace("SECRETS", self.secrets()).replace("'JWKS'", f"'{KEYS}'")
        for name, backend in self.found.items():
            text = text.replace(f"IP_{name}", backend.ip).replace(f"PORT_{name}", str(backend.port))
        found = [o for o in yaml.safe_load_all(f"{web}\n---\n{other}\n---\n{text}") if o]
        mesh = [{"kind": "MeshConfig", **scenario.mesh}] if scenario.mesh else []
        return xds.complete([self.proxy(found), *mesh, *found])

    def proxy(self, found: xds.Objects) -> dict[str, Any]:
        """What is configured, as a test's Proxy."""
        proxy: dict[str, Any] = {"kind": "Proxy", "ip": self.ip, "labels": {"app": "client"}}
        if self.scenario.proxy == "gateway":
            proxy |= {"type": "router", "labels": {"istio": "ingressgateway"}}
        elif self.scenario.proxy == "server":
            pod = next(o["metadata"] for o in found if o["kind"] == "Pod" and o["metadata"]["labels"]["app"] == "web")
            proxy |= {"name": pod["name"], "labels": pod["labels"]}
        return proxy

    def secrets(self) -> str:
        made = rig.AUTHORITY.issue("a.test", "b.test")
        text = ""
        for name, more in (("a", {}), ("b", {"ca.crt": made.root.decode()})):
            data = {"tls.crt": made.chain.decode(), "tls.key": made.key.decode(), **more}
            secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
            text += yaml.safe_dump(secret) + "---\n"
        return text

    async def observe(self, envoy: Envoy, ask: Ask) -> Any:
        for one in self.found.values():
            one.seen.clear()
        if ask.port < 0:
            ask = ask._replace(port=self.found["v2"].port)  # a headless Service has its application's port
        try:
            answer = await asyncio.wait_for(self._answer(envoy, ask), 20)
        except (OSError, ssl.SSLError, aiohttp.ClientError, asyncio.IncompleteReadError):
            answer = {"closed": True}
        seen = {
            name: [{k: v for k, v in one.items() if not _NOISE.match(k)} for one in backend.seen]
            for name, backend in self.found.items()
            if backend.seen
        }
        return {"answer": answer, "seen": seen}

    async def _answer(self, envoy: Envoy, ask: Ask) -> dict[str, Any]:
        tls = self._tls(ask) if ask.sni or ask.identity else None
        if ask.websocket:
            url, host = f"http://{envoy.ip}:{ask.port}{ask.path}", {"host": ask.host}
            async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=host) as socket:
                await socket.send_str(str(ask.expect))
                return {"text": await socket.receive_str(timeout=5)}
        if self.scenario.proxy == "server" or ask.raw:
            return await self._raw(envoy, ask, tls)
        reply = await envoy.request(
            ask.port, ask.path, host=ask.host, method=ask.method, headers=ask.headers, tls=tls, sni=ask.sni or None
        )
        headers = {k: v for k, v in reply.headers.items() if not _NOISE.match(k)}
        return {"status": reply.status, "headers": headers, "name": reply.name}

    def _tls(self, ask: Ask) -> ssl.SSLContext:
        if ask.identity:
            return client_tls(self.folder, *(MESH if ask.mesh else ()), identity=ask.identity)
        context = ssl.create_default_context(cadata=rig.AUTHORITY.pem.decode())
        context.check_hostname = False
        return context

    async def _raw(self, envoy: Envoy, ask: Ask, tls: ssl.SSLContext | None) -> dict[str, Any]:
        server = self.scenario.proxy == "server"
        reader, writer = await asyncio.open_connection(envoy.ip, 15006 if server else ask.port)
        try:
            if server:
                writer.write(f"PROXY TCP4 {envoy.ip} {envoy.ip} 40000 {self.found['app'].port}\r\n".encode())
            if tls is not None:
                await asyncio.wait_for(writer.start_tls(tls, server_hostname="x"), 5)
            lines = "".join(f"{k}: {v}\r\n" for k, v in ask.headers.items())
            request = f"{ask.method} {ask.path} HTTP/1.1\r\nHost: {ask.host}\r\nConnection: close\r\n{lines}\r\n"
            writer.write((ask.raw or request).encode())
            data = await asyncio.wait_for(reader.read(-1), 8)
        finally:
            writer.close()
        if not data:
            return {"closed": True}
        head, _, body = data.decode(errors="replace").partition("\r\n\r\n")
        lines_ = [line for line in head.split("\r\n") if not _NOISE.match(line.partition(":")[0].lower())]
        body = "\n".join(line for line in body.split("\r\n") if not _NOISE.match(line.partition(":")[0].lower()))
        name = re.search(r'\{"name": "(\w+)"', body)
        status = re.match(r"HTTP/1\.1 (\d+)", head)
        return {
            "status": int(status[1]) if status else 0,
            "name": name[1] if name else "",
            "text": "\n".join([lines_[0], *sorted(lines_[1:])]) + "\n" + re.sub(r'"headers".*', "", body),
        }


@asynccontextmanager
async def world(scenario: Scenario, folder: Path) -> AsyncIterator[World]:
    ip = rig.fresh_ip()
    async with AsyncExitStack() as stack:
        # Istio knows pods by their addresses
        where = {"v1": rig.fresh_ip(), "v2": rig.fresh_ip(), "app": ip}
        found = {n: await stack.enter_async_context(Backend(n, at).running()) for n, at in where.items()}
        yield World(ip, found, scenario, folder)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
async def test_requests_meet_the_same(scenario: Scenario, tmp_path: Path, oracle: xds.Oracle) -> None:
    """A request gets the same answer, and the application the same request, whoever configured the proxy."""
    async with world(scenario, tmp_path) as one:
        objects = one.objects()
        proxy = objects[0]
        answer = oracle.ask(xds.question(scenario.name, objects, {"proxy": proxy}))
        assert not answer.get("error")
        assert not [r for r in answer.get("refused", ()) if r.strip()]
        case = Case(yaml.safe_dump_all(objects[1:]))
        ours = everything(case.compiler, view(case.compiler, proxy))
        assert not case.compiler.errors()
        theirs: dict[str, dict[str, Any]] = {
            section: {r.get("name") or r["cluster_name"]: r for r in found}
            for section, found in answer["nodes"]["proxy"].items()
        }
        theirs["secrets"] = ours["secrets"]
        observed = []
        for who, resources in (("theirs", theirs), ("ours", ours)):
            for backend in one.found.values():
                backend._failed.clear()
            async with rig.running(resources, one.ip, tmp_path / who) as envoy:
                observed.append([await one.observe(envoy, ask) for ask in scenario.asks])
        for ask, istio, pilotfish in zip(scenario.asks, *observed, strict=True):
            assert not list(xds.differences(istio, pilotfish)), ask
            assert ask.met(istio["answer"]), (ask, istio)
