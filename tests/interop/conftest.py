"""Our programs beside the ones they replace: Istio's control plane, agent and istioctl, Jaeger, Zipkin.

`make interop` builds those and runs these tests; `make test` leaves them out, because the building takes long.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BUILT = os.environ.get("PILOTFISH_INTEROP", "")
"""The folder with the programs (`bin`) and the sources they were built from (`src`)."""

if not BUILT:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def programs() -> Path:
    """The programs: `pilot-discovery`, `pilot-agent`, `istioctl`, `all-in-one` (Jaeger), and Zipkin's jar."""
    return Path(BUILT) / "bin"


@pytest.fixture(scope="session")
def istio_source() -> Path:
    """The source tree of Istio, with its charts, samples and test data. Only read, never copied into this project."""
    return Path(BUILT) / "src" / "istio"
