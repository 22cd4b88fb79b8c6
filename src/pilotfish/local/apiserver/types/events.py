"""Events, at both of their versions."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import resource

RESOURCES = (
    resource("v1", "Event", "events", short="ev", create_on_update=True),
    resource("events.k8s.io/v1", "Event", "events", short="ev", create_on_update=True),
)
