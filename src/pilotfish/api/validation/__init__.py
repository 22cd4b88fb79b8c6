"""What istiod's webhook checks: errors refuse an object, warnings go to its author. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pilotfish.api.config import Config, decode
from pilotfish.api.errors import DecodeError, FieldError
from pilotfish.api.meta import Api, Source
from pilotfish.api.unimplemented import unimplemented
from pilotfish.api.validation import (
    authorization_policy,
    destination_rule,
    envoy_filter,
    extensions,
    gateway,
    peer_authentication,
    proxy_config,
    request_authentication,
    service_entry,
    sidecar,
    telemetry,
    virtual_service,
    workload_entry,
    workload_group,
)
from pilotfish.api.validation.report import Report, domain_problem
from pilotfish.api.visit import visit

__all__ = ["Validation", "validate", "validate_object"]


class Validation(NamedTuple):
    errors: list[FieldError]
    """What makes the object unacceptable."""
    warnings: list[str]
    """What its author should know, with the path in front."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.errors))


_CHECKS: Mapping[str, Callable[[Report, Config[Any]], None]] = {
    "AuthorizationPolicy": authorization_policy.check,
    "DestinationRule": destination_rule.check,
    "EnvoyFilter": envoy_filter.check,
    "Gateway": gateway.check,
    "PeerAuthentication": peer_authentication.check,
    "ProxyConfig": proxy_config.check,
    "RequestAuthentication": request_authentication.check,
    "ServiceEntry": service_entry.check,
    "Sidecar": sidecar.check,
    "Telemetry": telemetry.check,
    "TrafficExtension": extensions.check_traffic_extension,
    "VirtualService": virtual_service.check,
    "WasmPlugin": extensions.check_wasm_plugin,
    "WorkloadEntry": workload_entry.check,
    "WorkloadGroup": workload_group.check,
}


def validate(config: Config[Api]) -> Validation:
    """Check what an object says. Whether what it refers to exists is not checked here."""
    report = Report()
    name = config.name
    if name and (name != name.lower() or domain_problem(name, wildcard=False) not in {None, _digits(name)}):
        report.error("metadata.name", f"name {name!r} must be a lower-case DNS name")
    if "istio.io/always-reject" in config.annotations:  # istiod tries out its own webhook with this
        report.error("metadata.annotations[istio.io/always-reject]", "the object asks to be rejected")
    if config.kind != "AuthorizationPolicy" and "istio.io/dry-run" in config.annotations:
        report.error(
            "metadata.annotations[istio.io/dry-run]",
            f"dry run is possible for AuthorizationPolicy only, not {config.kind}",
        )
    for message, path in visit(config.spec, "spec"):
        for group in message.ONE_OF:
            given = [name for name in group if message.has(name)]
            if len(given) > 1:
                report.error(path, f"only one of {' and '.join(given)} can be set")
    _CHECKS[config.kind](report, config)
    for path, message_ in config.unknown:
        report.warn(path, message_)
    for path in unimplemented(config):
        report.warn(path, "this is accepted but has no effect yet")
    return Validation(report.errors, report.warnings)


def validate_object(obj: Mapping[str, Any], source: Source | None = None) -> Validation:
    """Check an object as it was written. Wrong types and unknown kinds are errors like others: this never raises."""
    try:
        return validate(decode(obj, source))
    except DecodeError as error:
        return Validation(list(error.errors), [])


def _digits(name: str) -> str | None:
    """The complaint about names of digits only, which is for hosts, not for objects."""
    problem = domain_problem(name, wildcard=False)
    return problem if problem is not None and "all digits" in problem else None
