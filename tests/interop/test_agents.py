"""The wire contract is the border: Istio's agent with our control plane, our agent with Istio's, and one control plane
in place of the other below running pods."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.harness import fresh, wait_until

from pilotfish.envoy.proto import envoy_binary

from .agents import NAMESPACE, ROOT, Town, Traffic, workload
from .istiod import BASE, DISCOVERY, STOCK, add_images, install_istiod, run_helm, values

pytestmark = [pytest.mark.xdist_group("interop-agents")]

THEIRS, SOTW, OURS, STREET = "theirs", "theirs-sotw", "ours", "street"
"""Istio's agent; the same with state-of-the-world streams and DNS capture; our agent with DNS capture; no agent."""
NAMES = [THEIRS, SOTW, OURS]
PAIRS = list(product(NAMES, NAMES))
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
"""


@pytest.fixture(scope="module", params=["pilotfishd", "istiod"])
def town(request: pytest.FixtureRequest, programs: Path, istio_source: Path) -> Iterator[Town]:
    """Workloads with both agents under one of the control planes, with strict mutual TLS."""
    with fresh("rootful") as cluster:
        cluster.up()
        one = Town(cluster, programs, istio_source, envoy_binary())
        if request.param == "istiod":
            install_istiod(cluster, programs, istio_source, one.envoy, *STOCK)
        else:
            add_images(cluster, programs, one.envoy)
            cluster.pilotfish("install", "-y", "--set", "profile=minimal")
        settle(one)
        yield one


def settle(town: Town) -> None:
    """The workloads."""
    town.cluster.kubectl("create", "namespace", NAMESPACE)
    town.apply(STRICT, "istio-system")
    town.apply(town.with_istios_agent(workload(THEIRS, PROXY_CONFIG_XDS_AGENT="true")))
    town.apply(town.with_istios_agent(workload(SOTW, ISTIO_DELTA_XDS="false", ISTIO_META_DNS_CAPTURE="true")))
    town.apply(town.with_our_agent(workload(OURS, ISTIO_META_DNS_CAPTURE="true")))
    town.apply(workload(STREET))
    town.cluster.ready(NAMESPACE)


def test_pods_are_those_of_the_two_injectors(town: Town) -> None:
    """Each has its agent beside it, and its probes go through the agent."""
    seen = {}
    for pod in town.cluster.get("pods", "-n", NAMESPACE)["items"]:
        app, *proxy = pod["spec"]["containers"]
        seen[pod["metadata"]["labels"]["app"]] = [one["image"] for one in proxy]
        path = app["readinessProbe"]["httpGet"]["path"]
        assert path == ("/app-health/app/readyz" if proxy else "/")
    assert seen.pop(STREET) == []
    assert seen[THEIRS] == seen[SOTW] == ["docker.io/istio/proxyv2:interop"]
    assert seen[OURS][0].startswith("docker.io/pilotfish/proxyv2:")
    assert "pilot-agent" in town.run(THEIRS, "ps", "-o", "args=", "1", container="istio-proxy")


@pytest.mark.parametrize("client", NAMES)
def test_everybody_reaches_everybody_as_themselves(town: Town, client: str) -> None:
    """Requests and TCP connections between all agents use mutual TLS with the workload's identity; without, nobody
    gets in."""
    for server in NAMES:
        town.expect("200", [client], f"http://{server}/")
        proved = town.headers(client, f"http://{server}/")["x-forwarded-client-cert"]
        assert f"URI=spiffe://cluster.local/ns/{NAMESPACE}/sa/{client}" in proved
        assert f"By=spiffe://cluster.local/ns/{NAMESPACE}/sa/{server}" in proved
        line = f"(echo hello; sleep 0.3) | curl -s --max-time 3 telnet://{server}:9090; true"
        assert town.run(client, "sh", "-c", line) == "hello\n"
    assert town.status(STREET, f"http://{client}/") == "000"


def test_routes_follow(town: Town) -> None:
    """A VirtualService holds for the callers with both agents, and is gone again without it."""
    rule = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: teapot}
spec:
  hosts: [ours]
  http: [{match: [{uri: {prefix: /tea}}], directResponse: {status: 418}}, {route: [{destination: {host: theirs}}]}]
"""
    town.apply(rule)
    town.expect("418", NAMES, "http://ours/tea")
    for name in NAMES:
        assert f"/sa/{THEIRS};" in town.headers(name, "http://ours/")["x-forwarded-client-cert"]
    town.delete(rule)
    town.expect("200", NAMES, "http://ours/tea")


