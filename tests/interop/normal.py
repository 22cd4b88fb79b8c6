"""One form for configuration that means the same: the table of what may differ from Istio's, with reasons."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import Any

Message = dict[str, Any]

NOWHERE = {
    "alt_stat_name": "a name of statistics",
    "stat_prefix": "a name of statistics",
    "shadow_rules_stat_prefix": "a name of statistics",
    "access_log": "telemetry, which is made differently",
    "access_log_options": "telemetry",
    "decorator": "a name of spans",
    "tracing": "telemetry; Istio's code traces without saying where to",
    "request_id_extension": "tracing: whether the id decides on sampling",
    "early_header_mutation_extensions": "tracing",
    "runtime_key": "a name of Envoy's runtime",
    "typed_dns_resolver_config": "a bound on queries per socket",
    "cleanup_interval": "of sockets to original destinations: far away in both",
}
"""Fields that change no request, and why."""

DEFAULTS: tuple[tuple[str, Any], ...] = (
    ("case_sensitive", True),
    ("common_http_protocol_options", {}),
    ("common_lb_config", {}),
    ("explicit_http_config", {}),
    ("http_protocol_options", {}),
    ("initial_fetch_timeout", "0s"),
    ("max_connections_to_accept_per_socket_event", 1),
    ("path_redirect", ""),
    ("policies", {}),
    ("require_client_certificate", False),
    ("tls_params", {"tls_minimum_protocol_version": "TLSv1_2"}),
    ("transparent", False),
    ("typed_per_filter_config", {}),
    ("validation_context", {}),
)
"""What Envoy does anyway."""

PRIVATE = ("istio.", "envoy.filters.http.grpc_stats", "envoy.filters.network.mongo_proxy")
"""Filters that only measure, and Istio's own with what ours has for them."""


def _no_tls(one: Message) -> None:
    """Without TLS there is no handshake to wait for."""
    if "transport_socket" not in one:
        one.pop("transport_socket_connect_timeout", None)


def _no_listener_filters(one: Message) -> None:
    """Without listener filters nothing is waited for."""
    if "filter_chains" in one and not one.get("listener_filters"):
        one.pop("listener_filters_timeout", None)
        one.pop("continue_on_listener_filters_timeout", None)


def _inspected(one: Message) -> None:
    """Who is looked at on the inbound side is told by the chains; ours looks at fewer ports."""
    if one.get("traffic_direction") == "INBOUND":
        one.pop("listener_filters", None)


def _client_names(one: Message) -> None:
    """DNS names in our workload certificates are descriptions for proxies, and not told to applications."""
    if one.get("forward_client_cert_details") == "APPEND_FORWARD":
        one.get("set_current_client_cert_details", {}).pop("dns", None)


def _names_of_servers(one: Message) -> None:
    """Istio uses the old field, for which Envoy tries names of every type."""
    if "match_subject_alt_names" in one:
        one["match_typed_subject_alt_names"] = [{"matcher": m} for m in one.pop("match_subject_alt_names")]
    for name in one.get("match_typed_subject_alt_names", ()):
        name.pop("san_type", None)


def _mesh_protocols(one: Message) -> None:
    """Istio's private filter chooses what is offered to a peer; ours are in the cluster or a filter state."""
    if "istio" in one.get("alpn_protocols", ()):
        one["alpn_protocols"] = "mesh"
    one.get("typed_per_filter_config", {}).pop("istio.alpn", None)


def _claim_sets(one: Message) -> None:
    """A set of names."""
    if "space_delimited_claims" in one:
        one["space_delimited_claims"].sort()


def _no_keys(one: Message) -> None:
    """Keys that could not be fetched are replaced by such as nobody has: each has its own."""
    if any(word in one.get("local_jwks", {}).get("inline_string", "") for word in ("nobody", "0xObjM0UvS")):
        one["local_jwks"] = "nobody's"


