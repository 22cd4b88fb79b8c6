"""`pilotfish trace-request`: the object it makes, and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner

from pilotfish.api.validation import validate_object
from pilotfish.cli.trace_request import command, telemetry
from pilotfish.errors import UserError

SERVICE: dict[str, Any] = {
    "metadata": {"name": "productpage", "namespace": "book"},
    "spec": {"selector": {"app": "productpage"}},
}
END = datetime(2030, 1, 31, 12, 0, tzinfo=UTC)


def test_the_object_selects_the_service_and_has_an_end() -> None:
    """It is a valid Telemetry for the service's workloads; another header is another object."""
    made = telemetry(SERVICE, "x-debug=1", END)
    assert made["spec"] == {"selector": {"matchLabels": {"app": "productpage"}}}
    assert made["metadata"]["namespace"] == "book"
    assert made["metadata"]["annotations"] == {
        "telemetry.pilotfish.io/trace-requests": "x-debug=1",
        "pilotfish.io/expires": "2030-01-31T12:00:00Z",
    }
    checked = validate_object(made)
    assert (checked.errors, checked.warnings) == ([], [])
    assert telemetry(SERVICE, "x-other", END)["metadata"]["name"] != made["metadata"]["name"]


def test_a_service_without_selector_is_refused() -> None:
    """There is no proxy to ask."""
    with pytest.raises(UserError, match="book/productpage has no selector"):
        telemetry({**SERVICE, "spec": {}}, "x-debug", END)


@pytest.mark.parametrize("header", ["", "x debug", "x-debug='", 'x-debug=" || true', "x-debug=%REQ(x)%", "x_debug=1"])
def test_headers_that_could_end_an_expression_are_refused(header: str) -> None:
    """Before anything is asked of a cluster."""
    done = CliRunner().invoke(command, ["--to", "productpage.book", "--header", header])
    assert done.exit_code == 2
    assert "is not NAME or NAME=VALUE" in done.output
