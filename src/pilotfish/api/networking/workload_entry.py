"""WorkloadEntry: one workload outside Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pilotfish.api.meta import Api, Rule, StringMap, UInt32, rule, schema

_PORT = {
    "type": "integer",
    "minimum": 0,
    "maximum": 2**32 - 1,
    "x-kubernetes-validations": [{"rule": "0 < self && self <= 65535", "message": "port must be between 1-65535"}],
}


class WorkloadTemplate(Api, frozen=True):
    """What the workloads of a WorkloadGroup have in common."""

    CEL: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.address) && self.address.startsWith('unix://')) ? !has(self.ports) : true",
            "UDS may not include ports",
        ),
    )

    address: Annotated[
        str,
        schema(maxLength=256),
        rule(
            "self.startsWith('unix://') ? (self.substring(7, 8) == '/' || self.substring(7, 8) == '@') : true",
            "UDS must be an absolute path or abstract socket",
        ),
        rule("self.startsWith('unix://') ? !self.endsWith('/') : true", "UDS may not be a dir"),
    ] = ""
    """Its address: an IP, a DNS name (with resolution DNS) or unix:///path. May be absent when `network` is set."""
    ports: Annotated[
        Mapping[str, UInt32],
        schema(
            maxProperties=128,
            additionalProperties=_PORT,
        ),
        rule(
            "self.all(key, size(key) < 63 && key.matches('^[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?$'))",
            "port name must be valid",
        ),
    ] = {}
    """Port number here for each port name of the service. A port that is not named keeps the service's number."""
    labels: Annotated[StringMap, schema(maxProperties=256)] = {}
    """Labels of the workload, for selectors and subsets."""
    network: Annotated[str, schema(maxLength=2048)] = ""
    """Network it is reachable in. Workloads of one network reach each other directly."""
    locality: Annotated[str, schema(maxLength=2048)] = ""
    """Where it runs: region/zone/subzone."""
    weight: UInt32 = 0
    """Share of the load relative to others of its locality; 0 counts as 1."""
    service_account: Annotated[str, schema(maxLength=253)] = ""
    """Service account in the namespace of the object: its identity in the mesh."""


class WorkloadEntry(WorkloadTemplate, frozen=True):
    """One workload that is not a pod, such as a virtual machine, to be part of a service."""

    CEL: ClassVar[tuple[Rule, ...]] = (
        Rule("has(self.address) || has(self.network)", "Address is required"),
        *WorkloadTemplate.CEL,
    )
