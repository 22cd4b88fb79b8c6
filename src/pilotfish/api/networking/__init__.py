"""networking.istio.io: one file per kind."""

from pilotfish.api.networking.destination_rule import DestinationRule
from pilotfish.api.networking.envoy_filter import EnvoyFilter
from pilotfish.api.networking.gateway import Gateway
from pilotfish.api.networking.proxy_config import ProxyConfig
from pilotfish.api.networking.service_entry import ServiceEntry
from pilotfish.api.networking.sidecar import Sidecar
from pilotfish.api.networking.virtual_service import VirtualService
from pilotfish.api.networking.workload_entry import WorkloadEntry
from pilotfish.api.networking.workload_group import WorkloadGroup

__all__ = [
    "DestinationRule",
    "EnvoyFilter",
    "Gateway",
    "ProxyConfig",
    "ServiceEntry",
    "Sidecar",
    "VirtualService",
    "WorkloadEntry",
    "WorkloadGroup",
]
