"""EnvoyFilter. Whether a patch's value is a message of Envoy's is checked where Envoy's messages are known."""

from __future__ import annotations

from pilotfish.api.config import Config
from pilotfish.api.networking.envoy_filter import (
    ApplyTo,
    ConfigPatch,
    EnvoyFilter,
    FilterMatch,
    ListenerMatch,
    ObjectMatch,
    Operation,
    Patch,
    PatchContext,
)
from pilotfish.api.validation.report import Report, regex_problem

_INSERT = {Operation.INSERT_BEFORE, Operation.INSERT_AFTER, Operation.INSERT_FIRST}
_ORDERED = {ApplyTo.NETWORK_FILTER, ApplyTo.HTTP_FILTER, ApplyTo.HTTP_ROUTE, ApplyTo.LISTENER_FILTER}
_FILTERS = {ApplyTo.NETWORK_FILTER, ApplyTo.HTTP_FILTER, ApplyTo.LISTENER_FILTER}
_MATCHED = {
    "listener": {ApplyTo.LISTENER, ApplyTo.FILTER_CHAIN, ApplyTo.NETWORK_FILTER, ApplyTo.HTTP_FILTER},
    "routeConfiguration": {ApplyTo.ROUTE_CONFIGURATION, ApplyTo.VIRTUAL_HOST, ApplyTo.HTTP_ROUTE},
    "cluster": {ApplyTo.CLUSTER},
}
"""Which match goes with which objects. The others take no match."""
_RELATIVE = {Operation.INSERT_BEFORE, Operation.INSERT_AFTER, Operation.REPLACE}
_HTTP = {"envoy.filters.network.http_connection_manager", "envoy.http_connection_manager"}
_MAX_VERSION = 1024


def check(report: Report, config: Config[EnvoyFilter]) -> None:
    spec = config.spec
    report.warn("spec", "patches depend on how proxies are configured inside, which any version can change")
    if spec.workload_selector is not None:
        report.selector_labels("spec.workloadSelector.labels", spec.workload_selector.labels)
    for index, patch in enumerate(spec.config_patches):
        if patch.match is None or patch.match.context is not PatchContext.WAYPOINT:
            _check_patch(report, f"spec.configPatches[{index}]", patch)
    if not spec.config_patches:
        report.warn("spec.configPatches", "without patches this has no effect")


def _check_patch(report: Report, path: str, patch: ConfigPatch) -> None:
    where = patch.apply_to
    if where is ApplyTo.INVALID:
        report.error(f"{path}.applyTo", "applyTo is required")
    elif patch.patch is None or patch.patch.operation is Operation.INVALID:
        report.error(f"{path}.patch", "patch and its operation are required")
    elif patch.patch.operation is not Operation.REMOVE and patch.patch.value is None:
        report.error(f"{path}.patch.value", f"value is required for {patch.patch.operation}")
    else:
        _check_operation(report, f"{path}.patch", where, patch.patch)
        if patch.match is not None:
            _check_match(report, f"{path}.match", where, patch.match, patch.patch.operation)
        elif where in _FILTERS and patch.patch.operation in _RELATIVE:
            report.warn(f"{path}.match", f"{patch.patch.operation} without a filter to match has no place to refer to")


def _check_operation(report: Report, path: str, where: ApplyTo, patch: Patch) -> None:
    """Operations that are not possible are accepted, as Istio does, and left out."""
    operation = patch.operation
    if operation in _INSERT and where not in _ORDERED:
        report.warn(f"{path}.operation", f"{operation} has no effect on {where}; only filters and routes have an order")
    if operation is Operation.REPLACE and where not in _FILTERS:
        report.warn(f"{path}.operation", f"REPLACE has no effect on {where}; it is for filters")
    if operation is Operation.ADD and where is ApplyTo.ROUTE_CONFIGURATION:
        report.warn(f"{path}.operation", "ADD has no effect on ROUTE_CONFIGURATION; use MERGE")
    if where is ApplyTo.EXTENSION_CONFIG and operation is not Operation.ADD:
        report.warn(f"{path}.operation", f"{where} only takes ADD, so {operation} has no effect")
    if where is ApplyTo.BOOTSTRAP and operation is not Operation.MERGE:
        report.warn(f"{path}.operation", f"{where} only takes MERGE, so {operation} has no effect")
    if operation is Operation.REMOVE:
        if patch.value:
            report.warn(f"{path}.value", "value has no effect with REMOVE")
    else:
        _check_value(report, f"{path}.value", where, patch)


