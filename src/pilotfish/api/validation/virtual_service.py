"""VirtualService."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations

import re2

from pilotfish.api.config import Config
from pilotfish.api.networking.virtual_service import (
    Abort,
    CorsPolicy,
    Delay,
    Delegate,
    HeaderOperations,
    Headers,
    HTTPDirectResponse,
    HTTPFaultInjection,
    HTTPMatchRequest,
    HTTPRedirect,
    HTTPRetry,
    HTTPRewrite,
    HTTPRoute,
    HTTPRouteDestination,
    L4MatchAttributes,
    RouteDestination,
    StringMatch,
    TLSMatchAttributes,
    VirtualService,
)
from pilotfish.api.validation.destination import check_destination
from pilotfish.api.validation.report import Report, host_within, hosts_overlap, is_dns_label, is_ip

RETRY_ON = {"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited"}
RETRY_ON |= {"retriable-4xx", "refused-stream", "retriable-status-codes", "retriable-headers"}
RETRY_ON |= {"http3-post-connect-failure", "cancelled", "deadline-exceeded", "internal", "resource-exhausted"}
RETRY_ON |= {"unavailable"}
GRPC_STATUS = {"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"}
GRPC_STATUS |= {"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE"}
GRPC_STATUS |= {"UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"}
_CLAIM = "@request.auth.claims"
_FORMAT = re.compile(r"%%|%[A-Z0-9_]+(\([^()%]*(?:\([^()%]*\)[^()%]*)*\))?(:\d+)?%", re.ASCII)


def check(report: Report, config: Config[VirtualService]) -> None:
    spec = config.spec
    in_mesh = not spec.gateways or "mesh" in spec.gateways
    _check_gateways(report, "spec.gateways", spec.gateways)
    if spec.hosts:
        _check_hosts(report, config, in_mesh)
    else:
        for name, given in (("gateways", spec.gateways), ("tls", spec.tls), ("tcp", spec.tcp)):
            if given:
                report.error(
                    f"spec.{name}", f"a VirtualService without hosts is a delegate, which must not have {name}"
                )
    if not (spec.http or spec.tls or spec.tcp):
        report.error("spec", "at least one of http, tls and tcp is required")
    for index, route in enumerate(spec.http):
        _check_http(report, f"spec.http[{index}]", route, root=bool(spec.hosts))
    for index, tls in enumerate(spec.tls):
        path = f"spec.tls[{index}]"
        if not tls.match:
            report.error(f"{path}.match", "a TLS route must have at least one match")
        for number, match in enumerate(tls.match):
            _check_tls_match(report, f"{path}.match[{number}]", match, spec.hosts)
        _check_weights(report, path, tls.route)
    for index, tcp in enumerate(spec.tcp):
        path = f"spec.tcp[{index}]"
        for number, l4 in enumerate(tcp.match):
            _check_l4_match(report, f"{path}.match[{number}]", l4)
            if l4.source_subnet:
                report.ip_or_cidr(f"{path}.match[{number}].sourceSubnet", l4.source_subnet)
                report.warn(f"{path}.match[{number}].sourceSubnet", "this field is deprecated and has no effect")
        _check_weights(report, path, tcp.route)
    report.export_to(spec.export_to, config.namespace)
    _warn_unreachable(report, "spec.http", [route.match for route in spec.http])
    _warn_unreachable(report, "spec.tcp", [tcp.match for tcp in spec.tcp])


def _check_gateways(report: Report, path: str, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        where = f"{path}[{index}]"
        if name == "mesh":
            continue
        if "/" not in name:
            report.domain(where, name, wildcard=False)
            continue
        parts = name.split("/")
        good = len(parts) == 2 and is_dns_label(parts[0]) and parts[1] and all(map(is_dns_label, parts[1].split(".")))
        if not good:
            report.error(where, f"gateway {name!r} must be `name` or `namespace/name`")


def _check_hosts(report: Report, config: Config[VirtualService], in_mesh: bool) -> None:
    hosts = config.spec.hosts
    good = True
    for index, host in enumerate(hosts):
        where = f"spec.hosts[{index}]"
        if host == "*" and in_mesh:
            good = report.error(
                where, "wildcard host `*` is not allowed for a VirtualService bound to the mesh gateway"
            )
        good = report.domain_or_ip(where, host) and good
    if not good:
        return
    for (_, one), (index, other) in combinations(enumerate(hosts), 2):
        if hosts_overlap(one, other) or _same_service(one, other, config.namespace):
            report.error(f"spec.hosts[{index}]", f"duplicate hosts in virtual service: {one} and {other} overlap")


def _same_service(one: str, other: str, namespace: str) -> bool:
    short, long = sorted((one.lower(), other.lower()), key=len)
    return bool(namespace) and "." not in short and long.startswith(f"{short}.{namespace}.svc.")


# --- HTTP -------------------------------------------------------------------------------------------------------------


def _check_actions(report: Report, path: str, route: HTTPRoute, root: bool) -> None:
    """A route does one thing: forward, redirect, answer or delegate."""
    actions = {
        "route": bool(route.route),
        "redirect": route.redirect is not None,
        "directResponse": route.direct_response is not None,
        "delegate": route.delegate is not None,
    }
    chosen = [name for name, given in actions.items() if given]
    if not chosen:
        report.error(path, "one of route, redirect, directResponse and delegate is required")
    elif len(chosen) > 1:
        report.error(path, f"an HTTP route cannot contain both {chosen[0]} and {chosen[1]}")
    if route.redirect is not None or route.direct_response is not None:
        name = "redirect" if route.redirect is not None else "directResponse"
        for other, given in (("fault", route.fault), ("rewrite", route.rewrite)):
            if given is not None:
                report.error(f"{path}.{other}", f"an HTTP route cannot contain both {other} and {name}")
    if route.delegate is not None:
        _check_delegate(report, f"{path}.delegate", route.delegate, root)


def _check_http(report: Report, path: str, route: HTTPRoute, root: bool) -> None:
    _check_actions(report, path, route, root)
    for index, match in enumerate(route.match):
        _check_match(report, f"{path}.match[{index}]", match)
    if route.redirect is not None:
        _check_redirect(report, f"{path}.redirect", route.redirect)
    if route.direct_response is not None:
        _check_direct_response(report, f"{path}.directResponse", route.direct_response)
    if route.route:
        _check_weights(report, path, route.route)
    if route.rewrite is not None:
        _check_rewrite(report, f"{path}.rewrite", route.rewrite)
    report.duration(f"{path}.timeout", route.timeout)
    if route.retries is not None:
        check_retries(report, f"{path}.retries", route.retries)
    if route.fault is not None:
        _check_fault(report, f"{path}.fault", route.fault)
    _check_mirrors(report, path, route)
    if route.cors_policy is not None:
        _check_cors(report, f"{path}.corsPolicy", route.cors_policy)
    authority = route.rewrite is not None and bool(route.rewrite.authority)
    _check_headers(report, f"{path}.headers", route.headers, authority)


def _check_delegate(report: Report, path: str, delegate: Delegate, root: bool) -> None:
    if not root:
        report.error(path, "a delegate cannot delegate again; only one level is supported")
    if not delegate.name:
        report.error(f"{path}.name", "name is required")
    if delegate.namespace:
        report.dns_label(f"{path}.namespace", delegate.namespace, "namespace")


def _check_match(report: Report, path: str, match: HTTPMatchRequest) -> None:
    for name, value in (
        ("uri", match.uri),
        ("scheme", match.scheme),
        ("method", match.method),
        ("authority", match.authority),
    ):
        if value is not None:
            _check_string(report, f"{path}.{name}", value)
    for name, headers in (("headers", match.headers), ("withoutHeaders", match.without_headers)):
        for header, value in headers.items():
            where = f"{path}.{name}[{header}]"
            if header.startswith("@"):
                if re.fullmatch(re.escape(_CLAIM) + r"(\.[^.\[\]]+|\[[^\[\]]+\])+", header) is None:
                    report.error(where, f"{header!r} is no claim; write {_CLAIM}.<name> or {_CLAIM}[<name>]")
            else:
                report.header_name(where, header.removeprefix(":"))
            if value.regex is not None and value.regex != "*":
                report.regex(f"{where}.regex", value.regex)
    for parameter, value in match.query_params.items():
        if value.regex is not None:
            report.regex(f"{path}.queryParams[{parameter}].regex", value.regex)
    if match.port:
        report.port(f"{path}.port", match.port)
    report.labels(f"{path}.sourceLabels", match.source_labels)
    _check_gateways(report, f"{path}.gateways", match.gateways)
    if match.source_namespace:
        report.dns_label(f"{path}.sourceNamespace", match.source_namespace, "namespace")


def _check_string(report: Report, path: str, match: StringMatch) -> None:
    if match.prefix == "":
        report.error(f"{path}.prefix", "prefix must not be empty")
    if match.regex is not None:
        report.regex(f"{path}.regex", match.regex)


def _check_redirect(report: Report, path: str, redirect: HTTPRedirect) -> None:
    given = (redirect.uri, redirect.authority, redirect.scheme, redirect.prefix_rewrite)
    if not any(given) and redirect.port is None and redirect.derive_port is None:
        report.error(path, "redirect must specify at least one of uri, authority, scheme and port")
    if redirect.uri and redirect.prefix_rewrite:
        report.error(path, "only one of uri and prefixRewrite can be set")
    if redirect.port is not None:
        report.port(f"{path}.port", redirect.port)
    if redirect.scheme not in {"", "http", "https"}:
        report.error(f"{path}.scheme", f"scheme {redirect.scheme!r} must be http or https")
    code = redirect.redirect_code
    if code and not 300 <= code <= 399:
        report.error(
            f"{path}.redirectCode", f"{code} is not a redirect HTTP status code; use 301, 302, 303, 307 or 308"
        )
    elif code and code not in {301, 302, 303, 307, 308}:
        report.warn(f"{path}.redirectCode", f"{code} is not supported, 301 is used; use 301, 302, 303, 307 or 308")


def _check_direct_response(report: Report, path: str, response: HTTPDirectResponse) -> None:
    if not 100 <= response.status <= 599:
        report.error(f"{path}.status", f"HTTP status {response.status} must be in the range 100 to 599")
    body = response.body
    if body is None:
        return
    size = len((body.string or "").encode("utf-8", "replace")) or len(body.bytes or "") * 3 // 4
    if size > 1024 * 1024:
        report.error(f"{path}.body", f"the body has {size} bytes; at most 1 MiB is allowed")
    elif size > 100 * 1024:
        report.warn(f"{path}.body", f"the body has {size} bytes; every proxy keeps it in memory")


def _check_weights(report: Report, path: str, routes: Sequence[HTTPRouteDestination | RouteDestination]) -> None:
    if not routes:
        report.error(f"{path}.route", "at least one destination is required")
        return
    total = 0
    for index, route in enumerate(routes):
        where = f"{path}.route[{index}]"
        check_destination(report, f"{where}.destination", route.destination)
        if route.weight < 0:
            report.error(f"{where}.weight", f"weight {route.weight} must not be negative")
        total += max(route.weight, 0)
        if isinstance(route, HTTPRouteDestination):
            _check_headers(report, f"{where}.headers", route.headers, authority=False)
    if len(routes) > 1 and total == 0:
        report.error(f"{path}.route", "total destination weight is 0; give at least one destination a weight")


def _check_headers(report: Report, path: str, headers: Headers | None, authority: bool) -> None:
    if headers is None:
        return
    for name, operations in (("request", headers.request), ("response", headers.response)):
        if operations is not None:
            _check_operations(report, f"{path}.{name}", operations, request=name == "request", authority=authority)


def _check_operations(
    report: Report, path: str, operations: HeaderOperations, *, request: bool, authority: bool
) -> None:
    hosts = int(authority)
    for name, headers in (("set", operations.set), ("add", operations.add)):
        for header, value in headers.items():
            where = f"{path}.{name}[{header}]"
            if request and header.lower() in {"host", ":authority"}:
                hosts += 1
            elif header.startswith(":"):
                report.error(where, f"pseudo header {header!r} cannot be changed")
            else:
                report.header_name(where, header)
            if "%" in _FORMAT.sub("", value):
                report.error(where, f"value {value!r} has a `%` that begins no command; write `%%` for a percent sign")
    if hosts > 1:
        report.error(path, "the authority is set more than once")
    for index, header in enumerate(operations.remove):
        where = f"{path}.remove[{index}]"
        if header.startswith(":") or header.lower() == "host":
            report.error(where, f"header {header!r} cannot be removed")
        else:
            report.header_name(where, header)


def _check_rewrite(report: Report, path: str, rewrite: HTTPRewrite) -> None:
    regex = rewrite.uri_regex_rewrite
    if not rewrite.uri and not rewrite.authority and regex is None:
        report.error(path, "rewrite must specify at least one of uri, authority and uriRegexRewrite")
    if regex is None:
        return
    if rewrite.uri:
        report.error(path, "only one of uri and uriRegexRewrite can be set")
    where = f"{path}.uriRegexRewrite"
    if not regex.rewrite:
        report.error(f"{where}.rewrite", "rewrite is required")
    if report.regex(f"{where}.match", regex.match):
        groups = re2.compile(regex.match).groups
        used = [int(number) for number in re.findall(r"(?<!\\)(?:\\\\)*\\(\d)", regex.rewrite)]
        if used and max(used) > groups:
            report.error(f"{where}.rewrite", f"\\{max(used)} refers to a group, but match has only {groups}")


def check_retries(report: Report, path: str, retries: HTTPRetry) -> None:
    if retries.attempts < 0:
        report.error(f"{path}.attempts", f"attempts {retries.attempts} must not be negative")
    if retries.attempts == 0 and (
        retries.per_try_timeout is not None or retries.retry_on or retries.retry_remote_localities is not None
    ):
        report.error(path, "a retry policy is given, but attempts is 0, which switches retries off")
    report.duration(f"{path}.perTryTimeout", retries.per_try_timeout)
    report.duration(f"{path}.backoff", retries.backoff)
    for token in filter(None, (token.strip() for token in retries.retry_on.split(","))):
        if token not in RETRY_ON and not (token.isascii() and token.isdigit() and 100 <= int(token) <= 599):
            report.error(
                f"{path}.retryOn", f"{token!r} is not a retry condition; there are {', '.join(sorted(RETRY_ON))}"
            )


def _check_fault(report: Report, path: str, fault: HTTPFaultInjection) -> None:
    if fault.delay is None and fault.abort is None:
        report.error(path, "fault injection must have an abort or a delay")
    if fault.delay is not None:
        _check_delay(report, f"{path}.delay", fault.delay)
    if fault.abort is not None:
        _check_abort(report, f"{path}.abort", fault.abort)


def _check_delay(report: Report, path: str, delay: Delay) -> None:
    if delay.exponential_delay is not None:
        report.error(f"{path}.exponentialDelay", "exponentialDelay is not supported")
    elif delay.fixed_delay is None:
        report.warn(f"{path}.fixedDelay", "without fixedDelay nothing is delayed")
    report.duration(f"{path}.fixedDelay", delay.fixed_delay)
    report.percent(f"{path}.percent", delay.percent)
    if delay.percentage is not None:
        report.percent(f"{path}.percentage.value", delay.percentage.value)
    elif delay.percent:
        report.warn(f"{path}.percent", "percent is deprecated; use percentage")
    else:
        report.warn(f"{path}.percentage", "without a percentage no request is delayed")


def _check_abort(report: Report, path: str, abort: Abort) -> None:
    if abort.http2_error is not None:
        report.error(f"{path}.http2Error", "http2Error is not supported")
    elif abort.http_status is None and abort.grpc_status is None:
        report.warn(path, "abort has neither httpStatus nor grpcStatus, so nothing is aborted")
    if abort.http_status is not None and not 200 <= abort.http_status <= 599:
        report.error(f"{path}.httpStatus", f"HTTP status {abort.http_status} must be in the range 200 to 599")
    if abort.grpc_status is not None and abort.grpc_status not in GRPC_STATUS:
        report.error(f"{path}.grpcStatus", f"gRPC status {abort.grpc_status!r} is not known; an example is UNAVAILABLE")
    if abort.percentage is not None:
        report.percent(f"{path}.percentage.value", abort.percentage.value)
    else:
        report.warn(f"{path}.percentage", "without a percentage no request is aborted")


def _check_mirrors(report: Report, path: str, route: HTTPRoute) -> None:
    if route.mirror is not None:
        check_destination(report, f"{path}.mirror", route.mirror)
        if route.mirrors:
            report.error(f"{path}.mirrors", "an HTTP route cannot contain both mirror and mirrors")
    for index, mirror in enumerate(route.mirrors):
        check_destination(report, f"{path}.mirrors[{index}].destination", mirror.destination)
        if mirror.percentage is not None:
            report.percent(f"{path}.mirrors[{index}].percentage.value", mirror.percentage.value)
    if route.mirror_percent is not None:
        report.percent(f"{path}.mirrorPercent", route.mirror_percent)
        report.warn(f"{path}.mirrorPercent", "mirrorPercent is deprecated; use mirrorPercentage")
    if route.mirror_percentage is not None:
        report.percent(f"{path}.mirrorPercentage.value", route.mirror_percentage.value)


def _check_cors(report: Report, path: str, cors: CorsPolicy) -> None:
    for index, origin in enumerate(cors.allow_origins):
        where = f"{path}.allowOrigins[{index}]"
        if not (origin.exact or origin.prefix or origin.regex):
            report.error(where, "one of exact, prefix and regex is required and must not be empty")
        _check_string(report, where, origin)
    if cors.allow_origin:
        report.warn(f"{path}.allowOrigin", "allowOrigin is deprecated; use allowOrigins")
    for index, method in enumerate(cors.allow_methods):
        if method not in _METHODS:
            report.error(f"{path}.allowMethods[{index}]", f"{method!r} is no HTTP method; methods are in upper case")
    for name, headers in (("allowHeaders", cors.allow_headers), ("exposeHeaders", cors.expose_headers)):
        for index, header in enumerate(headers):
            if not header:
                report.error(f"{path}.{name}[{index}]", "header name must not be empty")
    if report.duration(f"{path}.maxAge", cors.max_age) and cors.max_age is not None and cors.max_age % 1_000_000_000:
        report.error(f"{path}.maxAge", f"{cors.max_age} must be whole seconds")


# --- TLS and TCP ------------------------------------------------------------------------------------------------------


def _check_tls_match(report: Report, path: str, match: TLSMatchAttributes, hosts: Sequence[str]) -> None:
    if not match.sni_hosts:
        report.error(f"{path}.sniHosts", "a TLS match must have at least one SNI host")
    for index, name in enumerate(match.sni_hosts):
        where = f"{path}.sniHosts[{index}]"
        if is_ip(name):
            report.warn(where, f"{name} is an IP address; clients do not send addresses as server name")
        elif not report.domain(where, name):
            continue
        if not any(host_within(name, host) for host in hosts):
            report.error(where, f"SNI host {name!r} is not covered by any of the hosts: {', '.join(hosts)}")
    _check_l4_match(report, path, match)


def _check_l4_match(report: Report, path: str, match: TLSMatchAttributes | L4MatchAttributes) -> None:
    for index, subnet in enumerate(match.destination_subnets):
        report.ip_or_cidr(f"{path}.destinationSubnets[{index}]", subnet)
    if match.port:
        report.port(f"{path}.port", match.port)
    report.labels(f"{path}.sourceLabels", match.source_labels)
    _check_gateways(report, f"{path}.gateways", match.gateways)
    if match.source_namespace:
        report.dns_label(f"{path}.sourceNamespace", match.source_namespace, "namespace")


# --- Rules without effect ---------------------------------------------------------------------------------------------


def _warn_unreachable(
    report: Report, path: str, rules: Sequence[Sequence[HTTPMatchRequest | L4MatchAttributes]]
) -> None:
    """Rules after one that takes everything, or that repeat an earlier one (IST0130)."""
    catch_all: int | None = None
    seen: list[tuple[int, Sequence[HTTPMatchRequest | L4MatchAttributes]]] = []
    for index, matches in enumerate(rules):
        where = f"{path}[{index}]"
        if catch_all is not None:
            report.warn(where, f"this rule is not used: rule [{catch_all}] before it takes everything")
            continue
        earlier = next((number for number, other in seen if matches and _covered(matches, other)), None)
        if earlier is not None:
            report.warn(where, f"this rule is not used: its matches are those of rule [{earlier}]")
        seen.append((index, matches))
        if not matches or any(_takes_all(match) for match in matches):
            catch_all = index


def _covered(
    matches: Sequence[HTTPMatchRequest | L4MatchAttributes], earlier: Sequence[HTTPMatchRequest | L4MatchAttributes]
) -> bool:
    return all(match in earlier for match in matches)


def _takes_all(match: HTTPMatchRequest | L4MatchAttributes) -> bool:
    if isinstance(match, HTTPMatchRequest):
        named: Mapping[str, object] = {name: getattr(match, name) for name in match.__struct_fields__}
        everything = match.uri is not None and (match.uri.prefix == "/" or match.uri.regex in {"*", ".*"})
        others = {key: value for key, value in named.items() if key not in {"name", "stat_prefix", "ignore_uri_case"}}
        if everything:
            others.pop("uri")
        return not any(others.values())
    return match == L4MatchAttributes()
