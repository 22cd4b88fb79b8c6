"""mesh.istio.io: the configuration of the whole mesh, read from the ConfigMap `istio`. Defaults are Istio's."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from pilotfish.api.decode import from_json, to_json
from pilotfish.api.errors import DecodeError, FieldError
from pilotfish.api.files import load_one
from pilotfish.api.meta import (
    UNIMPLEMENTED,
    Api,
    Duration,
    FreeForm,
    Int32,
    Int64,
    LabelSelector,
    StringMap,
    UInt32,
    camel,
)
from pilotfish.api.networking.destination_rule import (
    ClientTLSSettings,
    ConnectionPoolSettings,
    LocalityLbSetting,
    OutlierDetection,
    TcpKeepalive,
    ZoneAwareLbSetting,
)
from pilotfish.api.networking.proxy_config import ProxyImage
from pilotfish.api.networking.virtual_service import HTTPRetry
from pilotfish.api.networking.workload_group import ReadinessProbe
from pilotfish.api.telemetry import Environment, Literal, RequestHeader


class Empty(Api, frozen=True):
    """A message without fields: its presence is what it says."""


# --- ProxyConfig: settings of one proxy -------------------------------------------------------------------------------


class AuthenticationPolicy(StrEnum):
    NONE = "NONE"
    MUTUAL_TLS = "MUTUAL_TLS"
    INHERIT = "INHERIT"


class TracerAddress(Api, frozen=True):
    address: str = ""
    """Address of the collector, as host:port."""
    access_token: Annotated[str, UNIMPLEMENTED] = ""
    """Token for it (Lightstep)."""


class Stackdriver(Api, frozen=True):
    debug: bool = False
    max_number_of_attributes: Int64 | None = None
    max_number_of_annotations: Int64 | None = None
    max_number_of_message_events: Int64 | None = None


class TraceContext(StrEnum):
    UNSPECIFIED = "UNSPECIFIED"
    W3C_TRACE_CONTEXT = "W3C_TRACE_CONTEXT"
    GRPC_BIN = "GRPC_BIN"
    CLOUD_TRACE_CONTEXT = "CLOUD_TRACE_CONTEXT"
    B3 = "B3"


class OpenCensusAgent(Api, frozen=True):
    address: str = ""
    context: tuple[TraceContext, ...] = ()


class ProxyTag(Api, frozen=True):
    ONE_OF = (("literal", "environment", "header"),)

    literal: Literal | None = None
    environment: Environment | None = None
    header: RequestHeader | None = None


class ProxyTracing(Api, frozen=True):
    ONE_OF = (("zipkin", "lightstep", "datadog", "stackdriver", "openCensusAgent"),)

    zipkin: TracerAddress | None = None
    lightstep: Annotated[TracerAddress | None, UNIMPLEMENTED] = None
    datadog: Annotated[TracerAddress | None, UNIMPLEMENTED] = None
    stackdriver: Annotated[Stackdriver | None, UNIMPLEMENTED] = None
    open_census_agent: Annotated[OpenCensusAgent | None, UNIMPLEMENTED] = None
    custom_tags: Mapping[str, ProxyTag] = {}
    max_path_tag_length: UInt32 = 0
    """Longest path in tags; 0 means 256."""
    sampling: float | None = None
    """Percent of requests traced; None means the control plane's default, 1."""
    tls_settings: Annotated[ClientTLSSettings | None, UNIMPLEMENTED] = None
    enable_istio_tags: bool | None = None


class ForwardClientCertDetails(StrEnum):
    UNDEFINED = "UNDEFINED"
    SANITIZE = "SANITIZE"
    FORWARD_ONLY = "FORWARD_ONLY"
    APPEND_FORWARD = "APPEND_FORWARD"
    SANITIZE_SET = "SANITIZE_SET"
    ALWAYS_FORWARD_ONLY = "ALWAYS_FORWARD_ONLY"


