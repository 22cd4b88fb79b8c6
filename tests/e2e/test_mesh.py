"""The mesh as its user sees it: installed into the local cluster, sidecars injected, Istio YAML, real requests."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from .conftest import skip_unless_possible
from .harness import SAMPLES, Cluster, curl, fresh, wait_until
from .mesh import BOOKS, GATEWAY, HOST, Mesh

pytestmark = [pytest.mark.xdist_group("mesh")]


def reviews_routes(*routes: str, name: str = "reviews", extra: str = "") -> str:
    """A VirtualService for reviews with these HTTP routes (YAML of one each)."""
    lines = "\n".join(f"  - {one}" for one in routes)
    return f"""
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {{name: {name}}}
spec:
  hosts: [reviews]
  gateways: ~
{extra}
  http:
{lines}
"""


def to(subset: str, weight: int | None = None) -> str:
    share = f", weight: {weight}" if weight is not None else ""
    return f"{{destination: {{host: reviews, subset: {subset}}}{share}}}"


def test_installed_objects_and_injected_pods(mesh: Mesh) -> None:
    """CRDs, the control plane's objects, and pods with application and proxy, by their contract names."""
    crds = mesh.cluster.kubectl("get", "crd", "-o", "name")
    assert "virtualservices.networking.istio.io" in crds
    assert crds.count("istio.io") >= 15
    listed = mesh.cluster.kubectl("get", "all", "-n", "istio-system")
    for part in ("deployment.apps/istiod", "service/istiod", "15010/TCP,15012/TCP,443/TCP,15014/TCP"):
        assert part in listed
    pod = mesh.cluster.get("pod", "-n", BOOKS, mesh.pod("details"))
    assert [one["name"] for one in pod["spec"]["containers"]] == ["details", "istio-proxy"]
    assert pod["spec"]["containers"][1]["ports"][0]["name"] == "http-envoy-prom"
    assert "2/2" in mesh.cluster.kubectl("get", "pod", "-n", BOOKS, mesh.pod("details"))


def test_commands_that_users_run_in_the_containers(mesh: Mesh) -> None:
    """The proxy's and the control plane's own interfaces are asked by Istio's commands; a failure says so."""

    def run(*command: str, check: bool = True) -> str:
        return mesh.cluster.kubectl("exec", *command, check=check)

    proxy = ("-n", BOOKS, mesh.pod("details"), "-c", "istio-proxy", "--", "pilot-agent")
    assert json.loads(run(*proxy, "request", "GET", "server_info"))["state"] == "LIVE"
    assert "BootstrapConfigDump" in run(*proxy, "request", "GET", "config_dump")
    assert "cluster_manager.cds.version_text" in run(*proxy, "request", "GET", "/stats")
    assert "rbac: debug" in run(*proxy, "request", "POST", "logging?rbac=debug")
    assert "rbac: warning" in run(*proxy, "request", "POST", "logging?rbac=warning")
    assert "command terminated with exit code 1" in run(*proxy, "request", "GET", "nonsense", check=False)
    names = ("curl", "-sS", "-w", "%{http_code}", "http://127.0.0.1:15020/debug/ndsz")
    assert run("-n", BOOKS, mesh.pod("details"), "-c", "istio-proxy", "--", *names) == "{}404"
    plane = ("-n", "istio-system", "deploy/istiod", "-c", "discovery", "--", "pilot-discovery")
    assert mesh.pod("details") in run(*plane, "request", "GET", "/debug/syncz")
    assert "404 page not found" in run(*plane, "request", "GET", "/debug/nonsense", check=False)


