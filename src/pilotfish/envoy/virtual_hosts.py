"""Route configurations of sidecars: which host names lead to which routes, per port."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pilotfish.engine import Db, query
from pilotfish.envoy import clusters, proto, routes
from pilotfish.envoy.proto import Fields
from pilotfish.envoy.resource import ROUTE, Resource, field, finish
from pilotfish.envoy.routes import Caller
from pilotfish.envoy.values import FALSE, number
from pilotfish.mesh import names, services, virtual_services, visibility
from pilotfish.mesh.config import settings
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.ports import Protocol
from pilotfish.mesh.proxies import View, proxy_config
from pilotfish.mesh.services import ServiceKey
from pilotfish.mesh.visibility import Imported, Scope

_VIRTUAL_HOST = "envoy.config.route.v3.VirtualHost"
_ROUTE_CONFIGURATION = "envoy.config.route.v3.RouteConfiguration"

HTTP_PROXY = "http_proxy"
"""The route configuration of the HTTP proxy listener: absolute URLs to any known host."""


@query
def virtual_service_hosts(db: Db, scope: Scope, listener: int) -> Mapping[str, Ref]:
    """Which VirtualService a host of an egress listener means: the first in order."""
    found: dict[str, Ref] = {}
    for ref in visibility.egress(db, scope)[listener].virtual_services:
        head = virtual_services.head(db, ref)
        for host in head.hosts if head is not None else ():
            found.setdefault(host, ref)
    return found


@query
def _wildcards(db: Db, scope: Scope, listener: int) -> tuple[str, ...]:
    return tuple(h for h in virtual_service_hosts(db, scope, listener) if h.startswith("*"))


@query
def virtual_service_for(db: Db, scope: Scope, listener: int, host: str) -> Ref | None:
    """The VirtualService that routes a host: one that names it, else the most specific wildcard's."""
    hosts = virtual_service_hosts(db, scope, listener)
    if host in hosts:
        return hosts[host]
    best = names.most_specific(host, _wildcards(db, scope, listener))
    return hosts[best] if best is not None else None


@query
def domains(db: Db, namespace: str, key: ServiceKey) -> tuple[str, ...]:
    """The names by which a client in a namespace may call a service (ports do not matter)."""
    found = services.service(db, key.namespace, key.host)
    if found is None:
        return ()
    domain = settings(db).domain
    result: dict[str, None] = {}
    for host in (found.host, *found.aliases):
        result |= dict.fromkeys(_host_domains(host, namespace, domain))
    if found.headless and found.kubernetes:
        result |= dict.fromkeys([f"*.{name}" for name in result])
    addresses = [a for a in found.addresses if not names.is_cidr(a)]
    result |= dict.fromkeys(f"[{a}]" if ":" in a else a for a in (*addresses, *found.auto_addresses))
    return tuple(result)


def _host_domains(host: str, namespace: str, domain: str) -> Iterator[str]:
    yield host
    ref = services.kubernetes_ref(host, domain)
    if host != "*":
        yield f"{host}."  # fully qualified, as some resolvers leave it
    if ref is not None:
        if ref.namespace == namespace:
            yield ref.name
        yield f"{ref.name}.{ref.namespace}.svc"
        yield f"{ref.name}.{ref.namespace}"


class VirtualHost(NamedTuple):
    """What to build; the key of `virtual_host`."""

    host: str
    port: int
    key: ServiceKey | None
    """The service; None for a VirtualService host that is none."""
    ref: Ref | None


@query
def routes_of(db: Db, caller: Caller, one: VirtualHost) -> tuple[Fields, ...]:
    """The routes of a virtual host: its VirtualService's, else the default one."""
    found = routes.virtual_service_routes(db, caller, one.ref, one.port) if one.ref is not None else ()
    if found or one.key is None:
        return found
    return (routes.default_route(db, caller, one.key, one.port),)


@query
def virtual_host(db: Db, caller: Caller, one: VirtualHost, only: tuple[str, ...], attempts: bool) -> bytes | None:
    """A virtual host, as a finished field of a RouteConfiguration. `only` are its domains, `attempts` whether the retry
    count is told upstream."""
    made = routes_of(db, caller, one)
    if not made or not only:
        return None
    fields: Fields = {"name": f"{one.host}:{one.port}", "domains": list(only), "routes": list(made)}
    if attempts:
        fields["include_request_attempt_count"] = True
    return finished(fields)


def finished(fields: Fields) -> bytes:
    """A virtual host as a field of a RouteConfiguration: joined as it is."""
    return field(2, proto.encode(_VIRTUAL_HOST, fields))


def listener_for(db: Db, scope: Scope, port: int) -> int | None:
    """The egress listener whose services a port's routes are made of: the one for that port, else the catch-all."""
    listeners = visibility.egress(db, scope)
    for number_, one in enumerate(listeners):
        if one.port == port:
            return number_
    return next((i for i, one in enumerate(listeners) if one.port == 0), None)


