"""RuntimeClasses."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import resource

RESOURCES = (resource("node.k8s.io/v1", "RuntimeClass", "runtimeclasses", namespaced=False, create_on_update=True),)
