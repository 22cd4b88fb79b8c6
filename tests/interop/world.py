"""Istio's own YAML as cases: its samples, its test data and the configuration inside its tests, over a small world."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Objects = list[dict[str, Any]]


def documents(text: str) -> Objects:
    """The Kubernetes objects in a YAML text; nothing when it is no YAML, a template for instance."""
    try:
        found = list(yaml.safe_load_all(text))
    except yaml.YAMLError:
        return []
    result: Objects = []
    for one in found:
        if isinstance(one, dict) and one.get("kind") == "List":
            result += one.get("items") or []
        elif isinstance(one, dict) and "kind" in one and "apiVersion" in one and isinstance(one.get("metadata"), dict):
            result.append(one)
    return result


def _put(result: Objects, obj: dict[str, Any]) -> None:
    """Add an object in place of one of the same name."""

    def key(o: dict[str, Any]) -> tuple[str, str, str]:
        return o["kind"], o["metadata"].get("namespace", "default"), o["metadata"].get("name", "")

    result[:] = [o for o in result if key(o) != key(obj)]
    result.append(obj)


def run(objects: Objects) -> Objects:
    """The objects with the pods of Deployments and the like, and the EndpointSlices of Services."""
    result: Objects = []
    for obj in objects:
        obj["metadata"].setdefault("namespace", "default")
        _put(result, obj)
    pods: Objects = []
    for obj in result:
        if obj["kind"] in ("Deployment", "StatefulSet", "ReplicaSet", "DaemonSet"):
            template = copy.deepcopy(obj["spec"]["template"])
            meta = template.setdefault("metadata", {})
            labels = {**meta.get("labels", {}), "security.istio.io/tlsMode": "istio"}
            number = len(pods) + 1
            pods.append(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {
                        "name": f"{obj['metadata']['name']}-0",
                        "namespace": obj["metadata"]["namespace"],
                        "labels": labels,
                        "annotations": meta.get("annotations", {}),
                    },
                    "spec": {
                        "serviceAccountName": template["spec"].get("serviceAccountName", "default"),
                        "nodeName": f"node-{number % 2}",
                        "containers": [
                            {"name": c["name"], "ports": [{"protocol": "TCP", **p} for p in c.get("ports") or ()]}
                            for c in template["spec"].get("containers") or ()
                        ],
                    },
                    "status": {"podIP": f"10.44.{number // 250}.{number % 250 + 1}"},
                }
            )
    address = 0
    for obj in [o for o in result if o["kind"] == "Service"]:
        spec = obj.setdefault("spec", {})
        address += 1
        if spec.get("type") != "ExternalName":
            spec.setdefault("clusterIP", f"10.96.1.{address}")
        selector = spec.get("selector")
        chosen = [
            p
            for p in [*pods, *(o for o in result if o["kind"] == "Pod" and o.get("status", {}).get("podIP"))]
            if selector
            and p["metadata"]["namespace"] == obj["metadata"]["namespace"]
            and selector.items() <= (p["metadata"].get("labels") or {}).items()
        ]
        if not chosen:
            continue
        ports = []
        for port in spec.get("ports") or ():
            target = port.get("targetPort", port["port"])
            if isinstance(target, str):
                every = (q for p in chosen for c in p["spec"]["containers"] for q in c.get("ports", ()))
                target = next((q["containerPort"] for q in every if q.get("name") == target), None)
            if target is not None:
                ports.append({"name": port.get("name", ""), "port": target, "protocol": port.get("protocol", "TCP")})
        result.append(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{obj['metadata']['name']}-1",
                    "namespace": obj["metadata"]["namespace"],
                    "labels": {"kubernetes.io/service-name": obj["metadata"]["name"]},
                },
                "addressType": "IPv4",
                "ports": ports,
                "endpoints": [
                    {
                        "addresses": [p["status"]["podIP"]],
                        "conditions": {"ready": True},
                        "targetRef": {
                            "kind": "Pod",
                            "name": p["metadata"]["name"],
                            "namespace": p["metadata"]["namespace"],
                        },
                    }
                    for p in chosen
                ],
            }
        )
    nodes: Objects = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": f"node-{i}",
                "labels": {"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": f"z{i}"},
            },
        }
        for i in range(2)
    ]
    return [*result, *pods, *nodes]


def proxies(objects: Objects) -> dict[str, dict[str, Any]]:
    """The proxies of a world by name: a sidecar in each pod, or the gateway that a pod is."""
    found = {}
    for pod in objects:
        if pod["kind"] != "Pod" or not pod.get("status", {}).get("podIP"):
            continue
        meta = pod["metadata"]
        labels = meta.get("labels") or {}
        gateway = "gateway" in labels.get("istio", "") or "gateway" in labels.get("app", "")
        found[f"{meta['namespace']}/{meta['name']}"] = {
            "kind": "Proxy",
            "type": "router" if gateway else "sidecar",
            "name": meta["name"],
            "namespace": meta["namespace"],
            "ip": pod["status"]["podIP"],
            "labels": labels,
            "locality": {"region": "r", "zone": "z" + pod["spec"].get("nodeName", "-0")[-1]}
            if pod["spec"].get("nodeName")
            else {},
        }
    return found


_ECHO = """
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: NS, labels: {app: NAME}}
spec:
  selector: {app: NAME}
  ports:
  - {name: http, port: 80, targetPort: 18080}
  - {name: https, port: 443, targetPort: 18443}
  - {name: tcp, port: 9090, targetPort: 19090}
  - {name: grpc, port: 7070, targetPort: 17070}
  - {name: http2, port: 85, targetPort: 18085}
  - {name: tcp-server, port: 9091, targetPort: 16060}
  - {name: auto-http, port: 81, targetPort: 18081}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, namespace: NS}
