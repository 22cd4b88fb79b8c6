"""Endpoints: where the requests to a port of a service can go."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from pilotfish.api import Config, networking
from pilotfish.engine import Db, query
from pilotfish.mesh import inputs, workloads
from pilotfish.mesh.config import settings
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.services import Port, Resolution, Service, kubernetes_ref, service
from pilotfish.mesh.workloads import Labels, Locality, Workload, pairs


class Health(StrEnum):
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    DRAINING = "DRAINING"


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    address: str
    """An IP, a host name (DNS resolutions) or `unix:///path`."""
    port: int
    health: Health
    weight: int
    locality: Locality
    labels: Labels
    network: str
    namespace: str
    workload: str
    """Name of the workload; empty when nothing is known of it."""
    pod: str
    service_account: str
    node: str
    tls: bool
    """Can do mesh mTLS."""
    hostname: str
    """Of a pod in a headless service."""


@query
def endpoints(db: Db, namespace: str, host: str, number: int) -> tuple[Endpoint, ...]:
    """The endpoints of one service port, in a stable order."""
    found = service(db, namespace, host)
    port = found.port(number) if found is not None else None
    if found is None or port is None:
        return ()
    result = [*_from_slices(db, found, port), *_selected(db, found, port)] if found.kubernetes else []
    for ref in found.entries:
        entry = inputs.SERVICE_ENTRIES(db, ref)
        if entry is not None:
            result += _from_entry(db, found, port, entry)
    return tuple(result)


def _from_slices(db: Db, found: Service, port: Port) -> Iterator[Endpoint]:
    ref = kubernetes_ref(found.host, settings(db).domain)
    seen: set[tuple[str, int]] = set()
    for slice_ref in inputs.SLICES_OF(db, ref) if ref is not None else ():
        slice_ = inputs.ENDPOINT_SLICES(db, slice_ref)
        if slice_ is None:
            continue
        numbers = [p.number for p in slice_.ports if p.name == port.name]
        for one in slice_.endpoints:
            workload = workloads.pod(db, Ref(found.namespace, one.pod)) if one.pod else None
            if one.ready or found.publish_not_ready:
                health = Health.HEALTHY
            elif one.terminating:
                continue  # sent only to keep persistent sessions, which need a flag in Istio too
            else:
                health = Health.UNHEALTHY
            for address in one.addresses:
                for number in numbers:
                    if (address, number) not in seen:
                        seen.add((address, number))
                        yield _of_workload(
                            db, workload, found.namespace, address, number, health, one.node, one.hostname
                        )


def _selected(db: Db, found: Service, port: Port) -> Iterator[Endpoint]:
    """WorkloadEntries that the selector of a Kubernetes service fits, beside the pods."""
    for ref in inputs.WORKLOAD_ENTRIES_IN(db, found.namespace) if found.selector else ():
        config = inputs.WORKLOAD_ENTRIES(db, ref)
        if config is None or config.status.get("healthy") is False:
            continue
        if workloads.selects(dict(found.selector), pairs({**config.labels, **config.spec.labels})):
            target = port.target if isinstance(port.target, int) else port.number
            yield _from_workload_entry(db, found, config.spec, port.name, target, found.namespace, config.name)


def _of_workload(
    db: Db,
    workload: Workload | None,
    namespace: str,
    address: str,
    port: int,
    health: Health,
    node: str = "",
    hostname: str = "",
) -> Endpoint:
    if workload is None:
        return Endpoint(
            address,
            port,
            health,
            1,
            workloads.node_locality(db, node),
            (),
            "",
            namespace,
            "",
            "",
            "",
            node,
            False,
            hostname,
        )
    return Endpoint(
        address,
        port,
        health,
        1,
        workload.locality,
        workload.labels,
        workload.network,
        workload.namespace,
        workload.name,
        workload.pod,
        workload.service_account,
        workload.node,
        workload.tls,
        hostname,
    )


def _from_entry(db: Db, found: Service, port: Port, entry: Config[networking.ServiceEntry]) -> Iterator[Endpoint]:
    spec = entry.spec
    declared = next((p for p in spec.ports if p.number == port.number), None)
    if declared is None:
        return
    target = declared.target_port or declared.number
    if spec.workload_selector is not None:
        selector = spec.workload_selector.labels
        for ref in inputs.WORKLOAD_ENTRIES_IN(db, entry.namespace):
            config = inputs.WORKLOAD_ENTRIES(db, ref)
            if config is None or not workloads.selects(selector, pairs({**config.labels, **config.spec.labels})):
                continue
            if config.status.get("healthy") is not False:
                yield _from_workload_entry(db, found, config.spec, declared.name, target, entry.namespace, config.name)
        for ref in inputs.PODS_IN(db, entry.namespace):
            workload = workloads.pod(db, ref)
            if workload is not None and workload.addresses and workloads.selects(selector, workload.labels):
                yield _of_workload(db, workload, entry.namespace, workload.addresses[0], target, Health.HEALTHY)
        return
    for one in spec.endpoints:
        yield _from_workload_entry(db, found, one, declared.name, target, entry.namespace, "")
    if not spec.endpoints and found.resolution in (Resolution.DNS, Resolution.DNS_ROUND_ROBIN):
        # no endpoints: the host itself is the endpoint
        host = Endpoint(
            found.host, target, Health.HEALTHY, 1, Locality(), (), "", entry.namespace, "", "", "", "", False, ""
        )
        yield host


def _from_workload_entry(
    db: Db, found: Service, spec: networking.WorkloadEntry, port_name: str, target: int, namespace: str, name: str
) -> Endpoint:
    mode = spec.labels.get(workloads.TLS_MODE)
    capable = mode == "istio" if mode is not None else bool(spec.service_account)
    return Endpoint(
        address=spec.address,
        port=0 if spec.address.startswith("unix://") else spec.ports.get(port_name) or target,
        health=Health.HEALTHY,
        weight=spec.weight or 1,
        locality=Locality.parse(spec.locality) if spec.locality else Locality(),
        labels=pairs(spec.labels),
        network=spec.network or (workloads.system_network(db) if not found.external else ""),
        namespace=namespace,
        workload=spec.labels.get("service.istio.io/workload-name", name),
        pod=name,
        service_account=spec.service_account,
        node="",
        tls=capable and not found.external,
        hostname="",
    )
