"""Figures of the local cluster: `python benchmarks/cluster.py [--pods 100]`.

Times are given beside a baseline of the same run (starting a Python process, writing to the same disk), because
machines differ; compare the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64decode
from collections.abc import Callable
from http.client import HTTPSConnection
from pathlib import Path
from statistics import median
from typing import Any

from pilotfish.local import cluster
from pilotfish.local.process import memory, tree

_POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "bench-", "labels": {"app": "bench"}},
    "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "registry.k8s.io/pause"}],
    },
}


class Api:
    """A connection to the API server as the administrator."""

    def __init__(self, data: Path) -> None:
        config = json.loads(cluster.kubeconfig(data).read_text())
        user = config["users"][0]["user"]
        entry = config["clusters"][0]["cluster"]
        context = ssl.create_default_context(cadata=b64decode(entry["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(b64decode(user["client-certificate-data"]) + b64decode(user["client-key-data"]))
            pair.flush()
            context.load_cert_chain(pair.name)
        self._connection = HTTPSConnection(entry["server"].removeprefix("https://"), context=context, timeout=60)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request; the answer's JSON."""
        self.send(method, path, body)
        answer = self._connection.getresponse()
        content = json.loads(answer.read())
        if answer.status >= 300:
            sys.exit(f"{method} {path}: {content.get('message', content)}")
        return content

    def send(self, method: str, path: str, body: Any = None) -> None:
        """Send a request and leave the answer to `lines`."""
        text = json.dumps(body) if body is not None else None
        self._connection.request(method, path, text, {"Content-Type": "application/json"})

    def lines(self) -> Any:
        """The lines of a watch."""
        yield from self._connection.getresponse()


def timed(action: Callable[[], Any]) -> float:
    """Seconds that an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def show(what: str, figure: str, note: str = "") -> None:
    """Print a line of the table."""
    print(f"{what:<42} {figure:>12}  {note}")


def python_start() -> float:
    """The baseline: seconds from nothing to a Python process that has done nothing."""
    return median(timed(lambda: subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)) for _ in range(10))


def fsync_write(directory: Path) -> float:
    """The baseline of writes: seconds of a small write that is on the disk."""
    file = os.open(directory / "probe", os.O_CREAT | os.O_WRONLY)

    def write() -> None:
        os.write(file, b"x" * 512)
        os.fsync(file)

    seconds = median(timed(write) for _ in range(100))
    os.close(file)
    return seconds


def pods_ready(data: Path, count: int) -> list[float]:
    """Create pods at once; the seconds until each is Ready, sorted."""
    watch, api = Api(data), Api(data)
    path = "/api/v1/namespaces/default/pods"
    version = api.call("GET", f"{path}?limit=1")["metadata"]["resourceVersion"]
    watch.send("GET", f"{path}?watch=1&labelSelector=app%3Dbench&resourceVersion={version}")
    ready: dict[str, float] = {}

    def follow() -> None:
        for line in watch.lines():
            pod = json.loads(line)["object"]
            conditions = pod.get("status", {}).get("conditions", [])
            if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
                ready.setdefault(pod["metadata"]["name"], time.perf_counter())
                if len(ready) == count:
                    return

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    created = {}
    for _ in range(count):
        started = time.perf_counter()
        created[api.call("POST", path, _POD)["metadata"]["name"]] = started
    follower.join(300)
    if len(ready) < count:
        sys.exit(f"only {len(ready)} of {count} pods became ready")
    return sorted(ready[name] - started for name, started in created.items())


def remove_pods(data: Path, processes: int) -> float:
    """Delete the pods; the seconds until the node has as many processes as before."""

    def gone() -> None:
        Api(data).call("DELETE", "/api/v1/namespaces/default/pods?labelSelector=app%3Dbench")
        while sum(part.processes for part in cluster.status(data).parts) > processes:
            time.sleep(0.02)

    return timed(gone)


def watchers(data: Path, count: int) -> float:
    """The seconds until a change has reached all watchers."""
    api = Api(data)
    path = "/api/v1/namespaces/default/configmaps"
    version = api.call("GET", f"{path}?limit=1")["metadata"]["resourceVersion"]
    connections = [Api(data) for _ in range(count)]
    for connection in connections:
        connection.send("GET", f"{path}?watch=1&resourceVersion={version}")
    streams = [connection.lines() for connection in connections]
    api.call("POST", path, {"metadata": {"name": "first"}})
    for stream in streams:
        next(stream)

    def one_change() -> None:
        api.call("POST", path, {"metadata": {"name": "second"}})
        for stream in streams:
            next(stream)

    seconds = timed(one_change)
    for name in ("first", "second"):
        api.call("DELETE", f"{path}/{name}")
    return seconds


def configmaps(data: Path, count: int) -> float:
    """ConfigMaps created per second by one client."""
    api = Api(data)
    path = "/api/v1/namespaces/default/configmaps"

    def create() -> None:
        for number in range(count):
            api.call("POST", path, {"metadata": {"name": f"bench-{number}"}, "data": {"k": "v"}})

    rate = count / timed(create)
    api.call("DELETE", path)
    return rate


def cpu(pids: list[int]) -> float:
    """CPU seconds that processes have used, from the scheduler's own account (clock ticks miss short work)."""
    files = [task / "schedstat" for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def main() -> None:
    """Start a cluster of its own, measure, and remove it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=100)
    parser.add_argument("--idle", type=float, default=20, help="seconds to watch the idle cluster")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pf-bench-") as directory:
        data = Path(directory) / "data"
        base = python_start()
        show("a Python process", f"{base * 1000:.0f} ms", "baseline")
        try:
            first = timed(lambda: cluster.up(data, 0, None, lambda _: None))
            show("up, first time", f"{first:.2f} s", f"{first / base:.0f} × baseline")
            cluster.down(data, lambda _: None)
            again = timed(lambda: cluster.up(data, None, None, lambda _: None))
            show("up, again", f"{again:.2f} s", f"{again / base:.0f} × baseline")
            measure(data, base, options.pods, options.idle)
        finally:
            cluster.reset(data, lambda _: None)


def measure(data: Path, base: float, pods: int, idle: float) -> None:
    """All that needs a running cluster."""
    pids = [pid for part in cluster.status(data).parts if part.pid for pid in tree(part.pid)]
    used = cpu(pids)
    time.sleep(idle)
    show("idle CPU", f"{(cpu(pids) - used) / idle * 100:.2f} %", f"of a core, over {idle:.0f} s")
    show("idle memory", f"{sum(memory(pid) for pid in pids) / 1e6:.0f} MB", f"PSS of {len(pids)} processes")
    one = [pods_ready(data, 1)[0] for _ in range(5)]
    remove_pods(data, len(pids))
    show("a pod Ready", f"{median(one) * 1000:.0f} ms", f"{median(one) / base:.0f} × baseline, median of {len(one)}")
    many = pods_ready(data, pods)
    show(f"{pods} pods Ready", f"{many[-1]:.1f} s", f"{many[-1] / base / pods:.1f} × baseline each")
    show(f"{pods} pods gone", f"{remove_pods(data, len(pids)):.1f} s")
    disk = fsync_write(data)
    rate = configmaps(data, 1000)
    show("ConfigMaps created", f"{rate:.0f} /s", f"{1 / disk:.0f} /s are writes to this disk that wait for it")
    show("a change at 200 watchers", f"{watchers(data, 200) * 1000:.0f} ms")


if __name__ == "__main__":
    main()
