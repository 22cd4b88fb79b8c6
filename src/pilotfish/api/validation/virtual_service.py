"""VirtualService."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from itertools import combinations

import msgspec
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
from pilotfish.api.validation.report import (
    TOKEN,
    Report,
    domain_problem,
    host_within,
    hosts_overlap,
    is_dns_label,
    is_ip,
)

RETRY_ON = {"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited"}
RETRY_ON |= {"retriable-4xx", "refused-stream", "retriable-status-codes", "retriable-headers"}
RETRY_ON |= {"http3-post-connect-failure", "cancelled", "deadline-exceeded", "internal", "resource-exhausted"}
RETRY_ON |= {"unavailable"}
GRPC_STATUS = {"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"}
GRPC_STATUS |= {"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE"}
GRPC_STATUS |= {"UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"}
_CLAIM = re.compile(r"@request\.auth\.claims(\..+|\[.+\])", re.IGNORECASE | re.DOTALL)
_AUTHORITY = {"host", ":authority"}
_PSEUDO = {":method", ":scheme", ":authority", ":path", ":status"}
_STATUSES = {str(int(status)) for status in HTTPStatus}
_STRING = r"""(?:\\.|[^\\)"])*+(?:"\x20*,\x20*"(?:\\.|[^\\)"])*+)*+(?:\)|"\x20*\]\x20*\))"""
_VARIABLE = rf"""%[^%(]*+(?:%|\(\x20*+(?:\[\x20*"{_STRING}|[^\x20\[]{_STRING})\x20*%)"""
_VALUE = re.compile(rf"(?:[^%\x00-\x08\x0a-\x1f\x7f]|%%|{_VARIABLE})*+", re.DOTALL)
"""Values of headers, with Envoy's `%COMMAND%` and `%COMMAND(arguments)%`."""
_OUTBOUND = re.compile(r"outbound_[^_]*[0-9][^_]*_[^_]*_[^_]*[a-zA-Z][^_]*(_.*)?")
"""Server names of AUTO_PASSTHROUGH, such as `outbound_.80_._.reviews.shop.svc.cluster.local`."""


def check(report: Report, config: Config[VirtualService]) -> None:
    spec = config.spec
    in_mesh = not spec.gateways or "mesh" in spec.gateways
    sni = [name for tls in spec.tls for match in tls.match for name in match.sni_hosts]
    _check_gateways(report, "spec.gateways", spec.gateways)
    if spec.hosts:
        _check_hosts(report, config, in_mesh, outbound=bool(sni) and not in_mesh)
    else:
        for name, given in (("gateways", spec.gateways), ("tls", spec.tls), ("tcp", spec.tcp)):
            if given:
                report.error(
                    f"spec.{name}", f"a VirtualService without hosts is a delegate, which must not have {name}"
                )
    if not (spec.http or spec.tls or spec.tcp):
        report.error("spec", "at least one of http, tls and tcp is required")
    for index, route in enumerate(spec.http):
        _check_http(report, f"spec.http[{index}]", route, root=bool(spec.hosts), claims=not in_mesh)
    for index, tls in enumerate(spec.tls):
        path = f"spec.tls[{index}]"
        if not tls.match:
            report.error(f"{path}.match", "a TLS route must have at least one match")
        for number, match in enumerate(tls.match):
            _check_tls_match(report, f"{path}.match[{number}]", match, spec.hosts, "mesh" not in spec.gateways)
        _check_weights(report, path, tls.route)
    for index, tcp in enumerate(spec.tcp):
        path = f"spec.tcp[{index}]"
        for number, l4 in enumerate(tcp.match):
            _check_l4_match(report, f"{path}.match[{number}]", l4)
            if l4.source_subnet:
                report.warn(f"{path}.match[{number}].sourceSubnet", "this field is deprecated and has no effect")
        _check_weights(report, path, tcp.route)
    report.export_to(spec.export_to, config.namespace)
    _warn_unreachable(report, "spec.http", [route.match for route in spec.http])
    _warn_unreachable(report, "spec.tcp", [tcp.match for tcp in spec.tcp])
    _warn_unreachable(report, "spec.tls", [tls.match for tls in spec.tls])


