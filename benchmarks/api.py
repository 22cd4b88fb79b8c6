"""The API: reading and validating objects, making the CRDs, rendering the charts.

python benchmarks/api.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from pilotfish import api
from pilotfish.api.crds import crds
from pilotfish.api.files import load_one
from pilotfish.api.validation import validate
from pilotfish.install.charts import render

ROUTE = load_one(
    """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: book, creationTimestamp: "2024-01-01T00:00:00Z", resourceVersion: "7"}
spec:
  hosts: [reviews]
  http:
  - match: [{headers: {end-user: {exact: admin}}, uri: {prefix: /x}}]
    route:
    - {destination: {host: reviews, subset: v2, port: {number: 80}}, weight: 50}
    - {destination: {host: reviews, subset: v3}, weight: 50}
    timeout: 10s
    retries: {attempts: 3, perTryTimeout: 2s}
"""
)


def best(work: Callable[[], object], times: int) -> float:
    """Seconds for one call: the best of ten rounds."""

    def round_() -> float:
        start = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - start) / times

    return min(round_() for _ in range(10))


def main() -> None:
    lenient = {**ROUTE, "spec": {**ROUTE["spec"], "gateways": None}}
    config = api.decode(ROUTE)
    encoded = msgspec.json.encode(ROUTE)
    for what, work, times in (
        ("JSON text to dictionaries, for comparison", lambda: msgspec.json.decode(encoded), 2000),
        ("decode a VirtualService", lambda: api.decode(ROUTE), 2000),
        ("decode one with a null (the patient way)", lambda: api.decode(lenient), 500),
        ("validate it", lambda: validate(config), 500),
        ("fields without effect", lambda: api.unimplemented(config), 1000),
    ):
        print(f"{what:<45} {best(work, times) * 1e6:8.1f} µs")
    for what, slow in (
        ("make the CRDs", crds),
        ("render the chart istiod", lambda: render("istiod", "istiod", "istio-system", {})),
        ("render the chart base", lambda: render("base", "base", "istio-system", {})),
    ):
        print(f"{what:<45} {best(slow, 1) * 1e3:8.1f} ms")


if __name__ == "__main__":
    main()
