"""The status of a pod from its containers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from pilotfish.local.node.status import ContainerView, Kind, PodView, build, phase, qos_class

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WAITING = {"waiting": {"reason": "ContainerCreating"}}
RUNNING = {"running": {"startedAt": "2026-01-02T03:04:05Z"}}


def ended(code: int) -> dict[str, Any]:
    return {"terminated": {"exitCode": code}}


def view(
    state: dict[str, Any],
    kind: Kind = "main",
    *,
    ready: bool = False,
    started: bool = False,
    last: dict[str, Any] | None = None,
) -> ContainerView:
    one = ContainerView("c", kind, "img")
    one.state, one.ready, one.started, one.last_state = state, ready, started, last or {}
    return one


CRASHED = view({"waiting": {"reason": "CrashLoopBackOff"}}, last=ended(1))


@pytest.mark.parametrize(
    ("policy", "init", "main", "expected"),
    [
        ("Always", [], [view(WAITING)], "Pending"),
        ("Always", [], [view(RUNNING)], "Running"),
        ("Always", [], [view(RUNNING), view(WAITING)], "Pending"),
        ("Always", [], [CRASHED], "Running"),
        ("Always", [], [view(ended(0))], "Running"),
        ("Never", [], [view(ended(0))], "Succeeded"),
        ("OnFailure", [], [view(ended(0))], "Succeeded"),
        ("Never", [], [view(ended(0)), view(ended(1))], "Failed"),
        ("OnFailure", [], [view(ended(0)), view(ended(1))], "Running"),
        ("Never", [], [view(ended(1)), view(RUNNING)], "Running"),
        ("Always", [view(RUNNING, "init")], [view(WAITING)], "Pending"),
        ("Never", [view(ended(1), "init")], [view(WAITING)], "Failed"),
        ("Always", [view(ended(1), "init")], [view(WAITING)], "Pending"),
        ("Always", [view(ended(0), "init")], [view(RUNNING)], "Running"),
        ("Always", [view(RUNNING, "sidecar")], [view(WAITING)], "Pending"),
        ("Always", [view(RUNNING, "sidecar", started=True)], [view(RUNNING)], "Running"),
        ("Always", [view(WAITING, "sidecar")], [view(RUNNING)], "Running"),
    ],
)
def test_phase(policy: str, init: list[ContainerView], main: list[ContainerView], expected: str) -> None:
    """The phase as kubelet decides it."""
    assert phase(policy, init, main) == expected


def pod(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}], **spec}}


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c.get("reason", "")) for c in status["conditions"]}


def test_conditions_of_a_ready_pod() -> None:
    """Everything is true, and the addresses are there."""
    status = build(pod(), PodView("10.244.0.9", "t"), [], [view(RUNNING, ready=True, started=True)], NOW)
    assert set(conditions(status).values()) == {("True", "")}
    assert set(conditions(status)) == {
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    }
    assert status["podIPs"] == [{"ip": "10.244.0.9"}]


def test_an_unready_container_is_named() -> None:
    """Ready and ContainersReady say which containers are not."""
    status = build(pod(), PodView("10.244.0.9"), [], [view(RUNNING)], NOW)
    (ready,) = [c for c in status["conditions"] if c["type"] == "Ready"]
    assert (ready["status"], ready["reason"]) == ("False", "ContainersNotReady")
    assert ready["message"] == "containers with unready status: [c]"


def test_a_sidecar_counts_for_readiness() -> None:
    """A native sidecar that is not ready makes the pod not ready."""
    sidecar = view(RUNNING, "sidecar", started=True)
    status = build(pod(), PodView("1"), [sidecar], [view(RUNNING, ready=True)], NOW)
    assert conditions(status)["Ready"] == ("False", "ContainersNotReady")


def test_readiness_gates() -> None:
    """Conditions of others are kept, and wanted by gates."""
    one = pod(readinessGates=[{"conditionType": "x/y"}])
    ready = [view(RUNNING, ready=True)]
    assert conditions(build(one, PodView("1"), [], ready, NOW))["Ready"] == ("False", "ReadinessGatesNotReady")
    one["status"] = {"conditions": [{"type": "x/y", "status": "True"}]}
    found = conditions(build(one, PodView("1"), [], ready, NOW))
    assert found["Ready"] == ("True", "")
    assert found["x/y"] == ("True", "")


def test_transition_times_stay_while_the_status_does() -> None:
    """lastTransitionTime is the time of the change, not of the writing."""
    one = pod()
    one["status"] = build(one, PodView("1"), [], [view(RUNNING)], NOW)
    later = build(one, PodView("1"), [], [view(RUNNING)], datetime(2027, 1, 1, tzinfo=UTC))
    assert later["conditions"] == one["status"]["conditions"]


def test_completed_and_failed() -> None:
    """A pod that succeeded is not ready because it completed; one with a reason failed."""
    done = build(pod(restartPolicy="Never"), PodView("1"), [], [view(ended(0))], NOW)
    assert done["phase"] == "Succeeded"
    assert conditions(done)["Ready"] == ("False", "PodCompleted")
    late = build(pod(), PodView("1", "t", "DeadlineExceeded", "m"), [], [view(ended(137))], NOW)
    assert (late["phase"], late["reason"], late["message"]) == ("Failed", "DeadlineExceeded", "m")


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([{}], "BestEffort"),
        ([{"requests": {"cpu": "1"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}}, {}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}], "Burstable"),
    ],
)
def test_qos_class(resources: list[dict[str, Any]], expected: str) -> None:
    """Quality of service by requests and limits."""
    assert qos_class({"containers": [{"name": "c", "resources": r} for r in resources]}) == expected
