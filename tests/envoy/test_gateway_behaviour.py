"""What a request through a gateway does: real Envoy, compiled configuration, real backends."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.envoy import rig
from tests.envoy.harness import Case, everything
from tests.envoy.rig import Backend, Envoy

GATEWAY = """
kind: Proxy
type: router
labels: {istio: ingressgateway}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ["*"]}]
---
"""


@asynccontextmanager
async def mesh(tmp_path: Path, text: str, *names: str) -> AsyncIterator[tuple[Envoy, dict[str, Backend]]]:
    """A gateway in front of service `web` (port 80), whose pods are the named backends, versioned by their names."""
    ip = rig.fresh_ip()
    async with rig.backends(ip, *names) as found:
        web = rig.service("web", "[{name: http, port: 80}]", *((b, f"version: {n}") for n, b in found.items()))
        case = Case(GATEWAY + web + "\n---\n" + text)
        async with rig.running(everything(case.compiler, case.view()), ip, tmp_path) as envoy:
            yield envoy, found


def routes(http: str, hosts: str = '["*"]') -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web}}
spec:
  hosts: {hosts}
  gateways: [gw]
  http: {http}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: web}}
spec: {{host: web, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}
"""


V1, V2 = "{destination: {host: web, subset: v1}}", "{destination: {host: web, subset: v2}}"


async def test_matches_choose_routes(tmp_path: Path) -> None:
    """Conditions in a match are ANDed, matches are ORed, the first rule that holds wins, and no rule means 404."""
    text = routes(f"""
    - match:
        - {{headers: {{end-user: {{exact: admin}}}}, uri: {{prefix: /a}}}}
        - {{queryParams: {{dark: {{exact: "1"}}}}}}
      route: [{V2}]
    - match:
        - {{headers: {{x: {{regex: "a+b"}}}}}}
        - {{method: {{exact: POST}}}}
        - {{withoutHeaders: {{must: {{}}}}, uri: {{exact: /no}}}}
      route: [{V2}]
    - match: [{{uri: {{prefix: /a}}}}, {{uri: {{exact: /UPPER}}, ignoreUriCase: true}}, {{uri: {{regex: "/[0-9]+"}}}}]
      route: [{V1}]
    """)
    async with mesh(tmp_path, text, "v1", "v2") as (envoy, _):

        async def name(path: str, method: str = "GET", **headers: str) -> str:
            return (await envoy.request(8080, path, headers=headers, method=method)).name

        assert await name("/a/b") == "v1"
        assert await name("/a/b", **{"end-user": "admin"}) == "v2"
        assert await name("/b", **{"end-user": "admin"}) == "404"
        assert await name("/anything?dark=1") == "v2"
        assert await name("/anything?dark=2") == "v1", "/a is a prefix of /anything"
        assert await name("/", x="aab") == "v2"
        assert await name("/", x="aabb") == "404", "a regex matches the whole value"
        assert await name("/", method="POST") == "v2"
        assert await name("/no") == "v2"
        assert await name("/no", must="there") == "404"
        assert await name("/upper") == "v1"
        assert await name("/123") == "v1"
        assert await name("/123x") == "404"


async def test_weights(tmp_path: Path) -> None:
    """Traffic is divided by weight, and a weight of 0 gets none."""
    text = routes(f"[{{route: [{{destination: {{host: web, subset: v1}}, weight: 0}}, {{{V2[1:-1]}, weight: 100}}]}}]")
    async with mesh(tmp_path / "all", text, "v1", "v2") as (envoy, _):
        assert await envoy.names(8080, 20) == {"v2": 20}
    text = routes(f"[{{route: [{{{V1[1:-1]}, weight: 50}}, {{{V2[1:-1]}, weight: 50}}]}}]")
    async with mesh(tmp_path / "half", text, "v1", "v2") as (envoy, _):
        found = await envoy.names(8080, 200)
        assert 60 < found["v1"] < 140


