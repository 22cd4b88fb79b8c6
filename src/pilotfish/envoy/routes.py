"""HTTP routes: a VirtualService's http rules as Envoy routes, and the default route of a service."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pilotfish.api.networking.virtual_service import (
    CorsPolicy,
    Delay,
    Destination,
    HeaderOperations,
    Headers,
    HTTPFaultInjection,
    HTTPMatchRequest,
    HTTPRedirect,
    HTTPRetry,
    HTTPRewrite,
    HTTPRoute,
    HTTPRouteDestination,
    Percent,
    RedirectPortSelection,
    StringMatch,
    UnmatchedPreflights,
)
from pilotfish.engine import Db, query
from pilotfish.envoy import alpn, clusters
from pilotfish.envoy.proto import Fields, extension, pack
from pilotfish.envoy.values import (
    FALSE,
    TRUE,
    config_path,
    duration,
    header,
    metadata,
    number,
    percent,
    regex,
    runtime_percent,
)
from pilotfish.mesh import destination_rules, virtual_services, visibility
from pilotfish.mesh.config import mesh
from pilotfish.mesh.inputs import VIRTUAL_SERVICES, Ref
from pilotfish.mesh.ports import Protocol
from pilotfish.mesh.proxies import View, scope
from pilotfish.mesh.services import ServiceKey, alias_target, service
from pilotfish.mesh.visibility import Scope
from pilotfish.mesh.workloads import Labels, selects


class Caller(NamedTuple):
    """What of a proxy its routes depend on."""

    scope: Scope
    gateway: bool
    gateways: frozenset[str]
    """`mesh`, or the Gateways (`namespace/name`) whose servers the routes are for."""
    labels: Labels
    """Of the proxy, as far as any rule asks for labels."""

    @classmethod
    def of(cls, db: Db, view: View, gateways: Iterable[str] = ("mesh",)) -> Caller:
        asked = virtual_services.source_label_keys(db) | destination_rules.selector_keys(db)
        labels = tuple(pair for pair in view.labels if pair[0] in asked)
        return cls(scope(db, view), not view.is_sidecar, frozenset(gateways), labels)

    @property
    def namespace(self) -> str:
        return self.scope.namespace


class Target(NamedTuple):
    """Where a destination leads."""

    cluster: str
    host: str
    port: int
    key: ServiceKey | None
    refs: tuple[Ref, ...]
    protocol: Protocol
    """As which requests go upstream."""


def rules_for(db: Db, caller: Caller, key: ServiceKey) -> tuple[Ref, ...]:
    """The DestinationRules a caller uses for a service."""
    labels = caller.labels
    if labels and not any(h.selector for h in destination_rules.candidates(db, key.host)):
        labels = ()
    return destination_rules.rules_for(db, caller.namespace, labels, key.namespace, key.host)


@query
def target(db: Db, caller: Caller, host: str, subset: str, port: int, listener_port: int) -> Target:
    """The cluster of a destination. The port: as given, else the service's only one, else the listener's."""
    host = alias_target(db, host)
    key = visibility.find(db, caller.scope, host)
    found = service(db, key.namespace, key.host) if key is not None else None
    if not port:
        port = found.ports[0].number if found is not None and len(found.ports) == 1 else listener_port
    name = clusters.cluster_name(port, subset, host)
    if key is None:
        return Target(name, host, port, None, (), Protocol.HTTP)
    refs = rules_for(db, caller, key)
    return Target(name, host, port, key, refs, clusters.upstream_protocol(db, caller.gateway, key, port, subset, refs))


def _target(db: Db, caller: Caller, destination: Destination, listener_port: int) -> Target:
    port = destination.port.number if destination.port is not None else 0
    if not port and not caller.gateway:
        port = listener_port  # as with Istio: a sidecar's HTTP routes know services by the port they listen on
    return target(db, caller, destination.host, destination.subset, port, listener_port)


# Routes of a VirtualService


@query
def virtual_service_routes(db: Db, caller: Caller, ref: Ref, port: int) -> tuple[Fields, ...]:
    """The Envoy routes of a VirtualService for one listener port, up to the first that catches everything."""
    config = VIRTUAL_SERVICES(db, ref)
    if config is None:
        return ()
    bound = config.spec.gateways or ("mesh",)
    result: list[Fields] = []
    for rule in virtual_services.http_routes(db, ref):
        for match in rule.match or (None,):
            if not _applies(match, bound, caller, port):
                continue
            route = _route(db, caller, ref, rule, match, port)
            if route is not None:
                result.append(route)
                if is_catch_all(route):
                    return tuple(result)
    return tuple(result)


def _applies(match: Any, bound: Iterable[str], caller: Caller, port: int) -> bool:
    """What is decided here and not by Envoy: gateways, listener port, and who the client is."""
    gateways = match.gateways if match is not None and match.gateways else bound
    if not caller.gateways & set(gateways):
        return False
    if match is None:
        return True
    if match.port and match.port != port:
        return False
    if match.gateways and "mesh" not in match.gateways:
        return True
    if caller.gateway:
        return True
    if match.source_namespace and match.source_namespace != caller.namespace:
        return False
    return selects(match.source_labels, caller.labels)


def is_catch_all(route: Fields) -> bool:
    match = route["match"]
    everything = match.get("prefix") == "/" or match.get("safe_regex", {}).get("regex") in (".*", "*")
    return everything and not any(match.get(f) for f in ("headers", "query_parameters", "dynamic_metadata"))


def _route(
    db: Db,
    caller: Caller,
    ref: Ref,
    rule: HTTPRoute,
    match: HTTPMatchRequest | None,
    port: int,
) -> Fields | None:
    fields: Fields = {
        "match": route_match(match, caller.gateway),
        "metadata": metadata(istio={"config": config_path("VirtualService", ref.namespace, ref.name)}),
    }
    name = ".".join(n for n in (rule.name, match.name if match is not None else "") if n)
    if name:
        fields["name"] = name
    if match is not None and match.stat_prefix:
        fields["stat_prefix"] = match.stat_prefix
    overrides: dict[str, Fields] = {}
    if rule.redirect is not None:
        fields["redirect"] = _redirect(rule.redirect, port)
    elif rule.direct_response is not None:
        fields["direct_response"] = {"status": rule.direct_response.status}
        body = rule.direct_response.body
        if body is not None and body.string is not None:
            fields["direct_response"]["body"] = {"inline_string": body.string}
        elif body is not None and body.bytes is not None:
            fields["direct_response"]["body"] = {"inline_bytes": base64.b64decode(body.bytes)}
    elif rule.route:
        fields["route"], operation = _action(db, caller, rule, match, port, overrides)
        fields["decorator"] = {"operation": operation or f"{ref.name}:{port}{_path(fields['match'])}"}
    else:
        return None  # a delegate that left nothing, or nothing to do: the next rule decides
    _headers(fields, rule.headers)
    if len(rule.route) == 1 and "route" in fields:
        _headers(fields, rule.route[0].headers)
    if rule.fault is not None:
        overrides["envoy.filters.http.fault"] = _fault(rule.fault)
    if rule.cors_policy is not None:
        overrides["envoy.filters.http.cors"] = _cors(rule.cors_policy)
    if overrides:
        fields["typed_per_filter_config"] = overrides
    return fields


def _path(match: Fields) -> str:
    if "prefix" in match:
        return f"{match['prefix']}*"
    return str(match.get("path") or match.get("safe_regex", {}).get("regex", ""))


# Matching


def route_match(match: HTTPMatchRequest | None, gateway: bool) -> Fields:
    if match is None:
        return {"prefix": "/", "case_sensitive": TRUE}
    fields: Fields = {"case_sensitive": FALSE if match.ignore_uri_case else TRUE}
    uri = match.uri
    if uri is None or (uri.exact is None and uri.prefix is None and uri.regex is None):
        fields["prefix"] = "/"
    elif uri.exact is not None:
        fields["path"] = uri.exact
    elif uri.prefix is not None:
        fields["prefix"] = uri.prefix
    else:
        fields["safe_regex"] = regex(uri.regex or "")
        fields["case_sensitive"] = TRUE
    headers = [
        {"name": f":{name}", **_header_form(value)}
        for name, value in (("scheme", match.scheme), ("method", match.method), ("authority", match.authority))
        if value is not None
    ]
    claims: list[Fields] = []
    for name, value in sorted(match.headers.items()):
        if name.startswith("@request.auth.claims"):
            if gateway:
                claims.append(_claim(name, value, invert=False))
            continue
        headers.append({"name": name, **_header_form(value)})
    for name, value in sorted(match.without_headers.items()):
        if name.startswith("@request.auth.claims"):
            if gateway:
                claims.append(_claim(name, value, invert=True))
            continue
        form = _header_form(value)
        if "present_match" not in form:
            form["treat_missing_header_as_empty"] = True
        headers.append({"name": name, **form, "invert_match": True})
    if headers:
        fields["headers"] = headers
    if match.query_params:
        fields["query_parameters"] = [
            {"name": name, **_query_form(value)} for name, value in sorted(match.query_params.items())
        ]
    if claims:
        fields["dynamic_metadata"] = claims
    return fields


def string_match(value: StringMatch) -> Fields | None:
    """A StringMatcher; None where the value only has to be there."""
    if value.exact:
        return {"exact": value.exact}
    if value.prefix:
        return {"prefix": value.prefix}
    if value.regex and value.regex != "*":
        return {"safe_regex": regex(value.regex)}
    return None


def _header_form(value: StringMatch) -> Fields:
    form = string_match(value)
    return {"present_match": True} if form is None else {"string_match": form}


def _query_form(value: StringMatch) -> Fields:
    form = {"exact": ""} if value.exact == "" else string_match(value)
    return {"present_match": True} if form is None else {"string_match": form}


def _claim(name: str, value: StringMatch, *, invert: bool) -> Fields:
    """`@request.auth.claims.a.b` or `@request.auth.claims[a][b]`: what jwt_authn left about the token."""
    rest = name.removeprefix("@request.auth.claims")
    path = rest[1:-1].split("][") if rest.startswith("[") else rest.lstrip(".").split(".")
    form = string_match(value)
    one: Fields = {"present_match": True} if form is None else {"string_match": form}
    return {
        "filter": "envoy.filters.http.jwt_authn",
        "path": [{"key": "payload"}, *({"key": key} for key in path)],
        "value": {"or_match": {"value_matchers": [one, {"list_match": {"one_of": one}}]}},
        "invert": invert,
    }


# Actions


def _action(
    db: Db,
    caller: Caller,
    rule: HTTPRoute,
    match: HTTPMatchRequest | None,
    port: int,
    overrides: dict[str, Fields],
) -> tuple[Fields, str]:
    """The route action, and the name of the operation when there is a single destination."""
    action: Fields = {}
    action |= timeouts(rule.timeout if rule.timeout is not None else 0)
    operation = ""
    weighted = [r for r in rule.route if r.weight > 0] if len(rule.route) > 1 else list(rule.route)
    targets = [_target(db, caller, r.destination, port) for r in weighted]
    hashed = [h for t in targets for h in hash_policy(db, t)]
    if len(weighted) == 1:
        one, to = weighted[0], targets[0]
        action["cluster"] = to.cluster
        operation = f"{to.host}:{to.port}{_path(route_match(match, caller.gateway))}"
        if to.protocol is Protocol.AUTO:
            overrides |= alpn.BY_DOWNSTREAM_PROTOCOL
        extra = one.headers
    else:
        extra = None
        action["weighted_clusters"] = {
            "clusters": [_weighted(r, t) for r, t in zip(weighted, targets, strict=True)],
        }
    retries = rule.retries if rule.retries is not None else mesh(db).default_http_retry_policy
    if (policy := retry_policy(retries, hashed=bool(hashed) and len(weighted) == 1)) is not None:
        action["retry_policy"] = policy
    if hashed:
        action["hash_policy"] = hashed
    _rewrite(action, rule.rewrite, _host_of(rule.headers) or _host_of(extra))
    mirrors = list(_mirrors(db, caller, rule, port))
    if mirrors:
        action["request_mirror_policies"] = mirrors
    return action, operation


def timeouts(timeout: int) -> Fields:
    """A route's timeout in nanoseconds; 0 is none. A gRPC caller's own deadline counts up to it.

    `max_grpc_timeout` is deprecated, but its successor `max_stream_duration` would switch `timeout` off.
    """
    return {"timeout": duration(timeout), "max_grpc_timeout": duration(timeout)}


def _weighted(route: HTTPRouteDestination, to: Target) -> Fields:
    fields: Fields = {"name": to.cluster, "weight": number(route.weight)}
    _headers(fields, route.headers)
    if (host := _host_of(route.headers)) is not None:
        fields["host_rewrite_literal"] = host
    if to.protocol is Protocol.AUTO:
        fields["typed_per_filter_config"] = alpn.BY_DOWNSTREAM_PROTOCOL
    return fields


def _host_of(headers: Headers | None) -> str | None:
    operations = headers.request if headers is not None else None
    for name, value in (operations.set if operations is not None else {}).items():
        if name.lower() in (":authority", "host"):
            return value
    return None


def _headers(fields: Fields, headers: Headers | None) -> None:
    """Changes of headers; they come after those that are there already."""
    if headers is None:
        return
    if headers.request is not None:
        _operations(fields, "request", headers.request)
    if headers.response is not None:
        _operations(fields, "response", headers.response)


def _operations(fields: Fields, side: str, operations: HeaderOperations) -> None:
    added = [header(k, v) for k, v in sorted(operations.set.items()) if k.lower() not in (":authority", "host")]
    added += [header(k, v, append=True) for k, v in sorted(operations.add.items())]
    for field, values in (("add", added), ("remove", list(operations.remove))):
        if values:
            name = f"{side}_headers_to_{field}"
            fields[name] = [*fields.get(name, ()), *values]


def _rewrite(action: Fields, rewrite: HTTPRewrite | None, host: str | None) -> None:
    """`host`: what header operations make of it."""
    if rewrite is not None:
        if rewrite.uri_regex_rewrite is not None:
            action["regex_rewrite"] = {
                "pattern": regex(rewrite.uri_regex_rewrite.match),
                "substitution": rewrite.uri_regex_rewrite.rewrite,
            }
        elif rewrite.uri:
            action["prefix_rewrite"] = rewrite.uri
        host = rewrite.authority or host
    if host:
        action["host_rewrite_literal"] = host


def _mirrors(db: Db, caller: Caller, rule: HTTPRoute, port: int) -> Iterator[Fields]:
    policies: list[tuple[Destination, float]] = []
    if rule.mirror is not None:
        share = 100.0
        if rule.mirror_percentage is not None:
            share = rule.mirror_percentage.value
        elif rule.mirror_percent is not None:
            share = float(rule.mirror_percent)
        policies.append((rule.mirror, share))
    policies += [(m.destination, 100.0 if m.percentage is None else m.percentage.value) for m in rule.mirrors]
    for destination, share in policies:
        if share > 0:
            yield {
                "cluster": _target(db, caller, destination, port).cluster,
                "runtime_fraction": runtime_percent(share),
                "trace_sampled": FALSE,
                "disable_shadow_host_suffix_append": True,
            }


_DEFAULT_RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"


def retry_policy(retries: HTTPRetry | None, *, hashed: bool) -> Fields | None:
    """None where retries are switched off. `hashed`: the choice of host is fixed, so no other is looked for."""
    fields: Fields = {
        "num_retries": number(2),
        "retry_on": _DEFAULT_RETRY_ON,
        "host_selection_retry_max_attempts": 5,
    }
    previous = not hashed
    if retries is not None:
        if retries.attempts <= 0:
            return None
        fields["num_retries"] = number(retries.attempts)
        if retries.retry_on:
            on, codes = _retry_on(retries.retry_on)
            fields["retry_on"] = on
            if codes:
                fields["retriable_status_codes"] = codes
        if retries.per_try_timeout is not None:
            fields["per_try_timeout"] = duration(retries.per_try_timeout)
        if retries.backoff is not None:
            fields["retry_back_off"] = {"base_interval": duration(retries.backoff)}
        if retries.retry_ignore_previous_hosts is not None:
            previous = retries.retry_ignore_previous_hosts
        if retries.retry_remote_localities:
            fields["retry_priority"] = extension(
                "envoy.retry_priorities.previous_priorities",
                "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                {"update_frequency": 2},
            )
    if previous:
        fields["retry_host_predicate"] = [
            extension(
                "envoy.retry_host_predicates.previous_hosts",
                "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            )
        ]
    return fields


def _retry_on(text: str) -> tuple[str, list[int]]:
    tokens = [t.strip() for t in text.split(",") if t.strip()]
    codes = [int(t) for t in tokens if t.isdigit()]
    words = [t for t in tokens if not t.isdigit()]
    if codes and "retriable-status-codes" not in words:
        words.append("retriable-status-codes")
    return ",".join(words), codes


def hash_policy(db: Db, to: Target) -> list[Fields]:
    """How requests are bound to an endpoint: the destination's consistent hash."""
    if to.key is None:
        return []
    subset = to.cluster.split("|")[2]
    balancer = destination_rules.policy(db, to.refs, subset, to.port).load_balancer
    hashed = balancer.consistent_hash if balancer is not None else None
    if hashed is None:
        return []
    if hashed.http_header_name is not None:
        return [{"header": {"header_name": hashed.http_header_name}}]
    if hashed.http_cookie is not None:
        cookie: Fields = {"name": hashed.http_cookie.name}
        if hashed.http_cookie.ttl is not None:
            cookie["ttl"] = duration(hashed.http_cookie.ttl)
        if hashed.http_cookie.path:
            cookie["path"] = hashed.http_cookie.path
        if hashed.http_cookie.attributes:
            cookie["attributes"] = [{"name": a.name, "value": a.value} for a in hashed.http_cookie.attributes]
        return [{"cookie": cookie}]
    if hashed.use_source_ip:
        return [{"connection_properties": {"source_ip": True}}]
    if hashed.http_query_parameter_name is not None:
        return [{"query_parameter": {"name": hashed.http_query_parameter_name}}]
    return []


