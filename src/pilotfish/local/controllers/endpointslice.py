"""EndpointSlices: a Service's addresses, a hundred to a slice.

As kubernetes/staging/src/k8s.io/endpointslice: pods whose ports resolve alike share slices, an endpoint stays in the
slice it is in, and as few slices as possible are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pilotfish.kube.errors import KubeError
from pilotfish.kube.informer import Change, Store
from pilotfish.kube.meta import Key, controller_reference, is_deleting, key_of, labels_of
from pilotfish.kube.resources import ENDPOINT_SLICES, NODES, PODS, SERVICES, Object
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

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
CONTROLLER = "endpointslice-controller.k8s.io"
_ZONE = "topology.kubernetes.io/zone"
_MAXIMUM = 100  # endpoints in a slice


@dataclass(slots=True)
class Changes:
    create: list[Object] = field(default_factory=list)
    update: list[Object] = field(default_factory=list)
    delete: list[Object] = field(default_factory=list)


def make_endpoint(service: Mapping[str, Any], pod: Mapping[str, Any], address: str, zones: Mapping[str, str]) -> Object:
    serving, terminating = is_ready(pod), is_deleting(pod)
    everyone_is_ready = bool(service["spec"].get("publishNotReadyAddresses"))
    endpoint: Object = {
        "addresses": [address],
        "conditions": {
            "ready": everyone_is_ready or (serving and not terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "targetRef": target_reference(pod),
    }
    node = pod["spec"].get("nodeName")
    if node:
        endpoint["nodeName"] = node
        if zones.get(node):
            endpoint["zone"] = zones[node]
    if hostname := hostname_of(service, pod):
        endpoint["hostname"] = hostname
    return endpoint


def slice_labels(service: Mapping[str, Any]) -> dict[str, str]:
    reserved = {SERVICE_NAME, MANAGED_BY, HEADLESS}
    labels = {key: value for key, value in labels_of(service).items() if key not in reserved}
    labels |= {SERVICE_NAME: service["metadata"]["name"], MANAGED_BY: CONTROLLER}
    return labels | ({HEADLESS: ""} if is_headless(service) else {})


def families_of(service: Mapping[str, Any]) -> list[str]:
    return list(service["spec"].get("ipFamilies") or ["IPv4"])


def reconcile(
    service: Mapping[str, Any], pods: Iterable[Object], existing: Sequence[Object], zones: Mapping[str, str]
) -> Changes:
    """The writes that make the slices right. `existing` are ours of this Service; `zones` is by node."""
    changes = Changes()
    pods = list(pods)
    families = families_of(service)
    for family in families:
        mine = [one for one in existing if one.get("addressType") == family]
        _reconcile_family(service, pods, mine, zones, family, changes)
    changes.delete += [one for one in existing if one.get("addressType") not in families]
    return changes


def _ports_key(ports: Iterable[Mapping[str, Any]] | None) -> str:
    return repr(
        sorted(
            (one.get("name") or "", one.get("port"), one.get("protocol", "TCP"), one.get("appProtocol"))
            for one in ports or ()
        )
    )


def _reconcile_family(
    service: Mapping[str, Any],
    pods: Sequence[Object],
    existing: Sequence[Object],
    zones: Mapping[str, str],
    family: str,
    changes: Changes,
) -> None:
    wanted: dict[str, dict[str, Object]] = {}
    ports_of: dict[str, list[Object]] = {}
    for pod in pods:
        address = address_of(pod, family)
        if address is None or not is_behind(service, pod):
            continue
        ports = resolve_ports(service, pod)
        key = _ports_key(ports)
        ports_of.setdefault(key, ports)
        wanted.setdefault(key, {})[pod["metadata"]["uid"]] = make_endpoint(service, pod, address, zones)
    placeholder = not wanted
    if placeholder:
        wanted[_ports_key([])], ports_of[_ports_key([])] = {}, []
    by_key: dict[str, list[Object]] = {}
    for one in existing:
        by_key.setdefault(_ports_key(one.get("ports")), []).append(one)
    for key, endpoints in wanted.items():
        _reconcile_group(service, endpoints, by_key.pop(key, []), ports_of[key], family, changes, keep_one=placeholder)
    changes.delete += [one for unused in by_key.values() for one in unused]


def _reconcile_group(
    service: Mapping[str, Any],
    wanted: Mapping[str, Object],
    existing: Sequence[Object],
    ports: Sequence[Object],
    family: str,
    changes: Changes,
    *,
    keep_one: bool,
) -> None:
    """One set of ports: every endpoint stays where it is, new ones fill up, what is empty goes."""
    left = dict(wanted)
    kept: list[tuple[Object, list[Object]]] = []
    for one in sorted(existing, key=lambda one: str(one["metadata"]["name"])):
        stays = []
        for endpoint in one.get("endpoints") or ():
            uid = (endpoint.get("targetRef") or {}).get("uid", "")
            if uid in left:
                stays.append(left.pop(uid))
        kept.append((one, stays))
    fresh = list(left.values())
    # Slices that are written anyhow take the new endpoints first, then the fullest that have room.
    touched = sorted(kept, key=lambda pair: (_same(pair[0], pair[1]), -len(pair[1])))
    for _, endpoints in touched:
        room = _MAXIMUM - len(endpoints)
        endpoints.extend(fresh[:room])
        fresh = fresh[room:]
    labels = slice_labels(service)
    spare = keep_one
    for one, endpoints in kept:
        if not endpoints and not spare:
            changes.delete.append(one)
            continue
        spare = spare and bool(endpoints)
        if not _same(one, endpoints) or labels != labels_of(one):
            meta = {**one["metadata"], "labels": labels}
            changes.update.append({**one, "metadata": meta, "endpoints": endpoints, "ports": list(ports)})
    for start in range(0, len(fresh), _MAXIMUM):
        changes.create.append(_make(service, labels, family, fresh[start : start + _MAXIMUM], ports))
    if spare:
        changes.create.append(_make(service, labels, family, [], ports))


def _same(one: Mapping[str, Any], endpoints: Sequence[Object]) -> bool:
    return list(one.get("endpoints") or ()) == list(endpoints)


def _make(
    service: Mapping[str, Any],
    labels: Mapping[str, str],
    family: str,
    endpoints: Sequence[Object],
    ports: Sequence[Object],
) -> Object:
    namespace, name = key_of(service)
    return {
        "apiVersion": ENDPOINT_SLICES.api_version,
        "kind": ENDPOINT_SLICES.kind,
        "metadata": {
            "generateName": f"{name}-",
            "namespace": namespace,
            "labels": dict(labels),
            "ownerReferences": [controller_reference(service, SERVICES)],
        },
        "addressType": family,
        "endpoints": list(endpoints),
        "ports": list(ports),
    }


def slices_of(store: Store, key: Key, manager: str) -> list[Object]:
    """The slices of a Service (or of Endpoints of that name) that `manager` keeps."""
    found = store.by_index(SERVICE_NAME, "/".join(key))
    return [one for one in found if labels_of(one).get(MANAGED_BY) == manager]


def index_by_service(obj: Object) -> list[str]:
    return [f"{key_of(obj)[0]}/{labels_of(obj).get(SERVICE_NAME, '')}"]


async def write(cluster: Cluster, changes: Changes) -> None:
    for one in changes.create:
        await cluster.create(ENDPOINT_SLICES, one)
    for one in changes.update:
        await cluster.update(ENDPOINT_SLICES, one)
    for one in changes.delete:
        await cluster.delete(ENDPOINT_SLICES, one)


class EndpointSliceController(Controller):
    name = "endpoint-slice-controller"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._services = self.watch(SERVICES).store
        self._slices = self.watch(ENDPOINT_SLICES, self._slice_changed).store
        self._slices.add_index(SERVICE_NAME, index_by_service)
        self._nodes = self.watch(NODES, self._node_changed).store
        self._zones: dict[str, str] = {}
        self._pods = self.watch(PODS, services_of(self._services, self.queue.add)).store

    def _slice_changed(self, change: Change) -> None:
        for one in change:
            if one is not None and labels_of(one).get(MANAGED_BY) == CONTROLLER:
                self.queue.add((key_of(one)[0], labels_of(one).get(SERVICE_NAME, "")))

    def _node_changed(self, change: Change) -> None:
        name = change.object["metadata"]["name"]
        zone = labels_of(change.new).get(_ZONE, "") if change.new is not None else ""
        if self._zones.get(name, "") != zone:
            self._zones[name] = zone
            for service in self._services.values():
                self.queue.add(key_of(service))

    async def sync(self, key: Key) -> None:
        service = self._services.get(*key)
        existing = slices_of(self._slices, key, CONTROLLER)
        if service is None:
            await write(self.cluster, Changes(delete=existing))
            return
        if service["spec"].get("type") == "ExternalName" or not service["spec"].get("selector") or is_deleting(service):
            return
        changes = reconcile(service, self._pods.in_namespace(key[0]), existing, self._zones)
        try:
            await write(self.cluster, changes)
        except KubeError as error:
            message = f"Error updating Endpoint Slices for Service {'/'.join(key)}: {error}"
            self.events.record(service, "Warning", "FailedToUpdateEndpointSlices", message)
            raise
