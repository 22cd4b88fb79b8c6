"""Every rule of the validation, as one small object each in `cases/`; and that nothing makes it raise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotfish import api
from pilotfish.api.files import load_one
from pilotfish.api.validation import validate_object

CASES = Path(__file__).parent / "cases"


def _load() -> list[Any]:
    kinds = {re.sub(r"(?<=.)(?=[A-Z])", "_", kind).lower(): kind for kind in api.KINDS}
    parameters = []
    for file in sorted(CASES.glob("*.yaml")):
        for what, spec, *expected in load_one(file.read_text()):
            errors, warnings = [*expected, {}, {}][:2]
            parameters.append(pytest.param(kinds[file.stem], spec, errors, warnings, id=f"{file.stem}: {what}"))
    return parameters


def _object(kind: str, spec: Any) -> dict[str, Any]:
    metadata = {"name": "x", "namespace": "ns"}
    return {"apiVersion": api.KINDS[kind].api_version, "kind": kind, "metadata": metadata, "spec": spec}


@pytest.mark.parametrize(("kind", "spec", "errors", "warnings"), _load())
def test_case(kind: str, spec: Any, errors: dict[str, str], warnings: dict[str, str]) -> None:
    """The object has exactly these errors and warnings, each at its path and with the words that matter."""
    result = validate_object(_object(kind, spec))
    found = {error.path: error.message for error in result.errors}
    assert set(found) == set(errors), result
    for path, words in errors.items():
        assert str(words) in found[path]
    # What has no effect yet changes from day to day; tests/api/test_unimplemented.py is about it.
    told = {warning.split(": ")[0]: warning for warning in result.warnings if "has no effect yet" not in warning}
    if kind == "EnvoyFilter" and "must be an object" not in str(result):
        assert "any version can change" in told.pop("spec")  # said of each that can be read
    assert set(told) == set(warnings), result
    for path, words in warnings.items():
        assert str(words) in told[path]


def test_every_kind_has_cases() -> None:
    """No kind is left out of the table."""
    tested = {parameter.values[0] for parameter in _load()}
    assert tested == set(api.KINDS)


@pytest.mark.parametrize(
    ("obj", "path", "words"),
    [
        ({}, "kind", "not a kind"),
        ({"apiVersion": "v1", "kind": "Pod"}, "kind", "not a kind"),
        ({"apiVersion": "networking.istio.io/v2", "kind": "Gateway"}, "apiVersion", "networking.istio.io/v1beta1"),
        ({"apiVersion": ["x"], "kind": {}}, "kind", "not a kind"),
        ([], "", "mapping"),
        (_object("Gateway", "x"), "spec", "must be an object"),
        ({**_object("VirtualService", {}), "metadata": {"labels": []}}, "metadata", "object"),
    ],
)
def test_objects_that_cannot_be_read(obj: Any, path: str, words: str) -> None:
    """An object of no known kind or shape is an error with a path, no exception."""
    errors = validate_object(obj).errors
    assert [error.path for error in errors] == [path]
    assert words in errors[0].message


def test_metadata() -> None:
    """Names are checked; the annotation istiod tests its webhook with rejects; dry run is for AuthorizationPolicy."""
    obj = _object("PeerAuthentication", {})
    obj["metadata"] = {"name": "A_b", "annotations": {"istio.io/always-reject": "true", "istio.io/dry-run": "true"}}
    assert [error.path for error in validate_object(obj).errors] == [
        "metadata.name",
        "metadata.annotations[istio.io/always-reject]",
        "metadata.annotations[istio.io/dry-run]",
    ]
    policy = _object("AuthorizationPolicy", {"action": "AUDIT", "rules": [{}]})
    policy["metadata"]["annotations"] = {"istio.io/dry-run": "true"}
    assert "AUDIT" in str(validate_object(policy))
    policy["spec"]["action"] = "DENY"
    assert validate_object(policy).errors == []


def test_unknown_top_level_field() -> None:
    """A field beside spec is reported, not dropped."""
    obj = {**_object("PeerAuthentication", {}), "specs": {}}
    assert validate_object(obj).warnings == ["specs: unknown field"]


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["*", "a.b", "1s", "-1ns", "unix://", "10.0.0.0/8", "%", "{**}", "(", "STRICT", "HTTP", "@request"]
    )
)
_JSON = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)


def _later(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    return st.deferred(lambda: _strategy(schema))


def _strategy(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that mostly have the shape of a CRD's schema, so that the checks are reached."""
    if "properties" in schema:
        shaped: st.SearchStrategy[Any] = st.fixed_dictionaries(
            {}, optional={name: _later(item) for name, item in schema["properties"].items()}
        )
    elif schema.get("type") == "array":
        shaped = st.lists(_later(schema["items"]), max_size=2)
    elif isinstance(schema.get("additionalProperties"), dict):
        shaped = st.dictionaries(st.text(max_size=5), _later(schema["additionalProperties"]), max_size=2)
    elif "enum" in schema:
        shaped = st.sampled_from(schema["enum"])
    elif schema.get("type") == "integer":
        shaped = st.integers(min_value=-2, max_value=70000)
    elif schema.get("type") == "number":
        shaped = st.floats()
    elif schema.get("type") == "boolean":
        shaped = st.booleans()
    else:
        return _SCALARS
    return st.one_of(shaped, shaped, shaped, shaped, _JSON)


@pytest.mark.parametrize("kind", sorted(api.KINDS))
def test_validation_never_raises(kind: str) -> None:
    """Whatever JSON is sent, the answer is a list of errors and warnings, each with text."""
    from pilotfish.api.crds import crds  # noqa: PLC0415 - reads source files, only needed here

    schema = next(crd for crd in crds() if crd["spec"]["names"]["kind"] == kind)["spec"]["versions"][0]["schema"]

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(_strategy(schema["openAPIV3Schema"]["properties"]["spec"]))
    def check(spec: Any) -> None:
        result = validate_object(_object(kind, spec))
        assert all(error.message for error in result.errors)
        assert all(result.warnings)

    check()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(_JSON)
def test_any_json_is_answered(value: Any) -> None:
    """Even what is no object at all."""
    assert validate_object(value).errors
