"""What the mesh is made from: the inputs of the engine and the properties by which they are found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from pilotfish.api import Config, networking, security, telemetry
from pilotfish.engine import Facet, Index, Input
from pilotfish.mesh import kubernetes as k8s
from pilotfish.mesh import names


class Ref(NamedTuple):
    """An object of a kind. Cluster-scoped objects have an empty namespace."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


SERVICES: Input[Ref, k8s.Service] = Input("Service")
ENDPOINT_SLICES: Input[Ref, k8s.EndpointSlice] = Input("EndpointSlice")
PODS: Input[Ref, k8s.Pod] = Input("Pod")
NODES: Input[Ref, k8s.Node] = Input("Node")
NAMESPACES: Input[Ref, k8s.Namespace] = Input("Namespace")
SECRETS: Input[Ref, k8s.Secret] = Input("Secret")
CONFIG_MAPS: Input[Ref, k8s.Secret] = Input("ConfigMap")

VIRTUAL_SERVICES: Input[Ref, Config[networking.VirtualService]] = Input("VirtualService")
DESTINATION_RULES: Input[Ref, Config[networking.DestinationRule]] = Input("DestinationRule")
GATEWAYS: Input[Ref, Config[networking.Gateway]] = Input("Gateway")
SERVICE_ENTRIES: Input[Ref, Config[networking.ServiceEntry]] = Input("ServiceEntry")
WORKLOAD_ENTRIES: Input[Ref, Config[networking.WorkloadEntry]] = Input("WorkloadEntry")
SIDECARS: Input[Ref, Config[networking.Sidecar]] = Input("Sidecar")
ENVOY_FILTERS: Input[Ref, Config[networking.EnvoyFilter]] = Input("EnvoyFilter")
PEER_AUTHENTICATIONS: Input[Ref, Config[security.PeerAuthentication]] = Input("PeerAuthentication")
REQUEST_AUTHENTICATIONS: Input[Ref, Config[security.RequestAuthentication]] = Input("RequestAuthentication")
AUTHORIZATION_POLICIES: Input[Ref, Config[security.AuthorizationPolicy]] = Input("AuthorizationPolicy")
TELEMETRIES: Input[Ref, Config[telemetry.Telemetry]] = Input("Telemetry")

JWKS: Input[str, str] = Input("JWKS")
"""Fetched key sets (JSON text) by URI; put in by whoever fetches them."""


def _namespace(ref: Ref, _value: object) -> list[str]:
    return [ref.namespace]


def _all(_ref: Ref, _value: object) -> list[str]:
    return [""]


SERVICES_IN = Index("Services in namespace", SERVICES, _namespace)
SERVICE_NAMES = Index("Services", SERVICES, _all)
NETWORK_GATEWAYS = Index(
    "Services that are gateways of network",
    SERVICES,
    lambda _r, s: [s.labels["topology.istio.io/network"]] if "topology.istio.io/network" in s.labels else [],
)
ALIASES_OF = Index("ExternalName Services of", SERVICES, lambda _r, s: [s.external_name] if s.external_name else [])
SLICES_OF = Index("EndpointSlices of", ENDPOINT_SLICES, lambda r, s: [Ref(r.namespace, s.service)])
PODS_IN = Index("Pods in namespace", PODS, _namespace)
VIRTUAL_SERVICES_AT = Index(
    "VirtualServices of gateway", VIRTUAL_SERVICES, lambda _r, c: set(c.spec.gateways or ("mesh",)) | _match_gateways(c)
)
SOURCE_LABEL_MATCHES = Index(
    "VirtualServices that match source labels", VIRTUAL_SERVICES, lambda _r, c: [""] if source_labels(c.spec) else []
)
DESTINATION_RULES_FOR = Index("DestinationRules for host", DESTINATION_RULES, lambda _r, c: [c.spec.host])
WILDCARD_DESTINATION_RULES = Index(
    "DestinationRules with wildcard host", DESTINATION_RULES, lambda _r, c: [""] if c.spec.host[:1] == "*" else []
)
SELECTING_DESTINATION_RULES = Index(
    "DestinationRules that select clients", DESTINATION_RULES, lambda _r, c: [""] if c.spec.workload_selector else []
)
CREDENTIAL_RULES = Index(
    "DestinationRules with credentials", DESTINATION_RULES, lambda _r, c: [""] if _has_credential(c.spec) else []
)
SERVICE_ENTRIES_IN = Index("ServiceEntries in namespace", SERVICE_ENTRIES, _namespace)
SERVICE_ENTRY_NAMES = Index("ServiceEntries", SERVICE_ENTRIES, _all)
SERVICE_ENTRIES_FOR = Index(
    "ServiceEntries for host", SERVICE_ENTRIES, lambda r, c: {(r.namespace, h) for h in c.spec.hosts}
)
WORKLOAD_ENTRIES_IN = Index("WorkloadEntries in namespace", WORKLOAD_ENTRIES, _namespace)
SIDECARS_IN = Index("Sidecars in namespace", SIDECARS, _namespace)
ENVOY_FILTERS_IN = Index("EnvoyFilters in namespace", ENVOY_FILTERS, _namespace)
PEER_AUTHENTICATIONS_IN = Index("PeerAuthentications in namespace", PEER_AUTHENTICATIONS, _namespace)
REQUEST_AUTHENTICATIONS_IN = Index("RequestAuthentications in namespace", REQUEST_AUTHENTICATIONS, _namespace)
AUTHORIZATION_POLICIES_IN = Index("AuthorizationPolicies in namespace", AUTHORIZATION_POLICIES, _namespace)
TELEMETRIES_IN = Index("Telemetries in namespace", TELEMETRIES, _namespace)
GATEWAYS_SELECTING = Index("Gateways selecting", GATEWAYS, lambda _r, c: [min(c.spec.selector.items(), default=None)])
"""By the first pair of the selector: a workload's gateways are under one of its labels, or under None."""