spec:
  template:
    metadata: {labels: {app: NAME, version: v1}}
    spec: {serviceAccountName: NAME, containers: [{name: app, ports: [{containerPort: 18080, name: http}]}]}
"""

_GATEWAY = """
apiVersion: v1
kind: Service
metadata: {name: istio-KINDgateway, namespace: istio-system, labels: {app: istio-KINDgateway, istio: KINDgateway}}
spec:
  type: LoadBalancer
  selector: {app: istio-KINDgateway, istio: KINDgateway}
  ports:
  - {name: status-port, port: 15021, targetPort: 15021}
  - {name: http2, port: 80, targetPort: 8080}
  - {name: https, port: 443, targetPort: 8443}
  - {name: tcp, port: 31400, targetPort: 31400}
  - {name: tls, port: 15443, targetPort: 15443}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: istio-KINDgateway, namespace: istio-system}
spec:
  template:
    metadata: {labels: {app: istio-KINDgateway, istio: KINDgateway}}
    spec: {serviceAccountName: istio-KINDgateway, containers: [{name: istio-proxy}]}
"""


def base(source: Path) -> Objects:
    """Bookinfo, httpbin, curl, helloworld, tcp-echo, two echoes in each of three namespaces, and both gateways."""
    text = ""
    for name in ("bookinfo/platform/kube/bookinfo", "httpbin/httpbin", "curl/curl", "helloworld/helloworld"):
        text += (source / "samples" / f"{name}.yaml").read_text() + "\n---\n"
    text += (source / "samples/tcp-echo/tcp-echo-services.yaml").read_text()
    found = documents(text)
    for namespace in ("default", "foo", "other"):
        for name in ("a", "b"):
            found += documents(_ECHO.replace("NAME", name).replace("NS", namespace))
    httpbin = documents((source / "samples/httpbin/httpbin.yaml").read_text())
    for obj in httpbin:
        obj["metadata"]["namespace"] = "foo"
    found += httpbin
    for kind in ("ingress", "egress"):
        found += documents(_GATEWAY.replace("KIND", kind))
    return found


KINDS = ("networking.istio.io", "security.istio.io")


def _cases(source: Path) -> Iterator[tuple[str, Objects]]:
    for pattern in (
        "samples/**/*.yaml",
        "pkg/config/analysis/analyzers/testdata/*.yaml",
        "pilot/pkg/security/authz/builder/testdata/**/*-in.yaml",
        "tests/testdata/**/*.yaml",
        "tests/integration/**/*.yaml",
        "pkg/config/validation/testdata/**/*.yaml",
        "pilot/pkg/xds/testdata/**/*.yaml",
    ):
        for path in sorted(source.glob(pattern)):
            name = str(path.relative_to(source))
            yield name, documents(_template(path.read_text()))
    for path in sorted(source.glob("**/*.go")):
        if "/cni/" in str(path) or "operator/" in str(path):
            continue
        text = path.read_text(errors="replace")
        if "istio.io/v1" not in text:
            continue
        for number, one in enumerate(re.findall(r"`([^`]*istio\.io/v1[^`]*)`", text)):
            yield f"{path.relative_to(source)}#{number}", documents(_template(one))


_WORDS = {
    "b": "dstSvc dst Dst host Host To",
    "a": "src Src From",
    "default": "Namespace namespace TestNamespace AppNamespace",
    "foo": "ServerNamespace",
    "istio-system": "RootNamespace SystemNamespace",
    "ingressgateway": "GatewayIstioLabel",
    "80": "dstPort Port port",
    "some": "Name name",
}
_VALUES = {name: value for value, names in _WORDS.items() for name in names.split()}
"""What stands in for a template's words."""


def _template(text: str) -> str:
    """A Go template with the likeliest words filled in; what is not understood leaves no YAML."""

    def value(found: re.Match[str]) -> str:
        words = found[1].strip(" -").split()
        if not words or words[0] in ("if", "range", "end", "else", "with", "define", "-"):
            return ""
        name = words[0].lstrip(".$").split(".")[-1] or words[0].lstrip(".$").split(".")[0]
        first = words[0].lstrip(".$").split(".")[0]
        return _VALUES.get(name) or _VALUES.get(first) or (words[-1].strip('"') if words[0] == "|" else "some")

    text = re.sub(r"%[svdq]", "x", text)  # of fmt.Sprintf
    return re.sub(r"\{\{(.*?)\}\}", value, text) if "{{" in text else text


def cases(source: Path) -> Iterator[tuple[str, Objects]]:
    """Name and objects; the first case is the base alone."""
    seen = set()
    yield "base", []
    for name, found in _cases(source):
        if not any(o["apiVersion"].startswith(KINDS) for o in found):
            continue
        text = yaml.safe_dump_all(found)
        if text in seen:
            continue
        seen.add(text)
        yield name, found
