"""Everything a template reads, gathered once a pod."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from pilotfish import api
from pilotfish.api.mesh import ProxyConfig
from pilotfish.api.validation import validate_mesh
from pilotfish.inject.annotations import SIDECAR, Annotations
from pilotfish.inject.errors import InjectionError
from pilotfish.inject.openshift import proxy_ids
from pilotfish.inject.settings import InjectorSettings
from pilotfish.inject.workload import Workload, workload_of

Object = dict[str, Any]
PROXY = "istio-proxy"
PROXY_ID = 1337
PROXY_CONFIG = "proxy.istio.io/config"
NETWORK = "topology.istio.io/network"


@dataclass(frozen=True)
class Context:
    """`mesh` is the mesh configuration as JSON, `extra` the ProxyConfig resources that select the pod, weakest first.

    `environment` comes from the injection URL (`/inject/cluster/NAME/net/NAME`). `owner` is what the pod belongs to,
    where the caller knows better than the pod. `openshift` are the namespace's annotations on OpenShift, else None.
    """

    pod: Mapping[str, Any]
    namespace: str
    settings: InjectorSettings
    mesh: Mapping[str, Any]
    extra: tuple[Mapping[str, Any], ...] = ()
    environment: Mapping[str, str] | None = None
    native_sidecars: bool = False
    owner: Workload | None = None
    openshift: Mapping[str, str] | None = None

    @cached_property
    def annotations(self) -> Annotations:
        return Annotations((self.pod.get("metadata") or {}).get("annotations") or {})

    @cached_property
    def labels(self) -> Mapping[str, str]:
        return (self.pod.get("metadata") or {}).get("labels") or {}

    @property
    def spec(self) -> Mapping[str, Any]:
        return self.pod.get("spec") or {}

    @cached_property
    def applications(self) -> list[str]:
        """Names of the containers that are not the proxy."""
        return [one["name"] for one in self.spec.get("containers") or () if one.get("name") != PROXY]

    @cached_property
    def workload(self) -> Workload:
        return self.owner or workload_of(self.pod, self.namespace)

    @cached_property
    def control_plane(self) -> str:
        """Host name of our Service."""
        suffix = f"-{self.settings.revision}" if self.settings.revision != "default" else ""
        return f"istiod{suffix}.{self.settings.namespace}.svc"

    @cached_property
    def trust_domain(self) -> str:
        return str(self.mesh.get("trustDomain") or self.settings.globals.get("trustDomain") or "cluster.local")

    @cached_property
    def placement(self) -> Mapping[str, str]:
        """Cluster and network as environment of the proxy: from the settings, the injection URL, then the pod."""
        globals_ = self.settings.globals
        found = {
            **(self.environment or {}),
            "ISTIO_META_CLUSTER_ID": (self.environment or {}).get("ISTIO_META_CLUSTER_ID")
            or (globals_.get("multiCluster") or {}).get("clusterName"),
            "ISTIO_META_NETWORK": self.labels.get(NETWORK)
            or (self.environment or {}).get("ISTIO_META_NETWORK")
            or globals_.get("network"),
        }
        return {name: str(value) for name, value in found.items() if value}

    @cached_property
    def proxy_config(self) -> Object:
        """Effective ProxyConfig as JSON: mesh default, ProxyConfig resources, then the pod's annotation."""
        found: Object = {"discoveryAddress": f"{self.control_plane}:15012", **(self.mesh.get("defaultConfig") or {})}
        for resource in self.extra:
            found = _overlay(found, _from_resource(resource))
        if text := self.annotations.text(PROXY_CONFIG):
            found = _overlay(found, _own_config(text))
        if address := self.annotations.text(f"{SIDECAR}discoveryAddress"):
            found["discoveryAddress"] = address
        return found

    @property
    def proxy_ids(self) -> tuple[int, int]:
        """User and group of the proxy."""
        return (PROXY_ID, PROXY_ID) if self.openshift is None else proxy_ids(self.openshift, PROXY_ID)

    @property
    def proxy_metadata(self) -> Mapping[str, Any]:
        return self.proxy_config.get("proxyMetadata") or {}

    @cached_property
    def mode(self) -> str:
        """How traffic is captured: REDIRECT, TPROXY or NONE."""
        default = str(self.proxy_config.get("interceptionMode") or "REDIRECT")
        return self.annotations.choice(f"{SIDECAR}interceptionMode", default, ("REDIRECT", "TPROXY", "NONE"))

    @cached_property
    def native(self) -> bool:
        """Whether the proxy is an init container that goes on running."""
        return self.annotations.text(f"{SIDECAR}nativeSidecar", str(self.native_sidecars).lower()) != "false"

    @cached_property
    def holds(self) -> bool:
        """Whether the application waits for its proxy: the proxy then stands first and blocks until it is ready."""
        return bool(
            self.settings.proxy.get("holdApplicationUntilProxyStarts")
            or self.proxy_config.get("holdApplicationUntilProxyStarts")
        )

    @cached_property
    def probed_port(self) -> int:
        """The agent's port for probes and metrics; 0 for none."""
        default = self.settings.proxy.get("statusPort")
        return self.annotations.number("status.sidecar.istio.io/port", 15020 if default is None else int(default))

    @cached_property
    def status_port(self) -> int:
        """The port that metrics are merged on: the mesh's."""
        return int((self.mesh.get("defaultConfig") or {}).get("statusPort") or 15020)


def _own_config(text: str) -> Object:
    try:
        own = yaml.load(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise InjectionError(f"annotation {PROXY_CONFIG}: not YAML: {error}") from error
    if not isinstance(own, dict):
        raise InjectionError(f"annotation {PROXY_CONFIG}: a mapping of ProxyConfig fields is expected")
    try:
        checked = validate_mesh(api.from_json(own, ProxyConfig)[0])
    except api.DecodeError as error:
        raise InjectionError(f"annotation {PROXY_CONFIG}: {error}") from error
    if checked.errors:
        raise InjectionError(f"annotation {PROXY_CONFIG}: {'; '.join(str(one) for one in checked.errors)}")
    return own


def _overlay(base: Object, over: Mapping[str, Any]) -> Object:
    """Fields replace; proxyMetadata and proxyHeaders are merged, as Istio does."""
    merged = {**base, **{key: value for key, value in over.items() if value is not None}}
    for key in ("proxyMetadata", "proxyHeaders"):
        if isinstance(base.get(key), Mapping) and isinstance(over.get(key), Mapping):
            merged[key] = {**base[key], **over[key]}
    return merged


def _from_resource(spec: Mapping[str, Any]) -> Object:
    """A ProxyConfig resource (concurrency, environmentVariables, image) in terms of the mesh's ProxyConfig."""
    found: Object = {}
    if spec.get("concurrency") is not None:
        found["concurrency"] = spec["concurrency"]
    if spec.get("environmentVariables"):
        found["proxyMetadata"] = dict(spec["environmentVariables"])
    if spec.get("image"):
        found["image"] = dict(spec["image"])
    return found
