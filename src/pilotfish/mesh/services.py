"""Services: one shape for Kubernetes Services and ServiceEntries, and who may see them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import msgspec

from pilotfish.api import Config, networking
from pilotfish.api.networking.service_entry import Location
from pilotfish.api.networking.service_entry import Resolution as EntryResolution
from pilotfish.engine import Db, query
from pilotfish.mesh import inputs, ports
from pilotfish.mesh import kubernetes as k8s
from pilotfish.mesh.config import discovered, mesh, settings
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.ports import Protocol


class ServiceKey(NamedTuple):
    """A service: hosts are unique in a namespace, not in the mesh."""

    namespace: str
    host: str


class Resolution(StrEnum):
    """How a client finds endpoints."""

    ENDPOINTS = "endpoints"
    """Told by the control plane (EDS)."""
    PASSTHROUGH = "passthrough"
    """Whatever address the application called."""
    DNS = "dns"
    DNS_ROUND_ROBIN = "dns-round-robin"
    DYNAMIC_DNS = "dynamic-dns"
    ALIAS = "alias"
    """Another name of a service (ExternalName)."""


class Port(msgspec.Struct, frozen=True, gc=False):
    number: int
    name: str
    protocol: Protocol
    target: int | str
    """Where endpoints listen; a name is a container port's."""


class Service(msgspec.Struct, frozen=True, gc=False):
    namespace: str
    host: str
    name: str
    kubernetes: bool
    ports: tuple[Port, ...]
    addresses: tuple[str, ...]
    """Virtual addresses, CIDR ranges included; empty means any (0.0.0.0)."""
    auto_addresses: tuple[str, ...]
    """Allocated for a ServiceEntry without addresses; used by proxies that capture DNS."""
    resolution: Resolution
    external: bool
    """Outside the mesh: never mTLS by default."""
    headless: bool
    export_to: tuple[str, ...]
    """Namespaces, `*` or `~`; `.` is replaced by the own namespace."""
    created: str
    selector: tuple[tuple[str, str], ...]
    aliases: tuple[str, ...]
    subject_alt_names: tuple[str, ...]
    publish_not_ready: bool
    local_only: bool
    traffic_distribution: str
    entries: tuple[Ref, ...]
    """The ServiceEntries it (also) comes from."""

    @property
    def key(self) -> ServiceKey:
        return ServiceKey(self.namespace, self.host)

    def port(self, number: int) -> Port | None:
        return next((p for p in self.ports if p.number == number), None)


def kubernetes_ref(host: str, domain: str) -> Ref | None:
    """The Kubernetes Service a host would be: `name.namespace.svc.domain`."""
    parts = host.removesuffix(f".svc.{domain}").split(".")
    return Ref(parts[1], parts[0]) if len(parts) == 2 and host.endswith(f".svc.{domain}") else None


@query
def service(db: Db, namespace: str, host: str) -> Service | None:
    """The service of a host in a namespace. Kubernetes wins; ServiceEntries of the same host add endpoints."""
    entries = _oldest_first(db, inputs.SERVICE_ENTRIES_FOR(db, (namespace, host)))
    ref = kubernetes_ref(host, settings(db).domain)
    if ref is not None and ref.namespace == namespace and (found := inputs.SERVICES(db, ref)) is not None:
        return _from_kubernetes(db, found, host, tuple(Ref(e.namespace, e.name) for e in entries))
    return _from_entries(db, host, entries) if entries else None


def _oldest_first(db: Db, refs: Iterable[Ref]) -> list[Config[networking.ServiceEntry]]:
    found = [config for ref in refs if (config := inputs.SERVICE_ENTRY_HEADS(db, ref)) is not None]
    return sorted(found, key=lambda c: c.age_order)


def _from_kubernetes(db: Db, found: k8s.Service, host: str, entries: tuple[Ref, ...]) -> Service:
    export = found.annotations.get("networking.istio.io/exportTo", "")
    if found.type == "ExternalName":
        resolution = Resolution.ALIAS
    else:
        resolution = Resolution.PASSTHROUGH if found.headless else Resolution.ENDPOINTS
    return Service(
        namespace=found.namespace,
        host=host,
        name=found.name,
        kubernetes=True,
        ports=tuple(
            Port(p.number, p.name, ports.kubernetes(p.number, p.name, p.transport, p.app_protocol), p.target)
            for p in found.ports
            if p.transport in ("TCP", "UDP")
        ),
        addresses=found.addresses,
        auto_addresses=(),
        resolution=resolution,
        external=found.type == "ExternalName",
        headless=found.headless,
        export_to=_exported(
            tuple(e.strip() for e in export.split(",") if e.strip()) or mesh(db).default_service_export_to,
            found.namespace,
        ),
        created=found.created,
        selector=tuple(sorted(found.selector.items())),
        aliases=aliases(db, host) if found.type != "ExternalName" else (),
        subject_alt_names=(),
        publish_not_ready=found.publish_not_ready,
        local_only=found.local_only,
        traffic_distribution=found.annotations.get("networking.istio.io/traffic-distribution")
        or found.traffic_distribution,
        entries=entries,
    )


