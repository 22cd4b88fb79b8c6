"""Whether a proxy can be an init container that goes on running."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_VERSION = re.compile(r"v?(\d+)\.(\d+)")


def nodes_allow(nodes: Iterable[Mapping[str, Any]]) -> bool:
    """Whether all nodes have them for good: since Kubernetes 1.33."""
    return all(map(_allows, nodes))


def _allows(node: Mapping[str, Any]) -> bool:
    info = (node.get("status") or {}).get("nodeInfo") or {}
    match = _VERSION.match(str(info.get("kubeletVersion") or ""))
    return match is not None and (int(match[1]), int(match[2])) >= (1, 33)
