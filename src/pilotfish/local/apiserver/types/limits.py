"""LimitRanges and ResourceQuotas."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import resource

RESOURCES = (
    resource("v1", "LimitRange", "limitranges", short="limits", create_on_update=True),
    resource("v1", "ResourceQuota", "resourcequotas", short="quota", status=True),
)
