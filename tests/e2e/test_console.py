"""The console as its chart installs it: spans of real proxies over OpenTelemetry's gRPC, and its login."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from pilotfish.install.charts import render

from .conftest import skip_unless_possible
from .harness import SAMPLES, Cluster, curl, fresh, wait_until

pytestmark = [pytest.mark.xdist_group("console")]

NS = "shop"
COLLECTOR = "pilotfish-console.istio-system.svc.cluster.local"
MESH = f"""
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
spec:
  profile: minimal
  meshConfig:
    enableTracing: true
    extensionProviders:
    - name: otel
      opentelemetry: {{service: {COLLECTOR}, port: 4317}}
    - name: otel-http
      opentelemetry: {{service: {COLLECTOR}, port: 4318, http: {{path: /v1/traces}}}}
"""
TRACED = """
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: traces, namespace: shop}
spec: {tracing: [{providers: [{name: PROVIDER}], randomSamplingPercentage: 100}]}
"""
APPS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, namespace: shop}
spec:
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec: {containers: [{name: NAME, image: docker.io/pilotfish/echo, args: ["--port", "8080"]}]}
---
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: shop}
spec: {selector: {app: NAME}, ports: [{name: http, port: 80, targetPort: 8080}]}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Mesh, console, and two applications."""
    skip_unless_possible("rootful")
    with fresh("rootful") as one:
        one.up()
        (one.data / "mesh.yaml").write_text(MESH)
        one.pilotfish("install", "-y", "-f", str(one.data / "mesh.yaml"))
        console = render("console", "console", "istio-system", {"scrapeInterval": 1})
        one.apply("\n---\n".join(map(json.dumps, console)), "istio-system")
        one.kubectl("create", "namespace", NS)
        one.kubectl("label", "namespace", NS, "istio-injection=enabled")
        one.apply("\n---\n".join(APPS.replace("NAME", name) for name in ("client", "echo")), NS)
        one.ready(NS)
        one.ready("istio-system")
        yield one


def requests(cluster: Cluster, count: int, path: str, host: str = "echo") -> None:
    script = f"for i in $(seq {count}); do curl -sS -o /dev/null --max-time 10 http://{host}/{path}; done"
    cluster.kubectl("exec", "-n", NS, "deployment/client", "-c", "client", "--", "sh", "-c", script)


def ask(cluster: Cluster, *arguments: str) -> Any:
    return json.loads(cluster.pilotfish(*arguments, "-o", "json").stdout)


@pytest.mark.parametrize(("provider", "protocol"), [("otel", "grpc_service"), ("otel-http", "http_service")])
def test_spans_of_an_opentelemetry_provider(cluster: Cluster, provider: str, protocol: str) -> None:
    """Istio's provider speaks gRPC unless it has `http`; the proxies' spans arrive, both sides of a request in one
    trace, and are found by service, tag and id."""
    cluster.apply(TRACED.replace("PROVIDER", provider), NS)

    def configured() -> bool:
        dump = ("curl", "-sS", "http://127.0.0.1:15000/config_dump?resource=dynamic_listeners")
        text = cluster.kubectl("exec", "-n", NS, "deployment/client", "-c", "istio-proxy", "--", *dump)
        return "OpenTelemetryConfig" in text and f'"{protocol}"' in text

    wait_until(configured, "the proxy has the provider")
    before = wait_until(lambda: ask_health(cluster), "the console answers")["received"]
    requests(cluster, 10, provider)

    def found() -> list[dict[str, Any]] | None:
        words = ("--service", "echo.shop", "--tag", "http.method=GET", "--limit", "100")
        traces = [one for one in ask(cluster, "traces", *words) if any(of(span, provider) for span in one)]
        complete = [one for one in traces if len(one) >= 2]
        return complete[0] if len(complete) == 10 else None

    trace = wait_until(found, "ten traces from client to echo", 60)
    sides = {span["kind"]: span for span in trace}
    assert sides["SERVER"]["parentId"] == sides["CLIENT"]["id"]
    assert sides["CLIENT"]["localEndpoint"]["serviceName"] == "client.shop"
    assert sides["SERVER"]["localEndpoint"]["serviceName"] == "echo.shop"
    assert sides["SERVER"]["tags"]["istio.canonical_service"] == "echo"
    assert sides["SERVER"]["tags"]["http.status_code"] == "200"
    assert "└─ echo.shop" in cluster.pilotfish("traces", trace[0]["traceId"]).stdout
    after = ask_health(cluster)["received"]
    assert after["spans"] - before["spans"] >= 20
    assert (after["refused"], after["dropped"]) == (0, 0)


