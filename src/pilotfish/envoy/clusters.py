"""Outbound clusters: one for every service, port and subset, and the fixed ones."""

from __future__ import annotations

from typing import NamedTuple

from pilotfish.api.mesh import H2Upgrade
from pilotfish.api.networking.destination_rule import ClientTLSMode, H2UpgradePolicy, SimpleLB, TrafficPolicy
from pilotfish.api.security import MutualTLSMode
from pilotfish.engine import Db, query
from pilotfish.envoy import endpoints as eds
from pilotfish.envoy import tls, traffic_policy
from pilotfish.envoy.proto import Fields, extension, pack
from pilotfish.envoy.resource import CLUSTER, Resource, build
from pilotfish.envoy.values import (
    ADS_AT_ONCE,
    config_path,
    duration,
    metadata,
    number,
    seconds,
    struct,
)
from pilotfish.mesh import authentication, destination_rules, endpoints, visibility
from pilotfish.mesh.config import mesh
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.ports import Protocol
from pilotfish.mesh.proxies import View, keeps_header_case, proxy_config
from pilotfish.mesh.services import Port, Resolution, Service, ServiceKey, service
from pilotfish.mesh.visibility import Scope
from pilotfish.mesh.workloads import Labels

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

BLACK_HOLE, PASSTHROUGH, INBOUND_PASSTHROUGH = "BlackHoleCluster", "PassthroughCluster", "InboundPassthroughCluster"


class Client(NamedTuple):
    """What of a proxy an outbound cluster depends on; the rest is in the rules chosen for it."""

    gateway: bool
    ipv4: bool
    ipv6: bool
    header_case: bool
    """HTTP/1 header names go on as they were written."""

    @classmethod
    def of(cls, db: Db, view: View) -> Client:
        return cls(not view.is_sidecar, view.ipv4, view.ipv6, keeps_header_case(proxy_config(db, view)))


def cluster_name(port: int, subset: str, host: str) -> str:
    return f"outbound|{port}|{subset}|{host}"


def dns_san(port: int, subset: str, host: str) -> str:
    """The name in SNI by which a mesh client asks for a cluster."""
    return f"{eds.SNI_PREFIX}{port}_.{subset}_.{host}"


def rules_for(db: Db, view: View, key: ServiceKey) -> tuple[Ref, ...]:
    """The DestinationRules a proxy uses for a service; its labels count only where a rule selects clients."""
    selecting = any(h.selector for h in destination_rules.candidates(db, key.host))
    labels: Labels = view.labels if selecting else ()
    return destination_rules.rules_for(db, view.namespace, labels, key.namespace, key.host)


def kind_of(found: Service, policy: TrafficPolicy, gateway: bool) -> str:
    """Envoy's discovery type of a cluster."""
    balancer = policy.load_balancer
    if balancer is not None and balancer.simple is SimpleLB.PASSTHROUGH:
        return "ORIGINAL_DST"
    if found.resolution is Resolution.PASSTHROUGH:
        return "EDS" if gateway else "ORIGINAL_DST"  # what comes to a gateway was for the gateway
    return {
        Resolution.ENDPOINTS: "EDS",
        Resolution.DNS: "STRICT_DNS",
        Resolution.DNS_ROUND_ROBIN: "LOGICAL_DNS",
        Resolution.DYNAMIC_DNS: "DYNAMIC",
    }[found.resolution]


@query
def is_eds(db: Db, gateway: bool, key: ServiceKey, port: int, subset: str, refs: tuple[Ref, ...]) -> bool:
    """Whether a cluster's endpoints come separately."""
    found = service(db, key.namespace, key.host)
    return found is not None and kind_of(found, destination_rules.policy(db, refs, subset, port), gateway) == "EDS"


@query
def outbound(db: Db, client: Client, key: ServiceKey, port: int, subset: str, refs: tuple[Ref, ...]) -> Resource | None:
    """The cluster of one service, port and subset, for all clients that use the same rules."""
    found = service(db, key.namespace, key.host)
    at = found.port(port) if found is not None else None
    if found is None or at is None:
        return None
    config = mesh(db)
    policy = destination_rules.policy(db, refs, subset, port)
    kind = kind_of(found, policy, client.gateway)
    name = cluster_name(port, subset, key.host)
    fields: Fields = {
        "name": name,
        "alt_stat_name": f"{name};",
        "circuit_breakers": traffic_policy.circuit_breakers(policy),
        **traffic_policy.connection(policy, config),
        "common_lb_config": {},
        "metadata": _metadata(found, subset, refs),
    }
    outlier = traffic_policy.outlier_detection(policy.outlier_detection)
    if outlier is not None:
        fields["outlier_detection"] = outlier
    # without a floor, unhealthy endpoints must not bring on panic routing to everything
    fields["common_lb_config"]["healthy_panic_threshold"] = number(
        traffic_policy.min_health_percent(policy.outlier_detection)
    )
    fields |= _discovery(db, client, found, at, subset, refs, kind, policy)
    protocol = _upstream_protocol(at.protocol, policy, client.gateway, config.h2_upgrade_policy)
    options = http_options(policy, protocol, http1(client.header_case) if not at.protocol.is_tcp else {})
    fields |= _security(db, client, found, at, subset, refs, policy, kind, protocol, options)
    if options:
        fields["typed_extension_protocol_options"] = {HTTP_OPTIONS: pack(HTTP_OPTIONS, options)}
    return build(CLUSTER, fields)


