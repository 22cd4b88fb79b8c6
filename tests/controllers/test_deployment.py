from __future__ import annotations

import copy
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.controllers.builders import NOW, obj, pod, template

from pilotfish.kube.meta import format_time
from pilotfish.local.controllers import deployment as rules

Object = dict[str, Any]


def deployment(replicas: int = 3, image: str = "a:1", strategy: Object | None = None, **spec: Any) -> Object:
    return obj(
        "Deployment",
        "web",
        api_version="apps/v1",
        spec={
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": template(image=image),
            "strategy": strategy
            or {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "progressDeadlineSeconds": 600,
            **spec,
        },
    )


def replica_set(
    owner: Object,
    replicas: int,
    *,
    available: int | None = None,
    image: str = "a:1",
    annotations: dict[str, str] | None = None,
) -> Object:
    base = copy.deepcopy(owner)
    base["spec"]["template"] = template(image=image)
    made = rules.make_replica_set(base, 1, replicas)
    model = obj("ReplicaSet", made["metadata"]["name"], api_version="apps/v1", owner=owner)
    model["metadata"] |= {
        "labels": made["metadata"]["labels"],
        "annotations": made["metadata"]["annotations"] | (annotations or {}),
    }
    model["spec"] = made["spec"]
    have = replicas if available is None else available
    model["status"] = {"replicas": replicas, "readyReplicas": have, "availableReplicas": have, "observedGeneration": 1}
    return model


@pytest.mark.parametrize(
    ("surge", "unavailable", "replicas", "expected"),
    [
        ("25%", "25%", 10, (3, 2)),
        ("25%", "25%", 1, (1, 0)),
        (0, "10%", 3, (0, 1)),
        (2, 5, 3, (2, 3)),
        ("100%", 0, 4, (4, 0)),
    ],
)
def test_surge_rounds_up_and_unavailable_down(
    surge: int | str, unavailable: int | str, replicas: int, expected: tuple[int, int]
) -> None:
    """Percentages are of the wanted number; both zero would never move, so one pod may then be missing."""
    parameters = {"maxSurge": surge, "maxUnavailable": unavailable}
    one = deployment(replicas, strategy={"type": "RollingUpdate", "rollingUpdate": parameters})
    assert rules.surge_and_unavailable(one) == expected


def progressing(conditions: list[Object]) -> Object:
    return next(one for one in conditions if one["type"] == "Progressing")


def test_new_replica_set_is_found_by_template_and_takes_the_next_revision() -> None:
    """The hash label does not count as a difference; an old template that returns gets the next revision."""
    one = deployment()
    first, second = replica_set(one, 0), replica_set(one, 3, image="a:2")
    assert rules.find_new(one, [first, second]) is first
    one["metadata"]["annotations"] = {"note": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}"}
    annotations = rules.new_annotations(one, first["metadata"]["annotations"], 3)
    assert annotations["deployment.kubernetes.io/revision"] == "3"
    assert annotations["deployment.kubernetes.io/revision-history"] == "1"
    assert annotations["note"] == "x"
    assert "kubectl.kubernetes.io/last-applied-configuration" not in annotations


def test_names_of_replica_sets() -> None:
    """The hash is the same for the same template, safe in a name, in the labels, and another after a collision."""
    one = deployment()
    made = rules.make_replica_set(one, 1, 3)
    hashed = made["metadata"]["labels"]["pod-template-hash"]
    assert made["metadata"]["name"] == f"web-{hashed}"
    assert 7 <= len(hashed) <= 10
    assert set(hashed) <= set("bcdfghjklmnpqrstvwxz2456789")
    assert made["spec"]["selector"]["matchLabels"] == {"app": "web", "pod-template-hash": hashed}
    assert rules.make_replica_set(one, 1, 3)["metadata"]["name"] == made["metadata"]["name"]
    one["status"] = {"collisionCount": 1}
    assert rules.make_replica_set(one, 1, 3)["metadata"]["name"] != made["metadata"]["name"]


def test_proportional_scaling() -> None:
    """In the middle of a rollout new replicas are shared by size; the sum is the wanted number plus the surge."""
    one = deployment(15, strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}})
    before = {"deployment.kubernetes.io/desired-replicas": "10", "deployment.kubernetes.io/max-replicas": "13"}
    old, new = replica_set(one, 8, image="a:0", annotations=before), replica_set(one, 5, annotations=before)
    assert rules.is_scaling(one, [old, new])
    sizes = rules.scale(one, new, [old])
    assert sizes == {old["metadata"]["name"]: 11, new["metadata"]["name"]: 7}


