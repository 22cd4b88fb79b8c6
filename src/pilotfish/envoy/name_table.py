"""The name table of the agent's DNS proxy: hosts a proxy sees, with the addresses to answer."""

from __future__ import annotations

from pilotfish.engine import Db, query
from pilotfish.envoy import proto
from pilotfish.envoy.proto import Fields
from pilotfish.envoy.resource import NAME_TABLE, Resource, finish
from pilotfish.mesh import endpoints, names, services, visibility
from pilotfish.mesh.endpoints import Health
from pilotfish.mesh.services import Resolution, Service
from pilotfish.mesh.visibility import Scope


@query
def name_table(db: Db, scope: Scope, network: str, ipv4: bool, ipv6: bool) -> Resource:
    """Kubernetes' records win over ServiceEntries'; of several ServiceEntries the addresses add up."""
    table: dict[str, Fields] = {}
    for listener in visibility.egress(db, scope):
        for imported in listener.services:
            found = services.service(db, *imported.key)
            if found is None or found.resolution is Resolution.ALIAS:
                continue
            for host, ips in _records(db, found, network):
                usable = [ip for ip in ips if (ipv6 if ":" in ip else ipv4)]
                if not usable:
                    continue
                for name in (host, *(found.aliases if host == found.host else ())):
                    _enter(table, name, usable, found)
    return finish(NAME_TABLE, "", proto.encode(proto.NAME_TABLE, {"table": table}))


def _enter(table: dict[str, Fields], name: str, ips: list[str], found: Service) -> None:
    there = table.get(name)
    if there is not None and not found.kubernetes:
        if there["registry"] == "External":
            there["ips"] = list(dict.fromkeys([*there["ips"], *ips]))
        return
    table[name] = {"ips": ips, "registry": "Kubernetes" if found.kubernetes else "External"}
    if found.kubernetes:
        table[name] |= {"shortname": found.name, "namespace": found.namespace}


def _records(db: Db, found: Service, network: str) -> list[tuple[str, list[str]]]:
    addresses = [a for a in (*found.addresses, *found.auto_addresses) if not names.is_cidr(a)]
    if not (found.headless and found.kubernetes):
        return [(found.host, addresses)] if addresses else []
    ips: dict[str, None] = {}
    pods: dict[str, list[str]] = {}
    for port in found.ports[:1]:
        for e in endpoints.endpoints(db, found.namespace, found.host, port.number):
            if e.health is Health.HEALTHY and (not network or not e.network or e.network == network):
                ips[e.address] = None
                if e.hostname:
                    pods.setdefault(f"{e.hostname}.{found.host}", []).append(e.address)
    return [(found.host, list(ips)), *pods.items()]
