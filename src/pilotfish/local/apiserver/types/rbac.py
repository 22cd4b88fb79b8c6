"""Roles and bindings."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import resource

GROUP = "rbac.authorization.k8s.io"

RESOURCES = (
    resource(f"{GROUP}/v1", "Role", "roles", create_on_update=True),
    resource(f"{GROUP}/v1", "RoleBinding", "rolebindings", create_on_update=True),
    resource(f"{GROUP}/v1", "ClusterRole", "clusterroles", namespaced=False, create_on_update=True),
    resource(f"{GROUP}/v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False, create_on_update=True),
)
