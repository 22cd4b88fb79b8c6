"""EnvoyFilters beyond their golden pairs."""

from __future__ import annotations

from typing import Any

import pytest

from pilotfish import api
from pilotfish.api.networking import EnvoyFilter
from pilotfish.envoy.envoy_filters import unreadable

LUA = {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"}


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ({**LUA, "inlineCode": "x"}, None),
        ({**LUA, "nonsense": 1}, "nonsense"),
        ({"@type": "type.googleapis.com/no.such.Filter"}, "no.such.Filter"),
    ],
)
def test_patches_that_are_no_message_are_told(typed: dict[str, Any], reason: str | None) -> None:
    """A patch with an unknown type or field is named with its field path, so that its author hears of it."""
    patch = {"operation": "INSERT_BEFORE", "value": {"name": "x", "typed_config": typed}}
    match = {"context": "SIDECAR_INBOUND"}
    config = api.decode(
        {
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "EnvoyFilter",
            "metadata": {"name": "a", "namespace": "b"},
            "spec": {"configPatches": [{"applyTo": "HTTP_FILTER", "match": match, "patch": patch}]},
        }
    )
    assert isinstance(config.spec, EnvoyFilter)
    found = list(unreadable(config.spec))
    assert [path for path, _ in found] == (["spec.configPatches[0].patch.value"] if reason else [])
    assert all(reason and reason in why for _, why in found)
