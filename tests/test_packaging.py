"""The lock file belongs to pyproject.toml, and the samples to what is built in."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from pilotfish.local.images import resolve

ROOT = Path(__file__).parents[1]


def _locked() -> dict[str, Version]:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pairs = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", text, re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_lock_is_up_to_date() -> None:
    """Every dependency is pinned to a version that pyproject.toml allows. If not: run scripts/lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["dev"]]
    locked = _locked()
    wrong = [
        str(requirement)
        for requirement in wanted
        if (version := locked.get(canonicalize_name(requirement.name))) is None or version not in requirement.specifier
    ]
    assert not wrong, "run scripts/lock"


def test_lock_has_hashes_and_no_hosts() -> None:
    """Every version has hashes, and the file says nothing of where packages come from."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text
    for block in re.split(r"\n(?=\S)", text.strip()):
        assert "--hash=sha256:" in block, block.splitlines()[0]


@pytest.mark.parametrize("path", sorted((ROOT / "samples").rglob("*.yaml")), ids=lambda path: path.name)
def test_samples(path: Path, tmp_path: Path) -> None:
    """Samples are YAML with kinds and names, and every image in them is built in."""
    documents = [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]
    assert documents
    for document in documents:
        assert document["apiVersion"]
        assert document["kind"]
        assert document["metadata"]["name"]
        template = document["spec"].get("template", {}) if document["kind"] == "Deployment" else {}
        for container in template.get("spec", {}).get("containers", []):
            assert container["image"] == "auto" or resolve(container["image"], tmp_path) is not None
