"""Reading objects: strict and fast where they are right, patient and precise where they are not."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotfish import api
from pilotfish.api.meta import Duration, LabelSelector
from pilotfish.api.networking import VirtualService
from pilotfish.api.networking.virtual_service import HTTPRoute
from pilotfish.api.security import MutualTLS, MutualTLSMode, PeerAuthentication

ROUTE = {
    "apiVersion": "networking.istio.io/v1alpha3",
    "kind": "VirtualService",
    "metadata": {
        "name": "reviews",
        "namespace": "book",
        "labels": {"a": "b"},
        "creationTimestamp": "2024-01-01T00:00:00Z",
        "generation": 3,
        "resourceVersion": "77",
        "managedFields": [{}],
    },
    "spec": {
        "hosts": ["reviews"],
        "http": [
            {
                "match": [{"headers": {"end-user": {"exact": "admin"}}}],
                "route": [
                    {"destination": {"host": "reviews", "subset": "v2", "port": {"number": 80}}, "weight": 50},
                    {"destination": {"host": "reviews", "subset": "v3"}, "weight": 50},
                ],
                "timeout": "10s",
                "retries": {"attempts": 3, "perTryTimeout": "2s"},
            }
        ],
    },
}


@pytest.mark.parametrize("kind", sorted(api.KINDS))
def test_every_version_has_one_shape(kind: str) -> None:
    """All served versions of a kind are read as the same type."""
    known = api.KINDS[kind]
    for version in known.versions:
        config = api.decode({"apiVersion": f"{known.group}/{version}", "kind": kind, "metadata": {"name": "x"}})
        assert type(config.spec) is known.type


def test_metadata() -> None:
    """What the control plane needs of the metadata is kept, the rest is ignored."""
    config = api.decode(ROUTE, api.Source("a.yaml", 3))
    assert (config.kind, config.namespace, config.name) == ("VirtualService", "book", "reviews")
    assert (config.generation, config.resource_version, config.labels) == (3, "77", {"a": "b"})
    assert config.age_order == ("2024-01-01T00:00:00Z", "reviews", "book")
    assert str(config) == "VirtualService book/reviews (a.yaml:3)"


def test_patient_and_strict_reading_agree() -> None:
    """Nulls, numbers as strings and snake_case give the value that the canonical form gives."""
    written = {
        "hosts": ["reviews"],
        "gateways": None,
        "http": [
            {
                "match": [{"headers": {"end-user": {"exact": "admin", "prefix": None}}, "query_params": {}}],
                "route": [
                    {"destination": {"host": "reviews", "subset": "v2", "port": {"number": "80"}}, "weight": "50"},
                    {"destination": {"host": "reviews", "subset": "v3", "port": None}, "weight": 50.0},
                ],
                "timeout": "10s",
                "retries": {"attempts": 3, "per_try_timeout": "2000ms"},
                "rewrite": None,
            }
        ],
    }
    assert api.from_json(written, VirtualService) == api.from_json(ROUTE["spec"], VirtualService)


def test_every_wrong_type_is_told_at_once() -> None:
    """The error has the object and the path of everything that is wrong."""
    spec = {"hosts": "a", "http": [{"timeout": 10, "route": {}, "match": [{"port": -1}]}]}
    with pytest.raises(api.DecodeError) as caught:
        api.decode({**ROUTE, "spec": spec})
    assert [error.path for error in caught.value.errors] == [
        "spec.hosts",
        "spec.http[0].timeout",
        "spec.http[0].route",
        "spec.http[0].match[0].port",
    ]
    assert str(caught.value).startswith("VirtualService book/reviews: spec.hosts: must be a list")


def test_unknown_fields_are_listed_not_dropped() -> None:
    """They do not stand in the way of the rest, and the nearest known name is suggested."""
    spec = {"hosts": ["a"], "http": [{"timeOut": "1s", "name": "x", "zzz": 1}]}
    config = api.decode({**ROUTE, "spec": spec})
    assert isinstance(config.spec, VirtualService)
    assert config.spec.http[0].name == "x"
    assert [(error.path, "timeout" in error.message) for error in config.unknown] == [
        ("spec.http[0].timeOut", True),
        ("spec.http[0].zzz", False),
    ]


@pytest.mark.parametrize("key", [8080, "8080"])
def test_numeric_keys(key: Any) -> None:
    """JSON has them as strings, YAML as numbers."""
    obj = {
        "apiVersion": "security.istio.io/v1beta1",
        "kind": "PeerAuthentication",
        "spec": {"portLevelMtls": {key: {"mode": "STRICT"}}, "selector": None},
    }
    spec = api.decode(obj).spec
    assert isinstance(spec, PeerAuthentication)
    assert spec.port_level_mtls == {8080: MutualTLS(mode=MutualTLSMode.STRICT)}


def test_json_round_trip() -> None:
    """to_json gives what was written, in canonical form."""
    config = api.decode(ROUTE)
    assert api.from_json(api.to_json(config.spec), VirtualService)[0] == config.spec
    assert api.to_json(HTTPRoute(timeout=Duration.parse("1h2m"))) == {"timeout": "3720s"}


def test_free_form_keeps_nulls() -> None:
    """In configuration for others, null is a value."""
    obj = {
        "apiVersion": "extensions.istio.io/v1alpha1",
        "kind": "WasmPlugin",
        "spec": {"url": "a", "pluginConfig": {"a": None, "b": [None, {"c": 1.5}]}, "phase": None},
    }
    assert api.to_json(api.decode(obj).spec)["pluginConfig"] == {"a": None, "b": [None, {"c": 1.5}]}


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("10s", 10_000_000_000),
        ("1.5s", 1_500_000_000),
        ("1h2m", 3_720_000_000_000),
        ("500ms", 500_000_000),
        ("1us", 1_000),
        ("2µs", 2_000),
        ("3ns", 3),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("-1m", -60_000_000_000),
        ("+1s", 1_000_000_000),
        ("0", 0),
        ("0s", 0),
    ],
)
def test_durations(text: str, nanoseconds: int) -> None:
    """Go's syntax."""
    assert Duration.parse(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "10", "s", "1x", "1s2", "1 s", "-", "--1s", ".s", "1s ", "9999999999999h", "1e3s"]
)
def test_no_durations(text: str) -> None:
    """The error shows how it is written."""
    with pytest.raises(ValueError, match="such as 10s"):
        Duration.parse(text)


