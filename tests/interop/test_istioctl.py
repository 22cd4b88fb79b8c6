"""istioctl, unchanged, against a mesh of ours: each command does what its users expect."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from tests.e2e.harness import SAMPLES, CommandError, curl, wait_until
from tests.e2e.mesh import BOOKS, Mesh, installed

from pilotfish.ca.authority import Authority, key_pem, new_key, utc_now

pytestmark = pytest.mark.xdist_group("interop-istioctl")

RULES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - route:
    - {destination: {host: reviews, subset: v1}, weight: 90}
    - {destination: {host: reviews, subset: v3}, weight: 10}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: viewer}
spec:
  selector: {matchLabels: {app: details}}
  action: ALLOW
  rules: [{to: [{operation: {methods: [GET]}}]}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
"""
REVIEWS = f"reviews.{BOOKS}.svc.cluster.local"

Istioctl = Callable[..., str]


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """A mesh with a gateway, Bookinfo and some rules."""
    with installed() as one:
        one.apply(RULES)
        one.client = "deploy/ratings-v1"  # its pods are replaced here
        yield one


@pytest.fixture(scope="module")
def istioctl(mesh: Mesh, programs: Path) -> Istioctl:
    """Run it as a user would; what it printed. `status`: the exit code that is expected."""

    def run(*arguments: str, status: int = 0, cwd: Path = Path("/")) -> str:
        command = [str(programs / "istioctl"), *arguments]
        done = subprocess.run(
            command, env=mesh.cluster.env(), cwd=cwd, capture_output=True, text=True, check=False, timeout=120
        )
        if done.returncode != status:
            raise CommandError(f"{arguments}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def page(mesh: Mesh) -> str:
    """The pod of the product page, as istioctl takes it."""
    return f"{mesh.pod('productpage')}.{BOOKS}"


@pytest.fixture(scope="module")
def gateway(mesh: Mesh) -> str:
    items = mesh.cluster.get("pods", "-n", "istio-ingress")["items"]
    return f"{items[0]['metadata']['name']}.istio-ingress"


def rows(text: str) -> list[list[str]]:
    """The cells of a table, header first: columns are two spaces apart or more."""
    return [re.split(r"\s{2,}|\t", line.strip()) for line in text.splitlines() if line.strip()]


# ---------------------------------------------------------------------------------------------------------- versions


def test_version(mesh: Mesh, istioctl: Istioctl) -> None:
    """Both ways to ask find the control plane and all proxies, with the Istio release that they are as good as."""
    for command in (("version",), ("experimental", "version")):
        text = istioctl(*command)
        assert re.search(r"control plane version: \d+\.\d+\.\d+", text)
        assert re.search(r"data plane version: \S+ \(7 proxies\)", text)
    found = json.loads(istioctl("version", "-o", "json"))
    assert found["meshVersion"][0]["Component"] == "pilot"
    assert {one["Type"] for one in found["dataPlaneVersion"]} == {"sidecar", "gateway"}


# ------------------------------------------------------------------------------------------------------ proxy-status


def synced(istioctl: Istioctl) -> dict[str, list[str]]:
    """Of each proxy the states of its clusters, listeners, endpoints and routes, without their ages."""
    header, *lines = rows(istioctl("proxy-status", "-v", "1"))
    at = [header.index(name) for name in ("CDS", "LDS", "EDS", "RDS")]
    return {line[0]: [line[i].partition(" (")[0] for i in at] for line in lines}


def test_proxy_status(mesh: Mesh, istioctl: Istioctl, page: str, gateway: str) -> None:
    """Every proxy is listed with the control plane it is connected to, and is in sync."""
    wait_until(lambda: len(synced(istioctl)) == 7, "seven proxies")
    wait_until(lambda: {s for row in synced(istioctl).values() for s in row} == {"SYNCED"}, "all in sync")
    header, *lines = rows(istioctl("proxy-status"))
    assert header == ["NAME", "CLUSTER", "ISTIOD", "VERSION", "SUBSCRIBED TYPES"]
    istiod = mesh.cluster.get("pods", "-n", "istio-system", "-l", "app=istiod")["items"][0]["metadata"]["name"]
    mine = next(line for line in lines if line[0] == page)
    assert mine[1:3] == ["Kubernetes", istiod]
    assert mine[4] == "4 (CDS,LDS,EDS,RDS)"
    assert [line[0] for line in rows(istioctl("proxy-status", "-n", "istio-ingress"))[1:]] == [gateway]
    found = json.loads(istioctl("proxy-status", "-o", "json"))
    assert page in {one["node"]["id"] for one in found["resources"]}
    assert len(rows(istioctl("proxy-status", "--xds-label", "istio.io/rev=default"))) == 8
    assert "no running Istio pods" in istioctl("proxy-status", "-r", "canary", status=1)


def test_proxy_status_from_outside(mesh: Mesh, istioctl: Istioctl) -> None:
    """The control plane can be asked at an address, with a token of a service account."""
    istiod = mesh.cluster.get("pods", "-n", "istio-system", "-l", "app=istiod")["items"][0]["metadata"]["name"]
    with forwarded(mesh, "istio-system", istiod, 15012) as port:
        text = istioctl("proxy-status", "--xds-address", f"127.0.0.1:{port}", "--insecure")
    assert len(rows(text)) == 8


def test_proxy_status_with_a_certificate(mesh: Mesh, istioctl: Istioctl, tmp_path: Path) -> None:
    """A certificate of the mesh is as good as a token, and istioctl verifies ours. Of another namespace, it shows that
    namespace's proxies only."""
    secret = mesh.cluster.get("secret", "-n", "istio-system", "istio-ca-secret")["data"]
    parts = {name: b64decode(value) for name, value in secret.items()}
    authority = Authority.load(
        parts["ca-cert.pem"], parts["ca-key.pem"], b"", parts["root-cert.pem"] or parts["ca-cert.pem"]
    )
    istiod = mesh.cluster.get("pods", "-n", "istio-system", "-l", "app=istiod")["items"][0]["metadata"]["name"]
    for namespace, count in (("istio-system", 7), (BOOKS, 6)):
        key = new_key()
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        uri = f"spiffe://cluster.local/ns/{namespace}/sa/operator"
        pem = request.public_bytes(serialization.Encoding.PEM).decode()
        *chain, trusted = authority.sign_workload(pem, [uri], timedelta(hours=1), utc_now())
        folder = tmp_path / namespace
        folder.mkdir()
        for name, text in (("cert-chain", "".join(chain)), ("key", key_pem(key).decode()), ("root-cert", trusted)):
            (folder / f"{name}.pem").write_text(text)
        with forwarded(mesh, "istio-system", istiod, 15012) as port:
            where = (
                "--xds-address",
                f"localhost:{port}",
                "--cert-dir",
                str(folder),
                "--authority",
                "istiod.istio-system.svc",
            )
            assert len(rows(istioctl("proxy-status", *where))) == count + 1


def test_proxy_status_compares_a_proxy_with_what_it_should_have(
    mesh: Mesh, istioctl: Istioctl, page: str, gateway: str, tmp_path: Path
) -> None:
    """A proxy has what the control plane says; the configuration of another is told as a difference."""
    for proxy in (page, gateway):
        text = istioctl("proxy-status", proxy)
        for line in ("Clusters Match", "Listeners Match", "Routes Match"):
            assert line in text
    name, _, namespace = gateway.rpartition(".")
    admin = ("exec", "-n", namespace, name, "--", "pilot-agent", "request", "GET", "config_dump")
    (tmp_path / "dump.json").write_text(mesh.cluster.kubectl(*admin))
    text = istioctl("proxy-status", page, "--file", str(tmp_path / "dump.json"))
    assert "Clusters Don't Match" in text
    assert "http.8080" in text


def test_every_replica_is_asked(mesh: Mesh, istioctl: Istioctl, page: str) -> None:
    """With two replicas all proxies are listed, and each is found wherever it is connected."""
    cluster = mesh.cluster
    # The autoscaler would take the second one away again.
    cluster.kubectl("delete", "hpa", "-n", "istio-system", "istiod", "--ignore-not-found")
    cluster.kubectl("scale", "-n", "istio-system", "deployment/istiod", "--replicas=2")
    cluster.kubectl("rollout", "status", "-n", "istio-system", "deployment/istiod", "--timeout=60s")
    try:

        def spread() -> bool:
            """Each new stream goes to either."""
            cluster.kubectl("rollout", "restart", "-n", BOOKS, "deployment/ratings-v1")
            cluster.kubectl("rollout", "status", "-n", BOOKS, "deployment/ratings-v1", "--timeout=60s")
            return len({line[2] for line in rows(istioctl("proxy-status"))[1:]}) == 2

        def pods() -> set[str]:
            items = cluster.get("pods", "-n", BOOKS)["items"]
            staying = (one["metadata"] for one in items if "deletionTimestamp" not in one["metadata"])
            return {f"{one['name']}.{BOOKS}" for one in staying}

        wait_until(spread, "proxies at both replicas", 120)
        wait_until(lambda: pods() <= {line[0] for line in rows(istioctl("proxy-status"))}, "all proxies")
        for proxy in pods():
            assert "Clusters Match" in istioctl("proxy-status", proxy)
            assert json.loads(istioctl("x", "internal-debug", f"config_dump?proxyID={proxy}"))["configs"]
    finally:
        cluster.kubectl("scale", "-n", "istio-system", "deployment/istiod", "--replicas=1")


def test_a_control_plane_that_comes_back_finds_its_proxies_in_sync(mesh: Mesh, istioctl: Istioctl) -> None:
    """What proxies hold already is not sent again, and counts as in sync."""
    mesh.cluster.kubectl("delete", "pod", "-n", "istio-system", "-l", "app=istiod")
    mesh.cluster.ready("istio-system")

    def all_in_sync() -> bool:
        try:
            found = synced(istioctl)
        except CommandError:  # the old pod is still listed
            return False
        return len(found) == 7 and {s for row in found.values() for s in row} == {"SYNCED"}

    wait_until(all_in_sync, "seven proxies in sync")


# ------------------------------------------------------------------------------------------------------ proxy-config


def test_proxy_config_clusters(istioctl: Istioctl, page: str) -> None:
    """Names, subsets, directions and the DestinationRule behind a cluster; every filter works."""
    lines = rows(istioctl("proxy-config", "cluster", page, "--fqdn", REVIEWS))
    assert [line[2] for line in lines[1:]] == ["-", "v1", "v2", "v3"]
    assert {tuple(line[3:]) for line in lines[1:]} == {("outbound", "EDS", f"reviews.{BOOKS}")}
    inbound = rows(istioctl("pc", "c", page, "--direction", "inbound"))
    assert inbound[1][:3] == ["9080", "-", "inbound"]
    (one,) = json.loads(istioctl("pc", "cluster", page, "--port", "9080", "--subset", "v1", "-o", "json"))
    assert one["name"] == f"outbound|9080|v1|{REVIEWS}"
    assert yaml.safe_load(istioctl("pc", "cluster", page, "--subset", "v1", "-o", "yaml"))[0]["name"] == one["name"]


def test_proxy_config_endpoints(mesh: Mesh, istioctl: Istioctl, page: str) -> None:
    """Addresses with their health; by cluster, status, port and address. `eds` shows where they are."""
    cluster = f"outbound|9080|v1|{REVIEWS}"
    address = mesh.cluster.get("pods", "-n", BOOKS, "-l", "app=reviews,version=v1")["items"][0]["status"]["podIP"]
    line = [f"{address}:9080", "HEALTHY", "OK", cluster]
    assert rows(istioctl("proxy-config", "endpoint", page, "--cluster", cluster))[1:] == [line]
    assert line in rows(istioctl("pc", "ep", page, "--address", address, "--port", "9080", "--status", "healthy"))
    assert rows(istioctl("pc", "ep", page, "--status", "unhealthy"))[1:] == []
    (found,) = json.loads(istioctl("pc", "endpoint", page, "--cluster", cluster, "-o", "json"))
    assert found["hostStatuses"][0]["address"]["socketAddress"]["address"] == address
    assert [f"{address}:9080", "HEALTHY", cluster] in rows(istioctl("pc", "eds", page))
    by_deployment = istioctl("pc", "endpoint", "deploy/productpage-v1", "-n", BOOKS, "--cluster", cluster)
    assert rows(by_deployment)[1:] == [line]


def test_proxy_config_listeners_and_routes(istioctl: Istioctl, page: str, gateway: str) -> None:
    """Where a listener leads, and which VirtualService a route comes from: none where there is only a rule for
    destinations."""
    text = istioctl("proxy-config", "listener", page)
    assert re.search(r"^0\.0\.0\.0 +9080 +Trans: raw_buffer; App: http/1\.1,h2c +Route: 9080$", text, re.MULTILINE)
    assert re.search(r"^0\.0\.0\.0 +15006 +.*Addr: \*:9080 +Cluster: inbound\|9080\|\|$", text, re.MULTILINE)
    assert re.search(r"^0\.0\.0\.0 +8080 +ALL +Route: http\.8080$", istioctl("pc", "l", gateway), re.MULTILINE)
    (one,) = json.loads(istioctl("pc", "listener", page, "--port", "15006", "-o", "json"))
    assert one["name"] == "virtualInbound"
    lines = rows(istioctl("proxy-config", "route", page, "--name", "9080"))
    assert [line[-1] for line in lines if line[1].startswith("reviews.")] == [f"reviews.{BOOKS}"] * 2
    assert [line[-1] for line in lines if line[1].startswith("details.")] == ["/*"]
    assert rows(istioctl("pc", "route", gateway, "--name", "http.8080"))[1][-1] == f"productpage.{BOOKS}"
    assert yaml.safe_load(istioctl("pc", "r", page, "--name", "9080", "-o", "yaml"))[0]["name"] == "9080"


def test_proxy_config_secrets_bootstrap_and_logs(istioctl: Istioctl, page: str, gateway: str) -> None:
    """The workload's certificate and the root, each once and valid; the versions; log levels change and go back."""
    for proxy in (page, gateway):
        lines = rows(istioctl("proxy-config", "secret", proxy))
        assert [line[:4] for line in lines[1:]] == [
            ["default", "Cert Chain", "ACTIVE", "true"],
            ["ROOTCA", "CA", "ACTIVE", "true"],
        ]
    assert "BEGIN" not in istioctl("pc", "secret", page, "-o", "json")
    assert re.search(r"Istio Version: +\d+\.\d+", istioctl("pc", "bootstrap", page, "-o", "short"))
    node = json.loads(istioctl("proxy-config", "bootstrap", page))["bootstrap"]["node"]
    assert node["id"].split("~")[2] == page
    assert node["metadata"]["CLUSTER_ID"] == "Kubernetes"
    assert "rbac: debug" in istioctl("proxy-config", "log", page, "--level", "rbac:debug")
    assert "rbac: warning" in istioctl("proxy-config", "log", page, "--reset")


def test_proxy_config_all(istioctl: Istioctl, page: str) -> None:
    """One command shows everything."""
    text = istioctl("proxy-config", "all", page)
    for part in ("Istio Version", f"cluster/outbound|9080||{REVIEWS}", "listener/virtualInbound", "route/9080"):
        assert part in text
    assert json.loads(istioctl("proxy-config", "all", page, "-o", "json"))["configs"]


def test_statistics(istioctl: Istioctl, page: str) -> None:
    """A proxy's own numbers: as Envoy prints them, as Prometheus reads them, and those of its clusters."""
    assert "cluster_manager.cds.version_text" in istioctl("x", "envoy-stats", page)
    assert "# TYPE envoy_cluster" in istioctl("x", "envoy-stats", page, "-o", "prom")
    assert "# TYPE envoy_server" in istioctl("x", "envoy-stats", page, "-o", "prom-merged")
    assert f"outbound|9080||{REVIEWS}::" in istioctl("x", "envoy-stats", page, "--type", "clusters")


# ---------------------------------------------------------------------------------------------------------- analysis


def test_analyze_and_validate(istioctl: Istioctl, tmp_path: Path) -> None:
    """The mesh as it stands has no errors; a file with one is told before it is applied."""
    istioctl("analyze", "-n", BOOKS)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: lost}\n"
        "spec: {hosts: [ratings], http: [{route: [{destination: {host: reviews, subset: v9}}]}]}\n"
    )
    assert "IST0101" in istioctl("analyze", "-n", BOOKS, str(wrong), status=79)
    assert "is valid" in istioctl("validate", "-f", str(SAMPLES / "bookinfo" / "bookinfo.yaml"))
    assert "No issues found" in istioctl("x", "precheck")


