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
PROXY_CONFIG = proto.TYPE_URL + "istio.mesh.v1alpha1.ProxyConfig"
"""Asked for by agents with `PROXY_CONFIG_XDS_AGENT`; there is none."""


class Resource(msgspec.Struct, frozen=True, gc=False):
    """One resource as it goes out, shared by every proxy that gets it. Equal versions are equal bytes.

    The bytes are kept once: the other forms are parts of the delta form.
    """

    name: str
    version: str
    """A hash of the content."""
    delta: bytes
    """A finished `DeltaDiscoveryResponse.resources` field."""
    _any: int
    _body: int
    _end: int

    @property
    def sotw(self) -> memoryview:
        """A finished `DiscoveryResponse.resources` field; both have the number 2, so it is what is inside the other."""
        return memoryview(self.delta)[self._any : self._end]

    @property
    def body(self) -> bytes:
        """The message itself."""
        return self.delta[self._body : self._end]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Resource) and self.version == other.version and self.name == other.name

    def __hash__(self) -> int:
        return hash((self.name, self.version))


def finish(type_url: str, name: str, body: bytes, version: str = "") -> Resource:
    """A resource from its message's bytes. The version is a hash of them unless given."""
    version = version or hashlib.blake2b(body, digest_size=8).hexdigest()
    url = field(1, type_url.encode())
    before, after = field(1, version.encode()), field(3, name.encode())
    size = len(url) + len(head(2, len(body))) + len(body)
    packed = (head(2, size), url, head(2, len(body)), body)
    inside = len(before) + len(packed[0]) + size
    start = head(2, inside + len(after))
    delta = b"".join((start, before, *packed, after))
    end = len(start) + inside
    return Resource(name, version, delta, len(start) + len(before), end - len(body), end)


def build(type_url: str, fields: Mapping[str, Any]) -> Resource:
    """A resource from its fields; the name is the field every type is named by."""
    name = fields.get("name") or fields["cluster_name"]
    return finish(type_url, name, proto.encode(type_url.removeprefix(proto.TYPE_URL), fields))


def head(number: int, size: int) -> bytes:
    """The tag and length before a length-delimited protobuf field."""
    made = bytearray((number << 3 | 2,))
    while size > 0x7F:
        made.append(size & 0x7F | 0x80)
        size >>= 7
    made.append(size)
    return bytes(made)


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field; joined fields are a message, and a joined repeated field grows."""
    return head(number, len(payload)) + payload
