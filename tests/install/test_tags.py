"""Revision tags in a cluster with two revisions: who injects into the pods of a namespace."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import count

import pytest
import yaml
from tests.e2e.conftest import skip_unless_possible
from tests.e2e.harness import Cluster, fresh, wait_until

pytestmark = pytest.mark.xdist_group("install")
_numbers = count(1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """With the revision without a name and the revision `canary`."""
    mode = "rootful" if os.geteuid() == 0 else "rootless"
    skip_unless_possible(mode)
    with fresh(mode) as started:
        started.up()
        for revision in ("default", "canary"):
            started.pilotfish("install", "-y", "--set", "profile=minimal", "--revision", revision)
        yield started


def injector(cluster: Cluster, namespace: str, labels: str = "") -> str:
    """The revision that injects into a new pod; empty when none does."""
    name = f"pod-{next(_numbers)}"
    named = ("--labels", labels) if labels else ()
    made = cluster.kubectl("run", name, "-n", namespace, "--image=curlimages/curl", *named, "-o", "json")
    annotations = json.loads(made)["metadata"].get("annotations") or {}
    cluster.kubectl("delete", "pod", name, "-n", namespace, "--wait=false")
    return str(json.loads(annotations.get("sidecar.istio.io/status", "{}")).get("revision", ""))


def namespace(cluster: Cluster, name: str, label: str) -> str:
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("label", "namespace", name, label)
    return name


def test_a_tag_moves_its_namespaces_from_one_revision_to_another(cluster: Cluster) -> None:
    """Set, changed only with --overwrite, listed with its namespaces, removed."""
    space = namespace(cluster, "tagged", "istio.io/rev=prod")
    assert injector(cluster, space) == ""
    assert "Tag prod points to revision default" in cluster.pilotfish("tag", "set", "prod", "-r", "default").stdout
    assert injector(cluster, space) == "default"
    refused = cluster.pilotfish("tag", "set", "prod", "--revision", "canary", check=False)
    assert refused.returncode == 1
    assert "there is a tag 'prod' already; --overwrite changes it" in refused.stderr
    cluster.pilotfish("tag", "set", "prod", "--revision", "canary", "--overwrite")
    assert injector(cluster, space) == "canary"
    service = cluster.get("service", "istiod-revision-tag-prod", "-n", "istio-system")
    assert service["spec"]["selector"]["istio.io/rev"] == "canary"
    rows = json.loads(cluster.pilotfish("tag", "list", "-o", "json").stdout)
    assert rows == [
        {"tag": "prod", "revision": "canary", "namespaces": ["tagged"]},
        {"tag": "", "revision": "default", "namespaces": []},
    ]
    lines = [line.split() for line in cluster.pilotfish("tag", "list").stdout.splitlines()]
    assert lines == [["TAG", "REVISION", "NAMESPACES"], ["prod", "canary", "tagged"], ["default"]]
    aborted = cluster.pilotfish("tag", "remove", "prod", check=False)
    assert aborted.returncode == 1
    assert "lose injection: tagged" in aborted.stdout + aborted.stderr
    cluster.pilotfish("tag", "remove", "prod", "-y")
    assert injector(cluster, space) == ""
    assert "prod" not in cluster.pilotfish("tag", "list").stdout


def test_what_cannot_be_tagged(cluster: Cluster) -> None:
    """Unknown revisions and tags, and names of revisions, are refused."""
    for arguments, text in (
        (("set", "new", "--revision", "gone"), "revision 'gone' has no webhook configuration"),
        (("set", "canary", "--revision", "default"), "there is a revision 'canary' already"),
        (("remove", "gone"), "there is no tag 'gone'"),
    ):
        refused = cluster.pilotfish("tag", *arguments, check=False)
        assert refused.returncode == 1
        assert text in refused.stderr


def test_generated_objects_make_the_tag(cluster: Cluster) -> None:
    """What is printed can be applied with kubectl, under another name too."""
    printed = cluster.pilotfish("tag", "generate", "next", "-r", "canary", "--webhook-name", "next-hooks").stdout
    assert [one["kind"] for one in yaml.safe_load_all(printed)] == ["Service", "MutatingWebhookConfiguration"]
    space = namespace(cluster, "upcoming", "istio.io/rev=next")
    cluster.kubectl("apply", "-f", "-", input_=printed)
    assert injector(cluster, space) == "canary"
    assert cluster.get("mutatingwebhookconfiguration", "next-hooks")
    cluster.pilotfish("tag", "remove", "next", "-y")


def test_the_default_tag(cluster: Cluster) -> None:
    """It takes over namespaces that only ask for injection, and validation; installing gives them back."""
    enabled = namespace(cluster, "enabled", "istio-injection=enabled")
    silent = namespace(cluster, "silent", "some=label")
    assert injector(cluster, enabled) == "default"
    cluster.pilotfish("tag", "set", "default", "--revision", "canary", "-y", "--auto-inject-namespaces")
    assert injector(cluster, enabled) == "canary"
    assert injector(cluster, silent) == "canary"
    assert injector(cluster, silent, "sidecar.istio.io/inject=false") == ""
    (hook,) = cluster.get("validatingwebhookconfiguration", "istiod-default-validator")["webhooks"]
    assert hook["clientConfig"]["service"]["name"] == "istiod-canary"
    assert hook["failurePolicy"] == "Fail"
    wrong = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: wrong}
spec: {servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"], tls: {mode: SIMPLE}}]}
"""
    wait_until(lambda: "denied" in cluster.kubectl("apply", "-f", "-", input_=wrong, check=False), "a refusal")
    cluster.pilotfish("tag", "remove", "default", "-y")
    assert injector(cluster, enabled) == ""
    cluster.pilotfish("install", "-y", "--set", "profile=minimal", "--revision", "default")
    assert injector(cluster, enabled) == "default"