class Topology(Api, frozen=True):
    num_trusted_proxies: UInt32 = 0
    """Proxies in front of the gateway whose X-Forwarded-For entries are believed."""
    forward_client_cert_details: ForwardClientCertDetails = ForwardClientCertDetails.UNDEFINED
    proxy_protocol: Empty | None = None
    """Set: the gateway expects the PROXY protocol."""


class KeyProviderMethod(Api, frozen=True):
    poll_delay: Duration | None = None
    fallback: bool | None = None


class PrivateKeyProvider(Api, frozen=True):
    ONE_OF = (("cryptomb", "qat"),)

    cryptomb: KeyProviderMethod | None = None
    qat: KeyProviderMethod | None = None


class TracingServiceName(StrEnum):
    APP_LABEL_AND_NAMESPACE = "APP_LABEL_AND_NAMESPACE"
    CANONICAL_NAME_ONLY = "CANONICAL_NAME_ONLY"
    CANONICAL_NAME_AND_NAMESPACE = "CANONICAL_NAME_AND_NAMESPACE"


class InterceptionMode(StrEnum):
    REDIRECT = "REDIRECT"
    TPROXY = "TPROXY"
    NONE = "NONE"


class SDS(Api, frozen=True):
    enabled: bool = False
    k8s_sa_jwt_path: Annotated[str, UNIMPLEMENTED] = ""


class RemoteService(Api, frozen=True):
    address: str = ""
    tls_settings: ClientTLSSettings | None = None
    tcp_keepalive: TcpKeepalive | None = None


class ProxyStatsMatcher(Api, frozen=True):
    inclusion_prefixes: tuple[str, ...] = ()
    inclusion_suffixes: tuple[str, ...] = ()
    inclusion_regexps: tuple[str, ...] = ()


class HeaderServer(Api, frozen=True):
    disabled: bool | None = None
    value: str = ""


class HeaderDisabled(Api, frozen=True):
    disabled: bool | None = None


class HeaderEnabled(Api, frozen=True):
    enabled: bool | None = None


class MetadataExchangeMode(StrEnum):
    UNDEFINED = "UNDEFINED"
    IN_MESH = "IN_MESH"


class MetadataExchangeHeaders(Api, frozen=True):
    mode: MetadataExchangeMode = MetadataExchangeMode.UNDEFINED


class SetCurrentClientCertDetails(Api, frozen=True):
    subject: bool | None = None
    cert: bool | None = None
    chain: bool | None = None
    dns: bool | None = None
    uri: bool | None = None


class ProxyHeaders(Api, frozen=True):
    forwarded_client_cert: ForwardClientCertDetails = ForwardClientCertDetails.UNDEFINED
    set_current_client_cert_details: SetCurrentClientCertDetails | None = None
    request_id: HeaderDisabled | None = None
    server: HeaderServer | None = None
    attempt_count: HeaderDisabled | None = None
    envoy_debug_headers: HeaderDisabled | None = None
    metadata_exchange_headers: Annotated[MetadataExchangeHeaders | None, UNIMPLEMENTED] = None
    preserve_http1_header_case: bool | None = None
    x_forwarded_host: HeaderEnabled | None = None
    x_forwarded_port: HeaderEnabled | None = None


class ConnectionProfile(StrEnum):
    SIDECAR = "SIDECAR"
    EDGE = "EDGE"


class HeadersWithUnderscores(StrEnum):
    UNSPECIFIED = "HEADERS_WITH_UNDERSCORES_UNSPECIFIED"
    ALLOW = "HEADERS_WITH_UNDERSCORES_ALLOW"
    REJECT_REQUEST = "HEADERS_WITH_UNDERSCORES_REJECT_REQUEST"
    DROP_HEADER = "HEADERS_WITH_UNDERSCORES_DROP_HEADER"


class EscapedSlashes(StrEnum):
    UNSPECIFIED = "PATH_WITH_ESCAPED_SLASHES_UNSPECIFIED"
    KEEP_UNCHANGED = "KEEP_UNCHANGED"
    REJECT_REQUEST = "REJECT_REQUEST"
    UNESCAPE_AND_REDIRECT = "UNESCAPE_AND_REDIRECT"
    UNESCAPE_AND_FORWARD = "UNESCAPE_AND_FORWARD"