def service_metadata(found: Service) -> Fields:
    """What tools read of a cluster's service (`services`), and what metrics do (`service`)."""
    name = found.name if found.kubernetes else found.host  # as Istio names what a ServiceEntry makes
    return {
        "services": [{"host": found.host, "name": name, "namespace": found.namespace}],
        "service": f"{found.host}~{name}~{found.namespace}",
    }


def _metadata(found: Service, subset: str, refs: tuple[Ref, ...]) -> Fields:
    istio = service_metadata(found)
    if refs:
        istio["config"] = config_path("DestinationRule", refs[0].namespace, refs[0].name)
    if subset:
        istio["subset"] = subset
    if found.external:
        istio["external"] = True
    return metadata(istio=istio)


def _discovery(
    db: Db,
    client: Client,
    found: Service,
    port: Port,
    subset: str,
    refs: tuple[Ref, ...],
    kind: str,
    policy: TrafficPolicy,
) -> Fields:
    balancer = traffic_policy.load_balancer(policy.load_balancer)
    if kind == "ORIGINAL_DST":
        override: Fields = {}
        if not found.kubernetes and isinstance(port.target, int) and port.target != port.number:
            override = {"original_dst_lb_config": {"upstream_port_override": number(port.target)}}
        return {"type": kind, "lb_policy": "CLUSTER_PROVIDED", **override}
    if kind == "EDS":
        return {
            "type": kind,
            **balancer,
            "eds_cluster_config": {
                "service_name": cluster_name(port.number, subset, found.host),
                "eds_config": ADS_AT_ONCE,
            },
            **_locality_weighted(db, found, policy),
        }
    if kind == "DYNAMIC":
        return {
            "lb_policy": "CLUSTER_PROVIDED",
            "cluster_type": extension(
                "envoy.clusters.dynamic_forward_proxy",
                "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
                {"dns_cache_config": dns_cache(client)},
            ),
        }
    where = eds.Where.anywhere(client.ipv4, client.ipv6)
    return {
        "type": kind,
        **balancer,
        "dns_lookup_family": family(client),
        "dns_refresh_rate": duration(mesh(db).dns_refresh_rate),
        "dns_jitter": seconds(0.1),
        "respect_dns_ttl": True,
        "load_assignment": eds.assignment_fields(db, where, found.key, port.number, subset, refs),
        **_locality_weighted(db, found, policy),
    }


def dns_cache(client: Client) -> Fields:
    """The cache that dynamic clusters and the filter before them share: both must say the same."""
    return {"name": "dynamic_forward_proxy_cache", "dns_lookup_family": family(client)}


def dynamic_filter(db: Db, view: View) -> Fields:
    """The HTTP filter that resolves the host of a request to a dynamic cluster; others pass it untouched."""
    return extension(
        "envoy.filters.http.dynamic_forward_proxy",
        "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig",
        {"dns_cache_config": dns_cache(Client.of(db, view))},
    )


@query
def has_dynamic(db: Db, scope: Scope) -> bool:
    """Whether any service a proxy sees is resolved at the time of the request."""
    found = (service(db, *i.key) for listener in visibility.egress(db, scope) for i in listener.services)
    return any(s is not None and s.resolution is Resolution.DYNAMIC_DNS for s in found)


def family(client: Client) -> str:
    return "ALL" if client.ipv4 and client.ipv6 else "V4_ONLY" if client.ipv4 else "V6_ONLY"


def _locality_weighted(db: Db, found: Service, policy: TrafficPolicy) -> Fields:
    """Weights between localities count only where something distributes or fails over between them."""
    if not eds.weighs_localities(db, found, policy):
        return {}
    return {
        "common_lb_config": {
            "locality_weighted_lb_config": {},
            "healthy_panic_threshold": number(traffic_policy.min_health_percent(policy.outlier_detection)),
        }
    }


