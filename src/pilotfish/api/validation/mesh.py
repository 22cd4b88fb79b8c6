"""The mesh's configuration and networks, as the ConfigMap `istio` holds them."""

from __future__ import annotations

from collections.abc import Sequence

from pilotfish.api.mesh import (
    AuthenticationPolicy,
    ConnectionSettings,
    ExtensionProvider,
    MeshConfig,
    MeshNetworks,
    PrivateKeyProvider,
    ProxyConfig,
    ProxyTracing,
)
from pilotfish.api.meta import LabelSelector, field_value
from pilotfish.api.validation.report import (
    MILLISECOND,
    Report,
    domain_problem,
    duplicates,
    is_cidr,
    is_dns_label,
    is_ip,
)
from pilotfish.api.validation.traffic_policy import (
    check_client_tls,
    check_connection_pool,
    check_locality,
    check_outlier_detection,
    check_zone_aware,
)
from pilotfish.api.validation.virtual_service import check_retries
from pilotfish.api.validation.workload_group import check_probe

_HOUR = 3600 * 1_000_000_000
_CURVES = {"P-224", "P-256", "P-384", "P-521", "X25519", "X25519Kyber768Draft00", "X25519MLKEM768"}
_OPERATORS = {"In": True, "NotIn": True, "Exists": False, "DoesNotExist": False}
"""Whether the operator takes values."""


def check_mesh(report: Report, mesh: MeshConfig) -> None:
    report.port("proxyListenPort", mesh.proxy_listen_port)
    if report.duration("connectTimeout", mesh.connect_timeout) and mesh.connect_timeout > _HOUR:
        report.error("connectTimeout", f"{mesh.connect_timeout} is longer than an hour")
    if mesh.protocol_detection_timeout % MILLISECOND:
        report.error("protocolDetectionTimeout", f"{mesh.protocol_detection_timeout} is finer than a millisecond")
    for path, domain in (
        ("trustDomain", mesh.trust_domain),
        *((f"trustDomainAliases[{index}]", alias) for index, alias in enumerate(mesh.trust_domain_aliases)),
    ):
        labels = domain.removesuffix(".").split(".")
        if not all(map(is_dns_label, labels)):
            report.error(path, f"{domain!r} is no trust domain; an example is cluster.local")
    check_locality(report, "localityLbSetting", mesh.locality_lb_setting, None, mesh_wide=True)
    if mesh.zone_aware_lb_setting is not None:
        check_zone_aware(report, "zoneAwareLbSetting", mesh.zone_aware_lb_setting)
    for index, settings in enumerate(mesh.service_settings):
        for number, host in enumerate(settings.hosts):
            report.domain(f"serviceSettings[{index}].hosts[{number}]", host)
    if mesh.mesh_mtls.ecdh_curves:
        report.error("meshMTLS.ecdhCurves", "curves cannot be chosen for mutual TLS within the mesh")
    _check_curves(report, mesh)
    policy = mesh.default_traffic_policy
    if policy is not None and policy.connection_pool is not None:
        check_connection_pool(report, "defaultTrafficPolicy.connectionPool", policy.connection_pool)
    if policy is not None and policy.outlier_detection is not None:
        check_outlier_detection(report, "defaultTrafficPolicy.outlierDetection", policy.outlier_detection)
    check_proxy_config(report, "defaultConfig", mesh.default_config)
    doubtful = Report()
    _check_doubtful(doubtful, mesh)
    report.soften(doubtful, "this has no effect, or not the one that is meant")


def _check_doubtful(report: Report, mesh: MeshConfig) -> None:
    """What Istio does not look at, or only logs: the rest of the configuration goes into force."""
    report.port("proxyInboundListenPort", mesh.proxy_inbound_listen_port)
    if mesh.proxy_http_port:
        report.port("proxyHttpPort", mesh.proxy_http_port)
    report.duration("dnsRefreshRate", mesh.dns_refresh_rate)
    report.dns_label("rootNamespace", mesh.root_namespace, "namespace")
    for path, values in (
        ("defaultServiceExportTo", mesh.default_service_export_to),
        ("defaultVirtualServiceExportTo", mesh.default_virtual_service_export_to),
        ("defaultDestinationRuleExportTo", mesh.default_destination_rule_export_to),
    ):
        for index, value in enumerate(values):
            if value not in {"*", ".", "~"} and not is_dns_label(value):
                report.error(f"{path}[{index}]", f"{value!r} must be a namespace, `*`, `.` or `~`")
    if mesh.outbound_traffic_policy.tls is not None:
        check_client_tls(report, "outboundTrafficPolicy.tls", mesh.outbound_traffic_policy.tls)
    if mesh.default_http_retry_policy is not None:
        check_retries(report, "defaultHttpRetryPolicy", mesh.default_http_retry_policy)
    for index, selector in enumerate(mesh.discovery_selectors):
        _check_selector(report, f"discoverySelectors[{index}]", selector)
    _check_providers(report, mesh.extension_providers)
    for kind, names in (
        ("tracing", mesh.default_providers.tracing),
        ("metrics", mesh.default_providers.metrics),
        ("accessLogging", mesh.default_providers.access_logging),
    ):
        for index, name in enumerate(names):
            if mesh.provider(name) is None:
                report.error(f"defaultProviders.{kind}[{index}]", f"{name!r} is not among the extensionProviders")
    _check_doubtful_proxy(report, mesh.default_config)


