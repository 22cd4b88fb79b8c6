"""EndpointSlices for Endpoints that users write themselves, for Services without a selector.

As kubernetes/pkg/controller/endpointslicemirroring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pilotfish.kube.informer import Change
from pilotfish.kube.meta import Key, annotations_of, controller_reference, key_of, labels_of
from pilotfish.kube.resources import ENDPOINT_SLICES, ENDPOINTS, SERVICES, Object
from pilotfish.local.controllers.base import Cluster, Controller
from pilotfish.local.controllers.endpointslice import (
    MANAGED_BY,
    SERVICE_NAME,
    Changes,
    index_by_service,
    slices_of,
    write,
)

CONTROLLER = "endpointslicemirroring-controller.k8s.io"
_SKIP = "endpointslice.kubernetes.io/skip-mirror"
_LEADER = "control-plane.alpha.kubernetes.io/leader"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_MAXIMUM = 1000  # endpoints of a subset


def is_mirrored(endpoints: Mapping[str, Any] | None, service: Mapping[str, Any] | None) -> bool:
    if endpoints is None or service is None or service["spec"].get("selector"):
        return False
    return labels_of(endpoints).get(_SKIP) != "true" and _LEADER not in annotations_of(endpoints)


def _endpoint(address: Mapping[str, Any], *, ready: bool) -> Object:
    endpoint: Object = {"addresses": [address["ip"]], "conditions": {"ready": ready}}
    for key in ("targetRef", "hostname", "nodeName"):
        if address.get(key):
            endpoint[key] = address[key]
    return endpoint


def mirror(endpoints: Mapping[str, Any], existing: Sequence[Object]) -> Changes:
    """One slice for each subset and address family. `existing` are ours of these Endpoints."""
    namespace, name = key_of(endpoints)
    labels = {**labels_of(endpoints), SERVICE_NAME: name, MANAGED_BY: CONTROLLER}
    annotations = {key: value for key, value in annotations_of(endpoints).items() if key != _LAST_APPLIED}
    wanted: list[Object] = []
    for subset in endpoints.get("subsets") or ():
        everyone = [_endpoint(one, ready=True) for one in subset.get("addresses") or ()]
        everyone += [_endpoint(one, ready=False) for one in subset.get("notReadyAddresses") or ()]
        for family in ("IPv4", "IPv6"):
            mine = [one for one in everyone if (":" in one["addresses"][0]) == (family == "IPv6")][:_MAXIMUM]
            if mine:
                ports = [{"name": "", "protocol": "TCP", **one} for one in subset.get("ports") or ()]
                wanted.append({"addressType": family, "endpoints": mine, "ports": ports})
    changes = Changes()
    spare = list(existing)
    for one in wanted:
        match = next((old for old in spare if _alike(old, one)), None)
        if match is None:
            metadata = {
                "generateName": f"{name}-",
                "namespace": namespace,
                "labels": labels,
                "annotations": annotations,
                "ownerReferences": [controller_reference(endpoints, ENDPOINTS)],
            }
            head = {"apiVersion": ENDPOINT_SLICES.api_version, "kind": ENDPOINT_SLICES.kind, "metadata": metadata}
            changes.create.append(head | one)
            continue
        spare.remove(match)
        meta = {**match["metadata"], "labels": labels}
        if match.get("endpoints") != one["endpoints"] or labels_of(match) != labels:
            changes.update.append({**match, "metadata": meta, **one})
    changes.delete += spare
    return changes


def _alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return bool(old.get("addressType") == new["addressType"] and list(old.get("ports") or ()) == new["ports"])


class EndpointSliceMirroringController(Controller):
    name = "endpoint-slice-mirroring-controller"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._endpoints = self.watch(ENDPOINTS).store
        self._services = self.watch(SERVICES).store
        self._slices = self.watch(ENDPOINT_SLICES, self._slice_changed).store
        self._slices.add_index(SERVICE_NAME, index_by_service)

    def _slice_changed(self, change: Change) -> None:
        one = change.object
        if labels_of(one).get(MANAGED_BY) == CONTROLLER:
            self.queue.add((key_of(one)[0], labels_of(one).get(SERVICE_NAME, "")))

    async def sync(self, key: Key) -> None:
        endpoints = self._endpoints.get(*key)
        existing = slices_of(self._slices, key, CONTROLLER)
        if endpoints is None or not is_mirrored(endpoints, self._services.get(*key)):
            await write(self.cluster, Changes(delete=existing))
        else:
            await write(self.cluster, mirror(endpoints, existing))
