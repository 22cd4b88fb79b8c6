"""AuthorizationPolicy."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pilotfish.api.config import Config
from pilotfish.api.security import Action, AuthorizationPolicy, AuthorizationRule, Condition, Operation, Source
from pilotfish.api.validation.report import Report, is_cidr

_NO_CUSTOM = ("namespaces", "principals", "request_principals", "service_accounts", "trust_domains")
"""Identities that are not known yet when an external authorizer is asked."""
_IP_KEYS = {"source.ip", "remote.ip", "destination.ip"}
_PLAIN_KEYS = _IP_KEYS | {
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "destination.port",
    "connection.sni",
}
_CUSTOM_KEYS = {"source.namespace", "source.principal", "source.serviceAccount", "source.trustDomain"}
_MAP_KEY = re.compile(r"(request\.headers|experimental\.envoy\.filters\.[^\[\]]+)\[[^\[\]]+\]")
_CLAIMS = re.compile(r"request\.auth\.claims(\[[^\[\]]+\])+")
_MAX_ACCOUNTS = 16
_MAX_ACCOUNT_NAME = 320
_TEMPLATE = re.compile(r"\{\*\*?\}")
_JSON_NAMES = {
    "request_principals": "requestPrincipals",
    "service_accounts": "serviceAccounts",
    "ip_blocks": "ipBlocks",
    "remote_ip_blocks": "remoteIpBlocks",
    "trust_domains": "trustDomains",
}


def check(report: Report, config: Config[AuthorizationPolicy]) -> None:
    spec = config.spec
    report.target_refs(spec.selector, spec.target_ref, spec.target_refs)
    if spec.action is Action.CUSTOM:
        if spec.provider is None or not spec.provider.name:
            report.error("spec.provider.name", "action CUSTOM needs the name of a provider")
    elif spec.provider is not None:
        report.error("spec.provider", f"provider cannot be set with action {spec.action}")
    if spec.action in {Action.DENY, Action.CUSTOM} and not spec.rules:
        report.error(
            "spec.rules", f"action {spec.action} without rules has no effect; use `rules: [{{}}]` to match all"
        )
    for index, rule in enumerate(spec.rules):
        _check_rule(report, f"spec.rules[{index}]", rule, spec.action)
    if spec.action is Action.DENY:
        _warn_wide_deny(report, spec)
    _check_dry_run(report, config)


def _check_dry_run(report: Report, config: Config[AuthorizationPolicy]) -> None:
    value = config.annotations.get("istio.io/dry-run")
    path = "metadata.annotations[istio.io/dry-run]"
    if value is None:
        return
    if value.lower() not in {"true", "false", "1", "0", "t", "f"}:
        report.error(path, f"{value!r} must be true or false")
    elif config.spec.action not in {Action.ALLOW, Action.DENY}:
        report.error(path, f"dry run is not possible with action {config.spec.action}")


def _check_rule(report: Report, path: str, rule: AuthorizationRule, action: Action) -> None:
    for index, origin in enumerate(rule.from_):
        where = f"{path}.from[{index}].source"
        if origin.source is None or origin.source == Source():
            report.error(where, "source must have at least one field")
        else:
            _check_source(report, where, origin.source, action)
    for index, to in enumerate(rule.to):
        where = f"{path}.to[{index}].operation"
        if to.operation is None or to.operation == Operation():
            report.error(where, "operation must have at least one field")
        else:
            _check_operation(report, where, to.operation)
    for index, condition in enumerate(rule.when):
        _check_condition(report, f"{path}.when[{index}]", condition, action)


def _check_source(report: Report, path: str, source: Source, action: Action) -> None:
    for name in (*_NO_CUSTOM, "ip_blocks", "remote_ip_blocks"):
        for prefix in ("", "not_"):
            values: Sequence[str] = getattr(source, prefix + name)
            plain = _JSON_NAMES.get(name, name)
            field = f"not{plain[0].upper()}{plain[1:]}" if prefix else plain
            where = f"{path}.{field}"
            _check_not_empty(report, where, values)
            if values and action is Action.CUSTOM and name in _NO_CUSTOM:
                report.error(where, f"{field} cannot be used with action CUSTOM; the identity is not known yet")
            if name.endswith("ip_blocks"):
                for index, value in enumerate(values):
                    if value:
                        report.ip_or_cidr(f"{where}[{index}]", value)
            if name == "service_accounts":
                _check_service_accounts(report, where, values)
            if name == "trust_domains":
                _check_trust_domains(report, where, values)
    accounts = source.service_accounts or source.not_service_accounts
    others = source.principals or source.not_principals or source.namespaces or source.not_namespaces
    if accounts and others:
        report.error(path, "serviceAccounts cannot be set with namespaces or principals")


def _check_service_accounts(report: Report, path: str, values: Sequence[str]) -> None:
    if len(values) > _MAX_ACCOUNTS:
        report.error(path, f"there are {len(values)} accounts; at most {_MAX_ACCOUNTS} are allowed")
    for index, value in enumerate(values):
        if value.count("/") > 1 or "*" in value or value.startswith("/") or value.endswith("/"):
            report.error(f"{path}[{index}]", f"{value!r} must be `account` or `namespace/account`, without wildcards")
        elif len(value) > _MAX_ACCOUNT_NAME:
            report.error(f"{path}[{index}]", f"an account has at most {_MAX_ACCOUNT_NAME} characters")


def _check_trust_domains(report: Report, path: str, values: Sequence[str], *, slash: bool = False) -> None:
    for index, value in enumerate(values):
        where = f"{path}[{index}]"
        if "/" in value and not slash:
            report.error(where, f"trust domain {value!r} must not contain `/`")
        if value.count("*") > 1 or "*" in value[1:-1]:
            report.error(where, f"{value!r} can have one wildcard `*`, at its beginning or its end")


def _check_operation(report: Report, path: str, operation: Operation) -> None:
    for name in ("hosts", "ports", "methods", "paths"):
        for prefix in ("", "not"):
            values: Sequence[str] = getattr(operation, f"{prefix}_{name}" if prefix else name)
            field = f"not{name.title()}" if prefix else name
            _check_not_empty(report, f"{path}.{field}", values)
            for index, value in enumerate(values):
                where = f"{path}.{field}[{index}]"
                if name == "ports" and value:
                    _check_port(report, where, value)
                if name == "paths":
                    _check_path(report, where, value)


def _check_port(report: Report, path: str, value: str) -> None:
    if not (value.isascii() and value.isdigit() and int(value[:10]) <= 65535):
        report.error(path, f"{value!r} must be a port number from 1 to 65535")


def _check_path(report: Report, path: str, value: str) -> None:
    """Templates follow Envoy's URI templates: `{*}` is one segment, `{**}` any number, once."""
    if "{" not in value and "}" not in value:
        return
    rest = _TEMPLATE.sub("", value)
    if "{" in rest or "}" in rest:
        report.error(path, f"{value!r} is no valid template; only {{*}} and {{**}} are known")
        return
    if "*" in rest:
        report.error(path, f"{value!r} mixes a template with the wildcard `*`")
    for segment in value.split("/"):
        if _TEMPLATE.search(segment) and not _TEMPLATE.fullmatch(segment):
            report.error(path, f"{value!r}: {{*}} and {{**}} must be a whole segment of the path")
    if value.count("{**}") > 1 or "{*}" in value.partition("{**}")[2]:
        report.error(path, f"{value!r}: {{**}} can stand only once, and no {{*}} after it")