class ConnectionSettings(Api, frozen=True):
    profile: Annotated[ConnectionProfile, UNIMPLEMENTED] = ConnectionProfile.SIDECAR
    listener_per_connection_buffer_limit_bytes: Int32 | None = None
    cluster_per_connection_buffer_limit_bytes: Annotated[Int32 | None, UNIMPLEMENTED] = None
    http_idle_timeout: Duration | None = None
    http_max_connection_duration: Duration | None = None
    http_drain_timeout: Duration | None = None
    http_request_timeout: Duration | None = None
    http_request_headers_timeout: Duration | None = None
    http_stream_idle_timeout: Duration | None = None
    http_max_stream_duration: Duration | None = None
    http_max_concurrent_streams: Int32 | None = None
    http2_initial_stream_window_size: Int32 | None = None
    http2_initial_connection_window_size: Int32 | None = None
    http_headers_with_underscores_action: HeadersWithUnderscores = HeadersWithUnderscores.UNSPECIFIED
    http_merge_slashes: bool | None = None
    http_path_with_escaped_slashes_action: EscapedSlashes = EscapedSlashes.UNSPECIFIED
    listener_connection_limit: Annotated[Int32 | None, UNIMPLEMENTED] = None
    global_downstream_connection_limit: Annotated[Int32 | None, UNIMPLEMENTED] = None


class ProxyConfig(Api, frozen=True):
    """Settings of a proxy: MeshConfig.defaultConfig and the annotation proxy.istio.io/config."""

    config_path: str = "./etc/istio/proxy"
    binary_path: str = "/usr/local/bin/envoy"
    service_cluster: str = "istio-proxy"
    tracing_service_name: TracingServiceName | None = None
    drain_duration: Duration = Duration(45_000_000_000)
    discovery_address: str = "istiod.istio-system.svc:15012"
    discovery_refresh_delay: Annotated[Duration | None, UNIMPLEMENTED] = None
    zipkin_address: Annotated[str, UNIMPLEMENTED] = ""
    statsd_udp_address: Annotated[str, UNIMPLEMENTED] = ""
    envoy_metrics_service_address: Annotated[str, UNIMPLEMENTED] = ""
    proxy_admin_port: Int32 = 15000
    availability_zone: Annotated[str, UNIMPLEMENTED] = ""
    control_plane_auth_policy: AuthenticationPolicy = AuthenticationPolicy.MUTUAL_TLS
    custom_config_file: Annotated[str, UNIMPLEMENTED] = ""
    stat_name_length: Annotated[Int32, UNIMPLEMENTED] = 189
    concurrency: Int32 | None = None
    """Worker threads; 0 means one per core, None follows the CPU limit."""
    proxy_bootstrap_template_path: Annotated[str, UNIMPLEMENTED] = ""
    interception_mode: InterceptionMode = InterceptionMode.REDIRECT
    tracing: ProxyTracing | None = None
    sds: SDS | None = None
    envoy_access_log_service: Annotated[RemoteService | None, UNIMPLEMENTED] = None
    envoy_metrics_service: Annotated[RemoteService | None, UNIMPLEMENTED] = None
    proxy_metadata: StringMap = {}
    """Environment of the proxy; ISTIO_META_* becomes node metadata."""
    runtime_values: StringMap = {}
    status_port: Int32 = 15020
    extra_stat_tags: tuple[str, ...] = ()
    """Not needed: tags that Telemetry resources add are labels of the metrics without being named here."""
    gateway_topology: Topology | None = None
    termination_drain_duration: Duration = Duration(5_000_000_000)
    mesh_id: str = ""
    readiness_probe: ReadinessProbe | None = None
    proxy_stats_matcher: ProxyStatsMatcher | None = None
    hold_application_until_proxy_starts: bool | None = None
    ca_certificates_pem: Annotated[tuple[str, ...], UNIMPLEMENTED] = ()
    image: ProxyImage | None = None
    private_key_provider: Annotated[PrivateKeyProvider | None, UNIMPLEMENTED] = None
    proxy_headers: ProxyHeaders | None = None
    file_flush_interval: Duration | None = None
    file_flush_min_size_kb: UInt32 = 0
    stats_compression: Annotated[bool | None, UNIMPLEMENTED] = None
    connection_settings: ConnectionSettings | None = None


