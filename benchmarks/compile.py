"""How fast a mesh is compiled, and recompiled after a change. `python benchmarks/compile.py [services]`.

Ratios against compiling everything from nothing in the same run say more than the times.
"""

from __future__ import annotations

import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from pilotfish.api.mesh import MeshConfig
from pilotfish.envoy import CLUSTER, ENDPOINT, LISTENER, ROUTE, Compiler
from pilotfish.mesh import World

ENDPOINTS_EACH = 10


def objects(count: int) -> Iterator[dict[str, Any]]:
    for n in range(count):
        name, namespace = f"svc-{n}", f"ns-{n % 20}"
        meta = {"name": name, "namespace": namespace}
        ip = f"10.{n >> 8 & 255}.{n & 255}.1"
        spec = {"clusterIP": ip, "selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
        yield {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}
        yield endpoint_slice(n, 0)
        for e in range(ENDPOINTS_EACH):
            labels = {"app": name, "version": f"v{e % 2 + 1}", "security.istio.io/tlsMode": "istio"}
            yield {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"{name}-{e}", "namespace": namespace, "labels": labels},
                "spec": {"serviceAccountName": name, "containers": []},
                "status": {"podIP": pod_ip(n, e)},
            }
        yield virtual_service(n, 50)
        subsets = [{"name": v, "labels": {"version": v}} for v in ("v1", "v2")]
        yield config("DestinationRule", n, {"host": name, "subsets": subsets})


def pod_ip(n: int, e: int) -> str:
    return f"172.{16 + (n >> 8)}.{n & 255}.{e + 1}"


def endpoint_slice(n: int, unready: int) -> dict[str, Any]:
    name = f"svc-{n}"
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": f"ns-{n % 20}", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [
            {
                "addresses": [pod_ip(n, e)],
                "conditions": {"ready": e >= unready},
                "targetRef": {"kind": "Pod", "name": f"{name}-{e}"},
            }
            for e in range(ENDPOINTS_EACH)
        ],
    }


def config(kind: str, n: int, spec: dict[str, Any]) -> dict[str, Any]:
    meta = {"name": f"svc-{n}", "namespace": f"ns-{n % 20}", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": meta, "spec": spec}


def virtual_service(n: int, weight: int) -> dict[str, Any]:
    name = f"svc-{n}"
    route = [
        {"destination": {"host": name, "subset": "v1"}, "weight": weight},
        {"destination": {"host": name, "subset": "v2"}, "weight": 100 - weight},
    ]
    return config("VirtualService", n, {"hosts": [name], "http": [{"route": route}]})


def node(namespace: str) -> dict[str, Any]:
    return {
        "id": f"sidecar~10.9.9.9~client-1.{namespace}~{namespace}.svc.cluster.local",
        "metadata": {"NAMESPACE": namespace, "LABELS": {"app": "client"}, "WORKLOAD_NAME": "client"},
    }


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    docs = list(objects(count))
    before = memory()
    gc.disable()
    world = World()
    apply = timed(lambda: [world.apply(d) for d in docs])
    compiler = Compiler(world)
    one = compiler.view(node("ns-0"))
    cold = timed(lambda: compiler.watch(one))
    held = {t.rpartition(".")[2]: len(compiler.every(one, t)) for t in (CLUSTER, ENDPOINT, LISTENER, ROUTE)}
    print(
        f"{count} services, {ENDPOINTS_EACH} endpoints, 2 subsets, a VirtualService and a DestinationRule each: {held}"
    )
    print(f"{'apply all objects':44}{apply * 1e3:10.1f} ms   {apply / len(docs) * 1e6:8.1f} µs each")
    print(f"{'cold build of one view':44}{cold * 1e3:10.1f} ms   {memory() - before:8.1f} MB for objects and results")
    again = compiler.view(node("ns-0") | {"id": "sidecar~10.9.9.8~client-2.ns-0~ns-0.svc.cluster.local"})
    assert again is one
    other = compiler.view(node("ns-1"))
    shared = timed(lambda: compiler.watch(other))
    print(f"{'a second view, another namespace':44}{shared * 1e3:10.1f} ms   1/{cold / shared:.0f} of cold")
    compiler.release(other)
    compiler.changed()

    def edit(title: str, change: Callable[[int], dict[str, Any]], expect: str) -> None:
        times = []
        for round_ in range(50):
            obj = change(round_)

            def run(obj: dict[str, Any] = obj) -> None:
                world.apply(obj)
                changed = compiler.changed()
                assert {t.rpartition(".")[2] for t in changed.get(one, {})} == ({expect} if expect else set()), changed

            times.append(timed(run))
        median = statistics.median(times)
        print(f"{title:44}{median * 1e6:10.0f} µs   1/{cold / median:.0f} of cold")

    edit("one endpoint's readiness", lambda r: endpoint_slice(r, 1), "ClusterLoadAssignment")
    edit("one VirtualService's weights", lambda r: virtual_service(r, 10), "RouteConfiguration")
    edit("a label of one pod nobody selects by", pod_with_label, "")
    edit("status of a VirtualService only", lambda r: {**virtual_service(r, 10), "status": {"n": r}}, "")
    peer = {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication"}
    modes = ("PERMISSIVE", "UNSET")
    edit(
        "PeerAuthentication that changes nothing",
        lambda r: {
            **peer,
            "metadata": {"name": "default", "namespace": "ns-1"},
            "spec": {"mtls": {"mode": modes[r % 2]}},
        },
        "",
    )

    settings = []
    for round_ in range(5):
        config_ = MeshConfig(ingress_class=str(round_))
        settings.append(timed(lambda config_=config_: (world.set_mesh(config_), compiler.changed())))  # type: ignore[misc]  # bound
    median = statistics.median(settings)
    print(f"{'a MeshConfig field no proxy depends on':44}{median * 1e6:10.0f} µs   1/{cold / median:.0f} of cold")


def pod_with_label(n: int) -> dict[str, Any]:
    name = f"svc-{n}"
    labels = {"app": name, "version": "v1", "security.istio.io/tlsMode": "istio", "note": str(n)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{name}-0", "namespace": f"ns-{n % 20}", "labels": labels},
        "spec": {"serviceAccountName": name, "containers": []},
        "status": {"podIP": pod_ip(n, 0)},
    }


if __name__ == "__main__":
    main()
