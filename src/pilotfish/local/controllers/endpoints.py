"""Endpoints: the older form of a Service's addresses.

As kubernetes/pkg/controller/endpoint: addresses with the same ports share a subset, sorted, ready and not ready apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pilotfish.kube.errors import KubeError, is_already_exists, is_not_found
from pilotfish.kube.informer import Change
from pilotfish.kube.meta import Key, annotations_of, is_deleting, key_of, labels_of
from pilotfish.kube.resources import ENDPOINTS, PODS, SERVICES, Object
from pilotfish.local.controllers.base import Cluster, Controller
from pilotfish.local.controllers.pods import is_ready
from pilotfish.local.controllers.serving import (
    HEADLESS,
    address_of,
    hostname_of,
    is_behind,
    is_headless,
    resolve_ports,
    services_of,
    target_reference,
)

MANAGED_BY = "endpoints.kubernetes.io/managed-by"
_CAPACITY = 1000  # addresses
_OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"


def subsets(service: Mapping[str, Any], pods: Iterable[Object]) -> list[Object]:
    families = service["spec"].get("ipFamilies") or ["IPv4"]
    everyone_is_ready = bool(service["spec"].get("publishNotReadyAddresses"))
    by_ports: dict[tuple[tuple[str, Any], ...], Object] = {}
    for pod in sorted(pods, key=key_of):
        address = address_of(pod, families[0])
        if address is None or not is_behind(service, pod) or (is_deleting(pod) and not everyone_is_ready):
            continue
        ports = [{key: value for key, value in port.items() if value} for port in resolve_ports(service, pod)]
        if service["spec"].get("ports") and not ports:
            continue
        ports.sort(key=lambda port: (port.get("name", ""), port["port"], port["protocol"]))
        key = tuple((one.get("name", ""), (one["port"], one["protocol"], one.get("appProtocol"))) for one in ports)
        subset = by_ports.setdefault(key, {"addresses": [], "notReadyAddresses": [], "ports": ports})
        entry: Object = {"ip": address}
        if hostname := hostname_of(service, pod):
            entry["hostname"] = hostname
        if pod["spec"].get("nodeName"):
            entry["nodeName"] = pod["spec"]["nodeName"]
        entry["targetRef"] = target_reference(pod)
        subset["addresses" if everyone_is_ready or is_ready(pod) else "notReadyAddresses"].append(entry)
    result = []
    for key in sorted(by_ports, key=repr):
        subset = by_ports[key]
        for part in ("addresses", "notReadyAddresses"):
            subset[part].sort(
                key=lambda one: (tuple(map(int, one["ip"].split("."))) if "." in one["ip"] else one["ip"],)
            )
        result.append({name: value for name, value in subset.items() if value})
    return result


def limited(parts: list[Object]) -> tuple[list[Object], bool]:
    """At most a thousand addresses, the ready ones first; whether some were left out."""
    left = _CAPACITY
    cut = False
    for kind in ("addresses", "notReadyAddresses"):
        for part in parts:
            if kind in part:
                cut = cut or len(part[kind]) > left
                part[kind] = part[kind][:left]
                left -= len(part[kind])
    return [part for part in parts if part.get("addresses") or part.get("notReadyAddresses")], cut


def make(service: Mapping[str, Any], pods: Iterable[Object], present: Mapping[str, Any] | None) -> Object:
    """The Endpoints as they should be. Annotations of others stay."""
    namespace, name = key_of(service)
    labels = {key: value for key, value in labels_of(service).items() if key != HEADLESS}
    labels[MANAGED_BY] = "endpoint-controller"
    if is_headless(service):
        labels[HEADLESS] = ""
    parts, cut = limited(subsets(service, pods))
    annotations = {
        key: value for key, value in annotations_of(present or {"metadata": {}}).items() if key != _OVER_CAPACITY
    }
    if cut:
        annotations[_OVER_CAPACITY] = "truncated"
    meta: Object = {**(present or {"metadata": {}})["metadata"], "name": name, "namespace": namespace, "labels": labels}
    meta.pop("annotations", None)
    if annotations:
        meta["annotations"] = annotations
    made = {"apiVersion": "v1", "kind": "Endpoints", "metadata": meta}
    return made | ({"subsets": parts} if parts else {})


class EndpointsController(Controller):
    name = "endpoint-controller"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._ended: set[Key] = set()
        """Services that were deleted: their Endpoints go too, also those a user wrote."""
        self._services = self.watch(SERVICES, self._service_changed).store
        self._endpoints = self.watch(ENDPOINTS).store
        self._pods = self.watch(PODS, services_of(self._services, self.queue.add)).store

    def _service_changed(self, change: Change) -> None:
        key = key_of(change.object)
        if change.new is None:
            self._ended.add(key)
        else:
            self._ended.discard(key)
        self.queue.add(key)

    async def sync(self, key: Key) -> None:
        service = self._services.get(*key)
        present = self._endpoints.get(*key)
        if service is None:
            if present is not None and (MANAGED_BY in labels_of(present) or key in self._ended):
                await self.cluster.delete(ENDPOINTS, present)
            self._ended.discard(key)
            return
        if not service["spec"].get("selector") or service["spec"].get("type") == "ExternalName" or is_deleting(service):
            return
        wanted = make(service, self._pods.in_namespace(key[0]), present)
        try:
            if present is None:
                await self.cluster.create(ENDPOINTS, wanted)
            elif wanted.get("subsets") != present.get("subsets") or wanted["metadata"] != present["metadata"]:
                await self.cluster.update(ENDPOINTS, wanted)
        except KubeError as error:
            if is_already_exists(error) or is_not_found(error):
                self.queue.retry(key)  # our copy is a moment old, or the namespace ends
                return
            self.events.record(service, "Warning", "FailedToUpdateEndpoint", f"Failed to update endpoint: {error}")
            raise
