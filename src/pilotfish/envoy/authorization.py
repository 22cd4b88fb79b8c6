"""AuthorizationPolicies as Envoy's RBAC filters, for HTTP and TCP, and CUSTOM ones through external authorization.

Order: CUSTOM, then AUDIT, DENY, ALLOW: one filter for each action that has policies. A rule is
(any `to`) and (any `from`) and all `when`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from pilotfish.api import Config
from pilotfish.api.mesh import ExtAuthzGrpc, ExtAuthzHttp, ExtensionProvider
from pilotfish.api.security import Action, AuthorizationPolicy, AuthorizationRule, Condition, Operation, Source
from pilotfish.engine import Db, query
from pilotfish.envoy.proto import Fields, extension
from pilotfish.envoy.values import cidr, duration, regex, seconds
from pilotfish.mesh import authorization, telemetry
from pilotfish.mesh.config import provider, trust_domains
from pilotfish.mesh.proxies import View

_HTTP_RBAC = "envoy.extensions.filters.http.rbac.v3.RBAC"
_TCP_RBAC = "envoy.extensions.filters.network.rbac.v3.RBAC"
_ANY: Fields = {"any": True}
_JWT = "envoy.filters.http.jwt_authn"

Matcher = Callable[[str], Fields]
"""A value as a permission or principal."""


@query
def http(db: Db, view: View) -> tuple[Fields, ...]:
    return _filters(db, view, tcp=False)


@query
def tcp(db: Db, view: View) -> tuple[Fields, ...]:
    return _filters(db, view, tcp=True)


def _filters(db: Db, view: View, *, tcp: bool) -> tuple[Fields, ...]:
    result = []
    for action, name in ((Action.AUDIT, "LOG"), (Action.DENY, "DENY"), (Action.ALLOW, "ALLOW")):
        found = authorization.policies(db, view.namespace, view.labels, action, view.gateway_name)
        if not found:
            continue
        domains = trust_domains(db)
        live = [c for c in found if not _is_dry(c)]
        dry = [c for c in found if _is_dry(c)]
        fields: Fields = {}
        if live:
            fields["rules"] = {"action": name, "policies": _policies(live, domains, action, tcp=tcp)}
        if dry and action is not Action.AUDIT:
            fields["shadow_rules"] = {"action": name, "policies": _policies(dry, domains, action, tcp=tcp)}
            fields["shadow_rules_stat_prefix"] = f"istio_dry_run_{action.value.lower()}_"
        if fields:
            result.append(_rbac(fields, tcp=tcp))
    return tuple(result)


def _rbac(fields: Fields, *, tcp: bool) -> Fields:
    if tcp:
        return extension("envoy.filters.network.rbac", _TCP_RBAC, {"stat_prefix": "tcp.", **fields})
    return extension("envoy.filters.http.rbac", _HTTP_RBAC, fields)


def _is_dry(config: Config[AuthorizationPolicy]) -> bool:
    return config.annotations.get("istio.io/dry-run", "").lower() == "true"


def _policies(
    found: Iterable[Config[AuthorizationPolicy]],
    domains: tuple[str, ...],
    action: Action,
    *,
    tcp: bool,
    prefix: str = "",
) -> Fields:
    result: dict[str, Fields] = {}
    for config in found:
        for number, rule in enumerate(config.spec.rules):
            made = _rule(rule, config.namespace, domains, deny=action is not Action.ALLOW, tcp=tcp)
            if made is not None:
                result[f"{prefix}ns[{config.namespace}]-policy[{config.name}]-rule[{number}]"] = made
    return result


def _rule(rule: AuthorizationRule, namespace: str, domains: tuple[str, ...], *, deny: bool, tcp: bool) -> Fields | None:
    """A policy; None where an ALLOW rule asks for HTTP on a TCP connection, which it then cannot allow."""
    builder = _Builder(namespace, domains, tcp=tcp, deny=deny)
    conditions = [builder.condition(c) for c in rule.when]
    permissions = [builder.operation(t.operation) for t in rule.to] or [[]]
    principals = [builder.source(f.source) for f in rule.from_] or [[]]
    if builder.impossible:
        return None
    asked = [p for p, _ in conditions if p]
    of_whom = [p for _, p in conditions if p]
    return {
        "permissions": [_and([*p, *(x for group in asked for x in group)], "rules") for p in permissions],
        "principals": [_and([*p, *(x for group in of_whom for x in group)], "ids") for p in principals],
    }


def _and(parts: Sequence[Fields], field: str) -> Fields:
    if not parts:
        return _ANY
    return {f"and_{field}": {field: list(parts)}}


class _Builder:
    """Fields of a rule into permissions and principals. Values of one field are alternatives."""

    def __init__(self, namespace: str, domains: tuple[str, ...], *, tcp: bool, deny: bool) -> None:
        self.namespace = namespace
        self.domains = domains
        self.tcp = tcp
        self.deny = deny
        self.impossible = False

    def operation(self, operation: Operation | None) -> list[Fields]:
        if operation is None:
            return []
        return [
            *self._both(operation.hosts, operation.not_hosts, _host, "rules", http=True),
            *self._both(operation.methods, operation.not_methods, _method, "rules", http=True),
            *self._both(operation.paths, operation.not_paths, _path, "rules", http=True),
            *self._both(operation.ports, operation.not_ports, _port, "rules"),
        ]

    def source(self, source: Source | None) -> list[Fields]:
        if source is None:
            return []
        return [
            *self._both(source.principals, source.not_principals, self._principal, "ids"),
            *self._both(source.request_principals, source.not_request_principals, _request_principal, "ids", http=True),
            *self._both(source.namespaces, source.not_namespaces, _namespace, "ids"),
            *self._both(source.service_accounts, source.not_service_accounts, self._service_account, "ids"),
            *self._both(source.trust_domains, source.not_trust_domains, self._trust_domain, "ids"),
            *self._both(source.ip_blocks, source.not_ip_blocks, lambda v: {"direct_remote_ip": cidr(v)}, "ids"),
            *self._both(source.remote_ip_blocks, source.not_remote_ip_blocks, lambda v: {"remote_ip": cidr(v)}, "ids"),
        ]

    def _both(
        self, values: Sequence[str], nots: Sequence[str], matcher: Matcher, field: str, *, http: bool = False
    ) -> list[Fields]:
        if not values and not nots:
            return []
        if http and self.tcp:
            # on TCP an ALLOW rule with it allows nothing; a DENY rule goes by what is left
            self.impossible |= not self.deny
            return []
        result = []
        if values:
            result.append(_or([matcher(v) for v in values], field))
        if nots:
            result.append({f"not_{field[:-1]}": _or([matcher(v) for v in nots], field)})
        return result

    def _principal(self, value: str) -> Fields:
        names = _in_every_domain(value, self.domains)
        return _or([{"authenticated": {"principal_name": _spiffe(name)}} for name in names], "ids")

    def _service_account(self, value: str) -> Fields:
        """`name`, of the policy's own namespace, or `namespace/name`."""
        namespace, slash, name = value.partition("/")
        if not slash:
            namespace, name = self.namespace, value
        return _authenticated(f"spiffe://.+/ns/{re.escape(namespace)}/(.+/|)sa/{re.escape(name)}(/.+)?")

    def _trust_domain(self, value: str) -> Fields:
        """A trust domain, or a pattern; the mesh's own by all of its names."""
        own = value in (*self.domains, "cluster.local")
        return _or([_of_domain(name) for name in (self.domains if own else (value,))], "ids")

    def condition(self, condition: Condition) -> tuple[list[Fields], list[Fields]]:
        """A `when` entry as (permissions, principals): one of them is empty."""
        key = condition.key
        simple: dict[str, tuple[Matcher, str, bool]] = {
            "source.ip": (lambda v: {"direct_remote_ip": cidr(v)}, "ids", False),
            "remote.ip": (lambda v: {"remote_ip": cidr(v)}, "ids", False),
            "source.namespace": (_namespace, "ids", False),
            "source.principal": (self._principal, "ids", False),
            "source.serviceAccount": (self._service_account, "ids", False),
            "source.trustDomain": (self._trust_domain, "ids", False),
            "request.auth.principal": (_request_principal, "ids", True),
            "request.auth.audiences": (lambda v: _claim(["aud"], v), "ids", True),
            "request.auth.presenter": (lambda v: _claim(["azp"], v), "ids", True),
            "destination.ip": (lambda v: {"destination_ip": cidr(v)}, "rules", False),
            "destination.port": (_port, "rules", False),
            "connection.sni": (lambda v: {"requested_server_name": string_matcher(v)}, "rules", False),
        }
        if key in simple:
            matcher, field, is_http = simple[key]
        elif key.startswith("request.headers["):
            name = key[len("request.headers[") : -1]
            matcher, field, is_http = (lambda v: {"header": _header(name, v)}), "ids", True
        elif key.startswith("request.auth.claims["):
            path = key[len("request.auth.claims[") : -1].split("][")
            matcher, field, is_http = (lambda v: _claim(path, v)), "ids", True
        elif key.startswith("experimental.envoy.filters."):
            name, _, rest = key[len("experimental.") :].partition("[")
            matcher, field, is_http = (lambda v: {"metadata": _metadata(name, [rest[:-1]], v)}), "rules", False
        else:
            self.impossible = True  # an attribute nobody knows: validation has refused it; it must not allow
            return [], []
        made = self._both(condition.values, condition.not_values, matcher, field, http=is_http)
        return (made, []) if field == "rules" else ([], made)