GATEWAYS_NAMING = Index("Gateways with credential", GATEWAYS, lambda _r, c: _credentials(c.spec))


def _credentials(spec: networking.Gateway) -> set[str]:
    settings = [server.tls for server in spec.servers if server.tls is not None]
    named = {n for t in settings for n in (*t.credential_names, t.credential_name, t.ca_cert_credential_name)}
    return {name.removeprefix("kubernetes://") for name in named if name}


def _has_credential(spec: networking.DestinationRule) -> bool:
    policies = [p for p in (spec.traffic_policy, *(s.traffic_policy for s in spec.subsets)) if p is not None]
    settings = [p.tls for p in policies] + [level.tls for p in policies for level in p.port_level_settings]
    return any(tls is not None and tls.credential_name for tls in settings)


def source_labels(spec: networking.VirtualService) -> set[str]:
    """The keys of all source labels that matches ask for."""
    matches: list[Any] = [m for r in spec.http for m in r.match]
    matches += [m for r in spec.tls for m in r.match]
    matches += [m for r in spec.tcp for m in r.match]
    return {key for m in matches for key in m.source_labels}


VIRTUAL_SERVICE_HEADS = Facet("VirtualService", VIRTUAL_SERVICES, lambda _r, c: _head(c, http=(), tls=(), tcp=()))
"""Everything but the routes: what decides which VirtualService is used."""
DESTINATION_RULE_HEADS = Facet(
    "DestinationRule", DESTINATION_RULES, lambda _r, c: _head(c, traffic_policy=None, subsets=())
)
"""Everything but the policies: what decides which DestinationRule is used."""
SERVICE_ENTRY_HEADS = Facet("ServiceEntry", SERVICE_ENTRIES, lambda _r, c: _head(c, endpoints=()))
"""Everything but the endpoints."""


def _head(config: Config[Any], **cleared: Any) -> Config[Any]:
    return msgspec.structs.replace(config, spec=msgspec.structs.replace(config.spec, **cleared))


def _match_gateways(config: Config[networking.VirtualService]) -> set[str]:
    """Gateways that only a match names: Istio lets a match override the list above it."""
    spec = config.spec
    matches: list[Any] = [m for r in spec.http for m in r.match]
    matches += [m for r in spec.tls for m in r.match]
    matches += [m for r in spec.tcp for m in r.match]
    return {g for m in matches for g in m.gateways}


def resolve(config: Config[Any], domain: str) -> Config[Any]:
    """A config object with its short names completed and what no proxy depends on taken away."""
    spec = config.spec
    done = _RESOLVE.get(config.kind)
    return msgspec.structs.replace(
        config,
        spec=done(spec, config.namespace, domain) if done else spec,
        annotations=k8s.kept_annotations(config.annotations),
        generation=0,
        resource_version="",
        uid="",
        status=_kept_status(config),
        unknown=(),
    )


def _kept_status(config: Config[Any]) -> Mapping[str, Any]:
    if config.kind == "ServiceEntry" and config.status.get("addresses"):
        return {"addresses": config.status["addresses"]}
    if config.kind == "WorkloadEntry":
        conditions = config.status.get("conditions") or ()
        health = [c for c in conditions if c.get("type") == "Healthy"]
        if health:
            return {"healthy": health[0].get("status") != "False"}
        # Whose agent reports its health is not asked before it has.
        return {"healthy": False} if config.annotations.get("proxy.istio.io/health-checks-enabled") == "true" else {}
    return {}


def _virtual_service(spec: networking.VirtualService, namespace: str, domain: str) -> networking.VirtualService:
    def destination(d: Any) -> Any:
        return msgspec.structs.replace(d, host=names.complete(d.host, namespace, domain)) if d is not None else None

    def weighted(routes: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(msgspec.structs.replace(r, destination=destination(r.destination)) for r in routes)

    def matched(matches: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(
            msgspec.structs.replace(m, gateways=tuple(names.gateway_name(g, namespace) for g in m.gateways))
            if m.gateways
            else m
            for m in matches
        )

    return msgspec.structs.replace(
        spec,
        hosts=tuple(names.complete(h, namespace, domain) for h in spec.hosts),
        gateways=tuple(names.gateway_name(g, namespace) for g in spec.gateways),
        http=tuple(
            msgspec.structs.replace(
                r,
                match=matched(r.match),
                route=weighted(r.route),
                mirror=destination(r.mirror),
                mirrors=weighted(r.mirrors),
                delegate=msgspec.structs.replace(r.delegate, namespace=r.delegate.namespace or namespace)
                if r.delegate
                else None,
            )
            for r in spec.http
        ),
        tls=tuple(msgspec.structs.replace(r, match=matched(r.match), route=weighted(r.route)) for r in spec.tls),
        tcp=tuple(msgspec.structs.replace(r, match=matched(r.match), route=weighted(r.route)) for r in spec.tcp),
    )


def _destination_rule(spec: networking.DestinationRule, namespace: str, domain: str) -> networking.DestinationRule:
    return msgspec.structs.replace(spec, host=names.complete(spec.host, namespace, domain))


def _service_entry(spec: networking.ServiceEntry, _namespace: str, _domain: str) -> networking.ServiceEntry:
    return msgspec.structs.replace(spec, hosts=tuple(h.lower() for h in spec.hosts))


_RESOLVE: Mapping[str, Callable[[Any, str, str], Any]] = {
    "VirtualService": _virtual_service,
    "DestinationRule": _destination_rule,
    "ServiceEntry": _service_entry,
}