def test_a_job_has_its_proxy_from_first_to_last(mesh: Mesh) -> None:
    """Its first request goes through the proxy, which is ready before it; when it is done, the proxy ends too."""
    command = ["curl", "-s", "-o", "/dev/null", "-D", "-", "http://productpage:9080/productpage"]
    container = {"name": "once", "image": "curlimages/curl", "command": command}
    spec = {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}
    mesh.apply(json.dumps({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"}, "spec": spec}))
    try:
        mesh.cluster.kubectl("wait", "-n", BOOKS, "--for=condition=complete", "job/once", "--timeout=60s")
        answer = mesh.cluster.kubectl("logs", "-n", BOOKS, "job/once", "-c", "once")
        assert answer.startswith("HTTP/1.1 200")
        assert "server: envoy" in answer
    finally:
        mesh.cluster.kubectl("delete", "job/once", "-n", BOOKS)


def test_an_injected_manifest_may_meet_the_webhook(mesh: Mesh, tmp_path: Path) -> None:
    """`kube-inject` with the cluster's settings makes what the webhook makes. Where both come by, there is one proxy,
    here a native sidecar, and the probe is rewritten once and works."""
    listening = {"httpGet": {"path": "/get", "port": 80}, "periodSeconds": 1}
    container = {"name": "again", "image": "docker.io/kong/httpbin", "readinessProbe": listening}
    labels = {"app": "again"}
    notes = {"sidecar.istio.io/nativeSidecar": "true"}
    template = {"metadata": {"labels": labels, "annotations": notes}, "spec": {"containers": [container]}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "again"},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }
    file = tmp_path / "again.yaml"
    file.write_text(json.dumps(deployment))
    made = mesh.cluster.pilotfish("kube-inject", "-f", str(file), "-n", BOOKS).stdout
    spec = yaml.safe_load(made)["spec"]["template"]["spec"]
    assert [one["name"] for one in spec["initContainers"]] == ["istio-init", "istio-proxy"]
    mesh.apply(made)
    try:
        mesh.cluster.ready(BOOKS, "again")
        pod = mesh.cluster.get("pods", "-n", BOOKS, "-l", "app=again")["items"][0]
        assert [one["name"] for one in pod["spec"]["initContainers"]] == ["istio-init", "istio-proxy"]
        assert [one["name"] for one in pod["spec"]["containers"]] == ["again"]
        env = {one["name"]: one.get("value") for one in pod["spec"]["initContainers"][1]["env"]}
        assert json.loads(env["ISTIO_KUBE_APP_PROBERS"])["/app-health/again/readyz"]["httpGet"]["port"] == 80
        assert pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"] == 15020
        assert len([one for one in pod["spec"]["initContainers"][1]["env"] if "PROBERS" in one["name"]]) == 1
    finally:
        mesh.cluster.kubectl("delete", "deploy/again", "-n", BOOKS)


def test_gateway_serves_its_hosts_only(mesh: Mesh) -> None:
    """The bound host answers with the page, another host of the gateway and a foreign one with 404."""
    status, body = mesh.page()
    assert status == 200
    assert "<title>Simple Bookstore App</title>" in body
    assert mesh.page(host="other.book.example.com")[0] == 404
    assert mesh.page(host="www.example.org")[0] == 404


def test_gateway_rules_do_not_touch_mesh_traffic(mesh: Mesh) -> None:
    """A VirtualService bound to a gateway leaves calls inside the mesh alone, unless it names `mesh` too."""
    rule = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: details}
spec:
  hosts: [details.book.example.com, details]
  gateways: [book-gateway%s]
  http: [{directResponse: {status: 418}}]
"""
    with mesh.objects(rule % ""):
        wait_until(lambda: mesh.page(host="details.book.example.com")[0] == 418, "the gateway follows")
        assert '"id"' in mesh.inside("http://details:9080/details/0")
        mesh.apply(rule % ", mesh")
        wait_until(
            lambda: mesh.inside("http://details:9080/details/0", "-o", "/dev/null", "-w", "%{http_code}") == "418",
            "the mesh follows",
        )


def test_weights(mesh: Mesh) -> None:
    """0 : 50 : 50 means never the first, and the others about equally."""
    routes = reviews_routes(f"route: [{to('v1', 0)}, {to('v2', 50)}, {to('v3', 50)}]")
    with mesh.objects(routes):
        wait_until(lambda: not mesh.versions(10)["v1"], "the weights count")
        counts = mesh.versions(100)
        assert counts["v1"] == 0
        assert counts["v2"] + counts["v3"] == 100
        assert 25 <= counts["v2"] <= 75


def test_matches(mesh: Mesh) -> None:
    """Exact, prefix and regular expressions; all conditions of one match, any of several."""
    routes = reviews_routes(
        f"{{match: [{{headers: {{end-user: {{exact: admin}}}}}}], route: [{to('v2')}]}}",
        "{match: [{headers: {x-team: {prefix: blue}, x-level: {regex: '[0-9]+'}}}, "
        f"{{queryParams: {{beta: {{exact: '1'}}}}}}], route: [{to('v3')}]}}",
        f"route: [{to('v1')}]",
    )
    with mesh.objects(routes):
        wait_until(lambda: mesh.versions(5) == {"v1": 5}, "the default route counts")
        assert mesh.versions(5, "end-user: admin") == {"v2": 5}
        assert mesh.versions(5, "x-team: blue-1", "x-level: 42") == {"v3": 5}
        assert mesh.versions(5, "x-team: blue-1") == {"v1": 5}
        assert mesh.versions(5, "x-team: blue-1", "x-level: high") == {"v1": 5}
        assert "reviews-v3" in mesh.inside("http://reviews:9080/reviews/0?beta=1")


def test_faults_and_timeouts(mesh: Mesh) -> None:
    """An injected abort answers with its status, a delay holds the request, a timeout cuts it off."""
    abort = "{fault: {abort: {percentage: {value: 100}, httpStatus: 555}}, route: [" + to("v1") + "]}"
    status = ("-o", "/dev/null", "-w", "%{http_code} %{time_total}")
    with mesh.objects(reviews_routes(abort)):
        wait_until(lambda: mesh.inside("http://reviews:9080/reviews/0", *status).startswith("555"), "aborted")
        delay = "{fault: {delay: {percentage: {value: 100}, fixedDelay: 400ms}}, route: [" + to("v1") + "]}"
        mesh.apply(reviews_routes(delay))
        wait_until(lambda: mesh.inside("http://reviews:9080/reviews/0", *status).startswith("200"), "no longer aborted")
        # Envoy's timers have a grain of a millisecond.
        assert float(mesh.inside("http://reviews:9080/reviews/0", *status).split()[1]) >= 0.39
    slow = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings}
spec:
  hosts: [ratings]
  http: [{fault: {delay: {percentage: {value: 100}, fixedDelay: 2s}}, route: [{destination: {host: ratings}}]}]
"""
    timed = reviews_routes(f"{{timeout: 300ms, route: [{to('v2')}]}}")
    with mesh.objects(slow), mesh.objects(timed):
        productpage = mesh.pod("productpage")

        def ask() -> str:
            words = ("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://reviews:9080/reviews/0")
            return mesh.cluster.kubectl("exec", "-n", BOOKS, productpage, "-c", "productpage", "--", *words)

        wait_until(lambda: ask() == "504", "the timeout cuts the request off")


def test_strict_mtls_keeps_strangers_out(mesh: Mesh) -> None:
    """Plain requests from outside are reset, the mesh goes on; without the policy they are served again."""
    node_port = """
apiVersion: v1
kind: Service
metadata: {name: productpage-outside}
spec: {type: NodePort, selector: {app: productpage}, ports: [{port: 9080, nodePort: 30980}]}
"""
    strict = """
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
"""
    url = f"http://{mesh.cluster.address}:30980/productpage"
    with mesh.objects(node_port):
        wait_until(lambda: "Simple Bookstore App" in curl(url)[1], "permissive serves plain text")
        with mesh.objects(strict):
            code, text = wait_until(lambda: (c := curl(url))[0] and c, "strict refuses plain text")
            assert (code, "Connection reset by peer" in text) == (56, True)
            assert mesh.page()[0] == 200
        wait_until(lambda: "Simple Bookstore App" in curl(url)[1], "permissive again")


def test_circuit_breaker_through_the_gateway(mesh: Mesh) -> None:
    """One failure ejects the poisoned version: afterwards every answer is right."""
    namespace = "calc"
    mesh.cluster.kubectl("create", "namespace", namespace)
    mesh.cluster.kubectl("label", "namespace", namespace, "istio-injection=enabled")
    mesh.cluster.kubectl("apply", "-n", namespace, "-f", str(SAMPLES / "calc-greeting" / "calc-greeting.yaml"))
    rules = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: calc}
