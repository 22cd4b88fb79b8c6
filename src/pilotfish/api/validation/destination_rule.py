"""DestinationRule."""

from __future__ import annotations

from pilotfish.api.config import Config
from pilotfish.api.networking.destination_rule import DestinationRule
from pilotfish.api.validation.report import Report, duplicates
from pilotfish.api.validation.traffic_policy import check_traffic_policy


def check(report: Report, config: Config[DestinationRule]) -> None:
    spec = config.spec
    if not spec.host:
        report.error("spec.host", "host is required")
    else:
        report.domain("spec.host", spec.host)
    if spec.traffic_policy is not None:
        check_traffic_policy(report, "spec.trafficPolicy", spec.traffic_policy)
    for index, subset in enumerate(spec.subsets):
        path = f"spec.subsets[{index}]"
        if not subset.name:
            report.error(f"{path}.name", "name is required")
        else:
            report.dns_label(f"{path}.name", subset.name, "subset name")
        report.labels(f"{path}.labels", subset.labels)
        if subset.traffic_policy is not None:
            check_traffic_policy(report, f"{path}.trafficPolicy", subset.traffic_policy)
    for index, name in duplicates(subset.name for subset in spec.subsets):
        report.error(f"spec.subsets[{index}].name", f"duplicate subset name {name!r}")
    report.export_to(spec.export_to, config.namespace)
    if spec.workload_selector is not None:
        report.policy_selector("spec.workloadSelector", spec.workload_selector)
        if any(value not in {".", config.namespace} for value in spec.export_to):
            report.error("spec.exportTo", "with a workloadSelector the rule can only be exported to its own namespace")
