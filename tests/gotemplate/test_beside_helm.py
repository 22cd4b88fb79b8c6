"""Templates rendered by us and by Helm, which runs Go's engine: the text is the same."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.charts.helm import find

from pilotfish.gotemplate import Templates, from_data

VALUES: dict[str, Any] = {
    "text": "some Text",
    "empty": "",
    "list": ["b", "a", "c", "a"],
    "numbers": [3, 1, 2],
    "map": {"k": "v", "b": {"c": 1}},
    "million": 1000000,
    "half": 0.5,
    "yes": True,
    "no": False,
    "nothing": None,
    "objects": [{"name": "x", "port": 80}, {"name": "z", "port": 90}],
}


def _cases() -> list[str]:
    """One a line; a backslash continues it on the next."""
    cases = Path(__file__).parent / "cases"
    language = (cases / "language.txt").read_text().replace("\\\n", "\0").splitlines()
    functions = (cases / "functions.txt").read_text().splitlines()
    return [text.replace("\0", "\n") for text in language] + [f"{{{{ {one} }}}}" for one in functions]


def _files() -> dict[str, str]:
    """Each case as a template of its own, and one document that holds the texts of all."""
    cases = {f"_case{at}.tpl": text for at, text in enumerate(_cases())}
    lines = (f'  "{name}": {{{{ include "all/templates/{name}" . | toJson }}}}' for name in cases)
    return {**cases, "all.yaml": "\n".join(["kind: ConfigMap", "metadata: {name: all}", "data:", *lines])}


def test_the_text_is_that_of_helm(tmp_path: Path) -> None:
    """Every action and function gives what Go and sprig give."""
    helm = find()
    if helm is None:
        pytest.skip("Helm is not here: `make test` builds it if Go is installed (tests/charts/helm.py)")
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: all\nversion: 1.0.0\n")
    (tmp_path / "values.yaml").write_text(json.dumps(VALUES))
    templates = Templates()
    for name, text in _files().items():
        (tmp_path / "templates" / name).write_text(text)
        templates.add(f"all/templates/{name}", text)
    shown = subprocess.run([helm, "template", "all", str(tmp_path)], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    theirs = yaml.safe_load(shown.stdout)["data"]
    ours = yaml.safe_load(templates.render("all/templates/all.yaml", {"Values": from_data(VALUES)}))["data"]
    different = {
        text: (ours[name], theirs[name])
        for name, text in _files().items()
        if name in ours and ours[name] != theirs[name]
    }
    assert len(theirs) == len(_cases())
    assert not different