_ENTRY_RESOLUTION = {
    EntryResolution.NONE: Resolution.PASSTHROUGH,
    EntryResolution.STATIC: Resolution.ENDPOINTS,
    EntryResolution.DNS: Resolution.DNS,
    EntryResolution.DNS_ROUND_ROBIN: Resolution.DNS_ROUND_ROBIN,
    EntryResolution.DYNAMIC_DNS: Resolution.DYNAMIC_DNS,
}


def _from_entries(db: Db, host: str, entries: list[Config[networking.ServiceEntry]]) -> Service:
    first = entries[0]
    spec = first.spec
    merged: dict[int, Port] = {}
    for entry in entries:
        for port in entry.spec.ports:
            merged.setdefault(
                port.number, Port(port.number, port.name, ports.named(port.protocol), port.target_port or port.number)
            )
    allocated = [a for a in first.status.get("addresses", ()) if a.get("host") in (None, "", host)]
    return Service(
        namespace=first.namespace,
        host=host,
        name=first.name,
        kubernetes=False,
        ports=tuple(merged.values()),
        addresses=tuple(a.removesuffix("/32") for a in spec.addresses),
        auto_addresses=tuple(a["value"] for a in allocated) if not spec.addresses else (),
        resolution=_ENTRY_RESOLUTION[spec.resolution],
        external=spec.location is Location.MESH_EXTERNAL,
        headless=False,
        export_to=_exported(spec.export_to or mesh(db).default_service_export_to, first.namespace),
        created=first.creation_timestamp,
        selector=(),
        aliases=aliases(db, host),
        subject_alt_names=spec.subject_alt_names,
        publish_not_ready=False,
        local_only=False,
        traffic_distribution=first.annotations.get("networking.istio.io/traffic-distribution", ""),
        entries=tuple(Ref(e.namespace, e.name) for e in entries),
    )


def _exported(export_to: Iterable[str], namespace: str) -> tuple[str, ...]:
    return tuple(sorted({namespace if e == "." else e for e in export_to})) or ("*",)


@query
def aliases(db: Db, host: str) -> tuple[str, ...]:
    """Hosts of ExternalName Services that, followed through chains, mean `host`."""
    domain, found, todo = settings(db).domain, dict[str, None](), [host]
    while todo:
        for ref in inputs.ALIASES_OF(db, todo.pop()):
            alias = f"{ref.name}.{ref.namespace}.svc.{domain}"
            if alias not in found and alias != host:
                found[alias] = None
                todo.append(alias)
    return tuple(found)


@query
def alias_target(db: Db, host: str) -> str:
    """The host an ExternalName Service means in the end; any other host means itself."""
    seen = {host}
    while True:
        ref = kubernetes_ref(host, settings(db).domain)
        found = inputs.SERVICES(db, ref) if ref is not None else None
        if found is None or not found.external_name or found.external_name in seen:
            return host
        host = found.external_name
        seen.add(host)


class Export(NamedTuple):
    """What decides order and visibility of a service. Sorts oldest first, then by name and namespace."""

    created: str
    name: str
    namespace: str
    host: str
    export_to: tuple[str, ...]
    kubernetes: bool

    @property
    def key(self) -> ServiceKey:
        return ServiceKey(self.namespace, self.host)

    def seen_by(self, namespace: str) -> bool:
        return "~" not in self.export_to and ("*" in self.export_to or namespace in self.export_to)


@query
def namespaces(db: Db) -> tuple[str, ...]:
    """Namespaces that hold services and are not shut out by discovery selectors."""
    refs = {r.namespace for r in inputs.SERVICE_NAMES(db, "")} | {
        r.namespace for r in inputs.SERVICE_ENTRY_NAMES(db, "")
    }
    return tuple(sorted(n for n in refs if discovered(db, n)))


@query
def exports(db: Db, namespace: str) -> tuple[Export, ...]:
    """The services of a namespace, oldest first."""
    domain = settings(db).domain
    hosts = dict.fromkeys(f"{r.name}.{r.namespace}.svc.{domain}" for r in inputs.SERVICES_IN(db, namespace))
    for ref in inputs.SERVICE_ENTRIES_IN(db, namespace):
        config = inputs.SERVICE_ENTRY_HEADS(db, ref)
        hosts.update(dict.fromkeys(config.spec.hosts if config is not None else ()))
    return tuple(sorted(e for host in hosts if (e := export(db, namespace, host)) is not None))


@query
def export(db: Db, namespace: str, host: str) -> Export | None:
    found = service(db, namespace, host)
    if found is None:
        return None
    return Export(found.created, found.name, namespace, host, found.export_to, found.kubernetes)


@query
def visible(db: Db, namespace: str) -> tuple[Export, ...]:
    """The services a namespace may see, oldest first; of equal hosts only the one it means.

    Its own wins, then a Kubernetes Service, then the oldest.
    """
    best: dict[str, Export] = {}
    for other in namespaces(db):
        for one in exports(db, other):
            if one.seen_by(namespace):
                rival = best.get(one.host)
                if rival is None or _preference(one, namespace) < _preference(rival, namespace):
                    best[one.host] = one
    return tuple(sorted(best.values()))


def _preference(export: Export, namespace: str) -> tuple[bool, bool, Export]:
    return (export.namespace != namespace, not export.kubernetes, export)
