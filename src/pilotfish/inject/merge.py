"""Laying a partial pod over a pod, by the rules of strategic merge patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pilotfish.inject.errors import InjectionError
from pilotfish.kube.strategic import MergeError, strategic_merge

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Place:
    """What Kubernetes' API says of a place in a pod: which lists are merged, and by which key."""

    name: str = ""
    patch_strategy: frozenset[str] = frozenset()
    patch_merge_key: str = ""
    items: _Place | None = None
    children: Mapping[str, _Place] = field(default_factory=dict)

    def child(self, key: str) -> _Place:
        return self.children.get(key, _PLAIN)


_PLAIN = _Place()


def _list(key: str, **children: _Place) -> _Place:
    """A list of objects that is merged by a key."""
    return _Place(patch_strategy=frozenset({"merge"}), patch_merge_key=key, items=_Place(children=children))


_CONTAINERS = _list(
    "name",
    ports=_list("containerPort"),
    env=_list("name"),
    volumeMounts=_list("mountPath"),
    volumeDevices=_list("devicePath"),
)
_META = _Place(children={"ownerReferences": _list("uid"), "finalizers": _Place(patch_strategy=frozenset({"merge"}))})
_CLAIM = _Place(children={"volumeClaimTemplate": _Place(children={"metadata": _META})})
POD = _Place(
    name="Pod",
    children={
        "metadata": _META,
        "spec": _Place(
            children={
                "containers": _CONTAINERS,
                "initContainers": _CONTAINERS,
                "ephemeralContainers": _CONTAINERS,
                "volumes": _list("name", ephemeral=_CLAIM),
                "imagePullSecrets": _list("name"),
                "hostAliases": _list("ip"),
                "topologySpreadConstraints": _list("topologyKey"),
                "schedulingGates": _list("name"),
                "resourceClaims": _list("name"),
            }
        ),
    },
)
"""A test compares this with the definitions of the local API server."""


def lay(pod: Object, over: Mapping[str, Any]) -> Object:
    """`over` on `pod`; neither is changed. Raises InjectionError where the two do not fit together."""
    try:
        return strategic_merge(pod, over, POD)
    except MergeError as error:
        raise InjectionError(f"the template does not fit the pod: {error}") from error