def _escapes(one: Message) -> None:
    """A dash need not be escaped."""
    if isinstance(one.get("regex"), str):
        one["regex"] = one["regex"].replace("\\-", "-")


def _shares(one: Message) -> None:
    """A share of all is one, per hundred or per million."""
    if set(one) <= {"numerator", "denominator"} and one:
        per = {"HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}[one.pop("denominator", "HUNDRED")]
        one["numerator"] = one.get("numerator", 0) / per


def _policies(one: Message) -> None:
    """Names of policies, policies that match nobody, and the order of alternatives."""
    if "policies" in one:
        one["policies"] = {
            re.sub(r"^istio-ext-authz-\S+?-(ns\[)|-deny-due-to-bad-CUSTOM-action$", r"\1", name): {
                part: sorted(found, key=str) for part, found in policy.items()
            }
            for name, policy in one["policies"].items()
            if policy.get("permissions") != [{"not_rule": {"any": True}}]
        }


def _conditions(one: Message) -> None:
    """All conditions on headers and parameters must hold, in whatever order."""
    for field in ("headers", "query_parameters"):
        if isinstance(one.get(field), list):
            one[field].sort(key=str)


def _claims_of_routes(one: Message) -> None:
    """Which of the two forms of a claim is tried first."""
    for claim in one.get("dynamic_metadata", ()):
        claim["value"] = sorted(_claim(claim["value"]), key=str)


RULES: tuple[Callable[[Message], None], ...] = (
    _no_tls,
    _no_listener_filters,
    _inspected,
    _client_names,
    _names_of_servers,
    _mesh_protocols,
    _claim_sets,
    _no_keys,
    _escapes,
    _shares,
    _policies,
    _conditions,
    _claims_of_routes,
)
"""What else may differ; each says why. They change a message whose parts have been through them."""


def tidy(value: Any) -> Any:
    """The same in one form."""
    if isinstance(value, list):
        return [tidy(v) for v in value]
    if not isinstance(value, dict):
        return value
    made = {k: tidy(v) for k, v in value.items() if k not in NOWHERE}
    for rule in RULES:
        rule(made)
    made = {k: v for k, v in made.items() if (k, v) not in DEFAULTS}
    if len(made) == 1 and next(iter(made)) in _BOOLEAN:
        return _boolean(*next(iter(made.items())))
    if set(made) == {"metadata"} and "value" in made["metadata"]:
        values = _claim(made["metadata"]["value"])
        return _boolean("or_ids", {"ids": [{"metadata": {**made["metadata"], "value": v}} for v in values]})
    return made


_BOOLEAN = ("or_ids", "or_rules", "and_ids", "and_rules")


def _boolean(how: str, many: dict[str, list[Any]]) -> Any:
    """Alternatives and conditions of RBAC, flat, in one order, without those of one part."""
    word = how.partition("_")[0]
    parts: list[Any] = []
    for part in next(iter(many.values())):
        parts += part[word] if set(part) == {word} else [part]
    return parts[0] if len(parts) == 1 else {word: sorted(parts, key=str)}


def _claim(value: Any) -> list[Any]:
    """The values of a claim, which may be a string or a list of them in the token: each form is tried."""
    if "or_match" in value:
        found = [one for v in value["or_match"]["value_matchers"] for one in _claim(v)]
        return [one for i, one in enumerate(found) if one not in found[:i]]
    if "list_match" in value:
        return _claim(value["list_match"]["one_of"])
    return [value]


# Resources


def normal(resources: Mapping[str, Iterable[Message]]) -> dict[str, dict[str, Any]]:
    """All resources of a proxy by section and name; listeners by their addresses."""
    gateway = not any(one["name"] == "virtualInbound" for one in resources["listeners"])
    return {
        "clusters": {
            c["name"]: _cluster(c)
            for c in resources["clusters"]
            if not (gateway and c["name"] == "PassthroughCluster")  # no route of a gateway leads there
        },
        "endpoints": {e["cluster_name"]: made for e in resources["endpoints"] if (made := _assignment(e))},
        "listeners": {_where(one["address"]): _listener(one) for one in resources["listeners"]},
        "routes": {r["name"]: _routes(r) for r in resources["routes"]},
    }


def _where(address: Message) -> str:
    socket = address.get("socket_address")
    return f"{socket['address']}:{socket.get('port_value', 0)}" if socket else json.dumps(address)


def _cluster(one: Message) -> Message:
    made = tidy({k: v for k, v in one.items() if k not in ("metadata", "load_assignment")})
    if "load_assignment" in one:
        made["load_assignment"] = _assignment(one["load_assignment"])
    return dict(made)


def _assignment(one: Message) -> dict[str, list[str]]:
    """Endpoints by priority, locality and weight; those of no cluster and of an empty one are the same."""
    made: dict[str, list[str]] = {}
    for group in one.get("endpoints", ()):
        place = "/".join(group.get("locality", {}).get(part, "") for part in ("region", "zone", "sub_zone"))
        key = f"p{group.get('priority', 0)} {place} w{group.get('load_balancing_weight', '-')}"
        for e in group.get("lb_endpoints", ()):
            filters = e.get("metadata", {}).get("filter_metadata", {})
            mode = filters.get("envoy.transport_socket_match", {}).get("tlsMode", "")
            weight, health = e.get("load_balancing_weight", 1), e.get("health_status", "HEALTHY")
            made.setdefault(key, []).append(f"{_where(e['endpoint']['address'])} w{weight} {health} {mode}")
    return {k: sorted(v) for k, v in made.items()}


def _listener(one: Message) -> Message:
    made: Message = tidy({k: v for k, v in one.items() if k not in ("name", "metadata")})
    last = [made.pop("default_filter_chain")] if "default_filter_chain" in made else []
    chains: Message = {}
    for chain in [*made.pop("filter_chains", []), *last]:
        body = {k: v for k, v in chain.items() if k not in ("name", "metadata", "filter_chain_match")}
        body["filters"] = _filters(chain.get("filters", []))
        for key in _matches(chain.get("filter_chain_match", {})):
            chains.setdefault(key, body)  # Envoy refuses a listener with two equal matches; ours leaves the second out
    for key in [k for k in chains if "transport_protocol=raw_buffer" in k]:
        port = key.replace(" transport_protocol=raw_buffer", "").replace("transport_protocol=raw_buffer", "")
        if port not in chains and f"{port} transport_protocol=tls".strip() not in chains:
            chains[port] = chains.pop(key)  # nobody looks for TLS on such a port, so all is raw
    return {**made, "chains": chains}


def _matches(match: Message) -> Iterator[str]:
    """A match with several server names or ranges is as many matches."""
    parts = []
    for field, value in sorted(match.items()):
        every = value if isinstance(value, list) else [value]
        parts.append([f"{field}={'/'.join(str(x) for x in v.values()) if isinstance(v, dict) else v}" for v in every])
    return (" ".join(one) for one in product(*parts))


def _filters(found: Iterable[Message]) -> list[Message]:
    return [_filter(one) for one in found if not one["name"].startswith(PRIVATE)]


def _filter(one: Message) -> Message:
    config = dict(one.get("typed_config", {}))
    if "http_filters" in config:
        config["http_filters"] = _filters(config["http_filters"])
    if "route_config" in config:
        config["route_config"] = _routes(config["route_config"])
    return {**one, "typed_config": config}


def _routes(one: Message) -> Message:
    made: Message = tidy(one)
    hosts: Message = {}
    for host in made.pop("virtual_hosts", []):
        body = {k: v for k, v in host.items() if k not in ("name", "domains", "routes")}
        every = [{k: v for k, v in r.items() if k not in ("metadata", "name")} for r in host.get("routes", ())]
        hosts |= {domain: {**body, "routes": every} for domain in host["domains"]}
    return {**made, "hosts": hosts}
