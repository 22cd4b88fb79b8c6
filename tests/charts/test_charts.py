"""The charts: what Helm renders, what our own renderer renders, and that both are the same."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pilotfish.api.crds import crds, to_yaml
from pilotfish.api.files import load_all, load_one
from pilotfish.api.mesh import decode_mesh_config, decode_mesh_networks
from pilotfish.errors import UserError
from pilotfish.inject.settings import InjectorSettings
from pilotfish.install.charts import NAMES, directory, render

VALUES = Path(__file__).parent / "values"
CASES = [(name, None) for name in NAMES] + [(file.name.split("-")[0], file) for file in sorted(VALUES.glob("*.yaml"))]


def _by_name(objects: list[Any]) -> dict[str, Any]:
    found = {f"{obj['kind']} {obj['metadata']['name']}": _readable(obj) for obj in objects}
    assert len(found) == len(objects)
    return found


def _readable(obj: Any) -> Any:
    """Texts inside ConfigMaps as values: how they are laid out does not matter."""
    if obj["kind"] == "ConfigMap":
        data = {key: text if key.endswith(".pem") else load_one(text) for key, text in obj["data"].items()}
        return {**obj, "data": data}
    return obj


def _render(chart: str, values: dict[str, Any] | None = None, namespace: str = "istio-system") -> dict[str, Any]:
    return {f"{obj['kind']} {obj['metadata']['name']}": obj for obj in render(chart, chart, namespace, values or {})}


def test_crds_are_up_to_date() -> None:
    """The base chart has the definitions of the types; `python -m pilotfish.api.crds > charts/base/files/crds.yaml`."""
    assert (directory() / "base" / "files" / "crds.yaml").read_text() == to_yaml(crds())


@pytest.mark.parametrize("namespace", ["istio-system", "mesh"])
@pytest.mark.parametrize(("chart", "file"), CASES, ids=lambda value: getattr(value, "stem", value))
def test_same_as_helm(helm: str, chart: str, file: Path | None, namespace: str) -> None:
    """Every object, field by field, for values that reach every branch of the templates."""
    command = [helm, "template", "release", str(directory() / chart), "-n", namespace]
    command += ["-f", str(file)] if file else []
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    values = load_one(file.read_text()) if file else {}
    ours = _by_name(render(chart, "release", namespace, values))
    assert ours == _by_name([obj for obj, _ in load_all(printed)])


@pytest.mark.parametrize("chart", NAMES)
def test_helm_lint(helm: str, chart: str) -> None:
    """Helm finds nothing to complain of."""
    command = [helm, "lint", "--strict", str(directory() / chart)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stdout


def test_istiod_objects() -> None:
    """The names that users, tools and Istio's own programs expect."""
    assert sorted(_render("istiod")) == sorted(
        [
            "ClusterRole istio-reader-clusterrole-istio-system",
            "ClusterRole istiod-clusterrole-istio-system",
            "ClusterRole istiod-gateway-controller-istio-system",
            "ClusterRoleBinding istio-reader-clusterrole-istio-system",
            "ClusterRoleBinding istiod-clusterrole-istio-system",
            "ClusterRoleBinding istiod-gateway-controller-istio-system",
            "ConfigMap istio",
            "ConfigMap istio-sidecar-injector",
            "ConfigMap values",
            "Deployment istiod",
            "HorizontalPodAutoscaler istiod",
            "MutatingWebhookConfiguration istio-sidecar-injector",
            "Role istiod",
            "RoleBinding istiod",
            "Service istiod",
            "ServiceAccount istiod",
            "ValidatingWebhookConfiguration istio-validator-istio-system",
        ]
    )


