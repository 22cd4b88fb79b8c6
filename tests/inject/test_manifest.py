"""Injection of manifests: `pilotfish kube-inject`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from pilotfish.cli.kube_inject import command
from pilotfish.errors import UserError

MANIFEST = """\
# A Service stays as it is written, comments too.
apiVersion: v1
kind: Service
metadata: {name: shop}  # ours
spec: {ports: [{port: 80}]}
---
# Nothing but a comment.
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: market}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec: {containers: [{name: shop, image: "shop:1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host}
spec: {hostNetwork: true, containers: [{name: a, image: a}]}
---
apiVersion: example.com/v1
kind: Unknown
spec: {template: {spec: {containers: []}}}
"""


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """The command with files as its settings, so that no cluster is asked."""

    def run(manifest: str, config: str = "{}", *arguments: str) -> Result:
        (tmp_path / "config").write_text(config)
        (tmp_path / "in.yaml").write_text(manifest)
        words = ["-f", str(tmp_path / "in.yaml"), "--injectConfigFile", str(tmp_path / "config"), *arguments]
        return CliRunner().invoke(command, words, catch_exceptions=True)

    return run


def test_workloads_are_injected_and_the_rest_stays(run: Any) -> None:
    """What holds no workload is passed through as it is written; what is left out on purpose is told."""
    done = run(MANIFEST)
    assert done.exit_code == 0
    service, comment, deployment, host, unknown = done.stdout.split("---\n")
    before = MANIFEST.split("---\n")
    assert (service, comment, host, unknown) == (before[0], before[1], before[3], before[4])
    pod = yaml.safe_load(deployment)["spec"]["template"]
    assert [one["name"] for one in pod["spec"]["containers"]] == ["shop", "istio-proxy"]
    env = {one["name"]: one.get("value") for one in pod["spec"]["containers"][1]["env"]}
    assert env["ISTIO_META_OWNER"] == "kubernetes://apis/apps/v1/namespaces/market/deployments/shop"
    assert "ownerReferences" not in pod["metadata"]
    assert done.stderr == "Pod default/host is left as it is: the pod uses the machine's network (hostNetwork)\n"


KINDS = ["DaemonSet", "StatefulSet", "ReplicaSet", "ReplicationController", "Job", "DeploymentConfig"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_workload(run: Any, kind: str) -> None:
    """Also inside a List, which stays a List."""
    pod = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    one = {"apiVersion": "x/v1", "kind": kind, "metadata": {"name": "a"}, "spec": {"template": pod}}
    made = yaml.safe_load(run(json.dumps({"apiVersion": "v1", "kind": "List", "items": [one, {"kind": "X"}]})).stdout)
    assert made["items"][1] == {"kind": "X"}
    spec = made["items"][0]["spec"]["template"]["spec"]
    assert [item["name"] for item in spec["containers"]] == ["a", "istio-proxy"]


def test_jobs_of_a_cron_job(run: Any) -> None:
    """The proxy stands in the pods of its Jobs, and so do the labels that make it a part of the mesh."""
    pod = {"spec": {"containers": [{"name": "a", "image": "a"}]}}
    jobs = {"jobTemplate": {"spec": {"template": pod}}}
    made = yaml.safe_load(run(json.dumps({"kind": "CronJob", "metadata": {"name": "night"}, "spec": jobs})).stdout)
    found = made["spec"]["jobTemplate"]["spec"]["template"]
    assert found["spec"]["containers"][1]["name"] == "istio-proxy"
    assert found["metadata"]["labels"]["service.istio.io/canonical-name"] == "night"


def test_it_injects_whatever_the_policy_of_the_webhook_is(run: Any) -> None:
    """Who asks for a manifest wants it injected; what the workload says itself counts."""
    off = "policy: disabled\nneverInjectSelector: [{matchLabels: {app: shop}}]"
    assert "istio-proxy" in run(MANIFEST, off).stdout
    out = run(MANIFEST.replace("labels: {app: shop}}", 'labels: {app: shop, sidecar.istio.io/inject: "false"}}'))
    assert "istio-proxy" not in out.stdout
    assert "Deployment market/shop is left as it is: label sidecar.istio.io/inject is false" in out.stderr


def test_an_operator_file_gives_the_settings(tmp_path: Path) -> None:
    """Values and mesh settings of an IstioOperator, without a cluster."""
    operator = {
        "apiVersion": "install.istio.io/v1alpha1",
        "kind": "IstioOperator",
        "spec": {"meshConfig": {"trustDomain": "ours"}, "values": {"global": {"proxy": {"logLevel": "debug"}}}},
    }
    (tmp_path / "iop.yaml").write_text(json.dumps(operator))
    (tmp_path / "in.yaml").write_text(MANIFEST)
    words = ["-f", str(tmp_path / "in.yaml"), "--operatorFileName", str(tmp_path / "iop.yaml")]
    done = CliRunner().invoke(command, words)
    assert "--proxyLogLevel=debug" in done.stdout
    assert "value: ours" in done.stdout


@pytest.mark.parametrize(
    ("manifest", "config", "words"),
    [
        ("a: b\n---\na: [\n", "{}", "document from line 3: line 2: this is no valid YAML"),
        (MANIFEST, "templates: {sidecar: '{{ nope }}'}", "template sidecar:1: there is no function 'nope'"),
        (
            MANIFEST,
            "templates: {sidecar: '{{ fail `no` }}'}",
            "Deployment market/shop: template sidecar:1: fail `no`",
        ),
    ],
)
def test_what_is_wrong_is_named(run: Any, manifest: str, config: str, words: str) -> None:
    """The line of the document, the template, the workload."""
    done = run(manifest, config)
    assert isinstance(done.exception, UserError)
    assert words in str(done.exception)
