"""Metrics, traces and access logs as their users have them: a real Prometheus, a collector, the proxies' logs."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
import yaml

from .conftest import skip_unless_possible
from .harness import SAMPLES, Cluster, curl, fresh, wait_until

pytestmark = [pytest.mark.xdist_group("telemetry")]

NS = "shop"
DASHBOARDS = Path(__file__).parents[2] / "docs" / "dashboards"
PROGRAMS = Path(__file__).parent / "programs"

# `echo` answers under several names, each with rules of its own, so that series tell them apart.
APPS = """
apiVersion: v1
kind: Service
metadata: {name: zipkin, namespace: istio-system}
spec: {selector: {app: zipkin}, ports: [{name: http, port: 9411}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: zipkin, namespace: istio-system}
spec:
  selector: {matchLabels: {app: zipkin}}
  template:
    metadata: {labels: {app: zipkin, sidecar.istio.io/inject: "false"}}
    spec: {containers: [{name: zipkin, image: docker.io/test/collector}]}
---
apiVersion: v1
kind: Service
metadata: {name: other-zipkin, namespace: istio-system}
spec: {selector: {app: other-zipkin}, ports: [{name: http, port: 9411}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: other-zipkin, namespace: istio-system}
spec:
  selector: {matchLabels: {app: other-zipkin}}
  template:
    metadata: {labels: {app: other-zipkin, sidecar.istio.io/inject: "false"}}
    spec: {containers: [{name: zipkin, image: docker.io/test/collector}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client, namespace: shop}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client, version: v7}}
    spec: {containers: [{name: client, image: docker.io/pilotfish/echo}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, namespace: shop}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo, version: v2}}
    spec:
      containers:
      - {name: echo, image: docker.io/pilotfish/echo, args: [ARGUMENTS]}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: shop}
spec:
  selector: {app: echo}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc, port: 7070}, {name: tcp, port: 9000}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: stranger, namespace: outside}
spec:
  selector: {matchLabels: {app: stranger}}
  template:
    metadata: {labels: {app: stranger}}
    spec: {containers: [{name: stranger, image: docker.io/pilotfish/echo, args: ["--port", "8080", "--tcp", "9000"]}]}
