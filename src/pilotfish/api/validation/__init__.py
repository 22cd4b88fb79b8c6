"""What istiod's webhook checks: errors refuse an object, warnings go to its author. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pilotfish.api.config import Config, decode
from pilotfish.api.errors import DecodeError, FieldError
from pilotfish.api.mesh import MeshConfig, MeshNetworks, ProxyConfig
from pilotfish.api.meta import Api, Source, field_value
from pilotfish.api.unimplemented import unimplemented, unimplemented_in
from pilotfish.api.validation import (
    authorization_policy,
    destination_rule,
    envoy_filter,
    extensions,
    gateway,
    mesh,
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

__all__ = ["Validation", "validate", "validate_mesh", "validate_object"]


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
        _check_one_of(report, path, message)
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


def validate_mesh(value: MeshConfig | MeshNetworks | ProxyConfig) -> Validation:
    """Check the mesh's configuration, its networks, or the configuration of a proxy."""
    report = Report()
    several = Report()
    for message, path in visit(value, ""):
        _check_one_of(several, path.removeprefix("."), message)
    report.soften(several, "only the last counts")
    if isinstance(value, MeshConfig):
        mesh.check_mesh(report, value)
    elif isinstance(value, MeshNetworks):
        mesh.check_networks(report, value)
    else:
        mesh.check_proxy_config(report, "proxy", value)
    for path in unimplemented_in(value):
        report.warn(path, "this is accepted but has no effect yet")
    return Validation(report.errors, report.warnings)


def _check_one_of(report: Report, path: str, message: Api) -> None:
    for group in message.ONE_OF:
        given = [name for name in group if field_value(message, name) is not None]
        if len(given) > 1:
            report.error(path, f"only one of {' and '.join(given)} can be set")


def _digits(name: str) -> str | None:
    """The complaint about names of digits only, which is for hosts, not for objects."""
    problem = domain_problem(name, wildcard=False)
    return problem if problem is not None and "all digits" in problem else None