# --- Extension providers ----------------------------------------------------------------------------------------------


class HttpHeader(Api, frozen=True):
    ONE_OF = (("value", "envName"),)

    name: str = ""
    value: str | None = None
    env_name: Annotated[str | None, UNIMPLEMENTED] = None


class ExtAuthzRequestBody(Api, frozen=True):
    max_request_bytes: UInt32 = 0
    allow_partial_message: bool = False
    pack_as_bytes: bool = False


class ExtAuthzGrpc(Api, frozen=True):
    service: str = ""
    """Host name, or namespace/hostname."""
    port: UInt32 = 0
    timeout: Duration | None = None
    """Time for a decision; default 600s."""
    fail_open: bool = False
    """Let requests pass when the service does not answer."""
    clear_route_cache: bool = False
    status_on_error: str = ""
    """HTTP status when the service does not answer; default 403."""
    include_request_body_in_check: ExtAuthzRequestBody | None = None


class ExtAuthzHttp(ExtAuthzGrpc, frozen=True):
    path_prefix: str = ""
    include_headers_in_check: tuple[str, ...] = ()
    """Deprecated name of includeRequestHeadersInCheck."""
    include_request_headers_in_check: tuple[str, ...] = ()
    include_additional_headers_in_check: StringMap = {}
    headers_to_upstream_on_allow: tuple[str, ...] = ()
    headers_to_downstream_on_deny: tuple[str, ...] = ()
    headers_to_downstream_on_allow: tuple[str, ...] = ()


class ZipkinContextOption(StrEnum):
    USE_B3 = "USE_B3"
    USE_B3_WITH_W3C_PROPAGATION = "USE_B3_WITH_W3C_PROPAGATION"


class ZipkinProvider(Api, frozen=True):
    service: str = ""
    port: UInt32 = 0
    max_tag_length: UInt32 = 0
    enable_64bit_trace_id: bool = False
    path: str = ""
    trace_context_option: ZipkinContextOption = ZipkinContextOption.USE_B3
    timeout: Duration | None = None
    headers: tuple[HttpHeader, ...] = ()


class LightstepProvider(Api, frozen=True):
    service: str = ""
    port: UInt32 = 0
    access_token: str = ""
    max_tag_length: UInt32 = 0


class DatadogProvider(Api, frozen=True):
    service: str = ""
    port: UInt32 = 0
    max_tag_length: UInt32 = 0


class SkyWalkingProvider(Api, frozen=True):
    service: str = ""
    port: UInt32 = 0
    access_token: str = ""


class StackdriverLogging(Api, frozen=True):
    labels: StringMap = {}


class StackdriverProvider(Stackdriver, frozen=True):
    max_tag_length: Annotated[UInt32, UNIMPLEMENTED] = 0
    logging: Annotated[StackdriverLogging | None, UNIMPLEMENTED] = None


class OpenCensusProvider(Api, frozen=True):
    service: str = ""
    port: UInt32 = 0
    context: tuple[TraceContext, ...] = ()
    max_tag_length: UInt32 = 0


class FileLogFormat(Api, frozen=True):
    ONE_OF = (("text", "labels"),)

    text: str | None = None
    labels: FreeForm | None = None


class OtelLogFormat(Api, frozen=True):
    text: str = ""
    labels: FreeForm | None = None


class FileAccessLog(Api, frozen=True):
    path: str = ""
    log_format: FileLogFormat | None = None
    omit_empty_values: bool = False


class TcpGrpcAccessLog(Api, frozen=True):
    service: str = ""
    port: UInt32 = 0
    log_name: str = ""
    filter_state_objects_to_log: tuple[str, ...] = ()


