"""Gateways: which ones a gateway workload serves, and how their servers share ports."""

from __future__ import annotations

from typing import NamedTuple

from pilotfish.api import Config, networking
from pilotfish.api.networking.gateway import Server, ServerTLSMode
from pilotfish.engine import Db, query
from pilotfish.mesh import inputs, names
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.ports import Protocol, named
from pilotfish.mesh.workloads import Labels, selects

NamedPorts = tuple[tuple[str, int], ...]
"""Container ports by name."""


class Bound(NamedTuple):
    """A server of a Gateway on the port its workload listens on."""

    gateway: Ref
    number: int
    """Which of the Gateway's servers."""
    port: int
    """The port of the listener; the server's own is a Service's."""
    bind: str

    @property
    def name(self) -> str:
        return str(self.gateway)


class Merged(NamedTuple):
    """The servers that share one listener."""

    port: int
    bind: str
    protocol: Protocol
    """HTTP: one chain for all; TLS: a chain for each server; TCP: one server."""
    servers: tuple[Bound, ...]
    rejected: tuple[tuple[Bound, str], ...]
    """Servers left out, with the reason."""


@query
def selected(db: Db, labels: Labels) -> tuple[Ref, ...]:
    """The Gateways of a workload, of any namespace, oldest first."""
    found: list[Config[networking.Gateway]] = []
    for pair in (None, *labels):
        for ref in inputs.GATEWAYS_SELECTING(db, pair):
            config = inputs.GATEWAYS(db, ref)
            if config is not None and selects(config.spec.selector, labels):
                found.append(config)
    return tuple(Ref(c.namespace, c.name) for c in sorted(found, key=lambda c: c.age_order))


@query
def target_ports(db: Db, namespace: str, labels: Labels, number: int, named_ports: NamedPorts) -> tuple[int, ...]:
    """The ports a gateway workload listens on for a Service port; the number itself when no Service says otherwise."""
    found: dict[int, None] = {}
    for ref in inputs.SERVICES_IN(db, namespace):
        service = inputs.SERVICES(db, ref)
        if service is None or not service.selector or not selects(service.selector, labels):
            continue
        for port in service.ports:
            if port.number == number and port.transport == "TCP":
                target = dict(named_ports).get(port.target) if isinstance(port.target, str) else port.target
                if target is not None:
                    found[int(target)] = None
    return tuple(found)[:1] or (number,)


def server(db: Db, bound: Bound) -> Server | None:
    config = inputs.GATEWAYS(db, bound.gateway)
    return config.spec.servers[bound.number] if config is not None and bound.number < len(config.spec.servers) else None


def terminates_tls(server: Server) -> bool:
    return (
        server.tls is not None
        and named(server.port.protocol).is_tls
        and server.tls.mode not in (ServerTLSMode.PASSTHROUGH, ServerTLSMode.AUTO_PASSTHROUGH)
    )


def is_https(server: Server) -> bool:
    """HTTP inside TLS that ends here."""
    return named(server.port.protocol) is Protocol.HTTPS and terminates_tls(server)


def hosts(server: Server) -> tuple[str, ...]:
    """The server's hosts without the namespace part."""
    return tuple(dict.fromkeys(h.rpartition("/")[2].lower() for h in server.hosts))


def shared(server: Server, gateway_namespace: str, namespace: str, host: str) -> tuple[str, ...]:
    """The hosts a server shares with a VirtualService's host, where it lets the VirtualService's namespace attach."""
    found: dict[str, None] = {}
    for entry in server.hosts:
        limit, _, own = entry.rpartition("/")
        limit = gateway_namespace if limit == "." else limit
        if limit in ("", "*", namespace) and (both := names.intersect(own.lower(), host)) is not None:
            found[both] = None
    return tuple(found)


@query
def merged(db: Db, namespace: str, labels: Labels, named_ports: NamedPorts, unprivileged: bool) -> tuple[Merged, ...]:
    """The listeners of a gateway workload. Older Gateways win where servers cannot share a port."""
    taken: dict[tuple[str, int], tuple[Protocol, list[Bound], list[tuple[Bound, str]]]] = {}
    names_on: dict[tuple[str, int], set[str]] = {}
    https: set[tuple[Ref, str]] = set()
    for ref in selected(db, labels):
        config = inputs.GATEWAYS(db, ref)
        for index, one in enumerate(config.spec.servers if config is not None else ()):
            protocol = named(one.port.protocol)
            kind = Protocol.HTTP if protocol.is_http else Protocol.TLS if protocol.is_tls else Protocol.TCP
            for port in target_ports(db, namespace, labels, one.port.number, named_ports):
                if unprivileged and port < 1024:
                    continue
                bound = Bound(ref, index, port, one.bind)
                key = (one.bind, port)
                if key not in taken:
                    taken[key] = (kind, [], [])
                    names_on[key] = set()
                there, accepted, rejected = taken[key]
                reason = _conflict(there, kind, accepted, one, names_on[key])
                if reason is None and is_https(one):
                    if (ref, one.port.name) in https:
                        reason = f"the port name {one.port.name!r} is used by another HTTPS server of this Gateway"
                    https.add((ref, one.port.name))
                if reason is not None:
                    rejected.append((bound, reason))
                    continue
                accepted.append(bound)
                if kind is Protocol.TLS:
                    names_on[key].update(hosts(one))
    return tuple(
        Merged(port, bind, kind, tuple(accepted), tuple(rejected))
        for (bind, port), (kind, accepted, rejected) in sorted(taken.items(), key=lambda i: (i[0][1], i[0][0]))
        if accepted
    )


def _conflict(there: Protocol, kind: Protocol, accepted: list[Bound], one: Server, hosts_on: set[str]) -> str | None:
    if not accepted:
        return None
    if there is not kind:
        return f"the port already serves {there.value}"
    if kind is Protocol.TCP:
        return "the port already serves a plain TCP server, which cannot be told from another"
    if kind is Protocol.TLS and (twice := sorted(hosts_on & set(hosts(one)))):
        return f"the port already serves the hosts {', '.join(twice)}"
    return None
