"""Namespaces."""

from __future__ import annotations

from pilotfish.local.apiserver.resource import Subresource
from pilotfish.local.apiserver.types.declare import WITHOUT_DELETECOLLECTION, resource

RESOURCES = (
    resource(
        "v1",
        "Namespace",
        "namespaces",
        Subresource("finalize", "Namespace", ("update",)),
        short="ns",
        status=True,
        namespaced=False,
        verbs=WITHOUT_DELETECOLLECTION,
        field_labels=("status.phase",),
    ),
)
