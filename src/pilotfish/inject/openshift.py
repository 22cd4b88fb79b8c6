"""OpenShift gives every namespace users and groups of its own; the proxy runs as the last of them."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

UIDS, GROUPS = "openshift.io/sa.scc.uid-range", "openshift.io/sa.scc.supplemental-groups"
PROXY = "istio-proxy"


def proxy_ids(annotations: Mapping[str, str], otherwise: int) -> tuple[int, int]:
    """User and group of the proxy, from a namespace's annotations."""
    uids = _last(annotations.get(UIDS, ""))
    groups = _last(annotations.get(GROUPS) or annotations.get(UIDS, ""))
    return uids or otherwise, groups or otherwise


def _last(text: str) -> int:
    """The last id of the first block, `FIRST/COUNT` or `FIRST-LAST`; 0 when there is none."""
    match = re.match(r"(\d+)([/-])(\d+)", text)
    if match is None:
        return 0
    return int(match[1]) + int(match[3]) - 1 if match[2] == "/" else int(match[3])


def without_shared_user(pod: Mapping[str, Any]) -> dict[str, Any]:
    """OpenShift gives all containers of a pod one user, also the user's own `istio-proxy`. There it is not the user's
    wish, and the proxy's traffic could not be told from the application's: it is taken away."""
    made = copy.deepcopy(dict(pod))
    spec = made.get("spec") or {}
    everyone = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    given = {
        one["name"]: (one.get("securityContext") or {}).get("runAsUser") or 0
        for one in everyone
        if one["name"] not in ("istio-init", "istio-validation")
    }
    proxy = next((one for one in everyone if one["name"] == PROXY), None)
    applications = [user for name, user in given.items() if name != PROXY and user]
    if proxy is not None and proxy.get("securityContext") and given[PROXY] == (applications[-1:] or [0])[0]:
        for name in ("runAsUser", "runAsGroup"):
            proxy["securityContext"].pop(name, None)
    return made
