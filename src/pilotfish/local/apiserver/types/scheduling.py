"""PriorityClasses."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import resource

RESOURCES = (
    resource(
        "scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", short="pc", namespaced=False, has_generation=True
    ),
)
