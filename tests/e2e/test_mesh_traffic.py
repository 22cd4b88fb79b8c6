"""Istio's traffic tasks, as requests between workloads of a mesh: what comes back, not what a dump says."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from .harness import curl, wait_until
from .mesh import BOOKS, Mesh
from .shop import SHOP, STREET, Shop

pytestmark = [pytest.mark.xdist_group("mesh")]

HTTPBIN = "http://httpbin:8000"


def istio(kind: str, name: str, spec: str, version: str = "v1") -> str:
    """An object of Istio's networking API; `spec` is YAML."""
    lines = "\n".join(f"  {line}" for line in spec.strip().splitlines())
    return f"apiVersion: networking.istio.io/{version}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{lines}\n---\n"


RULES = istio(
    "VirtualService",
    "httpbin",
    r"""
hosts: [httpbin]
gateways: ~
http:
- match: [{uri: {exact: /ANY-Case}, ignoreUriCase: true}]
  directResponse: {status: 299, body: {string: direct}}
- match: [{uri: {prefix: /moved}}]
  redirect: {uri: /get, authority: other.example, redirectCode: 302}
- match: [{uri: {prefix: /port}}]
  redirect: {scheme: https, port: 8443}
- match: [{uri: {prefix: /regex/}}]
  rewrite: {uriRegexRewrite: {match: '/regex/(.*)/(.*)', rewrite: '/anything/\2/\1'}}
  route: [{destination: {host: httpbin}}]
- match: [{uri: {prefix: /headers}}]
  headers:
    request: {set: {x-set: a, Host: set.example}, add: {x-add: b}, remove: [x-gone]}
    response: {add: {x-answer: c}}
  route:
  - destination: {host: httpbin.shop.svc.cluster.local, port: {number: 8000}}
    headers: {request: {add: {x-destination: d}}}
- match: [{uri: {prefix: /without}, withoutHeaders: {x-no: {}}}]
  directResponse: {status: 201}
- match: [{uri: {prefix: /who}, sourceLabels: {app: httpbin}}]
  directResponse: {status: 202}
- match: [{uri: {prefix: /who}, sourceLabels: {app: sleep}}]
  directResponse: {status: 203}
- match: [{method: {exact: PUT}}]
  directResponse: {status: 205}
- match: [{uri: {prefix: /slow}}]
  timeout: 0.3s
  rewrite: {uri: /delay/2}
  route: [{destination: {host: httpbin}}]
- match: [{uri: {prefix: /nothing}}]
  route: [{destination: {host: nowhere.shop.svc.cluster.local}}]
- match: [{uri: {prefix: /cors}}]
  corsPolicy: {allowOrigins: [{regex: 'https://.*\.example'}], allowMethods: [GET], maxAge: 24h}
  rewrite: {uri: /get}
  route: [{destination: {host: httpbin}}]
- route: [{destination: {host: httpbin}}]
""",
    "v1alpha3",
)


def test_rewrites_redirects_headers_and_matches(mesh: Mesh, shop: Shop) -> None:
    """The actions and conditions of HTTP routes, all in one VirtualService."""
    with mesh.objects(RULES, SHOP):
        shop.expect(
            {
                f"{HTTPBIN}/any-cASE": "299",
                f"{HTTPBIN}/without": "201",
                f"-H x-no:1 {HTTPBIN}/without": "404",
                f"{HTTPBIN}/who": "203",
                f"-X PUT {HTTPBIN}/get": "205",
                f"{HTTPBIN}/slow": "504",
                f"{HTTPBIN}/nothing": "503",
                f"{HTTPBIN}/get": "200",
            }
        )
        assert "location: http://other.example/get" in shop.text(f"-i {HTTPBIN}/moved")
        assert "location: https://httpbin:8443/port" in shop.text(f"-i {HTTPBIN}/port")
        assert "/anything/b/a" in shop.text(f"{HTTPBIN}/regex/a/b")
        seen = shop.headers(f"-H x-add:0 -H x-gone:1 {HTTPBIN}/headers")
        wanted = {"host": "set.example", "x-set": "a", "x-add": "0,b", "x-destination": "d"}
        assert {name: seen.get(name) for name in wanted} == wanted
        assert "x-gone" not in seen
        assert "x-answer: c" in shop.text(f"-i {HTTPBIN}/headers")
        assert "access-control-allow-origin: https://a.example" in shop.text(
            f"-i -H 'Origin: https://a.example' {HTTPBIN}/cors"
        )
        assert "access-control-allow-origin" not in shop.text(f"-i -H 'Origin: https://a.test' {HTTPBIN}/cors")


