"""ProxyConfig, the kind."""

from __future__ import annotations

from pilotfish.api.config import Config
from pilotfish.api.networking.proxy_config import ProxyConfig
from pilotfish.api.validation.report import Report

_IMAGES = {"", "default", "debug", "distroless"}


def check(report: Report, config: Config[ProxyConfig]) -> None:
    spec = config.spec
    report.policy_selector("spec.selector", spec.selector)
    if spec.concurrency is not None:
        report.not_negative("spec.concurrency", spec.concurrency)
    for name in spec.environment_variables:
        if not name or "=" in name:
            report.warn(f"spec.environmentVariables[{name}]", "the name of a variable must not be empty or contain `=`")
    if spec.image is not None and spec.image.image_type not in _IMAGES:
        report.warn("spec.image.imageType", f"{spec.image.image_type!r} is none of default, debug and distroless")
