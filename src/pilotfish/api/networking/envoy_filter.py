"""EnvoyFilter: changes to the generated Envoy configuration."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pilotfish.api.meta import (
    UNIMPLEMENTED,
    Api,
    FreeForm,
    Int32,
    PolicyTargetReference,
    Rule,
    StringMap,
    UInt32,
    rule,
    schema,
)
from pilotfish.api.networking.sidecar import WorkloadSelector


class ApplyTo(StrEnum):
    INVALID = "INVALID"
    LISTENER = "LISTENER"
    FILTER_CHAIN = "FILTER_CHAIN"
    NETWORK_FILTER = "NETWORK_FILTER"
    HTTP_FILTER = "HTTP_FILTER"
    ROUTE_CONFIGURATION = "ROUTE_CONFIGURATION"
    VIRTUAL_HOST = "VIRTUAL_HOST"
    HTTP_ROUTE = "HTTP_ROUTE"
    CLUSTER = "CLUSTER"
    EXTENSION_CONFIG = "EXTENSION_CONFIG"
    BOOTSTRAP = "BOOTSTRAP"
    LISTENER_FILTER = "LISTENER_FILTER"


class PatchContext(StrEnum):
    ANY = "ANY"
    SIDECAR_INBOUND = "SIDECAR_INBOUND"
    SIDECAR_OUTBOUND = "SIDECAR_OUTBOUND"
    GATEWAY = "GATEWAY"
    WAYPOINT = "WAYPOINT"


class RouteAction(StrEnum):
    ANY = "ANY"
    ROUTE = "ROUTE"
    REDIRECT = "REDIRECT"
    DIRECT_RESPONSE = "DIRECT_RESPONSE"


class Operation(StrEnum):
    INVALID = "INVALID"
    MERGE = "MERGE"
    ADD = "ADD"
    REMOVE = "REMOVE"
    INSERT_BEFORE = "INSERT_BEFORE"
    INSERT_AFTER = "INSERT_AFTER"
    INSERT_FIRST = "INSERT_FIRST"
    REPLACE = "REPLACE"
    MERGE_AND_REPLACE_LIST = "MERGE_AND_REPLACE_LIST"


class FilterClass(StrEnum):
    UNSPECIFIED = "UNSPECIFIED"
    AUTHN = "AUTHN"
    AUTHZ = "AUTHZ"
    STATS = "STATS"


class ProxyMatch(Api, frozen=True):
    proxy_version: str = ""
    """RE2 expression on the proxy's version."""
    metadata: StringMap = {}
    """Node metadata the proxy must carry."""


class ClusterMatch(Api, frozen=True):
    port_number: UInt32 = 0
    """Port of the service."""
    service: str = ""
    """Host name of the service."""
    subset: str = ""
    """Subset of the service."""
    name: str = ""
    """Name of the cluster; the other fields are then ignored."""


class RouteMatch(Api, frozen=True):
    name: str = ""
    """Name of the route."""
    action: RouteAction = RouteAction.ANY
    """What the route does."""


class VirtualHostMatch(Api, frozen=True):
    name: str = ""
    """Name of the virtual host, as host:port."""
    domain_name: str = ""
    """A domain of the virtual host."""
    route: RouteMatch | None = None
    """A route in it."""


class RouteConfigurationMatch(Api, frozen=True):
    port_number: UInt32 = 0
    """Port the routes are for."""
    port_name: str = ""
    """Port name of the gateway's server."""
    gateway: str = ""
    """The Gateway, as namespace/name."""
    vhost: VirtualHostMatch | None = None
    """A virtual host in it."""
    name: str = ""
    """Name of the route configuration."""


class SubFilterMatch(Api, frozen=True):
    name: str = ""
    """Name of a filter inside the filter."""


class FilterMatch(Api, frozen=True):
    name: str = ""
    """Name of the filter."""
    sub_filter: SubFilterMatch | None = None
    """A filter inside it, such as an HTTP filter."""


class FilterChainMatch(Api, frozen=True):
    name: str = ""
    """Name of the filter chain."""
    sni: str = ""
    """A server name the chain matches."""
    transport_protocol: str = ""
    """tls or raw_buffer."""
    application_protocols: str = ""
    """Application protocols the chain matches, separated by commas."""
    filter: FilterMatch | None = None
    """A filter in it."""
    destination_port: UInt32 = 0
    """Port the chain matches."""


class ListenerMatch(Api, frozen=True):
    port_number: UInt32 = 0
    """Port of the listener."""
    port_name: str = ""
    """Has no effect."""
    filter_chain: FilterChainMatch | None = None
    """A filter chain in it."""
    listener_filter: str = ""
    """Name of a listener filter."""
    name: str = ""
    """Name of the listener."""


class WaypointRouteMatch(Api, frozen=True):
    name: str = ""
    """Name of the route."""


class WaypointMatch(Api, frozen=True):
    port_number: Annotated[UInt32, rule("0 < self && self <= 65535", "port must be between 1-65535")] = 0
    """Port of the service."""
    route: WaypointRouteMatch | None = None
    """A route."""
    filter: FilterMatch | None = None
    """A filter."""


class ObjectMatch(Api, frozen=True):
    ONE_OF = (("listener", "routeConfiguration", "cluster", "waypoint"),)
    CEL = (
        Rule(
            "has(self.context) ? (self.context == 'WAYPOINT' ? has(self.waypoint) : !has(self.waypoint)) : "
            "!has(self.waypoint)",
            "only support waypointMatch when context is WAYPOINT",
        ),
    )

    context: PatchContext = PatchContext.ANY
    """Which side of which proxies."""
    proxy: ProxyMatch | None = None
    """Which proxies."""
    listener: ListenerMatch | None = None
    """Which listener, chain or filter."""
    route_configuration: RouteConfigurationMatch | None = None
    """Which routes."""
    cluster: ClusterMatch | None = None
    """Which cluster."""
    waypoint: Annotated[WaypointMatch | None, UNIMPLEMENTED] = None
    """Which part of a waypoint."""


class Patch(Api, frozen=True):
    operation: Operation = Operation.INVALID
    """What is done."""
    value: FreeForm | None = None
    """The piece of Envoy configuration, as JSON."""
    filter_class: Annotated[FilterClass, UNIMPLEMENTED] = FilterClass.UNSPECIFIED
    """Where an added filter goes, when not placed relative to another."""


class ConfigPatch(Api, frozen=True):
    apply_to: ApplyTo = ApplyTo.INVALID
    """What kind of configuration is changed."""
    match: ObjectMatch | None = None
    """Which objects of that kind; default all."""
    patch: Patch | None = None
    """The change."""


class EnvoyFilter(Api, frozen=True):
    """Changes to generated Envoy configuration. They depend on how it is generated: to be used with care."""

    CEL = (
        Rule(
            "(has(self.workloadSelector) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1",
            "only one of targetRefs or workloadSelector can be set",
        ),
    )

    workload_selector: WorkloadSelector | None = None
    """Workloads it applies to; default all of the namespace, or of the mesh in the root namespace."""
    target_refs: Annotated[tuple[PolicyTargetReference, ...], schema(maxItems=16)] = ()
    """Objects it is attached to, instead of a selector."""
    config_patches: tuple[ConfigPatch, ...] = ()
    """The changes, in order."""
    priority: Int32 = 0
    """Lower goes first; default 0."""
