"""DestinationRule: what happens to traffic after it has been routed to a service."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pilotfish.api.meta import (
    DEPRECATED,
    REQUIRED,
    UNIMPLEMENTED,
    Api,
    Duration,
    Int32,
    PolicySelector,
    PortSelector,
    StringMap,
    UInt32,
    UInt64,
    schema,
)

_PERCENT = schema(minimum=0, maximum=100)


class SimpleLB(StrEnum):
    UNSPECIFIED = "UNSPECIFIED"
    LEAST_CONN = "LEAST_CONN"
    RANDOM = "RANDOM"
    PASSTHROUGH = "PASSTHROUGH"
    ROUND_ROBIN = "ROUND_ROBIN"
    LEAST_REQUEST = "LEAST_REQUEST"


class CookieAttribute(Api, frozen=True):
    name: Annotated[str, REQUIRED] = ""
    """Name of the attribute, such as SameSite."""
    value: str = ""
    """Its value."""


class HTTPCookie(Api, frozen=True):
    name: Annotated[str, REQUIRED] = ""
    """Name of the cookie; it is set when the caller has none and `ttl` is given."""
    path: str = ""
    """Path of the cookie."""
    ttl: Duration | None = None
    """Its lifetime; 0s makes a session cookie."""
    attributes: tuple[CookieAttribute, ...] = ()
    """Further attributes of the cookie."""


class RingHash(Api, frozen=True):
    minimum_ring_size: UInt64 = 0
    """Least number of entries in the ring; default 1024."""


class Maglev(Api, frozen=True):
    table_size: UInt64 = 0
    """Size of the table, a prime number; default 65537."""


class ConsistentHashLB(Api, frozen=True):
    """Keeps callers with equal keys on one endpoint."""

    ONE_OF = (
        ("httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"),
        ("ringHash", "maglev"),
    )

    http_header_name: str | None = None
    """The key is this header."""
    http_cookie: HTTPCookie | None = None
    """The key is this cookie."""
    use_source_ip: bool | None = None
    """The key is the caller's address."""
    http_query_parameter_name: str | None = None
    """The key is this query parameter."""
    ring_hash: RingHash | None = None
    """Hash with a ring."""
    maglev: Maglev | None = None
    """Hash with Maglev."""
    minimum_ring_size: Annotated[UInt64, DEPRECATED] = 0
    """Use ringHash.minimumRingSize."""


class Distribute(Api, frozen=True):
    from_: str = ""
    """Locality of callers, as region/zone/subzone; the end may be `*`."""
    to: Mapping[str, UInt32] = {}
    """Percent of the traffic for each locality; the sum is 100."""


class Failover(Api, frozen=True):
    from_: str = ""
    """Region of callers."""
    to: str = ""
    """Region that takes over when endpoints of the first fail."""


class LocalityLbSetting(Api, frozen=True):
    """How traffic is spread over localities. Not more than one of distribute, failover, failoverPriority."""

    distribute: tuple[Distribute, ...] = ()
    """Explicit shares."""
    failover: tuple[Failover, ...] = ()
    """Where traffic goes when the own region fails; needs outlierDetection."""
    failover_priority: tuple[str, ...] = ()
    """Labels, most important first: endpoints that share more of them with the caller come first."""
    enabled: bool | None = None
    """False switches locality balancing off."""


class ZoneAwareLbSetting(Api, frozen=True):
    """Keeps traffic in the caller's zone as far as capacity allows."""

    enabled: bool | None = None
    """False switches it off."""
    failover: tuple[Failover, ...] = ()
    """Where traffic goes when the own region fails."""
    failover_priority: tuple[str, ...] = ()
    """As in localityLbSetting."""
    min_cluster_size: Annotated[UInt32 | None, schema(minimum=1)] = None
    """Fewest endpoints with which zones are considered."""


class Warmup(Api, frozen=True):
    duration: Annotated[Duration | None, REQUIRED] = None
    """How long a new endpoint gets less traffic."""
    minimum_percent: Annotated[float | None, _PERCENT] = None
    """Share it starts with, in percent; default 10."""
    aggression: Annotated[float | None, schema(minimum=0)] = None
    """How fast the share grows; 1 is linear."""


