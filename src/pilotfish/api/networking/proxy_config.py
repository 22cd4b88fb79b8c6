"""ProxyConfig, the kind: settings of proxies that are taken over when a pod is created."""

from __future__ import annotations

from typing import Annotated

from pilotfish.api.meta import Api, Int32, PolicySelector, StringMap, schema


class ProxyImage(Api, frozen=True):
    image_type: str = ""
    """Variant of the proxy's image: default, debug or distroless."""


class ProxyConfig(Api, frozen=True):
    """Settings of the proxies of selected workloads. They take effect when pods are created."""

    selector: PolicySelector | None = None
    """Workloads it applies to; default all of the namespace, or of the mesh in the root namespace."""
    concurrency: Annotated[Int32 | None, schema(minimum=0)] = None
    """Worker threads; 0 means one per core, unset follows the CPU limit."""
    environment_variables: Annotated[StringMap, schema(additionalProperties={"type": "string", "maxLength": 2048})] = {}
    """Environment of the proxy."""
    image: ProxyImage | None = None
    """Image of the proxy."""
