"""Kubernetes objects as far as a mesh reads them. What is left out cannot make anything dirty."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from pilotfish.api.telemetry import TRACE_REQUESTS

StringMap = Mapping[str, str]


class _Kept(msgspec.Struct, frozen=True, gc=False):
    namespace: str
    name: str
    labels: StringMap
    annotations: StringMap
    """Only those of the mesh (`istio.io`, `ingress.class`)."""
    created: str
    """RFC 3339; sorts by age."""


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    number: int
    name: str
    transport: str
    app_protocol: str | None
    target: int | str


class Service(_Kept, frozen=True, gc=False):
    addresses: tuple[str, ...]
    """Cluster addresses; empty when headless."""
    ports: tuple[ServicePort, ...]
    selector: StringMap
    type: str
    external_name: str
    headless: bool
    publish_not_ready: bool
    local_only: bool
    """internalTrafficPolicy Local."""
    traffic_distribution: str
    load_balancer: tuple[str, ...]
    """Addresses of the load balancer, hosts included."""


class SlicePort(msgspec.Struct, frozen=True, gc=False):
    name: str
    number: int


class SliceEndpoint(msgspec.Struct, frozen=True, gc=False):
    addresses: tuple[str, ...]
    ready: bool
    serving: bool
    terminating: bool
    pod: str
    """Name of the pod behind it, in the slice's namespace; empty when it is something else."""
    node: str
    zone: str
    hostname: str


class EndpointSlice(msgspec.Struct, frozen=True, gc=False):
    namespace: str
    name: str
    service: str
    family: str
    ports: tuple[SlicePort, ...]
    endpoints: tuple[SliceEndpoint, ...]


class Pod(_Kept, frozen=True, gc=False):
    service_account: str
    node: str
    addresses: tuple[str, ...]
    ports: tuple[tuple[str, int], ...]
    """Named container ports."""
    hostname: str
    subdomain: str
    workload: str
    """Name of the Deployment, StatefulSet, … behind it; the pod's own name when there is none."""
    host_network: bool


class Node(_Kept, frozen=True, gc=False):
    pass


class Namespace(_Kept, frozen=True, gc=False):
    pass


class Secret(_Kept, frozen=True, gc=False):
    """A Secret or ConfigMap, as far as it can be a credential of a gateway: the other keys are none of our business."""

    data: Mapping[str, bytes]
    """Values by key (`CREDENTIAL_KEYS`), base64-decoded."""


CREDENTIAL_KEYS = frozenset(
    {"tls.crt", "tls.key", "ca.crt", "cert", "key", "cacert", "crl", "ca.crl", "tls.ocsp-staple"}
)


def _meta(obj: Mapping[str, Any]) -> dict[str, Any]:
    meta = obj["metadata"]
    return {
        "namespace": meta.get("namespace") or "",
        "name": meta["name"],
        "labels": meta.get("labels") or {},
        "annotations": kept_annotations(meta.get("annotations")),
        "created": meta.get("creationTimestamp") or "",
    }


def kept_annotations(annotations: Mapping[str, str] | None) -> StringMap:
    if not annotations:
        return {}
    return {
        k: v for k, v in annotations.items() if "istio.io/" in k or k in ("kubernetes.io/ingress.class", TRACE_REQUESTS)
    }


def service(obj: Mapping[str, Any]) -> Service:
    spec = obj.get("spec") or {}
    addresses = tuple(a for a in spec.get("clusterIPs") or [spec.get("clusterIP") or ""] if a)
    headless = "None" in addresses
    ingress = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return Service(
        **_meta(obj),
        addresses=() if headless else addresses,
        ports=tuple(
            ServicePort(p["port"], p.get("name") or "", p.get("protocol") or "TCP", p.get("appProtocol"), _target(p))
            for p in spec.get("ports") or ()
        ),
        selector=spec.get("selector") or {},
        type=spec.get("type") or "ClusterIP",
        external_name=spec.get("externalName") or "",
        headless=headless,
        publish_not_ready=bool(spec.get("publishNotReadyAddresses")),
        local_only=spec.get("internalTrafficPolicy") == "Local",
        traffic_distribution=spec.get("trafficDistribution") or "",
        load_balancer=tuple(i.get("ip") or i.get("hostname") or "" for i in ingress),
    )


