"""Figures of the mesh in the local cluster: `python benchmarks/mesh.py [--changes 40]`.

Installs the mesh and Bookinfo into a cluster of its own, measures, and takes everything away. Latencies are given
beside a baseline of the same run (a request that nothing changes), memory beside that of a bare interpreter.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

ROOT = Path(__file__).parents[1]
KUBECTL = Path(sys.prefix) / "bin" / "kubectl"
HOST = "reviews.bench.example.com"
RULES = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: bench}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: [%(host)s]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
"""


def route(subset: str) -> dict[str, Any]:
    target = {"destination": {"host": "reviews", "subset": subset, "port": {"number": 9080}}}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "bench"},
        "spec": {"hosts": [HOST], "gateways": ["bench"], "http": [{"route": [target]}]},
    }


class Cluster:
    """A cluster with the mesh in it, driven by the real programs."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "KUBECONFIG": str(data / "kubeconfig"), "HOME": str(data)}

    def run(self, *command: str, text: str = "") -> str:
        done = subprocess.run(command, env=self.env, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command[:6])}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def pilotfish(self, *arguments: str) -> None:
        self.run(str(Path(sys.prefix) / "bin" / "pilotfish"), *arguments)

    def kubectl(self, *arguments: str, text: str = "") -> str:
        return self.run(str(KUBECTL), *arguments, text=text)


@contextmanager
def running() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="pilotfish-bench-") as folder:
        cluster = Cluster(Path(folder))
        cluster.pilotfish("up", "--data", folder, "--port", "0")
        try:
            yield cluster
        finally:
            cluster.pilotfish("down", "--data", folder)


def prepare(cluster: Cluster) -> None:
    cluster.pilotfish("install", "-y", "--set", "profile=minimal")
    cluster.kubectl("apply", "-f", str(ROOT / "samples" / "ingress" / "ingress.yaml"))
    cluster.kubectl("create", "namespace", "book")
    cluster.kubectl("label", "namespace", "book", "istio-injection=enabled")
    cluster.kubectl("apply", "-n", "book", "-f", str(ROOT / "samples" / "bookinfo" / "bookinfo.yaml"))
    for namespace in ("book", "istio-ingress"):
        cluster.kubectl("wait", "-n", namespace, "--for=condition=Available", "deploy", "--all", "--timeout=90s")
    cluster.kubectl("apply", "-n", "book", "-f", "-", text=RULES % {"host": HOST})


def ask(connection: http.client.HTTPConnection) -> str:
    connection.request("GET", "/reviews/0", headers={"Host": HOST})
    answer = connection.getresponse()
    body = answer.read()
    return str(json.loads(body)["podname"]) if answer.status == 200 else str(answer.status)


def follow(cluster: Cluster, changes: int) -> tuple[list[float], list[float]]:
    """Seconds from the end of `kubectl apply` to the first answer that follows it, and of an ordinary request."""
    connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=10)
    cluster.kubectl("apply", "-n", "book", "-f", "-", text=json.dumps(route("v1")))
    while not ask(connection).startswith("reviews-v1"):
        time.sleep(0.05)
    delays, plain = [], []
    for number in range(changes):
        subset = "v2" if number % 2 == 0 else "v1"
        cluster.kubectl("apply", "-n", "book", "-f", "-", text=json.dumps(route(subset)))
        started = time.perf_counter()
        while not ask(connection).startswith(f"reviews-{subset}"):
            pass
        delays.append(time.perf_counter() - started)
        started = time.perf_counter()
        ask(connection)
        plain.append(time.perf_counter() - started)
    return delays, plain


def processes(cluster: Cluster) -> dict[str, list[int]]:
    """Process ids by what they are: agents, proxies, control plane."""
    node = json.loads((cluster.data / "run" / "node.json").read_text())["pid"]
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                commands[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue

    def inside(pid: int) -> bool:
        while pid in parents:
            if pid == node:
                return True
            pid = parents[pid]
        return False

    kinds = {"agent": "pilotfish.agent proxy", "envoy": "/envoy -c ", "pilotfishd": "pilotfishd discovery"}
    return {kind: [p for p, c in commands.items() if word in c and inside(p)] for kind, word in kinds.items()}


def memory(pid: int, what: str) -> float:
    """Megabytes: `Pss` (shared pages in parts) or `Rss`."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{what}:")) / 1024


def seconds_used(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def pod_ready(cluster: Cluster, injected: bool) -> float:
    """Seconds from the creation of a pod to its being Ready, as the API server tells it."""
    namespace = "book" if injected else "plain"
    name = "bench-pod"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "app", "image": "curlimages/curl", "command": ["sleep", "infinity"]}]},
    }
    cluster.kubectl("create", "-n", namespace, "-f", "-", text=json.dumps(pod))
    started = time.perf_counter()
    cluster.kubectl("wait", "-n", namespace, "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
    took = time.perf_counter() - started
    cluster.kubectl("delete", "-n", namespace, "pod", name, "--now")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=40)
    options = parser.parse_args()
    started = time.perf_counter()
    with running() as cluster:
        prepare(cluster)
        print(f"cluster, mesh, gateway and Bookinfo from nothing  {time.perf_counter() - started:7.1f} s")
        delays, plain = follow(cluster, options.changes)
        late = quantiles(delays, n=20)[-1] * 1000
        print(f"apply → first request that follows, median        {median(delays) * 1000:7.1f} ms")
        print(f"                                    95th centile  {late:7.1f} ms")
        print(f"an ordinary request of the same run, median       {median(plain) * 1000:7.1f} ms")
        cluster.kubectl("create", "namespace", "plain")
        without = median(pod_ready(cluster, False) for _ in range(3))
        with_sidecar = median(pod_ready(cluster, True) for _ in range(3))
        print(f"pod Ready without, with sidecar                   {without:7.2f} s {with_sidecar:7.2f} s")
        found = processes(cluster)
        bare = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        time.sleep(0.5)
        print(f"a bare Python interpreter, PSS                    {memory(bare.pid, 'Pss'):7.1f} MB")
        bare.kill()
        bare.wait()
        for kind, what in (("pilotfishd", "Rss"), ("agent", "Pss"), ("envoy", "Pss")):
            sizes = [memory(pid, what) for pid in found[kind]]
            print(f"{kind:10} {what.upper()}, median of {len(sizes)}                        {median(sizes):7.1f} MB")
        pid = found["pilotfishd"][0]
        before = seconds_used(pid)
        time.sleep(20)
        share = (seconds_used(pid) - before) / 20 * 100
        print(f"pilotfishd idle                                   {share:7.2f} % of a core")


if __name__ == "__main__":
    main()
