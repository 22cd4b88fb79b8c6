"""Addresses and node ports of Services, given out at the write and free again with the Service."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from ipaddress import ip_address

from pilotfish.local import network
from pilotfish.local.apiserver.errors import ApiError, FieldError, invalid
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.store import Store

_FIRST_RANDOM = 256
"""Addresses below are given only to those who ask for them, as the real server prefers."""


class Allocator:
    """Which addresses and ports are taken; rebuilt from the stored Services at start."""

    def __init__(self, store: Store) -> None:
        self._addresses: dict[str, str] = {}
        self._ports: dict[tuple[int, str], str] = {}
        for item in store.bucket("/services").items.values():
            self._take(item.decode())

    def _take(self, service: Object) -> None:
        uid = service["metadata"]["uid"]
        for address in _addresses(service):
            self._addresses[address] = uid
        for port in _ports(service):
            self._ports[port] = uid

    def _free(self, service: Object) -> None:
        uid = service["metadata"]["uid"]
        for address in _addresses(service):
            if self._addresses.get(address) == uid:
                del self._addresses[address]
        for port in _ports(service):
            if self._ports.get(port) == uid:
                del self._ports[port]

    @contextlib.contextmanager
    def reserve(self, resource: Resource, new: Object | None, old: Object | None, *, dry_run: bool) -> Iterator[None]:
        """Give `new` what it needs, in place; what `old` had and `new` has not is free afterwards.

        Nothing is taken when the body raises or when it is a dry run. Raises 422 for what is taken or out of range.
        """
        if resource.kind != "Service" or resource.group:
            yield
            return
        if new is not None:
            self._complete(new, old)
        yield
        if dry_run:
            return
        if old is not None:
            self._free(old)
        if new is not None:
            self._take(new)

    def _complete(self, new: Object, old: Object | None) -> None:
        errors: list[FieldError] = []
        spec = new["spec"]
        uid = new["metadata"]["uid"]
        if spec.get("type", "ClusterIP") != "ExternalName":
            _families(spec, errors)
            self._address(spec, uid, errors)
            self._node_ports(spec, old, uid, errors)
        if errors:
            raise invalid("Service", "", new["metadata"]["name"], errors)

    def _address(self, spec: Object, uid: str, errors: list[FieldError]) -> None:
        asked = spec.get("clusterIP", "") or (spec.get("clusterIPs") or [""])[0]
        if asked == "None":
            spec["clusterIP"], spec["clusterIPs"] = "None", ["None"]
        elif not asked:
            spec["clusterIP"] = self._random_address()
            spec["clusterIPs"] = [spec["clusterIP"]]
        else:
            why = ""
            if ip_address(asked) not in network.SERVICE_CIDR:
                why = (
                    "failed to allocate IP "
                    f"{asked}: the provided IP ({asked}) is not in the valid range. The range of valid IPs is "
                    f"{network.SERVICE_CIDR}"
                )
            elif self._addresses.get(asked, uid) != uid:
                why = f"failed to allocate IP {asked}: provided IP is already allocated"
            if why:
                errors.append(FieldError.invalid("spec.clusterIPs", [asked], why))
            else:
                spec["clusterIP"], spec["clusterIPs"] = asked, [asked]

    def _random_address(self) -> str:
        size = network.SERVICE_CIDR.num_addresses
        for _ in range(64):
            address = str(network.SERVICE_CIDR[random.randrange(_FIRST_RANDOM, size - 1)])  # noqa: S311 (no secret)
            if address not in self._addresses:
                return address
        for number in range(1, size - 1):
            address = str(network.SERVICE_CIDR[number])
            if address not in self._addresses:
                return address
        raise _exhausted("no address is left in " + str(network.SERVICE_CIDR))

    def _node_ports(self, spec: Object, old: Object | None, uid: str, errors: list[FieldError]) -> None:
        kind = spec.get("type", "ClusterIP")
        wanted = kind == "NodePort" or (
            kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts", True) is not False
        )
        before = {(p.get("protocol", "TCP"), p["port"]): p["nodePort"] for p in _port_list(old) if p.get("nodePort")}
        mine: dict[tuple[int, str], int] = {}
        chosen: dict[int, int] = {}
        for i, port in enumerate(spec.get("ports") or []):
            protocol = port.get("protocol", "TCP")
            number = port.get("nodePort")
            if number:
                taken = self._ports.get((number, protocol), uid) != uid
                if number not in network.NODE_PORTS:
                    low, high = network.NODE_PORTS.start, network.NODE_PORTS.stop - 1
                    why = f"provided port is not in the valid range. The range of valid ports is {low}-{high}"
                    errors.append(FieldError.invalid(f"spec.ports[{i}].nodePort", number, why))
                elif taken or (number, protocol) in mine:
                    why = "provided port is already allocated"
                    errors.append(FieldError.invalid(f"spec.ports[{i}].nodePort", number, why))
            elif wanted:
                number = before.get((protocol, port["port"])) or chosen.get(port["port"])
                if number is None or (number, protocol) in mine:
                    number = self._random_port(protocol, mine)
                port["nodePort"] = number
            if number:
                chosen.setdefault(port["port"], number)  # TCP and UDP of one port share a node port
                mine[number, protocol] = i
        local = kind == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"
        if local and not spec.get("healthCheckNodePort"):
            kept = ((old or {}).get("spec") or {}).get("healthCheckNodePort")
            spec["healthCheckNodePort"] = kept or self._random_port("TCP", mine)

    def _random_port(self, protocol: str, mine: dict[tuple[int, str], int]) -> int:
        start = random.randrange(len(network.NODE_PORTS))  # noqa: S311 (no secret)
        for step in range(len(network.NODE_PORTS)):
            port = network.NODE_PORTS[(start + step) % len(network.NODE_PORTS)]
            if (port, protocol) not in self._ports and (port, protocol) not in mine:
                return port
        raise _exhausted("no node port is left")


def _families(spec: Object, errors: list[FieldError]) -> None:
    """Addresses are IPv4; only a headless Service whose endpoints are somebody else's may name both families."""
    free = "None" in (spec.get("clusterIP"), *(spec.get("clusterIPs") or [])) and not spec.get("selector")
    policy = spec.setdefault("ipFamilyPolicy", "RequireDualStack" if free else "SingleStack")
    families = spec.get("ipFamilies") or []
    if free:
        families = families or ["IPv4"]
        if len(families) < 2 and policy != "SingleStack":
            families = [*families, "IPv6" if families[0] == "IPv4" else "IPv4"]
        spec["ipFamilies"] = families
        return
    if policy == "RequireDualStack":
        why = "this cluster is not configured for dual-stack services"
        errors.append(FieldError.invalid("spec.ipFamilyPolicy", policy, why))
    errors += [
        FieldError.invalid(f"spec.ipFamilies[{i}]", family, "not configured on this cluster")
        for i, family in enumerate(families)
        if family != "IPv4"
    ]
    spec["ipFamilies"] = families or ["IPv4"]


def _exhausted(why: str) -> ApiError:
    return ApiError(500, "InternalError", f"Internal error occurred: failed to allocate: {why}")


def _port_list(service: Object | None) -> list[Object]:
    ports: list[Object] = ((service or {}).get("spec") or {}).get("ports") or []
    return ports


def _addresses(service: Object) -> list[str]:
    spec = service.get("spec") or {}
    return [a for a in spec.get("clusterIPs") or [spec.get("clusterIP", "")] if a and a != "None"]


def _ports(service: Object) -> list[tuple[int, str]]:
    ports = [(p["nodePort"], p.get("protocol", "TCP")) for p in _port_list(service) if p.get("nodePort")]
    health = (service.get("spec") or {}).get("healthCheckNodePort")
    return [*ports, (health, "TCP")] if health else ports
