"""APIServices: one for every group and version served here."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import resource

RESOURCES = (
    resource(
        "apiregistration.k8s.io/v1",
        "APIService",
        "apiservices",
        status=True,
        namespaced=False,
        categories=("api-extensions",),
    ),
)
