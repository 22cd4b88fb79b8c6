"""Real Helm, where it is."""

from __future__ import annotations

import pytest

from .helm import find


@pytest.fixture(scope="session")
def helm() -> str:
    """The path of helm."""
    found = find()
    if found is None:
        pytest.skip("Helm is not here: `make test` builds it if Go is installed (tests/charts/helm.py)")
    return found