def test_describe(mesh: Mesh, istioctl: Istioctl, page: str) -> None:
    """What holds for a pod and a Service: policies, subsets, routes, and the gateway they are reached by."""
    text = istioctl("x", "describe", "pod", page)
    for line in (
        "Pod Revision: default",
        f"Service: productpage.{BOOKS}",
        "Workload mTLS mode: STRICT",
        f"Exposed on Ingress Gateway http://{mesh.cluster.address}:8080",
    ):
        assert line in text
    second = mesh.cluster.get("pods", "-n", BOOKS, "-l", "app=reviews,version=v2")["items"][0]["metadata"]["name"]
    text = istioctl("x", "describe", "pod", f"{second}.{BOOKS}")
    for line in ("Matching subsets: v2", "Non-matching subsets v1,v3", "when headers are end-user=jason"):
        assert line in text
    text = istioctl("x", "describe", "service", f"reviews.{BOOKS}")
    assert 'Route to host "reviews" subset "v1" with weight 90%' in text


def test_authorization_and_injection_are_explained(mesh: Mesh, istioctl: Istioctl, page: str) -> None:
    """The policies in force in a proxy; who injects into a pod and why."""
    lines = rows(istioctl("x", "authz", "check", f"{mesh.pod('details')}.{BOOKS}"))
    assert ["ALLOW", f"viewer.{BOOKS}", "1"] in lines
    assert "Namespace label istio-injection=enabled matches" in istioctl("x", "check-inject", page)
    assert "No matching namespace labels" in istioctl("x", "check-inject", "-n", "default", "-l", "app=none")
    text = istioctl("x", "injector", "list")
    assert re.search(rf"^{BOOKS} +default +default: 6$", text, re.MULTILINE)
    assert re.search(rf"^{BOOKS} +istio-sidecar-injector +default +\S+/proxyv2:\S+$", text, re.MULTILINE)