def _check_value(report: Report, path: str, where: ApplyTo, patch: Patch) -> None:
    """What can be said of a piece of Envoy configuration without Envoy's schema."""
    value = patch.value or {}
    if patch.operation is Operation.MERGE or where not in {*_FILTERS, ApplyTo.EXTENSION_CONFIG}:
        return
    if not value.get("name"):
        report.warn(f"{path}.name", "a filter without a name is refused by Envoy")
    typed = value.get("typed_config", value.get("typedConfig"))
    if "config" in value:
        report.warn(f"{path}.config", "Envoy no longer knows `config`; use typed_config with its @type")
    elif typed is None and "config_discovery" not in value and "configDiscovery" not in value:
        report.warn(path, "the filter has no typed_config; Envoy then uses the filter's defaults or refuses it")


def _check_match(report: Report, path: str, where: ApplyTo, match: ObjectMatch, operation: Operation) -> None:
    version = match.proxy.proxy_version if match.proxy is not None else ""
    if len(version) > _MAX_VERSION:
        report.warn(f"{path}.proxy.proxyVersion", f"longer than {_MAX_VERSION} characters, so it has no effect")
    elif version and (problem := regex_problem(version)):
        report.error(f"{path}.proxy.proxyVersion", problem)
    given = {
        "listener": match.listener,
        "routeConfiguration": match.route_configuration,
        "cluster": match.cluster,
    }
    for name, allowed in _MATCHED.items():
        if where in allowed and given[name] is None and any(one is not None for one in given.values()):
            report.error(path, f"for applyTo {where} the match is a {name}")
    if match.listener is not None:
        _check_listener(report, f"{path}.listener", where, match.listener, operation)


def _check_listener(report: Report, path: str, where: ApplyTo, match: ListenerMatch, operation: Operation) -> None:
    filtered = match.filter_chain.filter if match.filter_chain is not None else None
    if where is ApplyTo.LISTENER_FILTER:
        if match.filter_chain is not None:
            report.warn(f"{path}.filterChain", "listener filters are not in a filter chain; use listenerFilter")
        if operation in _RELATIVE and not match.listener_filter:
            report.warn(f"{path}.listenerFilter", f"{operation} without a listener filter has no place to refer to")
    elif where in _FILTERS and operation in _RELATIVE and (filtered is None or not filtered.name):
        report.warn(f"{path}.filterChain.filter", f"{operation} without a filter to match has no place to refer to")
    if filtered is not None and where in _MATCHED["listener"]:
        _check_filter(report, f"{path}.filterChain.filter", where, filtered)


def _check_filter(report: Report, path: str, where: ApplyTo, match: FilterMatch) -> None:
    if where not in _FILTERS:
        report.warn(path, f"a match of filters has no effect on {where}")
    if not match.name:
        report.error(f"{path}.name", "the name of the filter is required")
    elif match.sub_filter is not None:
        if where is not ApplyTo.HTTP_FILTER:
            report.error(f"{path}.subFilter", "subFilter is only possible for applyTo HTTP_FILTER")
        elif match.name not in _HTTP:
            report.error(f"{path}.name", "with subFilter it must be envoy.filters.network.http_connection_manager")
        elif not match.sub_filter.name:
            report.error(f"{path}.subFilter.name", "the name of the filter is required")