def test_captured_names(town: Town) -> None:
    """A ServiceEntry's host, which no DNS server knows, is a name for whoever captures DNS, and follows changes."""
    entry = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: elsewhere}
spec:
  hosts: [HOST]
  addresses: [240.9.9.9]
  ports: [{number: 80, targetPort: 8080, name: http, protocol: HTTP}]
  location: MESH_INTERNAL
  resolution: STATIC
  workloadSelector: {labels: {app: theirs}}
"""
    for host in ("one.example.org", "two.example.org"):
        town.apply(entry.replace("HOST", host))
        town.expect("200", (SOTW, OURS), f"http://{host}/")
        assert "Could not resolve host" in town.ask(THEIRS, f"http://{host}/")
    town.expect("000", (SOTW, OURS), "http://one.example.org/")
    town.expect("200", (SOTW, OURS), "http://ours/")
    town.delete(entry)


FRESH = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: fresh-NAME}
spec: {host: NAME, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}}
"""


def test_certificates_are_renewed_below_traffic(town: Town) -> None:
    """Certificates of 20 s are renewed by both agents again and again; each request makes a connection of its own to
    the other proxy, and none fails."""
    brief = [("brief-theirs", town.with_istios_agent), ("brief-ours", town.with_our_agent)]
    manifests = [inject(workload(name, SECRET_TTL="20s")) for name, inject in brief]
    names = [name for name, _ in brief]
    manifests += [FRESH.replace("NAME", name) for name in (THEIRS, OURS, *names)]
    for one in manifests:
        town.apply(one)
    town.cluster.ready(NAMESPACE, *names)

    def certificate(name: str) -> str:
        """The hash of what a client shows."""
        found = re.search(r"Hash=(\w+)", town.headers(name, "http://theirs/")["x-forwarded-client-cert"])
        assert found is not None
        return found[1]

    pairs = [*product(names, names), (names[0], OURS), (names[1], THEIRS)]
    for client, server in pairs:
        town.expect("200", [client], f"http://{server}/")  # it has heard of the other's endpoints
    with Traffic(town, pairs) as traffic:
        for name in names:
            seen = {certificate(name)}

            def renewed(name: str = name, seen: set[str] = seen) -> bool:
                seen.add(certificate(name))
                return len(seen) >= 3

            wait_until(renewed, f"{name} renews twice", 45)
    assert traffic.failures() == {}
    for one in manifests:
        town.delete(one)


def test_the_control_plane_restarts_below_traffic(town: Town) -> None:
    """No request fails while the control plane is replaced, and all proxies follow the new one."""
    with Traffic(town, PAIRS) as traffic:
        town.cluster.kubectl("rollout", "restart", "-n", "istio-system", "deploy/istiod")
        town.cluster.kubectl("rollout", "status", "-n", "istio-system", "deploy/istiod", "--timeout=90s")
        follow(town)
    assert traffic.failures() == {}


def follow(town: Town) -> None:
    """Wait until every proxy has heard of a change made now."""
    rule = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: heard}
spec:
  hosts: [street]
  http: [{directResponse: {status: 299}}]