# ------------------------------------------------------------------------------------------------------------- debug


def test_debug_pages_over_xds(istioctl: Istioctl, page: str) -> None:
    """Every page that the control plane lists can be had; unknown ones are answered with the list."""
    names = json.loads(istioctl("x", "internal-debug", "--list"))
    assert {"syncz", "registryz", "endpointShardz", "cachez?sizes=true", "config_dump", "adsz?push=true"} <= set(names)
    for name in names:
        joined = f"{name}{'&' if '?' in name else '?'}proxyID={page}"
        text = istioctl("x", "internal-debug", joined)
        assert "404" not in text, name
        if name not in ("adsz?push=true", "cachez?clear=true"):
            json.loads(text)
    assert "check all supported internal debug commands" in istioctl("x", "internal-debug", "nonsense")
    assert "You must provide a proxyID" in istioctl("x", "internal-debug", "edsz", status=1)
    mine = json.loads(istioctl("x", "internal-debug", f"config_dump?proxyID={page}&types=cds"))
    assert f"outbound|9080|v1|{REVIEWS}" in {one["name"] for one in mine["configs"]}


def test_remote_clusters(istioctl: Istioctl) -> None:
    """The own cluster is the only one, and read."""
    assert rows(istioctl("remote-clusters"))[1][:2] == ["Kubernetes", "synced"]