@given(st.integers(0, 30), st.integers(0, 5), st.lists(st.integers(1, 20), min_size=2, max_size=4), st.integers(1, 40))
def test_shares_always_add_up(wanted: int, surge: int, sizes: list[int], before: int) -> None:
    """However the sizes are rounded, together they are the wanted number and the surge, and none is negative."""
    one = deployment(
        wanted, strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": 1}}
    )
    notes = {"deployment.kubernetes.io/desired-replicas": "x", "deployment.kubernetes.io/max-replicas": str(before)}
    sets = [replica_set(one, size, image=f"a:{n}", annotations=notes) for n, size in enumerate(sizes)]
    result = rules.scale(one, None, sets)
    assert all(size >= 0 for size in result.values())
    assert sum(result.values()) == (wanted + surge if wanted else 0)


def test_recreate_waits_for_the_last_old_pod() -> None:
    """A new pod must not run beside one of the old template, terminating ones included."""
    one = deployment(strategy={"type": "Recreate"})
    old = replica_set(one, 0, image="a:0")
    last = pod(owner=old, deleting=True)
    assert rules.old_pods_run(None, [old], [last])
    assert not rules.old_pods_run(None, [old], [pod(owner=old, phase="Succeeded")])


def test_history_limit_removes_only_idle_old_ones() -> None:
    """The oldest revisions beyond the limit go, unless they still have pods."""
    one = deployment(revisionHistoryLimit=1)
    sets = [
        replica_set(one, 0, image=f"a:{n}", annotations={"deployment.kubernetes.io/revision": str(n)}) for n in range(4)
    ]
    sets[0]["status"]["replicas"] = 1
    assert rules.superfluous(one, sets) == [sets[1], sets[2]]


def test_conditions_of_a_rollout() -> None:
    """Progressing goes from created over updated to available; a stuck one is told after the deadline."""
    one = deployment(2)
    facts = rules.Facts(NOW, created="web-1")
    one["status"] = rules.status(one, replica_set(one, 2, available=0) | {"status": {}}, [], facts)
    assert progressing(one["status"]["conditions"])["reason"] == "NewReplicaSetCreated"
    new = replica_set(one, 2, available=0)
    one["status"] = rules.status(one, new, [], rules.Facts(NOW))
    assert [c["reason"] for c in one["status"]["conditions"]] == ["ReplicaSetUpdated", "MinimumReplicasUnavailable"]
    assert one["status"]["unavailableReplicas"] == 2
    late = rules.Facts(NOW + timedelta(seconds=601))
    stuck = rules.status(one, new, [], late)
    assert progressing(stuck["conditions"])["reason"] == "ProgressDeadlineExceeded"
    done = rules.status({**one, "status": stuck}, replica_set(one, 2), [], late)
    assert [c["reason"] for c in done["conditions"]] == ["NewReplicaSetAvailable", "MinimumReplicasAvailable"]
    assert "unavailableReplicas" not in done


def test_paused_and_resumed() -> None:
    """Pausing stops the clock of the deadline; resuming starts it again."""
    one = deployment(2, paused=True)
    new = replica_set(one, 2, available=0)
    one["status"] = rules.status(one, new, [], rules.Facts(NOW))
    paused = progressing(one["status"]["conditions"])
    assert (paused["status"], paused["reason"]) == ("Unknown", "DeploymentPaused")
    assert rules.deadline_of(one, paused) is None
    one["spec"]["paused"] = False
    resumed = rules.status(one, new, [], rules.Facts(NOW + timedelta(hours=1)))
    assert progressing(resumed["conditions"])["lastUpdateTime"] == format_time(NOW + timedelta(hours=1))


# ---------------------------------------------------------------------- any sequence


