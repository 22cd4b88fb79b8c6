"""WorkloadEntry."""

from __future__ import annotations

from collections.abc import Mapping

from pilotfish.api.config import Config
from pilotfish.api.networking.workload_entry import WorkloadEntry
from pilotfish.api.validation.report import Report, is_unix


def check(report: Report, config: Config[WorkloadEntry]) -> None:
    spec = config.spec
    if is_unix(spec.address):
        report.unix_socket("spec.address", spec.address)
        if spec.ports:
            report.error("spec.ports", "a unix domain socket has no ports")
    elif spec.address:
        report.domain_or_ip("spec.address", spec.address, wildcard=False)
    elif spec.network:
        report.warn("spec.address", f"without address, it is reached through a gateway of network {spec.network!r}")
    else:
        report.error("spec.address", "address is required, unless network is set")
    check_ports(report, "spec.ports", spec.ports)
    report.labels("spec.labels", spec.labels)


def check_ports(report: Report, path: str, ports: Mapping[str, int]) -> None:
    for name, number in ports.items():
        report.dns_label(f"{path}[{name}]", name, "port name")
        report.port(f"{path}[{name}]", number)