def _upstream_protocol(declared: Protocol, policy: TrafficPolicy, gateway: bool, upgrade: H2Upgrade) -> Protocol:
    """How requests go upstream: HTTP, HTTP2, AUTO (as they came) or TCP (nothing said)."""
    http = policy.connection_pool.http if policy.connection_pool is not None else None
    if http is not None and http.use_client_protocol and not declared.is_tcp:
        return Protocol.AUTO
    asked = http.h2_upgrade_policy if http is not None else H2UpgradePolicy.DEFAULT
    if asked is H2UpgradePolicy.UPGRADE and not declared.is_http2:
        return Protocol.HTTP2
    if declared.is_http2:
        return Protocol.HTTP2
    if declared.is_http:
        mesh_wide = asked is H2UpgradePolicy.DEFAULT and upgrade is H2Upgrade.UPGRADE
        return Protocol.HTTP2 if mesh_wide else Protocol.HTTP
    if declared is Protocol.AUTO:
        return Protocol.HTTP if gateway else Protocol.AUTO
    return Protocol.TCP


@query
def upstream_protocol(
    db: Db, gateway: bool, key: ServiceKey, port: int, subset: str, refs: tuple[Ref, ...]
) -> Protocol:
    """The same, for those who route to the cluster."""
    found = service(db, key.namespace, key.host)
    at = found.port(port) if found is not None else None
    if at is None:
        return Protocol.HTTP
    policy = destination_rules.policy(db, refs, subset, port)
    return _upstream_protocol(at.protocol, policy, gateway, mesh(db).h2_upgrade_policy)


def http1(header_case: bool) -> Fields:
    """Options of HTTP/1 codecs, downstream and upstream alike."""
    return {"header_key_format": _AS_WRITTEN} if header_case else {}


_AS_WRITTEN = {
    "stateful_formatter": extension(
        "preserve_case", "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"
    )
}


def http_options(policy: TrafficPolicy, protocol: Protocol, http1: Fields) -> Fields:
    """HttpProtocolOptions of a cluster; `http1` are those of its HTTP/1 codec."""
    options: Fields = {}
    if common := traffic_policy.common_http(policy):
        options["common_http_protocol_options"] = common
    if protocol is Protocol.HTTP2:
        options["explicit_http_config"] = {"http2_protocol_options": traffic_policy.http2(policy)}
    elif protocol is Protocol.AUTO:
        options["use_downstream_protocol_config"] = {
            "http_protocol_options": http1,
            "http2_protocol_options": traffic_policy.http2(policy),
        }
    elif options or http1:
        options["explicit_http_config"] = {"http_protocol_options": http1}
    if (matcher := traffic_policy.error_matcher(policy.outlier_detection)) is not None:
        options["outlier_detection"] = matcher
        if not options.keys() & {"explicit_http_config", "use_downstream_protocol_config"}:
            options["explicit_http_config"] = {"http_protocol_options": {}}
    return options


def alpn_for(protocol: Protocol) -> tuple[str, ...]:
    """What a mesh client offers to a cluster. AUTO clusters also carry TCP, so HTTP routes to them override it."""
    if protocol is Protocol.HTTP2:
        return tls.HTTP2_ALPN
    return tls.HTTP_ALPN if protocol is Protocol.HTTP else tls.TCP_ALPN


def _security(
    db: Db,
    client: Client,
    found: Service,
    port: Port,
    subset: str,
    refs: tuple[Ref, ...],
    policy: TrafficPolicy,
    kind: str,
    protocol: Protocol,
    options: Fields,
) -> Fields:
    """TLS towards the endpoints; changes `options` where names are taken from the request."""
    config, settings = mesh(db), policy.tls
    socket: Fields | None = None
    if settings is None:
        if not config.enable_auto_mtls or found.external:
            return _proxy_protocol(policy, None)
        if authentication.namespace_mtls(db, found.namespace)[0] is MutualTLSMode.DISABLE:
            return _proxy_protocol(policy, None)
        sni = dns_san(port.number, subset, found.host)
        socket = tls.mesh_client(sni, _identities(db, found, port.number), alpn_for(protocol), config.mesh_mtls)
        if kind == "ORIGINAL_DST":
            # endpoints are not told one by one, so all of them must be able
            return _proxy_protocol(policy, socket if all_capable(db, found.key, port.number) else None)
        plain = {"name": "envoy.transport_sockets.raw_buffer", "typed_config": pack(_RAW)}
        return {
            "transport_socket_matches": [
                {"name": "tlsMode-istio", "match": _TLS_MODE, **_wrapped("transport_socket", policy, socket)},
                {"name": "tlsMode-disabled", "match": {}, **_wrapped("transport_socket", policy, plain)},
            ]
        }
    if settings.mode is ClientTLSMode.ISTIO_MUTUAL:
        sni = settings.sni or dns_san(port.number, subset, found.host)
        sans = settings.subject_alt_names or _identities(db, found, port.number)
        socket = tls.mesh_client(sni, sans, alpn_for(protocol), config.mesh_mtls)
    elif settings.mode in (ClientTLSMode.SIMPLE, ClientTLSMode.MUTUAL):
        socket = tls.client(
            settings,
            config.tls_defaults,
            http2=protocol is Protocol.HTTP2,
            gateway=client.gateway,
            credentials=chooses_clients(db, refs),
            sans=found.subject_alt_names if found.external else (),
        )
        if socket is not None and not settings.sni:  # HTTP may be routed here whatever the port declares
            upstream: Fields = {"auto_sni": True}
            if not settings.subject_alt_names and not settings.insecure_skip_verify and not found.subject_alt_names:
                upstream["auto_san_validation"] = True
            options["upstream_http_protocol_options"] = upstream
            if not options.keys() & {"explicit_http_config", "use_downstream_protocol_config"}:
                options["explicit_http_config"] = {"http_protocol_options": {}}
    return _proxy_protocol(policy, socket)


