"""What every cluster has from its first start: namespaces, the API's own Service, roles and bindings."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from pilotfish.local import network
from pilotfish.local.apiserver import meta, schema
from pilotfish.local.apiserver.core import ordered
from pilotfish.local.apiserver.registry import key_of
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import rbac_bootstrap

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


def _namespace(name: str) -> Object:
    return {
        "kind": "Namespace",
        "apiVersion": "v1",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


def _service() -> Object:
    address = str(network.API_SERVICE_IP)
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": network.API_PORT}],
            "clusterIP": address,
            "clusterIPs": [address],
            "type": "ClusterIP",
            "sessionAffinity": "None",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    }


def _endpoints() -> Object:
    return {
        "kind": "Endpoints",
        "apiVersion": "v1",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [
            {
                "addresses": [{"ip": str(network.NODE_IP)}],
                "ports": [{"name": "https", "port": network.API_PORT, "protocol": "TCP"}],
            }
        ],
    }


def _slice() -> Object:
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [str(network.NODE_IP)], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": network.API_PORT, "protocol": "TCP"}],
    }


def ensure(core: Core) -> None:
    """Create what is missing; what the user has changed stays."""
    wanted = [*(_namespace(name) for name in NAMESPACES), _service(), _endpoints(), _slice()]
    wanted += rbac_bootstrap.objects()
    for obj in wanted:
        _create(core, obj)


def _create(core: Core, obj: Object) -> None:
    resource = core.registry.of_kind(obj["apiVersion"], obj["kind"])
    if resource is None:
        return
    metadata = obj["metadata"]
    bucket = core.registry.bucket(resource)
    key = key_of(metadata.get("namespace", ""), metadata["name"])
    if key in bucket.items:
        return
    made = ordered(obj, obj["kind"], obj["apiVersion"])
    made["metadata"] = metadata | {"uid": str(uuid.uuid4()), "creationTimestamp": meta.now()}
    if resource.has_generation:
        made["metadata"]["generation"] = 1
    schema.apply_defaults(core.registry.schema(resource), made)
    resource.strategy.default(made)
    with core.allocator.reserve(resource, made, None, dry_run=False):
        core.store.put(bucket, key, made, None)
