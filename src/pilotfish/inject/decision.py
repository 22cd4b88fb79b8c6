"""Whether a pod is injected. The webhook's selectors have decided once already; this is istiod's own second look.

1. Pods on the machine's own network are never injected: capture rules would catch the machine's traffic.
2. Namespaces of Kubernetes itself are never injected.
3. The pod's label `sidecar.istio.io/inject` decides when it is true or false; the annotation of that name is its
   deprecated form and counts where there is no such label.
4. `neverInjectSelector`, then `alwaysInjectSelector` of the injector's settings.
5. The policy of the injector's settings. One that is neither enabled nor disabled stops all injection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilotfish.inject.settings import InjectorSettings
from pilotfish.kube.meta import matches_selector

INJECT = "sidecar.istio.io/inject"
IGNORED = frozenset({"kube-system", "kube-public", "kube-node-lease", "local-path-storage"})


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict and the rule that gave it, for people who wonder."""

    inject: bool
    why: str


def decide(pod: Mapping[str, Any], namespace: str, settings: InjectorSettings) -> Decision:
    meta, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
    if spec.get("hostNetwork"):
        return Decision(False, "the pod uses the machine's network (hostNetwork)")
    if namespace in IGNORED:
        return Decision(False, f"namespace {namespace} is never injected")
    if settings.policy not in ("enabled", "disabled"):
        return Decision(False, f"the injector's policy {settings.policy!r} is neither enabled nor disabled")
    where = "label" if INJECT in labels else "annotation"
    value = labels.get(INJECT, annotations.get(INJECT, ""))
    if value in ("true", "false"):
        return Decision(value == "true", f"{where} {INJECT} is {value}")
    for selector in settings.never_inject:
        if selector and matches_selector(selector, labels):
            return Decision(False, "neverInjectSelector matches the pod's labels")
    for selector in settings.always_inject:
        if selector and matches_selector(selector, labels):
            return Decision(True, "alwaysInjectSelector matches the pod's labels")
    enabled = settings.policy == "enabled"
    return Decision(enabled, f"the injector's policy is {settings.policy}")
