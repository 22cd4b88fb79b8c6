"""PodDisruptionBudgets."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import resource

RESOURCES = (
    resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", short="pdb", status=True, has_generation=True),
)
