"""ServiceAccounts."""

from __future__ import annotations

from pilotfish.local.apiserver.resource import Subresource
from pilotfish.local.apiserver.types.declare import resource

RESOURCES = (
    resource(
        "v1",
        "ServiceAccount",
        "serviceaccounts",
        Subresource("token", "TokenRequest", ("create",), "authentication.k8s.io", "v1"),
        short="sa",
    ),
)