# What is not a route to a cluster


def _redirect(redirect: HTTPRedirect, listener_port: int) -> Fields:
    fields: Fields = {}
    codes = {0: "MOVED_PERMANENTLY", 301: "MOVED_PERMANENTLY", 302: "FOUND", 303: "SEE_OTHER"}
    codes |= {307: "TEMPORARY_REDIRECT", 308: "PERMANENT_REDIRECT"}
    fields["response_code"] = codes.get(redirect.redirect_code, "MOVED_PERMANENTLY")
    if redirect.uri.startswith("%PREFIX()%"):
        fields["prefix_rewrite"] = redirect.uri.removeprefix("%PREFIX()%")
    elif redirect.prefix_rewrite:
        fields["prefix_rewrite"] = redirect.prefix_rewrite
    elif redirect.uri:
        fields["path_redirect"] = redirect.uri
    if redirect.authority:
        fields["host_redirect"] = redirect.authority
    if redirect.scheme:
        fields["scheme_redirect"] = redirect.scheme
    port = redirect.port
    if not port and redirect.derive_port is RedirectPortSelection.FROM_REQUEST_PORT:
        port = listener_port
    scheme = redirect.scheme or ("https" if listener_port == 443 else "http")
    if port and (scheme, port) not in (("http", 80), ("https", 443)):  # what goes without saying is not said
        fields["port_redirect"] = port
    return fields