---
apiVersion: v1
kind: Service
metadata: {name: stranger, namespace: outside}
spec: {selector: {app: stranger}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: shop, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ingress, namespace: shop}
spec: {hosts: ["*"], gateways: [shop], http: [{route: [{destination: {host: through-gateway, port: {number: 80}}}]}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: client, namespace: shop}
spec:
  workloadSelector: {labels: {app: client}}
  egress: [{hosts: ["*/*"]}]
  outboundTrafficPolicy: {mode: ALLOW_ANY}
"""
NAMES = ("through-gateway", "retried", "aborted", "mirrored", "shadow", "unrouted", "tagged", "logged", "traced")
RULES = {
    "retried": "route: [{destination: {host: retried}}], retries: {attempts: 2, retryOn: 5xx, backoff: 1ms}",
    "aborted": "fault: {abort: {percentage: {value: 100}, httpStatus: 418}}, route: [{destination: {host: aborted}}]",
    "mirrored": "route: [{destination: {host: mirrored}}], mirror: {host: shadow}, mirrorPercentage: {value: 100}",
    "unrouted": "match: [{uri: {prefix: /only}}], route: [{destination: {host: unrouted}}]",
}


def manifests() -> str:
    """All applications, names and rules."""
    ports = range(8081, 8081 + len(NAMES))
    words = ["--port", "8080", "--grpc", "7070", "--tcp", "9000", *(f"--port={number}" for number in ports)]
    parts = [APPS.replace("ARGUMENTS", ", ".join(f'"{word}"' for word in words))]
    # A port each: the server's side tells services apart by these.
    parts += [
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {NS}}}\n"
        f"spec: {{selector: {{app: echo}}, ports: [{{name: http, port: 80, targetPort: {number}}}]}}\n"
        for name, number in zip(NAMES, ports, strict=True)
    ]
    # A port at which nobody listens.
    parts.append(
        "apiVersion: v1\nkind: Service\nmetadata: {name: closed, namespace: outside}\n"
        "spec: {selector: {app: stranger}, ports: [{name: http, port: 80, targetPort: 9}]}\n"
    )
    for name, rule in RULES.items():
        parts.append(
            f"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {NS}}}\n"
            f"spec: {{hosts: [{name}], http: [{{{rule}}}]}}\n"
        )
    return "---\n".join(parts)


Labels = dict[str, str]


@dataclass
class Shop:
    """A mesh with Prometheus, a collector of spans, a client, a server and somebody outside."""

    cluster: Cluster

    # Requests

    def run(self, script: str, app: str = "client", namespace: str = NS) -> str:
        return self.cluster.kubectl(
            "exec", "-n", namespace, f"deployment/{app}", "-c", app, "--", "sh", "-c", script, timeout=60
        )

    def requests(self, url: str, count: int, *arguments: str, app: str = "client", namespace: str = NS) -> list[str]:
        """The status codes of requests, one after the other."""
        words = " ".join(f"'{one}'" for one in arguments)
        script = (
            f"for i in $(seq {count}); do curl -s -o /dev/null -w '%{{http_code}} ' --max-time 10 {words} '{url}'; done"
        )
        return self.run(f"{script}; true", app, namespace).split()

    def python(self, script: str) -> str:
        """Python with the libraries of this environment, inside the client's pod."""
        return self.cluster.kubectl(
            *("exec", "-n", NS, "-i", "deployment/client", "-c", "client", "--", sys.executable, "-"), input_=script
        )

    # What was seen

    def query(self, expression: str) -> list[tuple[Labels, float]]:
        """The series of an instant query, with their values."""
        path = f"/api/v1/namespaces/istio-system/services/prometheus:9090/proxy/api/v1/query?query={quote(expression)}"
        answer = json.loads(self.cluster.kubectl("get", "--raw", path))
        return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    def total(self, expression: str) -> float:
        return sum(value for _, value in self.query(expression))

    def counts(self, metric: str, expected: float, **labels: str) -> None:
        """Wait until the sum of series is this, and no more."""
        chosen = ",".join(f'{name}="{value}"' for name, value in labels.items())
        expression = f"istio_{metric}{{{chosen}}}"
        try:
            wait_until(lambda: self.total(expression) >= expected, expression, 60)
        finally:
            found = self.total(expression)
            assert found == expected, f"{expression} is {found}, not {expected}: {self.query(expression)}"

    def spans(self, collector: str = "zipkin") -> list[dict[str, Any]]:
        path = f"/api/v1/namespaces/istio-system/services/{collector}:9411/proxy/spans"
        found: list[dict[str, Any]] = json.loads(self.cluster.kubectl("get", "--raw", path))
        return found

    def logs(self, app: str, *arguments: str) -> list[str]:
        return self.cluster.kubectl("logs", "-n", NS, f"deployment/{app}", "-c", "istio-proxy", *arguments).splitlines()

    def envoy(self, app: str = "echo") -> tuple[str, str]:
        """Process and start of an application's Envoy, as far as it tells from inside."""
        script = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | grep -q '^[^ ]*envoy -c' && "
        script += "cut -d' ' -f1,22 $p/stat; done; true"
        text = self.cluster.kubectl(
            "exec", "-n", NS, f"deployment/{app}", "-c", "istio-proxy", "--", "sh", "-c", script
        )
        pid, start = text.split()[:2]
        return pid, start

    # Settings

    def mesh(self, **changes: Any) -> None:
        """Change the mesh's configuration: fields to their values, None takes one away."""
        data = self.cluster.get("configmap", "-n", "istio-system", "istio")["data"]
        config = {**yaml.safe_load(data["mesh"]), **changes}
        text = yaml.safe_dump({name: value for name, value in config.items() if value is not None})
        self.cluster.kubectl(
            *("patch", "configmap", "-n", "istio-system", "istio", "--type=merge"),
            *("-p", json.dumps({"data": {"mesh": text}})),
        )

    def tracing(self, **settings: Any) -> None:
        """Change defaultConfig.tracing."""
        data = self.cluster.get("configmap", "-n", "istio-system", "istio")["data"]
        default = yaml.safe_load(data["mesh"])["defaultConfig"]
        self.mesh(defaultConfig={**default, "tracing": settings})


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    """Installed once for this file."""
    skip_unless_possible("rootful")
    with fresh("rootful") as cluster:
        cluster.up()
        image = ("docker.io/test/collector", "--", "/usr/bin/python3", "collector.py", "9411")
        cluster.pilotfish("image", "add", "--workdir", str(PROGRAMS), *image)
        cluster.pilotfish("install", "-y", "--set", "profile=minimal")
        prometheus = (SAMPLES / "prometheus" / "prometheus.yaml").read_text()
        cluster.kubectl("apply", "-f", "-", input_=prometheus.replace("scrape_interval: 5s", "scrape_interval: 1s"))
        cluster.kubectl("apply", "-f", str(SAMPLES / "ingress" / "ingress.yaml"))
        for name in (NS, "outside", "books"):
            cluster.kubectl("create", "namespace", name)
        for name in (NS, "books"):
            cluster.kubectl("label", "namespace", name, "istio-injection=enabled")
        cluster.kubectl("apply", "-f", "-", input_=manifests())
        cluster.kubectl("apply", "-n", "books", "-f", str(SAMPLES / "bookinfo" / "bookinfo.yaml"))
        for name in ("istio-system", "istio-ingress", NS, "outside", "books"):
            cluster.ready(name)
        one = Shop(cluster)
        wait_until(lambda: curl("-f", f"http://{cluster.address}:8080/warm")[0] == 0, "the gateway serves", 60)
        wait_until(lambda: one.requests("http://aborted/", 1) == ["418"], "rules hold")
        yield one


# ------------------------------------------------------------------------------ metrics

IDENTITY = "spiffe://cluster.local/ns/shop/sa/default"
MUTUAL = {
    "source_workload": "client",
    "source_canonical_service": "client",
    "source_canonical_revision": "v7",
    "source_workload_namespace": "shop",
    "source_principal": IDENTITY,
    "source_app": "client",
    "source_version": "v7",
    "source_cluster": "Kubernetes",
    "destination_workload": "echo",
    "destination_workload_namespace": "shop",
    "destination_principal": IDENTITY,
    "destination_app": "echo",
    "destination_version": "v2",
    "destination_service": "echo.shop.svc.cluster.local",
    "destination_service_name": "echo",
    "destination_service_namespace": "shop",
    "destination_canonical_service": "echo",
    "destination_canonical_revision": "v2",
    "destination_cluster": "Kubernetes",
}
SCRAPED = {"__name__", "instance", "job", "namespace", "pod_name"}


def test_requests_count_on_both_sides_with_every_label(shop: Shop) -> None:
    """N requests are N on each reporter, in all four families, and both tell the same story."""
    assert shop.requests("http://echo/hello", 20, "-d", "x" * 100) == ["200"] * 20
    for reporter, policy in (("source", "unknown"), ("destination", "mutual_tls")):
        match = {"reporter": reporter, "destination_service": "echo.shop.svc.cluster.local", "request_protocol": "http"}
        shop.counts("requests_total", 20, **match)
        [(labels, _)] = shop.query(
            f'istio_requests_total{{reporter="{reporter}",destination_service_name="echo",request_protocol="http"}}'
        )
        assert {name: value for name, value in labels.items() if name not in SCRAPED} == {
            "reporter": reporter,
            **MUTUAL,
            "request_protocol": "http",
            "response_code": "200",
            "response_flags": "-",
            "connection_security_policy": policy,
        }
        for family in ("request_duration_milliseconds", "request_bytes", "response_bytes"):
            shop.counts(f"{family}_count", 20, **match)
        received = shop.total(
            f'istio_request_bytes_sum{{reporter="{reporter}",destination_service_name="echo",request_protocol="http"}}'
        )
        assert 20 * 100 < received < 20 * 2000


def test_strangers_are_unknown_whatever_they_say(shop: Shop) -> None:
    """Without a certificate of the mesh nothing a client sends makes it somebody: headers, TLS with ALPN and SNI."""
    peer = "CgZjbGllbnQ="
    forged = (
        *("-H", f"x-envoy-peer-metadata: {peer}", "-H", "x-envoy-peer-metadata-id: sidecar~1.2.3.4~client.shop~x"),
        *(
            "-H",
            f"x-forwarded-client-cert: By={IDENTITY};URI={IDENTITY};DNS=client~shop~client~v7~Kubernetes~client~v7",
        ),
    )
    statuses = shop.requests("http://echo.shop/plain", 7, *forged, app="stranger", namespace="outside")
    assert statuses == ["200"] * 7
    series = (
        'istio_requests_total{reporter="destination",connection_security_policy="none",destination_service_name="echo"}'
    )
    wait_until(lambda: shop.total(series) == 7, "plain requests are counted")
    [(labels, _)] = shop.query(series)
    assert {value for name, value in labels.items() if name.startswith("source_")} == {"unknown", "latest"}
    assert labels["destination_principal"] == "unknown"
    assert labels["destination_workload"] == "echo"
    # TLS as the mesh's clients do it, with a certificate made up for the occasion.
    made = (
        "cd /tmp; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -keyout k -out c "
        f"-subj /CN=x -addext 'subjectAltName=URI:{IDENTITY},DNS:client~shop~client' 2>/dev/null; "
        "(printf 'GET / HTTP/1.1\\r\\nHost: echo\\r\\n\\r\\n'; sleep 1) | "
        "openssl s_client -connect echo.shop:80 -alpn istio-peer-exchange,istio,istio-http/1.1 "
        "-servername outbound_.80_._.echo.shop.svc.cluster.local -cert c -key k 2>&1; true"
    )
    said = shop.run(made, "stranger", "outside")
    assert "alert" in said
    assert "200 OK" not in said
    before = shop.total('istio_requests_total{reporter="destination",destination_service_name="echo"}')
    assert before == shop.total(series) + shop.total(
        f'istio_requests_total{{reporter="destination",destination_service_name="echo",source_principal="{IDENTITY}"}}'
    )


GRPC = """
import asyncio
from google.protobuf.struct_pb2 import Struct
from grpclib.client import Channel, StreamStreamMethod, UnaryUnaryMethod
from grpclib.exceptions import GRPCError

def message(**fields):
    made = Struct()
    made.update(fields)
    return made

async def main():
    channel = Channel("echo", 7070)
    unary = UnaryUnaryMethod(channel, "/pilotfish.echo.Echo/Echo", Struct, Struct)
    for _ in range(3):
        await unary(message(a="b"))
    try:
        await unary(message(code=5))
    except GRPCError as error:
        print(error.status)
    await StreamStreamMethod(channel, "/pilotfish.echo.Echo/Stream", Struct, Struct)([message(a="b")] * 13)
    channel.close()

asyncio.run(main())
"""


def test_grpc(shop: Shop) -> None:
    """Protocol and status are gRPC's; messages are counted in both directions, on both sides."""
    assert "NOT_FOUND" in shop.python(GRPC)
    for reporter in ("source", "destination"):
        match = {"reporter": reporter, "destination_service_name": "echo", "request_protocol": "grpc"}
        shop.counts("requests_total", 4, **match, grpc_response_status="0", response_code="200")
        shop.counts("requests_total", 1, **match, grpc_response_status="5", response_code="200")
        shop.counts("request_messages_total", 3 + 1 + 13, **match)
        shop.counts("response_messages_total", 3 + 13, **match)
    [(labels, _)] = shop.query('istio_request_messages_total{reporter="destination",grpc_response_status="5"}')
    assert MUTUAL.items() <= labels.items()


TCP = "exec 3<>/dev/tcp/echo/9000; printf 'hello\\nworld\\n' >&3; head -n 2 <&3; exec 3>&-"


def test_tcp(shop: Shop) -> None:
    """Connections and bytes, with the same source and destination on both sides; bytes are those of the answers."""
    for _ in range(2):
        assert shop.run(f'bash -c "{TCP}"').split() == ["hello", "world"]
    for reporter in ("source", "destination"):
        match = {"reporter": reporter, "destination_service_name": "echo", "request_protocol": "tcp"}
        shop.counts("tcp_connections_opened_total", 2, **match)
        shop.counts("tcp_connections_closed_total", 2, **match)
        shop.counts("tcp_received_bytes_total", 24, **match)
        shop.counts("tcp_sent_bytes_total", 24, **match)
        for metric in ("opened", "closed"):
            [(labels, _)] = shop.query(
                f'istio_tcp_connections_{metric}_total{{reporter="{reporter}",destination_service_name="echo"}}'
            )
            assert MUTUAL.items() <= labels.items(), (reporter, metric)
            assert "response_code" not in labels


def test_tcp_counts_while_a_connection_is_open(shop: Shop) -> None:
    """Bytes of a connection that stays open are there before it ends, on both sides, and once when it has ended."""
    sides = [{"reporter": one, "destination_service_name": "echo"} for one in ("source", "destination")]
    before = [
        (shop.total(f'istio_tcp_sent_bytes_total{{reporter="{one["reporter"]}",destination_service_name="echo"}}'))
        for one in sides
    ]
    closed = shop.total("istio_tcp_connections_closed_total")
    script = (
        "exec 3<>/dev/tcp/echo/9000; printf 'hello\\n' >&3; head -n 1 <&3; until [ -e /tmp/end ]; do sleep 0.1; done"
    )
    command = ("exec", "-n", NS, "deployment/client", "-c", "client", "--", "bash", "-c", script)
    with shop.cluster.popen(*command) as process:
        for one, count in zip(sides, before, strict=True):
            shop.counts("tcp_sent_bytes_total", count + 6, **one)
        assert shop.total("istio_tcp_connections_closed_total") == closed
        shop.run("touch /tmp/end")
        process.wait()
    wait_until(lambda: shop.total("istio_tcp_connections_closed_total") == closed + 2, "closed on both sides")
    for one, count in zip(sides, before, strict=True):
        shop.counts("tcp_sent_bytes_total", count + 6, **one)


def test_errors(shop: Shop) -> None:
    """Codes and flags of what went wrong: the application's, no route, no upstream."""
    assert shop.requests("http://tagged/?status=503", 3) == ["503"] * 3
    shop.counts("requests_total", 3, reporter="source", destination_service_name="tagged", response_code="503")
    shop.counts("requests_total", 3, reporter="destination", destination_service_name="tagged", response_code="503")
    assert shop.requests("http://unrouted/other", 4) == ["404"] * 4
    shop.counts("requests_total", 4, reporter="source", response_flags="NR", response_code="404")
    assert shop.requests("http://closed.outside/", 2) == ["503"] * 2
    host = "closed.outside.svc.cluster.local"
    shop.counts("requests_total", 2, reporter="source", destination_service=host, response_code="503")
    [(labels, _)] = shop.query(f'istio_requests_total{{destination_service="{host}"}}')
    assert "UF" in labels["response_flags"].split(",")
    assert labels["destination_workload"] == "stranger"
    assert labels["destination_principal"] == "unknown"


def test_retries_faults_and_mirrors(shop: Shop) -> None:
    """A retried request is one at its source and several at its destination, an aborted one never arrives, a mirrored
    one arrives twice."""
    assert shop.requests("http://retried/?status=503", 5) == ["503"] * 5
    shop.counts("requests_total", 5, reporter="source", destination_service_name="retried")
    shop.counts("requests_total", 15, reporter="destination", destination_service_name="retried")
    shop.counts("requests_total", 5, reporter="source", destination_service_name="retried", response_flags="URX")
    before = shop.total('istio_requests_total{reporter="source",response_flags="FI",response_code="418"}')
    assert shop.requests("http://aborted/", 6) == ["418"] * 6
    shop.counts("requests_total", before + 6, reporter="source", response_flags="FI", response_code="418")
    assert not shop.query('istio_requests_total{reporter="destination",destination_service_name="aborted"}')
    assert shop.requests("http://mirrored/", 4) == ["200"] * 4
    shop.counts("requests_total", 4, reporter="source", destination_service_name="mirrored")
    arrived = 'istio_requests_total{reporter="destination",destination_service_name=~"mirrored|shadow"}'
    wait_until(lambda: shop.total(arrived) == 8, "the mirrored requests arrive as well")


def test_gateway_is_a_source(shop: Shop) -> None:
    """Requests through the gateway have it as their source, on its own series and on the server's."""
    series = 'istio_requests_total{source_workload="istio-ingressgateway",destination_service_name="through-gateway"}'
    start = shop.total(series)
    for _ in range(5):
        assert curl("-f", f"http://{shop.cluster.address}:8080/")[0] == 0
    wait_until(lambda: shop.total(series) >= start + 10, "both sides count")
    both = {labels["reporter"]: (labels, value) for labels, value in shop.query(series)}
    assert both["source"][1] == both["destination"][1]
    for name in MUTUAL.keys() - {"source_app", "source_version"}:
        assert both["source"][0][name] == both["destination"][0][name], name
    # The gateway has no such labels: at itself they are empty, which Prometheus does not keep, to others unknown.
    assert "source_app" not in both["source"][0]
    assert both["destination"][0]["source_app"] == "unknown"
    assert both["destination"][0]["connection_security_policy"] == "mutual_tls"
    assert both["source"][0]["source_workload_namespace"] == "istio-ingress"


def test_what_is_no_service(shop: Shop) -> None:
    """Traffic to addresses nobody knows has a name of its own, passed through or stopped; a workload without a sidecar
    is known by its endpoint."""
    address = shop.cluster.get("pods", "-n", "outside")["items"][0]["status"]["podIP"]
    assert shop.requests(f"http://{address}:8080/", 3) == ["200"] * 3
    shop.counts("requests_total", 3, reporter="source", destination_service_name="PassthroughCluster")
    assert shop.requests("http://stranger.outside/", 2) == ["200"] * 2
    shop.counts("requests_total", 2, reporter="source", destination_workload="stranger", response_code="200")
    registry_only = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: client, namespace: shop}