def _check_condition(report: Report, path: str, condition: Condition, action: Action) -> None:
    key = condition.key
    if not key:
        report.error(f"{path}.key", "key is required")
    elif key not in _PLAIN_KEYS and not _MAP_KEY.fullmatch(key) and not _CLAIMS.fullmatch(key):
        report.error(f"{path}.key", f"unknown attribute {key!r}; examples are source.ip and request.headers[x-tenant]")
    if action is Action.CUSTOM and (key in _CUSTOM_KEYS or key.startswith("request.auth.")):
        report.error(f"{path}.key", f"{key} cannot be used with action CUSTOM; the identity is not known yet")
    if not condition.values and not condition.not_values:
        report.error(path, "at least one of values and notValues is required")
    for name, values in (("values", condition.values), ("notValues", condition.not_values)):
        _check_not_empty(report, f"{path}.{name}", values)
        if key == "source.serviceAccount":
            _check_service_accounts(report, f"{path}.{name}", values)
        elif key == "source.trustDomain":
            _check_trust_domains(report, f"{path}.{name}", values, slash=True)
        for index, value in enumerate(values):
            where = f"{path}.{name}[{index}]"
            if key in _IP_KEYS and not is_cidr(value):
                report.error(where, f"{value!r} is neither an IP address nor a CIDR block")
            elif key == "destination.port":
                _check_port(report, where, value)


def _check_not_empty(report: Report, path: str, values: Sequence[str]) -> None:
    for index, value in enumerate(values):
        if not value:
            report.error(f"{path}[{index}]", "must not be empty")


def _warn_wide_deny(report: Report, spec: AuthorizationPolicy) -> None:
    """On TCP, conditions on HTTP do not count: a DENY rule that has only such denies every TCP connection."""
    for index, rule in enumerate(spec.rules):
        sources = [origin.source for origin in rule.from_ if origin.source is not None]
        operations = [to.operation for to in rule.to if to.operation is not None]
        http = (
            any(source.request_principals or source.not_request_principals for source in sources)
            or any(
                operation.hosts
                or operation.not_hosts
                or operation.methods
                or operation.not_methods
                or operation.paths
                or operation.not_paths
                for operation in operations
            )
            or any(condition.key.startswith(("request.headers", "request.auth")) for condition in rule.when)
        )
        ports = any(operation.ports or operation.not_ports for operation in operations)
        ports = ports or any(condition.key == "destination.port" for condition in rule.when)
        # Istio counts trust domains among what TCP does not know.
        only = bool(sources) and all(
            not getattr(source, prefix + name)
            for source in sources
            for prefix in ("", "not_")
            for name in ("principals", "namespaces", "service_accounts", "ip_blocks", "remote_ip_blocks")
        )
        if (http or (only and not operations)) and not ports:
            report.warn(
                f"spec.rules[{index}]",
                "a DENY rule with HTTP attributes and without ports also denies all TCP traffic in its scope; "
                "add operation.ports to restrict it",
            )