@dataclass
class World:
    """ReplicaSets as their controller and a kubelet would run them. A set's pods are (made, ready)."""

    deployment: Object
    sets: list[Object] = field(default_factory=list)
    pods: dict[str, list[bool]] = field(default_factory=dict)

    def control(self) -> bool:
        """One step of the deployment controller; whether anything changed."""
        new = rules.find_new(self.deployment, self.sets)
        old = [one for one in self.sets if one is not new]
        if new is None:
            total = sum(one["spec"]["replicas"] for one in old)
            made = rules.make_replica_set(self.deployment, 1, rules.new_replicas(self.deployment, 0, total))
            made["metadata"] |= {"uid": made["metadata"]["name"], "creationTimestamp": f"{len(self.sets):04}"}
            self.sets.append(made)
            self.pods[made["metadata"]["name"]] = []
            return True
        scaling = rules.is_scaling(self.deployment, self.sets)
        sizes = rules.scale(self.deployment, new, old) if scaling else rules.roll(self.deployment, new, old)
        changed = False
        for one in self.sets:
            name = one["metadata"]["name"]
            if name in sizes:
                annotations = one["metadata"]["annotations"] | rules.replica_annotations(self.deployment)
                changed |= sizes[name] != one["spec"]["replicas"] or annotations != one["metadata"]["annotations"]
                one["metadata"]["annotations"], one["spec"]["replicas"] = annotations, sizes[name]
        return changed

    def make_pods(self, number: int) -> bool:
        """The ReplicaSet controller: pods, and the status."""
        one = self.sets[number % len(self.sets)]
        have = self.pods[one["metadata"]["name"]]
        have.sort(reverse=True)  # the ready first: the others are given up first
        del have[one["spec"]["replicas"] :]
        have += [False] * (one["spec"]["replicas"] - len(have))
        status = {"replicas": len(have), "readyReplicas": sum(have), "availableReplicas": sum(have)}
        changed = one.get("status") != status
        one["status"] = status
        return changed

    def get_ready(self, number: int) -> bool:
        have = self.pods[self.sets[number % len(self.sets)]["metadata"]["name"]]
        if False in have:
            have[have.index(False)] = True
            return True
        return False

    def settle(self) -> None:
        for _ in range(500):
            changed = self.control()
            for number in range(len(self.sets)):
                changed |= self.make_pods(number)
                while self.get_ready(number):
                    changed = True
            if not changed:
                return
        raise AssertionError("it never comes to rest")

    @property
    def available(self) -> int:
        return sum(sum(have) for have in self.pods.values())

    @property
    def total(self) -> int:
        return sum(one["spec"]["replicas"] for one in self.sets)


amounts = st.one_of(st.integers(0, 4), st.integers(0, 100).map(lambda percent: f"{percent}%"))
steps = st.lists(st.tuples(st.sampled_from(["control", "pods", "ready", "image"]), st.integers(0, 5)), max_size=60)


@given(st.integers(0, 8), amounts, amounts, steps)
def test_rolling_update_keeps_its_limits_and_arrives(
    replicas: int, surge: int | str, unavailable: int | str, script: Any
) -> None:
    """Whatever the order of events, also with new templates on the way: never more pods than the surge allows, never
    fewer available than may be missing, and in the end exactly the wanted number of the last template."""
    one = deployment(
        replicas,
        strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
    )
    world = World(one)
    world.settle()
    assert world.available == replicas
    extra, missing = rules.surge_and_unavailable(one)
    for what, number in script:
        if what == "image":
            one["spec"]["template"] = template(image=f"a:{number}")
        elif what == "control":
            world.control()
        elif what == "pods":
            world.make_pods(number)
        else:
            world.get_ready(number)
        assert world.total <= replicas + extra
        assert world.available >= replicas - missing
    world.settle()
    new = rules.find_new(one, world.sets)
    assert new is not None
    assert {s["metadata"]["name"]: s["spec"]["replicas"] for s in world.sets if s["spec"]["replicas"]} == (
        {new["metadata"]["name"]: replicas} if replicas else {}
    )


@given(
    st.lists(st.tuples(st.sampled_from(["control", "pods", "ready", "image", "scale"]), st.integers(0, 9)), max_size=60)
)
def test_scaling_in_the_middle_arrives(script: Any) -> None:
    """Scaling and new templates in any order end with the wanted number of the last template."""
    one = deployment(4)
    world = World(one)
    world.settle()
    for what, number in script:
        if what == "image":
            one["spec"]["template"] = template(image=f"a:{number}")
        elif what == "scale":
            one["spec"]["replicas"] = number
        elif what == "control":
            world.control()
        elif what == "pods":
            world.make_pods(number)
        else:
            world.get_ready(number)
    world.settle()
    new = rules.find_new(one, world.sets)
    assert new is not None
    assert (new["spec"]["replicas"], world.total, world.available) == (one["spec"]["replicas"],) * 3
