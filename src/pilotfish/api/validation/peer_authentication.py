"""PeerAuthentication."""

from __future__ import annotations

from pilotfish.api.config import Config
from pilotfish.api.security import PeerAuthentication
from pilotfish.api.validation.report import Report


def check(report: Report, config: Config[PeerAuthentication]) -> None:
    spec = config.spec
    report.policy_selector("spec.selector", spec.selector)
    if spec.port_level_mtls is not None and not spec.port_level_mtls:
        report.error("spec.portLevelMtls", "portLevelMtls is empty; name a port or leave it out")
    if spec.port_level_mtls and (spec.selector is None or not spec.selector.match_labels):
        report.error("spec.portLevelMtls", "portLevelMtls needs a selector with labels")
    for number in spec.port_level_mtls or ():
        report.port(f"spec.portLevelMtls[{number}]", number)