_GRPC_CODES = {
    "OK": 0,
    "CANCELLED": 1,
    "UNKNOWN": 2,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "DATA_LOSS": 15,
    "UNAUTHENTICATED": 16,
}


def _fault(fault: HTTPFaultInjection) -> Fields:
    fields: Fields = {}
    if fault.delay is not None and fault.delay.fixed_delay is not None:
        fields["delay"] = {"fixed_delay": duration(fault.delay.fixed_delay), **_share(fault.delay)}
    if fault.abort is not None:
        abort: Fields = _percentage(fault.abort.percentage)
        if fault.abort.http_status is not None:
            abort["http_status"] = fault.abort.http_status
        elif fault.abort.grpc_status is not None:
            abort["grpc_status"] = _GRPC_CODES.get(fault.abort.grpc_status, 2)
        if abort.keys() & {"http_status", "grpc_status"}:
            fields["abort"] = abort
    return pack("envoy.extensions.filters.http.fault.v3.HTTPFault", fields)


def _share(delay: Delay) -> Fields:
    if delay.percentage is not None:
        return _percentage(delay.percentage)
    return {"percentage": {"numerator": delay.percent, "denominator": "HUNDRED"}} if delay.percent else {}


def _percentage(value: Percent | None) -> Fields:
    """Absent stays absent: Envoy then never injects the fault, as with Istio."""
    return {"percentage": percent(value.value)} if value is not None else {}


