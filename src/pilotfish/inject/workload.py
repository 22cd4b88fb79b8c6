"""What a pod belongs to: its workload's name and kind, from its owner."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NAME_LABEL = "service.istio.io/workload-name"
CANONICAL_NAME, CANONICAL_REVISION = "service.istio.io/canonical-name", "service.istio.io/canonical-revision"
_REPLICA_SET = re.compile(r"^(.+)-[0-9a-z]{5,10}$")
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
    """Deployments are seen through their ReplicaSets, CronJobs through their Jobs; a bare pod is its own workload."""
    meta = pod.get("metadata") or {}
    labels = meta.get("labels") or {}
    owner = next((one for one in meta.get("ownerReferences") or () if one.get("controller")), None)
    if owner is None:
        name = meta.get("name") or str(meta.get("generateName") or "").rstrip("-") or "unknown"
        found = Workload(name, "Pod", "v1", namespace)
    else:
        name, kind, version = owner["name"], owner["kind"], owner.get("apiVersion", "v1")
        # A ReplicaSet of a Deployment ends in the hash that the pod carries as a label.
        if kind == "ReplicaSet" and labels.get("pod-template-hash") and (match := _REPLICA_SET.match(name)):
            name, kind, version = match[1], "Deployment", "apps/v1"
        elif kind == "Job" and (match := _CRON_JOB.match(name)):
            name, kind, version = match[1], "CronJob", "batch/v1"
        found = Workload(name, kind, version, namespace)
    override = labels.get(NAME_LABEL)
    return Workload(override, found.kind, found.api_version, namespace) if override else found


def canonical_labels(labels: Mapping[str, str], workload: Workload) -> dict[str, str]:
    """Canonical name and revision: explicit labels, then the usual ones, then the workload."""
    name = next(
        (labels[one] for one in (CANONICAL_NAME, "app.kubernetes.io/name", "app") if labels.get(one)), workload.name
    )
    revision = next(
        (labels[one] for one in (CANONICAL_REVISION, "app.kubernetes.io/version", "version") if labels.get(one)),
        "latest",
    )
    return {CANONICAL_NAME: name[:63], CANONICAL_REVISION: revision[:63]}
