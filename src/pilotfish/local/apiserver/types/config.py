"""ConfigMaps and Secrets."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import resource

RESOURCES = (
    resource("v1", "ConfigMap", "configmaps", short="cm"),
    resource("v1", "Secret", "secrets", field_labels=("type",)),
)