class LoadBalancerSettings(Api, frozen=True):
    ONE_OF = (("simple", "consistentHash"),)

    simple: SimpleLB | None = None
    """A standard algorithm; default LEAST_REQUEST."""
    consistent_hash: ConsistentHashLB | None = None
    """Session affinity by hashing."""
    locality_lb_setting: LocalityLbSetting | None = None
    """Overrides the mesh's locality setting."""
    zone_aware_lb_setting: Annotated[ZoneAwareLbSetting | None, UNIMPLEMENTED] = None
    """Overrides the mesh's zone-aware setting."""
    warmup_duration_secs: Annotated[Duration | None, DEPRECATED] = None
    """Use warmup."""
    warmup: Warmup | None = None
    """Gives new endpoints their traffic gradually."""


class TcpKeepalive(Api, frozen=True):
    probes: UInt32 = 0
    """Unanswered probes before the connection counts as dead."""
    time: Duration | None = None
    """Idle time before the first probe."""
    interval: Duration | None = None
    """Time between probes."""


class TCPSettings(Api, frozen=True):
    max_connections: Int32 = 0
    """Most connections to the service; default unlimited."""
    connect_timeout: Duration | None = None
    """Time to connect; default the mesh's."""
    tcp_keepalive: TcpKeepalive | None = None
    """TCP keep-alive on connections."""
    max_connection_duration: Duration | None = None
    """Longest life of a connection."""
    idle_timeout: Duration | None = None
    """Time after which an idle connection is closed."""


class H2UpgradePolicy(StrEnum):
    DEFAULT = "DEFAULT"
    DO_NOT_UPGRADE = "DO_NOT_UPGRADE"
    UPGRADE = "UPGRADE"


class ConnectionKeepalive(Api, frozen=True):
    interval: Duration | None = None
    """Time between HTTP/2 pings."""
    timeout: Duration | None = None
    """Time for the answer to a ping."""


class HTTPSettings(Api, frozen=True):
    http1_max_pending_requests: Int32 = 0
    """Most requests waiting for a connection."""
    http2_max_requests: Int32 = 0
    """Most requests at a time."""
    max_requests_per_connection: Int32 = 0
    """Requests after which a connection is closed; 1 switches keep-alive off."""
    max_retries: Int32 = 0
    """Most retries at a time."""
    idle_timeout: Duration | None = None
    """Time without requests after which a connection is closed; default 1h."""
    h2_upgrade_policy: H2UpgradePolicy = H2UpgradePolicy.DEFAULT
    """Whether HTTP/1.1 is spoken as HTTP/2 to the endpoints."""
    use_client_protocol: bool = False
    """Speak to endpoints what the caller speaks."""
    max_concurrent_streams: Int32 = 0
    """Most streams on one HTTP/2 connection."""
    http2_keep_alive: ConnectionKeepalive | None = None
    """HTTP/2 pings on connections."""


class ConnectionPoolSettings(Api, frozen=True):
    tcp: TCPSettings | None = None
    """Limits for all connections."""
    http: HTTPSettings | None = None
    """Limits for HTTP."""


class OutlierDetection(Api, frozen=True):
    """Takes endpoints that fail out of the load balancing for a time."""

    consecutive_errors: Annotated[Int32, DEPRECATED] = 0
    """Has no effect; use consecutive5xxErrors."""
    split_external_local_origin_errors: bool = False
    """Count failures to connect apart from errors the endpoint answers."""
    consecutive_local_origin_failures: UInt32 | None = None
    """Failures to connect in a row before ejection."""
    consecutive_gateway_errors: UInt32 | None = None
    """Answers 502, 503 or 504 in a row before ejection; 0 switches the check off."""
    consecutive_5xx_errors: UInt32 | None = None
    """Answers 5xx in a row before ejection; default 5, 0 switches the check off."""
    interval: Duration | None = None
    """Time between checks; default 10s."""
    base_ejection_time: Duration | None = None
    """Ejection lasts this long, times the number of ejections; default 30s."""
    max_ejection_percent: Int32 = 0
    """Most endpoints ejected, in percent; default 10."""
    min_health_percent: Int32 = 0
    """Below this percent of healthy endpoints, detection is off and traffic goes to all."""
    outlier_detection_http_error_codes: Annotated[
        tuple[UInt32, ...], schema(items={"type": "integer", "minimum": 100, "maximum": 599})
    ] = ()
    """Status codes that count as errors."""


