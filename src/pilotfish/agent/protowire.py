"""The few protobuf messages that the agent speaks, field by field.

A protobuf library would cost every pod of the mesh ten megabytes; these messages have a dozen fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def chunk(number: int, payload: bytes | str) -> bytes:
    """A length-delimited field; empty ones are left out, as proto3 has it."""
    data = payload.encode() if isinstance(payload, str) else payload
    return bytes((number << 3 | 2,)) + varint(len(data)) + data if data else b""


def integer(number: int, value: int) -> bytes:
    return bytes((number << 3,)) + varint(value) if value else b""


def fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The fields of a message in order. Raises ValueError when it is cut short or malformed."""
    at = 0

    def read() -> int:
        nonlocal at
        value = 0
        for shift in range(0, 70, 7):
            if at >= len(data):
                break
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("truncated number in a protobuf message")

    while at < len(data):
        tag = read()
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            yield number, read()
            continue
        size = {1: 8, 5: 4}.get(kind)
        if size is None:
            if kind != 2:
                raise ValueError(f"wire type {kind} in a protobuf message")
            size = read()
        if at + size > len(data):
            raise ValueError("truncated field in a protobuf message")
        yield number, data[at : at + size]
        at += size


def texts(data: bytes, number: int) -> list[str]:
    return [value.decode() for n, value in fields(data) if n == number and isinstance(value, bytes)]


# ------------------------------------------------------------------ istio.v1.auth.IstioCertificateService


def certificate_request(csr_pem: str, lifetime_seconds: int) -> bytes:
    return chunk(1, csr_pem) + integer(3, lifetime_seconds)


def certificate_chain(response: bytes) -> list[str]:
    """PEM certificates, leaf first, root last."""
    return texts(response, 1)


# ----------------------------------------------------------------------- envoy.service.discovery.v3

SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 (a type's name)


@dataclass(frozen=True, slots=True)
class DiscoveryRequest:
    """The parts of a DiscoveryRequest that a server of a few fixed names needs."""

    names: tuple[str, ...]
    nonce: str
    refused: bool
    type_url: str

    @classmethod
    def parse(cls, data: bytes) -> DiscoveryRequest:
        names, nonce, refused, type_url = [], "", False, ""
        for number, value in fields(data):
            match number, value:
                case 3, bytes():
                    names.append(value.decode())
                case 4, bytes():
                    type_url = value.decode()
                case 5, bytes():
                    nonce = value.decode()
                case 6, _:
                    refused = True
        return cls(tuple(names), nonce, refused, type_url)


def discovery_response(type_url: str, version: str, resources: Iterable[bytes]) -> bytes:
    """State-of-the-world response; the version serves as nonce too."""
    packed = (chunk(2, chunk(1, type_url) + chunk(2, one)) for one in resources)
    return chunk(1, version) + b"".join(packed) + chunk(4, type_url) + chunk(5, version)


def _inline(data: bytes) -> bytes:
    return chunk(2, data)  # core.v3.DataSource.inline_bytes


def key_pair_secret(name: str, chain_pem: bytes, key_pem: bytes) -> bytes:
    """tls.v3.Secret with a TlsCertificate."""
    return chunk(1, name) + chunk(2, chunk(1, _inline(chain_pem)) + chunk(2, _inline(key_pem)))


def roots_secret(name: str, roots_pem: bytes) -> bytes:
    """tls.v3.Secret with a CertificateValidationContext."""
    return chunk(1, name) + chunk(4, chunk(1, _inline(roots_pem)))