class HttpGrpcAccessLog(TcpGrpcAccessLog, frozen=True):
    additional_request_headers_to_log: tuple[str, ...] = ()
    additional_response_headers_to_log: tuple[str, ...] = ()
    additional_response_trailers_to_log: tuple[str, ...] = ()


class OtelAccessLog(Api, frozen=True):
    service: str = ""
    port: UInt32 = 0
    log_name: str = ""
    log_format: OtelLogFormat | None = None


class HttpService(Api, frozen=True):
    path: str = ""
    timeout: Duration | None = None
    headers: tuple[HttpHeader, ...] = ()


class GrpcService(Api, frozen=True):
    timeout: Duration | None = None
    initial_metadata: tuple[HttpHeader, ...] = ()


class ResourceDetectors(Api, frozen=True):
    environment: Empty | None = None
    dynatrace: Empty | None = None


class DynatraceApi(Api, frozen=True):
    service: str = ""
    port: UInt32 = 0
    http: HttpService | None = None


class DynatraceSampler(Api, frozen=True):
    tenant: str = ""
    cluster_id: Int32 = 0
    root_spans_per_minute: UInt32 = 0
    http_service: DynatraceApi | None = None


class ServiceAttributeEnrichment(StrEnum):
    ISTIO_CANONICAL = "ISTIO_CANONICAL"
    OTEL_SEMANTIC_CONVENTIONS = "OTEL_SEMANTIC_CONVENTIONS"


class OpenTelemetryProvider(Api, frozen=True):
    service: str = ""
    port: UInt32 = 0
    max_tag_length: UInt32 = 0
    http: HttpService | None = None
    grpc: GrpcService | None = None
    resource_detectors: Annotated[ResourceDetectors | None, UNIMPLEMENTED] = None
    service_attribute_enrichment: Annotated[ServiceAttributeEnrichment, UNIMPLEMENTED] = (
        ServiceAttributeEnrichment.ISTIO_CANONICAL
    )
    dynatrace_sampler: Annotated[DynatraceSampler | None, UNIMPLEMENTED] = None


class SDSProvider(Api, frozen=True):
    name: str = ""
    service: str = ""
    port: UInt32 = 0


class ExtensionProvider(Api, frozen=True):
    """A named service that policies and telemetry refer to."""

    ONE_OF = (
        (
            "envoyExtAuthzHttp",
            "envoyExtAuthzGrpc",
            "zipkin",
            "lightstep",
            "datadog",
            "stackdriver",
            "opencensus",
            "skywalking",
            "opentelemetry",
            "prometheus",
            "envoyFileAccessLog",
            "envoyHttpAls",
            "envoyTcpAls",
            "envoyOtelAls",
            "sds",
        ),
    )

    name: str = ""
    envoy_ext_authz_http: ExtAuthzHttp | None = None
    envoy_ext_authz_grpc: ExtAuthzGrpc | None = None
    zipkin: ZipkinProvider | None = None
    lightstep: Annotated[LightstepProvider | None, UNIMPLEMENTED] = None
    datadog: DatadogProvider | None = None
    stackdriver: StackdriverProvider | None = None
    opencensus: Annotated[OpenCensusProvider | None, UNIMPLEMENTED] = None
    skywalking: SkyWalkingProvider | None = None
    opentelemetry: OpenTelemetryProvider | None = None
    prometheus: Empty | None = None
    envoy_file_access_log: FileAccessLog | None = None
    envoy_http_als: HttpGrpcAccessLog | None = None
    envoy_tcp_als: TcpGrpcAccessLog | None = None
    envoy_otel_als: OtelAccessLog | None = None
    sds: SDSProvider | None = None


BUILT_IN_PROVIDERS = (
    ExtensionProvider(name="prometheus", prometheus=Empty()),
    ExtensionProvider(name="stackdriver", stackdriver=StackdriverProvider()),
    ExtensionProvider(name="envoy", envoy_file_access_log=FileAccessLog(path="/dev/stdout")),
)
"""Always there; a provider of the same name in the mesh's configuration takes its place."""


# --- MeshConfig -------------------------------------------------------------------------------------------------------


