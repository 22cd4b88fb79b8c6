"""Host names in configuration: completion of short names, wildcards, which of two is more specific."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache


def complete(host: str, namespace: str, domain: str) -> str:
    """The full host of a name in configuration: a name without a dot is a service of the object's own namespace.

    `*`, addresses and anything with a dot stay as they are (`reviews.prod` is not completed). Hosts are lower case.
    """
    host = host.lower()
    if not host or "." in host or "*" in host or is_ip(host):
        return host
    return f"{host}.{namespace}.svc.{domain}"


def gateway_name(name: str, namespace: str) -> str:
    """`namespace/name` of a gateway reference; `mesh` stays. `gw.ns.svc…` is the legacy form of `ns/gw`."""
    if name == "mesh" or "/" in name:
        return name
    parts = name.split(".")
    if len(parts) > 1:
        return f"{parts[1]}/{parts[0]}"
    return f"{namespace}/{name}"


@lru_cache(maxsize=8192)
def is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_cidr(text: str) -> bool:
    """Whether this is a range of more than one address."""
    if "/" not in text:
        return False
    try:
        return ipaddress.ip_network(text, strict=False).num_addresses > 1
    except ValueError:
        return False


def matches(pattern: str, host: str) -> bool:
    """Whether a name or prefix wildcard (`*`, `*.suffix`, `*suffix`) covers a host, which may be a wildcard too."""
    if not pattern.startswith("*"):
        return pattern == host
    return host.removeprefix("*").endswith(pattern[1:]) if host.startswith("*") else host.endswith(pattern[1:])


def intersect(one: str, other: str) -> str | None:
    """The narrower of two hosts that cover each other in either direction, else None."""
    if matches(one, other):
        return other
    return one if matches(other, one) else None


def most_specific(host: str, patterns: Iterable[str]) -> str | None:
    """The pattern that covers `host` with the longest fixed part; an exact one wins."""
    best: str | None = None
    for pattern in patterns:
        if matches(pattern, host) and (best is None or specificity(pattern) > specificity(best)):
            best = pattern
    return best


def specificity(pattern: str) -> tuple[bool, int]:
    """Sorts from the least to the most specific."""
    return (not pattern.startswith("*"), len(pattern))
