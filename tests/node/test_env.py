"""Environment variables, downward API fields, resources and quantities."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any

import pytest

from pilotfish.local.images.image import Image
from pilotfish.local.node import env, fields
from pilotfish.local.node.container import command_line

POD: dict[str, Any] = {
    "metadata": {
        "name": "p",
        "namespace": "ns",
        "uid": "u",
        "labels": {"b": "2", "a": 'x"y\n'},
        "annotations": {"k/z": "v"},
    },
    "spec": {
        "nodeName": "n",
        "serviceAccountName": "sa",
        "containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}}],
    },
    "status": {"podIP": "10.244.0.9", "hostIP": "10.244.0.1", "podIPs": [{"ip": "10.244.0.9"}]},
}
MAPS = {"cm": {"kind": "ConfigMap", "metadata": {"namespace": "ns", "name": "cm"}, "data": {"k": "v"}}}
SECRETS = {
    "sec": {
        "kind": "Secret",
        "metadata": {"namespace": "ns", "name": "sec"},
        "data": {"p": base64.b64encode(b"s3").decode()},
    }
}


def build(container: dict[str, Any], services: dict[str, str] | None = None) -> dict[str, str]:
    return env.build(POD, container, services or {}, MAPS.get, SECRETS.get, {"cpu": "4", "memory": "8Gi"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)-$(B)", "1-$(B)"),
        ("$$(A)", "$(A)"),
        ("$A", "$A"),
        ("a$", "a$"),
        ("$$", "$"),
        ("$(", "$("),
        ("$(A)$(A)", "11"),
    ],
)
def test_expand(text: str, expected: str) -> None:
    """References are replaced when known, and kept as they are when not."""
    assert env.expand(text, {"A": "1"}) == expected


def test_sources_and_precedence() -> None:
    """`env` wins over `envFrom`, which wins over service variables; later values may refer to earlier ones."""
    container = {
        "name": "c",
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "sec"}}],
        "env": [
            {"name": "ONE", "value": "1"},
            {"name": "TWO", "value": "$(ONE)$(P_k)$(SVC)"},
            {"name": "SVC", "value": "own"},
            {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
            {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "p"}}},
            {"name": "NO", "valueFrom": {"secretKeyRef": {"name": "none", "key": "p", "optional": True}}},
        ],
    }
    assert build(container, {"SVC": "svc", "OTHER": "o"}) == {
        "SVC": "own",
        "OTHER": "o",
        "P_k": "v",
        "p": "s3",
        "ONE": "1",
        "TWO": "1vsvc",
        "KEY": "v",
        "PW": "s3",
    }


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ({"configMapKeyRef": {"name": "none", "key": "k"}}, 'configmap "none" not found'),
        ({"configMapKeyRef": {"name": "cm", "key": "x"}}, "couldn't find key x in ConfigMap ns/cm"),
        ({"secretKeyRef": {"name": "sec", "key": "x"}}, "couldn't find key x in Secret ns/sec"),
        ({"fieldRef": {"fieldPath": "spec.x"}}, "fieldPath 'spec.x' is not supported"),
    ],
)
def test_missing_references(variable: dict[str, Any], message: str) -> None:
    """What is missing is named as kubelet names it."""
    with pytest.raises(env.EnvError, match=message):
        build({"name": "c", "env": [{"name": "V", "valueFrom": variable}]})


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.name", "p"),
        ("metadata.labels['b']", "2"),
        ("metadata.annotations['k/z']", "v"),
        ("metadata.labels['none']", ""),
        ("metadata.labels", 'a="x\\"y\\n"\nb="2"'),
        ("status.podIP", "10.244.0.9"),
        ("status.podIPs", "10.244.0.9"),
        ("status.hostIP", "10.244.0.1"),
        ("spec.serviceAccountName", "sa"),
        ("spec.nodeName", "n"),
    ],
)
def test_fields(path: str, expected: str) -> None:
    """The downward API's fields."""
    assert fields.field(POD, path) == expected


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ({"resource": "limits.cpu"}, "2"),
        ({"resource": "limits.cpu", "divisor": "1m"}, "1500"),
        ({"resource": "limits.memory", "divisor": "1Mi"}, "64"),
        ({"resource": "requests.memory"}, "67108864"),
        ({"resource": "requests.ephemeral-storage"}, "0"),
    ],
)
def test_resources(reference: dict[str, str], expected: str) -> None:
    """Resources are divided and rounded up; missing requests are the limits."""
    assert env.resource_field(POD, POD["spec"]["containers"][0], reference, {}) == expected


def test_missing_limits_are_what_the_node_has() -> None:
    """`limits.cpu` of a container without limits is the node's."""
    assert fields.resource({}, "limits.cpu", None, {"cpu": "4"}) == "4"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100m", "0.1"),
        ("1Gi", str(2**30)),
        ("3Ki", "3072"),
        ("2e3", "2000"),
        ("1.5k", "1500"),
        ("3", "3"),
        ("1E", "1E18"),
    ],
)
def test_quantity(text: str, value: str) -> None:
    """Kubernetes quantities as numbers."""
    assert fields.quantity(text) == Decimal(value)


def test_bad_quantity() -> None:
    """A wrong quantity is named."""
    with pytest.raises(fields.FieldError, match="'1Xi' is not a quantity"):
        fields.quantity("1Xi")


def test_service_variables() -> None:
    """Docker's link variables, for the pod's namespace and `kubernetes`; headless Services have none."""

    def service(namespace: str, name: str, ip: str) -> dict[str, Any]:
        ports = [{"name": "http", "port": 80}]
        return {"metadata": {"namespace": namespace, "name": name}, "spec": {"clusterIP": ip, "ports": ports}}

    everything = [
        service("ns", "my-web", "10.96.0.7"),
        service("ns", "headless", "None"),
        service("other", "db", "10.96.0.8"),
        service("default", "kubernetes", "10.96.0.1"),
    ]
    found = env.service_variables(everything, "ns", links=True)
    assert found["MY_WEB_SERVICE_HOST"] == "10.96.0.7"
    assert found["MY_WEB_SERVICE_PORT_HTTP"] == "80"
    assert found["MY_WEB_PORT_80_TCP"] == "tcp://10.96.0.7:80"
    assert found["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert not any(name.startswith(("DB_", "HEADLESS_")) for name in found)
    assert all(name.startswith("KUBERNETES_") for name in env.service_variables(everything, "ns", links=False))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, ("entry", "cmd")),
        ({"args": ["x"]}, ("entry", "x")),
        ({"command": ["c"]}, ("c",)),
        ({"command": ["c"], "args": ["$(A)"]}, ("c", "1")),
        ({"command": ["c"], "args": []}, ("c",)),
    ],
)
def test_command_line(spec: dict[str, Any], expected: tuple[str, ...]) -> None:
    """A command replaces the image's and drops its arguments; arguments replace arguments."""
    assert command_line(spec, Image(command=["entry"], args=["cmd"]), {"A": "1"}) == expected