class IngressControllerMode(StrEnum):
    UNSPECIFIED = "UNSPECIFIED"
    OFF = "OFF"
    DEFAULT = "DEFAULT"
    STRICT = "STRICT"


class AccessLogEncoding(StrEnum):
    TEXT = "TEXT"
    JSON = "JSON"


class OutboundMode(StrEnum):
    REGISTRY_ONLY = "REGISTRY_ONLY"
    ALLOW_ANY = "ALLOW_ANY"
    ALLOW_ANY_DYNAMIC_DNS = "ALLOW_ANY_DYNAMIC_DNS"


class OutboundTrafficPolicy(Api, frozen=True):
    mode: OutboundMode = OutboundMode.REGISTRY_ONLY
    tls: ClientTLSSettings | None = None


class InboundMode(StrEnum):
    PASSTHROUGH = "PASSTHROUGH"
    LOCALHOST = "LOCALHOST"


class InboundTrafficPolicy(Api, frozen=True):
    mode: InboundMode = InboundMode.PASSTHROUGH


class Resource(StrEnum):
    SERVICE_REGISTRY = "SERVICE_REGISTRY"


class ConfigSource(Api, frozen=True):
    address: str = ""
    """fs:///path, xds://host:port or k8s://."""
    tls_settings: ClientTLSSettings | None = None
    subscribed_resources: tuple[Resource, ...] = ()


class CertificateData(Api, frozen=True):
    ONE_OF = (("pem", "spiffeBundleUrl"),)

    pem: str | None = None
    spiffe_bundle_url: Annotated[str | None, UNIMPLEMENTED] = None
    cert_signers: Annotated[tuple[str, ...], UNIMPLEMENTED] = ()
    trust_domains: tuple[str, ...] = ()


class H2Upgrade(StrEnum):
    DO_NOT_UPGRADE = "DO_NOT_UPGRADE"
    UPGRADE = "UPGRADE"


class Certificate(Api, frozen=True):
    secret_name: Annotated[str, UNIMPLEMENTED] = ""
    dns_names: Annotated[tuple[str, ...], UNIMPLEMENTED] = ()


class Settings(Api, frozen=True):
    cluster_local: bool = False
    """Only endpoints of the same cluster are used."""


class ServiceSettings(Api, frozen=True):
    settings: Settings | None = None
    hosts: tuple[str, ...] = ()


class Scope(StrEnum):
    LOCAL = "LOCAL"
    GLOBAL = "GLOBAL"


class ServiceScopeConfig(Api, frozen=True):
    namespace_selector: LabelSelector | None = None
    services_selector: LabelSelector | None = None
    scope: Scope = Scope.LOCAL


class CA(Api, frozen=True):
    address: str = ""
    tls_settings: Annotated[ClientTLSSettings | None, UNIMPLEMENTED] = None
    request_timeout: Duration | None = None
    istiod_side: Annotated[bool, UNIMPLEMENTED] = False


class DefaultProviders(Api, frozen=True):
    tracing: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    access_logging: tuple[str, ...] = ()


class Normalization(StrEnum):
    DEFAULT = "DEFAULT"
    NONE = "NONE"
    BASE = "BASE"
    MERGE_SLASHES = "MERGE_SLASHES"
    DECODE_AND_MERGE_SLASHES = "DECODE_AND_MERGE_SLASHES"


class PathNormalization(Api, frozen=True):
    normalization: Normalization = Normalization.DEFAULT


class MeshTLSProtocol(StrEnum):
    TLS_AUTO = "TLS_AUTO"
    TLSV1_2 = "TLSV1_2"
    TLSV1_3 = "TLSV1_3"


class TLSConfig(Api, frozen=True):
    min_protocol_version: MeshTLSProtocol = MeshTLSProtocol.TLS_AUTO
    ecdh_curves: tuple[str, ...] = ()
    cipher_suites: tuple[str, ...] = ()


class DefaultTrafficPolicy(Api, frozen=True):
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None


