"""Webhook configurations."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import resource

GROUP = "admissionregistration.k8s.io"

RESOURCES = (
    resource(
        f"{GROUP}/v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        namespaced=False,
        has_generation=True,
        categories=("api-extensions",),
    ),
    resource(
        f"{GROUP}/v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        namespaced=False,
        has_generation=True,
        categories=("api-extensions",),
    ),
)
