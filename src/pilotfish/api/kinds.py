"""The kinds users write: their types, names and served versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pilotfish.api import extensions, networking, security, telemetry
from pilotfish.api.meta import Api


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`."""

    name: str
    json_path: str
    description: str
    type: str = "string"


_AGE = Column("Age", ".metadata.creationTimestamp", "Time since the object was created.", "date")


@dataclass(frozen=True, slots=True)
class Kind:
    kind: str
    group: str
    plural: str
    type: type[Api]
    versions: tuple[str, ...]
    """Served versions, the preferred first. All have the same shape."""
    short_names: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    storage: str = ""
    """Version objects are stored in; empty means the first."""
    spec_required: bool = False
    """The CRD refuses objects without a spec."""

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def categories(self) -> tuple[str, ...]:
        return ("istio-io", f"{self.group.partition('.')[0]}-istio-io")

    @property
    def storage_version(self) -> str:
        return self.storage or self.versions[0]

    @property
    def crd_name(self) -> str:
        return f"{self.plural}.{self.group}"

    @property
    def api_version(self) -> str:
        """The preferred apiVersion, e.g. `networking.istio.io/v1`."""
        return f"{self.group}/{self.versions[0]}"


_NETWORKING = "networking.istio.io"
_SECURITY = "security.istio.io"
_EXTENSIONS = "extensions.istio.io"
_ALL = ("v1", "v1beta1", "v1alpha3")

_KINDS = (
    Kind(
        "DestinationRule",
        _NETWORKING,
        "destinationrules",
        networking.DestinationRule,
        _ALL,
        ("dr",),
        (Column("Host", ".spec.host", "The service the rule is for."), _AGE),
    ),
    Kind("EnvoyFilter", _NETWORKING, "envoyfilters", networking.EnvoyFilter, ("v1alpha3",)),
    Kind("Gateway", _NETWORKING, "gateways", networking.Gateway, _ALL, ("gw",)),
    Kind("ProxyConfig", _NETWORKING, "proxyconfigs", networking.ProxyConfig, ("v1beta1",)),
    Kind(
        "ServiceEntry",
        _NETWORKING,
        "serviceentries",
        networking.ServiceEntry,
        _ALL,
        ("se",),
        (
            Column("Hosts", ".spec.hosts", "Host names of the service."),
            Column("Location", ".spec.location", "Whether the service is part of the mesh."),
            Column("Resolution", ".spec.resolution", "How its endpoints are found."),
            _AGE,
        ),
        spec_required=True,
    ),
    Kind("Sidecar", _NETWORKING, "sidecars", networking.Sidecar, _ALL),
    Kind(
        "VirtualService",
        _NETWORKING,
        "virtualservices",
        networking.VirtualService,
        _ALL,
        ("vs",),
        (
            Column("Gateways", ".spec.gateways", "Gateways (or mesh) the routes apply to."),
            Column("Hosts", ".spec.hosts", "Hosts the routes are for."),
            _AGE,
        ),
    ),
    Kind(
        "WorkloadEntry",
        _NETWORKING,
        "workloadentries",
        networking.WorkloadEntry,
        _ALL,
        ("we",),
        (_AGE, Column("Address", ".spec.address", "Address of the workload.")),
        spec_required=True,
    ),
    Kind(
        "WorkloadGroup",
        _NETWORKING,
        "workloadgroups",
        networking.WorkloadGroup,
        _ALL,
        ("wg",),
        (_AGE,),
        spec_required=True,
    ),
    Kind(
        "AuthorizationPolicy",
        _SECURITY,
        "authorizationpolicies",
        security.AuthorizationPolicy,
        ("v1", "v1beta1"),
        ("ap",),
        (Column("Action", ".spec.action", "What happens when a rule holds."), _AGE),
    ),
    Kind(
        "PeerAuthentication",
        _SECURITY,
        "peerauthentications",
        security.PeerAuthentication,
        ("v1", "v1beta1"),
        ("pa",),
        (Column("Mode", ".spec.mtls.mode", "Whether mutual TLS is demanded."), _AGE),
    ),
    Kind(
        "RequestAuthentication",
        _SECURITY,
        "requestauthentications",
        security.RequestAuthentication,
        ("v1", "v1beta1"),
        ("ra",),
    ),
    Kind(
        "Telemetry",
        "telemetry.istio.io",
        "telemetries",
        telemetry.Telemetry,
        ("v1", "v1alpha1"),
        ("telemetry",),
        (_AGE,),
        storage="v1alpha1",
    ),
    Kind(
        "WasmPlugin", _EXTENSIONS, "wasmplugins", extensions.WasmPlugin, ("v1alpha1",), (), (_AGE,), spec_required=True
    ),
    Kind(
        "TrafficExtension",
        _EXTENSIONS,
        "trafficextensions",
        extensions.TrafficExtension,
        ("v1alpha1",),
        (),
        (_AGE,),
        spec_required=True,
    ),
)

KINDS: Mapping[str, Kind] = {kind.kind: kind for kind in _KINDS}
"""By kind, e.g. `KINDS["VirtualService"]`."""

BY_API_VERSION: Mapping[tuple[str, str], Kind] = {
    (f"{kind.group}/{version}", kind.kind): kind for kind in _KINDS for version in kind.versions
}
"""By apiVersion and kind, for every served version."""
