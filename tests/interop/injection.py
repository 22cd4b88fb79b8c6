"""Istio's golden cases of injection, read from its tests; and two pods compared by what they mean."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
DATA = Path("pkg/kube/inject")


@dataclass(frozen=True)
class Case:
    """One case of Istio's TestInjection."""

    given: str
    """The file of the manifest."""
    wanted: str
    """The file of what Istio makes of it; empty where it is refused."""
    flags: tuple[str, ...] = ()
    operator_file: str = ""
    native: bool = True
    """The nodes of the test are new enough, unless the case says otherwise."""
    code: str = field(default="", compare=False)
    """Its text in Go: where it changes the mesh or the environment, this says so."""

    @property
    def name(self) -> str:
        return self.wanted or self.given


def cases(source: Path) -> list[Case]:
    """Those listed in inject_test.go, and every other golden file with its default settings."""
    folder = source / DATA
    text = (folder / "inject_test.go").read_text()
    begin = text.index("cases := []testCase{")
    block = text[begin : text.index("\n\t}\n", begin) + 1]
    found = [_case(part) for part in re.findall(r"^\t\t\{\n(.*?)^\t\t\},\n", block, re.MULTILINE | re.DOTALL)]
    listed = {one.wanted or f"{one.given}.injected" for one in found}
    for file in sorted((folder / "testdata/inject").glob("*.yaml")):
        wanted = f"{file.name}.injected"
        if wanted not in listed and not file.name.endswith(".iop.yaml"):
            found.append(Case(file.name, wanted))
    return list({one.name + str(one.native): one for one in found}.values())


def _case(part: str) -> Case:
    def text(name: str) -> str:
        match = re.search(rf'\b{name}:\s*"([^"]*)"', part)
        return match[1] if match else ""

    flags = re.search(r"setFlags: \[\]string\{(.*?)\}", part, re.DOTALL)
    listed = re.findall(r'["`]([^"`]+)["`]', flags[1]) if flags else []
    native = "NativeSidecarModeDisabled" not in part
    return Case(text("in"), text("want"), tuple(listed), text("inFilePath"), native, part)


@cache
def manifests(
    istioctl: Path, packages: Path, flags: tuple[str, ...], operator_file: str = ""
) -> tuple[Mapping[str, Any], ...]:
    """The objects of Istio's control plane, as its tests have them."""
    settings = [*flags, f"installPackagePath={packages}", "profile=empty", "components.pilot.enabled=true"]
    command = [str(istioctl), "manifest", "generate", *(word for one in settings for word in ("--set", one))]
    if operator_file:
        command += ["-f", operator_file]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return tuple(one for one in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if one)


def config_maps(objects: Iterable[Mapping[str, Any]]) -> Mapping[str, Mapping[str, str]]:
    """Name → data."""
    return {one["metadata"]["name"]: one.get("data") or {} for one in objects if one["kind"] == "ConfigMap"}


# ------------------------------------------------------------------------------ comparing


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two values differ: (path, ours, theirs). Lists of named objects are compared by their names."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted({*ours, *theirs}):
            yield from differences(ours.get(key), theirs.get(key), f"{path}/{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for at, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{path}/{at}")
    elif ours != theirs:
        yield path, ours, theirs


_QUANTITY = {"m": Decimal("0.001"), "": Decimal(1), "k": Decimal(1000), "M": Decimal(10) ** 6, "G": Decimal(10) ** 9}
_QUANTITY |= {"Ki": Decimal(2) ** 10, "Mi": Decimal(2) ** 20, "Gi": Decimal(2) ** 30}
_BY = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
}
_JSON = ("PROXY_CONFIG", "ISTIO_META_POD_PORTS", "ISTIO_KUBE_APP_PROBERS", "ISTIO_PROMETHEUS_ANNOTATIONS")
_JSON_NOTES = ("sidecar.istio.io/status", "proxy.istio.io/overrides")


def meaning(value: Any, key: str = "") -> Any:
    """A part of a manifest without what says nothing: what is empty, the order of named things, spellings."""
    if isinstance(value, list) and key in _BY and all(isinstance(one, dict) and _BY[key] in one for one in value):
        return meaning(
            {str(one[_BY[key]]): one for one in value}
            | ({"order": ",".join(one["name"] for one in value)} if "ontainers" in key else {})
        )
    if isinstance(value, list):
        return [meaning(one) for one in value]
    if isinstance(value, dict) and str(value.get("name")) in _JSON and "value" in value:
        return {"json": meaning(json.loads(value["value"]))}
    if isinstance(value, dict):
        kept = {name: meaning(one, name) for name, one in value.items()}
        zero = {"initialDelaySeconds": 0, "hostNetwork": False, "value": ""}
        return {
            name: one
            for name, one in kept.items()
            if one not in (None, {}, []) and (name not in zero or one != zero[name])
        }
    if key in _JSON_NOTES:
        return meaning(json.loads(value))
    if key in ("cpu", "memory"):
        match = re.fullmatch(r"([\d.]+)([a-zA-Z]*)", str(value))
        return str((Decimal(match[1]) * _QUANTITY[match[2]]).normalize()) if match else value
    return value


def documents(text: str) -> list[Object]:
    return [one for one in yaml.load_all(text, Loader=yaml.CSafeLoader) if one]