"""
    town.apply(rule)
    town.expect("299", NAMES, "http://street/", 60)
    town.delete(rule)
    town.expect("200", NAMES, "http://street/", 60)


GATEWAY = """
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec: {selector: {app: NAME}, ports: [{name: https, port: 8443}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  selector: {matchLabels: {app: NAME}}
  template:
    metadata:
      annotations: {inject.istio.io/templates: gateway}
      labels: {app: NAME, istio: border}
    spec: {containers: [{name: istio-proxy, image: auto}]}
"""
BORDER = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: certificates}
rules: [{apiGroups: [""], resources: [secrets], verbs: [get, watch, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: certificates}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: certificates}
subjects: [{kind: ServiceAccount, name: default}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: border}
spec:
  selector: {istio: border}
  servers:
  - port: {number: 8443, name: https, protocol: HTTPS}
    tls: {mode: SIMPLE, credentialName: border}
    hosts: [town.example.org]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: border}
spec:
  hosts: [town.example.org]
  gateways: [border]
  http:
  - {match: [{uri: {prefix: /ours}}], route: [{destination: {host: ours, port: {number: 80}}}]}
  - route: [{destination: {host: theirs, port: {number: 80}}}]
"""


def test_gateways_of_both_kinds(town: Town, tmp_path: Path) -> None:
    """A gateway with either agent serves a certificate from a Secret, follows its replacement, and reaches pods with
    both agents by mutual TLS."""
    for name, inject in (("gate-theirs", town.with_istios_agent), ("gate-ours", town.with_our_agent)):
        town.apply(inject(GATEWAY.replace("NAME", name)))
    town.apply(BORDER)
    for round_ in ("first", "second"):
        certificate = _certificate(tmp_path / round_)
        secret = ("create", "secret", "tls", "border", "-n", NAMESPACE, "--dry-run=client", "-o", "yaml")
        files = (f"--cert={tmp_path / round_}.pem", f"--key={tmp_path / round_}.key")
        town.apply(town.cluster.kubectl(*secret, *files))
        town.cluster.ready(NAMESPACE, "gate-theirs", "gate-ours")
        for gate, (path, server) in product(("gate-theirs", "gate-ours"), (("/ours", OURS), ("/", THEIRS))):
            script = (
                f"echo '{certificate}' > /tmp/ca; curl -sS --max-time 5 --cacert /tmp/ca "
                f"--connect-to ::{gate}:8443 https://town.example.org{path}"
            )
            by = f"By=spiffe://cluster.local/ns/{NAMESPACE}/sa/{server};"
            wait_until(
                partial(lambda script, by: by in town.run(STREET, "sh", "-c", script, check=False), script, by),
                f"{gate} leads to {server} with the {round_} certificate",
                30,
            )
    town.delete(BORDER)


def _certificate(path: Path) -> str:
    """A certificate of its own for the host of the gateways; its PEM."""
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=town.example.org", "-addext", "subjectAltName=DNS:town.example.org"]
    files = ["-keyout", f"{path}.key", "-out", f"{path}.pem"]
    subprocess.run(["openssl", *words, *names, *files], check=True, capture_output=True)
    return Path(f"{path}.pem").read_text()


def test_extensions_come_apart_from_listeners(town: Town) -> None:
    """A filter whose settings come by ECDS, through Istio's agent as to our proxies; a change of the settings alone is
    followed, too."""
    extension = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: marked}
spec:
  configPatches:
  - applyTo: EXTENSION_CONFIG
    match: {context: SIDECAR_OUTBOUND}
    patch:
      operation: ADD
      value:
        name: marked
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
          mutations: {request_mutations: [{append: {header: {key: x-marked, value: VALUE}}}]}
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_OUTBOUND
      listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}
    patch:
      operation: INSERT_FIRST
      value:
        name: marked
        config_discovery:
          config_source: {ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3}
          type_urls: [type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation]
"""
    for value in ("once", "again"):
        town.apply(extension.replace("VALUE", value))
        for name in NAMES:
            wait_until(
                partial(lambda name, value: town.headers(name, "http://ours/").get("x-marked") == value, name, value),
                f"{name} marks its requests with {value}",
                30,
            )
    town.delete(extension)
    for name in NAMES:
        wait_until(
            partial(lambda name: "x-marked" not in town.headers(name, "http://ours/"), name), f"{name} stops", 30
        )
        assert town.status(name, "http://ours/") == "200"


FLEET = """
apiVersion: v1
kind: Service
metadata: {name: fleet}
spec: {selector: {fleet: machines}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: machines}
spec:
  metadata: {labels: {fleet: machines}}
  template: {serviceAccount: machine, ports: {http: 8080}}