@query
def hosts_on(db: Db, scope: Scope, port: int) -> tuple[VirtualHost, ...]:
    """The virtual hosts of a port: its services, then the VirtualService hosts that are no service on that port.

    The latter are there on port 80, and wherever the VirtualService routes a service as well.
    """
    listener = listener_for(db, scope, port)
    if listener is None:
        return ()
    found: list[VirtualHost] = []
    for one in visibility.egress(db, scope)[listener].services:
        if not one.routed and serves_http(db, one, port):
            ref = virtual_service_for(db, scope, listener, one.key.host)
            found.append(VirtualHost(one.key.host, port, one.key, ref))
    here = {one.host for one in found}
    routing = {one.ref for one in found}
    for host, ref in virtual_service_hosts(db, scope, listener).items():
        if host in here or not (port == 80 or ref in routing):
            continue
        if not (host.startswith("*") and any(names.matches(host, h) for h in here)):
            found.append(VirtualHost(host, port, None, ref))
    return tuple(found)


@query
def http_ports(db: Db, key: ServiceKey) -> frozenset[int]:
    """The ports of a service that may carry HTTP."""
    found = services.service(db, key.namespace, key.host)
    if found is None or found.resolution is services.Resolution.ALIAS:
        return frozenset()
    return frozenset(p.number for p in found.ports if p.protocol.is_http or p.protocol is Protocol.AUTO)


def serves_http(db: Db, one: Imported, port: int) -> bool:
    return port in http_ports(db, one.key) and (not one.ports or port in one.ports)


@query
def catch_all(db: Db, scope: Scope) -> bytes:
    """What happens to hosts nobody knows."""
    policy = visibility.outbound_policy(db, scope)
    if visibility.registry_only(policy):
        route: Fields = {"name": "block_all", "direct_response": {"status": 502}}
    else:
        cluster = clusters.PASSTHROUGH
        if policy.egress_proxy is not None:
            proxy = policy.egress_proxy
            cluster = clusters.cluster_name(proxy.port.number if proxy.port else 0, proxy.subset, proxy.host)
        route = {
            "name": "allow_any",
            "route": {
                "cluster": cluster,
                **routes.timeouts(0),
            },
        }
    name = route["name"]
    route["match"] = {"prefix": "/"}
    return finished({"name": name, "domains": ["*"], "routes": [route], "include_request_attempt_count": True})


_HEADER: Fields = {
    "validate_clusters": FALSE,
    "ignore_port_in_host_matching": True,
    "max_direct_response_body_size_bytes": number(1_048_576),
}


def assemble(name: str, hosts: list[bytes], extra: Fields | None = None) -> Resource:
    head = proto.encode(_ROUTE_CONFIGURATION, {"name": name, **_HEADER, **(extra or {})})
    return finish(ROUTE, name, b"".join((head, *hosts)))


def counts_attempts(db: Db, view: View) -> bool:
    headers = proxy_config(db, view).proxy_headers
    return headers is None or headers.attempt_count is None or headers.attempt_count.disabled is not True


@query
def route_configuration(db: Db, caller: Caller, attempts: bool, name: str) -> Resource:
    """A sidecar's routes for a port (`80`), a sniffed service port (`host:80`) or the HTTP proxy."""
    if name == HTTP_PROXY:
        return _http_proxy(db, caller, attempts)
    host, _, text = name.rpartition(":")
    port = int(text) if text.isdigit() else 0
    if host:
        listener = listener_for(db, caller.scope, port)
        key = visibility.find(db, caller.scope, host)
        if listener is None or key is None:
            return assemble(name, [])
        one = VirtualHost(host, port, key, virtual_service_for(db, caller.scope, listener, host))
        made = virtual_host(db, caller, one, ("*",), attempts)
        return assemble(name, [made] if made is not None else [])
    made_all = [virtual_host(db, caller, one, free, attempts) for one, free in distinct(db, caller.scope, port)]
    result = [made for made in made_all if made is not None]
    everything = next((one for one in hosts_on(db, caller.scope, port) if one.host == "*"), None)
    last = virtual_host(db, caller, everything, ("*",), attempts) if everything is not None else None
    result.append(last if last is not None else catch_all(db, caller.scope))
    return assemble(name, result)


@query
def distinct(db: Db, scope: Scope, port: int) -> tuple[tuple[VirtualHost, tuple[str, ...]], ...]:
    """The virtual hosts of a port with their domains: each domain once, the first host that claims it has it."""
    taken: set[str] = {"*"}
    result = []
    for one in hosts_on(db, scope, port):
        mine = domains(db, scope.namespace, one.key) if one.key is not None else (one.host,)
        free = mine if taken.isdisjoint(mine) else tuple(d for d in mine if d not in taken)
        taken.update(free)
        if free:
            result.append((one, free))
    return tuple(result)


def _http_proxy(db: Db, caller: Caller, attempts: bool) -> Resource:
    taken: set[str] = set()
    result = []
    ports = {p for one in visibility.egress(db, caller.scope) for s in one.services for p in http_ports(db, s.key)}
    for port in sorted(ports):
        for one in hosts_on(db, caller.scope, port):
            mine = domains(db, caller.namespace, one.key) if one.key is not None else (one.host,)
            wanted = [f"{d}:{port}" for d in mine] + (list(mine) if port == 80 else [])
            free = tuple(d for d in wanted if d not in taken)
            taken.update(free)
            made = virtual_host(db, caller, one, free, attempts)
            if made is not None:
                result.append(made)
    result.append(catch_all(db, caller.scope))
    return assemble(HTTP_PROXY, result, {"ignore_port_in_host_matching": False})
