"""Proxies: what of an xDS node determines its configuration."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from enum import Enum, auto
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from pilotfish.api import DecodeError
from pilotfish.api.mesh import ProxyConfig, decode_proxy_config
from pilotfish.engine import Db, query
from pilotfish.mesh import names, workloads
from pilotfish.mesh.config import mesh, settings
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.visibility import Scope, sidecar_for
from pilotfish.mesh.workloads import Labels, Locality, pairs

SIDECAR, ROUTER = "sidecar", "router"


class BadNode(Exception):  # noqa: N818  what it is
    """An xDS node that does not say who it is."""


class Metering(Enum):
    """How a proxy can make the standard metrics."""

    LOGGER = auto()
    """With Envoy's stats logger, finished by our agent."""
    ISTIO = auto()
    """With the filter in Istio's build of Envoy."""
    NONE = auto()


def _metering(extensions: Collection[str] | None) -> Metering:
    """By the extensions that the proxy lists; one that lists nothing is taken for stock Envoy."""
    if extensions is not None and "istio.stats" in extensions:
        return Metering.ISTIO
    return Metering.LOGGER if extensions is None or "envoy.access_loggers.stats" in extensions else Metering.NONE


def wildcard(ipv4: bool) -> str:
    """Where a proxy listens for every address."""
    return "0.0.0.0" if ipv4 else "::"  # noqa: S104  the listeners of a proxy are for all addresses


def loopback(ipv4: bool) -> str:
    return "127.0.0.1" if ipv4 else "::1"


class View(msgspec.Struct, frozen=True, eq=False, weakref=True):
    """What determines a proxy's configuration. Equal views are one object, so that it is a cheap key."""

    kind: str
    """`sidecar` or `router` (a gateway)."""
    namespace: str
    labels: Labels
    locality: Locality
    network: str
    cluster: str
    node: str
    """The machine, for services with internalTrafficPolicy Local."""
    workload: str
    service_account: str
    verified: bool
    """Namespace and service account are proven, not claimed: needed to be given secrets."""
    domain: str
    """DNS domain of the proxy, `ns.svc.cluster.local`."""
    ipv4: bool
    ipv6: bool
    interception: str
    named_ports: tuple[tuple[str, int], ...]
    mesh_id: str
    config_json: str
    """The proxy's own ProxyConfig as JSON; empty when it sent none."""
    flags: tuple[tuple[str, str], ...]
    """Further node metadata that matters, see `FLAGS`."""
    metering: Metering

    @property
    def is_sidecar(self) -> bool:
        return self.kind == SIDECAR

    def flag(self, name: str) -> str:
        return dict(self.flags).get(name, "")

    @property
    def wildcard(self) -> str:
        return wildcard(self.ipv4)

    @property
    def loopback(self) -> str:
        return loopback(self.ipv4)

    @property
    def gateway_name(self) -> str:
        """The Gateway API object a generated gateway belongs to."""
        return dict(self.labels).get("gateway.networking.k8s.io/gateway-name", "")

    @property
    def shared(self) -> View:
        """This view without what only endpoints depend on: where the proxy is."""
        return intern(msgspec.structs.replace(self, locality=Locality(), node=""))


FLAGS = (
    "DNS_CAPTURE",
    "HTTP10",
    "HTTP_PROXY_PORT",
    "IDLE_TIMEOUT",
    "INBOUND_LISTENER_EXACT_BALANCE",
    "ISTIO_VERSION",
    "OUTBOUND_LISTENER_EXACT_BALANCE",
    "UNPRIVILEGED_POD",
)

_VIEWS: WeakValueDictionary[tuple[Any, ...], View] = WeakValueDictionary()


def intern(view: View) -> View:
    return _VIEWS.setdefault(msgspec.structs.astuple(view), view)


