"""The definitions of built-in kinds hang together, and every kind has what the server needs of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from tests.apiserver import builtin

from pilotfish.local.apiserver import types
from pilotfish.local.apiserver.resource import Resource

RESOURCES = types.resources()
NAMES = [f"{r.api_version} {r.kind}" for r in RESOURCES]


def test_every_reference_leads_somewhere() -> None:
    """A `$ref` in any definition names another definition."""
    text = json.dumps(types.definitions())
    assert set(re.findall(r'"#/components/schemas/([^"]+)"', text)) <= set(types.definitions())


def test_definitions_are_as_kubernetes_publishes_them() -> None:
    """Requiredness, merge keys, list types, formats, defaults and enums of some fields that clients rely on."""
    found = types.definitions()
    spec = found["io.k8s.api.core.v1.PodSpec"]
    assert spec["required"] == ["containers"]
    containers = spec["properties"]["containers"]
    assert containers["x-kubernetes-list-type"] == "map"
    assert containers["x-kubernetes-list-map-keys"] == ["name"]
    assert containers["x-kubernetes-patch-strategy"] == "merge"
    assert containers["x-kubernetes-patch-merge-key"] == "name"
    volumes = spec["properties"]["volumes"]
    assert volumes["x-kubernetes-patch-strategy"] == "merge,retainKeys"
    assert spec["properties"]["tolerations"]["x-kubernetes-list-type"] == "atomic"
    container = found["io.k8s.api.core.v1.Container"]["properties"]
    assert container["ports"]["x-kubernetes-list-map-keys"] == ["containerPort", "protocol"]
    assert container["ports"]["x-kubernetes-patch-merge-key"] == "containerPort"
    assert container["volumeMounts"]["x-kubernetes-patch-merge-key"] == "mountPath"
    service = found["io.k8s.api.core.v1.ServiceSpec"]["properties"]
    assert service["ports"]["x-kubernetes-list-map-keys"] == ["port", "protocol"]
    assert service["ports"]["x-kubernetes-patch-merge-key"] == "port"
    assert service["selector"]["x-kubernetes-map-type"] == "atomic"
    meta = found["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]["properties"]
    assert meta["ownerReferences"]["x-kubernetes-list-map-keys"] == ["uid"]
    assert meta["finalizers"]["x-kubernetes-list-type"] == "set"
    assert found["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"]["default"] == "TCP"
    assert found["io.k8s.api.core.v1.ContainerPort"]["properties"]["containerPort"]["format"] == "int32"
    assert found["io.k8s.api.core.v1.Secret"]["properties"]["data"]["additionalProperties"]["format"] == "byte"
    strategy = found["io.k8s.api.apps.v1.DeploymentStrategy"]["properties"]["type"]
    assert strategy["x-enum"] == ["Recreate", "RollingUpdate"]
    assert found["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"] == [
        {"group": "apps", "kind": "Deployment", "version": "v1"}
    ]
    assert found["io.k8s.api.apps.v1.DeploymentList"]["required"] == ["items"]


@pytest.mark.parametrize("resource", RESOURCES, ids=NAMES)
def test_every_kind_is_defined_and_described(resource: Resource) -> None:
    """Each resource has a definition with a description, and so have its spec and status."""
    definition = types.definitions()[resource.definition]
    assert definition["description"].endswith(".")
    for field in ("spec", "status"):
        if field in definition["properties"]:
            assert definition["properties"][field]["description"].endswith("."), field


@pytest.mark.parametrize("resource", [r for r in RESOURCES if r.stored], ids=[r.kind for r in RESOURCES if r.stored])
def test_even_a_bare_object_gets_through_defaults_validation_and_tables(resource: Resource) -> None:
    """Nothing breaks on an object that has nothing but a name, and its row has as many cells as there are columns."""
    obj: dict[str, Any] = builtin.created({"apiVersion": resource.api_version, "kind": resource.kind})
    builtin.problems(obj)
    builtin.problems(obj, obj)
    resource.strategy.warnings(obj, None)
    resource.strategy.validate_status_update(obj, obj)
    assert set(resource.strategy.field_labels(obj)) <= set(resource.field_labels)
    if resource.row is not None:
        assert len(resource.row(obj)) == len(resource.columns)


def test_names_are_unique() -> None:
    """No two resources of a group share a plural, short name or kind at one version."""
    seen: set[tuple[str, str]] = set()
    for resource in RESOURCES:
        names = {resource.plural, resource.singular or resource.kind.lower(), *resource.short_names}
        keys = {(resource.api_version, name) for name in names}
        assert not keys & seen, resource.plural
        seen |= keys


@pytest.mark.parametrize(
    ("kind", "short", "categories"),
    [
        ("v1 Pod", ["po"], ["all"]),
        ("v1 Service", ["svc"], ["all"]),
        ("v1 ConfigMap", ["cm"], []),
        ("v1 Namespace", ["ns"], []),
        ("v1 Node", ["no"], []),
        ("v1 Event", ["ev"], []),
        ("v1 ServiceAccount", ["sa"], []),
        ("v1 Endpoints", ["ep"], []),
        ("v1 PersistentVolumeClaim", ["pvc"], []),
        ("v1 PersistentVolume", ["pv"], []),
        ("v1 LimitRange", ["limits"], []),
        ("v1 ResourceQuota", ["quota"], []),
        ("v1 ReplicationController", ["rc"], ["all"]),
        ("apps/v1 Deployment", ["deploy"], ["all"]),
        ("apps/v1 ReplicaSet", ["rs"], ["all"]),
        ("apps/v1 StatefulSet", ["sts"], ["all"]),
        ("apps/v1 DaemonSet", ["ds"], ["all"]),
        ("batch/v1 CronJob", ["cj"], ["all"]),
        ("autoscaling/v2 HorizontalPodAutoscaler", ["hpa"], ["all"]),
        ("policy/v1 PodDisruptionBudget", ["pdb"], []),
        ("networking.k8s.io/v1 Ingress", ["ing"], []),
        ("networking.k8s.io/v1 NetworkPolicy", ["netpol"], []),
        ("scheduling.k8s.io/v1 PriorityClass", ["pc"], []),
        ("storage.k8s.io/v1 StorageClass", ["sc"], []),
        ("apiextensions.k8s.io/v1 CustomResourceDefinition", ["crd", "crds"], ["api-extensions"]),
        ("admissionregistration.k8s.io/v1 MutatingWebhookConfiguration", [], ["api-extensions"]),
    ],
)
def test_short_names_and_categories(kind: str, short: list[str], categories: list[str]) -> None:
    """Kinds have the short names that kubectl users type, and are in the categories they know."""
    resource = builtin.kind(*kind.split())
    assert list(resource.short_names) == short
    assert list(resource.categories) == categories


def test_definitions_are_expanded_only_when_asked_for() -> None:
    """Importing the package is cheap: the server pays for definitions and kinds at their first use."""
    code = (
        "import sys; from pilotfish.local.apiserver import types; "
        "print([m for m in sys.modules if m.startswith('pilotfish.local.apiserver.types.')])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