def test_overflow_of_a_connection_pool(mesh: Mesh, shop: Shop) -> None:
    """With one connection and one waiting request allowed, further ones are answered 503 at once."""
    pool = "{tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1, maxRequestsPerConnection: 1}}"
    script = "for i in 1 2 3 4 5 6; do curl -s -o /dev/null -w '%{http_code}\\n' " + HTTPBIN + "/delay/0.5 & done; wait"
    with mesh.objects(
        istio("DestinationRule", "httpbin", f"host: httpbin\ntrafficPolicy: {{connectionPool: {pool}}}"), SHOP
    ):
        counts = wait_until(lambda: (c := Counter(shop.script(script).split()))["503"] and c, "requests overflow")
        assert counts["200"] >= 1
        assert set(counts) == {"200", "503"}


def test_an_ejected_subset_answers_for_itself(mesh: Mesh, shop: Shop) -> None:
    """After its ejection the share of a subset gets 503 `no healthy upstream`; the other subset goes on."""
    host = "http://helloworld:5000"
    rules = istio(
        "DestinationRule",
        "helloworld",
        """
host: helloworld
trafficPolicy:
  outlierDetection: {consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 1m, maxEjectionPercent: 100}
subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
""",
        "v1beta1",
    ) + istio(
        "VirtualService",
        "helloworld",
        """
hosts: [helloworld.shop.svc.cluster.local]
http:
- match: [{uri: {prefix: /break}}]
  retries: {attempts: 0}
  timeout: 1ms
  route: [{destination: {host: helloworld, subset: v2}}]
- route:
  - {destination: {host: helloworld, subset: v1}, weight: 50}
  - {destination: {host: helloworld, subset: v2}, weight: 50}
""",
    )
    with mesh.objects(rules, SHOP):
        script = f"for i in $(seq 30); do curl -s {host}/hello; echo; done"

        def broken() -> bool:
            shop.ask(f"{host}/break")
            return "no healthy upstream" in shop.script(script)

        wait_until(broken, "the subset is ejected")
        text = shop.script(script)
        assert text.count("no healthy upstream") >= 5
        assert text.count("version: v1") >= 5
        assert "version: v2" not in text


def test_http2_between_proxies(mesh: Mesh, shop: Shop) -> None:
    """`h2UpgradePolicy` is for the way between proxies: an application of HTTP/1.1 goes on as it was."""
    policy = "{connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}"
    rule = istio("DestinationRule", "httpbin", f"host: httpbin\ntrafficPolicy: {policy}")
    with mesh.objects(rule, SHOP):

        def upgraded() -> bool:
            dump = "curl -s '127.0.0.1:15000/config_dump?name_regex=outbound.8000..httpbin.shop.*'"
            return "http2_protocol_options" in shop.script(dump)

        wait_until(upgraded, "the cluster speaks HTTP/2")
        assert shop.ask(*[f"{HTTPBIN}/get"] * 5) == ["200"] * 5


def test_services_without_an_address(mesh: Mesh, shop: Shop) -> None:
    """Headless Services by HTTP and TCP, an alias, a service called by its own pods, and gRPC."""
    alias = """
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: httpbin.shop.svc.cluster.local, ports: [{name: http, port: 8000}]}
"""
    with mesh.objects(alias, SHOP):
        shop.expect({"http://echo-headless:8080/": "200", "http://alias:8000/get": "200"})
        assert shop.lines("echo-headless", 9090) == "hello\n"
        assert shop.lines("echo", 9090) == "hello\n"
        own = shop.script("curl -s http://httpbin:8000/headers", deployment="httpbin")
        assert "spiffe://cluster.local/ns/shop/sa/httpbin" in own
        call = (
            "printf '\\0\\0\\0\\0\\0' | curl -s --http2-prior-knowledge -D - -o /dev/null -H te:trailers "
            "-H content-type:application/grpc --data-binary @- http://echo:7070/grpc.health.v1.Health/Check"
        )
        assert "grpc-status: 0" in shop.script(call)


