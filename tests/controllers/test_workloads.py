"""Workloads on a real API server, driven by the real kubectl."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.controllers.builders import template
from tests.controllers.conftest import Kubelet

from pilotfish.kube.client import Client, Propagation
from pilotfish.kube.meta import condition_is
from pilotfish.kube.resources import (
    CONFIG_MAPS,
    CRON_JOBS,
    DAEMON_SETS,
    DEPLOYMENTS,
    EVENTS,
    HORIZONTAL_POD_AUTOSCALERS,
    JOBS,
    PERSISTENT_VOLUME_CLAIMS,
    POD_DISRUPTION_BUDGETS,
    PODS,
    REPLICA_SETS,
    REPLICATION_CONTROLLERS,
    STATEFUL_SETS,
)

Run = Callable[..., Any]


def workload(kind: str, name: str = "web", labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    labels = labels or {"app": name}
    spec = {"selector": {"matchLabels": labels}, "template": template(labels), **spec}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def names(objects: list[dict[str, Any]]) -> list[str]:
    return sorted(one["metadata"]["name"] for one in objects)


async def test_rollout_undo_and_history(kubelet: Kubelet, kubectl: Run, until: Run) -> None:
    """`rollout status` ends when all is new; `history` lists the revisions; `undo` brings the first template back."""
    await kubectl("create", "deployment", "web", "--image=a:1", "--replicas=3")
    assert "successfully rolled out" in await kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    await kubectl("set", "image", "deployment/web", "a=a:2")
    assert "successfully rolled out" in await kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    pods = await until(PODS, lambda pods: len(pods) == 3)
    assert {pod["spec"]["containers"][0]["image"] for pod in pods} == {"a:2"}
    history = await kubectl("rollout", "history", "deployment/web")
    assert [line.split()[0] for line in history.splitlines()[2:] if line.strip()] == ["1", "2"]
    await kubectl("rollout", "undo", "deployment/web")
    assert "successfully rolled out" in await kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    pods = await until(PODS, lambda pods: len(pods) == 3)
    assert {pod["spec"]["containers"][0]["image"] for pod in pods} == {"a:1"}
    history = await kubectl("rollout", "history", "deployment/web")
    assert [line.split()[0] for line in history.splitlines()[2:] if line.strip()] == ["2", "3"]
    (deployment,) = await until(DEPLOYMENTS, lambda found: found)
    assert deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"
    reasons = {one["type"]: one["reason"] for one in deployment["status"]["conditions"]}
    assert reasons == {"Available": "MinimumReplicasAvailable", "Progressing": "NewReplicaSetAvailable"}


async def test_pause_restart_resume(client: Client, kubelet: Kubelet, kubectl: Run, until: Run, namespace: str) -> None:
    """A paused Deployment takes a new template without acting on it; resumed, it rolls."""
    await kubectl("create", "deployment", "web", "--image=a:1")
    await kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    await kubectl("rollout", "pause", "deployment/web")
    await kubectl("set", "image", "deployment/web", "a=a:2")
    await kubectl("scale", "deployment/web", "--replicas=2")
    await until(PODS, lambda pods: len(pods) == 2 and all(condition_is(pod, "Ready") for pod in pods))
    assert len((await client.list(REPLICA_SETS, namespace)).items) == 1
    await kubectl("rollout", "resume", "deployment/web")
    await kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    await kubectl("rollout", "restart", "deployment/web")
    await kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    pods = await until(PODS, lambda pods: len(pods) == 2)
    assert all("kubectl.kubernetes.io/restartedAt" in pod["metadata"]["annotations"] for pod in pods)


async def test_recreate_never_runs_both(client: Client, kubelet: Kubelet, until: Run, namespace: str) -> None:
    """With Recreate no pod of the new template exists while one of the old does."""
    both: list[set[str]] = []
    images: dict[str, str] = {}

    def look(change: Any) -> None:
        if change.new is None:
            images.pop(change.object["metadata"]["name"], None)
        else:
            images[change.new["metadata"]["name"]] = change.new["spec"]["containers"][0]["image"]
        both.append(set(images.values()))

    kubelet.informer.add_handler(look)
    await client.create(DEPLOYMENTS, workload("Deployment", replicas=2, strategy={"type": "Recreate"}), namespace)
    await until(DEPLOYMENTS, lambda found: found[0].get("status", {}).get("availableReplicas") == 2)
    await client.patch(DEPLOYMENTS, "web", {"spec": {"template": template({"app": "web"}, "a:2")}}, namespace)
    await until(
        DEPLOYMENTS,
        lambda found: (
            [found[0]["status"].get(k) for k in ("observedGeneration", "updatedReplicas", "availableReplicas")]
            == [2, 2, 2]
        ),
    )
    assert {"a:1", "a:2"} not in both
    assert {"a:2"} in both


async def test_replica_set_heals_adopts_and_releases(
    client: Client, kubelet: Kubelet, until: Run, namespace: str
) -> None:
    """A pod that is deleted is replaced, one that loses its label is let go, an orphan that matches is taken."""
    orphan = {"metadata": {"name": "orphan", "labels": {"app": "web"}}, "spec": template()["spec"]}
    await client.create(PODS, orphan, namespace)
    await client.create(REPLICA_SETS, workload("ReplicaSet", replicas=2), namespace)
    pods = await until(
        PODS, lambda pods: len(pods) == 2 and all(pod["metadata"].get("ownerReferences") for pod in pods)
    )
    assert "orphan" in names(pods)
    await client.patch(PODS, "orphan", {"metadata": {"labels": {"app": "other"}}}, namespace)
    pods = await until(PODS, lambda pods: len(pods) == 3)
    (released,) = (pod for pod in pods if pod["metadata"]["name"] == "orphan")
    await until(
        PODS,
        lambda pods: all(not p["metadata"].get("ownerReferences") for p in pods if p["metadata"]["name"] == "orphan"),
    )
    victim = next(name for name in names(pods) if name != "orphan")
    await client.delete(PODS, victim, namespace)
    await until(PODS, lambda pods: len(pods) == 3 and victim not in names(pods))
    assert released["metadata"]["labels"] == {"app": "other"}
    await until(REPLICA_SETS, lambda found: found[0]["status"].get("availableReplicas") == 2)


async def test_refused_pods_are_told(client: Client, until: Run, namespace: str) -> None:
    """When pods cannot be created the ReplicaSet says so in a condition and an event, and the Deployment repeats it."""
    one = workload("Deployment")
    one["spec"]["template"]["spec"]["serviceAccountName"] = "missing"
    await client.create(DEPLOYMENTS, one, namespace)
    await until(REPLICA_SETS, lambda found: found and condition_is(found[0], "ReplicaFailure"))
    await until(DEPLOYMENTS, lambda found: condition_is(found[0], "ReplicaFailure"))
    await until(EVENTS, lambda found: any(one["reason"] == "FailedCreate" for one in found))


async def test_stateful_set_in_order(
    client: Client, kubelet: Kubelet, kubectl: Run, until: Run, namespace: str
) -> None:
    """Pods come in order with stable names and claims, an update goes from the last to the first, scaling down takes
    the last and keeps its claim."""
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    order: list[str] = []
    kubelet.informer.add_handler(
        lambda change: (
            order.append(f"+{change.object['metadata']['name']}")
            if change.old is None
            else order.append(f"-{change.object['metadata']['name']}")
            if change.new is None
            else None
        )
    )
    await client.create(
        STATEFUL_SETS, workload("StatefulSet", replicas=3, serviceName="web", volumeClaimTemplates=[claim]), namespace
    )
    await kubectl("rollout", "status", "statefulset/web", "--timeout=60s")
    assert order == ["+web-0", "+web-1", "+web-2"]
    await kubectl("set", "image", "statefulset/web", "c=a:2")
    await kubectl("rollout", "status", "statefulset/web", "--timeout=60s")
    assert order[3:] == ["-web-2", "+web-2", "-web-1", "+web-1", "-web-0", "+web-0"]
    await kubectl("scale", "statefulset/web", "--replicas=1")
    pods = await until(PODS, lambda pods: names(pods) == ["web-0"])
    assert await kubelet.informer.until(lambda: order[9:] == ["-web-2", "-web-1"])
    assert pods[0]["spec"]["hostname"] == "web-0"
    assert pods[0]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "data-web-0"
    assert names((await client.list(PERSISTENT_VOLUME_CLAIMS, namespace)).items) == [
        "data-web-0",
        "data-web-1",
        "data-web-2",
    ]
    await kubectl("rollout", "undo", "statefulset/web")
    await until(PODS, lambda pods: [pod["spec"]["containers"][0]["image"] for pod in pods] == ["a:1"])


async def test_daemon_set_on_the_node(
    client: Client, kubelet: Kubelet, kubectl: Run, until: Run, namespace: str
) -> None:
    """Every node that fits gets one pod, which an update replaces."""
    node = {"kubernetes.io/metadata": "no"}
    await client.create(DAEMON_SETS, workload("DaemonSet", "here"), namespace)
    other = workload("DaemonSet", "nowhere")
    other["spec"]["template"]["spec"]["nodeSelector"] = node
    await client.create(DAEMON_SETS, other, namespace)
    await kubectl("rollout", "status", "daemonset/here", "--timeout=60s")
    found = await until(DAEMON_SETS, lambda found: len(found) == 2 and all("status" in one for one in found))
    wanted = {one["metadata"]["name"]: one["status"]["desiredNumberScheduled"] for one in found}
    assert wanted == {"here": 1, "nowhere": 0}
    await kubectl("set", "image", "daemonset/here", "c=a:2")
    await kubectl("rollout", "status", "daemonset/here", "--timeout=60s")
    (pod,) = await until(PODS, lambda pods: len(pods) == 1)
    assert pod["spec"]["containers"][0]["image"] == "a:2"
    assert pod["spec"]["nodeName"] == Kubelet.node


def job(name: str, code: int = 0, **spec: Any) -> dict[str, Any]:
    made = template(restartPolicy="Never")
    made["metadata"] = {"annotations": {"test/exit": str(code)}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": made, **spec}}


async def test_jobs_complete_and_fail(
    client: Client, kubelet: Kubelet, kubectl: Run, until: Run, namespace: str
) -> None:
    """Enough successes complete a Job, too many failures fail it, and counted pods keep no finalizer."""
    await client.create(JOBS, job("good", completions=3, parallelism=2), namespace)
    await client.create(JOBS, job("indexed", completions=3, parallelism=3, completionMode="Indexed"), namespace)
    await client.create(JOBS, job("bad", 3, backoffLimit=0), namespace)
    await kubectl("wait", "--for=condition=complete", "job/good", "job/indexed", "--timeout=60s")
    await kubectl("wait", "--for=condition=failed", "job/bad", "--timeout=60s")
    found = {one["metadata"]["name"]: one["status"] for one in (await client.list(JOBS, namespace)).items}
    assert (found["good"]["succeeded"], found["good"].get("failed")) == (3, None)
    assert found["indexed"]["completedIndexes"] == "0-2"
    assert found["bad"]["failed"] == 1
    assert {one["type"]: one["reason"] for one in found["bad"]["conditions"]} == {
        "FailureTarget": "BackoffLimitExceeded",
        "Failed": "BackoffLimitExceeded",
    }
    pods = await until(PODS, lambda pods: not any(pod["metadata"].get("finalizers") for pod in pods))
    indexed = [pod for pod in pods if pod["metadata"]["labels"].get("job-name") == "indexed"]
    assert sorted(pod["spec"]["hostname"] for pod in indexed) == ["indexed-0", "indexed-1", "indexed-2"]


async def test_job_suspend_and_time_to_live(client: Client, kubelet: Kubelet, until: Run, namespace: str) -> None:
    """A suspended Job has no pods until it is resumed; a finished one goes after its time to live, with its pods."""
    await client.create(JOBS, job("j", suspend=True, ttlSecondsAfterFinished=0), namespace)
    await until(JOBS, lambda found: condition_is(found[0], "Suspended"))
    assert (await client.list(PODS, namespace)).items == []
    await client.patch(JOBS, "j", {"spec": {"suspend": False}}, namespace)
    await until(JOBS, lambda found: not found)
    await until(PODS, lambda found: not found)


async def test_cron_job_by_hand_and_on_time(
    client: Client, kubelet: Kubelet, kubectl: Run, until: Run, namespace: str
) -> None:
    """`create job --from` makes a Job now; a time that has passed is made up for, once."""
    made = template(restartPolicy="Never")
    made["metadata"] = {"annotations": {"test/exit": "0"}}
    cron = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "tick"},
        "spec": {"schedule": "@every 1s", "jobTemplate": {"spec": {"template": made}}, "successfulJobsHistoryLimit": 2},
    }
    await client.create(CRON_JOBS, cron, namespace)
    await until(CRON_JOBS, lambda found: found[0].get("status", {}).get("lastSuccessfulTime"))
    await client.patch(CRON_JOBS, "tick", {"spec": {"suspend": True}}, namespace)
    await kubectl("create", "job", "now", "--from=cronjob/tick")
    await kubectl("wait", "--for=condition=complete", "job/now", "--timeout=60s")
    await until(JOBS, lambda found: len(found) == 2)


async def test_autoscaler_and_budget(
    client: Client, kubelet: Kubelet, kubectl: Run, until: Run, namespace: str
) -> None:
    """Without metrics an autoscaler keeps the bounds and says what is missing; a budget counts what may be evicted."""
    await kubectl("create", "deployment", "web", "--image=a:1")
    await kubectl("autoscale", "deployment", "web", "--min=2", "--max=4", "--cpu=50%")
    await until(DEPLOYMENTS, lambda found: found[0].get("status", {}).get("availableReplicas") == 2)
    await until(HORIZONTAL_POD_AUTOSCALERS, lambda found: condition_is(found[0], "AbleToScale"))
    await kubectl("create", "poddisruptionbudget", "web", "--selector=app=web", "--max-unavailable=1")
    await until(POD_DISRUPTION_BUDGETS, lambda found: found[0].get("status", {}).get("disruptionsAllowed") == 1)
    (budget,) = (await client.list(POD_DISRUPTION_BUDGETS, namespace)).items
    assert (budget["status"]["expectedPods"], budget["status"]["desiredHealthy"]) == (2, 1)


async def test_unschedulable_pod_is_told_and_placed_later(
    client: Client, kubelet: Kubelet, until: Run, namespace: str
) -> None:
    """A pod that fits no node says why; a pod for another scheduler is left alone."""
    picky = {"metadata": {"name": "picky"}, "spec": template(nodeSelector={"disk": "fast"})["spec"]}
    other = {"metadata": {"name": "other"}, "spec": template(schedulerName="mine")["spec"]}
    await client.create(PODS, other, namespace)
    await client.create(PODS, picky, namespace)
    await until(EVENTS, lambda found: any(one["reason"] == "FailedScheduling" for one in found))
    pods = {pod["metadata"]["name"]: pod for pod in (await client.list(PODS, namespace)).items}
    condition = next(one for one in pods["picky"]["status"]["conditions"] if one["type"] == "PodScheduled")
    assert (condition["status"], condition["reason"]) == ("False", "Unschedulable")
    assert "didn't match Pod's node affinity/selector" in condition["message"]
    assert "conditions" not in pods["other"].get("status", {})


async def test_cascades(client: Client, kubelet: Kubelet, kubectl: Run, until: Run, namespace: str) -> None:
    """Orphaned ReplicaSets and pods stay without owner; in the foreground the owner goes last."""
    await kubectl("create", "deployment", "web", "--image=a:1")
    await kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    await kubectl("delete", "deployment", "web", "--cascade=orphan")
    (left,) = await until(REPLICA_SETS, lambda found: len(found) == 1)
    assert not left["metadata"].get("ownerReferences")
    gone: list[str] = []

    def follow(change: Any) -> None:
        if change.new is None:
            gone.append(change.object["kind"])

    kubelet.informer.add_handler(follow)
    await kubectl("delete", "replicaset", left["metadata"]["name"], "--cascade=foreground", "--timeout=60s")
    assert gone == ["Pod"]
    assert (await client.list(PODS, namespace)).items == []


async def test_garbage_of_a_wide_owner(client: Client, until: Run, namespace: str) -> None:
    """A hundred dependents go with their owner."""
    owner = await client.create(CONFIG_MAPS, {"metadata": {"name": "owner"}}, namespace)
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    children = ({"metadata": {"name": f"c{n}", "ownerReferences": [reference]}} for n in range(100))
    await asyncio.gather(*(client.create(CONFIG_MAPS, one, namespace) for one in children))
    await client.delete(CONFIG_MAPS, "owner", namespace, propagation=Propagation.BACKGROUND)
    await until(CONFIG_MAPS, lambda found: names(found) == ["kube-root-ca.crt"])


async def test_replication_controller(
    client: Client, kubelet: Kubelet, kubectl: Run, until: Run, namespace: str
) -> None:
    """The older kind keeps its pods, adopts a stray one, and can be scaled."""
    labels = {"app": "old"}
    controller = {
        "apiVersion": "v1",
        "kind": "ReplicationController",
        "metadata": {"name": "old", "namespace": namespace},
        "spec": {"replicas": 2, "selector": labels, "template": template(labels)},
    }
    await client.create(REPLICATION_CONTROLLERS, controller)
    await until(PODS, lambda pods: len(pods) == 2 and all(condition_is(pod, "Ready") for pod in pods))
    await until(REPLICATION_CONTROLLERS, lambda found: found[0]["status"].get("readyReplicas") == 2)
    await kubectl("run", "stray", "--image=a:1", "--labels=app=old")
    await until(PODS, lambda pods: len(pods) == 2)
    await kubectl("scale", "rc/old", "--replicas=0")
    await until(PODS, lambda pods: not pods)