def of(span: dict[str, Any], path: str) -> bool:
    return str(span["tags"].get("http.url", "")).endswith(f"/{path}")


def token(cluster: Cluster, account: str, *arguments: str) -> str:
    return cluster.kubectl("create", "token", "-n", NS, account, *arguments).strip()


def ask_health(cluster: Cluster, shown: str = "") -> Any:
    """What the console says of itself, asked through the API server's proxy as the command line does it."""
    shown = shown or cluster.kubectl(
        *("create", "token", "-n", "istio-system", "pilotfish-console-viewer", "--audience", "pilotfish-console")
    )
    return json.loads(through(cluster, "health", shown.strip())[1])


def through(cluster: Cluster, path: str, shown: str = "", namespace: str = "istio-system") -> tuple[int, str]:
    """Status and body of a question through the API server's proxy, with a token for the console."""
    user = json.loads((cluster.data / "kubeconfig").read_text())
    pem = cluster.data / "admin.pem"
    entry = user["users"][0]["user"]
    pem.write_bytes(base64.b64decode(entry["client-certificate-data"]) + base64.b64decode(entry["client-key-data"]))
    server = user["clusters"][0]["cluster"]["server"]
    _, text = curl(
        *("--cacert", str(cluster.data / "pki" / "ca.crt"), "--cert", str(pem), "-w", "\n%{http_code}"),
        *(("-H", f"X-Pilotfish-Token: {shown}") if shown else ()),
        f"{server}/api/v1/namespaces/{namespace}/services/pilotfish-console:20001/proxy/api/{path}",
    )
    body, _, status = text.rpartition("\n")
    return int(status), body


def test_login(cluster: Cluster) -> None:
    """Nobody is answered without a token, neither through the API server nor from a pod; an account of a namespace sees
    that one only; the command line of the administrator gets a token for itself and needs nothing."""
    assert through(cluster, "health")[0] == 401
    inside = ("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}")
    for url, status in (
        (f"http://{COLLECTOR}:20001/api/traces/services", "401"),
        ("http://zipkin.istio-system:9411/api/v2/services", "401"),
        (f"http://{COLLECTOR}:20001/healthz", "200"),
    ):
        said = cluster.kubectl("exec", "-n", NS, "deployment/client", "-c", "client", "--", *inside, url)
        assert said == status, url
    cluster.kubectl("create", "serviceaccount", "-n", NS, "buyer")
    assert through(cluster, "metrics/graph?namespace=shop", token(cluster, "buyer"))[0] == 403
    view = ("--clusterrole=view", f"--serviceaccount={NS}:buyer")
    cluster.kubectl("create", "rolebinding", "-n", NS, "buyer", *view)
    shown = token(cluster, "buyer")
    wait_until(lambda: through(cluster, "metrics/graph?namespace=shop", shown)[0] == 200, "the new right counts", 30)
    assert through(cluster, "metrics/graph?namespace=istio-system", shown)[0] == 403
    targets = json.loads(through(cluster, "health", shown)[1])["targets"]
    assert {one["labels"]["namespace"] for one in targets} == {NS}
    assert {one["labels"]["namespace"] for one in ask_health(cluster)["targets"]} >= {NS, "istio-system"}
    requests(cluster, 5, "counted")

    def counted() -> bool:
        rows = ask(cluster, "metrics", "-n", NS, "--window", "5m")
        return any(row["labels"]["destination_workload"] == "echo" for row in rows)

    wait_until(counted, "the command line shows the requests", 60)


