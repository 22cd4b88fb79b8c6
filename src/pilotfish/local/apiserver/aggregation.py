"""ClusterRoles with an aggregationRule: their rules are those of the roles it selects, gathered at every change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pilotfish.local.apiserver.authz import GROUP
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.selectors import match_labels

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

_PASSES = 5
"""Roles may gather roles that gather; deeper chains settle at the next change."""


def changed(core: Core, resource: Resource) -> None:
    """Gather again after a ClusterRole was written or deleted."""
    if resource.group != GROUP or resource.kind != "ClusterRole":
        return
    bucket = core.registry.bucket(resource)
    for _ in range(_PASSES):
        roles = {key: item.decode() for key, item in bucket.items.items()}
        stale = {
            key: rules
            for key, role in roles.items()
            if role.get("aggregationRule") and (rules := _gathered(role, roles)) != (role.get("rules") or [])
        }
        if not stale:
            return
        for key, rules in stale.items():
            core.store.put(bucket, key, {**roles[key], "rules": rules}, bucket.items[key])


def _gathered(role: Object, roles: dict[str, Object]) -> list[Any]:
    selectors = role["aggregationRule"].get("clusterRoleSelectors") or []
    rules: list[Any] = []
    for key in sorted(roles):
        other = roles[key]
        labels = other["metadata"].get("labels") or {}
        if other is role or not any(match_labels(selector, labels) for selector in selectors):
            continue
        rules += [rule for rule in other.get("rules") or [] if rule not in rules]
    return rules