def test_log_levels_of_the_control_plane(mesh: Mesh, istioctl: Istioctl) -> None:
    """Levels are shown and change while it runs."""

    def levels() -> dict[str, str]:
        return {line[0]: line[-2] for line in rows(istioctl("admin", "log"))[1:]}

    assert levels()["ads"] == "info"
    istioctl("admin", "log", "--level", "ads:debug,ca:error")
    assert {name: level for name, level in levels().items() if level != "info"} == {"ads": "debug", "ca": "error"}
    istioctl("admin", "log", "--reset")
    assert set(levels().values()) == {"info"}
    assert "400" in istioctl("admin", "log", "--level", "nonsense:debug", status=1)


def test_bug_report(istioctl: Istioctl, tmp_path: Path) -> None:
    """The archive has the control plane's pages, and of every proxy its state."""
    (tmp_path / "work").mkdir()
    istioctl("bug-report", "--timeout", "90s", "--dir", str(tmp_path / "work"), cwd=tmp_path)
    with tarfile.open(tmp_path / "bug-report.tar.gz") as archive:
        names = archive.getnames()
        log = next(archive.extractfile(one) for one in archive.getmembers() if one.name.endswith("bug-report.log"))
        assert log is not None
        text = log.read().decode()
    assert "pilot-discovery" not in text, text  # it says so of a command that failed
    for part in (
        r"debug/syncz",
        r"debug/registryz",
        r"discovery\.log",
        r"productpage-\S+/server_info",
        r"istio-proxy\.log",
    ):
        assert any(re.search(part, name) for name in names), part