async def test_retries_and_timeouts(tmp_path: Path) -> None:
    """Retries hide failures when asked to; by default a 503 of the application is not one of them. Timeouts cut."""
    text = routes(f"""
    - match: [{{uri: {{prefix: /flaky/2}}}}]
      route: [{V1}]
      retries: {{attempts: 3, retryOn: "5xx", perTryTimeout: 2s}}
    - match: [{{uri: {{prefix: /flaky/1/codes}}}}]
      route: [{V1}]
      retries: {{attempts: 1, retryOn: "503"}}
    - match: [{{uri: {{prefix: /slow}}}}]
      route: [{V1}]
      timeout: 0.2s
      retries: {{attempts: 0}}
    - route: [{V1}]
    """)
    async with mesh(tmp_path, text, "v1") as (envoy, found):
        assert (await envoy.request(8080, "/flaky/2")).status == 200
        assert [s["x-envoy-attempt-count"] for s in found["v1"].seen] == ["1", "2", "3"]
        assert (await envoy.request(8080, "/flaky/1/codes")).status == 200
        assert (await envoy.request(8080, "/flaky/1/default")).status == 503
        start = time.monotonic()
        assert (await envoy.request(8080, "/slow/1")).status == 504
        assert time.monotonic() - start < 0.9


async def test_faults(tmp_path: Path) -> None:
    """Faults delay and abort the share of requests they are for; without a percentage they do nothing."""
    text = routes(f"""
    - match: [{{uri: {{prefix: /abort}}}}]
      fault: {{abort: {{httpStatus: 418, percentage: {{value: 100}}}}}}
      route: [{V1}]
    - match: [{{uri: {{prefix: /delay}}}}]
      fault: {{delay: {{fixedDelay: 0.3s, percentage: {{value: 100}}}}}}
      route: [{V1}]
    - match: [{{uri: {{prefix: /none}}}}]
      fault: {{abort: {{httpStatus: 418}}}}
      route: [{V1}]
    - match: [{{uri: {{prefix: /half}}}}]
      fault: {{abort: {{httpStatus: 418, percentage: {{value: 50}}}}}}
      route: [{V1}]
    """)
    async with mesh(tmp_path, text, "v1") as (envoy, _):
        assert (await envoy.request(8080, "/abort")).status == 418
        start = time.monotonic()
        assert (await envoy.request(8080, "/delay")).status == 200
        assert time.monotonic() - start >= 0.3
        assert (await envoy.request(8080, "/none")).status == 200
        found = await envoy.names(8080, 100, path="/half")
        assert 20 < found["v1"] < 80


async def test_rewrite_redirect_direct_response_and_headers(tmp_path: Path) -> None:
    """Paths, hosts and headers change as written; redirects and direct responses do not reach a backend."""
    text = routes(f"""
    - match: [{{uri: {{prefix: /old}}}}]
      rewrite: {{uri: /new, authority: inner.example}}
      route: [{V1}]
    - match: [{{uri: {{prefix: /re}}}}]
      rewrite: {{uriRegexRewrite: {{match: "^/re/([^/]+)/(.*)$", rewrite: '/\\2/\\1'}}}}
      route: [{V1}]
    - match: [{{uri: {{exact: /away}}}}]
      redirect: {{uri: /there, authority: other.example, redirectCode: 302}}
    - match: [{{uri: {{prefix: /up/}}}}]
      redirect: {{uri: "%PREFIX()%/down/", scheme: https}}
    - match: [{{uri: {{exact: /tea}}}}]
      directResponse: {{status: 418, body: {{string: teapot}}}}
    - headers:
        request: {{set: {{x-set: a, Host: named.example}}, add: {{x-add: b}}, remove: [x-gone]}}
        response: {{add: {{x-answer: c}}}}
      route: [{{{V1[1:-1]}, headers: {{request: {{set: {{x-own: d}}}}}}}}]
    """)
    async with mesh(tmp_path, text, "v1") as (envoy, found):
        reply = await envoy.request(8080, "/old/x?q=1")
        assert reply.json["path"] == "/new/x?q=1"
        assert reply.json["headers"]["host"] == "inner.example"
        assert (await envoy.request(8080, "/re/a/b")).json["path"] == "/b/a"
        reply = await envoy.request(8080, "/away")
        assert (reply.status, reply.headers["location"]) == (302, "http://other.example/there")
        reply = await envoy.request(8080, "/up/x")
        assert (reply.status, reply.headers["location"]) == (301, "https://example.com/down/x")
        reply = await envoy.request(8080, "/tea")
        assert (reply.status, reply.body) == (418, "teapot")
        reply = await envoy.request(8080, "/", headers={"x-gone": "1", "x-add": "a", "x-set": "0"})
        sent = found["v1"].seen[-1]
        assert (sent["x-set"], sent["x-own"], sent["host"]) == ("a", "d", "named.example")
        assert "x-gone" not in sent
        assert reply.headers["x-answer"] == "c"
        assert reply.headers["server"] == "istio-envoy"