def _check_doubtful_proxy(report: Report, proxy: ProxyConfig) -> None:
    if proxy.concurrency is not None:
        report.not_negative("defaultConfig.concurrency", proxy.concurrency)
    report.duration("defaultConfig.terminationDrainDuration", proxy.termination_drain_duration, zero=True)
    if proxy.tracing is not None:
        report.percent("defaultConfig.tracing.sampling", proxy.tracing.sampling)
    if proxy.readiness_probe is not None:
        check_probe(report, "defaultConfig.readinessProbe", proxy.readiness_probe)
    if proxy.proxy_stats_matcher is not None:
        for index, expression in enumerate(proxy.proxy_stats_matcher.inclusion_regexps):
            report.regex(f"defaultConfig.proxyStatsMatcher.inclusionRegexps[{index}]", expression)


def _check_curves(report: Report, mesh: MeshConfig) -> None:
    curves = mesh.tls_defaults.ecdh_curves
    for index, curve in enumerate(curves):
        if curve not in _CURVES:
            report.warn(f"tlsDefaults.ecdhCurves[{index}]", f"curve {curve!r} is not known")
    for index, curve in duplicates(curves):
        report.warn(f"tlsDefaults.ecdhCurves[{index}]", f"duplicate curve {curve!r}")


def check_proxy_config(report: Report, path: str, proxy: ProxyConfig) -> None:
    """A proxy's configuration: of the mesh, or a pod's annotation."""
    for name, number in (("proxyAdminPort", proxy.proxy_admin_port), ("statusPort", proxy.status_port)):
        report.port(f"{path}.{name}", number)
    for name, text in (("configPath", proxy.config_path), ("binaryPath", proxy.binary_path)):
        if not text:
            report.error(f"{path}.{name}", f"{name} must not be empty")
    if not proxy.service_cluster and proxy.tracing_service_name is None:
        report.error(f"{path}.serviceCluster", "serviceCluster must not be empty")
    if report.duration(f"{path}.drainDuration", proxy.drain_duration) and proxy.drain_duration % 1_000_000_000:
        report.error(f"{path}.drainDuration", f"{proxy.drain_duration} must be whole seconds")
    if proxy.control_plane_auth_policy is AuthenticationPolicy.INHERIT:
        report.error(f"{path}.controlPlaneAuthPolicy", "it must be NONE or MUTUAL_TLS")
    _check_address(report, f"{path}.discoveryAddress", proxy.discovery_address)
    for name, service in (
        ("envoyMetricsService", proxy.envoy_metrics_service),
        ("envoyAccessLogService", proxy.envoy_access_log_service),
    ):
        if service is not None and service.address:
            _check_address(report, f"{path}.{name}.address", service.address)
    for name, address in (
        ("statsdUdpAddress", proxy.statsd_udp_address),
        ("envoyMetricsServiceAddress", proxy.envoy_metrics_service_address),
    ):
        if address:
            _check_address(report, f"{path}.{name}", address)
    if proxy.tracing is not None:
        _check_tracing(report, f"{path}.tracing", proxy.tracing)
    if proxy.private_key_provider is not None:
        _check_key_provider(report, f"{path}.privateKeyProvider", proxy.private_key_provider)
    if proxy.connection_settings is not None:
        _check_connections(report, f"{path}.connectionSettings", proxy.connection_settings)
    if "ISTIO_META_DNS_AUTO_ALLOCATE" in proxy.proxy_metadata:
        report.warn(f"{path}.proxyMetadata", "ISTIO_META_DNS_AUTO_ALLOCATE is deprecated")


def _check_address(report: Report, path: str, address: str) -> None:
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if bracketed else host
    if not colon or not port.isascii() or not port.isdigit() or (":" in host and not bracketed):
        report.error(path, f"{address!r} must be host:port")
    elif not is_ip(name) and domain_problem(name, wildcard=False):
        report.error(path, f"{name!r} is neither a host name nor an IP address")
    else:
        report.port(path, int(port[:10]))


def _check_tracing(report: Report, path: str, tracing: ProxyTracing) -> None:
    if tracing.tls_settings is not None:
        check_client_tls(report, f"{path}.tlsSettings", tracing.tls_settings)
    for name, tracer in (("zipkin", tracing.zipkin), ("datadog", tracing.datadog), ("lightstep", tracing.lightstep)):
        if tracer is not None:
            address = tracer.address if name == "lightstep" else tracer.address.replace("$(HOST_IP)", "127.0.0.1", 1)
            _check_address(report, f"{path}.{name}.address", address)
    if tracing.lightstep is not None and not tracing.lightstep.access_token:
        report.error(f"{path}.lightstep.accessToken", "accessToken is required")