def parse(db: Db, node: Mapping[str, Any], identity: tuple[str, str] | None) -> View:
    """The view of a proxy. `identity` is its verified (namespace, service account). Raises BadNode.

    What the registry knows of the pod (labels, locality) wins over what the node says.
    """
    parts = str(node.get("id") or "").split("~")
    if len(parts) != 4 or parts[0] not in (SIDECAR, ROUTER):
        raise BadNode(f"node id {node.get('id')!r} is not <sidecar|router>~<ip>~<pod>.<namespace>~<dns domain>")
    kind, ip, name, domain = parts
    metadata: Mapping[str, Any] = node.get("metadata") or {}
    pod_name, _, name_namespace = name.rpartition(".")
    namespace = str(metadata.get("NAMESPACE") or name_namespace)
    if not namespace:
        raise BadNode(
            f"node {name!r} names no namespace: set the metadata NAMESPACE or use <pod>.<namespace> in the id"
        )
    addresses = [a.strip() for a in str(metadata.get("INSTANCE_IPS") or ip).split(",")]
    addresses = [a for a in addresses if names.is_ip(a)]
    if not addresses:
        raise BadNode(f"node {name!r} has no valid address in its id or INSTANCE_IPS")
    pod = workloads.pod(db, Ref(namespace, pod_name or name))
    place = node.get("locality") or {}
    return intern(
        View(
            kind=kind,
            namespace=namespace,
            labels=pod.labels if pod is not None else pairs(metadata.get("LABELS") or {}),
            locality=pod.locality
            if pod is not None and any(pod.locality)
            else Locality(place.get("region") or "", place.get("zone") or "", place.get("sub_zone") or ""),
            network=str(metadata.get("NETWORK") or (pod.network if pod is not None else "")),
            cluster=str(metadata.get("CLUSTER_ID") or settings(db).cluster),
            node=str(metadata.get("NODE_NAME") or (pod.node if pod is not None else "")),
            workload=str(
                metadata.get("WORKLOAD_NAME")
                or (pod.name if pod is not None else "")
                or workloads.canonical_name(metadata.get("LABELS") or {}, pod_name)
            ),
            service_account=identity[1] if identity else str(metadata.get("SERVICE_ACCOUNT") or ""),
            verified=identity is not None and identity[0] == namespace,
            domain=domain,
            ipv4=any(":" not in a for a in addresses),
            ipv6=any(":" in a for a in addresses),
            interception=str(metadata.get("INTERCEPTION_MODE") or "REDIRECT").upper(),
            named_ports=_named_ports(metadata) or (pod.named_ports if pod is not None else ()),
            mesh_id=str(metadata.get("MESH_ID") or ""),
            config_json=_canonical(metadata.get("PROXY_CONFIG")),
            flags=tuple((f, _text(metadata[f])) for f in FLAGS if metadata.get(f) not in (None, "", False)),
            metering=_metering(node.get("extensions")),
        )
    )


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "true" if value is True else str(value)


def _canonical(config: Any) -> str:
    if isinstance(config, str):
        try:
            config = json.loads(config)
        except ValueError:
            return ""
    return json.dumps(config, sort_keys=True) if config else ""


def _named_ports(metadata: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    try:
        ports = metadata.get("POD_PORTS") or ()
        ports = json.loads(ports) if isinstance(ports, str) else ports
        return tuple((p["name"], int(p["containerPort"])) for p in ports if p.get("name"))
    except (ValueError, TypeError, KeyError, AttributeError):
        return ()


@query
def _own_config(db: Db, text: str) -> ProxyConfig | None:
    try:
        return decode_proxy_config(json.loads(text), mesh(db).default_config)[0]
    except (DecodeError, ValueError):
        return None  # a proxy's own settings must not break the others' compilation; it gets the mesh's


def proxy_config(db: Db, view: View) -> ProxyConfig:
    """A proxy's settings: the mesh's defaults as they are now, and over them what it sent."""
    own = _own_config(db, view.config_json) if view.config_json else None
    return own if own is not None else mesh(db).default_config


def keeps_header_case(settings: ProxyConfig) -> bool:
    """Whether HTTP/1 header names go on as they were written, where others are made lower case."""
    return settings.proxy_headers is not None and settings.proxy_headers.preserve_http1_header_case is True


@query
def scope(db: Db, view: View) -> Scope:
    """The Sidecar scope of a proxy; gateways see everything visible to their namespace."""
    if not view.is_sidecar:
        return Scope(view.namespace, None)
    return Scope(view.namespace, sidecar_for(db, view.namespace, view.labels))