def _cors(policy: CorsPolicy) -> Fields:
    origins: list[Mapping[str, Any]] = [{"exact": o} for o in policy.allow_origin]
    origins += [form for o in policy.allow_origins if (form := string_match(o)) is not None]
    fields: Fields = {
        "allow_origin_string_match": origins,
        "filter_enabled": runtime_percent(100),
        "forward_not_matching_preflights": FALSE if policy.unmatched_preflights is UnmatchedPreflights.IGNORE else TRUE,
    }
    for field, values in (
        ("allow_methods", policy.allow_methods),
        ("allow_headers", policy.allow_headers),
        ("expose_headers", policy.expose_headers),
    ):
        if values:
            fields[field] = ",".join(values)
    if policy.max_age is not None:
        fields["max_age"] = str(int(policy.max_age.seconds))
    if policy.allow_credentials is not None:
        fields["allow_credentials"] = TRUE if policy.allow_credentials else FALSE
    return pack("envoy.extensions.filters.http.cors.v3.CorsPolicy", fields)


# Without a VirtualService


@query
def default_route(db: Db, caller: Caller, key: ServiceKey, port: int) -> Fields:
    """The route of a service nobody has written rules for."""
    to = target(db, caller, key.host, "", port, port)
    hashed = hash_policy(db, to)
    action: Fields = {
        "cluster": to.cluster,
        **timeouts(0),
    }
    if (policy := retry_policy(mesh(db).default_http_retry_policy, hashed=False)) is not None:
        action["retry_policy"] = policy
    if hashed:
        action["hash_policy"] = hashed
    route: Fields = {
        "name": "default",
        "match": {"prefix": "/"},
        "route": action,
        "decorator": {"operation": f"{to.host}:{port}/*"},
    }
    if to.protocol is Protocol.AUTO:
        route["typed_per_filter_config"] = alpn.BY_DOWNSTREAM_PROTOCOL
    return route
