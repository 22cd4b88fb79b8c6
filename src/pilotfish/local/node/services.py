"""The service network: Services and EndpointSlices become nftables rules. Pure functions from objects to text.

One table, `ip pilotfish`. Two maps lead to a chain for every service port: `service_ips` by address, protocol and
port, `node_ports` by protocol and port. A chain rewrites the destination to one of the endpoints, so a change of
endpoints replaces one chain and touches nothing else. Whatever still carries a service address after that has no
endpoint, or is no service, and is refused at once. Only a pod that reaches itself through a service is masqueraded:
all other replies cross the node's namespace anyway, where connection tracking turns them back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from pilotfish.local.network import POD_CIDR, SERVICE_CIDR

TABLE = "ip pilotfish"
DEFAULT_AFFINITY_SECONDS = 10800
_PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """Where a connection to a service port may go."""

    ip: str
    port: int


@dataclass(frozen=True)
class ServicePort:
    """One port of a Service with its addresses and endpoints."""

    key: str
    """`namespace/name:port/protocol`, the identity of its chain."""
    protocol: str
    port: int
    node_port: int
    ips: tuple[str, ...]
    endpoints: tuple[Endpoint, ...]
    affinity_seconds: int = 0
    """How long a client stays with its endpoint; 0 when any will do."""


@dataclass(frozen=True)
class Rules:
    """The changeable content of the table. Values are nft text, keys are nft names or map keys."""

    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sets: dict[str, int] = field(default_factory=dict)
    """Affinity sets and their timeout in seconds."""
    service_ips: dict[str, str] = field(default_factory=dict)
    node_ports: dict[str, str] = field(default_factory=dict)
    hairpins: frozenset[str] = frozenset()


def base(uplink: str) -> str:
    """The table without services, replacing any earlier one. `uplink` is the device of the default route, which
    leads nowhere."""
    return f"""\