def _or(parts: list[Fields], field: str) -> Fields:
    return parts[0] if len(parts) == 1 else {f"or_{field}": {field: parts}}


# Values


def string_matcher(value: str, *, ignore_case: bool = False) -> Fields:
    """`abc`, `abc*`, `*abc`; `*` is anything that is there."""
    if value == "*":
        return {"safe_regex": regex(".+")}
    if value.startswith("*"):
        fields: Fields = {"suffix": value[1:]}
    elif value.endswith("*"):
        fields = {"prefix": value[:-1]}
    else:
        fields = {"exact": value}
    if ignore_case:
        fields["ignore_case"] = True
    return fields


def _header(name: str, value: str, *, ignore_case: bool = False) -> Fields:
    if value == "*":
        return {"name": name, "present_match": True}
    return {"name": name, "string_match": string_matcher(value, ignore_case=ignore_case)}


def _host(value: str) -> Fields:
    return {"header": _header(":authority", value, ignore_case=True)}


def _method(value: str) -> Fields:
    return {"header": _header(":method", value)}


def _path(value: str) -> Fields:
    if "{*}" in value or "{**}" in value:
        template = extension(
            "uri-template",
            "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
            {"path_template": value.replace("{**}", "**").replace("{*}", "*")},
        )
        return {"uri_template": template}
    return {"url_path": {"path": string_matcher(value)}}


