"""Services and Endpoints."""

from __future__ import annotations

from pilotfish.local.apiserver.resource import Subresource
from pilotfish.local.apiserver.types.declare import PROXY_VERBS, resource

RESOURCES = (
    resource(
        "v1",
        "Service",
        "services",
        Subresource("proxy", "ServiceProxyOptions", PROXY_VERBS),
        short="svc",
        all_category=True,
        status=True,
        create_on_update=True,
        field_labels=("spec.clusterIP", "spec.type"),
    ),
    resource("v1", "Endpoints", "endpoints", short="ep", create_on_update=True),
)