@given(st.integers(min_value=-(2**62), max_value=2**62))
def test_duration_text_round_trip(nanoseconds: int) -> None:
    """What is written is read as the same; parts are those of protobuf."""
    duration = Duration(nanoseconds)
    assert Duration.parse(str(duration)) == duration
    seconds, nanos = duration.parts
    assert seconds * 1_000_000_000 + nanos == nanoseconds
    assert seconds * nanos >= 0


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        (LabelSelector(), {}, True),
        (LabelSelector(match_labels={"a": "b"}), {"a": "b", "c": "d"}, True),
        (LabelSelector(match_labels={"a": "b"}), {"a": "c"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", "c"]}]}, {"a": "c"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": ""}, False),
        ({"matchExpressions": [{"key": "a", "operator": "Maybe"}]}, {"a": ""}, False),
    ],
)
def test_label_selectors(selector: Any, labels: dict[str, str], matches: bool) -> None:
    """As Kubernetes evaluates them."""
    if not isinstance(selector, LabelSelector):
        selector = api.from_json(selector, LabelSelector)[0]
    assert selector.matches(labels) is matches


def test_reading_is_fast() -> None:
    """Some microseconds an object; the limit leaves room for a busy machine."""
    best = min(_timed() for _ in range(20))
    assert best < 60e-6


def _timed() -> float:
    start = time.perf_counter()
    for _ in range(50):
        api.decode(ROUTE)
    return (time.perf_counter() - start) / 50
