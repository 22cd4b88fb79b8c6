"""Leases."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import resource

RESOURCES = (resource("coordination.k8s.io/v1", "Lease", "leases", create_on_update=True),)
