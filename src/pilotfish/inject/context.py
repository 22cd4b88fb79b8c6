"""Everything a template reads, gathered once a pod."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from pilotfish.inject.annotations import SIDECAR, Annotations
from pilotfish.inject.errors import InjectionError
from pilotfish.inject.settings import InjectorSettings
from pilotfish.inject.workload import Workload, workload_of

Object = dict[str, Any]
PROXY_CONFIG = "proxy.istio.io/config"


@dataclass(frozen=True)
class Context:
    """`mesh` is the mesh configuration as JSON, `extra` the ProxyConfig resources that select the pod, weakest first.

    `environment` comes from the injection URL (`/inject/cluster/NAME/net/NAME`).
    """

    pod: Mapping[str, Any]
    namespace: str
    settings: InjectorSettings
    mesh: Mapping[str, Any]
    extra: tuple[Mapping[str, Any], ...] = ()
    environment: Mapping[str, str] | None = None
    native_sidecars: bool = False

    @cached_property
    def annotations(self) -> Annotations:
        return Annotations((self.pod.get("metadata") or {}).get("annotations") or {})

    @cached_property
    def labels(self) -> Mapping[str, str]:
        return (self.pod.get("metadata") or {}).get("labels") or {}

    @cached_property
    def workload(self) -> Workload:
        return workload_of(self.pod, self.namespace)

    @cached_property
    def control_plane(self) -> str:
        """Host name of our Service."""
        suffix = f"-{self.settings.revision}" if self.settings.revision != "default" else ""
        return f"istiod{suffix}.{self.settings.namespace}.svc"

    @cached_property
    def proxy_config(self) -> Object:
        """Effective ProxyConfig as JSON: mesh default, ProxyConfig resources, then the pod's annotation."""
        found: Object = {"discoveryAddress": f"{self.control_plane}:15012", **(self.mesh.get("defaultConfig") or {})}
        for resource in self.extra:
            found = _overlay(found, _from_resource(resource))
        text = self.annotations.text(PROXY_CONFIG)
        if text:
            try:
                own = yaml.load(text, Loader=yaml.CSafeLoader)
            except yaml.YAMLError as error:
                raise InjectionError(f"annotation {PROXY_CONFIG}: not YAML: {error}") from error
            if not isinstance(own, dict):
                raise InjectionError(f"annotation {PROXY_CONFIG}: a mapping of ProxyConfig fields is expected")
            found = _overlay(found, own)
        if address := self.annotations.text(f"{SIDECAR}discoveryAddress"):
            found["discoveryAddress"] = address
        return found

    @property
    def proxy_metadata(self) -> Mapping[str, Any]:
        return self.proxy_config.get("proxyMetadata") or {}

    @cached_property
    def status_port(self) -> int:
        default = int(self.proxy_config.get("statusPort") or self.settings.proxy.get("statusPort") or 15020)
        return self.annotations.number("status.sidecar.istio.io/port", default)


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