async def test_mirror(tmp_path: Path) -> None:
    """A mirror gets a copy; the answer is the route's; percentage 0 mirrors nothing."""
    text = routes(f"""
    - match: [{{uri: {{prefix: /none}}}}]
      route: [{V1}]
      mirror: {{host: web, subset: v2}}
      mirrorPercentage: {{value: 0}}
    - route: [{V1}]
      mirror: {{host: web, subset: v2}}
    """)
    async with mesh(tmp_path, text, "v1", "v2") as (envoy, found):
        assert await envoy.names(8080, 3, path="/none") == {"v1": 3}
        assert await envoy.names(8080, 5, path="/copy") == {"v1": 5}
        async with asyncio.timeout(5):
            while len(found["v2"].seen) < 5:
                await asyncio.sleep(0.01)
        assert {s[":path"] for s in found["v2"].seen} == {"/copy"}
        assert found["v2"].seen[0]["host"] == "example.com", "no -shadow suffix"


async def _ejected(envoy: Envoy) -> None:
    """Wait until an endpoint is ejected: that is a moment behind the answer that caused it."""
    async with asyncio.timeout(10):
        while "ejections_active: 1" not in await envoy.ask("/stats?filter=outbound.80.*ejections_active"):
            await asyncio.sleep(0.01)