spec:
  workloadSelector: {labels: {app: client}}
  egress: [{hosts: ["*/*"]}]
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
"""
    shop.cluster.apply(registry_only, NS)
    wait_until(
        lambda: shop.requests("http://nowhere.example.com/", 1, "--connect-to", "::echo:80") == ["502"], "stopped"
    )
    before = shop.total('istio_requests_total{destination_service_name="BlackHoleCluster"}')
    assert shop.requests("http://nowhere.example.com/", 4, "--connect-to", "::echo:80") == ["502"] * 4
    wait_until(
        lambda: shop.total('istio_requests_total{destination_service_name="BlackHoleCluster"}') >= before + 4, "counted"
    )
    shop.cluster.apply(registry_only.replace("REGISTRY_ONLY", "ALLOW_ANY"), NS)


def test_every_job_scrapes(shop: Shop) -> None:
    """Proxies by port name, the control plane, and pods by annotation are all up, each series once."""
    up = defaultdict(set)
    for labels, value in shop.query("up"):
        up[labels["job"]].add(value)
    assert up == {"envoy-stats": {1.0}, "istiod": {1.0}, "kubernetes-pods": {1.0}}
    assert shop.query("pilot_xds_pushes")
    jobs = {labels["job"] for labels, _ in shop.query("istio_requests_total")}
    assert jobs == {"envoy-stats"}


ELSEWHERE = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: elsewhere}
spec: {hosts: [%s.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: NONE}
"""


