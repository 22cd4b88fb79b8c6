"""What Istio's control plane and ours make of the same objects, brought to one form and compared.

`python -m tests.interop.xds FILE…` prints the differences; files are as `tests/envoy/golden/*.in.yaml`, and
`corpus:PART` stands for those of Istio's own whose names have the part in them. Needs `PILOTFISH_INTEROP`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tests.envoy import harness
from tests.envoy.harness import everything, view
from tests.interop import world
from tests.interop.normal import normal

from pilotfish.api import DecodeError
from pilotfish.api.mesh import decode_mesh_config

PROGRAM = "xds-oracle"


Objects = list[dict[str, Any]]


def complete(found: Objects) -> Objects:
    """The objects with what an API server, its controllers and a kubelet fill in, and Istio relies on."""
    pods = {p["ip"]: o for o in found if o["kind"] == "Pod" for p in _addresses(o)}
    made: Objects = []
    for proxy in (o for o in found if o["kind"] == "Proxy"):
        at = proxy.setdefault("ip", "10.1.0.1")
        if at not in pods:
            pods[at] = _own_pod(proxy)
            made.append(pods[at])
    for obj in found:
        if obj["kind"] in SETTINGS:
            continue
        if obj["kind"] not in ("Node", "Namespace"):
            obj["metadata"].setdefault("namespace", "default")
        if obj["kind"] == "Pod":
            _complete_pod(obj)
        elif obj["kind"] == "Service":
            _complete_service(obj)
        elif obj["kind"] == "EndpointSlice":
            made += _complete_slice(obj, pods)
    return [*found, *made]


SETTINGS = ("MeshConfig", "Proxy", "JWKS")
"""What are no objects of a cluster, but of our tests."""


def _complete_service(obj: dict[str, Any]) -> None:
    spec = obj.setdefault("spec", {})
    if spec.get("clusterIPs"):
        spec.setdefault("clusterIP", spec["clusterIPs"][0])
    if spec.setdefault("type", "ClusterIP") != "ExternalName" and spec.get("clusterIP"):
        spec.setdefault("clusterIPs", [spec["clusterIP"]])
    for port in spec.get("ports") or ():
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port["port"])


def _complete_slice(obj: dict[str, Any], pods: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Its endpoints become pods, which are yielded when they are new."""
    obj.setdefault("addressType", "IPv4")
    for port in obj.get("ports") or ():
        port.setdefault("protocol", "TCP")
        port.setdefault("name", "")
    for one in obj.get("endpoints") or ():
        ready = one.setdefault("conditions", {}).setdefault("ready", True)
        one["conditions"] = {"serving": ready, "terminating": False, **one["conditions"]}
        if "targetRef" not in one:
            at = one["addresses"][0]
            if at not in pods:
                pods[at] = _pod(at, obj, one)
                yield pods[at]
            one["targetRef"] = {"kind": "Pod", "name": pods[at]["metadata"]["name"]}
        one["targetRef"].setdefault("namespace", obj["metadata"]["namespace"])


def _addresses(pod: dict[str, Any]) -> list[dict[str, str]]:
    status = pod.get("status", {})
    return status.get("podIPs") or ([{"ip": status["podIP"]}] if status.get("podIP") else [])


def _own_pod(proxy: dict[str, Any]) -> dict[str, Any]:
    ports = json.loads(proxy.get("metadata", {}).get("POD_PORTS", "[]"))
    meta = {"name": proxy.get("name", "client-1"), "namespace": proxy.get("namespace", "default")}
    return _complete_pod(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**meta, "labels": proxy.get("labels", {})},
            "spec": {"containers": [{"name": "app", "ports": [{"protocol": "TCP", **p} for p in ports]}]},
            "status": {"podIP": proxy["ip"]},
        }
    )


def _pod(ip: str, slice_: dict[str, Any], endpoint: dict[str, Any]) -> dict[str, Any]:
    name = "pod-" + ip.replace(".", "-").replace(":", "-")
    return _complete_pod(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": slice_["metadata"]["namespace"]},
            "spec": {"nodeName": endpoint.get("nodeName", ""), "containers": []},
            "status": {"podIP": ip},
        }
    )


def _complete_pod(obj: dict[str, Any]) -> dict[str, Any]:
    status = obj.setdefault("status", {})
    status.setdefault("phase", "Running")
    if found := _addresses(obj):
        status.setdefault("podIP", found[0]["ip"])
        status.setdefault("podIPs", found)
    status.setdefault("conditions", [{"type": "Ready", "status": "True"}])
    obj.setdefault("spec", {}).setdefault("serviceAccountName", "default")
    return obj


def node(proxy: dict[str, Any]) -> dict[str, Any]:
    """The xDS node of a Proxy."""
    namespace, name = proxy.get("namespace", "default"), proxy.get("name", "client-1")
    return {
        "id": f"{proxy.get('type', 'sidecar')}~{proxy['ip']}~{name}.{namespace}~{namespace}.svc.cluster.local",
        "metadata": {
            "NAMESPACE": namespace,
            "LABELS": proxy.get("labels", {}),
            "ISTIO_VERSION": "1.31.0",
            **proxy.get("metadata", {}),
        },
        "locality": proxy.get("locality", {}),
    }


