"""Sidecar: what a workload's proxy listens on and which services it knows."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pilotfish.api.meta import DEPRECATED, REQUIRED, Api, StringMap, UInt32, schema
from pilotfish.api.networking.destination_rule import ConnectionPoolSettings
from pilotfish.api.networking.gateway import ServerTLSSettings
from pilotfish.api.networking.virtual_service import Destination


class WorkloadSelector(Api, frozen=True):
    labels: Annotated[
        StringMap,
        schema(
            maxProperties=256,
            additionalProperties={
                "type": "string",
                "maxLength": 63,
                "x-kubernetes-validations": [
                    {"rule": "!self.contains('*')", "message": "wildcard is not supported in selector"}
                ],
            },
        ),
    ] = {}
    """Labels a workload of the namespace must all carry."""


class CaptureMode(StrEnum):
    DEFAULT = "DEFAULT"
    IPTABLES = "IPTABLES"
    NONE = "NONE"


class OutboundMode(StrEnum):
    REGISTRY_ONLY = "REGISTRY_ONLY"
    ALLOW_ANY = "ALLOW_ANY"


class SidecarPort(Api, frozen=True):
    number: UInt32 = 0
    """Port number."""
    protocol: str = ""
    """Protocol spoken on it, as for a Gateway's port."""
    name: str = ""
    """Name of the port."""
    target_port: Annotated[UInt32, DEPRECATED] = 0
    """Has no effect."""


class IngressListener(Api, frozen=True):
    """How traffic arriving at the workload on one port is accepted and handed to the application."""

    port: Annotated[SidecarPort, REQUIRED] = SidecarPort()
    """Port of the listener."""
    bind: str = ""
    """Address to listen on; only with captureMode NONE."""
    capture_mode: CaptureMode = CaptureMode.DEFAULT
    """Whether traffic is redirected to the listener or sent to it directly."""
    default_endpoint: str = ""
    """Where the application is: 127.0.0.1:port, [::1]:port, 0.0.0.0:port, [::]:port or unix:///path."""
    tls: ServerTLSSettings | None = None
    """TLS to terminate for callers that do not speak mutual TLS of the mesh."""
    connection_pool: ConnectionPoolSettings | None = None
    """Limits for connections to the application on this port."""


class EgressListener(Api, frozen=True):
    """A listener for outgoing traffic and the services it offers."""

    port: SidecarPort | None = None
    """Port of the listener. Without it: all ports of the imported services; only the last listener may leave it out."""
    bind: str = ""
    """Address or unix:///path to listen on."""
    capture_mode: CaptureMode = CaptureMode.DEFAULT
    """Whether traffic is redirected to the listener or sent to it directly."""
    hosts: Annotated[tuple[str, ...], REQUIRED] = ()
    """Services imported, as namespace/dnsName. Namespace: a name, `*`, `.` or `~`; dnsName may begin with `*`."""


class OutboundTrafficPolicy(Api, frozen=True):
    mode: OutboundMode = OutboundMode.REGISTRY_ONLY
    """What happens to traffic for unknown destinations."""
    egress_proxy: Destination | None = None
    """Service that unknown traffic is sent through, with mode ALLOW_ANY."""


class Sidecar(Api, frozen=True):
    """Narrows what the proxies of selected workloads accept and know."""

    workload_selector: WorkloadSelector | None = None
    """Workloads it applies to. Without it: all of the namespace; in the root namespace, all of the mesh."""
    ingress: tuple[IngressListener, ...] = ()
    """Inbound listeners, in place of those derived from services."""
    egress: tuple[EgressListener, ...] = ()
    """Outbound listeners and imported services."""
    inbound_connection_pool: ConnectionPoolSettings | None = None
    """Limits for connections to the application, for ports without their own."""
    outbound_traffic_policy: OutboundTrafficPolicy | None = None
    """Overrides the mesh's policy for unknown destinations."""
