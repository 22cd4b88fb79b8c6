"""What telemetry costs: `python benchmarks/telemetry.py [--seconds 4] [--rounds 3]`. Needs the program wrk.

wrk sends requests over 16 connections through the sidecars of a client and of a server, an Envoy that answers at once.
Modes alternate within a run, and each is given as a ratio to `off`, because machines and their moods differ.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import yaml

KUBECTL = Path(sys.prefix) / "bin" / "kubectl"
CONNECTIONS = 16
APPS = """
apiVersion: v1
kind: Namespace
metadata: {name: bench, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: bench}
spec: {selector: {app: server}, ports: [{name: http, port: 8000}]}
---
apiVersion: v1
kind: Service
metadata: {name: collector, namespace: bench}
spec: {selector: {app: collector}, ports: [{name: http, port: 8000}]}
"""
POD = """
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %(name)s, namespace: bench}
spec:
  selector: {matchLabels: {app: %(name)s}}
  template:
    metadata: {labels: {app: %(name)s, version: v1, sidecar.istio.io/inject: "%(inject)s"}}
    spec: {containers: [{name: app, image: bench/%(image)s}]}
"""
ANSWERS = {
    "static_resources": {
        "listeners": [
            {
                "address": {"socket_address": {"address": "0.0.0.0", "port_value": 8000}},  # noqa: S104  a pod's own
                "filter_chains": [
                    {
                        "filters": [
                            {
                                "name": "http",
                                "typed_config": {
                                    "@type": "type.googleapis.com/envoy.extensions.filters.network."
                                    "http_connection_manager.v3.HttpConnectionManager",
                                    "stat_prefix": "http",
                                    "route_config": {
                                        "virtual_hosts": [
                                            {
                                                "name": "all",
                                                "domains": ["*"],
                                                "routes": [
                                                    {
                                                        "match": {"prefix": "/"},
                                                        "direct_response": {
                                                            "status": 200,
                                                            "body": {"inline_string": "x" * 256},
                                                        },
                                                    }
                                                ],
                                            }
                                        ]
                                    },
                                    "http_filters": [
                                        {
                                            "name": "router",
                                            "typed_config": {
                                                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3"
                                                ".Router"
                                            },
                                        }
                                    ],
                                },
                            }
                        ]
                    }
                ],
            }
        ]
    }
}
ZIPKIN = {"address": "collector.bench:8000"}
PROVIDERS = {"metrics": ["prometheus"]}
MODES: Mapping[str, Mapping[str, Any]] = {
    "off": {"providers": {}, "tracing": {}},
    "metrics": {"providers": PROVIDERS, "tracing": {}},
    "metrics, 1 % of traces": {"providers": PROVIDERS, "tracing": {"sampling": 1, "zipkin": ZIPKIN}},
    "metrics, all traces, access log": {
        "providers": {**PROVIDERS, "accessLogging": ["envoy"]},
        "tracing": {"sampling": 100, "zipkin": ZIPKIN},
    },
}


class Sample(NamedTuple):
    """One measurement."""

    rate: float
    """Requests per second."""
    cpu: dict[str, float]
    """Microseconds of each Envoy per request."""


class Bench:
    def __init__(self, data: Path) -> None:
        self.env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "KUBECONFIG": str(data / "kubeconfig"), "HOME": str(data)}
        self.data = str(data)

    def run(self, *command: str, text: str = "") -> str:
        done = subprocess.run(command, env=self.env, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command[:8])}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def pilotfish(self, *arguments: str) -> None:
        self.run(str(Path(sys.prefix) / "bin" / "pilotfish"), *arguments)

    def kubectl(self, *arguments: str, text: str = "") -> str:
        return self.run(str(KUBECTL), *arguments, text=text)

    def inside(self, app: str, container: str, script: str) -> str:
        return self.kubectl("exec", "-n", "bench", f"deployment/{app}", "-c", container, "--", "sh", "-c", script)

    def prepare(self) -> None:
        answers = Path(self.data) / "answers"
        answers.mkdir()
        (answers / "envoy.json").write_text(json.dumps(ANSWERS))
        from pilotfish.envoy.proto import envoy_binary  # noqa: PLC0415 - takes a second, and is needed here only

        envoy = str(envoy_binary())
        command = (envoy, "-c", "envoy.json", "-l", "error", "--concurrency", "1", "--disable-hot-restart")
        add = ("image", "add", "--data", self.data)
        self.pilotfish(*add, "--workdir", str(answers), "--mount", envoy, "bench/answers", "--", *command)
        self.pilotfish(*add, "--workdir", str(answers), "bench/wrk", "--", "/bin/sh", "-c", "sleep 1000000")
        self.pilotfish("install", "-y", "--set", "profile=minimal")
        pods = (("client", "wrk", "true"), ("server", "answers", "true"), ("collector", "answers", "false"))
        text = APPS + "".join(POD % {"name": n, "image": i, "inject": inject} for n, i, inject in pods)
        self.kubectl("apply", "-f", "-", text=text)
        self.kubectl("wait", "-n", "bench", "--for=condition=Available", "deploy", "--all", "--timeout=90s")

    def switch(self, mode: Mapping[str, Any]) -> None:
        """Change the mesh's telemetry, and wait until both proxies have it."""
        data = json.loads(self.kubectl("get", "configmap", "-n", "istio-system", "istio", "-o", "json"))["data"]
        config = yaml.safe_load(data["mesh"])
        config["defaultProviders"] = mode["providers"]
        config["defaultConfig"]["tracing"] = mode["tracing"]
        patch = json.dumps({"data": {"mesh": yaml.safe_dump(config)}})
        before = self.updates()
        self.kubectl("patch", "configmap", "-n", "istio-system", "istio", "--type=merge", "-p", patch)
        end = time.monotonic() + 5
        while any(a == b for a, b in zip(before, self.updates(), strict=True)) and time.monotonic() < end:
            time.sleep(0.2)
        time.sleep(1)  # old listeners drain

    def updates(self) -> list[str]:
        script = "curl -s 'localhost:15000/stats?filter=lds.update_success'"
        return [self.inside(app, "istio-proxy", script) for app in ("client", "server")]

    def envoys(self) -> dict[str, tuple[float, float]]:
        """Seconds of CPU and PSS in MB of each sidecar's Envoy."""
        script = (
            "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | grep -q '^[^ ]*envoy -c' && "
            "cut -d' ' -f14,15 $p/stat && grep ^Pss: $p/smaps_rollup; done; true"
        )
        found = {}
        for app in ("client", "server"):
            words = self.inside(app, "istio-proxy", script).split()
            found[app] = (sum(map(int, words[:2])) / 100, int(words[3]) / 1024)
        return found

    def counted(self) -> int:
        """Requests that both proxies have counted."""
        total = 0
        for app in ("client", "server"):
            page = self.inside(app, "istio-proxy", "curl -s localhost:15090/stats/prometheus")
            found = re.findall(
                r'^istio_requests_total\{.*destination_service_name="server".*\} (\d+)$', page, re.MULTILINE
            )
            total += sum(map(int, found))
        return total

    def measure(self, seconds: int, *, metrics: bool) -> Sample:
        """Raises SystemExit when requests fail, or are counted other than asked for."""
        known = self.counted()
        before = self.envoys()
        text = self.inside("client", "app", f"wrk -t1 -c{CONNECTIONS} -d{seconds}s http://server.bench:8000/")
        after = self.envoys()
        count = int(re.search(r"(\d+) requests in", text)[1])  # type: ignore[index]  # wrk always says it
        if wrong := re.search(r"Non-2xx.*|Socket errors.*", text):
            sys.exit(f"wrk: {wrong[0]}")
        # Connections that rested while the settings changed carry one more request under the old ones.
        if abs(self.counted() - known - (2 * count if metrics else 0)) > 4 * CONNECTIONS:
            sys.exit(f"of {count} requests {self.counted() - known} were counted on both sides together")
        cpu = {app: (after[app][0] - before[app][0]) * 1e6 / count for app in after}
        return Sample(float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]), cpu)  # type: ignore[index]  # likewise