@contextmanager
def forwarded(mesh: Mesh, namespace: str, pod: str, port: int) -> Iterator[int]:
    """A port of a pod on this machine, by kubectl."""
    process = mesh.cluster.popen("port-forward", "-n", namespace, f"pod/{pod}", f":{port}")
    try:
        assert process.stdout is not None
        found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert found is not None
        yield int(found[1])
    finally:
        process.terminate()
        process.communicate()


def test_dashboards(mesh: Mesh, programs: Path, page: str) -> None:
    """The pages of a proxy and of the control plane are brought to this machine."""
    istiod = mesh.cluster.get("pods", "-n", "istio-system", "-l", "app=istiod")["items"][0]["metadata"]["name"]
    for arguments, path, expected in (
        (("envoy", page), "/ready", "LIVE"),
        (("proxy", page), "/ready", "LIVE"),
        (("istiod-debug", f"{istiod}.istio-system"), "/debug", "/debug/registryz"),
        (("controlz", f"{istiod}.istio-system"), "/", "Log levels"),
    ):
        command = [str(programs / "istioctl"), "dashboard", *arguments, "--browser=false", "--port", "0"]
        process = subprocess.Popen(command, env=mesh.cluster.env(), stdout=subprocess.PIPE, text=True, cwd="/")
        try:
            assert process.stdout is not None
            url = re.search(r"http://\S+?:\d+", process.stdout.readline())
            assert url is not None
            assert expected in curl(url[0] + path)[1]
        finally:
            process.terminate()
            process.communicate()