class Visibility(StrEnum):
    VISIBILITY_UNSPECIFIED = "VISIBILITY_UNSPECIFIED"
    NONE = "NONE"
    NAMESPACE = "NAMESPACE"
    PUBLIC = "PUBLIC"


class VisibilityMatch(Api, frozen=True):
    namespace_selector: LabelSelector | None = None


class VisibilityPolicy(Api, frozen=True):
    visibility: Visibility = Visibility.VISIBILITY_UNSPECIFIED
    matching_rules: tuple[VisibilityMatch, ...] = ()


class ServiceEntryVisibility(Api, frozen=True):
    default_visibility: Visibility = Visibility.VISIBILITY_UNSPECIFIED
    apply_to_sidecars: bool = False
    policies: tuple[VisibilityPolicy, ...] = ()


class MeshConfig(Api, frozen=True):
    """Settings of the mesh. Each field given replaces its default as a whole; only defaultConfig is merged."""

    proxy_listen_port: Int32 = 15001
    proxy_inbound_listen_port: Int32 = 15006
    proxy_http_port: Int32 = 0
    connect_timeout: Duration = Duration(10_000_000_000)
    hbone_idle_timeout: Annotated[Duration | None, UNIMPLEMENTED] = None
    protocol_detection_timeout: Duration = Duration(0)
    """How long a listener waits for the first bytes to find out the protocol; 0 waits as long as it takes."""
    tcp_keepalive: TcpKeepalive | None = None
    ingress_class: Annotated[str, UNIMPLEMENTED] = "istio"
    ingress_service: Annotated[str, UNIMPLEMENTED] = "istio-ingressgateway"
    ingress_controller_mode: Annotated[IngressControllerMode, UNIMPLEMENTED] = IngressControllerMode.STRICT
    ingress_selector: Annotated[str, UNIMPLEMENTED] = ""
    enable_tracing: bool = True
    access_log_file: str = ""
    access_log_format: str = ""
    access_log_encoding: AccessLogEncoding = AccessLogEncoding.TEXT
    enable_envoy_access_log_service: Annotated[bool, UNIMPLEMENTED] = False
    disable_envoy_listener_log: bool = False
    default_config: ProxyConfig = ProxyConfig()
    outbound_traffic_policy: OutboundTrafficPolicy = OutboundTrafficPolicy(mode=OutboundMode.ALLOW_ANY)
    inbound_traffic_policy: InboundTrafficPolicy = InboundTrafficPolicy()
    config_sources: Annotated[tuple[ConfigSource, ...], UNIMPLEMENTED] = ()
    enable_auto_mtls: bool = True
    trust_domain: str = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()
    ca_certificates: tuple[CertificateData, ...] = ()
    default_service_export_to: tuple[str, ...] = ("*",)
    default_virtual_service_export_to: tuple[str, ...] = ("*",)
    default_destination_rule_export_to: tuple[str, ...] = ("*",)
    root_namespace: str = "istio-system"
    locality_lb_setting: LocalityLbSetting = LocalityLbSetting(enabled=True)
    zone_aware_lb_setting: Annotated[ZoneAwareLbSetting | None, UNIMPLEMENTED] = None
    dns_refresh_rate: Duration = Duration(60_000_000_000)
    h2_upgrade_policy: H2Upgrade = H2Upgrade.DO_NOT_UPGRADE
    inbound_cluster_stat_name: Annotated[str, UNIMPLEMENTED] = ""
    outbound_cluster_stat_name: Annotated[str, UNIMPLEMENTED] = ""
    certificates: tuple[Certificate, ...] = ()
    service_settings: Annotated[tuple[ServiceSettings, ...], UNIMPLEMENTED] = ()
    service_scope_configs: Annotated[tuple[ServiceScopeConfig, ...], UNIMPLEMENTED] = ()
    enable_prometheus_merge: bool = True
    verify_certificate_at_client: Annotated[bool | None, UNIMPLEMENTED] = None
    ca: CA | None = None
    extension_providers: tuple[ExtensionProvider, ...] = BUILT_IN_PROVIDERS
    """Services that policies and telemetry refer to; the built-in ones are always among them."""
    default_providers: DefaultProviders = DefaultProviders()
    discovery_selectors: tuple[LabelSelector, ...] = ()
    """Namespaces the mesh looks at, one of them must match; empty: all."""
    path_normalization: PathNormalization = PathNormalization()
    default_http_retry_policy: HTTPRetry | None = None
    mesh_mtls: TLSConfig = msgspec.field(name="meshMTLS", default=TLSConfig())
    tls_defaults: TLSConfig = TLSConfig()
    default_traffic_policy: DefaultTrafficPolicy | None = None
    service_entry_visibility: Annotated[ServiceEntryVisibility | None, UNIMPLEMENTED] = None

    def provider(self, name: str) -> ExtensionProvider | None:
        """The extension provider of that name."""
        return next((provider for provider in self.extension_providers if provider.name == name), None)


