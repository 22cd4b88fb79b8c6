"""Whether a pod may run on a node: selectors, required affinity, taints. Shared by scheduler and DaemonSets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pilotfish.kube.meta import labels_of, matches_requirement

_Taint = Mapping[str, Any]


def tolerates(tolerations: Sequence[Mapping[str, Any]], taint: _Taint) -> bool:
    return any(_tolerates(one, taint) for one in tolerations)


def _tolerates(toleration: Mapping[str, Any], taint: _Taint) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    key = toleration.get("key")
    if key and key != taint["key"]:
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    return bool(key) and (toleration.get("value") or "") == (taint.get("value") or "")


def untolerated_taint(pod_spec: Mapping[str, Any], node: Mapping[str, Any], effects: Sequence[str]) -> _Taint | None:
    tolerations = pod_spec.get("tolerations") or ()
    for taint in (node.get("spec") or {}).get("taints") or ():
        if taint.get("effect") in effects and not tolerates(tolerations, taint):
            found: _Taint = taint
            return found
    return None


def matches_node_affinity(pod_spec: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    """nodeSelector, and the required terms of the node affinity: any of them will do."""
    labels = labels_of(node)
    if any(labels.get(key) != value for key, value in (pod_spec.get("nodeSelector") or {}).items()):
        return False
    affinity = (pod_spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return any(_matches_term(term, node) for term in required.get("nodeSelectorTerms") or ())


def _matches_term(term: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False  # an empty term matches nothing
    names = {"metadata.name": node["metadata"]["name"]}
    return all(matches_requirement(one, labels_of(node)) for one in expressions) and all(
        matches_requirement(one, names) for one in fields
    )


def why_not(pod: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """Why the scheduler cannot place the pod on the node, in its words; empty when it can."""
    spec = pod["spec"]
    if (node.get("spec") or {}).get("unschedulable"):
        taint = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
        if not tolerates(spec.get("tolerations") or (), taint):
            return "node(s) were unschedulable"
    taint_found = untolerated_taint(spec, node, ("NoSchedule", "NoExecute"))
    if taint_found is not None:
        return f"node(s) had untolerated taint {{{taint_found['key']}: {taint_found.get('value') or ''}}}"
    if not matches_node_affinity(spec, node):
        return "node(s) didn't match Pod's node affinity/selector"
    return ""
