"""Bodies in the protobuf form."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotfish.local.apiserver import protobuf
from pilotfish.local.apiserver.errors import ApiError


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return bytes([number << 3 | 2, len(content)]) + content


def body(api_version: bytes, kind: bytes, raw: bytes) -> bytes:
    return b"k8s\x00" + field(1, field(1, api_version) + field(2, kind)) + field(2, raw)


META = field(1, field(1, b"a") + field(2, b"") + field(8, b""))
CONFIG_MAP = body(b"v1", b"ConfigMap", META + field(2, field(1, b"key") + field(2, b"value")) + b"\x20\x00")


HUGE = body(b"v1", b"ConfigMap", field(1, b"\x08" + b"\xff" * 8 + b"\x01"))
"""A number where a name belongs, as large as it gets."""


def test_an_object_is_read() -> None:
    """Empty strings and times are absent, optional false stays, maps are maps."""
    assert protobuf.decode(CONFIG_MAP) == {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {"name": "a"},
        "immutable": False,
        "data": {"key": "value"},
    }


def test_numbers_texts_and_inlined_structs() -> None:
    """Negative numbers, integer-or-string, quantities, and fields of structs that Go embeds."""
    minus_one = b"\x08" + b"\xff" * 9 + b"\x01"
    deployment = body(b"apps/v1", b"Deployment", field(2, minus_one))
    assert protobuf.decode(deployment)["spec"]["replicas"] == -1
    empty_dir = field(1, b"v") + field(2, field(2, field(2, field(1, b"1Gi"))))
    pod = protobuf.decode(body(b"v1", b"Pod", field(2, field(1, empty_dir))))
    assert pod["spec"]["volumes"] == [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}]
    port = field(1, field(4, field(3, b"http") + b"\x08\x01"))
    service = protobuf.decode(body(b"v1", b"Service", field(2, port)))
    assert service["spec"]["ports"][0]["targetPort"] == "http"


def test_unknown_fields_of_newer_clients_are_passed_over() -> None:
    """As protobuf asks."""
    newer = body(b"v1", b"ConfigMap", META + b"\x82\x7d\x01x")
    assert protobuf.decode(newer)["metadata"] == {"name": "a"}


@pytest.mark.parametrize("content", [b"", b"{}", body(b"v9", b"Nope", b""), CONFIG_MAP[:-3], CONFIG_MAP[:6], HUGE])
def test_what_cannot_be_read_is_a_bad_request(content: bytes) -> None:
    """400, never a crash."""
    with pytest.raises(ApiError) as refused:
        protobuf.decode(content)
    assert refused.value.code == 400


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    """Whatever comes, the answer is an object or a 400."""
    with contextlib.suppress(ApiError):
        assert isinstance(protobuf.decode(body(b"v1", b"Pod", content)), dict)
