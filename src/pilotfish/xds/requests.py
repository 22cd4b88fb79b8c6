"""DiscoveryRequest and DeltaDiscoveryRequest as they come in."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format

from pilotfish.envoy import proto
from pilotfish.xds.session import Request

_SOTW = "envoy.service.discovery.v3.DiscoveryRequest"
_DELTA = "envoy.service.discovery.v3.DeltaDiscoveryRequest"
EXTENSIONS = frozenset({"istio.stats", "envoy.access_loggers.stats"})
"""Extensions of Envoy on which the configuration depends."""


class BadNodeError(Exception):
    """The node that a proxy says it is cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Node:
    """A proxy as it describes itself. Nothing here is proved: compare it with the caller's identity."""

    id: str
    kind: str
    """`sidecar` or `router`."""
    ip: str
    pod: str
    namespace: str
    cluster: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    locality: tuple[str, str, str] = ("", "", "")
    """Region, zone, sub-zone."""
    user_agent: str = ""
    extensions: frozenset[str] | None = None
    """Of `EXTENSIONS`, those that the proxy lists; None when it lists none at all."""

    @property
    def name(self) -> str:
        """The third part of the id: `pod.namespace`."""
        return self.id.split("~")[2]

    def json(self) -> dict[str, Any]:
        """As the compiler reads it."""
        locality = dict(zip(("region", "zone", "sub_zone"), self.locality, strict=True))
        node = {"id": self.id, "cluster": self.cluster, "metadata": self.metadata, "locality": locality}
        return node | {"extensions": self.extensions}

    @property
    def service_account(self) -> str:
        return str(self.metadata.get("SERVICE_ACCOUNT") or "")


def _node(message: Any) -> Node | None:
    if not message.id:
        return None
    parts = message.id.split("~")
    if len(parts) != 4:
        raise BadNodeError(
            f"node id {message.id!r} has {len(parts)} parts; it must be <type>~<ip>~<pod>.<namespace>~<dns domain>"
        )
    kind, ip, name, _ = parts
    metadata = json_format.MessageToDict(message.metadata)
    pod, _, namespace = name.rpartition(".")  # as the mesh reads it: names of pods may have dots
    return Node(
        id=message.id,
        kind=kind,
        ip=ip,
        pod=pod or name,
        namespace=str(metadata.get("NAMESPACE") or namespace),
        cluster=message.cluster,
        metadata=metadata,
        locality=(message.locality.region, message.locality.zone, message.locality.sub_zone),
        user_agent=message.user_agent_name,
        extensions=frozenset(one.name for one in message.extensions) & EXTENSIONS if message.extensions else None,
    )


def parse(body: bytes, *, delta: bool) -> tuple[Request, Node | None]:
    """A request, and the node when it carries one. Raises BadNodeError, or protobuf's DecodeError."""
    message: Any = proto.decode(_DELTA if delta else _SOTW, body)
    error = message.error_detail.message or "refused without a reason" if message.HasField("error_detail") else None
    node = _node(message.node)
    if delta:
        return (
            Request(
                message.type_url,
                nonce=message.response_nonce,
                error=error,
                subscribe=_shared(message.resource_names_subscribe),
                unsubscribe=_shared(message.resource_names_unsubscribe),
                initial_versions={
                    sys.intern(name): sys.intern(version) for name, version in message.initial_resource_versions.items()
                },
            ),
            node,
        )
    names = _shared(message.resource_names)
    return Request(message.type_url, nonce=message.response_nonce, error=error, names=names), node


def _shared(names: Iterable[str]) -> tuple[str, ...]:
    """Proxies ask for the same names: one string each serves them all."""
    return tuple(map(sys.intern, names))