CAPTURED = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: captured}
spec:
  selector: {matchLabels: {app: captured}}
  template:
    metadata:
      labels: {app: captured}
      annotations: {proxy.istio.io/config: '{proxyMetadata: {ISTIO_META_DNS_CAPTURE: "true"}}'}
    spec: {containers: [{name: captured, image: pilotfish/echo}]}
"""
OUTSIDE = """
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec: {selector: {app: NAME}, ports: [{name: tcp, port: 9000}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec: {containers: [{name: tcp, image: docker.io/istio/tcp-echo-server:1.3, args: ["9000", NAME]}]}
---
"""


def test_tcp_services_without_addresses_are_told_apart(mesh: Mesh, shop: Shop) -> None:
    """Two ServiceEntries for one TCP port, without addresses: a client that captures DNS reaches each by its name."""
    entries = "".join(
        istio(
            "ServiceEntry",
            name,
            f"""
hosts: [{name}.outside.test]
location: MESH_EXTERNAL
resolution: DNS
ports: [{{number: 9000, name: tcp, protocol: TCP}}]
endpoints: [{{address: {name}.{STREET}.svc.cluster.local}}]
""",
        )
        for name in ("one", "two")
    )
    servers = "".join(OUTSIDE.replace("NAME", name) for name in ("one", "two"))
    with mesh.objects(servers, STREET), mesh.objects(CAPTURED, SHOP), mesh.objects(entries, SHOP):
        mesh.cluster.ready(STREET, "one", "two")
        mesh.cluster.ready(SHOP, "captured")

        def answer(name: str) -> str:
            ask = f"(echo hello; sleep 0.3) | curl -s --max-time 3 telnet://{name}.outside.test:9000"
            return shop.script(ask, deployment="captured")

        wait_until(lambda: [answer("one"), answer("two")] == ["one hello\n", "two hello\n"], "an answer of each")
        assert answer("one") == "one hello\n"
        asked = ("curl", "-sS", "http://127.0.0.1:15020/debug/ndsz")
        page = mesh.cluster.kubectl("exec", "-n", SHOP, "deploy/captured", "-c", "istio-proxy", "--", *asked)
        assert json.loads(page)["table"].keys() >= {"one.outside.test", "two.outside.test"}


def test_what_a_sidecar_may_reach(mesh: Mesh, shop: Shop) -> None:
    """REGISTRY_ONLY answers 502 to what its namespace does not import; a ServiceEntry opens the way."""
    outside = f"http://httpbin.{STREET}:8000/get"
    sidecar = istio(
        "Sidecar", "default", "outboundTrafficPolicy: {mode: REGISTRY_ONLY}\negress: [{hosts: [./*]}]", "v1beta1"
    )
    entry = istio(
        "ServiceEntry",
        "street",
        f"""
hosts: [httpbin.{STREET}.svc.cluster.local]
location: MESH_EXTERNAL
resolution: DNS
ports: [{{number: 8000, name: http, protocol: HTTP}}]
""",
    )
    shop.expect({outside: "200"})
    with mesh.objects(sidecar, SHOP):
        shop.expect({outside: "502", f"{HTTPBIN}/get": "200"})
        with mesh.objects(entry, SHOP):
            shop.expect({f"http://httpbin.{STREET}.svc.cluster.local:8000/get": "200"})
    shop.expect({outside: "200"})


def test_delegates_and_visibility(mesh: Mesh, shop: Shop) -> None:
    """Routes of a delegate in another namespace are merged with the root's conditions; exportTo hides rules."""
    root = istio(
        "VirtualService",
        "root",
        f"""
hosts: [httpbin]
http:
- match: [{{uri: {{prefix: /status}}}}]
  delegate: {{name: part, namespace: {BOOKS}}}
- match: [{{uri: {{prefix: /missing}}}}]
  delegate: {{name: missing}}
- route: [{{destination: {{host: httpbin}}}}]
""",
    )
    part = istio(
        "VirtualService",
        "part",
        """
http:
- match: [{uri: {prefix: /status/418}}]
  directResponse: {status: 219}
- match: [{uri: {prefix: /other}}]
  directResponse: {status: 220}
- directResponse: {status: 221}
""",
    )
    hidden = istio(
        "VirtualService", "hidden", 'hosts: [echo]\nexportTo: ["."]\nhttp: [{directResponse: {status: 222}}]'
    )
    with mesh.objects(part, BOOKS), mesh.objects(root + hidden, SHOP):
        paths = {"/status/418": "219", "/status/200": "221", "/other": "404", "/missing": "404", "/get": "200"}
        shop.expect({f"{HTTPBIN}{path}": status for path, status in paths.items()})
        shop.expect({"http://echo/": "222"})
        assert mesh.inside(f"http://echo.{SHOP}/", "-o", "/dev/null", "-w", "%{http_code}") == "200"


def test_a_gateway_with_certificates(mesh: Mesh, shop: Shop, tmp_path: Path) -> None:
    """Two hosts with a Secret each; a rotated Secret is served, one that does not fit its key is not, and is named."""
    made = {name: _certificate(tmp_path, name, host) for name, host in (("a", "a"), ("a2", "a"), ("b", "b"))}
    address, namespace = mesh.cluster.address, "istio-ingress"

    def put(name: str, certificate: Path, key: Path) -> None:
        files = (f"--from-file=tls.crt={certificate}", f"--from-file=tls.key={key}")
        text = mesh.cluster.kubectl(
            *("create", "secret", "generic", name, "-n", namespace, "--type=kubernetes.io/tls", *files),
            *("--dry-run=client", "-o", "yaml"),
        )
        mesh.cluster.apply(text, namespace)

    def served(host: str, certificate: Path) -> bool:
        place = ("--resolve", f"{host}.test:8443:{address}", "--cacert", str(certificate))
        return curl("-o", "/dev/null", "-w", "%{http_code}", *place, f"https://{host}.test:8443/get")[1] == "200"

    servers = "\n".join(
        f"- {{port: {{number: 8443, name: https-{h}, protocol: HTTPS}}, hosts: [{h}.test], "
        f"tls: {{mode: SIMPLE, credentialName: shop-{h}}}}}"
        for h in "ab"
    )
    rules = istio("Gateway", "tls", f"selector: {{istio: ingressgateway}}\nservers:\n{servers}") + istio(
        "VirtualService",
        "tls",
        "hosts: [a.test, b.test]\ngateways: [tls]\n"
        "http: [{route: [{destination: {host: httpbin, port: {number: 8000}}}]}]",
    )
    put("shop-a", *made["a"])
    put("shop-b", *made["b"])
    with mesh.objects(rules, SHOP):
        wait_until(lambda: served("a", made["a"][0]) and served("b", made["b"][0]), "both hosts are served", 60)
        assert not served("a", made["b"][0])
        put("shop-a", made["a2"][0], made["a"][1])

        def told() -> bool:
            status = mesh.cluster.get("gateway", "tls", "-n", SHOP).get("status", {})
            return "istio-ingress/shop-a" in str(status) and "not the key" in str(status)

        wait_until(told, "the Gateway's status names the Secret", 60)
        assert served("a", made["a"][0])
        put("shop-a", *made["a2"])
        wait_until(lambda: served("a", made["a2"][0]), "the new certificate is served", 60)
        wait_until(lambda: not told(), "the Gateway's status is well again", 60)
    mesh.cluster.kubectl("delete", "secret", "shop-a", "shop-b", "-n", namespace)


def _certificate(directory: Path, name: str, host: str) -> tuple[Path, Path]:
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={host}.test"]
    words += ["-addext", f"subjectAltName=DNS:{host}.test", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(
        ["openssl", *words],
        check=True,
        capture_output=True,
    )
    return certificate, key


EGRESS = """
apiVersion: v1
kind: Service
metadata: {name: istio-egressgateway}
spec: {selector: {istio: egressgateway}, ports: [{name: http2, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: istio-egressgateway}
spec:
  selector: {matchLabels: {istio: egressgateway}}
  template:
    metadata:
      annotations: {inject.istio.io/templates: gateway}
      labels: {istio: egressgateway, sidecar.istio.io/inject: "true"}
    spec: {containers: [{name: istio-proxy, image: auto}]}
"""


def test_through_an_egress_gateway_of_the_root_namespace(mesh: Mesh, shop: Shop) -> None:
    """mTLS to the gateway, whose own way on follows the rules of the called service's namespace."""
    gateway = "istio-egressgateway.istio-system.svc.cluster.local"
    target = f"httpbin.{STREET}.svc.cluster.local"
    server = f"{{port: {{number: 80, name: https, protocol: HTTPS}}, hosts: [{target}], tls: {{mode: ISTIO_MUTUAL}}}}"
    tls = f"[{{port: {{number: 80}}, tls: {{mode: ISTIO_MUTUAL, sni: {target}}}}}]"
    rules = istio("Gateway", "egress", f"selector: {{istio: egressgateway}}\nservers: [{server}]")
    rules += istio(
        "DestinationRule",
        "egress",
        f"host: {gateway}\nsubsets: [{{name: out, trafficPolicy: {{portLevelSettings: {tls}}}}}]",
    )
    rules += istio(
        "VirtualService",
        "egress",
        f"""
hosts: [{target}]
gateways: [mesh, egress]
http:
- match: [{{gateways: [mesh], port: 8000}}]
  route: [{{destination: {{host: {gateway}, subset: out, port: {{number: 80}}}}}}]
- match: [{{gateways: [egress], port: 80}}]
  route: [{{destination: {{host: {target}, subset: chosen, port: {{number: 8000}}}}}}]
""",
    )
    chosen = istio("DestinationRule", "chosen", "host: httpbin\nsubsets: [{name: chosen, labels: {app: httpbin}}]")
    with mesh.objects(EGRESS, "istio-system"):
        mesh.cluster.ready("istio-system", "istio-egressgateway")
        with mesh.objects(chosen, STREET), mesh.objects(rules, SHOP):
            shop.expect({f"http://{target}:8000/get": "200"})
            seen = shop.headers(f"http://{target}:8000/headers")
            assert "URI=spiffe://cluster.local/ns/shop/sa/sleep" in seen["x-forwarded-client-cert"]


def test_a_gateway_called_from_inside(mesh: Mesh, shop: Shop) -> None:
    """Sidecars speak to a gateway's port what its Gateway says, not mTLS."""
    status = "-H 'Host: product.book.example.com' http://istio-ingressgateway.istio-ingress:8080/productpage"
    shop.expect({status: "200"})


def test_no_request_is_lost_while_pods_are_replaced(mesh: Mesh, shop: Shop) -> None:
    """A rolling restart of the called workload under load costs no answer, when it says from when on it answers."""
    probed = {"name": "httpbin", "readinessProbe": {"httpGet": {"path": "/get", "port": 80}, "periodSeconds": 1}}
    patch = {"spec": {"replicas": 2, "template": {"spec": {"containers": [probed]}}}}
    mesh.cluster.kubectl("patch", "-n", SHOP, "deploy/httpbin", "-p", json.dumps(patch))
    # Pods without the probe count as ready before they answer; they have to be gone.
    mesh.cluster.kubectl("rollout", "status", "-n", SHOP, "deploy/httpbin", "--timeout=60s")
    request = f"curl -s --max-time 10 -o /dev/null -w '%{{http_code}}\\n' {HTTPBIN}/get"
    script = f"while [ ! -e /tmp/enough ]; do {request}; done"
    load = mesh.cluster.popen("exec", "-n", SHOP, "deploy/sleep", "-c", "sleep", "--", "sh", "-c", script)
    assert load.stdout is not None
    try:
        assert load.stdout.readline() == "200\n"
        mesh.cluster.kubectl("rollout", "restart", "-n", SHOP, "deploy/httpbin")
        mesh.cluster.kubectl("rollout", "status", "-n", SHOP, "deploy/httpbin", "--timeout=60s")
    finally:
        shop.script("touch /tmp/enough")  # ending kubectl would not end what it started
        answers = Counter(load.communicate(timeout=30)[0].split())
    assert answers["200"] > 20
    assert set(answers) == {"200"}
    mesh.cluster.kubectl("scale", "-n", SHOP, "deploy/httpbin", "--replicas=1")
