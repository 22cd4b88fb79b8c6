"""Responses joined from finished bytes.

Field numbers are those of `envoy/service/discovery/v3/discovery.proto`. A resource comes as the serialised `Any`; what
surrounds it is a handful of tags, cheaper to write than to build a message for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def chunk(number: int, payload: bytes) -> bytes:
    """A length-delimited field; nothing for an empty payload, as proto3 has it."""
    return bytes((number << 3 | 2,)) + varint(len(payload)) + payload if payload else b""


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource as it goes out: `delta` is a finished `DeltaDiscoveryResponse.resources` field, `sotw` one of
    `DiscoveryResponse.resources`. Shared by every proxy that gets it."""

    name: str
    version: str
    delta: bytes
    sotw: bytes

    @classmethod
    def of(cls, name: str, version: str, any_bytes: bytes, aliases: Iterable[str] = ()) -> Resource:
        body = chunk(1, version.encode()) + chunk(2, any_bytes) + chunk(3, name.encode())
        body += b"".join(chunk(4, alias.encode()) for alias in aliases)
        return cls(name, version, chunk(2, body), chunk(2, any_bytes))


def delta_response(
    type_url: str,
    version: str,
    nonce: str,
    resources: Iterable[Resource],
    removed: Iterable[str],
    control_plane: bytes = b"",
) -> bytes:
    return b"".join(
        (
            chunk(1, version.encode()),
            *(one.delta for one in resources),
            chunk(4, type_url.encode()),
            chunk(5, nonce.encode()),
            *(chunk(6, name.encode()) for name in removed),
            chunk(7, control_plane),
        )
    )


def sotw_response(
    type_url: str, version: str, nonce: str, resources: Iterable[Resource], control_plane: bytes = b""
) -> bytes:
    return b"".join(
        (
            chunk(1, version.encode()),
            *(one.sotw for one in resources),
            chunk(4, type_url.encode()),
            chunk(5, nonce.encode()),
            chunk(6, control_plane),
        )
    )
