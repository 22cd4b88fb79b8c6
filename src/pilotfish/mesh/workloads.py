"""Workloads: who runs behind an address. Pods and WorkloadEntries in one shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pilotfish.engine import Db, query
from pilotfish.mesh import inputs
from pilotfish.mesh.config import settings
from pilotfish.mesh.inputs import Ref

Labels = tuple[tuple[str, str], ...]
"""Sorted pairs, so that they can be part of a key."""


def pairs(labels: Mapping[str, str]) -> Labels:
    return tuple(sorted(labels.items()))


def selects(selector: Mapping[str, str], labels: Labels) -> bool:
    """Whether all pairs of a selector are among the labels; an empty one selects everything."""
    return all(pair in labels for pair in selector.items())


class Locality(NamedTuple):
    region: str = ""
    zone: str = ""
    subzone: str = ""

    @classmethod
    def parse(cls, text: str) -> Locality:
        """`region/zone/subzone`, as in WorkloadEntry.locality."""
        return cls(*text.split("/", 2))

    def __str__(self) -> str:
        return "/".join(self).rstrip("/")


class Workload(NamedTuple):
    namespace: str
    name: str
    """The Deployment or other controller."""
    pod: str
    labels: Labels
    service_account: str
    locality: Locality
    network: str
    node: str
    tls: bool
    """Can do mesh mTLS: it has a sidecar."""
    named_ports: tuple[tuple[str, int], ...]
    addresses: tuple[str, ...]

    @property
    def canonical_name(self) -> str:
        return canonical_name(dict(self.labels), self.name)

    @property
    def canonical_revision(self) -> str:
        return canonical_revision(dict(self.labels))


def canonical_name(labels: Mapping[str, str], fallback: str) -> str:
    for key in ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app"):
        if key in labels:
            return labels[key]
    return fallback


def canonical_revision(labels: Mapping[str, str]) -> str:
    for key in ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"):
        if key in labels:
            return labels[key]
    return "latest"


TLS_MODE = "security.istio.io/tlsMode"


@query
def node_locality(db: Db, node: str) -> Locality:
    """From the well-known labels of a Node."""
    found = inputs.NODES(db, Ref("", node)) if node else None
    if found is None:
        return Locality()
    return Locality(
        found.labels.get("topology.kubernetes.io/region", ""),
        found.labels.get("topology.kubernetes.io/zone", ""),
        found.labels.get("topology.istio.io/subzone", ""),
    )


@query
def pod(db: Db, ref: Ref) -> Workload | None:
    found = inputs.PODS(db, ref)
    if found is None:
        return None
    labels = found.labels
    override = labels.get("topology.istio.io/locality") or labels.get("istio-locality", "").replace(".", "/")
    return Workload(
        found.namespace,
        labels.get("service.istio.io/workload-name") or found.workload,
        found.name,
        pairs(labels),
        found.service_account,
        Locality.parse(override) if override else node_locality(db, found.node),
        labels.get("topology.istio.io/network") or system_network(db),
        found.node,
        labels.get(TLS_MODE) == "istio",
        found.ports,
        found.addresses,
    )


@query
def system_network(db: Db) -> str:
    """The network of this cluster: a label on the system namespace."""
    found = inputs.NAMESPACES(db, Ref("", settings(db).system_namespace))
    return found.labels.get("topology.istio.io/network", "") if found is not None else ""