async def test_circuit_breaker_ejects_the_poisoned(tmp_path: Path) -> None:
    """One 500 ejects the endpoint that gave it; afterwards only right answers, until the ejection ends."""
    text = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec: {hosts: ["*"], gateways: [gw], http: [{route: [{destination: {host: web}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec:
  host: web
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection: {consecutive5xxErrors: 1, interval: 10s, baseEjectionTime: 1m, maxEjectionPercent: 100}
"""

    class Poison(Backend):
        async def _answer(self, request):  # type: ignore[no-untyped-def]
            from aiohttp import web  # noqa: PLC0415

            return web.Response(status=500)

    ip = rig.fresh_ip()
    async with Backend("good", ip).running() as good, Poison("poison", ip).running() as poison:
        web = rig.service("web", "[{name: http, port: 80}]", (good, "version: v1"), (poison, "version: v2"))
        case = Case(GATEWAY + web + "\n---\n" + text)
        async with rig.running(everything(case.compiler, case.view()), ip, tmp_path) as envoy:
            async with asyncio.timeout(10):
                while (await envoy.request(8080)).status != 500:
                    pass  # the poisoned one has not been asked yet
            await _ejected(envoy)
            assert await envoy.names(8080, 30) == {"good": 30}


async def test_ejected_subset_answers_503(tmp_path: Path) -> None:
    """With weighted subsets the share of an ejected subset is refused: no healthy upstream."""
    text = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: ["*"]
  gateways: [gw]
  http:
    - match: [{uri: {prefix: /status}}]
      route: [{destination: {host: web, subset: v2}}]
    - route: [{destination: {host: web, subset: v1}, weight: 50}, {destination: {host: web, subset: v2}, weight: 50}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec:
  host: web
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 1, interval: 10s, baseEjectionTime: 1m, maxEjectionPercent: 100}
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
"""
    async with mesh(tmp_path, text, "v1", "v2") as (envoy, _):
        assert (await envoy.request(8080, "/status/500")).status == 500
        await _ejected(envoy)
        found = await envoy.names(8080, 60)
        assert set(found) == {"v1", "503"}
        refused = next(r for r in [await envoy.request(8080) for _ in range(40)] if r.status == 503)
        assert refused.body == "no healthy upstream"


async def test_missing_subset_and_host_answer_503_alone(tmp_path: Path) -> None:
    """A route to a subset or host that does not exist answers 503; other routes go on."""
    text = routes(f"""
    - match: [{{uri: {{prefix: /subset}}}}]
      route: [{{destination: {{host: web, subset: v9}}}}]
    - match: [{{uri: {{prefix: /host}}}}]
      route: [{{destination: {{host: nowhere}}}}]
    - route: [{V1}]
    """)
    async with mesh(tmp_path, text, "v1") as (envoy, _):
        assert (await envoy.request(8080, "/subset")).status == 503
        assert (await envoy.request(8080, "/host")).status == 503
        assert (await envoy.request(8080, "/fine")).name == "v1"


async def test_hosts_of_gateway_and_virtual_service(tmp_path: Path) -> None:
    """A VirtualService serves the hosts it shares with the Gateway; wildcards narrow; others get 404."""
    text = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: narrow}
spec:
  selector: {istio: ingressgateway}
  servers:
    - {port: {number: 8081, name: http, protocol: HTTP}, hosts: ["*.example.com", "./own.test", "other/far.test"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: one}
spec:
  hosts: [a.example.com, own.test, far.test, b.other.com]
  gateways: [narrow]
  http: [{route: [{destination: {host: web}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: mesh-only}
spec: {hosts: [c.example.com], http: [{route: [{destination: {host: web}}]}]}
"""
    async with mesh(tmp_path, text, "v1") as (envoy, _):
        answers = {
            h: (await envoy.request(8081, host=h)).name for h in ("a.example.com", "own.test", "a.example.com:8081")
        }
        assert set(answers.values()) == {"v1"}
        for host in ("c.example.com", "b.other.com", "far.test", "x.test"):
            assert (await envoy.request(8081, host=host)).status == 404, host
        assert (await envoy.request(8080)).status == 404, "a gateway without routes"


async def test_https_by_name_and_redirect(tmp_path: Path) -> None:
    """Certificates are chosen by SNI; a client certificate is asked for with MUTUAL; plain HTTP is redirected."""
    authority = rig.Authority()
    text = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: tls}
spec:
  selector: {istio: ingressgateway}
  servers:
    - {port: {number: 8443, name: a, protocol: HTTPS}, hosts: [a.test], tls: {mode: SIMPLE, credentialName: a}}
    - {port: {number: 8443, name: b, protocol: HTTPS}, hosts: [b.test], tls: {mode: MUTUAL, credentialName: b}}
    - {port: {number: 8082, name: redirect, protocol: HTTP}, hosts: [a.test], tls: {httpsRedirect: true}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec: {hosts: [a.test, b.test], gateways: [tls], http: [{route: [{destination: {host: web}}]}]}
"""
    for name in ("a", "b"):
        made = authority.issue(f"{name}.test")
        text += f"""
---
apiVersion: v1
kind: Secret
metadata: {{name: {name}}}
stringData:
  tls.crt: |
{_indented(made.chain)}
  tls.key: |
{_indented(made.key)}
  ca.crt: |
{_indented(made.root)}
"""
    client = authority.issue("client.test")
    (tmp_path / "client.pem").write_bytes(client.chain + client.key)
    context = ssl.create_default_context(cadata=authority.pem.decode())
    async with mesh(tmp_path, text, "v1") as (envoy, found):
        assert (await envoy.request(8443, host="a.test", tls=context, sni="a.test")).name == "v1"
        with pytest.raises(Exception, match=r"(?i)ssl|certificate|alert|disconnected|broken pipe|reset"):
            await envoy.request(8443, host="b.test", tls=context, sni="b.test")
        with pytest.raises(Exception, match=r"(?i)ssl|eof|reset|disconnected"):
            await envoy.request(8443, host="c.test", tls=context, sni="c.test")
        context.load_cert_chain(tmp_path / "client.pem")
        assert (await envoy.request(8443, host="b.test", tls=context, sni="b.test")).name == "v1"
        assert "DNS=client.test" in found["v1"].seen[-1]["x-forwarded-client-cert"]
        reply = await envoy.request(8082, "/x", host="a.test")
        assert (reply.status, reply.headers["location"]) == (301, "https://a.test/x")


async def test_a_revoked_client_is_refused(tmp_path: Path) -> None:
    """A client whose certificate is on the list that comes with the credential is turned away, others are not."""
    authority = rig.Authority()
    server, good, bad = (authority.issue(f"{name}.test") for name in ("a", "good", "bad"))
    text = f"""
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: tls}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
    - port: {{number: 8443, name: a, protocol: HTTPS}}
      hosts: [a.test]
      tls: {{mode: MUTUAL, credentialName: a}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web}}
spec: {{hosts: [a.test], gateways: [tls], http: [{{route: [{{destination: {{host: web}}}}]}}]}}
---
apiVersion: v1
kind: Secret
metadata: {{name: a}}
stringData:
  tls.crt: |
{_indented(server.chain)}
  tls.key: |
{_indented(server.key)}
  ca.crt: |
{_indented(server.root)}
  ca.crl: |
{_indented(authority.revocations(bad))}
"""
    contexts = []
    for name, client in (("good", good), ("bad", bad)):
        (tmp_path / f"{name}.pem").write_bytes(client.chain + client.key)
        context = ssl.create_default_context(cadata=authority.pem.decode())
        context.load_cert_chain(tmp_path / f"{name}.pem")
        contexts.append(context)
    async with mesh(tmp_path, text, "v1") as (envoy, _):
        assert (await envoy.request(8443, host="a.test", tls=contexts[0], sni="a.test")).name == "v1"
        with pytest.raises(Exception, match=r"(?i)ssl|certificate|alert|disconnected|broken pipe|reset"):
            await envoy.request(8443, host="a.test", tls=contexts[1], sni="a.test")


def _indented(pem: bytes) -> str:
    return "\n".join(f"    {line}" for line in pem.decode().splitlines())


async def test_cors(tmp_path: Path) -> None:
    """A preflight from an allowed origin is answered by the proxy."""
    text = routes(f"""
    - corsPolicy:
        allowOrigins: [{{exact: "https://ok.test"}}]
        allowMethods: [GET, PUT]
        maxAge: 24h
        allowCredentials: true
      route: [{V1}]
    """)
    async with mesh(tmp_path, text, "v1") as (envoy, _):
        ask = {"origin": "https://ok.test", "access-control-request-method": "PUT"}
        reply = await envoy.request(8080, method="OPTIONS", headers=ask)
        assert reply.status == 200
        assert reply.headers["access-control-allow-origin"] == "https://ok.test"
        assert reply.headers["access-control-allow-methods"] == "GET,PUT"
        assert reply.headers["access-control-max-age"] == "86400"
        reply = await envoy.request(8080, method="OPTIONS", headers={**ask, "origin": "https://no.test"})
        assert "access-control-allow-origin" not in reply.headers


async def test_consistent_hash(tmp_path: Path) -> None:
    """One header value stays with one endpoint."""
    text = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec: {hosts: ["*"], gateways: [gw], http: [{route: [{destination: {host: web}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec: {host: web, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}}
"""
    async with mesh(tmp_path, text, "v1", "v2") as (envoy, _):
        used = set()
        for user in range(12):
            found = await envoy.names(8080, 4, headers={"x-user": str(user)})
            assert len(found) == 1
            used |= set(found)
        assert used == {"v1", "v2"}


async def test_header_changes_of_a_destination(tmp_path: Path) -> None:
    """A single destination's header changes come after its rule's, and its Host counts where the rule sets none."""
    text = routes(f"""
    - headers: {{request: {{add: {{x: rule}}, set: {{z: rule}}}}}}
      route:
        - {{{V1[1:-1]}, headers: {{request: {{add: {{x: own}}, set: {{z: own, Host: own.test}}}}}}}}
    """)
    async with mesh(tmp_path, text, "v1") as (envoy, found):
        assert (await envoy.request(8080)).name == "v1"
        seen = found["v1"].seen[-1]
        assert (seen["host"], seen["z"], seen["x"]) == ("own.test", "own", "own")


async def test_redirects_say_the_port_where_it_needs_saying(tmp_path: Path) -> None:
    """`derivePort: FROM_REQUEST_PORT` is the port asked at; ports that go with a scheme are left out."""
    text = routes("""
    - {match: [{uri: {prefix: /same}}], redirect: {authority: other.test, derivePort: FROM_REQUEST_PORT}}
    - {match: [{uri: {prefix: /tls}}], redirect: {authority: other.test, scheme: https, port: 443}}
    - {redirect: {authority: other.test, scheme: https, derivePort: FROM_PROTOCOL_DEFAULT}}
    """)
    async with mesh(tmp_path, text, "v1") as (envoy, _):

        async def location(path: str) -> str:
            return (await envoy.request(8080, path)).headers["location"]

        assert await location("/same") == "http://other.test:8080/same"
        assert await location("/tls") == "https://other.test/tls"
        assert await location("/else") == "https://other.test/else"
