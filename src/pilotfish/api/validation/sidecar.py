"""Sidecar."""

from __future__ import annotations

from collections.abc import Sequence

from pilotfish.api.config import Config
from pilotfish.api.networking.gateway import ServerTLSMode, ServerTLSSettings
from pilotfish.api.networking.sidecar import (
    CaptureMode,
    EgressListener,
    IngressListener,
    OutboundMode,
    OutboundTrafficPolicy,
    Sidecar,
    SidecarPort,
)
from pilotfish.api.validation.destination import check_destination
from pilotfish.api.validation.gateway import check_namespaced_host, check_server_tls, plain_tls
from pilotfish.api.validation.report import HTTP_PROTOCOLS, PROTOCOLS, TLS_PROTOCOLS, Report, duplicates, is_ip, is_unix
from pilotfish.api.validation.traffic_policy import check_connection_pool

_LOCAL = ("127.0.0.1:", "0.0.0.0:", "[::1]:", "[::]:")


def check(report: Report, config: Config[Sidecar]) -> None:
    spec = config.spec
    if spec.workload_selector is not None:
        report.selector_labels("spec.workloadSelector.labels", spec.workload_selector.labels)
    if not (spec.ingress or spec.egress or spec.outbound_traffic_policy or spec.inbound_connection_pool):
        report.error("spec", "an empty sidecar has no effect; set ingress, egress or outboundTrafficPolicy")
    if spec.inbound_connection_pool is not None:
        check_connection_pool(report, "spec.inboundConnectionPool", spec.inbound_connection_pool)
    for index, ingress in enumerate(spec.ingress):
        _check_ingress(report, f"spec.ingress[{index}]", ingress)
    for index, _ in duplicates(str(ingress.port.number) for ingress in spec.ingress):
        report.error(f"spec.ingress[{index}].port.number", "ports on IP bound listeners must be unique")
    _check_egress(report, spec.egress, config.namespace)
    if spec.outbound_traffic_policy is not None:
        _check_outbound(report, "spec.outboundTrafficPolicy", spec.outbound_traffic_policy)


def _check_port(report: Report, path: str, port: SidecarPort) -> None:
    if port.name:
        report.dns_label(f"{path}.name", port.name, "port name")
    if port.protocol and port.protocol.upper() not in PROTOCOLS:
        report.error(f"{path}.protocol", f"invalid protocol {port.protocol!r}")
    if port.target_port:
        report.error(f"{path}.targetPort", "targetPort has no effect on sidecars; leave it out")


def _check_ingress(report: Report, path: str, ingress: IngressListener) -> None:
    if ingress.port == SidecarPort():
        report.error(f"{path}.port", "port is required for ingress listeners")
    else:
        report.port(f"{path}.port.number", ingress.port.number)
        _check_port(report, f"{path}.port", ingress.port)
    if is_unix(ingress.bind):
        report.error(f"{path}.bind", "a unix domain socket is not allowed for ingress listeners")
    elif ingress.bind and not is_ip(ingress.bind):
        report.error(f"{path}.bind", f"{ingress.bind!r} is no IP address")
    endpoint = ingress.default_endpoint
    if is_unix(endpoint):
        report.unix_socket(f"{path}.defaultEndpoint", endpoint)
    elif endpoint:
        number = endpoint.rpartition(":")[2]
        if not endpoint.startswith(_LOCAL) or not number.isascii() or not number.isdigit():
            report.error(
                f"{path}.defaultEndpoint",
                f"{endpoint!r} must be 127.0.0.1:port, 0.0.0.0:port, [::1]:port, [::]:port or unix:///path",
            )
        else:
            report.port(f"{path}.defaultEndpoint", int(number[:10]))
    if ingress.tls is not None:
        if ingress.port.protocol.upper() not in TLS_PROTOCOLS:
            report.error(f"{path}.tls", "a listener cannot have tls settings for protocols other than HTTPS and TLS")
        _check_tls(report, f"{path}.tls", ingress.tls)
    if ingress.connection_pool is not None:
        check_connection_pool(report, f"{path}.connectionPool", ingress.connection_pool)
        if ingress.connection_pool.http is not None and ingress.port.protocol.upper() not in HTTP_PROTOCOLS:
            report.warn(f"{path}.connectionPool.http", "this has no effect on a port whose protocol is not HTTP")