def _check_gateways(report: Report, path: str, names: Sequence[str]) -> None:
    """Istio looks at none that comes after a name without a namespace, so such are only warned of."""
    short = False
    for index, name in enumerate(names):
        where = f"{path}[{index}]"
        namespace, slash, rest = name.partition("/")
        problem = None if slash else domain_problem(name, wildcard=False)
        if slash and not (is_dns_label(namespace) and is_dns_label(rest)):
            problem = f"gateway {name!r} must be `name` or `namespace/name`"
        if problem is not None and short:
            report.warn(where, f"this has no effect: {problem}")
        elif problem is not None:
            report.error(where, problem)
        elif not slash and "." in name:
            first, second = name.split(".")[:2]
            report.warn(where, f"this form of a gateway's name is old; write {second}/{first}")
        short = short or not slash


def _check_hosts(report: Report, config: Config[VirtualService], in_mesh: bool, outbound: bool) -> None:
    hosts = config.spec.hosts
    good = True
    for index, host in enumerate(hosts):
        where = f"spec.hosts[{index}]"
        if host == "*" and in_mesh:
            good = report.error(
                where, "wildcard host `*` is not allowed for a VirtualService bound to the mesh gateway"
            )
        good = (outbound and _OUTBOUND.fullmatch(host) is not None) or (report.domain_or_ip(where, host) and good)
    if not good:
        return
    for (_, one), (index, other) in combinations(enumerate(hosts), 2):
        if hosts_overlap(one, other):
            report.error(f"spec.hosts[{index}]", f"duplicate hosts in virtual service: {one} and {other} overlap")
        elif hosts_overlap(one.lower(), other.lower()) or _same_service(one, other, config.namespace):
            report.warn(f"spec.hosts[{index}]", f"{one} and {other} are the same host")


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
    elif len(chosen) > 1 and set(chosen) != {"directResponse", "delegate"}:
        report.error(path, f"an HTTP route cannot contain both {chosen[0]} and {chosen[1]}")
    if route.delegate is not None and root:
        pass  # what stands beside a delegate is the delegate's to say
    elif route.redirect is not None or route.direct_response is not None:
        name = "redirect" if route.redirect is not None else "directResponse"
        for other, given in (("fault", route.fault), ("rewrite", route.rewrite)):
            if given is not None:
                report.error(f"{path}.{other}", f"an HTTP route cannot contain both {other} and {name}")
    if route.delegate is not None:
        _check_delegate(report, f"{path}.delegate", route.delegate, root)


def _check_http(report: Report, path: str, route: HTTPRoute, root: bool, claims: bool) -> None:
    _check_actions(report, path, route, root)
    for index, match in enumerate(route.match):
        _check_match(report, f"{path}.match[{index}]", match, claims)
    if route.redirect is not None:
        _check_redirect(report, f"{path}.redirect", route.redirect, route.match)
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
    _check_headers(report, f"{path}.headers", route.headers)
    _check_authority(report, f"{path}.headers.request", route)


def _check_delegate(report: Report, path: str, delegate: Delegate, root: bool) -> None:
    if not root:
        report.error(path, "a delegate cannot delegate again; only one level is supported")
    if not delegate.name:
        report.warn(f"{path}.name", "without a name there is nothing to delegate to")
    if delegate.namespace and not is_dns_label(delegate.namespace):
        report.warn(f"{path}.namespace", f"there cannot be a namespace {delegate.namespace!r}")


