"""The mesh in a cluster of its own, with a gateway and Bookinfo in it, as its users install it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .harness import SAMPLES, Cluster, curl, fresh, wait_until

HOST = "product.book.example.com"
BOOKS = "book-demo"

GATEWAY = """
apiVersion: networking.istio.io/v1beta1
kind: Gateway
metadata: {name: book-gateway}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 8080, name: http, protocol: HTTP}, hosts: ["*.book.example.com"]}
---
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: productpage}
spec:
  hosts: [product.book.example.com]
  gateways: [book-gateway]
  http:
  - route: [{destination: {host: productpage, port: {number: 9080}}}]
"""
SUBSETS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  trafficPolicy: ~
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  - {name: v3, labels: {version: v3}}
"""


@dataclass
class Mesh:
    """A cluster with the mesh, a gateway and Bookinfo in it."""

    cluster: Cluster
    client: str = ""
    """The pod that requests inside the mesh come from."""

    def apply(self, manifest: str, namespace: str = BOOKS) -> None:
        self.cluster.apply(manifest, namespace)

    def inside(self, url: str, *arguments: str) -> str:
        """curl from within the mesh."""
        return self.cluster.kubectl(
            *("exec", "-n", BOOKS, self.client, "-c", "ratings", "--", "curl", "-sS", "--max-time", "10"),
            *(*arguments, url),
        )

    def versions(self, count: int = 20, *headers: str) -> Counter[str]:
        """Which versions of reviews answer, out of that many requests from one process."""
        words = " ".join(f"-H '{one}'" for one in headers)
        script = f"for i in $(seq {count}); do curl -sS --max-time 10 {words} http://reviews:9080/reviews/0; echo; done"
        text = self.cluster.kubectl("exec", "-n", BOOKS, self.client, "-c", "ratings", "--", "sh", "-c", script)
        return Counter(re.findall(r'"podname": ?"reviews-(v\d)', text))

    def page(self, *arguments: str, path: str = "/productpage", host: str = HOST) -> tuple[int, str]:
        """Through the gateway: status and body."""
        _, text = curl(
            "-H", f"Host: {host}", "-w", "\n%{http_code}", *arguments, f"http://{self.cluster.address}:8080{path}"
        )
        body, _, status = text.rpartition("\n")
        return int(status), body

    def metrics(self, app: str, namespace: str = BOOKS) -> list[tuple[str, dict[str, str], float]]:
        """The Istio series of the first pod of an app."""
        pod = self.pod(app, namespace)
        command = ("curl", "-sS", "http://127.0.0.1:15090/stats/prometheus")
        page = self.cluster.kubectl("exec", "-n", namespace, pod, "-c", "istio-proxy", "--", *command)
        matches = (re.match(r"(istio_\w+)\{(.*)\} (\S+)", line) for line in page.splitlines())
        return [(m[1], dict(re.findall(r'(\w+)="([^"]*)"', m[2])), float(m[3])) for m in matches if m]

    def pod(self, app: str, namespace: str = BOOKS) -> str:
        items = self.cluster.get("pods", "-n", namespace, "-l", f"app={app}")["items"]
        return str(items[0]["metadata"]["name"])

    @contextmanager
    def objects(self, manifest: str, namespace: str = BOOKS) -> Iterator[None]:
        """Objects that are there for the time of a test."""
        self.apply(manifest, namespace)
        try:
            yield
        finally:
            self.cluster.kubectl(
                "delete", "-n", namespace, "--ignore-not-found", "-f", "-", input_=manifest, check=False
            )


@contextmanager
def installed() -> Iterator[Mesh]:
    """Installed as the walk-through does it."""
    with fresh("rootful") as cluster:
        cluster.up()
        cluster.pilotfish("install", "-y", "--set", "profile=minimal")
        cluster.kubectl("apply", "-f", str(SAMPLES / "ingress" / "ingress.yaml"))
        cluster.kubectl("create", "namespace", BOOKS)
        cluster.kubectl("label", "namespace", BOOKS, "istio-injection=enabled")
        cluster.kubectl("apply", "-n", BOOKS, "-f", str(SAMPLES / "bookinfo" / "bookinfo.yaml"))
        cluster.ready(BOOKS)
        cluster.ready("istio-ingress")
        one = Mesh(cluster)
        one.client = one.pod("ratings")
        one.apply(GATEWAY)
        one.apply(SUBSETS)
        wait_until(lambda: one.page()[0] == 200, "the gateway serves the product page", 60)
        yield one
