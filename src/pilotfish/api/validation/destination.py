"""Checks of a Destination, which VirtualService and Sidecar share."""

from __future__ import annotations

from pilotfish.api.networking.virtual_service import Destination
from pilotfish.api.validation.report import Report


def check_destination(report: Report, path: str, destination: Destination) -> None:
    if not destination.host:
        report.error(f"{path}.host", "host is required")
    elif destination.host == "*":
        report.error(f"{path}.host", "invalid destination host `*`; name a service")
    else:
        report.domain(f"{path}.host", destination.host)
    if destination.subset:
        report.dns_label(f"{path}.subset", destination.subset, "subset name")
    report.port_selector(f"{path}.port", destination.port)