# ------------------------------------------------------------------------------------------------- tags, injection


def test_revision_tags(mesh: Mesh, istioctl: Istioctl) -> None:
    """A namespace that names a tag is injected by the revision that the tag points to."""
    cluster = mesh.cluster
    assert 'Revision tag "prod" created' in istioctl("tag", "set", "prod", "--revision", "default")
    try:
        cluster.kubectl("create", "namespace", "tagged")
        cluster.kubectl("label", "namespace", "tagged", "istio.io/rev=prod")
        listed = [line.split() for line in istioctl("tag", "list").splitlines()]
        assert ["prod", "default", "tagged"] in listed
        assert "name: istio-revision-tag-next" in istioctl("tag", "generate", "next", "--revision", "default")

        def injected() -> bool:
            # The webhook is new: its certificate may come after the first pod.
            cluster.kubectl("delete", "pod", "-n", "tagged", "one", "--ignore-not-found", "--wait=true")
            made = cluster.kubectl("run", "-n", "tagged", "one", "--image=curlimages/curl", check=False)
            return "created" in made and "istio-proxy" in cluster.kubectl(
                "get", "pod", "-n", "tagged", "one", "-o", "yaml"
            )

        wait_until(injected, "a pod with a sidecar")
        assert "Namespace label istio.io/rev=prod matches" in istioctl("x", "check-inject", "-n", "tagged", "one")
    finally:
        assert "Revision tag prod removed" in istioctl("tag", "remove", "prod", "-y")
        cluster.kubectl("delete", "namespace", "tagged", "--wait=false")
    assert "prod" not in istioctl("tag", "list")


def test_a_second_revision(mesh: Mesh, istioctl: Istioctl) -> None:
    """Each revision is asked for its own proxies; a tag moves a namespace from one to the other."""
    cluster = mesh.cluster
    cluster.pilotfish("install", "-y", "--set", "profile=minimal", "--revision", "canary")
    try:
        assert "control plane version" in istioctl("version", "-r", "canary")
        assert rows(istioctl("proxy-status", "-r", "canary"))[1:] == []
        assert istioctl("tag", "set", "next", "--revision", "default")
        assert istioctl("tag", "set", "next", "--revision", "canary", "--overwrite")
        assert ["next", "canary"] in [line.split() for line in istioctl("tag", "list").splitlines()]
        assert cluster.pilotfish("tag", "list").stdout.split()[3:5] == ["next", "canary"]
        cluster.kubectl("create", "namespace", "moved")
        cluster.kubectl("label", "namespace", "moved", "istio.io/rev=next")

        def moved() -> bool:
            # The webhook is new: its certificate may come after the first pod.
            cluster.kubectl("delete", "pod", "-n", "moved", "one", "--ignore-not-found", "--wait=true")
            cluster.kubectl("run", "-n", "moved", "one", "--image=curlimages/curl", check=False)
            cluster.kubectl("wait", "-n", "moved", "pod/one", "--for=condition=Ready", "--timeout=30s", check=False)
            return [line[0] for line in rows(istioctl("proxy-status", "-r", "canary"))[1:]] == ["one.moved"]

        wait_until(moved, "a proxy of the second revision", 90)
        assert "Clusters Match" in istioctl("proxy-status", "one.moved", "-r", "canary")
        assert re.search(r"^moved +canary +canary: 1$", istioctl("x", "injector", "list"), re.MULTILINE)
        assert "Pod Revision: canary" in istioctl("x", "describe", "pod", "one.moved")
        assert [line[-1] for line in rows(istioctl("remote-clusters", "-r", "canary"))[1:]] == ["canary"]
    finally:
        cluster.kubectl("delete", "namespace", "moved", "--ignore-not-found")
        istioctl("tag", "remove", "next", "-y")
        cluster.pilotfish("uninstall", "-y", "--revision", "canary")