def _check_key_provider(report: Report, path: str, provider: PrivateKeyProvider) -> None:
    methods = {"cryptomb": provider.cryptomb, "qat": provider.qat}
    if not any(method is not None for method in methods.values()):
        report.error(path, "one of cryptomb and qat is required")
    for name, method in methods.items():
        if method is not None and not method.poll_delay:
            report.error(f"{path}.{name}.pollDelay", "pollDelay is required and must not be 0")


_LEAST = {
    "listenerPerConnectionBufferLimitBytes": 0,
    "clusterPerConnectionBufferLimitBytes": 0,
    "httpIdleTimeout": 0,
    "httpMaxConnectionDuration": 0,
    "httpDrainTimeout": 0,
    "httpRequestTimeout": 0,
    "httpRequestHeadersTimeout": 0,
    "httpStreamIdleTimeout": 0,
    "httpMaxStreamDuration": 0,
    "httpMaxConcurrentStreams": 1,
    "http2InitialStreamWindowSize": 65535,
    "http2InitialConnectionWindowSize": 65535,
    "listenerConnectionLimit": 1,
    "globalDownstreamConnectionLimit": 1,
}


def _check_connections(report: Report, path: str, settings: ConnectionSettings) -> None:
    for name, least in _LEAST.items():
        value = field_value(settings, name)
        if value is not None and value < least:
            report.error(f"{path}.{name}", f"{value} must be at least {least}")


def check_networks(report: Report, networks: MeshNetworks) -> None:
    for name, network in networks.networks.items():
        path = f"networks[{name}]"
        for index, endpoints in enumerate(network.endpoints):
            if endpoints.from_cidr is not None and not is_cidr(endpoints.from_cidr):
                report.error(f"{path}.endpoints[{index}].fromCidr", f"{endpoints.from_cidr!r} is no CIDR block")
            if endpoints.from_registry is not None and not is_dns_label(endpoints.from_registry):
                report.error(f"{path}.endpoints[{index}].fromRegistry", f"{endpoints.from_registry!r} is no DNS label")
            if endpoints.from_cidr is None and endpoints.from_registry is None:
                report.warn(f"{path}.endpoints[{index}]", "one of fromCidr and fromRegistry is required")
        for index, gateway in enumerate(network.gateways):
            where = f"{path}.gateways[{index}]"
            report.port(f"{where}.port", gateway.port)
            if gateway.registry_service_name is not None:
                report.domain(f"{where}.registryServiceName", gateway.registry_service_name, wildcard=False)
            elif gateway.address is not None:
                report.domain_or_ip(f"{where}.address", gateway.address, wildcard=False)
            else:
                report.warn(where, "one of address and registryServiceName is required")


def _check_selector(report: Report, path: str, selector: LabelSelector) -> None:
    report.labels(f"{path}.matchLabels", selector.match_labels)
    for index, need in enumerate(selector.match_expressions):
        where = f"{path}.matchExpressions[{index}]"
        if need.operator not in _OPERATORS:
            report.error(f"{where}.operator", f"{need.operator!r} is not one of {', '.join(_OPERATORS)}")
        elif _OPERATORS[need.operator] != bool(need.values):
            takes = "needs" if _OPERATORS[need.operator] else "takes no"
            report.error(f"{where}.values", f"operator {need.operator} {takes} values")
        if not need.key:
            report.error(f"{where}.key", "key is required")


def _check_providers(report: Report, providers: Sequence[ExtensionProvider]) -> None:
    for index, name in duplicates(provider.name for provider in providers):
        report.error(f"extensionProviders[{index}].name", f"there are several providers named {name!r}")
    for index, provider in enumerate(providers):
        path = f"extensionProviders[{index}]"
        if not provider.name:
            report.error(f"{path}.name", "name is required")
        kinds = {name: field_value(provider, name) for name in ExtensionProvider.ONE_OF[0]}
        given = {name: settings for name, settings in kinds.items() if settings is not None}
        if not given:
            report.error(path, f"provider {provider.name!r} has no kind; set one, such as envoyExtAuthzGrpc or zipkin")
        for kind, settings in given.items():
            _check_service(report, f"{path}.{kind}", settings)


def _check_service(report: Report, path: str, settings: object) -> None:
    """Providers that are services name one, as [namespace/]host, and its port."""
    service = getattr(settings, "service", None)
    if service is None:
        return
    namespace, slash, host = service.rpartition("/")
    if slash and not is_dns_label(namespace):
        report.error(f"{path}.service", f"namespace {namespace!r} of {service!r} is not valid")
    if not is_cidr(host):
        report.domain(f"{path}.service", host, wildcard=False)
    report.port(f"{path}.port", getattr(settings, "port", 0))
