"""EndpointSlices."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import resource

RESOURCES = (resource("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", has_generation=True),)
