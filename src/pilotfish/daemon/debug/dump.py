"""The configuration a proxy should have, in the form of Envoy's own dump.

What was compiled is bytes, and stays so as long as nobody wants JSON: that is the slow part, and `Later`.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf import json_format
from google.protobuf.message import Message

from pilotfish.daemon.debug.page import Object
from pilotfish.envoy import proto
from pilotfish.envoy.proto import Fields
from pilotfish.envoy.resource import CLUSTER, ENDPOINT, EXTENSION, LISTENER, ROUTE, SECRET
from pilotfish.xds.fleet import Connection
from pilotfish.xds.session import ABSENT

_ADMIN = "envoy.admin.v3."
_REDACTED = {"inline_bytes": b"[redacted]"}


def held(connection: Connection, type_url: str) -> list[tuple[str, bytes]]:
    """The resources of a type that the proxy has: names and messages. Private keys are never among them."""
    watch = connection.session.watches.get(type_url)
    if watch is None:
        return []
    source = connection.source
    every = source.every(type_url) if watch.wildcard else {}
    found = []
    for name, version in watch.held.items():
        one = every.get(name) or source.one(type_url, name)
        if one is not None and version != ABSENT:
            found.append((name, _redacted(one.body) if type_url == SECRET else one.body))
    return found


def _redacted(body: bytes) -> bytes:
    secret: Message = proto.decode(SECRET.removeprefix(proto.TYPE_URL), body)
    if secret.HasField("tls_certificate"):
        key = secret.tls_certificate.private_key  # type: ignore[attr-defined]  # a class made while it runs
        key.CopyFrom(proto.message("envoy.config.core.v3.DataSource")(**_REDACTED))
    return secret.SerializeToString(deterministic=True)


def parts(connection: Connection, version: str, *, endpoints: bool) -> list[Message]:
    """The messages of a ConfigDump, in istiod's order."""

    def any_of(type_url: str) -> list[tuple[str, Fields]]:
        name = type_url.removeprefix(proto.TYPE_URL)
        return [(one, proto.packed(name, body)) for one, body in held(connection, type_url)]

    def part(kind: str, **fields: object) -> Message:
        return proto.message(_ADMIN + kind)(**fields)

    def listed(type_url: str, field: str) -> list[Fields]:
        return [{"version_info": version, field: one} for _, one in any_of(type_url)]

    listeners = [
        {"name": name, "active_state": {"version_info": version, "listener": one}} for name, one in any_of(LISTENER)
    ]
    secrets = [{"name": name, "version_info": version, "secret": one} for name, one in any_of(SECRET)]
    clusters = [{"cluster": one} for _, one in any_of(CLUSTER)]
    made = [
        part("BootstrapConfigDump"),
        part("ClustersConfigDump", version_info=version, dynamic_active_clusters=clusters),
        part("ListenersConfigDump", version_info=version, dynamic_listeners=listeners),
        part("ScopedRoutesConfigDump"),
        part("RoutesConfigDump", dynamic_route_configs=listed(ROUTE, "route_config")),
        part("SecretsConfigDump", dynamic_active_secrets=secrets),
        part("EcdsConfigDump", ecds_filters=listed(EXTENSION, "ecds_filter")),
    ]
    if endpoints:
        made.insert(2, part("EndpointsConfigDump", dynamic_endpoint_configs=listed(ENDPOINT, "endpoint_config")))
    return made


def as_json(messages: Iterable[Message]) -> list[Object]:
    """Messages as JSON with their types. Slow: tenths of a millisecond for each resource inside."""
    return [
        {
            "@type": proto.TYPE_URL + one.DESCRIPTOR.full_name,
            **json_format.MessageToDict(one, descriptor_pool=proto.pool()),
        }
        for one in messages
    ]


def decoded(type_url: str, bodies: Iterable[bytes]) -> list[Message]:
    """Resources as messages."""
    return [proto.decode(type_url.removeprefix(proto.TYPE_URL), body) for body in bodies]