def question(name: str, objects: Objects, proxies: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A case for the oracle."""
    mesh = next(({k: v for k, v in o.items() if k != "kind"} for o in objects if o["kind"] == "MeshConfig"), {})
    rest = [o for o in objects if o["kind"] not in SETTINGS]
    return {
        "name": name,
        "kube": "\n---\n".join(json.dumps(o, default=str) for o in rest if o["kind"] in CORE),
        "config": "\n---\n".join(json.dumps(o, default=str) for o in rest if "istio.io" in o["apiVersion"]),
        "mesh": yaml.safe_dump(mesh) if mesh else "",
        "nodes": {title: node(proxy) for title, proxy in proxies.items()},
    }


CORE = ("Service", "Pod", "EndpointSlice", "Node", "Namespace", "Secret", "ConfigMap")


class Oracle:
    """Istio's code as a process: a question a line, an answer a line."""

    def __init__(self, programs: Path, **settings: str) -> None:
        env = {**os.environ, "PILOT_ENABLE_METADATA_EXCHANGE": "false", **settings}
        self.process = subprocess.Popen(
            [str(programs / PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
        )

    def ask(self, one: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(one) + "\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)


def ours(
    objects: Objects, proxies: Mapping[str, dict[str, Any]]
) -> tuple[dict[str, dict[str, dict[str, Any]]], list[str]]:
    """By proxy what our compiler makes of the objects; and what it refuses."""
    refused: list[str] = []
    case = harness.Case("")
    for obj in objects:
        if obj["kind"] == "MeshConfig":
            case.world.set_mesh(decode_mesh_config({k: v for k, v in obj.items() if k != "kind"})[0])
        elif obj["kind"] == "JWKS":
            case.world.set_jwks(obj["uri"], obj["keys"])
        elif obj["kind"] != "Proxy":
            try:
                case.world.apply(obj)
            except DecodeError as error:
                refused.append(f"{obj['kind']} {obj['metadata'].get('name')}: {error}")
    made = {}
    for name, proxy in proxies.items():
        found = everything(case.compiler, view(case.compiler, proxy))
        made[name] = normal({k: v.values() for k, v in found.items() if k != "secrets"})
    refused += [f"failed: {f}" for f in case.compiler.errors()]
    return made, refused


def differences(theirs: Any, mine: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(theirs, dict) and isinstance(mine, dict):
        for k in [*theirs, *(k for k in mine if k not in theirs)]:
            yield from differences(theirs.get(k, "-"), mine.get(k, "-"), f"{path}/{k}")
    elif isinstance(theirs, list) and isinstance(mine, list) and len(theirs) == len(mine):
        for i, (a, b) in enumerate(zip(theirs, mine, strict=True)):
            yield from differences(a, b, f"{path}[{i}]")
    elif theirs != mine:
        yield path, theirs, mine


class Case(NamedTuple):
    name: str
    objects: Objects
    proxies: Mapping[str, dict[str, Any]]


PROXIES = (
    "default/curl-0",
    "default/b-0",
    "default/reviews-v1-0",
    "foo/httpbin-0",
    "istio-system/istio-ingressgateway-0",
    "istio-system/istio-egressgateway-0",
)
"""Whose configuration is compared in the world, beside that of pods a case brings."""


def placed(source: Path, name: str, found: Objects) -> Case:
    """Objects of Istio's in the world."""
    objects = complete(world.run([*world.base(source), *found]))
    mine = {o["metadata"].get("name") for o in found}
    proxies = {k: v for k, v in world.proxies(objects).items() if k in PROXIES or v["name"] in mine}
    return Case(name, objects, proxies)


def compare(oracle: Oracle, case: Case) -> Iterator[tuple[str, str, Any, Any]]:
    """The differences by proxy: where, Istio's and ours. What Istio refuses, neither side gets."""
    answer = oracle.ask(question(case.name, case.objects, case.proxies))
    if answer.get("error"):
        yield "", "", answer["error"], None
        return
    refused = [json.loads(one) for one in answer.get("refused", ()) if one.strip()]
    mine, complaints = ours([o for o in case.objects if o not in refused], case.proxies)
    for one in complaints:
        yield "", "", None, one
    for proxy in case.proxies:
        for path, a, b in differences(normal(answer["nodes"][proxy]), mine[proxy]):
            yield proxy, path, a, b


def chosen() -> Iterator[Case]:
    """The cases named on the command line: files, or `corpus[:part of a name]`."""
    source = Path(os.environ["PILOTFISH_INTEROP"]) / "src" / "istio"
    for word in sys.argv[1:]:
        if word.startswith("corpus"):
            for name, found in world.cases(source):
                if word.partition(":")[2] in name:
                    yield placed(source, name, found)
        else:
            objects = complete([o for o in yaml.safe_load_all(Path(word).read_text()) if o])
            yield Case(word, objects, {"proxy": next(o for o in objects if o["kind"] == "Proxy")})


def main() -> None:
    oracle = Oracle(Path(os.environ["PILOTFISH_INTEROP"]) / "bin")
    for case in chosen():
        print("=====", case.name)
        for proxy, path, a, b in compare(oracle, case):
            print(f"  {path or '/'}   {proxy}\n     I {json.dumps(a)[:600]}\n     P {json.dumps(b)[:600]}")
    oracle.close()


if __name__ == "__main__":
    main()
