"""ServiceEntry: a service that Kubernetes does not know, added to the mesh's registry."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pilotfish.api.meta import REQUIRED, Api, Rule, UInt32, rule, schema
from pilotfish.api.networking.sidecar import WorkloadSelector
from pilotfish.api.networking.workload_entry import WorkloadEntry

_PORT = rule("0 < self && self <= 65535", "port must be between 1-65535")


class Location(StrEnum):
    MESH_EXTERNAL = "MESH_EXTERNAL"
    MESH_INTERNAL = "MESH_INTERNAL"


class Resolution(StrEnum):
    NONE = "NONE"
    STATIC = "STATIC"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"
    DYNAMIC_DNS = "DYNAMIC_DNS"


class ServicePort(Api, frozen=True):
    number: Annotated[UInt32, REQUIRED, _PORT] = 0
    """Port clients call."""
    protocol: Annotated[str, schema(maxLength=256)] = ""
    """HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, MONGO, TCP or TLS. Empty: detected."""
    name: Annotated[str, REQUIRED, schema(maxLength=256)] = ""
    """Name of the port, unique within the object."""
    target_port: Annotated[UInt32, _PORT] = 0
    """Port at the endpoint; 0 means the same number."""


class ServiceEntry(Api, frozen=True):
    """A service outside the platform's registry: an external API, or virtual machines inside the mesh."""

    CEL = (
        Rule(
            "(has(self.workloadSelector) ? 1 : 0) + (has(self.endpoints) ? 1 : 0) <= 1",
            "only one of WorkloadSelector or Endpoints can be set",
        ),
        Rule(
            "!((has(self.addresses) ? self.addresses : []).exists(k, k.contains('/')) && "
            "!((has(self.resolution) ? self.resolution : 'NONE') in ['STATIC', 'NONE']))",
            "CIDR addresses are allowed only for NONE/STATIC resolution types",
        ),
        Rule(
            "(has(self.resolution) ? self.resolution : 'NONE') == 'NONE' ? !has(self.endpoints) : true",
            "NONE mode cannot set endpoints",
        ),
        Rule(
            "(has(self.resolution) ? self.resolution : '') == 'DNS_ROUND_ROBIN' ? "
            "(has(self.endpoints) ? self.endpoints : []).size() <= 1 : true",
            "DNS_ROUND_ROBIN mode cannot have multiple endpoints",
        ),
    )

    hosts: Annotated[
        tuple[str, ...],
        REQUIRED,
        schema(
            minItems=1,
            maxItems=256,
            items={
                "type": "string",
                "x-kubernetes-validations": [{"rule": "self != '*'", "message": "hostname cannot be wildcard"}],
            },
        ),
    ] = ()
    """Host names of the service: the Host header for HTTP, the SNI for TLS; ignored for plain TCP."""
    addresses: Annotated[tuple[str, ...], schema(maxItems=256, items={"type": "string", "maxLength": 64})] = ()
    """Virtual IPs (or CIDRs, with resolution NONE or STATIC) clients connect to."""
    ports: Annotated[
        tuple[ServicePort, ...],
        schema(maxItems=256, **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
        rule("self.all(l1, self.exists_one(l2, l1.number == l2.number))", "port number cannot be duplicated"),
    ] = ()
    """Ports of the service."""
    location: Location = Location.MESH_EXTERNAL
    """Whether the workloads belong to the mesh (mutual TLS, policies) or are outside it."""
    resolution: Resolution = Resolution.NONE
    """How endpoint addresses are found: as the client resolved them, listed here, or by DNS."""
    endpoints: Annotated[tuple[WorkloadEntry, ...], schema(maxItems=4096)] = ()
    """Endpoints of the service. Not together with `workloadSelector`."""
    workload_selector: WorkloadSelector | None = None
    """Pods and WorkloadEntries of the namespace that serve this service."""
    export_to: tuple[str, ...] = ()
    """Namespaces that see it: names, `.` (its own), `*` (all), `~` (none). Empty: the mesh's default."""
    subject_alt_names: tuple[str, ...] = ()
    """Names of which the server's certificate must carry one."""