def _check_match(report: Report, path: str, match: HTTPMatchRequest, claims: bool) -> None:
    if match.uri is not None and match.uri.regex is not None:
        report.regex(f"{path}.uri.regex", match.uri.regex)
    for name, value in (
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
                if _CLAIM.fullmatch(header) is None:
                    report.error(where, f"{header!r} is no claim; write @request.auth.claims.<name>")
                elif not claims:
                    report.error(where, "routing by claims is possible on gateways only; name one under spec.gateways")
            elif header not in _PSEUDO:
                report.header_name(where, header)
            if name == "headers" or value.regex != "*":  # which means, there, that the header is present
                _check_string(report, where, value)
    for parameter, value in match.query_params.items():
        _check_string(report, f"{path}.queryParams[{parameter}]", value)
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


def _check_redirect(report: Report, path: str, redirect: HTTPRedirect, matches: Sequence[HTTPMatchRequest]) -> None:
    given = (redirect.uri, redirect.authority, redirect.scheme, redirect.prefix_rewrite)
    if not any(given) and redirect.port is None and redirect.derive_port is None:
        report.error(path, "redirect must specify at least one of uri, authority, scheme and port")
    if redirect.uri and redirect.prefix_rewrite:
        report.error(path, "only one of uri and prefixRewrite can be set")
    if redirect.prefix_rewrite and any(match.uri is not None and match.uri.prefix is None for match in matches):
        report.error(f"{path}.prefixRewrite", "prefixRewrite needs a prefix in every match of uri")
    if redirect.port:
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
    if not 200 <= response.status <= 599:
        report.error(f"{path}.status", f"HTTP status {response.status} must be in the range 200 to 599")
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
            _check_headers(report, f"{where}.headers", route.headers)
    if len(routes) > 1 and total == 0:
        report.error(f"{path}.route", "total destination weight is 0; give at least one destination a weight")


def _check_headers(report: Report, path: str, headers: Headers | None) -> None:
    if headers is None:
        return
    for name, operations in (("request", headers.request), ("response", headers.response)):
        if operations is not None:
            _check_operations(report, f"{path}.{name}", operations, request=name == "request")


def _check_authority(report: Report, path: str, route: HTTPRoute) -> None:
    """A route sets the authority once, by rewriting it or as a header."""
    request = route.headers.request if route.headers is not None else None
    names = [*request.set, *request.add] if request is not None else []
    ways = sum(name.lower() in _AUTHORITY for name in names)
    if ways + (route.rewrite is not None and bool(route.rewrite.authority)) > 1:
        report.error(path, "the authority is set more than once")


def _check_operations(report: Report, path: str, operations: HeaderOperations, *, request: bool) -> None:
    for name, headers in (("set", operations.set), ("add", operations.add)):
        for header, value in headers.items():
            where = f"{path}.{name}[{header}]"
            if not (request and header.lower() in _AUTHORITY):
                _check_changed(report, where, header)
            if _VALUE.fullmatch(value) is None:
                report.error(
                    where,
                    f"value {value!r} has a `%` that begins no command, or a control character; "
                    "write `%%` for a percent sign",
                )
    for index, header in enumerate(operations.remove):
        _check_changed(report, f"{path}.remove[{index}]", header)


def _check_changed(report: Report, path: str, header: str) -> None:
    if not header:
        report.error(path, "header name must not be empty")
    elif header.startswith(":") or header.lower() == "host":
        report.error(path, f"header {header!r} cannot be changed here")
    elif TOKEN.fullmatch(header) is None:
        report.warn(path, f"there cannot be a header {header!r}")


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
            report.warn(f"{where}.rewrite", f"\\{max(used)} refers to a group, but match has only {groups}")


def check_retries(report: Report, path: str, retries: HTTPRetry) -> None:
    if retries.attempts < 0:
        report.error(f"{path}.attempts", f"attempts {retries.attempts} must not be negative")
    if retries.attempts == 0 and (
        retries.per_try_timeout is not None or retries.retry_on or retries.retry_remote_localities is not None
    ):
        report.error(path, "a retry policy is given, but attempts is 0, which switches retries off")
    report.duration(f"{path}.perTryTimeout", retries.per_try_timeout)
    report.duration(f"{path}.backoff", retries.backoff)
    for token in retries.retry_on.split(",") if retries.retry_on else ():
        if token not in RETRY_ON and token not in _STATUSES:
            report.error(
                f"{path}.retryOn",
                f"{token!r} is not a retry condition; there are {', '.join(sorted(RETRY_ON))} and HTTP statuses, "
                "with commas between and no spaces",
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
    if delay.percentage is not None:
        report.fraction(f"{path}.percentage.value", delay.percentage.value)
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
        report.fraction(f"{path}.percentage.value", abort.percentage.value)
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
            if header != "*":
                report.header_name(f"{path}.{name}[{index}]", header)
    if report.duration(f"{path}.maxAge", cors.max_age) and cors.max_age is not None and cors.max_age % 1_000_000_000:
        report.error(f"{path}.maxAge", f"{cors.max_age} must be whole seconds")


# --- TLS and TCP ------------------------------------------------------------------------------------------------------


def _check_tls_match(
    report: Report, path: str, match: TLSMatchAttributes, hosts: Sequence[str], outbound: bool
) -> None:
    if not match.sni_hosts:
        report.error(f"{path}.sniHosts", "a TLS match must have at least one SNI host")
    for index, name in enumerate(match.sni_hosts):
        where = f"{path}.sniHosts[{index}]"
        if is_ip(name):
            report.warn(where, f"{name} is an IP address; clients do not send addresses as server name")
            continue
        if not (outbound and _OUTBOUND.fullmatch(name)) and not report.domain(where, name):
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
    if match.source_namespace and not is_dns_label(match.source_namespace):
        report.warn(f"{path}.sourceNamespace", f"there cannot be a namespace {match.source_namespace!r}")


# --- Rules without effect ---------------------------------------------------------------------------------------------

_Match = HTTPMatchRequest | TLSMatchAttributes | L4MatchAttributes


def _warn_unreachable(report: Report, path: str, rules: Sequence[Sequence[_Match]]) -> None:
    """Rules after one that takes everything, and matches that repeat an earlier one (IST0130, IST0131)."""
    catch_all: int | None = None
    seen: list[tuple[str, _Match]] = []
    for index, matches in enumerate(rules):
        rule = f"{path}[{index}]"
        if catch_all is not None:
            report.warn(rule, f"this rule is not used: rule [{catch_all}] before it takes everything")
            continue
        repeated = 0
        for number, match in enumerate(matches):
            where = f"{rule}.match[{number}]"
            plain = msgspec.structs.replace(match, name="") if isinstance(match, HTTPMatchRequest) else match
            same = next((before for before, other in seen if other == plain), None)
            wider = next((before for before, other in seen if same is None and _wider(other, plain)), None)
            if same is not None:
                repeated += 1
                report.warn(where, f"this match is not used: it is that of {same}")
            elif wider is not None:
                report.warn(where, f"this match is not used: that of {wider} has a shorter prefix and comes first")
            seen.append((where, plain))
        if matches and repeated == len(matches):
            report.warn(rule, "this rule is not used: others before it take all it matches")
        if not matches or any(_takes_all(match) for match in matches):
            catch_all = index


def _wider(one: _Match, other: _Match) -> bool:
    """Whether a match of a path's beginning leaves nothing for another, as far as Istio compares them."""
    if not (isinstance(one, HTTPMatchRequest) and isinstance(other, HTTPMatchRequest)):
        return False
    first, second = _prefix(one), _prefix(other)
    if not first or not second or first == second or not second.startswith(first) or one.port != other.port:
        return False
    pairs = [(_words(one.method) or "=GET", _words(other.method) or "=GET")]
    pairs.append((_words(one.authority), _words(other.authority)))
    for mine, its in (
        (one.headers, other.headers),
        (one.query_params, other.query_params),
        (one.without_headers, other.without_headers),
    ):
        if mine.keys() != its.keys():
            return False
        pairs += [(_words(value), _words(its[key])) for key, value in mine.items()]
    return all(a.startswith(b) for a, b in pairs)


def _prefix(match: HTTPMatchRequest) -> str:
    return (match.uri.prefix or "") if match.uri is not None else ""


def _words(match: StringMatch | None) -> str:
    if match is None:
        return ""
    return f"={match.exact}" if match.exact else f"^{match.prefix}" if match.prefix else ""


def _takes_all(match: _Match) -> bool:
    if isinstance(match, HTTPMatchRequest):
        named: Mapping[str, object] = {name: getattr(match, name) for name in match.__struct_fields__}
        everything = match.uri is not None and (match.uri.prefix == "/" or match.uri.regex in {"*", ".*"})
        others = {key: value for key, value in named.items() if key not in {"name", "stat_prefix", "ignore_uri_case"}}
        if everything:
            others.pop("uri")
        return not any(others.values())
    return match == L4MatchAttributes()