def traffic(shop: Shop) -> None:
    """Something for every standard metric: requests that succeed and fail, gRPC, TCP; and a push to all proxies."""
    shop.cluster.apply(ELSEWHERE % time.monotonic_ns(), NS)
    shop.requests("http://echo/", 2)
    shop.requests("http://echo/?status=503", 1)
    shop.python(GRPC)
    shop.run(f'bash -c "{TCP}"')


@pytest.mark.parametrize("path", sorted(DASHBOARDS.glob("*.json")), ids=lambda path: path.stem)
def test_dashboards_show_something(shop: Shop, path: Path) -> None:
    """Every query of every dashboard parses, and finds numbers when there is traffic."""
    board = json.loads(path.read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert expressions
    for expression in expressions:
        asked = re.sub(r'"\$\w+"', '".*"', expression.replace("$__rate_interval", "5m"))

        def shown(asked: str = asked) -> bool:
            if any(not math.isnan(value) for _, value in shop.query(asked)):
                return True
            traffic(shop)  # a rate needs two scrapes that differ
            return False

        wait_until(shown, f"numbers of {expression}")


# ------------------------------------------------------------------------------ changes take effect

FLOW = """
import http.client, json, os, time
connection, number = None, 0
while not os.path.exists("/tmp/MARK"):
    connection = connection or http.client.HTTPConnection("traced", 80, timeout=10)
    number += 1
    at = time.time()
    # The first ones use up connections that rested while what holds now was applied.
    connection.request("GET", f"/MARK-{number}" if number > 5 else "/first")
    answer = connection.getresponse()
    body = answer.read().decode()
    if number > 5:
        print(json.dumps([number, at, body]), flush=True)
    if answer.will_close:
        connection.close()
        connection = None
    time.sleep(0.02)
"""
WITHIN = 2.0
"""Seconds."""


class Sent(NamedTuple):
    number: int
    at: float
    """Unix time."""
    body: str


def flow(shop: Shop, mark: str, change: Callable[[], object]) -> tuple[list[Sent], float]:
    """Requests to `traced/MARK-1`, `-2`, …, one after the other as applications do, on a connection that is kept while
    the proxy keeps it. When they flow, something is changed; the time when that was accepted."""
    script = FLOW.replace("MARK", mark)
    command = ("exec", "-n", NS, "deployment/client", "-c", "client", "--", sys.executable, "-c", script)
    with shop.cluster.popen(*command) as process:
        assert process.stdout is not None
        sent = [Sent(*json.loads(process.stdout.readline()))]
        change()
        accepted = time.time()
        time.sleep(WITHIN)
        shop.run(f"touch /tmp/{mark}")
        sent += [Sent(*json.loads(line)) for line in process.stdout]
    return sent, accepted


def took(sent: list[Sent], accepted: float, effective: Container[int]) -> float:
    """Seconds until the last request without the effect; infinite when it did not come."""
    assert sent[0].number not in effective
    assert sent[-1].number in effective, "no effect"
    return max(one.at for one in sent if one.number not in effective) - accepted


def rule(app: str, spec: str) -> str:
    return f"""
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {{name: change}}
spec: {{selector: {{matchLabels: {{app: {app}}}}}, {spec}}}
"""


def numbers(mark: str, texts: Iterable[str]) -> set[int]:
    """Of the requests that texts tell of."""
    return {int(found[1]) for text in texts if (found := re.search(rf"/{mark}-(\d+)\b", text))}


def sampled(shop: Shop, mark: str, sent: list[Sent]) -> set[int]:
    return {one.number for one in sent if json.loads(one.body)["headers"].get("x-b3-sampled") == "1"}


def counted(shop: Shop, mark: str, sent: list[Sent]) -> set[int]:
    """Those that have a series of their own, by the tag with their path."""

    def found() -> set[int]:
        return numbers(mark, (labels["at"] for labels, _ in shop.query(f'istio_requests_total{{at=~"/{mark}-.*"}}')))

    wait_until(lambda: sent[-1].number in found(), "the last request is counted")
    return found()


def logged(shop: Shop, mark: str, sent: list[Sent]) -> set[int]:
    def found() -> set[int]:
        return numbers(mark, (line for line in shop.logs("echo") if line.startswith("CHANGED")))

    wait_until(lambda: sent[-1].number in found(), "the last request is logged")
    return found()


def filtered(shop: Shop, mark: str, sent: list[Sent]) -> set[int]:
    """Those that are not logged."""
    return {one.number for one in sent} - numbers(mark, shop.logs("echo"))


def spans_of(shop: Shop, mark: str, sent: list[Sent], collector: str) -> list[dict[str, Any]]:
    """The client's spans, when all that were sent to this collector are there: they go out every five seconds."""
    before: list[dict[str, Any]] = []
    while True:
        found = [s for s in shop.spans(collector) if s["kind"] == "CLIENT" and mark in s["tags"].get("http.url", "")]
        if before and len(found) == len(before):
            return found
        before = found
        time.sleep(6)


def collected(shop: Shop, mark: str, sent: list[Sent]) -> set[int]:
    wait_until(lambda: [s for s in shop.spans("other-zipkin") if mark in str(s)], "spans at the other collector")
    found = spans_of(shop, mark, sent, "other-zipkin")
    return numbers(mark, (span["tags"]["http.url"] for span in found))


def tagged(shop: Shop, mark: str, sent: list[Sent]) -> set[int]:
    wait_until(lambda: [s for s in shop.spans() if mark in str(s) and "changed" in s["tags"]], "spans with the tag")
    found = spans_of(shop, mark, sent, "zipkin")
    return numbers(mark, (span["tags"]["http.url"] for span in found if "changed" in span["tags"]))


ZIPKIN, OTHER = "zipkin.istio-system:9411", "other-zipkin.istio-system:9411"
LOG_ALL = "accessLogging: [{match: {mode: SERVER}, providers: [{name: envoy}]}]"
LOG_ERRORS = "accessLogging: [{providers: [{name: envoy}], filter: {expression: 'response.code >= 400'}}]"
TAG = "metrics: [{providers: [{name: prometheus}], overrides: [{tagOverrides: {at: {value: request.url_path}}}]}]"
CHANGES: dict[str, tuple[str, Callable[[Shop], object], Callable[[Shop, str, list[Sent]], set[int]]]] = {
    # The Telemetry that is there before, the change, and which requests show it.
    "sampling": (
        rule("client", "tracing: [{randomSamplingPercentage: 0}]"),
        lambda shop: shop.cluster.apply(rule("client", "tracing: [{randomSamplingPercentage: 100}]"), NS),
        sampled,
    ),
    "collector": ("", lambda shop: shop.tracing(sampling=100, zipkin={"address": OTHER}), collected),
    "span-tags": (
        "",
        lambda shop: shop.cluster.apply(
            rule("client", "tracing: [{customTags: {changed: {literal: {value: x}}}}]"), NS
        ),
        tagged,
    ),
    "metric-tags": ("", lambda shop: shop.cluster.apply(rule("echo", TAG), NS), counted),
    "log-format": (
        rule("echo", LOG_ALL),
        lambda shop: shop.mesh(accessLogFormat="CHANGED %REQ(:PATH)%\n"),
        logged,
    ),
    "log-filter": (rule("echo", LOG_ALL), lambda shop: shop.cluster.apply(rule("echo", LOG_ERRORS), NS), filtered),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_take_effect_within_two_seconds(shop: Shop, name: str) -> None:
    """Two seconds after a change every request shows it, in the same Envoy, on a connection in use."""
    before, change, effective = CHANGES[name]
    processes = shop.envoy("client"), shop.envoy("echo")
    shop.tracing(sampling=100, zipkin={"address": ZIPKIN})
    if before:
        shop.cluster.apply(before, NS)
    try:
        time.sleep(WITHIN)  # what was there before holds
        mark = f"{name}-{time.monotonic_ns()}"
        sent, accepted = flow(shop, mark, lambda: change(shop))
        seconds = took(sent, accepted, effective(shop, mark, sent))
        print(f"{name}: {seconds:.2f} s")
        assert seconds < WITHIN
        assert (shop.envoy("client"), shop.envoy("echo")) == processes
    finally:
        shop.cluster.kubectl("delete", "telemetry", "-n", NS, "change", "--ignore-not-found")
        shop.mesh(accessLogFormat=None)
        shop.tracing()


# ------------------------------------------------------------------------------ Telemetry resources

CHANGED = """
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: echo, namespace: shop}
spec:
  selector: {matchLabels: {app: echo}}
  metrics:
  - providers: [{name: prometheus}]
    overrides:
    - {match: {metric: REQUEST_DURATION, mode: SERVER}, disabled: true}
    - match: {metric: REQUEST_COUNT, mode: SERVER}
      tagOverrides:
        request_host: {value: request.host}
        team: {value: "'blue'"}
        source_principal: {operation: REMOVE}
        destination_version: {value: "request.headers['x-version']"}
  accessLogging:
  - {match: {mode: SERVER}, providers: [{name: envoy}], filter: {expression: "response.code >= 400"}}
"""


def test_metrics_and_logs_follow_telemetry(shop: Shop) -> None:
    """Metrics off, tags added, changed and removed, logs of errors only: in the same Envoy."""
    process = shop.envoy()
    shop.cluster.apply(CHANGED, NS)
    mark = 0

    def logged() -> bool:
        nonlocal mark
        mark += 1
        shop.requests(f"http://logged/bad-{mark}?status=500", 1)
        return any("/bad-" in line for line in shop.logs("echo", "--tail=50"))

    wait_until(logged, "errors are logged", 60)
    assert shop.requests("http://logged/good", 3, "-H", "x-version: v99") == ["200"] * 3
    series = 'istio_requests_total{reporter="destination",request_host="logged",response_code="200"}'
    wait_until(lambda: shop.total(series) == 3, "the new tags are there")
    [(labels, _)] = shop.query(series)
    assert (labels["team"], labels["destination_version"]) == ("blue", "v99")
    assert "source_principal" not in labels
    assert labels["source_workload"] == "client"
    shop.counts("requests_total", 3, reporter="source", destination_service_name="logged", response_code="200")
    shop.counts(
        "request_bytes_count", 3, reporter="destination", destination_service_name="logged", response_code="200"
    )
    assert not shop.query(
        'istio_request_duration_milliseconds_count{reporter="destination",destination_service_name="logged",response_code="200"}'
    )
    lines = shop.logs("echo")
    assert not [line for line in lines if "/good" in line]
    assert [line for line in lines if re.search(r'"GET /bad-\d+\?status=500 HTTP/1.1" 500 ', line)]
    assert shop.envoy() == process
    shop.cluster.kubectl("delete", "telemetry", "-n", NS, "echo")


def test_refused_tags_are_told(shop: Shop) -> None:
    """A filter that is no CEL is refused; a tag that no proxy can evaluate is taken with a warning, as in Istio."""
    bad = CHANGED.replace("response.code >=", "response.code >= (")
    assert "not valid CEL" in shop.cluster.kubectl("apply", "-n", NS, "-f", "-", input_=bad, check=False)
    other = CHANGED.replace("request.host}", "request.size * 2}")
    said = shop.cluster.kubectl("apply", "--dry-run=server", "-n", NS, "-f", "-", input_=other, check=False)
    assert "Warning" in said
    assert "request_host" in said


def test_log_format_follows_the_mesh(shop: Shop) -> None:
    """A log for all proxies, its format and its encoding come and go without a restart."""
    process = shop.envoy()
    try:
        shop.mesh(accessLogFile="/dev/stdout", accessLogFormat="MARK %REQ(:PATH)% %RESPONSE_CODE%\n")

        def seen(pattern: str, path: str) -> bool:
            shop.requests(f"http://logged{path}", 1)
            return any(re.search(pattern, line) for line in shop.logs("echo", "--tail=20"))

        wait_until(lambda: seen(r"^MARK /text 200$", "/text"), "the format holds", 60)
        shop.mesh(accessLogFormat=None, accessLogEncoding="JSON")
        wait_until(lambda: seen(r'^\{.*"path":"/json"', "/json"), "logs are JSON", 60)
    finally:
        shop.mesh(accessLogFile=None, accessLogFormat=None, accessLogEncoding=None)
    assert shop.envoy() == process


# ------------------------------------------------------------------------------ traces


def books(shop: Shop, *arguments: str) -> None:
    """One request to the product page, from outside the mesh."""
    assert shop.requests("http://productpage.books:9080/productpage", 1, *arguments) == ["200"]


def test_one_trace_through_the_whole_application(shop: Shop) -> None:
    """A collector that appears later is used at once: client and server spans of one request form one tree, with
    Istio's names and tags, in a process that was not restarted."""
    process = shop.envoy()
    shop.tracing(
        sampling=100,
        zipkin={"address": ZIPKIN},
        customTags={"shop": {"literal": {"value": "blue"}}},
    )

    def traced() -> dict[str, dict[str, Any]]:
        books(shop)
        found: defaultdict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        for span in shop.spans():
            found[span["traceId"]][span["id"]] = span
        whole = [
            t
            for t in found.values()
            if any(s["name"].startswith("ratings") and s["kind"] == "SERVER" for s in t.values())
        ]
        return next((t for t in whole if len(t) >= 8), {})

    trace = wait_until(traced, "a trace with all services", 60)
    names = {
        (span["kind"], span["localEndpoint"]["serviceName"], span["name"].partition(".")[0]) for span in trace.values()
    }
    assert names == {
        ("CLIENT", "client.shop", "productpage"),
        *(
            (kind, f"{one}.books", other)
            for kind, one, other in (
                ("SERVER", "productpage", "productpage"),
                ("CLIENT", "productpage", "details"),
                ("SERVER", "details", "details"),
                ("CLIENT", "productpage", "reviews"),
                ("SERVER", "reviews", "reviews"),
                ("CLIENT", "reviews", "ratings"),
                ("SERVER", "ratings", "ratings"),
            )
        ),
    }
    roots = [span for span in trace.values() if "parentId" not in span]
    assert [span["localEndpoint"]["serviceName"] for span in roots] == ["client.shop"]
    for span in trace.values():
        if span not in roots:
            parent = trace[span["parentId"]]
            assert parent["timestamp"] <= span["timestamp"]
            assert parent["kind"] != span["kind"]
    server = next(s for s in trace.values() if s["kind"] == "SERVER" and s["name"].startswith("ratings"))
    assert server["name"] == "ratings.books.svc.cluster.local:9080/*"
    expected = {
        "component": "proxy",
        "http.method": "GET",
        "http.status_code": "200",
        "istio.canonical_service": "ratings",
        "istio.canonical_revision": "v1",
        "istio.namespace": "books",
        "istio.mesh_id": "cluster.local",
        "istio.cluster_id": "Kubernetes",
        "response_flags": "-",
        "shop": "blue",
    }
    assert expected.items() <= server["tags"].items()
    assert server["tags"]["guid:x-request-id"]
    assert shop.envoy() == process


def test_tracing_resources(shop: Shop) -> None:
    """Sampling, tags and reporting per workload, over the mesh's settings."""
    shop.tracing(sampling=100, zipkin={"address": ZIPKIN})
    rule = """
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: client, namespace: shop}
spec:
  selector: {matchLabels: {app: client}}
  tracing: [{%s}]
"""

    def spans(path: str) -> list[dict[str, Any]]:
        return [s for s in shop.spans() if path in s["tags"].get("http.url", "") and s["kind"] == "CLIENT"]

    tags = "customTags: {who: {header: {name: x-who, defaultValue: nobody}}, mode: {literal: {value: test}}}"
    shop.cluster.apply(rule % f"randomSamplingPercentage: 100, {tags}", NS)

    def tagged() -> bool:
        shop.requests("http://traced/tagged", 1, "-H", "x-who: me")
        return any(s["tags"].get("who") == "me" and s["tags"]["mode"] == "test" for s in spans("/tagged"))

    wait_until(tagged, "the tags are there", 60)
    shop.cluster.apply(rule % "disableSpanReporting: true", NS)
    shop.cluster.apply(rule.replace("client", "echo") % "disableSpanReporting: true", NS)
    number = 0

    def quiet() -> bool:
        nonlocal number
        number += 1
        return "x-b3-sampled" not in shop.run(f"curl -s http://traced/quiet-{number}").lower()

    wait_until(quiet, "nothing is traced", 60)
    shop.requests("http://traced/silent", 5)
    shop.cluster.kubectl("delete", "telemetry", "-n", NS, "client", "echo")
    shop.run("true")
    wait_until(lambda: not quiet(), "traced again", 60)
    wait_until(lambda: spans(f"/quiet-{number}"), "reported again", 60)
    assert not spans("/silent")


def test_chosen_requests_only(shop: Shop) -> None:
    """`trace-request` has requests with a header traced and logged, no others, and ends by itself."""
    shop.tracing(sampling=0, zipkin={"address": ZIPKIN})
    said = shop.cluster.pilotfish(
        "trace-request", "--to", "traced.shop", "--for", "12s", "--header", "x-debug=1"
    ).stdout
    assert "traced and logged until" in said

    def logged(path: str) -> bool:
        return any(path in line for line in shop.logs("echo"))

    number = 0

    def on() -> bool:
        nonlocal number
        number += 1
        shop.requests(f"http://traced/chosen-{number}", 1, "-H", "x-debug: 1")
        return logged("/chosen-")

    wait_until(on, "the request is logged", 8)
    shop.requests("http://traced/wrong", 3, "-H", "x-debug: 2")
    shop.requests("http://traced/none", 3)
    wait_until(lambda: [s for s in shop.spans() if "/chosen-" in s["tags"].get("http.url", "")], "it is traced", 60)
    assert not logged("/wrong")
    assert not logged("/none")
    assert not [s for s in shop.spans() if re.search("/wrong|/none", s["tags"].get("http.url", ""))]
    late = 0

    def off() -> bool:
        nonlocal late
        late += 1
        shop.requests(f"http://traced/late-{late}", 1, "-H", "x-debug: 1")
        return not logged(f"/late-{late}")

    wait_until(off, "it has ended", 60)
    problem = shop.cluster.pilotfish("trace-request", "--to", "nobody.shop", "--header", "x-debug", check=False)
    assert (problem.returncode, "there is no service nobody in namespace shop" in problem.stderr) == (1, True)


def test_opentelemetry(shop: Shop) -> None:
    """A provider for OpenTelemetry gets spans and passes W3C context on, in place of Zipkin and B3."""
    provider = {
        "name": "otel",
        "opentelemetry": {
            "service": "zipkin.istio-system.svc.cluster.local",
            "port": 9411,
            "http": {"path": "/v1/traces", "timeout": "5s"},
        },
    }
    shop.mesh(extensionProviders=[provider], defaultProviders={"metrics": ["prometheus"], "tracing": ["otel"]})
    shop.tracing(sampling=100)

    def seen() -> bool:
        headers = shop.run("curl -s http://traced/otel").lower()
        found = {s["service"] for s in shop.spans() if s.get("otlp")}
        return "traceparent" in headers and {"client.shop", "echo.shop"} <= found

    wait_until(seen, "spans in OTLP", 60)
    shop.mesh(extensionProviders=None, defaultProviders={"metrics": ["prometheus"]})


def test_a_dead_collector_costs_no_request(shop: Shop) -> None:
    """Requests are answered with a collector that does not exist, one that does not listen and an unknown provider."""
    for address in ("nowhere.istio-system:9411", "zipkin.istio-system:9", "10.255.255.1:9411"):
        shop.tracing(sampling=100, zipkin={"address": address})
        assert shop.requests("http://traced/", 10) == ["200"] * 10
    shop.mesh(defaultProviders={"metrics": ["prometheus"], "tracing": ["unknown"], "accessLogging": ["unknown"]})
    assert shop.requests("http://traced/", 10) == ["200"] * 10
    shop.mesh(defaultProviders={"metrics": ["prometheus"]})