def _port(value: str) -> Fields:
    return {"destination_port": int(value)}


def _in_every_domain(value: str, domains: tuple[str, ...]) -> list[str]:
    """A whole principal under each name of the trust domain; patterns and those of foreign domains stay as they are."""
    domain, _, rest = value.partition("/")
    if value.count("/") != 4 or domain not in (*domains, "cluster.local"):
        return [value]
    return list(dict.fromkeys(f"{d}/{rest}" for d in domains))


def _spiffe(value: str) -> Fields:
    if value == "*":
        return {"safe_regex": regex(".+")}
    if value.startswith("*"):
        return {"safe_regex": regex(f"spiffe://.*{re.escape(value[1:])}")}
    if value.endswith("*"):
        return {"prefix": f"spiffe://{value[:-1]}"}
    return {"exact": f"spiffe://{value}"}


def _authenticated(pattern: str) -> Fields:
    return {"authenticated": {"principal_name": {"safe_regex": regex(pattern)}}}


def _namespace(value: str) -> Fields:
    return _authenticated(f".*/ns/{'.*'.join(re.escape(p) for p in value.split('*'))}/.*")


def _of_domain(value: str) -> Fields:
    if value == "*":
        return {"authenticated": {"principal_name": {"prefix": "spiffe://"}}}
    if "*" in value:
        return _authenticated(f"spiffe://{'[^/]*'.join(re.escape(p) for p in value.split('*', 1))}/.*")
    return {"authenticated": {"principal_name": {"prefix": f"spiffe://{value}/"}}}


def _metadata(name: str, path: list[str], value: str) -> Fields:
    form: Fields = {"string_match": string_matcher(value)}
    return {
        "filter": name,
        "path": [{"key": key} for key in path],
        "value": {"or_match": {"value_matchers": [form, {"list_match": {"one_of": form}}]}},
    }


def _claim(path: list[str], value: str) -> Fields:
    return {"metadata": _metadata(_JWT, ["payload", *path], value)}


def _request_principal(value: str) -> Fields:
    """`issuer/subject`, divided at the last slash; a wildcard at either end belongs to its part.

    Without a slash, a value with a wildcard in front is a subject's end, any other an issuer.
    """
    issuer, slash, subject = value.rpartition("/")
    if value == "*":
        issuer, subject = "*", "*"
    elif not slash:
        issuer, subject = ("*", value) if value.startswith("*") else (value, "*" if value.endswith("*") else "")
    return {"and_ids": {"ids": [_claim(["iss"], issuer), _claim(["sub"], subject)]}}


# CUSTOM: ask somebody else


@query
def custom_http(db: Db, view: View) -> tuple[Fields, ...]:
    return _custom(db, view, tcp=False)


@query
def custom_tcp(db: Db, view: View) -> tuple[Fields, ...]:
    return _custom(db, view, tcp=True)