class ClientTLSMode(StrEnum):
    DISABLE = "DISABLE"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"


class ClientTLSSettings(Api, frozen=True):
    """TLS towards the endpoints."""

    mode: ClientTLSMode = ClientTLSMode.DISABLE
    """Whether and how connections are secured."""
    client_certificate: str = ""
    """File with the client's certificate chain."""
    private_key: str = ""
    """File with the client's private key."""
    ca_certificates: str = ""
    """File with the CA certificates for the server; default the system's."""
    credential_name: str = ""
    """Secret with key, certificate and CA."""
    subject_alt_names: tuple[str, ...] = ()
    """Names of which the server's certificate must carry one."""
    sni: str = ""
    """Server name sent in the handshake."""
    insecure_skip_verify: bool | None = None
    """Do not check the server's certificate."""
    ca_crl: str = ""
    """File with the revocation list for the server's certificate."""


class TunnelSettings(Api, frozen=True):
    protocol: str = ""
    """CONNECT (default) or POST."""
    target_host: Annotated[str, REQUIRED] = ""
    """Host the tunnel leads to."""
    target_port: Annotated[UInt32, REQUIRED] = 0
    """Port the tunnel leads to."""


class ProxyProtocolVersion(StrEnum):
    V1 = "V1"
    V2 = "V2"


class ProxyProtocol(Api, frozen=True):
    version: ProxyProtocolVersion = ProxyProtocolVersion.V1
    """Version of the PROXY protocol sent to endpoints."""


class RetryBudget(Api, frozen=True):
    percent: Annotated[float | None, _PERCENT] = None
    """Most retries at a time, in percent of the requests; default 20."""
    min_retry_concurrency: UInt32 = 0
    """Retries always allowed at a time; default 3."""
    budget_interval: Duration | None = None
    """Time over which requests are counted."""


class PortTrafficPolicy(Api, frozen=True):
    """Settings of one port. They replace those of the policy, they are not merged."""

    port: PortSelector | None = None
    """The service's port."""
    load_balancer: LoadBalancerSettings | None = None
    """Load balancing."""
    connection_pool: ConnectionPoolSettings | None = None
    """Limits for connections."""
    outlier_detection: OutlierDetection | None = None
    """Ejection of failing endpoints."""
    tls: ClientTLSSettings | None = None
    """TLS towards endpoints."""


class TrafficPolicy(Api, frozen=True):
    load_balancer: LoadBalancerSettings | None = None
    """Load balancing."""
    connection_pool: ConnectionPoolSettings | None = None
    """Limits for connections."""
    outlier_detection: OutlierDetection | None = None
    """Ejection of failing endpoints."""
    tls: ClientTLSSettings | None = None
    """TLS towards endpoints."""
    port_level_settings: Annotated[tuple[PortTrafficPolicy, ...], schema(maxItems=4096)] = ()
    """Settings for single ports, in place of those above."""
    tunnel: TunnelSettings | None = None
    """Wraps TCP traffic in an HTTP tunnel."""
    proxy_protocol: ProxyProtocol | None = None
    """Sends the PROXY protocol to endpoints."""
    retry_budget: RetryBudget | None = None
    """Limits retries relative to the requests."""


class Subset(Api, frozen=True):
    name: Annotated[str, REQUIRED] = ""
    """Name by which routes refer to it."""
    labels: StringMap = {}
    """Labels of the endpoints in it."""
    traffic_policy: TrafficPolicy | None = None
    """Settings that override the service's, field by field."""


class DestinationRule(Api, frozen=True):
    """Subsets of a service and how traffic to it is balanced, limited and secured."""

    host: Annotated[str, REQUIRED] = ""
    """The service, or a wildcard for several. A name without a dot is completed with the namespace of the object."""
    traffic_policy: TrafficPolicy | None = None
    """Settings for all subsets and ports."""
    subsets: tuple[Subset, ...] = ()
    """Named parts of the service."""
    export_to: tuple[str, ...] = ()
    """Namespaces that see it: names, `.` (its own), `*` (all). Empty: the mesh's default."""
    workload_selector: PolicySelector | None = None
    """Calling workloads of the namespace it applies to."""
