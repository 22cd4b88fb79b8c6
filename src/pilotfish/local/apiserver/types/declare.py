"""Shorthand for declaring built-in kinds."""

from __future__ import annotations

from typing import Any

from pilotfish.local.apiserver.resource import ALL_VERBS, Resource, Subresource

PACKAGES = {
    "": "io.k8s.api.core",
    "admissionregistration.k8s.io": "io.k8s.api.admissionregistration",
    "apiextensions.k8s.io": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions",
    "apiregistration.k8s.io": "io.k8s.kube-aggregator.pkg.apis.apiregistration",
    "apps": "io.k8s.api.apps",
    "authentication.k8s.io": "io.k8s.api.authentication",
    "authorization.k8s.io": "io.k8s.api.authorization",
    "autoscaling": "io.k8s.api.autoscaling",
    "batch": "io.k8s.api.batch",
    "coordination.k8s.io": "io.k8s.api.coordination",
    "discovery.k8s.io": "io.k8s.api.discovery",
    "events.k8s.io": "io.k8s.api.events",
    "networking.k8s.io": "io.k8s.api.networking",
    "node.k8s.io": "io.k8s.api.node",
    "policy": "io.k8s.api.policy",
    "rbac.authorization.k8s.io": "io.k8s.api.rbac",
    "scheduling.k8s.io": "io.k8s.api.scheduling",
    "storage.k8s.io": "io.k8s.api.storage",
}
"""Where the definitions of a group are named in OpenAPI."""

READ_WRITE = ("get", "patch", "update")


def resource(
    api_version: str,
    kind: str,
    plural: str,
    *subresources: Subresource,
    short: str = "",
    all_category: bool = False,
    status: bool = False,
    namespaced: bool = True,
    **more: Any,
) -> Resource:
    """A built-in kind. `short` lists short names, `status` adds that subresource, the rest is as in `Resource`."""
    group, _, version = api_version.rpartition("/")
    paths = list(subresources)
    if status:
        paths.insert(0, Subresource("status", kind, READ_WRITE))
    return Resource(
        group=group,
        version=version,
        kind=kind,
        plural=plural,
        namespaced=namespaced,
        definition=f"{PACKAGES[group]}.{version}.{kind}",
        singular=more.pop("singular", kind.lower()),
        list_kind=more.pop("list_kind", kind + "List"),
        short_names=tuple(short.split()),
        categories=more.pop("categories", ("all",) if all_category else ()),
        subresources={path.name: path for path in paths},
        **more,
    )


def asked(api_version: str, kind: str, plural: str, *, namespaced: bool = False) -> Resource:
    """A kind that is only posted and answered, never stored."""
    return resource(api_version, kind, plural, namespaced=namespaced, verbs=("create",), stored=False)


SCALE = Subresource("scale", "Scale", READ_WRITE, "autoscaling", "v1")
WITHOUT_DELETECOLLECTION = tuple(verb for verb in ALL_VERBS if verb != "deletecollection")
PROXY_VERBS = ("create", "delete", "get", "patch", "update")
