"""Fields of built-in kinds that take one of a few words, for `kubectl explain` and editors.

They are told apart from the definitions on purpose: there an `enum` would refuse, in words other than the kinds' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CORE = "io.k8s.api.core.v1."
_APPS = "io.k8s.api.apps.v1."
_BATCH = "io.k8s.api.batch.v1."
_ADMISSION = "io.k8s.api.admissionregistration.v1."
_PROTOCOLS = "SCTP TCP UDP"
_EFFECTS = "NoExecute NoSchedule PreferNoSchedule"
_PULL = "Always IfNotPresent Never"
_TERMINATION = "FallbackToLogsOnError File"
_SCHEMES = "HTTP HTTPS"
_HOST_PATH = "BlockDevice CharDevice Directory DirectoryOrCreate File FileOrCreate Socket"
_CONTAINER = {"imagePullPolicy": _PULL, "terminationMessagePolicy": _TERMINATION}

_WORDS: Mapping[str, Mapping[str, str]] = {
    _APPS + "DeploymentStrategy": {"type": "Recreate RollingUpdate"},
    _APPS + "DaemonSetUpdateStrategy": {"type": "OnDelete RollingUpdate"},
    _APPS + "StatefulSetUpdateStrategy": {"type": "OnDelete RollingUpdate"},
    _APPS + "StatefulSetSpec": {"podManagementPolicy": "OrderedReady Parallel"},
    _BATCH + "CronJobSpec": {"concurrencyPolicy": "Allow Forbid Replace"},
    _BATCH + "JobSpec": {"completionMode": "Indexed NonIndexed", "podReplacementPolicy": "Failed TerminatingOrFailed"},
    _BATCH + "PodFailurePolicyRule": {"action": "Count FailIndex FailJob Ignore"},
    _BATCH + "PodFailurePolicyOnExitCodesRequirement": {"operator": "In NotIn"},
    _CORE + "Container": _CONTAINER,
    _CORE + "EphemeralContainer": _CONTAINER,
    _CORE + "ContainerPort": {"protocol": _PROTOCOLS},
    _CORE + "EndpointPort": {"protocol": _PROTOCOLS},
    _CORE + "HTTPGetAction": {"scheme": _SCHEMES},
    _CORE + "HostPathVolumeSource": {"type": _HOST_PATH},
    _CORE + "NamespaceStatus": {"phase": "Active Terminating"},
    _CORE + "NodeSelectorRequirement": {"operator": "DoesNotExist Exists Gt In Lt NotIn"},
    _CORE + "PersistentVolumeClaimSpec": {"volumeMode": "Block Filesystem"},
    _CORE + "PersistentVolumeSpec": {
        "persistentVolumeReclaimPolicy": "Delete Recycle Retain",
        "volumeMode": "Block Filesystem",
    },
    _CORE + "PersistentVolumeStatus": {"phase": "Available Bound Failed Pending Released"},
    _CORE + "PodSpec": {
        "dnsPolicy": "ClusterFirst ClusterFirstWithHostNet Default None",
        "preemptionPolicy": "Never PreemptLowerPriority",
        "restartPolicy": "Always Never OnFailure",
    },
    _CORE + "PodSecurityContext": {
        "fsGroupChangePolicy": "Always OnRootMismatch",
        "supplementalGroupsPolicy": "Merge Strict",
    },
    _CORE + "PodStatus": {
        "phase": "Failed Pending Running Succeeded Unknown",
        "qosClass": "BestEffort Burstable Guaranteed",
    },
    _CORE + "SeccompProfile": {"type": "Localhost RuntimeDefault Unconfined"},
    _CORE + "AppArmorProfile": {"type": "Localhost RuntimeDefault Unconfined"},
    _CORE + "SecurityContext": {"procMount": "Default Unmasked"},
    _CORE + "ServicePort": {"protocol": _PROTOCOLS},
    _CORE + "PortStatus": {"protocol": _PROTOCOLS},
    _CORE + "ServiceSpec": {
        "externalTrafficPolicy": "Cluster Local",
        "internalTrafficPolicy": "Cluster Local",
        "ipFamilyPolicy": "PreferDualStack RequireDualStack SingleStack",
        "sessionAffinity": "ClientIP None",
        "type": "ClusterIP ExternalName LoadBalancer NodePort",
    },
    _CORE + "Taint": {"effect": _EFFECTS},
    _CORE + "Toleration": {"effect": _EFFECTS, "operator": "Equal Exists Gt Lt"},
    _CORE + "TopologySpreadConstraint": {
        "nodeAffinityPolicy": "Honor Ignore",
        "nodeTaintsPolicy": "Honor Ignore",
        "whenUnsatisfiable": "DoNotSchedule ScheduleAnyway",
    },
    "io.k8s.api.discovery.v1.EndpointSlice": {"addressType": "FQDN IPv4 IPv6"},
    "io.k8s.api.networking.v1.HTTPIngressPath": {"pathType": "Exact ImplementationSpecific Prefix"},
    "io.k8s.api.networking.v1.NetworkPolicyPort": {"protocol": _PROTOCOLS},
    "io.k8s.api.autoscaling.v2.HPAScalingRules": {"selectPolicy": "Disabled Max Min"},
    "io.k8s.api.policy.v1.PodDisruptionBudgetSpec": {"unhealthyPodEvictionPolicy": "AlwaysAllow IfHealthyBudget"},
    "io.k8s.api.storage.v1.StorageClass": {
        "reclaimPolicy": "Delete Recycle Retain",
        "volumeBindingMode": "Immediate WaitForFirstConsumer",
    },
    _ADMISSION + "RuleWithOperations": {"scope": "* Cluster Namespaced"},
    **{
        _ADMISSION + name: {
            "failurePolicy": "Fail Ignore",
            "matchPolicy": "Equivalent Exact",
            "reinvocationPolicy": "IfNeeded Never",
            "sideEffects": "None NoneOnDryRun Some Unknown",
        }
        for name in ("MutatingWebhook", "ValidatingWebhook")
    },
}


def with_enums(name: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The definition `name` with the words that its fields take."""
    words = _WORDS.get(name)
    if words is None or "properties" not in schema:
        return schema
    properties = dict(schema["properties"])
    for field, values in words.items():
        if field in properties:
            properties[field] = {**properties[field], "enum": values.split()}
    return {**schema, "properties": properties}
