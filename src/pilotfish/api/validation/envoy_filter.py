"""EnvoyFilter."""

from __future__ import annotations

from pilotfish.api.config import Config
from pilotfish.api.networking.envoy_filter import ApplyTo, ConfigPatch, EnvoyFilter, ObjectMatch, Operation, Patch
from pilotfish.api.validation.report import Report

_INSERT = {Operation.INSERT_BEFORE, Operation.INSERT_AFTER, Operation.INSERT_FIRST}
_ORDERED = {ApplyTo.NETWORK_FILTER, ApplyTo.HTTP_FILTER, ApplyTo.HTTP_ROUTE, ApplyTo.LISTENER_FILTER}
_FILTERS = {ApplyTo.NETWORK_FILTER, ApplyTo.HTTP_FILTER, ApplyTo.LISTENER_FILTER}
_LISTENER = {ApplyTo.LISTENER, ApplyTo.FILTER_CHAIN, *_FILTERS}
_ROUTES = {ApplyTo.ROUTE_CONFIGURATION, ApplyTo.VIRTUAL_HOST, ApplyTo.HTTP_ROUTE}
_RELATIVE = {Operation.INSERT_BEFORE, Operation.INSERT_AFTER, Operation.REPLACE}


def check(report: Report, config: Config[EnvoyFilter]) -> None:
    spec = config.spec
    if spec.workload_selector is not None:
        report.selector_labels("spec.workloadSelector.labels", spec.workload_selector.labels)
    report.target_refs(None, None, spec.target_refs)
    if spec.workload_selector is not None and spec.target_refs:
        report.error("spec", "only one of workloadSelector and targetRefs can be set")
    for index, patch in enumerate(spec.config_patches):
        _check_patch(report, f"spec.configPatches[{index}]", patch)
    if not spec.config_patches:
        report.warn("spec.configPatches", "without patches this has no effect")


def _check_patch(report: Report, path: str, patch: ConfigPatch) -> None:
    where = patch.apply_to
    if where is ApplyTo.INVALID:
        report.error(f"{path}.applyTo", "applyTo is required")
        return
    if patch.patch is None or patch.patch.operation is Operation.INVALID:
        report.error(f"{path}.patch", "patch and its operation are required")
        return
    _check_operation(report, f"{path}.patch", where, patch.patch)
    if patch.match is not None:
        _check_match(report, f"{path}.match", where, patch.match, patch.patch.operation)
    elif where in _FILTERS and patch.patch.operation in _RELATIVE:
        report.warn(f"{path}.match", f"{patch.patch.operation} without a filter to match has no place to refer to")


def _check_operation(report: Report, path: str, where: ApplyTo, patch: Patch) -> None:
    operation = patch.operation
    if operation in _INSERT and where not in _ORDERED:
        report.error(
            f"{path}.operation", f"{operation} is not possible for {where}; only filters and routes have an order"
        )
    if operation is Operation.REPLACE and where not in _FILTERS:
        report.error(f"{path}.operation", f"REPLACE is only possible for filters, not for {where}")
    if operation is Operation.ADD and where is ApplyTo.ROUTE_CONFIGURATION:
        report.error(f"{path}.operation", "ADD is not possible for ROUTE_CONFIGURATION; use MERGE")
    if where is ApplyTo.EXTENSION_CONFIG and operation is not Operation.ADD:
        report.error(f"{path}.operation", f"{where} only takes ADD, not {operation}")
    if where is ApplyTo.BOOTSTRAP and operation is not Operation.MERGE:
        report.error(f"{path}.operation", f"{where} only takes MERGE, not {operation}")
    if operation is Operation.REMOVE:
        if patch.value:
            report.warn(f"{path}.value", "value has no effect with REMOVE")
    elif not patch.value:
        report.error(f"{path}.value", f"value is required for {operation}")
    else:
        _check_value(report, f"{path}.value", where, patch)


def _check_value(report: Report, path: str, where: ApplyTo, patch: Patch) -> None:
    """What can be said of a piece of Envoy configuration without Envoy's schema."""
    value = patch.value or {}
    if patch.operation is Operation.MERGE or where not in {*_FILTERS, ApplyTo.EXTENSION_CONFIG}:
        return
    if not isinstance(value.get("name"), str) or not value.get("name"):
        report.error(f"{path}.name", "a filter must have a name")
    typed = value.get("typed_config", value.get("typedConfig"))
    if "config" in value:
        report.error(f"{path}.config", "Envoy no longer knows `config`; use typed_config with its @type")
    elif isinstance(typed, dict) and not typed.get("@type"):
        report.error(f"{path}.typed_config", "typed_config must have @type")
    elif typed is None and "config_discovery" not in value and "configDiscovery" not in value:
        report.warn(path, "the filter has no typed_config; Envoy then uses the filter's defaults or refuses it")


def _check_match(report: Report, path: str, where: ApplyTo, match: ObjectMatch, operation: Operation) -> None:
    if match.proxy is not None and match.proxy.proxy_version:
        report.regex(f"{path}.proxy.proxyVersion", match.proxy.proxy_version)
    given = {
        "listener": (match.listener is not None, _LISTENER),
        "routeConfiguration": (match.route_configuration is not None, _ROUTES),
        "cluster": (match.cluster is not None, {ApplyTo.CLUSTER}),
    }
    for name, (present, allowed) in given.items():
        if present and where not in allowed:
            report.error(f"{path}.{name}", f"a {name} match is not possible for applyTo {where}")
    listener = match.listener
    if listener is None:
        return
    chain = listener.filter_chain
    filtered = chain.filter if chain is not None else None
    if where is ApplyTo.LISTENER_FILTER:
        if chain is not None:
            report.error(
                f"{path}.listener.filterChain", "listener filters are not in a filter chain; use listenerFilter"
            )
        if operation in _RELATIVE and not listener.listener_filter:
            report.warn(
                f"{path}.listener.listenerFilter", f"{operation} without a listener filter has no place to refer to"
            )
    elif where in _FILTERS and operation in _RELATIVE and (filtered is None or not filtered.name):
        report.warn(
            f"{path}.listener.filterChain.filter", f"{operation} without a filter to match has no place to refer to"
        )
    if filtered is not None and filtered.sub_filter is not None and where is not ApplyTo.HTTP_FILTER:
        report.error(
            f"{path}.listener.filterChain.filter.subFilter", "subFilter is only possible for applyTo HTTP_FILTER"
        )
    if filtered is not None and not filtered.name:
        report.error(f"{path}.listener.filterChain.filter.name", "the name of the filter is required")
