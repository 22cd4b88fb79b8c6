"""Small workloads inside and outside of the mesh, and what they see of each other."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from .harness import SAMPLES
from .mesh import Mesh

SHOP = "shop"
"""The namespace in the mesh."""
STREET = "street"
"""The namespace without sidecars."""

WORKLOADS = """
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  selector: {app: echo}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: grpc, port: 7070}
  - {name: tcp, port: 9090}
---
apiVersion: v1
kind: Service
metadata: {name: echo-headless}
spec: {clusterIP: None, selector: {app: echo}, ports: [{name: http, port: 8080}, {name: tcp, port: 9090}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo, version: v1}}
    spec:
      containers: [{name: echo, image: pilotfish/echo, args: [--port, "8080", --tcp, "9090", --grpc, "7070"]}]
"""


@dataclass
class Shop:
    """Asks from the pod `sleep` of a namespace."""

    mesh: Mesh

    def script(self, text: str, namespace: str = SHOP, deployment: str = "sleep") -> str:
        """What a shell script in a pod prints."""
        return self.mesh.cluster.kubectl(
            "exec", "-n", namespace, f"deploy/{deployment}", "-c", deployment, "--", "sh", "-c", f"{text}\ntrue"
        )

    def ask(self, *requests: str, namespace: str = SHOP) -> list[str]:
        """The statuses of requests, each the arguments of curl; 000 when there is no answer."""
        lines = (f"curl -s --max-time 10 -o /dev/null -w '%{{http_code}}\\n' {one}" for one in requests)
        return self.script("\n".join(lines), namespace).split()

    def text(self, request: str, namespace: str = SHOP) -> str:
        """The answer to a request, with its headers if asked for by `-i`."""
        return self.script(f"curl -sS --max-time 10 {request} 2>&1", namespace)

    def headers(self, request: str, namespace: str = SHOP) -> dict[str, str]:
        """The headers that httpbin saw."""
        found: dict[str, Any] = json.loads(self.text(request, namespace))
        return {name.lower(): value for name, value in found["headers"].items()}

    def lines(self, host: str, port: int, word: str = "hello") -> str:
        """What a TCP server answers to a line."""
        return self.script(f"(echo {word}; sleep 0.3) | curl -s --max-time 3 telnet://{host}:{port}")

    def expect(self, answers: dict[str, str], namespace: str = SHOP, seconds: float = 60) -> None:
        """Wait until requests have these statuses, as rules and connections of before are replaced."""
        end = time.monotonic() + seconds
        while (found := dict(zip(answers, self.ask(*answers, namespace=namespace), strict=True))) != answers:
            assert time.monotonic() < end, f"{found} instead of {answers}"


def opened(mesh: Mesh) -> Shop:
    """The workloads, ready."""
    cluster = mesh.cluster
    for namespace in (SHOP, STREET):
        cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("label", "namespace", SHOP, "istio-injection=enabled")
    for namespace in (SHOP, STREET):
        for sample in ("httpbin/httpbin", "sleep/sleep"):
            cluster.kubectl("apply", "-n", namespace, "-f", str(SAMPLES / f"{sample}.yaml"))
    cluster.kubectl("apply", "-n", SHOP, "-f", str(SAMPLES / "helloworld" / "helloworld.yaml"))
    cluster.apply(WORKLOADS, SHOP)
    for namespace in (SHOP, STREET):
        cluster.ready(namespace)
    shop = Shop(mesh)
    shop.expect({"http://httpbin:8000/get": "200", "http://echo/": "200", "http://helloworld:5000/hello": "200"})
    return shop
