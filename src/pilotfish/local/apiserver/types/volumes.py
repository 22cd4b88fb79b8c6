"""PersistentVolumes and PersistentVolumeClaims."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import resource

RESOURCES = (
    resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims", short="pvc", status=True),
    resource("v1", "PersistentVolume", "persistentvolumes", short="pv", status=True, namespaced=False),
)
