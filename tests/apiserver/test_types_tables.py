"""What `kubectl get` shows of each kind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.apiserver.builtin import created, make, of, pod, workload

from pilotfish.local.apiserver.types import printing

NOW = datetime.now(UTC)
STARTED = (NOW - timedelta(hours=9, minutes=30)).strftime("%Y-%m-%dT%H:%M:%SZ")
RUNNING = {"running": {"startedAt": STARTED}}


def row(obj: dict[str, Any]) -> dict[str, Any]:
    """The cells by the names of their columns."""
    resource = of(obj)
    assert resource.row is not None
    return dict(zip((column.name for column in resource.columns), resource.row(obj), strict=True))


def status(name: str = "app", *, ready: bool = False, restarts: int = 0, **more: Any) -> dict[str, Any]:
    return {"name": name, "ready": ready, "restartCount": restarts, **more}


def waiting(reason: str) -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason}}}


def ended(code: int, **more: Any) -> dict[str, Any]:
    return {"state": {"terminated": {"exitCode": code, **more}}}


INIT = {"initContainers": [{"name": "i", "image": "i"}, {"name": "j", "image": "i"}]}
SIDECAR = {"initContainers": [{"name": "i", "image": "i", "restartPolicy": "Always"}]}
READY = [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}]
PODS: list[tuple[dict[str, Any], dict[str, Any], str, str, str]] = [
    ({}, {"phase": "Pending"}, "0/1", "Pending", "0"),
    ({}, {"phase": "Running", "containerStatuses": [status(ready=True, state=RUNNING)]}, "1/1", "Running", "0"),
    ({}, {"phase": "Running", "containerStatuses": [status(state=RUNNING)]}, "0/1", "Running", "0"),
    (
        {},
        {"phase": "Pending", "containerStatuses": [status(**waiting("ContainerCreating"))]},
        "0/1",
        "ContainerCreating",
        "0",
    ),
    (
        {},
        {"phase": "Pending", "containerStatuses": [status(**waiting("ImagePullBackOff"))]},
        "0/1",
        "ImagePullBackOff",
        "0",
    ),
    (
        {},
        {
            "phase": "Running",
            "containerStatuses": [
                status(
                    restarts=3,
                    **waiting("CrashLoopBackOff"),
                    lastState={"terminated": {"exitCode": 1, "finishedAt": STARTED}},
                )
            ],
        },
        "0/1",
        "CrashLoopBackOff",
        "3 (9h ago)",
    ),
    (
        {},
        {"phase": "Succeeded", "containerStatuses": [status(**ended(0, reason="Completed"))]},
        "0/1",
        "Completed",
        "0",
    ),
    ({}, {"phase": "Failed", "containerStatuses": [status(**ended(1, reason="Error"))]}, "0/1", "Error", "0"),
    ({}, {"phase": "Failed", "containerStatuses": [status(**ended(7))]}, "0/1", "ExitCode:7", "0"),
    ({}, {"phase": "Failed", "containerStatuses": [status(**ended(137, signal=9))]}, "0/1", "Signal:9", "0"),
    ({}, {"phase": "Failed", "reason": "Evicted"}, "0/1", "Evicted", "0"),
    (
        INIT,
        {"phase": "Pending", "initContainerStatuses": [status("i", **ended(0)), status("j", state=RUNNING)]},
        "0/1",
        "Init:1/2",
        "0",
    ),
    (
        INIT,
        {"phase": "Pending", "initContainerStatuses": [status("i", restarts=2, **waiting("CrashLoopBackOff"))]},
        "0/1",
        "Init:CrashLoopBackOff",
        "2",
    ),
    (
        INIT,
        {"phase": "Failed", "initContainerStatuses": [status("i", **ended(3, reason="Error"))]},
        "0/1",
        "Init:Error",
        "0",
    ),
    (
        INIT,
        {
            "phase": "Pending",
            "initContainerStatuses": [status("i", **ended(0)), status("j", **ended(0))],
            "containerStatuses": [status(**waiting("PodInitializing"))],
        },
        "0/1",
        "PodInitializing",
        "0",
    ),
    (
        SIDECAR,
        {
            "phase": "Running",
            "conditions": READY,
            "initContainerStatuses": [status("i", ready=True, restarts=1, started=True, state=RUNNING)],
            "containerStatuses": [status(ready=True, state=RUNNING)],
        },
        "2/2",
        "Running",
        "1",
    ),
    (
        SIDECAR,
        {"phase": "Pending", "initContainerStatuses": [status("i", started=False, state=RUNNING)]},
        "0/2",
        "Init:0/1",
        "0",
    ),
    (
        {},
        {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]},
        "0/1",
        "SchedulingGated",
        "0",
    ),
]


@pytest.mark.parametrize(("spec", "state", "ready", "word", "restarts"), PODS, ids=[case[3] for case in PODS])
def test_pods(spec: dict[str, Any], state: dict[str, Any], ready: str, word: str, restarts: str) -> None:
    """READY, STATUS and RESTARTS tell at a glance how a pod is."""
    cells = row(created(pod(**spec)) | {"status": state})
    assert (cells["Ready"], cells["Status"], cells["Restarts"]) == (ready, word, restarts)


def test_a_pod_that_is_being_deleted() -> None:
    """It is Terminating until it has ended."""
    obj = created(pod())
    obj["metadata"]["deletionTimestamp"] = STARTED
    assert row(obj)["Status"] == "Terminating"
    obj["status"] = {"phase": "Succeeded", "containerStatuses": [status(**ended(0, reason="Completed"))]}
    assert row(obj)["Status"] == "Completed"


def service(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return created(make("v1", "Service", spec=spec)) | {"status": status or {}}


ROWS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "a service",
        service(
            clusterIP="10.0.0.1",
            ports=[{"port": 80}, {"port": 53, "protocol": "UDP", "name": "d"}],
            selector={"a": "b"},
        ),
        {
            "Type": "ClusterIP",
            "Cluster-IP": "10.0.0.1",
            "External-IP": "<none>",
            "Port(s)": "80/TCP,53/UDP",
            "Selector": "a=b",
        },
    ),
    (
        "a node port",
        service(type="NodePort", clusterIP="10.0.0.1", ports=[{"port": 80, "nodePort": 30080}]),
        {"Port(s)": "80:30080/TCP", "Selector": "<none>"},
    ),
    (
        "a load balancer that waits",
        service(type="LoadBalancer", clusterIP="10.0.0.1", ports=[{"port": 80}]),
        {"External-IP": "<pending>"},
    ),
    (
        "a load balancer",
        service({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}, type="LoadBalancer", ports=[{"port": 80}]),
        {"External-IP": "1.2.3.4"},
    ),
    (
        "another name",
        service(type="ExternalName", externalName="a.b"),
        {"Cluster-IP": "<none>", "External-IP": "a.b", "Port(s)": "<none>"},
    ),
    (
        "a deployment",
        created(workload("Deployment", replicas=3))
        | {"status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1}},
        {
            "Ready": "2/3",
            "Up-to-date": 3,
            "Available": 1,
            "Containers": "app",
            "Images": "nginx:1",
            "Selector": "app=x",
        },
    ),
    (
        "a replica set",
        created(workload("ReplicaSet", replicas=3)) | {"status": {"replicas": 2, "readyReplicas": 1}},
        {"Desired": 3, "Current": 2, "Ready": 1},
    ),
    (
        "a stateful set",
        created(workload("StatefulSet", replicas=3)) | {"status": {"readyReplicas": 1}},
        {"Ready": "1/3", "Containers": "app"},
    ),
    (
        "a daemon set",
        created(workload("DaemonSet")) | {"status": {"desiredNumberScheduled": 1, "numberReady": 1}},
        {"Desired": 1, "Current": 0, "Ready": 1, "Node Selector": "<none>"},
    ),
    (
        "a namespace",
        created(make("v1", "Namespace")),
        {"Status": "Active"},
    ),
    ("a config map", created(make("v1", "ConfigMap", data={"a": "b"}, binaryData={"c": "eA=="})), {"Data": 2}),
    ("a secret", created(make("v1", "Secret", data={"a": "eA=="})), {"Type": "Opaque", "Data": 1}),
    (
        "a node",
        created(make("v1", "Node", spec={"unschedulable": True}))
        | {
            "status": {
                "conditions": [{"type": "Ready", "status": "False"}],
                "nodeInfo": {"kubeletVersion": "v1"},
                "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}],
            }
        },
        {
            "Status": "NotReady,SchedulingDisabled",
            "Roles": "<none>",
            "Version": "v1",
            "Internal-IP": "1.2.3.4",
            "External-IP": "<none>",
        },
    ),
    (
        "roles of a node",
        created(
            {"apiVersion": "v1", "kind": "Node", "metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}
        ),
        {"Status": "Unknown", "Roles": "control-plane"},
    ),
    (
        "an ingress",
        created(
            make(
                "networking.k8s.io/v1",
                "Ingress",
                spec={"ingressClassName": "c", "rules": [{"host": "a"}, {"host": "b"}], "tls": [{"hosts": ["a"]}]},
            )
        )
        | {"status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}},
        {"Class": "c", "Hosts": "a,b", "Address": "1.2.3.4", "Ports": "80, 443"},
    ),
    (
        "any host",
        created(make("networking.k8s.io/v1", "Ingress", spec={"rules": [{}]})),
        {"Class": "<none>", "Hosts": "*", "Address": "", "Ports": "80"},
    ),
    (
        "a role binding",
        created(
            make(
                "rbac.authorization.k8s.io/v1",
                "RoleBinding",
                roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
                subjects=[{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}],
            )
        ),
        {"Role": "Role/r", "Users": "u", "Groups": "", "ServiceAccounts": "n/s"},
    ),
    (
        "a budget",
        created(make("policy/v1", "PodDisruptionBudget", spec={"minAvailable": "50%"})),
        {"Min Available": "50%", "Max Unavailable": "N/A", "Allowed Disruptions": 0},
    ),
    (
        "a lease",
        created(make("coordination.k8s.io/v1", "Lease", spec={"holderIdentity": "me"})),
        {"Holder": "me"},
    ),
    (
        "a claim",
        created(make("v1", "PersistentVolumeClaim", spec={"storageClassName": "c", "volumeMode": "Filesystem"}))
        | {"status": {"phase": "Pending"}},
        {"Status": "Pending", "Volume": "", "Capacity": "", "Access Modes": "", "StorageClass": "c"},
    ),
]


@pytest.mark.parametrize(("obj", "expected"), [case[1:] for case in ROWS], ids=[case[0] for case in ROWS])
def test_rows(obj: dict[str, Any], expected: dict[str, Any]) -> None:
    """The named columns of a kind show this."""
    cells = row(obj)
    assert {name: cells[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ({}, "Running"),
        ({"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 1}, "Complete"),
        ({"conditions": [{"type": "Failed", "status": "True"}]}, "Failed"),
        ({"conditions": [{"type": "Suspended", "status": "True"}]}, "Suspended"),
        ({"conditions": [{"type": "FailureTarget", "status": "True"}]}, "FailureTarget"),
    ],
)
def test_jobs(status: dict[str, Any], word: str) -> None:
    """A job is running until a condition says otherwise; completions are counted against those wanted."""
    spec = {"template": {"spec": pod(restartPolicy="Never")["spec"]}, "completions": 2}
    cells = row(created(make("batch/v1", "Job", spec=spec)) | {"status": status})
    assert cells["Status"] == word
    assert cells["Completions"] == f"{status.get('succeeded', 0)}/2"


@pytest.mark.parametrize(
    ("elapsed", "text"),
    [
        (-5, "<invalid>"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (600, "10m"),
        (659, "10m"),
        (179 * 60, "179m"),
        (180 * 60, "3h"),
        (3 * 3600 + 120, "3h2m"),
        (8 * 3600 + 120, "8h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (50 * 3600, "2d2h"),
        (8 * 86400 + 7200, "8d"),
        (729 * 86400, "729d"),
        (730 * 86400, "2y"),
        (740 * 86400, "2y10d"),
        (9 * 365 * 86400, "9y"),
    ],
)
def test_ages(elapsed: float, text: str) -> None:
    """Ages get coarser as they grow, as kubectl's users are used to."""
    assert printing.duration(elapsed) == text