"""


def test_machines_register_themselves(town: Town) -> None:
    """An agent that is told its WorkloadGroup becomes a WorkloadEntry, which Services select. It is an endpoint while
    its agent finds it healthy, also after the control plane has been replaced, and gone soon after it is."""
    town.apply(FLEET)
    ill = "/etc/istio/proxy/ill"
    probe = {"exec": {"command": ["test", "!", "-e", ill]}, "periodSeconds": 1, "failureThreshold": 1}
    machine = workload("machine", {"readinessProbe": probe}, ISTIO_META_AUTO_REGISTER_GROUP="machines")
    town.apply(town.with_istios_agent(machine))
    town.cluster.ready(NAMESPACE, "machine")

    def entries() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = town.cluster.get("workloadentries", "-n", NAMESPACE)["items"]
        return found

    def healthy() -> str:
        conditions = [c for one in entries() for c in (one.get("status") or {}).get("conditions", ())]
        return next((str(c["status"]) for c in conditions if c["type"] == "Healthy"), "")

    pod = town.cluster.get("pods", "-n", NAMESPACE, "-l", "app=machine")["items"][0]
    wait_until(lambda: healthy() == "True", "the machine is registered, and healthy", 30)
    (entry,) = entries()
    assert entry["metadata"]["name"] == f"machines-{pod['status']['podIP']}"
    assert entry["metadata"]["ownerReferences"][0]["name"] == "machines"
    assert entry["spec"]["address"] == pod["status"]["podIP"]
    assert (entry["spec"]["serviceAccount"], entry["spec"]["labels"]["fleet"]) == ("machine", "machines")
    town.expect("200", NAMES, "http://fleet/")
    assert "/sa/machine;" in town.headers(OURS, "http://fleet/")["x-forwarded-client-cert"]

    with Traffic(town, [(THEIRS, "fleet"), (OURS, "fleet")]) as traffic:
        town.cluster.kubectl("rollout", "restart", "-n", "istio-system", "deploy/istiod")
        town.cluster.kubectl("rollout", "status", "-n", "istio-system", "deploy/istiod", "--timeout=90s")
        serving = [one["metadata"]["name"] for one in _control_planes(town)]
        wait_until(lambda: entries()[0]["metadata"]["annotations"][CONTROLLER] in serving, "it has moved", 60)
    assert traffic.failures() == {}

    town.run("machine", "touch", ill, container="istio-proxy")
    wait_until(lambda: healthy() == "False", "the machine is found ill", 30)
    town.expect("503", NAMES, "http://fleet/")
    town.cluster.kubectl("delete", "deploy", "-n", NAMESPACE, "machine", "--wait=true")
    wait_until(lambda: not entries(), "the machine is forgotten", 60)
    town.delete(FLEET)
    town.delete(machine)


CONTROLLER = "istio.io/workloadController"


def _control_planes(town: Town) -> list[dict[str, Any]]:
    found = town.cluster.get("pods", "-n", "istio-system", "-l", "app=istiod")["items"]
    return [one for one in found if not one["metadata"].get("deletionTimestamp")]


def test_what_people_ask_the_agent(town: Town) -> None:
    """`pilot-agent request` and `wait`, readiness, and the page with the metrics of agent, proxy and application."""
    agent = str(town.programs / "pilot-agent")
    assert '"state": "LIVE"' in town.run(THEIRS, agent, "request", "GET", "server_info", container="istio-proxy")
    town.run(THEIRS, agent, "wait", "--timeoutSeconds", "5", container="istio-proxy")
    assert town.status(THEIRS, "http://localhost:15021/healthz/ready") == "200"
    page = town.ask(THEIRS, "http://localhost:15020/stats/prometheus")
    assert "istio_agent_cert_expiry_seconds" in page
    assert "envoy_cluster_upstream_cx_total" in page or "envoy_server_uptime" in page


@pytest.mark.parametrize("town", ["istiod"], indirect=True)
def test_one_control_plane_in_place_of_the_other(town: Town) -> None:
    """With `helm upgrade`, below running pods and traffic: the same root, every proxy comes over, certificates of the
    new authority are trusted, and no request fails; and back."""
    root = ("get", "secret", "-n", "istio-system", "istio-ca-secret", "-o", "jsonpath={.data}")
    before = town.cluster.kubectl(*root)
    there_and_back(town)
    assert town.cluster.kubectl(*root) == before


def test_a_plugged_in_authority_serves_both(programs: Path, istio_source: Path, tmp_path: Path) -> None:
    """The same with an intermediate authority of the user's in the Secret `cacerts`."""
    with fresh("rootful") as cluster:
        cluster.up()
        town = Town(cluster, programs, istio_source, envoy_binary())
        cluster.kubectl("create", "namespace", "istio-system")
        files = [f"--from-file={path}" for path in _intermediate(tmp_path)]
        cluster.kubectl("create", "secret", "generic", "cacerts", "-n", "istio-system", *files)
        install_istiod(cluster, programs, istio_source, town.envoy, *STOCK)
        settle(town)
        there_and_back(town)
        assert "istio-ca-secret" not in cluster.kubectl("get", "secrets", "-n", "istio-system", "-o", "name")


