"""WorkloadGroup, and readiness probes, which the mesh's proxy configuration shares."""

from __future__ import annotations

from pilotfish.api.config import Config
from pilotfish.api.networking.workload_entry import WorkloadTemplate
from pilotfish.api.networking.workload_group import ReadinessProbe, WorkloadGroup
from pilotfish.api.validation.report import PROBE_HEADER, Report, is_unix
from pilotfish.api.validation.workload_entry import check_ports


def check(report: Report, config: Config[WorkloadGroup]) -> None:
    spec = config.spec
    if spec.metadata is not None:
        report.labels("spec.metadata.labels", spec.metadata.labels)
    if spec.template is None:
        report.error("spec.template", "template is required")
    else:
        _check_template(report, spec.template)
    if spec.probe is not None:
        check_probe(report, "spec.probe", spec.probe)


def _check_template(report: Report, template: WorkloadTemplate) -> None:
    """Only warnings: what is made of the template is checked as a WorkloadEntry when a workload registers."""
    found = Report()
    if is_unix(template.address):
        found.unix_socket("spec.template.address", template.address)
    elif template.address:
        found.domain_or_ip("spec.template.address", template.address, wildcard=False)
    check_ports(found, "spec.template.ports", template.ports)
    found.labels("spec.template.labels", template.labels)
    report.soften(found, "a workload cannot register with this")


def check_probe(report: Report, path: str, probe: ReadinessProbe) -> None:
    for name, value in (
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ):
        report.not_negative(f"{path}.{name}", value)
    http = probe.http_get
    if http is not None:
        report.port(f"{path}.httpGet.port", http.port)
        if http.scheme not in {"", "HTTP", "HTTPS"}:
            report.error(f"{path}.httpGet.scheme", f"scheme {http.scheme!r} must be HTTP or HTTPS")
        for index, header in enumerate(http.http_headers):
            report.header_name(f"{path}.httpGet.httpHeaders[{index}].name", header.name, PROBE_HEADER)
    if probe.tcp_socket is not None:
        report.port(f"{path}.tcpSocket.port", probe.tcp_socket.port)
    if probe.exec is not None and not probe.exec.command:
        report.error(f"{path}.exec.command", "command is required")
    if probe.http_get is None and probe.tcp_socket is None and probe.exec is None:
        report.error(path, "a probe needs httpGet, tcpSocket or exec")
