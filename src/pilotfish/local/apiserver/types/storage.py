"""StorageClasses."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import resource

RESOURCES = (resource("storage.k8s.io/v1", "StorageClass", "storageclasses", short="sc", namespaced=False),)
