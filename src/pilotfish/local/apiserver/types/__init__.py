"""The built-in kinds: their definitions, rules and tables. One module per API group; the core group is split by noun.

Objects follow `resource.Object`, with one exception: a required list that is empty is None where a kind prints it as
null (a Role without rules, say), so readers of lists write `obj.get("rules") or []`.
"""

from __future__ import annotations

import functools
from typing import Any

from pilotfish.local.apiserver.resource import Resource

__all__ = ["definitions", "resources"]


@functools.cache
def resources() -> tuple[Resource, ...]:
    """Every built-in kind at every version served, in the order discovery lists them."""
    from pilotfish.local.apiserver.types import (  # noqa: PLC0415 - lazily: only the API server needs them
        admissionregistration,
        apiextensions,
        apiregistration,
        apps,
        authentication,
        authorization,
        autoscaling,
        batch,
        config,
        coordination,
        discovery,
        events,
        limits,
        namespaces,
        networking,
        nodes,
        pods,
        policy,
        rbac,
        runtimeclass,
        scheduling,
        serviceaccounts,
        services,
        storage,
        volumes,
    )

    modules = (
        *(pods, services, config, namespaces, nodes, serviceaccounts, limits, volumes, events),
        *(apiregistration, apps, authentication, authorization, autoscaling, batch, networking, policy, rbac),
        *(storage, admissionregistration, apiextensions, scheduling, coordination, runtimeclass, discovery),
    )
    return tuple(one for module in modules for one in module.RESOURCES)


def definitions() -> dict[str, dict[str, Any]]:
    """OpenAPI v3 component schemas by name, e.g. `io.k8s.api.core.v1.Pod`. Shared: do not change them."""
    from pilotfish.local.apiserver.types import openapi  # noqa: PLC0415 - as above

    return openapi.definitions()
