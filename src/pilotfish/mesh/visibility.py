"""What a proxy sees: the Sidecar that holds for it, and the services and VirtualServices of each egress listener."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pilotfish.api import networking
from pilotfish.api.networking.sidecar import CaptureMode, OutboundMode, OutboundTrafficPolicy
from pilotfish.engine import Db, query
from pilotfish.mesh import inputs, names, services, virtual_services
from pilotfish.mesh.config import mesh, root_namespace
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.ports import Protocol, named
from pilotfish.mesh.services import Export, ServiceKey
from pilotfish.mesh.workloads import Labels, selects


class Scope(NamedTuple):
    """What determines which services and VirtualServices a proxy sees."""

    namespace: str
    sidecar: Ref | None


class Imported(NamedTuple):
    """A service in an egress listener."""

    key: ServiceKey
    ports: tuple[int, ...] = ()
    """What it is limited to; empty without a limit."""
    routed: bool = False
    """It came only as a VirtualService's destination: routes lead there, but it cannot be called by its own name."""


class Listener(NamedTuple):
    """One entry of Sidecar.egress with what it imports; the built-in one imports everything visible."""

    port: int
    """0: for every port of the services (catch-all)."""
    protocol: Protocol
    bind: str
    captured: bool
    services: tuple[Imported, ...]
    virtual_services: tuple[Ref, ...]


@query
def sidecar_for(db: Db, namespace: str, labels: Labels) -> Ref | None:
    """The Sidecar of a workload: a selecting one (oldest), else its namespace's, else the root namespace's default."""
    here = _sidecars(db, namespace)
    for ref, spec in here:
        if (
            spec.workload_selector is not None
            and spec.workload_selector.labels
            and selects(spec.workload_selector.labels, labels)
        ):
            return ref
    for ref, spec in here + _sidecars(db, root_namespace(db)):
        if spec.workload_selector is None or not spec.workload_selector.labels:
            return ref
    return None


def _sidecars(db: Db, namespace: str) -> list[tuple[Ref, networking.Sidecar]]:
    found = [c for ref in inputs.SIDECARS_IN(db, namespace) if (c := inputs.SIDECARS(db, ref)) is not None]
    return [(Ref(c.namespace, c.name), c.spec) for c in sorted(found, key=lambda c: c.age_order)]


def sidecar(db: Db, scope: Scope) -> networking.Sidecar | None:
    found = inputs.SIDECARS(db, scope.sidecar) if scope.sidecar is not None else None
    return found.spec if found is not None else None


@query
def outbound_policy(db: Db, scope: Scope) -> OutboundTrafficPolicy:
    """What happens to traffic for unknown destinations: the Sidecar's word, else the mesh's."""
    own = sidecar(db, scope)
    if own is not None and own.outbound_traffic_policy is not None:
        return own.outbound_traffic_policy
    return OutboundTrafficPolicy(mode=OutboundMode(mesh(db).outbound_traffic_policy.mode.value))


@query
def egress(db: Db, scope: Scope) -> tuple[Listener, ...]:
    """The egress listeners of a scope with their services and VirtualServices, oldest first."""
    own = sidecar(db, scope)
    exported = services.visible(db, scope.namespace)
    heads = virtual_services.visible(db, scope.namespace)
    if own is None or not own.egress:
        return (
            Listener(0, Protocol.AUTO, "", True, tuple(Imported(e.key) for e in exported), tuple(h.ref for h in heads)),
        )
    result = []
    for one in own.egress:
        wanted = [_Pattern.parse(h, scope.namespace) for h in one.hosts]
        chosen = {e.host: Imported(e.key) for e in _chosen(db, scope.namespace, wanted)}
        bound = [h for h in heads if any(_covers(wanted, h.namespace, host) for host in h.hosts)]
        for h in bound:
            for host, port in destinations(db, h.ref):
                if host not in chosen and (export := _find(exported, host)) is not None:
                    chosen[host] = Imported(export.key, (port,) if port else (), routed=True)
        order = {e.key: i for i, e in enumerate(exported)}
        result.append(
            Listener(
                one.port.number if one.port is not None else 0,
                named(one.port.protocol) if one.port is not None else Protocol.AUTO,
                one.bind,
                one.capture_mode is not CaptureMode.NONE,
                tuple(sorted(chosen.values(), key=lambda i: order.get(i.key, len(order)))),
                tuple(h.ref for h in bound),
            )
        )
    return tuple(result)