def test_istiod_revision() -> None:
    """A revision has a suffix everywhere, its own selectors, and no webhooks for plain istio-injection."""
    found = _render("istiod", {"revision": "canary", "revisionTags": ["prod"]}, "mesh")
    assert {"Deployment istiod-canary", "ConfigMap istio-canary", "Service istiod-revision-tag-prod"} <= set(found)
    webhooks = found["MutatingWebhookConfiguration istio-sidecar-injector-canary-mesh"]["webhooks"]
    assert [webhook["name"].split(".sidecar")[0] for webhook in webhooks] == ["rev.namespace", "rev.object"]
    assert webhooks[0]["clientConfig"]["service"]["name"] == "istiod-canary"
    tag = found["MutatingWebhookConfiguration istio-revision-tag-prod-mesh"]
    assert tag["metadata"]["labels"]["istio.io/tag"] == "prod"
    assert tag["webhooks"][0]["namespaceSelector"]["matchExpressions"][0]["values"] == ["prod"]
    service = found["Service istiod-canary"]["spec"]
    assert service["selector"] == {"app": "istiod", "istio.io/rev": "canary"}
    pod = found["Deployment istiod-canary"]["spec"]["template"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()


def test_istiod_ports() -> None:
    """The Service's ports lead to ports the container has."""
    found = _render("istiod")
    ports = {
        port["port"]: (port["name"], port.get("targetPort", port["port"]))
        for port in found["Service istiod"]["spec"]["ports"]
    }
    assert ports == {
        15010: ("grpc-xds", 15010),
        15012: ("https-dns", 15012),
        443: ("https-webhook", 15017),
        15014: ("http-monitoring", 15014),
    }
    container = found["Deployment istiod"]["spec"]["template"]["spec"]["containers"][0]
    assert {target for _, target in ports.values()} <= {port["containerPort"] for port in container["ports"]}
    assert container["name"] == "discovery"
    assert container["command"] == ["pilotfishd"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": 8080}


@pytest.mark.parametrize("file", sorted(VALUES.glob("istiod-*.yaml")), ids=lambda file: file.stem)
def test_istiod_reads_its_configuration(file: Path) -> None:
    """What the chart writes is what the control plane and the injector read, without unknown fields."""
    values = load_one(file.read_text())
    found = {obj["metadata"]["name"]: obj for obj in render("istiod", "x", "ns", values) if obj["kind"] == "ConfigMap"}
    suffix = f"-{values['revision']}" if values.get("revision") else ""
    if f"istio{suffix}" in found:
        data = found[f"istio{suffix}"]["data"]
        mesh, unknown = decode_mesh_config(data["mesh"])
        assert unknown == ()
        assert mesh.root_namespace == "ns"
        assert mesh.default_config.discovery_address == f"istiod{suffix}.ns.svc:15012"
        assert decode_mesh_networks(data["meshNetworks"])[1] == ()
    if f"istio-sidecar-injector{suffix}" in found:
        settings = InjectorSettings.read(found[f"istio-sidecar-injector{suffix}"]["data"], "", "ns")
        assert settings.policy == "enabled"
        assert settings.image("proxyv2", "").startswith("docker.io/pilotfish/proxyv2:0.1.0")


def test_values_of_istio() -> None:
    """A values file for Istio 1.20, as it is: its hub and tag cannot hold this control plane, the rest counts."""
    values = load_one((VALUES / "istiod-1.20.yaml").read_text())
    found = _render("istiod", values)
    deployment = found["Deployment istiod-canary"]["spec"]
    container = deployment["template"]["spec"]["containers"][0]
    assert container["image"] == "docker.io/pilotfish/pilotfishd:0.1.0"
    assert deployment["replicas"] == 2
    assert container["resources"] == {"requests": {"cpu": "10m", "memory": "100Mi"}}
    env = {item["name"]: item.get("value") for item in container["env"]}
    assert (env["PILOT_TRACE_SAMPLING"], env["CLUSTER_ID"], env["PILOT_TRACE"]) == ("50", "c1", "x")
    injector = json.loads(found["ConfigMap istio-sidecar-injector-canary"]["data"]["values"])
    assert injector["global"]["proxy"]["excludeInboundPorts"] == "9999"
    assert injector["sidecarInjectorWebhook"]["rewriteAppHTTPProbe"] is False
    mesh, _ = decode_mesh_config(found["ConfigMap istio-canary"]["data"]["mesh"])
    assert mesh.access_log_file == "/dev/stdout"
    assert mesh.enable_prometheus_merge is False


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ({}, "docker.io/pilotfish/pilotfishd:0.1.0"),
        ({"global": {"hub": "my/hub", "tag": "t"}}, "my/hub/pilotfishd:t"),
        ({"global": {"hub": "my/hub"}}, "my/hub/pilotfishd:0.1.0"),
        ({"pilot": {"hub": "other", "tag": "u"}}, "other/pilotfishd:u"),
        ({"image": "registry.example.com/istiod:5"}, "registry.example.com/istiod:5"),
        (
            {"pilot": {"image": "pilot"}, "global": {"hub": "gcr.io/istio-release", "tag": "1.22"}},
            "docker.io/pilotfish/pilotfishd:0.1.0",
        ),
        ({"global": {"variant": "distroless"}}, "docker.io/pilotfish/pilotfishd:0.1.0-distroless"),
        ({"global": {"hub": None, "tag": None}}, "docker.io/pilotfish/pilotfishd:0.1.0"),
    ],
)
def test_image(values: dict[str, Any], image: str) -> None:
    """Where the control plane's image comes from."""
    deployment = _render("istiod", values)["Deployment istiod"]
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == image


