"""Workloads with either agent, whatever control plane there is, and traffic between them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from tests.e2e.harness import Cluster, CommandError

from .istiod import DISCOVERY, run_helm, values

NAMESPACE = "town"
ROOT = Path(__file__).parents[2]

_WORKLOAD = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: NAME}
---
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec:
  selector: {app: NAME}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 9090}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME, version: v1}, annotations: {proxy.istio.io/config: 'CONFIG'}}
    spec:
      serviceAccountName: NAME
      containers:
      - name: app
        image: pilotfish/echo
        args: [--port, "8080", --tcp, "9090"]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
"""


def workload(name: str, config: Mapping[str, Any] | None = None, **metadata: str) -> str:
    """An echo with a service account and a Service of its own. `config`: its ProxyConfig; `metadata`: the agent's
    environment."""
    return _WORKLOAD.replace("NAME", name).replace("CONFIG", json.dumps({**(config or {}), "proxyMetadata": metadata}))


@dataclass
class Town:
    """A cluster with workloads of both kinds. Injection is done before they come to the cluster, by the programs that
    users have for it, so that it does not matter whose webhook is there."""

    cluster: Cluster
    programs: Path
    source: Path
    envoy: Path

    def _injected(self, program: list[str], chart: Path, arguments: tuple[str, ...], manifest: str) -> str:
        """By the ConfigMaps that a chart makes."""
        text = run_helm(self.cluster, "template", "istiod", str(chart), "-n", "istio-system", *arguments)
        maps = {one["metadata"]["name"]: one["data"] for one in _documents(text) if one["kind"] == "ConfigMap"}
        data = maps["istio-sidecar-injector"] | {"mesh": maps["istio"]["mesh"]}
        command = [*program, "kube-inject", "-f", "-"]
        for flag, key in {"injectConfigFile": "config", "valuesFile": "values", "meshConfigFile": "mesh"}.items():
            file = self.cluster.home / f"{chart.name}-{key}"
            file.write_text(data[key])
            command += [f"--{flag}", str(file)]
        env = self.cluster.env()
        done = subprocess.run(
            command, env=env, input=manifest, capture_output=True, text=True, check=False, timeout=60, cwd="/"
        )
        if done.returncode:
            raise CommandError(f"{command} exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def with_istios_agent(self, manifest: str) -> str:
        """The manifest as `istioctl kube-inject` makes it."""
        program = [str(self.programs / "istioctl")]
        return self._injected(program, self.source / DISCOVERY, values(self.source, self.envoy), manifest)

    def with_our_agent(self, manifest: str) -> str:
        """The manifest as `pilotfish kube-inject` makes it."""
        program = [str(Path(sys.prefix) / "bin" / "pilotfish")]
        return self._injected(program, ROOT / "charts" / "istiod", (), manifest)

    def apply(self, manifest: str, namespace: str = NAMESPACE) -> None:
        self.cluster.apply(manifest, namespace)

    def delete(self, manifest: str, namespace: str = NAMESPACE) -> None:
        self.cluster.kubectl("delete", "-n", namespace, "--ignore-not-found", "-f", "-", input_=manifest)

    def run(self, name: str, *command: str, container: str = "app", check: bool = True) -> str:
        """What a command in a workload's pod prints."""
        where = ("exec", "-n", NAMESPACE, f"deploy/{name}", "-c", container, "--")
        return self.cluster.kubectl(*where, *command, check=check)

    def ask(self, name: str, url: str, *arguments: str) -> str:
        """What curl in a workload's pod prints, whatever comes of it."""
        return self.run(name, "curl", "-sS", "--max-time", "5", *arguments, url, check=False)

    def status(self, name: str, url: str) -> str:
        """The status of a request; 000 when there is no answer."""
        return self.ask(name, url, "-o", "/dev/null", "-w", "%{http_code}\n").partition("\n")[0]

    def expect(self, status: str, names: Iterable[str], url: str, seconds: float = 20) -> None:
        """Wait until requests from all these workloads have the status."""
        waiting = set(names)
        end = time.monotonic() + seconds
        while waiting := {name for name in waiting if self.status(name, url) != status}:
            assert time.monotonic() < end, f"{url} is not answered with {status} after {seconds} s from {waiting}"

    def headers(self, name: str, url: str) -> dict[str, str]:
        """The headers that an echo saw; none when it was not reached."""
        try:
            found: dict[str, Any] = json.loads(self.ask(name, url))
        except ValueError:
            return {}
        return {key.lower(): value for key, value in found["headers"].items()}

    def logs(self, name: str, container: str = "istio-proxy") -> str:
        return self.cluster.kubectl("logs", "-n", NAMESPACE, f"deploy/{name}", "-c", container, "--tail=-1")


def _documents(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one]


Pair = tuple[str, str]


@dataclass
class Traffic:
    """Requests without a pause from workload to workload, each on a connection of its own to the caller's proxy."""

    town: Town
    pairs: list[Pair]
    ended: Mapping[Pair, Counter[str]] = field(default_factory=dict)
    """How often each status came, 000 for no answer; there when the traffic is over."""

    def __enter__(self) -> Self:
        self._processes = {pair: self._start(*pair) for pair in self.pairs}
        time.sleep(1)  # some of it comes before what is done meanwhile
        return self

    def _start(self, client: str, server: str) -> subprocess.Popen[str]:
        curl = f"curl -s -o /dev/null --max-time 5 -w '%{{http_code}}\\n' http://{server}/"
        script = f"rm -f /tmp/over; while [ ! -e /tmp/over ]; do {curl}; sleep 0.05; done"
        return self.town.cluster.popen(
            "exec", "-n", NAMESPACE, f"deploy/{client}", "-c", "app", "--", "sh", "-c", script
        )

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        time.sleep(1)
        for client in {client for client, _ in self.pairs}:
            self.town.run(client, "touch", "/tmp/over")  # noqa: S108 (in the pod)
        self.ended = {pair: Counter(one.communicate(timeout=30)[0].split()) for pair, one in self._processes.items()}

    def failures(self) -> dict[Pair, Counter[str]]:
        """Where not every answer was 200, or where there were hardly any."""
        return {pair: seen for pair, seen in self.ended.items() if set(seen) != {"200"} or seen.total() < 10}