def chooses_clients(db: Db, refs: tuple[Ref, ...]) -> bool:
    """Whether rules are for selected clients only: then a sidecar may be given the credentials they name."""
    return any((head := destination_rules.head(db, ref)) is not None and head.selector for ref in refs)


_RAW = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
_TLS_MODE = struct({"tlsMode": "istio"})
_PROXY_PROTOCOL = "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport"


def _wrapped(field: str, policy: TrafficPolicy, socket: Fields) -> Fields:
    if policy.proxy_protocol is None:
        return {field: socket}
    wrapper = {"config": {"version": policy.proxy_protocol.version.value}, "transport_socket": socket}
    return {field: extension("envoy.transport_sockets.upstream_proxy_protocol", _PROXY_PROTOCOL, wrapper)}


def _proxy_protocol(policy: TrafficPolicy, socket: Fields | None) -> Fields:
    if socket is None and policy.proxy_protocol is None:
        return {}
    plain = {"name": "envoy.transport_sockets.raw_buffer", "typed_config": pack(_RAW)}
    return _wrapped("transport_socket", policy, socket or plain)


@query
def identities(db: Db, key: ServiceKey, port: int) -> tuple[str, ...]:
    """The SPIFFE identities behind a service port."""
    domain = mesh(db).trust_domain
    found = endpoints.endpoints(db, key.namespace, key.host, port)
    return tuple(
        sorted({f"spiffe://{domain}/ns/{e.namespace}/sa/{e.service_account}" for e in found if e.service_account})
    )


def _identities(db: Db, found: Service, port: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*found.subject_alt_names, *identities(db, found.key, port))))


@query
def all_capable(db: Db, key: ServiceKey, port: int) -> bool:
    """Whether every endpoint (and at least one) can do mTLS."""
    found = endpoints.endpoints(db, key.namespace, key.host, port)
    return bool(found) and all(eds.mtls_capable(db, e) for e in found)


# Fixed clusters


@query
def black_hole(db: Db) -> Resource:
    """Where traffic ends that must not go on."""
    timeout = duration(mesh(db).connect_timeout)
    return build(
        CLUSTER,
        {"name": BLACK_HOLE, "alt_stat_name": f"{BLACK_HOLE};", "type": "STATIC", "connect_timeout": timeout},
    )


@query
def passthrough(db: Db, header_case: bool) -> Resource:
    """Where traffic for nobody we know goes: wherever it was going."""
    return build(CLUSTER, original(db, PASSTHROUGH, header_case))


def original(db: Db, name: str, header_case: bool) -> Fields:
    """A cluster of whatever address a connection was for, with the mesh's own limits.

    Hosts that nobody calls any more would be kept for the sake of their idle connections: those are closed early.
    """
    config = mesh(db)
    default = config.default_traffic_policy
    policy = TrafficPolicy(connection_pool=default.connection_pool if default is not None else None)
    options = http_options(policy, Protocol.AUTO, http1(header_case))
    options["common_http_protocol_options"] = {"idle_timeout": seconds(300), **traffic_policy.common_http(policy)}
    return {
        "name": name,
        "alt_stat_name": f"{name};",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "circuit_breakers": traffic_policy.circuit_breakers(policy),
        **traffic_policy.connection(policy, config),
        "typed_extension_protocol_options": {HTTP_OPTIONS: pack(HTTP_OPTIONS, options)},
    }
