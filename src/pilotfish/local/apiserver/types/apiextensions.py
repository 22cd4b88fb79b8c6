"""CustomResourceDefinitions. Their strategy is `crd.py`'s."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import resource

RESOURCES = (
    resource(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        short="crd crds",
        status=True,
        namespaced=False,
        has_generation=True,
        categories=("api-extensions",),
    ),
)
