"""Attributes of a workload by OpenTelemetry's conventions, for collectors of traces that want them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PREFIX = "resource.opentelemetry.io/service."


def resource_attributes(
    mesh: Mapping[str, Any],
    annotations: Mapping[str, str],
    labels: Mapping[str, str],
    namespace: str,
    containers: Sequence[Mapping[str, Any]],
) -> str:
    """`OTEL_RESOURCE_ATTRIBUTES` of a proxy, empty when no provider of traces asks for it.

    Namespace, version and instance id: each from its annotation, else from what Kubernetes knows.
    """
    providers = mesh.get("extensionProviders") or ()
    wanted = "OTEL_SEMANTIC_CONVENTIONS"
    if not any((one.get("opentelemetry") or {}).get("serviceAttributeEnrichment") == wanted for one in providers):
        return ""
    version = labels.get("app.kubernetes.io/version", "")
    if not version and len(containers) == 1:
        version = _version(str(containers[0].get("image") or ""))
    instance = f"{namespace}.$(POD_NAME).{containers[0]['name']}" if containers else ""
    found = {"namespace": namespace, "version": version, "instance.id": instance}
    chosen = {name: annotations.get(PREFIX + name) or value for name, value in found.items()}
    return ",".join(f"service.{name}={value}" for name, value in chosen.items() if value)


def _version(image: str) -> str:
    """Tag and digest of an image: `tag`, `sha256:…` or `tag@sha256:…`."""
    name, _, digest = image.partition("@")
    _, colon, tag = name.rpartition("/")[2].partition(":")
    return "@".join(part for part in (tag if colon else "", digest) if part)
