"""What all listeners are made of: filter chains, inspectors, and the listener itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pilotfish.envoy.proto import Fields, extension
from pilotfish.envoy.resource import LISTENER, Resource, build
from pilotfish.envoy.values import FALSE, address, duration, number

PLAIN_HTTP = ("http/1.1", "h2c")
"""What http_inspector finds; a chain's `application_protocols`."""


def chain(name: str, filters: Iterable[Fields], match: Mapping[str, Any] | None = None, **more: Any) -> Fields:
    fields: Fields = {"name": name, "filters": list(filters), **more}
    if match:
        fields["filter_chain_match"] = dict(match)
    return fields


def distinct(chains: Iterable[Fields]) -> list[Fields]:
    """The chains without what an earlier one matches already: Envoy refuses a listener with two equal matches.

    A chain keeps the server names and ranges that are still free; it is left out when there are none.
    """
    taken: set[tuple[Any, ...]] = set()
    result = []
    for one in chains:
        match = one.get("filter_chain_match", {})
        names, ranges = match.get("server_names") or [""], match.get("prefix_ranges") or [None]
        rest = (
            match.get("destination_port", {}).get("value"),
            match.get("transport_protocol", ""),
        )
        protocols = match.get("application_protocols") or [""]

        def keys(name: str, net: Any, rest: tuple[Any, ...] = rest, protocols: list[str] = protocols) -> set[Any]:
            where = (net["address_prefix"], net["prefix_len"]["value"]) if net is not None else None
            return {(name, where, protocol, *rest) for protocol in protocols}

        free_ranges = [r for r in ranges if any(taken.isdisjoint(keys(n, r)) for n in names)]
        free = [n for n in names if all(taken.isdisjoint(keys(n, r)) for r in free_ranges)]
        if not free or not free_ranges:
            continue
        taken.update(*(keys(n, r) for n in free for r in free_ranges))
        if len(free) < len(names) or len(free_ranges) < len(ranges):
            narrowed = {**match, "server_names": free, "prefix_ranges": free_ranges}
            dropped = ([""], [None])
            match = {k: v for k, v in narrowed.items() if v not in dropped}
            one = {**one, "filter_chain_match": match}  # noqa: PLW2901  a narrower copy
        result.append(one)
    return result


def http_inspector(disabled_on: Iterable[int] = ()) -> Fields:
    fields = extension(
        "envoy.filters.listener.http_inspector", "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"
    )
    return _only_elsewhere(fields, disabled_on)


def tls_inspector(disabled_on: Iterable[int] = ()) -> Fields:
    fields = extension(
        "envoy.filters.listener.tls_inspector",
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        {"initial_read_buffer_size": number(512)},
    )
    return _only_elsewhere(fields, disabled_on)


def _only_elsewhere(fields: Fields, ports: Iterable[int]) -> Fields:
    """A listener filter that does not run for connections to some ports: they must not pay for sniffing."""
    rules = [{"destination_port_range": {"start": p, "end": p + 1}} for p in sorted(ports)]
    if not rules:
        return fields
    return {**fields, "filter_disabled": rules[0] if len(rules) == 1 else {"or_match": {"rules": rules}}}


def listener(
    name: str,
    bind: str,
    port: int,
    chains: Iterable[Fields],
    *,
    inbound: bool,
    bound: bool,
    default: Fields | None = None,
    listener_filters: Iterable[Fields] = (),
    timeout: int | None = 0,
    access_log: Iterable[Fields] = (),
    more: Fields | None = None,
) -> Resource:
    """A listener. `bound`: it has a socket of its own; others are handed connections by a capturing one.

    `timeout` (nanoseconds) is how long sniffing may wait for the first bytes; 0 is for ever,
    and None for Envoy's own bound, after which the connection is closed.
    """
    fields: Fields = {
        "name": name,
        "address": {"pipe": {"path": bind.removeprefix("unix://")}}
        if bind.startswith("unix://")
        else address(bind, port),
        "filter_chains": distinct(chains),
        "traffic_direction": "INBOUND" if inbound else "OUTBOUND",
        **(more or {}),
    }
    if not bound:
        fields["bind_to_port"] = FALSE
    if default is not None:
        fields["default_filter_chain"] = default
    if filters := list(listener_filters):
        fields["listener_filters"] = filters
        if timeout is not None:
            fields["listener_filters_timeout"] = duration(timeout)
            fields["continue_on_listener_filters_timeout"] = True
    if logs := list(access_log):
        fields["access_log"] = logs
    return build(LISTENER, fields)