class _Pattern(NamedTuple):
    namespace: str
    host: str
    excluded: bool

    @classmethod
    def parse(cls, text: str, own: str) -> _Pattern:
        """`ns/host`; ns is `*`, `.`, `~` (nothing) or a name; a `~` before another namespace excludes."""
        namespace, _, host = text.rpartition("/")
        excluded = len(namespace) > 1 and namespace.startswith("~")
        namespace = namespace.removeprefix("~") if excluded else namespace or "*"
        return cls(own if namespace == "." else namespace, host.lower(), excluded)

    def covers(self, namespace: str, host: str) -> bool:
        return self.namespace in ("*", namespace) and (
            names.matches(self.host, host) or (host.startswith("*") and names.matches(host, self.host))
        )


def _covers(patterns: list[_Pattern], namespace: str, host: str) -> bool:
    return any(p.covers(namespace, host) for p in patterns if not p.excluded) and not any(
        p.covers(namespace, host) for p in patterns if p.excluded
    )


def _chosen(db: Db, namespace: str, patterns: list[_Pattern]) -> list[Export]:
    """Services an egress host imports; of equal hosts, the one in an explicitly listed namespace wins."""
    best: dict[str, tuple[tuple[bool, bool, bool], Export]] = {}
    for other in services.namespaces(db):
        for one in services.exports(db, other):
            if not one.seen_by(namespace) or not _covers(patterns, other, one.host):
                continue
            listed = any(p.namespace == other and p.covers(other, one.host) for p in patterns if not p.excluded)
            rank = (not listed, other != namespace, not one.kubernetes)
            if one.host not in best or (rank, one) < best[one.host]:
                best[one.host] = (rank, one)
    return [export for _, export in best.values()]


def _find(exported: tuple[Export, ...], host: str) -> Export | None:
    return next((e for e in exported if e.host == host), None)


@query
def destinations(db: Db, ref: Ref) -> tuple[tuple[str, int], ...]:
    """Hosts (and ports, 0 when not given) a VirtualService sends to."""
    config = inputs.VIRTUAL_SERVICES(db, ref)
    if config is None:
        return ()
    found: dict[tuple[str, int], None] = {}
    for http in virtual_services.http_routes(db, ref):
        targets = [r.destination for r in http.route]
        targets += [http.mirror] if http.mirror is not None else []
        targets += [m.destination for m in http.mirrors]
        found.update(dict.fromkeys((t.host, t.port.number if t.port else 0) for t in targets))
    others = [one for tls in config.spec.tls for one in tls.route] + [
        one for tcp in config.spec.tcp for one in tcp.route
    ]
    found.update(
        dict.fromkeys((o.destination.host, o.destination.port.number if o.destination.port else 0) for o in others)
    )
    return tuple(found)


@query
def hosts(db: Db, scope: Scope) -> Mapping[str, ServiceKey]:
    """The services in a scope by host."""
    return {i.key.host: i.key for one in reversed(egress(db, scope)) for i in one.services}


@query
def find(db: Db, scope: Scope, host: str) -> ServiceKey | None:
    """The service a host means to a scope. Cheap to ask again: other services coming and going change nothing."""
    return hosts(db, scope).get(host)


def registry_only(policy: OutboundTrafficPolicy) -> bool:
    return policy.mode is OutboundMode.REGISTRY_ONLY
