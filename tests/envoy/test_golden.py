"""Golden pairs: objects and a proxy in, Envoy resources out, each also accepted by the real Envoy.

`pytest tests/envoy/test_golden.py --update-golden` writes the outputs; read the difference before committing it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tests.envoy.harness import Case, dump, everything, validate

CASES = sorted((Path(__file__).parent / "golden").glob("*.in.yaml"))


@pytest.mark.parametrize("path", CASES, ids=[c.name.removesuffix(".in.yaml") for c in CASES])
def test_golden(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The compiled resources are those written down, and Envoy takes the proxy's whole configuration."""
    case = Case(path.read_text())
    made = case.shown()
    expected = path.with_name(path.name.replace(".in.yaml", ".out.yaml"))
    if request.config.getoption("--update-golden", default=False):
        expected.write_text(dump(made))
    assert made == yaml.safe_load(expected.read_text())
    assert any(made.values()), "a golden pair shows something"
    validate(everything(case.compiler, case.view()), tmp_path)


def test_every_pair_is_complete() -> None:
    """No output without an input, and no input without an output."""
    folder = Path(__file__).parent / "golden"
    outputs = {p.name.replace(".out.yaml", "") for p in folder.glob("*.out.yaml")}
    assert CASES
    assert outputs == {c.name.replace(".in.yaml", "") for c in CASES}
