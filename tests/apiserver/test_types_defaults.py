"""What the server fills in where a client says nothing, kind by kind."""

from __future__ import annotations

from typing import Any

import pytest
from tests.apiserver.builtin import created, make, pod, problems, read, template, value, workload

ABSENT = object()


def probe(**fields: Any) -> dict[str, Any]:
    return pod({"livenessProbe": fields})


JOB: dict[str, Any] = {"template": template(restartPolicy="Never")}
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "pod",
        pod(),
        {
            "spec.restartPolicy": "Always",
            "spec.dnsPolicy": "ClusterFirst",
            "spec.terminationGracePeriodSeconds": 30,
            "spec.schedulerName": "default-scheduler",
            "spec.securityContext": {},
            "spec.enableServiceLinks": True,
            "spec.containers.0.terminationMessagePath": "/dev/termination-log",
            "spec.containers.0.terminationMessagePolicy": "File",
            "spec.containers.0.imagePullPolicy": "IfNotPresent",
            "spec.containers.0.resources": {},
            "spec.hostNetwork": ABSENT,
        },
    ),
    ("latest is always pulled", pod({"image": "a"}), {"spec.containers.0.imagePullPolicy": "Always"}),
    ("a tag latest, too", pod({"image": "h:5000/a:latest"}), {"spec.containers.0.imagePullPolicy": "Always"}),
    ("a port is no tag", pod({"image": "h:5000/a"}), {"spec.containers.0.imagePullPolicy": "Always"}),
    (
        "a digest is not",
        pod({"image": "a@sha256:" + "0" * 64}),
        {"spec.containers.0.imagePullPolicy": "IfNotPresent"},
    ),
    (
        "the old name of the account",
        pod(serviceAccount="a"),
        {"spec.serviceAccountName": "a", "spec.serviceAccount": "a"},
    ),
    (
        "host network",
        pod({"ports": [{"containerPort": 80}]}, hostNetwork=True),
        {"spec.containers.0.ports.0.hostPort": 80, "spec.containers.0.ports.0.protocol": "TCP"},
    ),
    (
        "requests from limits",
        pod({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}}),
        {"spec.containers.0.resources.requests": {"cpu": "500m", "memory": "1Gi"}},
    ),
    (
        "quantities are written one way",
        pod({"resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}}}),
        {"spec.containers.0.resources.requests": {"cpu": "500m", "memory": "1Gi"}},
    ),
    (
        "probe",
        probe(httpGet={"port": 80}),
        {
            "spec.containers.0.livenessProbe.httpGet.path": "/",
            "spec.containers.0.livenessProbe.httpGet.scheme": "HTTP",
            "spec.containers.0.livenessProbe.timeoutSeconds": 1,
            "spec.containers.0.livenessProbe.periodSeconds": 10,
            "spec.containers.0.livenessProbe.successThreshold": 1,
            "spec.containers.0.livenessProbe.failureThreshold": 3,
            "spec.containers.0.livenessProbe.initialDelaySeconds": ABSENT,
        },
    ),
    ("grpc probe", probe(grpc={"port": 80}), {"spec.containers.0.livenessProbe.grpc.service": ""}),
    (
        "hook",
        pod({"lifecycle": {"preStop": {"httpGet": {"port": 80}}}}),
        {
            "spec.containers.0.lifecycle.preStop.httpGet.path": "/",
            "spec.containers.0.lifecycle.preStop.httpGet.scheme": "HTTP",
        },
    ),
    (
        "field reference",
        pod({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
        {"spec.containers.0.env.0.valueFrom.fieldRef.apiVersion": "v1"},
    ),
    (
        "resource reference",
        pod({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}),
        {"spec.containers.0.env.0.valueFrom.resourceFieldRef.divisor": "0"},
    ),
    *(
        (f"volume {kind}", pod(volumes=[{"name": "v", kind: source}]), {f"spec.volumes.0.{kind}.{field}": expected})
        for kind, source, field, expected in (
            ("configMap", {"name": "c"}, "defaultMode", 420),
            ("secret", {"secretName": "s"}, "defaultMode", 420),
            ("projected", {"sources": []}, "defaultMode", 420),
            ("downwardAPI", {"items": []}, "defaultMode", 420),
            ("hostPath", {"path": "/a"}, "type", ""),
            ("iscsi", {"targetPortal": "a", "iqn": "b", "lun": 0}, "iscsiInterface", "default"),
        )
    ),
    ("a volume without source", pod(volumes=[{"name": "v"}]), {"spec.volumes.0.emptyDir": {}}),
    (
        "token of a projected volume",
        pod(
            volumes=[{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
            serviceAccountName="a",
        ),
        {"spec.volumes.0.projected.sources.0.serviceAccountToken.expirationSeconds": 3600},
    ),
    (
        "service",
        make("v1", "Service", spec={"ports": [{"port": 80}]}),
        {
            "spec.type": "ClusterIP",
            "spec.sessionAffinity": "None",
            "spec.internalTrafficPolicy": "Cluster",
            "spec.ports.0.protocol": "TCP",
            "spec.ports.0.targetPort": 80,
            "spec.externalTrafficPolicy": ABSENT,
        },
    ),
    (
        "node port service",
        make("v1", "Service", spec={"type": "NodePort", "ports": [{"port": 80}]}),
        {"spec.externalTrafficPolicy": "Cluster", "spec.allocateLoadBalancerNodePorts": ABSENT},
    ),
    (
        "load balancer",
        make("v1", "Service", spec={"type": "LoadBalancer", "ports": [{"port": 80}]}),
        {"spec.allocateLoadBalancerNodePorts": True, "spec.externalTrafficPolicy": "Cluster"},
    ),
    (
        "external name has no policy of traffic",
        make("v1", "Service", spec={"type": "ExternalName", "externalName": "a.b"}),
        {"spec.internalTrafficPolicy": ABSENT, "spec.sessionAffinity": "None"},
    ),
    (
        "session affinity",
        make("v1", "Service", spec={"sessionAffinity": "ClientIP", "ports": [{"port": 80}]}),
        {"spec.sessionAffinityConfig.clientIP.timeoutSeconds": 10800},
    ),
    ("secret", make("v1", "Secret", stringData={"a": "b"}), {"type": "Opaque"}),
    ("namespace", make("v1", "Namespace"), {"metadata.labels": {"kubernetes.io/metadata.name": "x"}}),
    (
        "deployment",
        workload("Deployment"),
        {
            "spec.replicas": 1,
            "spec.strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "spec.revisionHistoryLimit": 10,
            "spec.progressDeadlineSeconds": 600,
        },
    ),
    ("recreate", workload("Deployment", strategy={"type": "Recreate"}), {"spec.strategy": {"type": "Recreate"}}),
    ("no replicas", workload("Deployment", replicas=0), {"spec.replicas": 0}),
    (
        "stateful set",
        workload("StatefulSet", serviceName="s"),
        {
            "spec.replicas": 1,
            "spec.podManagementPolicy": "OrderedReady",
            "spec.updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "spec.revisionHistoryLimit": 10,
            "spec.persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        },
    ),
    (
        "daemon set",
        workload("DaemonSet"),
        {
            "spec.updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "spec.revisionHistoryLimit": 10,
        },
    ),
    (
        "job",
        make("batch/v1", "Job", spec=JOB),
        {
            "spec.completions": 1,
            "spec.parallelism": 1,
            "spec.backoffLimit": 6,
            "spec.completionMode": "NonIndexed",
            "spec.suspend": False,
            "spec.podReplacementPolicy": "TerminatingOrFailed",
        },
    ),
    (
        "a job with a number of workers has no number of completions",
        make("batch/v1", "Job", spec=JOB | {"parallelism": 3}),
        {"spec.completions": ABSENT, "spec.parallelism": 3},
    ),
    (
        "cron job",
        make("batch/v1", "CronJob", spec={"schedule": "* * * * *", "jobTemplate": {"spec": JOB}}),
        {
            "spec.concurrencyPolicy": "Allow",
            "spec.suspend": False,
            "spec.successfulJobsHistoryLimit": 3,
            "spec.failedJobsHistoryLimit": 1,
            "spec.jobTemplate.spec.backoffLimit": ABSENT,
        },
    ),
    (
        "autoscaler",
        make(
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            spec={"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 3},
        ),
        {
            "spec.minReplicas": 1,
            "spec.metrics": [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
                }
            ],
        },
    ),
    (
        "network policy",
        make("networking.k8s.io/v1", "NetworkPolicy", spec={"podSelector": {}, "egress": [{}]}),
        {"spec.policyTypes": ["Ingress", "Egress"]},
    ),
    (
        "role binding",
        make(
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            roleRef={"kind": "Role", "name": "r"},
            subjects=[{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}],
        ),
        {
            "roleRef.apiGroup": "rbac.authorization.k8s.io",
            "subjects.0.apiGroup": "rbac.authorization.k8s.io",
            "subjects.1.apiGroup": ABSENT,
        },
    ),
    (
        "webhook",
        make(
            "admissionregistration.k8s.io/v1",
            "MutatingWebhookConfiguration",
            webhooks=[
                {
                    "name": "a.b.c",
                    "clientConfig": {"service": {"namespace": "n", "name": "s"}},
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                    "rules": [
                        {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
                    ],
                }
            ],
        ),
        {
            "webhooks.0.failurePolicy": "Fail",
            "webhooks.0.matchPolicy": "Equivalent",
            "webhooks.0.timeoutSeconds": 10,
            "webhooks.0.reinvocationPolicy": "Never",
            "webhooks.0.namespaceSelector": {},
            "webhooks.0.objectSelector": {},
            "webhooks.0.clientConfig.service.port": 443,
            "webhooks.0.rules.0.scope": "*",
        },
    ),
    (
        "storage class",
        make("storage.k8s.io/v1", "StorageClass", provisioner="p"),
        {"reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"},
    ),
    (
        "volume",
        make(
            "v1",
            "PersistentVolume",
            spec={"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/a"}},
        ),
        {"spec.persistentVolumeReclaimPolicy": "Retain", "spec.volumeMode": "Filesystem"},
    ),
    ("priority class", make("scheduling.k8s.io/v1", "PriorityClass"), {"preemptionPolicy": "PreemptLowerPriority"}),
    (
        "slice",
        make("discovery.k8s.io/v1", "EndpointSlice", addressType="IPv4", ports=[{"port": 80}]),
        {"ports.0.name": "", "ports.0.protocol": "TCP"},
    ),
]


@pytest.mark.parametrize(("given", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_defaults(given: dict[str, Any], expected: dict[str, Any]) -> None:
    """The fields named have these values after decoding and defaulting, or are absent."""
    obj = read(given)
    for path, wanted in expected.items():
        if wanted is ABSENT:
            with pytest.raises(KeyError):
                value(obj, path)
        else:
            assert value(obj, path) == wanted, path


@pytest.mark.parametrize("given", [case[1] for case in CASES], ids=[case[0] for case in CASES])
def test_defaults_do_not_change_what_has_them(given: dict[str, Any]) -> None:
    """Reading a defaulted object again leaves it as it is: an update without changes is no change."""
    once = read(given)
    assert read(once) == once


@pytest.mark.parametrize("given", [case[1] for case in CASES], ids=[case[0] for case in CASES])
def test_what_the_table_of_defaults_holds_is_valid(given: dict[str, Any]) -> None:
    """The objects above are accepted, so that what is tested is what users meet."""
    assert problems(created(given)) == []


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        ([{}], "BestEffort"),
        ([{"requests": {"cpu": "1"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1"}}, {}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "500m"}}], "Burstable"),
        ([{"requests": {"cpu": "0"}}], "BestEffort"),
    ],
)
def test_quality_of_service(containers: list[dict[str, Any]], expected: str) -> None:
    """A new pod is Pending, and its class follows from requests and limits."""
    made = [{"name": f"c{i}", "image": "a:1", "resources": resources} for i, resources in enumerate(containers)]
    status = created(pod(containers=made))["status"]
    assert status["phase"] == "Pending"
    assert status["qosClass"] == expected


def test_a_job_gets_its_selector_and_labels() -> None:
    """A job's pods are told from those of others by its uid."""
    job = created(make("batch/v1", "Job", spec=JOB))
    uid = job["metadata"]["uid"]
    assert job["spec"]["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert labels["batch.kubernetes.io/controller-uid"] == uid
    assert labels["controller-uid"] == uid
    assert labels["batch.kubernetes.io/job-name"] == labels["job-name"] == "x"


def test_texts_of_a_secret_become_data() -> None:
    """stringData is written into data and not kept."""
    secret = created(make("v1", "Secret", data={"a": "eA=="}, stringData={"a": "b", "c": "d"}))
    assert secret["data"] == {"a": "Yg==", "c": "ZA=="}
    assert "stringData" not in secret