def _intermediate(folder: Path) -> list[Path]:
    """What Istio's documentation has in `cacerts`."""
    script = """
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /O=Root -keyout root.key -out root-cert.pem
    openssl req -newkey rsa:2048 -nodes -subj /O=Intermediate -keyout ca-key.pem -out ca.csr
    printf 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n' > ext
    openssl x509 -req -in ca.csr -CA root-cert.pem -CAkey root.key -CAcreateserial -days 2 -extfile ext -out ca-cert.pem
    cat ca-cert.pem root-cert.pem > cert-chain.pem
    """
    subprocess.run(["sh", "-e", "-c", script], cwd=folder, check=True, capture_output=True)
    return [folder / name for name in ("ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem")]


def there_and_back(town: Town) -> None:
    """Our control plane in place of Istio's, and Istio's in place of ours, below running pods."""
    pods = _pods(town)
    ours = [("istio-base", ROOT / "charts" / "base", ()), ("istiod", ROOT / "charts" / "istiod", ())]
    theirs = [
        ("istio-base", town.source / BASE, ()),
        ("istiod", town.source / DISCOVERY, (*values(town.source, town.envoy), *STOCK)),
    ]
    with Traffic(town, PAIRS) as traffic:
        for releases, image in ((ours, "pilotfishd"), (theirs, "istio/pilot")):
            for name, chart, arguments in releases:
                where = (name, str(chart), "-n", "istio-system")
                run_helm(town.cluster, "upgrade", *where, "--wait", "--reset-values", *arguments)
            deployment = town.cluster.get("deploy", "-n", "istio-system", "istiod")
            assert image in deployment["spec"]["template"]["spec"]["containers"][0]["image"]
            follow(town)
            # A certificate of the new authority: a pod that starts now.
            town.cluster.kubectl("delete", "deploy", "-n", NAMESPACE, "newcomer", "--ignore-not-found")
            town.apply(town.with_istios_agent(workload("newcomer")))
            town.cluster.ready(NAMESPACE, "newcomer")
            town.expect("200", NAMES, "http://newcomer/")
            for name in NAMES:
                town.expect("200", ["newcomer"], f"http://{name}/")
    assert traffic.failures() == {}
    assert pods.items() <= _pods(town).items()


def _pods(town: Town) -> dict[str, int]:
    """The restarts of each pod."""
    return {
        pod["metadata"]["name"]: sum(one["restartCount"] for one in pod["status"]["containerStatuses"])
        for pod in town.cluster.get("pods", "-n", NAMESPACE)["items"]
    }
