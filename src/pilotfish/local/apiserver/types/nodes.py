"""Nodes."""

from __future__ import annotations

from pilotfish.local.apiserver.resource import Subresource
from pilotfish.local.apiserver.types.declare import PROXY_VERBS, resource

RESOURCES = (
    resource(
        "v1",
        "Node",
        "nodes",
        Subresource("proxy", "NodeProxyOptions", PROXY_VERBS),
        short="no",
        status=True,
        namespaced=False,
        field_labels=("spec.unschedulable",),
    ),
)
