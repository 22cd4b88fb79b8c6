"""Finished resources: bytes as they go out, with the hash of their content as version."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from pilotfish.envoy import proto

CLUSTER = proto.TYPE_URL + "envoy.config.cluster.v3.Cluster"
ENDPOINT = proto.TYPE_URL + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = proto.TYPE_URL + "envoy.config.listener.v3.Listener"
ROUTE = proto.TYPE_URL + "envoy.config.route.v3.RouteConfiguration"
SECRET = proto.TYPE_URL + "envoy.extensions.transport_sockets.tls.v3.Secret"
EXTENSION = proto.TYPE_URL + "envoy.config.core.v3.TypedExtensionConfig"
NAME_TABLE = proto.TYPE_URL + proto.NAME_TABLE


class Resource(msgspec.Struct, frozen=True, gc=False):
    """One resource as it goes out, shared by every proxy that gets it.

    `delta` is a finished `DeltaDiscoveryResponse.resources` field, `sotw` one of `DiscoveryResponse.resources`. Equal
    versions are equal bytes.
    """

    name: str
    version: str
    delta: bytes
    sotw: bytes
    body: bytes
    """The message itself."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Resource) and self.version == other.version and self.name == other.name

    def __hash__(self) -> int:
        return hash((self.name, self.version))


def finish(type_url: str, name: str, body: bytes) -> Resource:
    """A resource from its message's bytes."""
    version = hashlib.blake2b(body, digest_size=8).hexdigest()
    packed = field(1, type_url.encode()) + field(2, body)
    return Resource(
        name,
        version,
        field(2, field(1, version.encode()) + field(2, packed) + field(3, name.encode())),
        field(2, packed),
        body,
    )


def build(type_url: str, fields: Mapping[str, Any]) -> Resource:
    """A resource from its fields; the name is the field every type is named by."""
    name = fields.get("name") or fields["cluster_name"]
    return finish(type_url, name, proto.encode(type_url.removeprefix(proto.TYPE_URL), fields))


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field; joined fields are a message, and a joined repeated field grows."""
    size, head = len(payload), bytearray((number << 3 | 2,))
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + payload