def test_the_command_line_without_rights(cluster: Cluster) -> None:
    """Who may not make a token for the viewer is told what is missing, and may bring one of another account."""
    cluster.kubectl("create", "serviceaccount", "-n", NS, "guest")
    cluster.kubectl("create", "clusterrole", "guest", "--verb=get", "--resource=services/proxy")
    cluster.kubectl("create", "clusterrolebinding", "guest", "--clusterrole=guest", f"--serviceaccount={NS}:guest")
    config = json.loads((cluster.data / "kubeconfig").read_text())
    config["users"][0]["user"] = {"token": token(cluster, "guest")}
    path = cluster.data / "guest.kubeconfig"
    path.write_text(json.dumps(config))
    words = ("metrics", "-n", NS, "--kubeconfig", str(path))
    done = cluster.pilotfish(*words, check=False)
    assert done.returncode == 1
    assert re.search(
        r"create serviceaccounts/token for pilotfish-console-viewer .* PILOTFISH_CONSOLE_TOKEN", done.stderr
    )
    assert done.stderr.count("\n") == 1
    cluster.environment["PILOTFISH_CONSOLE_TOKEN"] = token(cluster, "guest")
    try:
        done = cluster.pilotfish(*words, check=False)
        assert (done.returncode, "may not get all namespaces" in done.stderr) == (1, True)
        cluster.kubectl(
            "create", "rolebinding", "-n", NS, "guest", "--clusterrole=view", f"--serviceaccount={NS}:guest"
        )
        wait_until(lambda: cluster.pilotfish(*words, check=False).returncode == 0, "the guest sees the namespace", 30)
    finally:
        del cluster.environment["PILOTFISH_CONSOLE_TOKEN"]


def test_a_real_prometheus_gives_the_same(cluster: Cluster) -> None:
    """A second console that asks the Prometheus of the samples shows the workloads, edges, codes and, nearly, the
    numbers that the first one has collected itself."""
    text = (SAMPLES / "prometheus" / "prometheus.yaml").read_text()
    cluster.kubectl("apply", "-f", "-", input_=text.replace("scrape_interval: 5s", "scrape_interval: 1s"))
    cluster.kubectl("create", "namespace", "second")
    values = {"prometheus": "http://prometheus.istio-system:9090"}
    cluster.apply("\n---\n".join(map(json.dumps, render("console", "console", "second", values))), "second")
    cluster.apply(APPS.replace("NAME", "late"), NS)
    cluster.ready(NS)
    cluster.ready("istio-system")
    cluster.ready("second")

    def seen(console: str) -> dict[str, Any] | None:
        rows = ask(cluster, "metrics", "-n", NS, "-i", console, "--window", "5m")
        return next((row for row in rows if row["labels"]["destination_workload"] == "late"), None)

    # What either sees at first is where it begins to count.
    sent = 0

    def both_see_it() -> bool:
        nonlocal sent
        requests(cluster, 1, "first", "late")
        sent += 1
        return seen("istio-system") is not None and seen("second") is not None

    wait_until(both_see_it, "both consoles see the workload", 90)
    requests(cluster, 60, "more", "late")
    sent += 60

    def counted(console: str, least: float, most: float) -> dict[str, Any] | None:
        row = seen(console)
        fits = row is not None and least <= row["requests"] * 300 <= most
        return row if row is not None and fits and row["p50"] is not None else None

    own = wait_until(lambda: counted("istio-system", 59.5, sent + 0.5), f"the console has counted about {sent}", 60)
    # Prometheus extrapolates, the less the more often it has scraped.
    other = wait_until(lambda: counted("second", 55, sent * 1.1), f"Prometheus has counted about {sent}", 90)
    assert own["codes"].keys() == other["codes"].keys() == {"200"}
    assert own["errors"] == other["errors"] == 0
    assert other["p50"] <= other["p99"]

    def edges(console: str) -> set[tuple[str, ...]]:
        words = ("create", "token", "-n", console, "pilotfish-console-viewer", "--audience", "pilotfish-console")
        shown = cluster.kubectl(*words).strip()
        found = json.loads(through(cluster, f"metrics/graph?namespace={NS}&window=300", shown, console)[1])["edges"]
        new = [one["labels"] for one in found if one["labels"]["destination_workload"] == "late"]
        return {tuple(sorted(labels.items())) for labels in new}

    wait_until(lambda: edges("istio-system") == edges("second") != set(), "both draw the same edges", 60)
