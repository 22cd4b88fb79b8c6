"""EnvoyFilters beyond their golden pairs."""

from __future__ import annotations

from typing import Any

import pytest

from pilotfish import api
from pilotfish.api.networking import EnvoyFilter
from pilotfish.envoy import proto
from pilotfish.envoy.envoy_filters import problems

LUA = {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"}


@pytest.mark.parametrize(
    ("typed", "reason", "readable"),
    [
        ({**LUA, "inlineCode": "x"}, None, True),
        ({**LUA, "nonsense": 1}, "typed_config.nonsense", True),
        ({**LUA, "inlineCode": None}, None, True),
        ({**LUA, "inlineCode": 5}, "inlineCode", False),
        ({**LUA, "sourceCodes": ["x"]}, "typed_config.sourceCodes must be an object", False),
        ({**LUA, "defaultSourceCode": "x"}, "typed_config.defaultSourceCode must be an object", False),
        ({"@type": "type.googleapis.com/no.such.Filter"}, "no.such.Filter", False),
        ({"@type": 1.5}, "needs an @type", False),
    ],
)
def test_patches_that_are_no_message_are_told(typed: dict[str, Any], reason: str | None, readable: bool) -> None:
    """A patch with an unknown type or field, or a wrong one, is named with its field path, for its author to hear."""
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
    found = list(problems(config.spec))
    assert [one.path for one in found] == (["spec.configPatches[0].patch.value"] if reason else [])
    assert all(reason and reason in one.reason and one.readable is readable for one in found)


@pytest.mark.parametrize(
    ("written", "seconds", "nanos"), [("500ms", 0, 500_000_000), ("1.5s", 1, 500_000_000), ("1m", 60, 0)]
)
def test_durations_of_patches_are_gos(written: str, seconds: int, nanos: int) -> None:
    """Istio reads `500ms` where protobuf's JSON has only `0.5s`."""
    made: Any
    made, unknown = proto.read("envoy.config.cluster.v3.Cluster", {"connect_timeout": written, "nope": {}})
    assert (made.connect_timeout.seconds, made.connect_timeout.nanos) == (seconds, nanos)
    assert unknown == ["nope"]