@contextmanager
def running() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="pilotfish-bench-") as folder:
        bench = Bench(Path(folder))
        bench.pilotfish("up", "--data", folder, "--port", "0")
        try:
            bench.prepare()
            yield bench
        finally:
            bench.pilotfish("down", "--data", folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each mode")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed")
    with running() as bench:
        bench.switch(MODES["off"])
        print("PSS after start, without metrics:", memory(bench))
        samples: defaultdict[str, list[Sample]] = defaultdict(list)
        pss: dict[str, str] = {}
        bench.measure(2, metrics=False)
        for _ in range(options.rounds):
            for name, mode in MODES.items():
                bench.switch(mode)
                samples[name].append(bench.measure(options.seconds, metrics=bool(mode["providers"])))
                pss.setdefault(name, memory(bench))
    base = median(s.rate for s in samples["off"])
    print(f"{'mode':<34}{'requests/s':>11}{'ratio':>7}{'CPU µs client':>15}{'server':>8}   PSS MB")
    for name, found in samples.items():
        rate = median(s.rate for s in found)
        client, server = (median(s.cpu[app] for s in found) for app in ("client", "server"))
        print(f"{name:<34}{rate:>11.0f}{rate / base:>7.2f}{client:>15.0f}{server:>8.0f}   {pss[name]}")


def memory(bench: Bench) -> str:
    return ", ".join(f"{app} {pss:.1f}" for app, (_, pss) in bench.envoys().items())


if __name__ == "__main__":
    main()