spec:
  hosts: [calc.book.example.com]
  gateways: [book-demo/book-gateway]
  http: [{route: [{destination: {host: calc-service, port: {number: 8080}}}], retries: {attempts: 0}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: calc}
spec:
  host: calc-service
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection: {consecutive5xxErrors: 1, interval: 10s, baseEjectionTime: 1m, maxEjectionPercent: 100}
"""
    mesh.cluster.ready(namespace)
    with mesh.objects(rules, namespace):

        def ask() -> tuple[int, str]:
            return mesh.page(path="/calculating/1/2", host="calc.book.example.com")

        wait_until(lambda: ask()[0] in (200, 500), "the route is there")
        answers = [ask() for _ in range(30)]
        failed = [status for status, _ in answers if status != 200]
        assert len(failed) <= 1
        assert {body.strip() for status, body in answers if status == 200} == {"3"}
    mesh.cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def test_bad_objects_are_refused_or_contained(mesh: Mesh) -> None:
    """A wrong regular expression is refused with its field; a missing subset fails only its own route."""
    bad = reviews_routes(f"{{match: [{{headers: {{a: {{regex: '['}}}}}}], route: [{to('v1')}]}}")
    refused = mesh.cluster.kubectl("apply", "-n", BOOKS, "-f", "-", input_=bad, check=False)
    assert "regex" in refused
    missing = reviews_routes(
        f"{{match: [{{headers: {{a: {{exact: b}}}}}}], route: [{to('nowhere')}]}}", f"route: [{to('v1')}]"
    )
    status = ("-o", "/dev/null", "-w", "%{http_code}")
    with mesh.objects(missing):
        wait_until(
            lambda: mesh.inside("http://reviews:9080/reviews/0", "-H", "a: b", *status) == "503", "only that fails"
        )
        assert mesh.versions(5) == {"v1": 5}


@dataclass
class Load:
    """Requests through the gateway, one after the other on a kept connection, until it is stopped."""

    address: str
    statuses: Counter[int | str] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(2)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self.address, 8080, timeout=30)
        while not self._stop.is_set():
            try:
                connection.request("GET", "/productpage", headers={"Host": HOST})
                answer = connection.getresponse()
                body = answer.read().decode()
                broken = "Error fetching" in body or "unavailable" in body
                self.statuses["error in page" if broken else answer.status] += 1
            except (OSError, http.client.HTTPException) as error:
                self.statuses[type(error).__name__] += 1
                connection.close()
        connection.close()

    def more(self, count: int) -> None:
        """Wait for that many further answers."""
        goal = sum(self.statuses.values()) + count
        wait_until(lambda: sum(self.statuses.values()) >= goal, f"{count} more answers", 60)


def test_no_request_is_lost_while_weights_change(mesh: Mesh) -> None:
    """Under load, a dozen changes of routes and subsets cost no answer."""
    with Load(mesh.cluster.address) as load, mesh.objects(reviews_routes(f"route: [{to('v1')}]")):
        load.more(20)
        for step in range(6):
            mesh.apply(reviews_routes(f"route: [{to('v2', 100 - 10 * step)}, {to('v3', 10 * step)}]"))
            mesh.apply(reviews_routes(f"route: [{to('v3')}]"))
            load.more(5)
    assert set(load.statuses) == {200}


def test_control_plane_may_die(mesh: Mesh) -> None:
    """Killed with -9 under load and restarted: no answer is lost, and proxies follow new rules afterwards."""
    pods = mesh.cluster.get("pods", "-n", "istio-system", "-l", "app=istiod")["items"]
    before = pods[0]["status"]["containerStatuses"][0]["restartCount"]
    with Load(mesh.cluster.address) as load:
        load.more(20)
        found = _control_planes(mesh.cluster)
        assert found
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        load.more(20)

        def restarted() -> bool:
            listed = mesh.cluster.get("pods", "-n", "istio-system", "-l", "app=istiod")["items"]
            return any(
                one["status"]["containerStatuses"][0]["restartCount"] > before
                and one["status"]["containerStatuses"][0]["ready"]
                for one in listed
            )

        wait_until(restarted, "the control plane is back", 60)
        load.more(20)
    assert set(load.statuses) == {200}
    with mesh.objects(reviews_routes(f"route: [{to('v3')}]")):
        wait_until(lambda: mesh.versions(5) == {"v3": 5}, "proxies follow the new control plane", 60)


def _control_planes(cluster: Cluster) -> list[int]:
    """The processes of this cluster's control plane, as the machine sees them."""
    node = str(cluster.pid("node"))
    parents: dict[str, str] = {}
    commands: dict[str, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                commands[entry.name] = (entry / "cmdline").read_text(errors="replace")
                parents[entry.name] = (entry / "stat").read_text().rpartition(")")[2].split()[1]

    def inside(pid: str) -> bool:
        while pid in parents:
            if pid == node:
                return True
            pid = parents[pid]
        return False

    return [int(pid) for pid, command in commands.items() if "pilotfishd\0discovery" in command and inside(pid)]


def test_both_sides_count_every_request(mesh: Mesh) -> None:
    """N requests are N on the client's and on the server's series, with the same source and destination."""

    def counted(app: str, reporter: str) -> float:
        wanted = {"reporter": reporter, "source_workload": "ratings-v1", "destination_service_name": "details"}
        return sum(
            value
            for name, labels, value in mesh.metrics(app)
            if name == "istio_requests_total" and wanted.items() <= labels.items()
        )

    before = counted("ratings", "source"), counted("details", "destination")
    script = "for i in $(seq 25); do curl -sS -o /dev/null http://details:9080/details/0; done"
    mesh.cluster.kubectl("exec", "-n", BOOKS, mesh.client, "-c", "ratings", "--", "sh", "-c", script)
    for app, reporter, start in (("ratings", "source", before[0]), ("details", "destination", before[1])):
        assert counted(app, reporter) == start + 25
    series: dict[str, Any] = {}
    for app, reporter in (("ratings", "source"), ("details", "destination")):
        for name, labels, _ in mesh.metrics(app):
            ours = labels.get("source_workload") == "ratings-v1" and labels["destination_service_name"] == "details"
            if name == "istio_requests_total" and ours:
                del labels["reporter"], labels["connection_security_policy"]
                series[reporter] = labels
    assert series["source"] == series["destination"]
    assert len(series["source"]) == 23
    status = json.loads(mesh.cluster.kubectl("get", "--raw", "/apis/metrics.k8s.io/v1beta1/namespaces/book-demo/pods"))
    assert status["items"]


def test_time_from_apply_to_the_first_request_that_follows(mesh: Mesh) -> None:
    """A changed route is in force soon: this asserts a generous bound, the benchmark prints the figure."""
    with mesh.objects(reviews_routes(f"route: [{to('v1')}]")):
        wait_until(lambda: mesh.versions(5) == {"v1": 5}, "the first rule")
        started = time.monotonic()
        mesh.apply(reviews_routes(f"route: [{to('v2')}]"))
        wait_until(lambda: mesh.versions(1) == {"v2": 1}, "the second rule")
        assert time.monotonic() - started < 10


def test_ordinary_users_have_the_whole_mesh() -> None:
    """Without root, and with a single user id: sidecars are injected, mTLS is on, the gateway serves the page."""
    skip_unless_possible("rootless")
    with fresh("rootless") as cluster:
        cluster.up()
        cluster.pilotfish("install", "-y", "--set", "profile=minimal")
        cluster.kubectl("apply", "-f", str(SAMPLES / "ingress" / "ingress.yaml"))
        cluster.kubectl("create", "namespace", BOOKS)
        cluster.kubectl("label", "namespace", BOOKS, "istio-injection=enabled")
        cluster.kubectl("apply", "-n", BOOKS, "-f", str(SAMPLES / "bookinfo" / "bookinfo.yaml"))
        cluster.apply(GATEWAY, BOOKS)
        cluster.ready(BOOKS)
        cluster.ready("istio-ingress")

        def page() -> str:
            return curl("-H", f"Host: {HOST}", f"http://{cluster.address}:8080/productpage")[1]

        wait_until(lambda: "<title>Simple Bookstore App</title>" in page(), "the gateway serves the product page", 60)
        strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\n"
        cluster.apply(strict + "spec: {mtls: {mode: STRICT}}\n", BOOKS)
        assert "Simple Bookstore App" in page()


def test_gateway_certificates_come_from_secrets(mesh: Mesh, tmp_path: Path) -> None:
    """HTTPS with the certificate that the Gateway names; a renewed Secret is served without a restart.

    The gateway's account may list Secrets. One that may not gets none, whatever its Gateway names.
    """

    def secret(common_name: str) -> str:
        pair = [str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")]
        names = ("-subj", f"/CN={common_name}", "-addext", "subjectAltName=DNS:secure.book.example.com")
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
        subprocess.run([*command, "-keyout", pair[0], "-out", pair[1]], check=True, capture_output=True)
        options = ("--key", pair[0], "--cert", pair[1], "--dry-run=client", "-o", "yaml")
        return mesh.cluster.kubectl("create", "secret", "tls", "book-cert", "-n", "istio-ingress", *options)

    def served() -> str:
        resolve = ("--resolve", f"secure.book.example.com:8443:{mesh.cluster.address}")
        return curl("-kv", *resolve, "https://secure.book.example.com:8443/productpage")[1]

    gateway = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: secure}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 8443, name: https, protocol: HTTPS}
    hosts: [secure.book.example.com]
    tls: {mode: SIMPLE, credentialName: book-cert}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: secure}
spec:
  hosts: [secure.book.example.com]
  gateways: [secure]
  http: [{route: [{destination: {host: productpage, port: {number: 9080}}}]}]
"""
    mesh.apply(secret("first"), "istio-ingress")
    with mesh.objects(gateway):
        wait_until(lambda: "CN=first" in served() and "Simple Bookstore App" in served(), "the first certificate", 60)
        mesh.apply(secret("second"), "istio-ingress")
        wait_until(lambda: "CN=second" in served(), "the renewed certificate", 60)
        mesh.cluster.kubectl("delete", "rolebinding", "-n", "istio-ingress", "istio-ingressgateway-sds")
        for place, name in (("istio-system", "istiod"), ("istio-ingress", "istio-ingressgateway")):
            mesh.cluster.kubectl("rollout", "restart", "-n", place, f"deploy/{name}")
            mesh.cluster.kubectl("rollout", "status", "-n", place, f"deploy/{name}")
        wait_until(lambda: mesh.page()[0] == 200, "the plain server goes on", 60)
        assert "CN=second" not in served()
        mesh.cluster.kubectl("apply", "-f", str(SAMPLES / "ingress" / "ingress.yaml"))
