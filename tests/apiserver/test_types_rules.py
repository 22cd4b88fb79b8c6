"""Rules that many kinds share, conversions between versions, and warnings."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.apiserver.builtin import created, make, of, pod, read, template, workload

from pilotfish.local.apiserver.quantity import QuantityError, canonical, parse
from pilotfish.local.apiserver.types import autoscaling, cron, events
from pilotfish.local.apiserver.types import validation as v

ANY = st.text(alphabet="aZ09-._/ é:", max_size=70)


@given(ANY)
def test_labels_and_subdomains(text: str) -> None:
    """Names are refused exactly when they do not have the form that RFC 1123 gives."""
    label = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    assert (not v.dns_label(text)) == bool(re.fullmatch(label, text) and len(text) <= 63)
    assert (not v.dns_subdomain(text)) == bool(re.fullmatch(rf"{label}(\.{label})*", text) and len(text) <= 253)


@given(ANY)
def test_label_values_and_names(text: str) -> None:
    """Values of labels may be empty; names may have a prefix, which is a DNS name."""
    word = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
    assert (not v.label_value(text)) == bool(re.fullmatch(f"({word})?", text) and len(text) <= 63)
    prefix, _, name = text.rpartition("/")
    sound = bool(re.fullmatch(word, name)) and len(name) <= 63
    if "/" in text:
        sound = sound and prefix != "" and "/" not in prefix and not v.dns_subdomain(prefix)
    assert (not v.qualified_name(text)) == sound


@given(st.integers(-10, 70000))
def test_ports(number: int) -> None:
    """A port is from 1 to 65535."""
    assert (not v.port_number(number)) == (1 <= number <= 65535)


QUANTITIES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "-", "+"]),
    st.one_of(
        st.integers(0, 10**6).map(str),
        st.decimals(0, 1000, places=3, allow_nan=False, allow_infinity=False).map(lambda d: f"{d:f}"),
    ),
    st.sampled_from(["", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e3", "E2", "u", "n"]),
)


@given(QUANTITIES)
def test_quantities_keep_their_value(text: str) -> None:
    """The canonical form is stable and the same amount, rounded up to the ninth digit."""
    form = canonical(text)
    assert canonical(form) == form
    assert 0 <= parse(form) - parse(text) < Decimal("1e-9") or parse(text) < 0


@given(QUANTITIES, QUANTITIES)
def test_equal_quantities_of_one_family_look_the_same(left: str, right: str) -> None:
    """Two texts of one amount and family have one form."""
    if parse(left) == parse(right) and ("i" in left) == ("i" in right) and "e" not in (left + right).lower():
        assert canonical(left) == canonical(right)


@pytest.mark.parametrize("text", ["", "m", "1.2.3", "1kk", "1 Gi", "0x1", "--1", "1e", "Gi"])
def test_what_is_no_quantity(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(QuantityError):
        parse(text)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("0.5", "500m"),
        ("1000m", "1"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("1000Ki", "1000Ki"),
        ("100000", "100k"),
        ("1e3", "1e3"),
        ("0Gi", "0"),
        ("-1500m", "-1500m"),
        ("0.1n", "1n"),
    ],
)
def test_forms_of_quantities(text: str, form: str) -> None:
    """The largest suffix without fraction, in the family of the text."""
    assert canonical(text) == form


@pytest.mark.parametrize(
    ("schedule", "sound"),
    [
        ("* * * * *", True),
        ("*/5 0-6 1,15 jan-mar mon", True),
        ("0 0 1 1 0", True),
        ("@hourly", True),
        ("@every 1h30m", True),
        ("@never", False),
        ("* * * *", False),
        ("60 * * * *", False),
        ("* 24 * * *", False),
        ("* * 0 * *", False),
        ("* * * 13 *", False),
        ("* * * * 7", False),
        ("5-1 * * * *", False),
        ("*/0 * * * *", False),
        ("a * * * *", False),
    ],
)
def test_schedules(schedule: str, sound: bool) -> None:
    """A schedule has five fields within their bounds, or one of a few names."""
    assert (cron.problem(schedule) == "") == sound


def test_events_of_both_groups_are_one() -> None:
    """Core events read as events.k8s.io events and back without loss."""
    event = created(
        make(
            "v1",
            "Event",
            involvedObject={"kind": "Pod", "name": "p", "namespace": "default"},
            reason="R",
            message="m",
            source={"component": "c"},
            count=2,
            firstTimestamp="2026-01-01T00:00:00Z",
        )
    )
    new = events.convert(event, "events.k8s.io/v1")
    assert (new["note"], new["regarding"]["name"], new["deprecatedCount"]) == ("m", "p", 2)
    assert events.convert(new, "v1") == event


def test_autoscalers_of_both_versions_are_one() -> None:
    """v1 shows the CPU target as a number and keeps the rest in annotations; nothing is lost on the way back."""
    metric = {
        "type": "Pods",
        "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}},
    }
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
    spec = {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 3, "metrics": [metric, cpu]}
    scaler = created(make("autoscaling/v2", "HorizontalPodAutoscaler", spec=spec))
    old = autoscaling.convert(scaler, "autoscaling/v1")
    assert old["spec"]["targetCPUUtilizationPercentage"] == 50
    assert "metrics" not in old["spec"]
    assert autoscaling.convert(old, "autoscaling/v2")["spec"] == scaler["spec"]


WARNINGS: list[tuple[dict[str, Any], list[str]]] = [
    (pod(), []),
    (
        pod({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}),
        [
            'spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply',
        ],
    ),
    (
        pod({"ports": [{"containerPort": 80, "name": "a"}, {"containerPort": 80, "name": "b"}]}),
        ["spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]"],
    ),
    (
        pod(nodeSelector={"beta.kubernetes.io/os": "linux"}),
        ['spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead'],
    ),
    (
        pod({"resources": {"limits": {"memory": "100m"}}}),
        [
            f'spec.containers[0].resources.{field}[memory]: fractional byte value "100m" is invalid, must be an integer'
            for field in ("limits", "requests")
        ],
    ),
    (
        workload("Deployment", template=template(imagePullSecrets=[{"name": ""}])),
        ['spec.template.spec.imagePullSecrets[0].name: invalid empty name ""'],
    ),
]


@pytest.mark.parametrize(("given", "expected"), WARNINGS)
def test_warnings(given: dict[str, Any], expected: list[str]) -> None:
    """What is accepted though it is probably not meant comes with a warning."""
    obj = read(given)
    assert of(obj).strategy.warnings(obj, None) == expected
