"""ServiceEntry."""

from __future__ import annotations

from pilotfish.api.config import Config
from pilotfish.api.networking.service_entry import Resolution, ServiceEntry
from pilotfish.api.networking.workload_entry import WorkloadEntry
from pilotfish.api.validation.report import (
    HTTP_PROTOCOLS,
    PROTOCOLS,
    TLS_PROTOCOLS,
    Report,
    domain_problem,
    duplicates,
    is_cidr,
    is_ip,
    is_unix,
)
from pilotfish.api.validation.workload_entry import check_ports

_DNS = {Resolution.DNS, Resolution.DNS_ROUND_ROBIN}
_DYNAMIC = {"HTTP", "HTTP2", "GRPC", "TLS"}


def check(report: Report, config: Config[ServiceEntry]) -> None:
    spec = config.spec
    _check_hosts(report, spec)
    if spec.workload_selector is not None:
        report.selector_labels("spec.workloadSelector.labels", spec.workload_selector.labels)
        if spec.endpoints:
            report.error("spec", "only one of workloadSelector and endpoints can be set")
        if spec.resolution is Resolution.NONE:
            report.warn("spec.workloadSelector", "with resolution NONE, endpoints are not used; set resolution STATIC")
    for index, address in enumerate(spec.addresses):
        where = f"spec.addresses[{index}]"
        if not is_cidr(address):
            report.error(where, f"{address!r} is neither an IP address nor a CIDR block")
        elif "/" in address and spec.resolution not in {Resolution.NONE, Resolution.STATIC}:
            report.error(where, f"CIDR blocks need resolution NONE or STATIC, not {spec.resolution}")
    _check_ports(report, spec)
    _check_resolution(report, spec)
    report.export_to(spec.export_to, config.namespace, none_allowed=True)


def _check_hosts(report: Report, spec: ServiceEntry) -> None:
    if not spec.hosts:
        report.error("spec.hosts", "at least one host is required")
    for index, host in enumerate(spec.hosts):
        where = f"spec.hosts[{index}]"
        if host == "*":
            report.error(where, "invalid host `*`; a service has a name, or a wildcard such as *.example.com")
        elif report.domain(where, host) and host.startswith("*") and not host.startswith("*."):
            report.warn(
                where, f"{host!r} is a partial wildcard, which TLS and most clients do not support; use *.domain"
            )
    others = [port for port in spec.ports if port.protocol.upper() not in HTTP_PROTOCOLS | TLS_PROTOCOLS]
    if len(spec.hosts) > 1 and others and spec.resolution is not Resolution.NONE:
        report.error(
            "spec.hosts", f"with several hosts, port {others[0].number} cannot tell them apart unless it is HTTP or TLS"
        )


def _check_ports(report: Report, spec: ServiceEntry) -> None:
    for index, port in enumerate(spec.ports):
        path = f"spec.ports[{index}]"
        report.port(f"{path}.number", port.number)
        if port.target_port:
            report.port(f"{path}.targetPort", port.target_port)
        if not port.name:
            report.error(f"{path}.name", "name is required")
        else:
            report.dns_label(f"{path}.name", port.name, "port name")
        if port.protocol and port.protocol.upper() not in PROTOCOLS:
            report.error(f"{path}.protocol", f"protocol {port.protocol!r} is not known")
        tcp = port.protocol.upper() not in HTTP_PROTOCOLS | TLS_PROTOCOLS
        if tcp and not spec.addresses and spec.resolution is Resolution.NONE:
            report.warn(path, f"without addresses this takes all TCP traffic to port {port.number}; set addresses")
    for index, name in duplicates(port.name for port in spec.ports):
        report.error(f"spec.ports[{index}].name", f"service entry port name {name!r} already defined")
    for index, number in duplicates(str(port.number) for port in spec.ports):
        report.error(f"spec.ports[{index}].number", f"service entry port {number} already defined")


def _check_resolution(report: Report, spec: ServiceEntry) -> None:
    resolution = spec.resolution
    if resolution is Resolution.NONE and spec.endpoints:
        report.error("spec.endpoints", "no endpoints can be given for resolution NONE; use STATIC or DNS")
    if resolution is Resolution.STATIC and not spec.endpoints and spec.workload_selector is None:
        report.warn("spec.endpoints", "without endpoints and workloadSelector, resolution STATIC leads nowhere")
    if resolution is Resolution.DNS_ROUND_ROBIN:
        if len(spec.endpoints) > 1:
            report.error("spec.endpoints", f"there must be at most one endpoint for resolution {resolution}")
        if len(spec.hosts) > 1:
            report.warn("spec.hosts", f"several hosts with resolution {resolution} share one endpoint")
    if resolution in _DNS and not spec.endpoints and spec.workload_selector is None:
        for index, host in enumerate(spec.hosts):
            if host != "*" and (problem := domain_problem(host, wildcard=False)):
                report.error(
                    f"spec.hosts[{index}]",
                    f"without endpoints, a host must be a full name for resolution {resolution}: {problem}",
                )
    if resolution in _DNS and spec.addresses and len(spec.hosts) > 1:
        report.warn("spec.addresses", "several hosts share these addresses, so only HTTP and TLS can tell them apart")
    if resolution is Resolution.DYNAMIC_DNS:
        _check_dynamic(report, spec)
    names = {port.name for port in spec.ports}
    for index, endpoint in enumerate(spec.endpoints):
        _check_endpoint(report, f"spec.endpoints[{index}]", endpoint, spec, names)


def _check_dynamic(report: Report, spec: ServiceEntry) -> None:
    for name, given in (("endpoints", spec.endpoints), ("addresses", spec.addresses)):
        if given:
            report.error(f"spec.{name}", f"resolution DYNAMIC_DNS cannot have {name}")
    for index, host in enumerate(spec.hosts):
        if not host.startswith("*"):
            report.error(f"spec.hosts[{index}]", f"resolution DYNAMIC_DNS needs a wildcard host, not {host!r}")
    for index, port in enumerate(spec.ports):
        if port.protocol.upper() not in _DYNAMIC:
            report.error(
                f"spec.ports[{index}].protocol",
                f"resolution DYNAMIC_DNS takes HTTP, HTTP2, GRPC and TLS, not {port.protocol!r}",
            )


def _check_endpoint(report: Report, path: str, endpoint: WorkloadEntry, spec: ServiceEntry, names: set[str]) -> None:
    address = endpoint.address
    if is_unix(address):
        report.unix_socket(f"{path}.address", address)
        if spec.resolution is not Resolution.STATIC:
            report.error(f"{path}.address", "a unix domain socket needs resolution STATIC")
        if len(spec.ports) != 1:
            report.error(f"{path}.address", "a unix domain socket needs a service with exactly one port")
        if endpoint.ports:
            report.error(f"{path}.ports", "a unix domain socket has no ports")
    elif not address:
        if not endpoint.network or spec.resolution in _DNS:
            report.error(f"{path}.address", "address is required")
        else:
            report.warn(f"{path}.address", f"it is reached through a gateway of network {endpoint.network!r}")
    elif spec.resolution is Resolution.STATIC and not is_ip(address):
        report.error(f"{path}.address", f"{address!r} must be an IP address for resolution STATIC; use DNS for names")
    elif not is_ip(address):
        report.domain(f"{path}.address", address, wildcard=False)
    check_ports(report, f"{path}.ports", endpoint.ports)
    for name in endpoint.ports:
        if name not in names:
            report.error(f"{path}.ports[{name}]", f"port {name!r} is not defined by the service entry")
    report.labels(f"{path}.labels", endpoint.labels)