# --- MeshNetworks -----------------------------------------------------------------------------------------------------


class NetworkEndpoints(Api, frozen=True):
    ONE_OF = (("fromCidr", "fromRegistry"),)

    from_cidr: str | None = None
    from_registry: str | None = None


class NetworkGateway(Api, frozen=True):
    ONE_OF = (("registryServiceName", "address"),)

    registry_service_name: str | None = None
    address: str | None = None
    port: UInt32 = 0
    locality: str = ""


class Network(Api, frozen=True):
    endpoints: tuple[NetworkEndpoints, ...] = ()
    gateways: tuple[NetworkGateway, ...] = ()


class MeshNetworks(Api, frozen=True):
    networks: Annotated[Mapping[str, Network], UNIMPLEMENTED] = {}


def decode_mesh_config(value: str | Mapping[str, Any]) -> tuple[MeshConfig, tuple[FieldError, ...]]:
    """Read the mesh's configuration from YAML text or JSON. Returns it and the unknown fields, which have no effect.

    Raises DecodeError with all wrong types. `default_config` is merged over Istio's defaults and built-in providers are
    added, as Istio's ApplyMeshConfig does.
    """
    mesh, unknown = from_json(_mapping(value, "the mesh configuration"), MeshConfig)
    named = {provider.name: provider for provider in (*BUILT_IN_PROVIDERS, *mesh.extension_providers)}
    return msgspec.structs.replace(mesh, extension_providers=tuple(named.values())), unknown


def decode_mesh_networks(value: str | Mapping[str, Any]) -> tuple[MeshNetworks, tuple[FieldError, ...]]:
    """Read the mesh's networks from YAML text or JSON, with the unknown fields. Raises DecodeError."""
    return from_json(_mapping(value, "the mesh networks"), MeshNetworks)


def decode_proxy_config(
    value: str | Mapping[str, Any], base: ProxyConfig | None = None
) -> tuple[ProxyConfig, tuple[FieldError, ...]]:
    """Read a ProxyConfig over `base` (default: Istio's defaults). Raises DecodeError with all wrong types.

    Fields given replace those of `base`; `proxyMetadata` and `proxyHeaders` are merged, as Istio does.
    """
    data = _mapping(value, "the proxy configuration")
    overlay, unknown = from_json(data, ProxyConfig)
    if base is None:
        return overlay, unknown
    given = {camel(key) for key, item in data.items() if item is not None}
    changes = {name: getattr(overlay, name) for name in ProxyConfig.__struct_fields__ if camel(name) in given}
    if "proxy_metadata" in changes:
        changes["proxy_metadata"] = {**base.proxy_metadata, **overlay.proxy_metadata}
    if base.proxy_headers and overlay.proxy_headers:
        headers = {**to_json(base.proxy_headers), **to_json(overlay.proxy_headers)}
        changes["proxy_headers"] = from_json(headers, ProxyHeaders)[0]
    return msgspec.structs.replace(base, **changes), unknown


def _mapping(value: str | Mapping[str, Any], what: str) -> Mapping[str, Any]:
    data = load_one(value) if isinstance(value, str) else value
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise DecodeError([FieldError("", f"must be a mapping of fields, not {data!r:.60}")], what)
    return data