def test_base_validator_follows_the_default_revision() -> None:
    """Objects without a revision are validated by the default one."""
    found = _render("base", {"defaultRevision": "1-2"})["ValidatingWebhookConfiguration istiod-default-validator"]
    assert found["webhooks"][0]["clientConfig"]["service"]["name"] == "istiod-1-2"
    assert found["metadata"]["labels"]["istio.io/rev"] == "1-2"
    assert "ValidatingWebhookConfiguration istiod-default-validator" not in _render("base", {"defaultRevision": ""})


def test_gateway_is_injected() -> None:
    """The pod asks for the template `gateway`, and its Service selects it."""
    found = {obj["kind"]: obj for obj in render("gateway", "istio-ingressgateway", "istio-ingress", {})}
    pod = found["Deployment"]["spec"]["template"]
    assert pod["metadata"]["annotations"]["inject.istio.io/templates"] == "gateway"
    assert pod["metadata"]["labels"]["sidecar.istio.io/inject"] == "true"
    assert [container["image"] for container in pod["spec"]["containers"]] == ["auto"]
    assert found["Service"]["spec"]["selector"] == {"app": "istio-ingressgateway", "istio": "ingressgateway"}
    assert found["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert found["Role"]["rules"] == [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "watch", "list"]}]


def test_unknown_values_are_told(helm: str, tmp_path: Path) -> None:
    """Helm takes any value; the notes it prints name those that have no effect, such as mistyped ones."""
    chart = tmp_path / "istiod"
    shutil.copytree(directory() / "istiod", chart)
    notes = chart / "templates" / "NOTES.txt"
    (chart / "templates" / "_notes.tpl").write_text(f'{{{{- define "notes" -}}}}{notes.read_text()}{{{{- end -}}}}')
    shown = 'kind: Note\nmetadata: {name: notes}\ntext: |-\n  {{- include "notes" . | nindent 2 }}\n'
    (chart / "templates" / "notes.yaml").write_text(shown)

    def told(*settings: str) -> str:
        command = [helm, "template", "x", str(chart), "-s", "templates/notes.yaml"]
        command += [part for setting in settings for part in ("--set", setting)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        return str(load_one(printed)["text"])

    assert "WARNING" not in told("revision=canary", "global.meshID=m", "pilot.env.A=b", "profile=demo")
    assert "no effect: autoscalemin, global.nosuch" in told("autoscalemin=3", "global.nosuch=1")


def test_unknown_values_of_a_gateway_are_refused(helm: str) -> None:
    """The gateway's values have a schema, as Istio's."""
    command = [helm, "template", "x", str(directory() / "gateway"), "--set", "replicacount=2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert "replicacount" in done.stderr


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("profile=nope", "unknown profile nope"),
        ("profile=ambient", "no ambient mode"),
        ("profile=stable", "no policy here"),
        ("platform=moon", "unknown platform moon"),
        ("compatibilityVersion=9.9", "unknown compatibility version 9.9"),
        ("global.pilotCertProvider=kubernetes", "not supported"),
    ],
)
def test_what_is_not_there_is_refused(setting: str, words: str) -> None:
    """Rather than dropped in silence."""
    path, _, value = setting.partition("=")
    values: Any = {path.rpartition(".")[2]: value}
    with pytest.raises(UserError, match=words):
        render("istiod", "x", "istio-system", {"global": values} if "." in path else values)
