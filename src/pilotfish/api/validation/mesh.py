"""The mesh's configuration and networks, as the ConfigMap `istio` holds them."""

from __future__ import annotations

from collections.abc import Sequence

from pilotfish.api.mesh import ExtensionProvider, MeshConfig, MeshNetworks, ProxyConfig
from pilotfish.api.meta import LabelSelector, field_value
from pilotfish.api.validation.report import Report, domain_problem, duplicates, is_cidr, is_dns_label
from pilotfish.api.validation.traffic_policy import (
    check_client_tls,
    check_connection_pool,
    check_locality,
    check_outlier_detection,
)
from pilotfish.api.validation.virtual_service import check_retries
from pilotfish.api.validation.workload_group import check_probe

_OPERATORS = {"In": True, "NotIn": True, "Exists": False, "DoesNotExist": False}
"""Whether the operator takes values."""


def check_mesh(report: Report, mesh: MeshConfig) -> None:
    report.port("proxyListenPort", mesh.proxy_listen_port)
    report.port("proxyInboundListenPort", mesh.proxy_inbound_listen_port)
    if mesh.proxy_http_port:
        report.port("proxyHttpPort", mesh.proxy_http_port)
    report.duration("connectTimeout", mesh.connect_timeout)
    report.duration("protocolDetectionTimeout", mesh.protocol_detection_timeout, zero=True)
    report.duration("dnsRefreshRate", mesh.dns_refresh_rate)
    for path, domain in (
        ("trustDomain", mesh.trust_domain),
        *((f"trustDomainAliases[{index}]", alias) for index, alias in enumerate(mesh.trust_domain_aliases)),
    ):
        if not domain or "/" in domain or any(character.isspace() for character in domain):
            report.error(path, f"{domain!r} is no trust domain; an example is cluster.local")
    report.dns_label("rootNamespace", mesh.root_namespace, "namespace")
    for path, values in (
        ("defaultServiceExportTo", mesh.default_service_export_to),
        ("defaultVirtualServiceExportTo", mesh.default_virtual_service_export_to),
        ("defaultDestinationRuleExportTo", mesh.default_destination_rule_export_to),
    ):
        for index, value in enumerate(values):
            if value not in {"*", ".", "~"} and not is_dns_label(value):
                report.error(f"{path}[{index}]", f"{value!r} must be a namespace, `*`, `.` or `~`")
    check_locality(report, "localityLbSetting", mesh.locality_lb_setting, None, mesh_wide=True)
    if mesh.outbound_traffic_policy.tls is not None:
        check_client_tls(report, "outboundTrafficPolicy.tls", mesh.outbound_traffic_policy.tls)
    if mesh.default_http_retry_policy is not None:
        check_retries(report, "defaultHttpRetryPolicy", mesh.default_http_retry_policy)
    policy = mesh.default_traffic_policy
    if policy is not None and policy.connection_pool is not None:
        check_connection_pool(report, "defaultTrafficPolicy.connectionPool", policy.connection_pool)
    if policy is not None and policy.outlier_detection is not None:
        check_outlier_detection(report, "defaultTrafficPolicy.outlierDetection", policy.outlier_detection)
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
    check_proxy_config(report, "defaultConfig", mesh.default_config)


def check_proxy_config(report: Report, path: str, proxy: ProxyConfig) -> None:
    """A proxy's configuration: of the mesh, or a pod's annotation."""
    for name, number in (("proxyAdminPort", proxy.proxy_admin_port), ("statusPort", proxy.status_port)):
        if number:
            report.port(f"{path}.{name}", number)
    if proxy.concurrency is not None:
        report.not_negative(f"{path}.concurrency", proxy.concurrency)
    report.duration(f"{path}.drainDuration", proxy.drain_duration)
    report.duration(f"{path}.terminationDrainDuration", proxy.termination_drain_duration, zero=True)
    host, colon, port = proxy.discovery_address.rpartition(":")
    good = bool(colon) and port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535
    if not good or not (domain_problem(host, wildcard=False) is None or is_cidr(host.strip("[]"))):
        report.error(f"{path}.discoveryAddress", f"{proxy.discovery_address!r} must be host:port")
    if proxy.tracing is not None:
        report.percent(f"{path}.tracing.sampling", proxy.tracing.sampling)
    if proxy.readiness_probe is not None:
        check_probe(report, f"{path}.readinessProbe", proxy.readiness_probe)
    if proxy.proxy_stats_matcher is not None:
        for index, expression in enumerate(proxy.proxy_stats_matcher.inclusion_regexps):
            report.regex(f"{path}.proxyStatsMatcher.inclusionRegexps[{index}]", expression)


def check_networks(report: Report, networks: MeshNetworks) -> None:
    for name, network in networks.networks.items():
        path = f"networks[{name}]"
        for index, endpoints in enumerate(network.endpoints):
            if endpoints.from_cidr is not None and not is_cidr(endpoints.from_cidr):
                report.error(f"{path}.endpoints[{index}].fromCidr", f"{endpoints.from_cidr!r} is no CIDR block")
            if endpoints.from_cidr is None and endpoints.from_registry is None:
                report.error(f"{path}.endpoints[{index}]", "one of fromCidr and fromRegistry is required")
        for index, gateway in enumerate(network.gateways):
            report.port(f"{path}.gateways[{index}].port", gateway.port)
            if not gateway.address and not gateway.registry_service_name:
                report.error(f"{path}.gateways[{index}]", "one of address and registryServiceName is required")


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
