"""Whether a proxy can be an init container that goes on running."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_VERSION = re.compile(r"v?(\d+)\.(\d+)")


def wanted(mode: str, pod: Mapping[str, Any], allowed: Callable[[], bool]) -> bool:
    """Whether a pod's proxy is to be one. `mode` is `ENABLE_NATIVE_SIDECARS`: `true`, `false` or `auto`, where the
    nodes have them. Without it only pods that end have one, whom another container would keep from ending: in all
    others people look for istio-proxy among the containers. Istio's default is `auto` since 1.27."""
    if mode in ("true", "false"):
        return mode == "true"
    ends = (pod.get("spec") or {}).get("restartPolicy") in ("Never", "OnFailure")
    return (ends or mode == "auto") and allowed()


def nodes_allow(nodes: Iterable[Mapping[str, Any]]) -> bool:
    """Whether all nodes have them for good: since Kubernetes 1.33."""
    return all(map(_allows, nodes))


def _allows(node: Mapping[str, Any]) -> bool:
    info = (node.get("status") or {}).get("nodeInfo") or {}
    match = _VERSION.match(str(info.get("kubeletVersion") or ""))
    return match is not None and (int(match[1]), int(match[2])) >= (1, 33)
