"""Ingresses, IngressClasses and NetworkPolicies."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import resource

RESOURCES = (
    resource("networking.k8s.io/v1", "Ingress", "ingresses", short="ing", status=True, has_generation=True),
    resource("networking.k8s.io/v1", "IngressClass", "ingressclasses", namespaced=False, has_generation=True),
    resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", short="netpol", has_generation=True),
)