def _target(port: Mapping[str, Any]) -> int | str:
    target: int | str = port.get("targetPort") or port["port"]
    return int(target) if isinstance(target, str) and target.isdigit() else target


def endpoint_slice(obj: Mapping[str, Any]) -> EndpointSlice:
    meta = obj["metadata"]
    return EndpointSlice(
        namespace=meta.get("namespace") or "",
        name=meta["name"],
        service=(meta.get("labels") or {}).get("kubernetes.io/service-name", ""),
        family=obj.get("addressType") or "IPv4",
        ports=tuple(SlicePort(p.get("name") or "", p["port"]) for p in obj.get("ports") or () if p.get("port")),
        endpoints=tuple(_endpoint(e) for e in obj.get("endpoints") or ()),
    )


def _endpoint(endpoint: Mapping[str, Any]) -> SliceEndpoint:
    conditions = endpoint.get("conditions") or {}
    target = endpoint.get("targetRef") or {}
    ready = conditions.get("ready")
    ready = True if ready is None else bool(ready)  # unknown counts as ready
    serving = conditions.get("serving")
    return SliceEndpoint(
        addresses=tuple(endpoint.get("addresses") or ()),
        ready=ready,
        serving=ready if serving is None else bool(serving),
        terminating=bool(conditions.get("terminating")),
        pod=target.get("name") or "" if target.get("kind") == "Pod" else "",
        node=endpoint.get("nodeName") or "",
        zone=endpoint.get("zone") or "",
        hostname=endpoint.get("hostname") or "",
    )


def pod(obj: Mapping[str, Any]) -> Pod:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    addresses = tuple(a["ip"] for a in status.get("podIPs") or () if a.get("ip"))
    if not addresses and status.get("podIP"):
        addresses = (status["podIP"],)
    return Pod(
        **_meta(obj),
        service_account=spec.get("serviceAccountName") or "default",
        node=spec.get("nodeName") or "",
        addresses=addresses if status.get("phase") not in ("Succeeded", "Failed") else (),
        ports=tuple((p["name"], p["containerPort"]) for c in containers for p in c.get("ports") or () if p.get("name")),
        hostname=spec.get("hostname") or "",
        subdomain=spec.get("subdomain") or "",
        workload=workload_name(obj["metadata"]),
        host_network=bool(spec.get("hostNetwork")),
    )


def workload_name(meta: Mapping[str, Any]) -> str:
    """The controller's name, with a ReplicaSet's hash taken away to give the Deployment's."""
    for owner in meta.get("ownerReferences") or ():
        if owner.get("controller"):
            name: str = owner["name"]
            template = (meta.get("labels") or {}).get("pod-template-hash")
            if owner.get("kind") == "ReplicaSet" and template and name.endswith(f"-{template}"):
                return name[: -len(template) - 1]
            if owner.get("kind") == "Job" and (found := re.fullmatch(r"(.+)-\d{8,10}", name)):
                return found[1]  # a CronJob's
            return name
    return str(meta.get("name") or "")


def node(obj: Mapping[str, Any]) -> Node:
    return Node(**_meta(obj))


def namespace(obj: Mapping[str, Any]) -> Namespace:
    return Namespace(**_meta(obj))


def secret(obj: Mapping[str, Any]) -> Secret:
    data = {k: base64.b64decode(v or "") for k, v in (obj.get("data") or {}).items() if k in CREDENTIAL_KEYS}
    data |= {k: v.encode() for k, v in (obj.get("stringData") or {}).items() if k in CREDENTIAL_KEYS}
    return Secret(**_meta(obj), data=data)


def config_map(obj: Mapping[str, Any]) -> Secret:
    data = {k: v.encode() for k, v in (obj.get("data") or {}).items() if k in CREDENTIAL_KEYS}
    return Secret(**_meta(obj), data=data)
