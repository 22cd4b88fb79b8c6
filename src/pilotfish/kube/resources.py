"""The kinds we talk about, and where the API server serves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

Object = dict[str, Any]
"""A Kubernetes object as JSON."""


@dataclass(frozen=True, slots=True)
class ResourceType:
    """A kind at one version. `plural` is its word in URLs."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_resource(self) -> str:
        """As people name it: `pods`, `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, name: str = "", namespace: str = "", subresource: str = "") -> str:
        """The URL path; without a name that of the collection, without a namespace that of all namespaces."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        if self.namespaced and namespace:
            root += f"/namespaces/{quote(namespace, safe='')}"
        root += f"/{self.plural}"
        if name:
            root += f"/{quote(name, safe='')}"
        return f"{root}/{subresource}" if subresource else root

    def matches(self, reference: Mapping[str, Any]) -> bool:
        """Whether an owner or target reference means this kind; versions of one group are the same kind."""
        group = str(reference.get("apiVersion") or "").rpartition("/")[0]
        return reference.get("kind") == self.kind and group == self.group


def _core(kind: str, plural: str, *, namespaced: bool = True) -> ResourceType:
    return ResourceType("", "v1", kind, plural, namespaced)


CONFIG_MAPS = _core("ConfigMap", "configmaps")
ENDPOINTS = _core("Endpoints", "endpoints")
EVENTS = _core("Event", "events")
LIMIT_RANGES = _core("LimitRange", "limitranges")
NAMESPACES = _core("Namespace", "namespaces", namespaced=False)
NODES = _core("Node", "nodes", namespaced=False)
PERSISTENT_VOLUME_CLAIMS = _core("PersistentVolumeClaim", "persistentvolumeclaims")
PODS = _core("Pod", "pods")
REPLICATION_CONTROLLERS = _core("ReplicationController", "replicationcontrollers")
SECRETS = _core("Secret", "secrets")
SERVICE_ACCOUNTS = _core("ServiceAccount", "serviceaccounts")
SERVICES = _core("Service", "services")

CONTROLLER_REVISIONS = ResourceType("apps", "v1", "ControllerRevision", "controllerrevisions")
DAEMON_SETS = ResourceType("apps", "v1", "DaemonSet", "daemonsets")
DEPLOYMENTS = ResourceType("apps", "v1", "Deployment", "deployments")
REPLICA_SETS = ResourceType("apps", "v1", "ReplicaSet", "replicasets")
STATEFUL_SETS = ResourceType("apps", "v1", "StatefulSet", "statefulsets")

CRON_JOBS = ResourceType("batch", "v1", "CronJob", "cronjobs")
JOBS = ResourceType("batch", "v1", "Job", "jobs")

HORIZONTAL_POD_AUTOSCALERS = ResourceType("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
POD_DISRUPTION_BUDGETS = ResourceType("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
ENDPOINT_SLICES = ResourceType("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
LEASES = ResourceType("coordination.k8s.io", "v1", "Lease", "leases")
INGRESSES = ResourceType("networking.k8s.io", "v1", "Ingress", "ingresses")
INGRESS_CLASSES = ResourceType("networking.k8s.io", "v1", "IngressClass", "ingressclasses", namespaced=False)
NETWORK_POLICIES = ResourceType("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
CUSTOM_RESOURCE_DEFINITIONS = ResourceType(
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)
MUTATING_WEBHOOK_CONFIGURATIONS = ResourceType(
    "admissionregistration.k8s.io",
    "v1",
    "MutatingWebhookConfiguration",
    "mutatingwebhookconfigurations",
    namespaced=False,
)
VALIDATING_WEBHOOK_CONFIGURATIONS = ResourceType(
    "admissionregistration.k8s.io",
    "v1",
    "ValidatingWebhookConfiguration",
    "validatingwebhookconfigurations",
    namespaced=False,
)
TOKEN_REVIEWS = ResourceType("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", namespaced=False)
SUBJECT_ACCESS_REVIEWS = ResourceType(
    "authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", namespaced=False
)
