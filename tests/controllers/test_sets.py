"""The decisions of ReplicaSet, StatefulSet and DaemonSet."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.controllers.builders import NOW, obj, pod, template

from pilotfish.local.controllers import daemonset, replicaset, statefulset
from pilotfish.local.controllers.base import decide_claims, scaled_value
from pilotfish.local.controllers.placement import why_not
from pilotfish.local.controllers.pods import deletion_order, is_available, seconds_until_available
from pilotfish.local.controllers.scheduler import choose

Object = dict[str, Any]


# ---------------------------------------------------------------------- shared


def test_who_is_given_up_first() -> None:
    """Unplaced before placed, pending before running, unready before ready, cheap before dear, young before old."""
    hour = timedelta(hours=1)
    ordered = [
        pod("unplaced", node="", phase="Pending"),
        pod("pending", phase="Pending"),
        pod("unready", ready=False),
        pod("cheap", annotations={"controller.kubernetes.io/pod-deletion-cost": "-5"}),
        pod("young", ready_at=NOW - hour),
        pod("restarted", ready_at=NOW - 2 * hour, restarts=3),
        pod("old", ready_at=NOW - 2 * hour),
    ]
    assert [one["metadata"]["name"] for one in deletion_order(reversed(ordered))] == [
        one["metadata"]["name"] for one in ordered
    ]


def test_available_after_min_ready_seconds() -> None:
    """A pod that is ready is available only after the minimum; the wait says when to look again."""
    one = pod(ready_at=NOW - timedelta(seconds=4))
    assert is_available(one, 0, NOW)
    assert not is_available(one, 10, NOW)
    assert seconds_until_available([one], 10, NOW) == 6.0
    assert seconds_until_available([one], 0, NOW) is None


@pytest.mark.parametrize(
    ("value", "total", "up", "expected"),
    [("25%", 10, True, 3), ("25%", 10, False, 2), (4, 10, True, 4), (None, 10, True, 0), ("100%", 0, True, 0)],
)
def test_amounts(value: int | str | None, total: int, up: bool, expected: int) -> None:
    """Percentages of a total are rounded as asked; numbers are taken as they are."""
    assert scaled_value(value, total, round_up=up) == expected


def test_claims() -> None:
    """Matching orphans are adopted, strays released; what belongs to others or is going away is left alone."""
    owner, stranger = obj("ReplicaSet", "a"), obj("ReplicaSet", "b")
    labels = {"app": "web"}
    mine, stray = pod("mine", owner=owner, labels=labels), pod("stray", owner=owner)
    orphan, going = pod("orphan", labels=labels), pod("going", labels=labels, deleting=True)
    claims = decide_claims(
        owner, {"matchLabels": labels}, [mine, stray, orphan, going, pod(owner=stranger, labels=labels)]
    )
    assert (claims.owned, claims.adopt, claims.release) == ([mine], [orphan], [stray])
    owner["metadata"]["deletionTimestamp"] = "now"
    claims = decide_claims(owner, {"matchLabels": labels}, [mine, stray, orphan])
    assert (claims.owned, claims.adopt, claims.release) == ([mine], [], [])


# ---------------------------------------------------------------------- ReplicaSet


def replica_set(replicas: int, **spec: Any) -> Object:
    return obj("ReplicaSet", spec={"replicas": replicas, "template": template(), **spec})


def test_replica_set_counts_only_active_pods() -> None:
    """Finished and terminating pods are replaced at once; being deleted itself, the set does nothing."""
    one = replica_set(3)
    pods = [pod(), pod(phase="Failed"), pod(deleting=True)]
    assert replicaset.plan(one, pods).create == 2
    assert [p["metadata"]["name"] for p in replicaset.plan(replica_set(0), pods).delete] == [
        pods[0]["metadata"]["name"]
    ]
    one["metadata"]["deletionTimestamp"] = "now"
    assert replicaset.plan(one, pods) == replicaset.Plan(0, ())


def test_replica_set_status() -> None:
    """Counts without zeros, the failure as a condition that goes when it is over."""
    one = replica_set(3, minReadySeconds=10)
    labels = {"app": "web"}
    pods = [pod(labels=labels), pod(labels=labels, ready_at=NOW), pod(ready=False), pod(deleting=True)]
    status = replicaset.status(one, pods, "FailedCreate: no room", NOW)
    condition = status.pop("conditions")[0]
    assert (condition["type"], condition["reason"], condition["message"]) == (
        "ReplicaFailure",
        "FailedCreate",
        "no room",
    )
    assert status == {
        "replicas": 3,
        "fullyLabeledReplicas": 2,
        "readyReplicas": 2,
        "availableReplicas": 1,
        "observedGeneration": 1,
        "terminatingReplicas": 1,
    }
    assert "conditions" not in replicaset.status({**one, "status": {"conditions": [condition]}}, pods, None, NOW)


# ---------------------------------------------------------------------- StatefulSet


def stateful_set(
    replicas: int, *, parallel: bool = False, partition: int = 0, start: int = 0, **rolling: Any
) -> Object:
    return obj(
        "StatefulSet",
        "web",
        api_version="apps/v1",
        spec={
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "serviceName": "web",
            "podManagementPolicy": "Parallel" if parallel else "OrderedReady",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition, **rolling}},
            "template": template(),
            **({"ordinals": {"start": start}} if start else {}),
        },
    )


def member(owner: Object, ordinal: int, revision: str = "new", **more: Any) -> Object:
    labels = {
        "app": "web",
        "controller-revision-hash": revision,
        "statefulset.kubernetes.io/pod-name": f"web-{ordinal}",
        "apps.kubernetes.io/pod-index": str(ordinal),
    }
    return pod(f"web-{ordinal}", owner=owner, labels=labels, **more)


def todo(owner: Object, pods: list[Object]) -> list[tuple[str, int]]:
    return [(one.do, one.ordinal) for one in statefulset.plan(owner, pods, "old", "new", NOW)]


def test_stateful_set_makes_one_after_the_other() -> None:
    """The next pod comes when the one before is ready; in parallel all come at once."""
    one = stateful_set(3)
    assert todo(one, []) == [("create", 0)]
    assert todo(one, [member(one, 0, ready=False)]) == []
    assert todo(one, [member(one, 0)]) == [("create", 1)]
    parallel = stateful_set(3, parallel=True)
    assert todo(parallel, [member(parallel, 1)]) == [("create", 0), ("create", 2)]


def test_stateful_set_ordinals_may_start_later() -> None:
    """With a start of two the pods are two and three, and those below go."""
    one = stateful_set(2, start=2, parallel=True)
    assert todo(one, [member(one, 0), member(one, 3)]) == [("create", 2), ("delete", 0)]


def test_stateful_set_scales_down_from_the_end() -> None:
    """The last goes first, and waits while another is unhealthy, unless it is that one."""
    one = stateful_set(1)
    assert todo(one, [member(one, n) for n in range(3)]) == [("delete", 2)]
    assert todo(one, [member(one, 0), member(one, 1, ready=False), member(one, 2)]) == [("delete", 2)]
    assert todo(one, [member(one, 0), member(one, 1), member(one, 2, deleting=True)]) == []


def test_stateful_set_updates_from_the_end_down_to_the_partition() -> None:
    """One outdated pod at a time, the highest first; below the partition nothing is touched."""
    one = stateful_set(3)
    assert todo(one, [member(one, n, "old") for n in range(3)]) == [("delete", 2)]
    mixed = [member(one, 0, "old"), member(one, 1, "old"), member(one, 2)]
    assert todo(one, mixed) == [("delete", 1)]
    part = stateful_set(3, partition=2)
    assert todo(part, [member(part, 0, "old"), member(part, 1, "old"), member(part, 2)]) == []
    actions = statefulset.plan(part, [member(part, 1, "old"), member(part, 2)], "old", "new", NOW)
    assert [(a.do, a.ordinal, a.updated) for a in actions] == [("create", 0, False)]


def test_stateful_set_update_is_not_held_up_by_broken_old_pods() -> None:
    """In parallel an outdated pod that serves nobody is replaced at once, also beyond what may be missing."""
    one = stateful_set(3, parallel=True, maxUnavailable=2)
    broken = [member(one, 0, "old", ready=False), member(one, 1, "old"), member(one, 2, "old")]
    assert todo(one, broken) == [("delete", 0), ("delete", 2)]
    one = stateful_set(3, parallel=True)
    assert todo(one, broken) == [("delete", 0)]


def test_stateful_set_replaces_failed_pods() -> None:
    """A pod that has ended is deleted, to be made again under its name."""
    one = stateful_set(2)
    assert todo(one, [member(one, 0, phase="Failed"), member(one, 1)]) == [("delete", 0)]


def test_stateful_set_pod_and_claims() -> None:
    """Names, labels, host name and volumes are the pod's own; claims have the selector's labels."""
    one = stateful_set(1)
    one["spec"]["volumeClaimTemplates"] = [{"metadata": {"name": "data"}, "spec": {}}]
    one["spec"]["persistentVolumeClaimRetentionPolicy"] = {"whenDeleted": "Delete"}
    made = statefulset.make_pod(one, one["spec"]["template"], 4, "web-abc")
    assert (made["metadata"]["name"], made["spec"]["hostname"], made["spec"]["subdomain"]) == ("web-4", "web-4", "web")
    assert made["spec"]["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-4"}}]
    (claim,) = statefulset.make_claims(one, 4)
    assert (claim["metadata"]["name"], claim["metadata"]["labels"]) == ("data-web-4", {"app": "web"})
    assert claim["metadata"]["ownerReferences"][0]["name"] == "web"


script = st.lists(st.tuples(st.sampled_from(["plan", "settle", "scale", "update"]), st.integers(0, 5)), max_size=40)


class Members:
    """The pods of a StatefulSet as a cluster would run them."""

    def __init__(self, owner: Object) -> None:
        self.owner = owner
        self.pods: dict[int, Object] = {}
        self.revision = 0

    def plan(self) -> bool:
        """One step of the controller; whether it did anything."""
        ordered = self.owner["spec"]["podManagementPolicy"] == "OrderedReady"
        actions = statefulset.plan(self.owner, list(self.pods.values()), "none", f"r{self.revision}", NOW)
        for action in actions:
            if action.do == "create":
                earlier = [self.pods.get(n) for n in statefulset.ordinals(self.owner) if n < action.ordinal]
                assert not ordered or all(p is not None and p["status"]["phase"] == "Running" for p in earlier)
                self.pods[action.ordinal] = member(self.owner, action.ordinal, f"r{self.revision}", phase="Pending")
            elif action.do == "delete" and action.ordinal in self.pods:
                self.pods[action.ordinal]["metadata"]["deletionTimestamp"] = "now"
        return bool(actions)

    def settle(self, number: int) -> bool:
        """A pod gets ready, or is gone."""
        current = self.pods.get(number)
        if current is not None and "deletionTimestamp" in current["metadata"]:
            del self.pods[number]
            return True
        if current is not None and current["status"]["phase"] == "Pending":
            self.pods[number] = member(self.owner, number, statefulset.revision_of(current))
            return True
        return False


@given(st.booleans(), script)
def test_stateful_set_always_arrives(parallel: bool, events: list[tuple[str, int]]) -> None:
    """After any events the set ends with its ordinals, all of the last revision; ordered, it never makes a pod while an
    earlier one is not ready."""
    one = stateful_set(3, parallel=parallel)
    members = Members(one)
    for what, number in events:
        if what == "plan":
            members.plan()
        elif what == "settle":
            members.settle(number)
        elif what == "scale":
            one["spec"]["replicas"] = number
        else:
            members.revision += 1
    for _ in range(200):
        busy = members.plan()
        for number in list(members.pods):
            busy |= members.settle(number)
        if not busy:
            break
    assert sorted(members.pods) == list(statefulset.ordinals(one))
    assert {statefulset.revision_of(p) for p in members.pods.values()} <= {f"r{members.revision}"}


# ---------------------------------------------------------------------- DaemonSet and scheduling


def node(name: str = "node", *, labels: dict[str, str] | None = None, **spec: Any) -> Object:
    return obj("Node", name, labels=labels, spec=spec)


def daemon_set(template_spec: Object | None = None, **rolling: Any) -> Object:
    spec = {"template": template(**(template_spec or {})), "selector": {"matchLabels": {"app": "web"}}}
    return obj(
        "DaemonSet",
        "d",
        api_version="apps/v1",
        spec={**spec, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}},
    )


def daemon(owner: Object, revision: str, where: str = "node", **more: Any) -> Object:
    return pod(owner=owner, labels={"app": "web", "controller-revision-hash": revision}, node=where, **more)


def test_daemon_set_makes_and_removes() -> None:
    """A node without a pod gets one; a pod too many, a failed one and one on a node that no longer fits go."""
    one = daemon_set()
    assert daemonset.plan(one, [node("a"), node("b")], [daemon(one, "r", "a")], "r", NOW).create == ["b"]
    twice = [daemon(one, "r"), daemon(one, "r", ready=False)]
    assert daemonset.plan(one, [node()], twice, "r", NOW).delete == [twice[1]]
    failed = [daemon(one, "r", phase="Failed")]
    plan = daemonset.plan(one, [node()], failed, "r", NOW)
    assert (plan.create, plan.delete, plan.failed) == ([], failed, failed)
    fast = daemon_set({"nodeSelector": {"disk": "fast"}})
    lost = [daemon(fast, "r")]
    assert daemonset.plan(fast, [node()], lost, "r", NOW).delete == lost
    assert daemonset.plan(one, [node(taints=[{"key": "k", "effect": "NoSchedule"}])], [], "r", NOW).create == []
    kept = daemonset.plan(one, [node(taints=[{"key": "k", "effect": "NoSchedule"}])], [daemon(one, "r")], "r", NOW)
    assert kept == daemonset.Plan()


def test_daemon_set_update_with_and_without_surge() -> None:
    """Without a surge the old pod goes first, as many as may be missing; with one the new pod comes first."""
    nodes = [node("a"), node("b")]
    one = daemon_set(maxUnavailable=1)
    old = [daemon(one, "old", "a"), daemon(one, "old", "b")]
    assert len(daemonset.plan(one, nodes, old, "new", NOW).delete) == 1
    broken = [daemon(one, "old", "a"), daemon(one, "old", "b", ready=False)]
    assert daemonset.plan(one, nodes, broken, "new", NOW).delete == [broken[1]]
    surge = daemon_set(maxSurge=1, maxUnavailable=0)
    assert daemonset.plan(surge, nodes, old, "new", NOW) == daemonset.Plan(create=["a"])
    beside = [*old, daemon(surge, "new", "a", ready=False)]
    assert daemonset.plan(surge, nodes, beside, "new", NOW) == daemonset.Plan()
    beside[-1] = daemon(surge, "new", "a")
    assert daemonset.plan(surge, nodes, beside, "new", NOW).delete == [old[0]]


def test_daemon_pod_is_bound_to_its_node_by_affinity() -> None:
    """The pod may go to that node only, and tolerates what a node under pressure is tainted with."""
    made = daemonset.make_pod(daemon_set(), "node", "r")
    assert why_not(made, node()) == ""
    assert why_not(made, node("other")) != ""
    assert why_not(made, node(unschedulable=True)) == ""


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, ""),
        ({"nodeSelector": {"disk": "ssd"}}, ""),
        ({"nodeSelector": {"disk": "hdd"}}, "node(s) didn't match Pod's node affinity/selector"),
    ],
)
def test_node_selector(spec: Object, expected: str) -> None:
    """All labels of a node selector must be there."""
    assert why_not(pod(node="", spec=spec), node(labels={"disk": "ssd"})) == expected


@pytest.mark.parametrize(
    ("expression", "fits"),
    [
        ({"key": "n", "operator": "In", "values": ["5"]}, True),
        ({"key": "n", "operator": "NotIn", "values": ["5"]}, False),
        ({"key": "n", "operator": "Gt", "values": ["4"]}, True),
        ({"key": "n", "operator": "Lt", "values": ["4"]}, False),
        ({"key": "x", "operator": "Exists"}, False),
        ({"key": "x", "operator": "DoesNotExist"}, True),
    ],
)
def test_required_affinity(expression: Object, fits: bool) -> None:
    """Every operator of a required node affinity is understood; an empty term matches nothing."""

    def wants(*terms: Object) -> Object:
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
        return pod(node="", spec={"affinity": {"nodeAffinity": required}})

    here = node(labels={"n": "5"})
    assert (why_not(wants({"matchExpressions": [expression]}), here) == "") is fits
    assert why_not(wants({}), here) != ""


def test_taints_and_tolerations() -> None:
    """A taint keeps pods away unless they tolerate its key, value and effect."""
    here = node(taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}])
    assert choose(pod(node=""), [here]) == ("", "0/1 nodes are available: 1 node(s) had untolerated taint {k: v}.")
    for toleration in (
        {"operator": "Exists"},
        {"key": "k", "operator": "Exists"},
        {"key": "k", "value": "v", "effect": "NoSchedule"},
    ):
        assert choose(pod(node="", spec={"tolerations": [toleration]}), [here]) == ("node", "")
    for toleration in ({"key": "k", "value": "w"}, {"key": "k", "operator": "Exists", "effect": "NoExecute"}):
        assert choose(pod(node="", spec={"tolerations": [toleration]}), [here])[0] == ""
