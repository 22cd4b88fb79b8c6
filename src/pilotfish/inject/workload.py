"""What a pod belongs to: its workload's name and kind, from its owner."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CANONICAL_NAME, CANONICAL_REVISION = "service.istio.io/canonical-name", "service.istio.io/canonical-revision"
_CRON_JOB = re.compile(r"^(.+)-\d{8,10}$")


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    kind: str
    api_version: str
    namespace: str

    @property
    def owner(self) -> str:
        """The form of node metadata `OWNER`."""
        return f"kubernetes://apis/{self.api_version}/namespaces/{self.namespace}/{self.kind.lower()}s/{self.name}"


def workload_of(pod: Mapping[str, Any], namespace: str) -> Workload:
    """A pod's controller, or what that belongs to; a pod without a controller is its own workload.

    Deployments and Rollouts are seen through their ReplicaSets, CronJobs through their Jobs, DeploymentConfigs through
    their ReplicationControllers.
    """
    meta = pod.get("metadata") or {}
    labels = meta.get("labels") or {}
    owner = next((one for one in meta.get("ownerReferences") or () if one.get("controller")), None)
    if owner is None:
        name = meta.get("name") or str(meta.get("generateName") or "").rstrip("-")
        return Workload(name, "Pod", "v1", namespace)
    name, kind, version = owner["name"], owner["kind"], owner.get("apiVersion", "v1")
    # A ReplicaSet ends in the hash that its pods carry as a label.
    hash_, rollout = labels.get("pod-template-hash"), labels.get("rollouts-pod-template-hash")
    if kind == "ReplicaSet" and hash_ and name.endswith(f"-{hash_}"):
        return Workload(name.removesuffix(f"-{hash_}"), "Deployment", version, namespace)
    if kind == "ReplicaSet" and rollout and name.endswith(f"-{rollout}"):
        return Workload(name.removesuffix(f"-{rollout}"), "Rollout", "v1alpha1", namespace)
    if kind == "ReplicationController" and labels.get("deploymentconfig"):
        return Workload(labels["deploymentconfig"], "DeploymentConfig", version, namespace)
    if kind == "Job" and (match := _CRON_JOB.match(name)):
        return Workload(match[1], "CronJob", "batch/v1", namespace)
    return Workload(name, kind, version, namespace)


def canonical_labels(labels: Mapping[str, str], workload: Workload, *, truncate: bool) -> dict[str, str]:
    """Canonical name and revision: explicit labels, then the usual ones, then the workload."""
    name = next(
        (labels[one] for one in (CANONICAL_NAME, "app.kubernetes.io/name", "app") if labels.get(one)), workload.name
    )
    revision = next(
        (labels[one] for one in (CANONICAL_REVISION, "app.kubernetes.io/version", "version") if labels.get(one)),
        "latest",
    )
    return {CANONICAL_NAME: name[:63].strip("-_.") if truncate else name, CANONICAL_REVISION: revision}