def _custom(db: Db, view: View, *, tcp: bool) -> tuple[Fields, ...]:
    """Two filters: one only finds out whether a rule matches, the other then asks the provider."""
    found = [
        c
        for c in authorization.policies(db, view.namespace, view.labels, Action.CUSTOM, view.gateway_name)
        if not _is_dry(c)
    ]
    if not found:
        return ()
    names = sorted({c.spec.provider.name for c in found if c.spec.provider is not None})
    domains = trust_domains(db)
    settings = provider(db, names[0]) if len(names) == 1 else None
    asked = _ext_authz(db, settings, tcp=tcp) if settings is not None else None
    if asked is None:
        if tcp and settings is not None and settings.envoy_ext_authz_http is not None:
            return ()  # an HTTP provider has nothing to say about TCP
        # no provider, or more than one: whatever the rules match is refused rather than let through unasked
        rules = _policies(found, domains, Action.CUSTOM, tcp=tcp)
        return (_rbac({"rules": {"action": "DENY", "policies": rules}}, tcp=tcp),)
    prefix = f"istio-ext-authz-{names[0]}-"
    shadow = {
        "shadow_rules": {
            "action": "DENY",
            "policies": _policies(found, domains, Action.CUSTOM, tcp=tcp, prefix=prefix),
        },
        "shadow_rules_stat_prefix": "istio_ext_authz_",
    }
    enabled = {
        "filter": f"envoy.filters.{'network' if tcp else 'http'}.rbac",
        "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
        "value": {"string_match": {"prefix": f"istio-ext-authz-{names[0]}"}},
    }
    asked["filter_enabled_metadata"] = enabled
    kind = "network" if tcp else "http"
    message = f"envoy.extensions.filters.{kind}.ext_authz.v3.ExtAuthz"
    return (_rbac(shadow, tcp=tcp), extension(f"envoy.filters.{kind}.ext_authz", message, asked))


def _ext_authz(db: Db, found: ExtensionProvider, *, tcp: bool) -> Fields | None:
    settings: ExtAuthzGrpc | None = found.envoy_ext_authz_grpc
    web: ExtAuthzHttp | None = found.envoy_ext_authz_http
    settings = settings or web
    if settings is None or (tcp and web is not None):
        return None
    cluster = telemetry.provider_cluster(db, settings.service, settings.port)
    if cluster is None:
        return None
    timeout = duration(settings.timeout) if settings.timeout is not None else seconds(600)
    fields: Fields = {"transport_api_version": "V3", "failure_mode_allow": settings.fail_open}
    if tcp:
        fields["stat_prefix"] = "tcp."
    else:
        if settings.status_on_error.isdigit():
            fields["status_on_error"] = {"code": int(settings.status_on_error)}
        if settings.clear_route_cache:
            fields["clear_route_cache"] = True
        if (body := settings.include_request_body_in_check) is not None:
            fields["with_request_body"] = {
                "max_request_bytes": body.max_request_bytes,
                "allow_partial_message": body.allow_partial_message,
                "pack_as_bytes": body.pack_as_bytes,
            }
    if web is None:
        fields["grpc_service"] = {
            "envoy_grpc": {"cluster_name": cluster, "authority": cluster.rpartition("|")[2]},
            "timeout": timeout,
        }
        return fields
    fields["http_service"] = _http_service(web, cluster, timeout)
    headers = web.include_request_headers_in_check or web.include_headers_in_check
    if headers:
        fields["allowed_headers"] = _patterns(headers)
    return fields


def _http_service(web: ExtAuthzHttp, cluster: str, timeout: Fields) -> Fields:
    host = cluster.rpartition("|")[2]
    fields: Fields = {
        "server_uri": {"uri": f"http://{host}", "cluster": cluster, "timeout": timeout},
    }
    if web.path_prefix:
        fields["path_prefix"] = web.path_prefix
    if web.include_additional_headers_in_check:
        added = [{"key": k, "value": v} for k, v in sorted(web.include_additional_headers_in_check.items())]
        fields["authorization_request"] = {"headers_to_add": added}
    response: Fields = {}
    for field, values in (
        ("allowed_upstream_headers", web.headers_to_upstream_on_allow),
        ("allowed_client_headers_on_success", web.headers_to_downstream_on_allow),
        ("allowed_client_headers", web.headers_to_downstream_on_deny),
    ):
        if values:
            response[field] = _patterns(values)
    if response:
        fields["authorization_response"] = response
    return fields


def _patterns(values: Iterable[str]) -> Fields:
    return {"patterns": [string_matcher(v, ignore_case=True) for v in values]}
