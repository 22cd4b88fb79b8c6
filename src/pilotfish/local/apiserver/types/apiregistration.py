"""APIServices: stored only. What is served here has none, and none makes other servers part of this API."""

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
