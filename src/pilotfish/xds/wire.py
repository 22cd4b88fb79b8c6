"""Responses made of finished bytes, in pieces: what many proxies get is shared until it is sent.

Field numbers are those of `envoy/service/discovery/v3/discovery.proto`. What surrounds the resources is a handful of
tags, cheaper to write than to build a message for.
"""

from __future__ import annotations

from collections.abc import Iterable

from pilotfish.envoy.resource import Resource, field


def _text(number: int, text: str) -> bytes:
    return field(number, text.encode())


Pieces = tuple[bytes | memoryview, ...]
"""A message, to be sent one after the other."""


def delta_response(
    type_url: str,
    nonce: str,
    resources: Iterable[Resource],
    removed: Iterable[str],
    control_plane: bytes = b"",
) -> Pieces:
    """A `DeltaDiscoveryResponse`; the nonce is its version too, for people who look."""
    return (
        _text(1, nonce),
        *[one.delta for one in resources],
        _text(4, type_url),
        _text(5, nonce),
        *[_text(6, name) for name in removed],
        field(7, control_plane) if control_plane else b"",
    )


def sotw_response(type_url: str, nonce: str, resources: Iterable[Resource], control_plane: bytes = b"") -> Pieces:
    """A `DiscoveryResponse`."""
    return (
        _text(1, nonce),
        *[one.sotw for one in resources],
        _text(4, type_url),
        _text(5, nonce),
        field(6, control_plane) if control_plane else b"",
    )