def test_kube_inject(mesh: Mesh, istioctl: Istioctl, tmp_path: Path) -> None:
    """The injector of the cluster is asked for a file's workloads."""
    text = istioctl("kube-inject", "-f", str(SAMPLES / "sleep" / "sleep.yaml"))
    deployment = next(one for one in yaml.safe_load_all(text) if one and one["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    assert "istio-proxy" in {one["name"] for one in (*spec["containers"], *spec.get("initContainers", ()))}


# ------------------------------------------------------------------------------------------------------- the rest


def test_a_machine_outside_is_prepared(mesh: Mesh, istioctl: Istioctl, tmp_path: Path) -> None:
    """A WorkloadGroup is accepted, and the files for a machine have its token, the root and the mesh's settings."""
    group = istioctl(
        *("x", "workload", "group", "create", "--name", "vm", "--namespace", BOOKS),
        *("--labels", "app=vm", "--ports", "http=8080", "--serviceAccount", "default"),
    )
    (tmp_path / "group.yaml").write_text(group)
    mesh.apply(group)
    istioctl(
        *("x", "workload", "entry", "configure", "-f", str(tmp_path / "group.yaml"), "-o", str(tmp_path / "vm")),
        *("--clusterID", "Kubernetes", "--autoregister", "--ingressIP", "192.0.2.1"),
    )
    root = mesh.cluster.get("configmap", "-n", BOOKS, "istio-ca-root-cert")["data"]["root-cert.pem"]
    assert (tmp_path / "vm" / "root-cert.pem").read_text() == root
    assert (tmp_path / "vm" / "istio-token").read_text().count(".") == 2
    assert "192.0.2.1 istiod.istio-system.svc" in (tmp_path / "vm" / "hosts").read_text()
    settings = yaml.safe_load((tmp_path / "vm" / "mesh.yaml").read_text())["defaultConfig"]
    assert settings["discoveryAddress"] == "istiod.istio-system.svc:15012"


def test_remote_secret_and_uninstall(istioctl: Istioctl) -> None:
    """The Secret for another cluster carries a token that works; what an uninstallation would remove is listed."""
    printed = yaml.safe_load_all(istioctl("create-remote-secret", "--name", "c1"))
    secret = next(one for one in printed if one and "stringData" in one)
    config = yaml.safe_load(secret["stringData"]["c1"])
    assert config["users"][0]["user"]["token"]
    text = istioctl("uninstall", "--purge", "--dry-run", "-y")
    assert "Deployment/istiod.istio-system because of dry run" in text
    assert rows(istioctl("version"))  # it is still there


def test_metrics_of_a_workload(mesh: Mesh, istioctl: Istioctl) -> None:
    """Rates and latencies come from the Prometheus of the mesh."""
    prometheus = (
        (SAMPLES / "prometheus" / "prometheus.yaml").read_text().replace("scrape_interval: 5s", "scrape_interval: 1s")
    )
    mesh.cluster.kubectl("apply", "-f", "-", input_=prometheus)
    mesh.cluster.ready("istio-system")

    def rate() -> float:
        mesh.inside("http://details:9080/details/0", "-o", "/dev/null")
        line = rows(istioctl("x", "metrics", f"details-v1.{BOOKS}", "-d", "30s"))[-1]
        assert line[0] == f"details-v1.{BOOKS}"
        return float(line[1]) if line[1] != "NaN" else 0.0

    wait_until(lambda: rate() > 0, "a request rate", 90)