add table {TABLE}
delete table {TABLE}
table {TABLE} {{
  map service_ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map node_ports {{ type inet_proto . inet_service : verdict; }}
  set hairpins {{ type ipv4_addr . ipv4_addr; }}
  chain services {{
    ip daddr . meta l4proto . th dport vmap @service_ips
    fib daddr type local meta l4proto . th dport vmap @node_ports
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    jump services
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    jump services
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat ip saddr . ip daddr @hairpins masquerade
  }}
  chain nowhere {{
    ip daddr {SERVICE_CIDR} meta l4proto tcp reject with tcp reset
    ip daddr {SERVICE_CIDR} reject with icmp type port-unreachable
    ip daddr {POD_CIDR} meta l4proto tcp ct state established reject with tcp reset
    reject with icmp type host-unreachable
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    oifname "{uplink}" jump nowhere
  }}
  chain local_output {{
    type filter hook output priority filter; policy accept;
    oifname "{uplink}" ct status ! dnat jump nowhere
  }}
}}
"""


def service_ports(service: Object, slices: Iterable[Object]) -> list[ServicePort]:
    """The ports of a Service that have addresses of their own; none for headless and ExternalName Services."""
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return []
    ips = service_addresses(service)
    if not ips:
        return []
    meta = service["metadata"]
    slices = list(slices)
    affinity = 0
    if spec.get("sessionAffinity") == "ClientIP":
        config = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
        affinity = int(config.get("timeoutSeconds") or DEFAULT_AFFINITY_SECONDS)
    result = []
    for port in spec.get("ports") or ():
        protocol = _PROTOCOLS.get(port.get("protocol") or "TCP", "tcp")
        result.append(
            ServicePort(
                key=f"{meta['namespace']}/{meta['name']}:{port['port']}/{protocol}",
                protocol=protocol,
                port=int(port["port"]),
                node_port=int(port.get("nodePort") or 0),
                ips=ips,
                endpoints=tuple(endpoints(slices, port.get("name") or "", port.get("protocol") or "TCP")),
                affinity_seconds=affinity,
            )
        )
    return result


def service_addresses(service: Object) -> tuple[str, ...]:
    """ClusterIPs, external and load balancer addresses that can be told apart inside the node (IPv4, not loopback)."""
    spec = service.get("spec") or {}
    cluster = spec.get("clusterIPs") or [spec.get("clusterIP")]
    balancer = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    wanted = [*cluster, *(spec.get("externalIPs") or ()), *(entry.get("ip") for entry in balancer)]
    if not any(_is_ipv4(ip) for ip in cluster):
        return ()
    return tuple(dict.fromkeys(ip for ip in wanted if _is_ipv4(ip) and not ip_address(ip).is_loopback))


def _is_ipv4(text: object) -> bool:
    try:
        return isinstance(text, str) and ip_address(text).version == 4
    except ValueError:
        return False


def endpoints(slices: Iterable[Object], port_name: str, protocol: str) -> list[Endpoint]:
    """The endpoints to use for a port: the ready ones, else those that still serve while they end (as kube-proxy)."""
    ready: set[Endpoint] = set()
    ending: set[Endpoint] = set()
    for one in slices:
        if one.get("addressType", "IPv4") != "IPv4":
            continue
        for port in one.get("ports") or ():
            if (port.get("name") or "") != port_name or (port.get("protocol") or "TCP") != protocol:
                continue
            if not port.get("port"):
                continue
            for endpoint in one.get("endpoints") or ():
                conditions = endpoint.get("conditions") or {}
                found = {Endpoint(ip, int(port["port"])) for ip in endpoint.get("addresses") or ()}
                if conditions.get("ready", True):
                    ready |= found
                elif conditions.get("serving") and conditions.get("terminating"):
                    ending |= found
    return sorted(ready or ending, key=lambda e: (ip_address(e.ip), e.port))


def _name(kind: str, key: str) -> str:
    return f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def rules(ports: Iterable[ServicePort]) -> Rules:
    """The rules for these service ports. A port without endpoints has none: its address is refused."""
    chains: dict[str, tuple[str, ...]] = {}
    sets: dict[str, int] = {}
    service_ips: dict[str, str] = {}
    node_ports: dict[str, str] = {}
    hairpins: set[str] = set()
    for port in ports:
        if not port.endpoints:
            continue
        chain = _name("svc", port.key)
        if port.affinity_seconds:
            _sticky(port, chain, chains, sets)
        else:
            chains[chain] = (_spread(port),)
        for ip in port.ips:
            service_ips.setdefault(f"{ip} . {port.protocol} . {port.port}", f"goto {chain}")
        if port.node_port:
            node_ports.setdefault(f"{port.protocol} . {port.node_port}", f"goto {chain}")
        hairpins |= {endpoint.ip for endpoint in port.endpoints}
    return Rules(chains, sets, service_ips, node_ports, frozenset(hairpins))


def _spread(port: ServicePort) -> str:
    ends = port.endpoints
    if len(ends) == 1:
        return f"meta l4proto {port.protocol} dnat ip to {ends[0].ip}:{ends[0].port}"
    table = ", ".join(f"{i} : {e.ip} . {e.port}" for i, e in enumerate(ends))
    return f"meta l4proto {port.protocol} dnat ip to numgen random mod {len(ends)} map {{ {table} }}"


def _sticky(port: ServicePort, chain: str, chains: dict[str, tuple[str, ...]], sets: dict[str, int]) -> None:
    """One set of clients per endpoint: a client found in one goes there again, which renews its entry."""
    targets = []
    for endpoint in port.endpoints:
        key = f"{port.key} {endpoint.ip}:{endpoint.port}"
        target, clients = _name("ep", key), _name("aff", f"{key} {port.affinity_seconds}")
        sets[clients] = port.affinity_seconds
        chains[target] = (
            f"update @{clients} {{ ip saddr }}",
            f"meta l4proto {port.protocol} dnat ip to {endpoint.ip}:{endpoint.port}",
        )
        targets.append((target, clients))
    table = ", ".join(f"{i} : goto {target}" for i, (target, _) in enumerate(targets))
    chains[chain] = (
        *(f"ip saddr @{clients} goto {target}" for target, clients in targets),
        f"numgen random mod {len(targets)} vmap {{ {table} }}",
    )


def diff(old: Rules, new: Rules) -> str:
    """The nft transaction that turns one set of rules into another; empty when they are equal."""
    lines: list[str] = []
    for name, seconds in new.sets.items():
        if name not in old.sets:
            lines.append(
                f"add set {TABLE} {name} {{ type ipv4_addr; flags dynamic,timeout; timeout {seconds}s; size 65535; }}"
            )
    lines += [f"add chain {TABLE} {name}" for name in new.chains if name not in old.chains]
    gone = [name for name in old.chains if name not in new.chains]
    changed = [name for name, text in new.chains.items() if old.chains.get(name) != text]
    lines += [f"flush chain {TABLE} {name}" for name in (*gone, *(n for n in changed if n in old.chains))]
    for name in changed:
        lines += [f"add rule {TABLE} {name} {rule}" for rule in new.chains[name]]
    for map_name, before, after in (
        ("service_ips", old.service_ips, new.service_ips),
        ("node_ports", old.node_ports, new.node_ports),
    ):
        drop = [key for key, verdict in before.items() if after.get(key) != verdict]
        add = [f"{key} : {verdict}" for key, verdict in after.items() if before.get(key) != verdict]
        lines += _elements("delete", map_name, drop) + _elements("add", map_name, add)
    lines += _elements("delete", "hairpins", [f"{ip} . {ip}" for ip in sorted(old.hairpins - new.hairpins)])
    lines += _elements("add", "hairpins", [f"{ip} . {ip}" for ip in sorted(new.hairpins - old.hairpins)])
    lines += [f"delete chain {TABLE} {name}" for name in gone]
    lines += [f"delete set {TABLE} {name}" for name in old.sets if name not in new.sets]
    return "\n".join(lines) + "\n" if lines else ""


def _elements(verb: str, name: str, elements: list[str]) -> list[str]:
    return [f"{verb} element {TABLE} {name} {{ {', '.join(elements)} }}"] if elements else []