def _check_tls(report: Report, path: str, tls: ServerTLSSettings) -> None:
    if tls.mode in {ServerTLSMode.ISTIO_MUTUAL, ServerTLSMode.AUTO_PASSTHROUGH}:
        report.error(f"{path}.mode", f"mode {tls.mode} is not supported here; use SIMPLE or MUTUAL")
    for name, given in (
        ("httpsRedirect", tls.https_redirect),
        ("credentialName", tls.credential_name),
        ("credentialNames", tls.credential_names),
        ("tlsCertificates", tls.tls_certificates),
        ("subjectAltNames", tls.subject_alt_names),
    ):
        if given:
            report.error(f"{path}.{name}", f"{name} is not supported on sidecars")
    check_server_tls(report, path, plain_tls(tls))


def _warn_repeated(report: Report, path: str, hosts: Sequence[str], namespace: str) -> None:
    seen: dict[str, set[str]] = {}
    for number, host in enumerate(hosts):
        prefix, _, name = host.partition("/")
        if prefix.startswith("~"):
            continue
        names = seen.setdefault(namespace if prefix == "." else prefix, set())
        if name in names or (names and "*" in {name, *names}):
            report.warn(f"{path}.hosts[{number}]", f"{host!r} says again, or more widely, what others here say")
        names.add(name)


def _check_egress(report: Report, listeners: Sequence[EgressListener], namespace: str) -> None:
    ports: set[int] = set()
    sockets = (listener.bind if listener.port is not None and is_unix(listener.bind) else "" for listener in listeners)
    for index, socket in duplicates(sockets):
        if socket:
            report.error(f"spec.egress[{index}].bind", f"another listener has the socket {socket}")
    for index, listener in enumerate(listeners):
        path = f"spec.egress[{index}]"
        if listener.port is None:
            if index != len(listeners) - 1:
                report.error(f"{path}.port", "only the last egress listener can leave out its port")
            if is_unix(listener.bind):
                report.warn(f"{path}.bind", "a unix domain socket needs a port with number 0")
        else:
            _check_port(report, f"{path}.port", listener.port)
            _check_egress_port(report, path, listener, listener.port, ports)
        if not listener.hosts:
            report.error(f"{path}.hosts", "an egress listener must contain at least one host")
        for number, host in enumerate(listener.hosts):
            check_namespaced_host(report, f"{path}.hosts[{number}]", host, namespace_required=True)
        _warn_repeated(report, path, listener.hosts, namespace)
        if "*/*" in listener.hosts and any(host != "*/*" and host[:1] != "~" for host in listener.hosts):
            report.warn(f"{path}.hosts", "`*/*` imports everything, so the other hosts have no effect")


def _check_egress_port(report: Report, path: str, listener: EgressListener, port: SidecarPort, ports: set[int]) -> None:
    if is_unix(listener.bind):
        report.unix_socket(f"{path}.bind", listener.bind)
        if port.number:
            report.error(f"{path}.port.number", "port number must be 0 for a unix domain socket")
        if listener.capture_mode is CaptureMode.IPTABLES:
            report.error(f"{path}.captureMode", "traffic cannot be captured to a unix domain socket")
        return
    if listener.bind and not is_ip(listener.bind):
        report.error(f"{path}.bind", f"{listener.bind!r} is neither an IP address nor a unix domain socket")
    report.port(f"{path}.port.number", port.number)
    if port.number in ports:
        report.error(f"{path}.port.number", "ports on IP bound listeners must be unique")
    ports.add(port.number)


def _check_outbound(report: Report, path: str, policy: OutboundTrafficPolicy) -> None:
    proxy = policy.egress_proxy
    if proxy is None:
        return
    if policy.mode is not OutboundMode.ALLOW_ANY:
        report.error(f"{path}.egressProxy", "egressProxy can only be set with mode ALLOW_ANY")
    check_destination(report, f"{path}.egressProxy", proxy)
    if proxy.host:
        report.domain(f"{path}.egressProxy.host", proxy.host, wildcard=False)
    if proxy.port is None:
        report.error(f"{path}.egressProxy.port", "port is required")
