"""The places of a pod where lists are merged."""

from __future__ import annotations

from typing import Any

from pilotfish.inject.merge import POD
from pilotfish.local.apiserver import schema, types


def _merged(place: Any, path: str, found: dict[str, str], seen: tuple[str, ...] = ()) -> dict[str, str]:
    children = place.children if hasattr(place, "children") else place.properties
    for name, child in children.items():
        if "merge" in child.patch_strategy:
            found[f"{path}.{name}"] = child.patch_merge_key or ""
        inner = child.items if child.items is not None else child
        if inner is not None and path.count(".") < 5:
            _merged(inner, f"{path}.{name}", found)
    return found


def test_they_are_those_of_the_api() -> None:
    """Every list of a pod that templates can bring is merged by the key that Kubernetes merges it by."""
    pod = schema.compile_definition("io.k8s.api.core.v1.Pod", types.definitions())
    theirs = {path: key for path, key in _merged(pod, "", {}).items() if not path.startswith(".status")}
    assert _merged(POD, "", {}) == theirs
