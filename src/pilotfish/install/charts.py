"""The charts, rendered without Helm."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pilotfish.api.files import load_all, load_one
from pilotfish.errors import UserError
from pilotfish.gotemplate import NOTHING, Templates, from_data, merge_overwrite

Object = dict[str, Any]
NAMES = ("base", "istiod", "gateway", "console")


def directory() -> Path:
    """Where the charts are: in the package, or beside the sources."""
    packaged = Path(__file__).parents[1] / "charts"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "charts"


def render(chart: str, release: str, namespace: str, values: Mapping[str, Any]) -> list[Object]:
    """The objects that `helm template RELEASE charts/CHART -n NAMESPACE -f VALUES` gives, in the order of the files.

    Raises UserError (with file and line of the template) when the values cannot be used.
    """
    found = _read(chart)
    merged: Object = {}
    merge_overwrite(merged, found.values, values)
    dot = {
        "Values": from_data(merged),
        "Release": {"Name": release, "Namespace": namespace, "Service": "Helm"},
        "Chart": found.chart,
        "Files": _Files(found.files),
    }
    objects: list[Object] = []
    for name in found.outputs:
        for value, _ in load_all(found.templates.render(name, dot).replace(NOTHING, ""), name):
            if not isinstance(value, dict) or "kind" not in value:
                raise UserError(f"{name}: this is no object: {value!r:.100}")
            objects.append(value)
    return objects


_ELSEWHERE = {
    *("defaults", "pilot", "base", "istio_cni", "cni", "gateways", "ztunnel", "profile", "platform"),
    *("compatibilityVersion", "enabled", "ownerName", "_internal_defaults_do_not_set"),
}
"""Values of other charts, and those that say how values are meant."""


def unknown_values(values: Mapping[str, Any]) -> list[str]:
    """Values for the charts of the control plane, at the top and under `global`, that none of them knows."""
    known: Object = {}
    for chart in ("base", "istiod"):
        merge_overwrite(known, _read(chart).values["_internal_defaults_do_not_set"])
    found = [name for name in values if name not in known and name not in _ELSEWHERE]
    own = values.get("global") or {}
    return found + [f"global.{name}" for name in own if name not in known["global"] and name not in _ELSEWHERE]


class _Files:
    """The chart's files, as templates ask for them: `.Files.Get "name"`."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = files

    def go_field(self, name: str) -> Any:
        if name != "Get":
            raise LookupError(name)
        return lambda file: self.files.get(file, "")

    def plain(self) -> Any:
        return dict(self.files)


class _Chart:
    def __init__(self, path: Path) -> None:
        chart = load_one((path / "Chart.yaml").read_text())
        self.chart = {key[0].upper() + key[1:]: value for key, value in chart.items()}
        self.values = load_one((path / "values.yaml").read_text())
        self.files = {f"files/{file.name}": file.read_text() for file in (path / "files").glob("*")}
        self.templates = Templates()
        self.outputs: list[str] = []
        for file in sorted((path / "templates").iterdir()):
            if file.suffix not in {".tpl", ".yaml"}:
                continue
            name = f"{path.name}/templates/{file.name}"
            self.templates.add(name, file.read_text())
            if file.suffix == ".yaml":
                self.outputs.append(name)


@cache
def _read(chart: str) -> _Chart:
    return _Chart(directory() / chart)
