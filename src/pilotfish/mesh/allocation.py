"""Addresses for ServiceEntries that name none.

A proxy that captures DNS answers the hosts of such an entry with them, so that TCP services on one port can be told
apart. They stand in the entry's `status.addresses`; who gets one, and from which ranges, is as in Istio (networking
reference, ServiceEntry; `networking.istio.io/enable-autoallocate-ip`). An address, once given, stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple

from pilotfish.mesh.inputs import Ref

OPT_OUT = "networking.istio.io/enable-autoallocate-ip"
RANGES = ("240.240.0.0/16", "2001:2::/48")
"""Where Istio takes them from: one address of each for every host."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Entry(NamedTuple):
    """What of a ServiceEntry matters here."""

    ref: Ref
    created: str
    hosts: tuple[str, ...]
    """The hosts that should have addresses; empty when the entry is to have none."""
    fixed: frozenset[Address]
    """The addresses its author chose."""
    held: tuple[tuple[Address, str], ...]
    """What was allocated, with the host it is for."""


def read(obj: Mapping[str, Any]) -> Entry:
    """From the object as Kubernetes has it."""
    meta, spec = obj["metadata"], obj.get("spec") or {}
    resolution = spec.get("resolution") or "NONE"
    fixed = spec.get("addresses") or ()
    label = str((meta.get("labels") or {}).get(OPT_OUT, "")).lower()
    hosts: tuple[str, ...] = ()
    # 1. An address is of no use where the original destination is kept, and not wanted where there is one, or a "no".
    if resolution != "NONE" and not fixed and label != "false":
        # 2. No name resolves to a wildcard's address, unless names are looked up as they come.
        hosts = tuple(h for h in spec.get("hosts") or () if not h.startswith("*") or resolution == "DYNAMIC_DNS")
    status = (obj.get("status") or {}).get("addresses") or ()
    return Entry(
        Ref(meta.get("namespace", ""), meta["name"]),
        meta.get("creationTimestamp") or "",
        tuple(dict.fromkeys(hosts)),
        frozenset(a for text in fixed if (a := _address(text)) is not None),
        tuple((a, one.get("host") or "") for one in status if (a := _address(one.get("value") or "")) is not None),
    )


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None  # a range, or not ours


class _Claim(NamedTuple):
    """Who has an address. Of two, the smaller keeps it: the author's choice before ours, the older before the newer."""

    allocated: bool
    created: str
    ref: Ref


class _Range:
    def __init__(self, network: Network) -> None:
        self.network = network
        self._last = network.network_address

    def take(self, used: Mapping[Address, _Claim]) -> Address | None:
        """The next free address: not the one given back last, which clients may still remember."""
        first = self.network.network_address
        for _ in range(min(len(used) + 2, self.network.num_addresses)):
            after = self._last + 1
            self._last = after if after in self.network else first + 1
            if self._last not in used:
                return self._last
        return None


class Allocator:
    """Keeps who has which address. `note` every entry before the first `settle`, or an address may be given twice."""

    def __init__(self, ranges: tuple[str, ...] = RANGES) -> None:
        self._ranges = tuple(_Range(ip_network(one)) for one in ranges)
        self._claims: dict[Address, _Claim] = {}
        self._of: dict[Ref, set[Address]] = {}

    def note(self, entry: Entry) -> set[Ref]:
        """Take down what an entry has. Returns those that lose an address to it and must be settled anew."""
        wanted = {address: _Claim(True, entry.created, entry.ref) for address, _ in entry.held}
        wanted |= {address: _Claim(False, entry.created, entry.ref) for address in entry.fixed}
        wanted = {address: claim for address, claim in wanted.items() if self._ours(address)}
        for address in self._of.get(entry.ref, set()) - wanted.keys():
            del self._claims[address]
        mine, losers = set(), set()
        for address, claim in wanted.items():
            other = self._claims.get(address)
            if other is not None and other.ref != entry.ref:
                if other < claim:
                    continue
                self._of[other.ref].discard(address)
                losers.add(other.ref)
            self._claims[address] = claim
            mine.add(address)
        self._of[entry.ref] = mine
        return losers

    def forget(self, ref: Ref) -> None:
        """The entry is gone; its addresses are free."""
        for address in self._of.pop(ref, ()):
            del self._claims[address]

    def settle(self, entry: Entry) -> list[dict[str, str]] | None:
        """What `status.addresses` should be; None when it is so. Call `note` for the entry first.

        A host for which a range has nothing left gets no address of that range.
        """
        wanted = [(address, host) for host in entry.hosts for address in self._addresses(entry, host)]
        if sorted(wanted, key=str) == sorted(entry.held, key=str):
            return None
        return [{"value": str(address), "host": host} for address, host in wanted]

    def _addresses(self, entry: Entry, host: str) -> list[Address]:
        held = [a for a, name in entry.held if name == host]
        # All or none: a host whose addresses come from different times would be half moved.
        if held and all((claim := self._claims.get(a)) and claim.ref == entry.ref for a in held if self._ours(a)):
            return held
        found = [a for one in self._ranges if (a := one.take(self._claims)) is not None]
        for address in found:
            self._claims[address] = _Claim(True, entry.created, entry.ref)
            self._of.setdefault(entry.ref, set()).add(address)
        return found

    def _ours(self, address: Address) -> bool:
        return any(address in one.network for one in self._ranges)
