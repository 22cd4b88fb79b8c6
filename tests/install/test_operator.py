"""From profiles, files and settings to charts with values."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from pilotfish.api.files import load_all
from pilotfish.cli import mesh_options, uninstall
from pilotfish.cli.manifest import command as manifest_command
from pilotfish.errors import UserError
from pilotfish.install.cluster import manifest
from pilotfish.install.operator import PROFILES, Component, plan
from pilotfish.install.paths import assign, read_setting

OPERATOR = """
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
metadata: {namespace: mesh, name: x}
spec:
  profile: demo
  hub: my/hub
  tag: v1
  meshConfig: {accessLogFile: "", outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
  values:
    global: {proxy: {logLevel: debug}}
    gateways: {istio-ingressgateway: {type: NodePort, autoscaleEnabled: false}}
  components:
    pilot:
      k8s:
        replicaCount: 2
        resources: {requests: {cpu: 7m}}
        env: [{name: A, value: b}, {name: S, valueFrom: {secretKeyRef: {name: s, key: k}}}]
        hpaSpec: {minReplicas: 2, maxReplicas: 4}
        overlays:
        - kind: Deployment
          name: istiod
          patches:
          - {path: "spec.template.spec.containers[name:discovery].args[-1]", value: --more}
          - {path: "spec.template.spec.containers[name:discovery].env[name:A].value", value: c}
          - {path: spec.template.metadata.annotations.prometheus\\.io/port, value: "1"}
    ingressGateways:
    - name: istio-ingressgateway
      enabled: true
      k8s: {service: {ports: [{port: 8080, name: http2}]}, serviceAnnotations: {a: b}, nodeSelector: {c: d}}
    - {name: internal, namespace: other, enabled: true, label: {istio: inner}}
    egressGateways:
    - {name: istio-egressgateway, enabled: false}
"""


def _named(components: Any, release: str) -> Component:
    found: Component = next(component for component in components if component.release == release)
    return found


@pytest.mark.parametrize(
    ("profile", "releases"),
    [
        ("default", ["istio-base", "istiod", "istio-ingressgateway"]),
        ("demo", ["istio-base", "istiod", "istio-ingressgateway", "istio-egressgateway"]),
        ("minimal", ["istio-base", "istiod"]),
        ("remote", ["istio-base", "istiod"]),
        ("empty", []),
    ],
)
def test_profiles(profile: str, releases: list[str]) -> None:
    """What each profile installs."""
    found = plan(settings=[f"profile={profile}"])
    assert [component.release for component in found.components] == releases
    assert len(manifest(found)) >= 20 * bool(releases)


def test_every_profile_renders() -> None:
    """All of them, with a revision too."""
    for profile in PROFILES:
        manifest(plan(settings=[f"profile={profile}"]))
        manifest(plan(settings=[f"profile={profile}"], revision="r1"))


def test_operator_file() -> None:
    """Settings of an IstioOperator reach the objects."""
    found = plan([("x.yaml", OPERATOR)])
    assert (found.profile, found.namespace) == ("demo", "mesh")
    releases = [component.release for component in found.components]
    assert releases == ["istio-base", "istiod", "istio-ingressgateway", "internal"]
    objects = {(obj["kind"], obj["metadata"]["name"]): obj for obj in _named(found.components, "istiod").objects()}
    pod = objects["Deployment", "istiod"]["spec"]["template"]
    container = pod["spec"]["containers"][0]
    assert container["image"] == "my/hub/pilotfishd:v1"
    assert container["resources"]["requests"]["cpu"] == "7m"
    assert container["args"][-1] == "--more"
    env = {item["name"]: item for item in container["env"]}
    assert env["A"]["value"] == "c"
    assert "valueFrom" in env["S"]
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == "1"
    assert "REGISTRY_ONLY" in objects["ConfigMap", "istio"]["data"]["mesh"]
    assert '"logLevel": "debug"' in objects["ConfigMap", "istio-sidecar-injector"]["data"]["values"]
    gateway = {obj["kind"]: obj for obj in _named(found.components, "istio-ingressgateway").objects()}
    assert gateway["Service"]["spec"]["type"] == "NodePort"
    assert gateway["Service"]["spec"]["ports"] == [{"port": 8080, "name": "http2"}]
    assert gateway["Service"]["metadata"]["annotations"] == {"a": "b"}
    assert "HorizontalPodAutoscaler" not in gateway
    assert gateway["Deployment"]["spec"]["template"]["spec"]["nodeSelector"] == {"c": "d"}
    internal = {obj["kind"]: obj for obj in _named(found.components, "internal").objects()}
    assert internal["Service"]["metadata"]["namespace"] == "other"
    assert internal["Service"]["spec"]["selector"] == {"app": "internal", "istio": "inner"}


def test_a_values_file_is_taken_as_it_is() -> None:
    """Without a kind, it is what `helm -f` takes."""
    found = plan([("v.yaml", "pilot: {replicaCount: 3, autoscaleEnabled: false}\nmeshConfig: {trustDomain: td}")])
    objects = {(obj["kind"], obj["metadata"]["name"]): obj for obj in manifest(found)}
    assert objects["Deployment", "istiod"]["spec"]["replicas"] == 3
    assert "trustDomain: td" in objects["ConfigMap", "istio"]["data"]["mesh"]


def test_settings_win_over_files_and_the_flag_over_both() -> None:
    """--set profile, values by their own names, and --revision."""
    settings = ["profile=minimal", "revision=a", "global.proxy.logLevel=info", "values.global.meshID=m"]
    found = plan([("x.yaml", OPERATOR.replace("profile: demo", "profile: default"))], settings, "b")
    assert (found.profile, found.revision) == ("minimal", "b")
    control = _named(found.components, "istiod-b").values
    assert control["global"]["proxy"]["logLevel"] == "info"
    assert control["global"]["meshID"] == "m"


@pytest.mark.parametrize(
    ("files", "settings", "words"),
    [
        ([], ["profile=nope"], "'nope' is not known; there are default"),
        ([], ["profile=ambient"], "ambient mode is not supported"),
        ([], ["profile"], "write path=value"),
        ([("a.yaml", "- x")], [], "a.yaml: an IstioOperator or a mapping"),
        ([("a.yaml", "kind: Pod")], [], "must be IstioOperator"),
        ([("a.yaml", "kind: IstioOperator\nspec: {profil: x}")], [], "spec.profil is no field"),
        ([], ["components.pilot.k8s.replicaCount[0]=1", "components.pilot.k8s.replicaCount.x=1"], "is no list item"),
    ],
)
def test_errors(files: list[tuple[str, str]], settings: list[str], words: str) -> None:
    """One line that says what is wrong and where."""
    with pytest.raises(UserError) as caught:
        plan(files, settings)
    assert words in str(caught.value)


def test_overlay_for_nothing() -> None:
    """An overlay must name an object that is there."""
    overlay = "{kind: Deployment, name: pilot, patches: [{path: a, value: b}]}"
    text = f"kind: IstioOperator\nspec: {{components: {{pilot: {{k8s: {{overlays: [{overlay}]}}}}}}}}"
    with pytest.raises(UserError, match=r"Deployment/pilot.*there is Deployment/istiod"):
        manifest(plan([("x", text)]))


def test_values_without_effect_are_told() -> None:
    """A value that no chart knows, at the top or under `global`, is named: a mistyped one is not dropped in silence."""
    found = plan(settings=["values.global.nosuch=1", "values.autoscalemin=3", "values.global.meshID=m"])
    assert found.warnings == [
        "values.autoscalemin: this value is not known here and has no effect",
        "values.global.nosuch: this value is not known here and has no effect",
    ]
    assert plan(settings=["profile=stable"]).warnings == [
        "profile stable: there is no policy here that keeps objects to the stable fields"
    ]


def test_settings_of_kubernetes_without_effect_are_told() -> None:
    """What is not taken over from `k8s` is named."""
    spec = {
        "components": {
            "pilot": {"k8s": {"hpaSpec": {"minReplicas": 2}, "priorityClassName": "high"}},
            "ingressGateways": [{"name": "g", "enabled": True, "k8s": {"securityContext": {}, "strategy": {}}}],
        }
    }
    found = plan(files=[("f", json.dumps({"apiVersion": "x", "kind": "IstioOperator", "spec": spec}))])
    assert sorted(found.warnings) == [
        "components.ingressGateways[g].k8s.securityContext: this has no effect here",
        "components.pilot.k8s.priorityClassName: this has no effect here",
    ]


def test_unknown_versions_and_platforms_are_refused() -> None:
    """Compatibility with a version that Istio never had, and platforms there are none of."""
    for setting in ("compatibilityVersion=9.9", "values.platform=moon"):
        with pytest.raises(UserError, match="unknown"):
            [component.objects() for component in plan(settings=[setting]).components]


def test_what_is_not_supported_is_told() -> None:
    """Nothing is silently left out."""
    assert plan(settings=["components.cni.enabled=true"]).warnings == [
        "components.cni: the CNI plugin is not supported and left out"
    ]


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("a.b", 1, {"a": {"b": 1}, "l": [{"name": "x", "v": 1}, {"name": "y"}], "s": ["p", "q"]}),
        ("l[name:x].v", 2, {"l": [{"name": "x", "v": 2}, {"name": "y"}], "s": ["p", "q"]}),
        ("l[name:z].v", 2, {"l": [{"name": "x", "v": 1}, {"name": "y"}, {"name": "z", "v": 2}], "s": ["p", "q"]}),
        ("l[1].v", 2, {"l": [{"name": "x", "v": 1}, {"name": "y", "v": 2}], "s": ["p", "q"]}),
        ("l[name:x]", None, {"l": [{"name": "y"}], "s": ["p", "q"]}),
        ("s[:p]", "r", {"l": [{"name": "x", "v": 1}, {"name": "y"}], "s": ["r", "q"]}),
        ("s[2]", "r", {"l": [{"name": "x", "v": 1}, {"name": "y"}], "s": ["p", "q", "r"]}),
        ("s[-1]", "r", {"l": [{"name": "x", "v": 1}, {"name": "y"}], "s": ["p", "q", "r"]}),
        (r"a\.b/c", 1, {"a.b/c": 1, "l": [{"name": "x", "v": 1}, {"name": "y"}], "s": ["p", "q"]}),
        ("s", None, {"l": [{"name": "x", "v": 1}, {"name": "y"}]}),
    ],
)
def test_paths(path: str, value: Any, expected: Any) -> None:
    """As IstioOperator overlays and --set write them; [-1] adds to a list."""
    root: dict[str, Any] = {"l": [{"name": "x", "v": 1}, {"name": "y"}], "s": ["p", "q"]}
    assign(root, path, value)
    assert root == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", ("a", "b")),
        ("a=1", ("a", 1)),
        ("a=true", ("a", True)),
        ("a=null", ("a", None)),
        ("a=1.5", ("a", "1.5")),
        ("a=", ("a", "")),
        ("a=b=c", ("a", "b=c")),
        ("a={x, 2}", ("a", ["x", 2])),
        ("a=012", ("a", "012")),
    ],
)
def test_settings(text: str, expected: tuple[str, Any]) -> None:
    """Whole numbers, booleans and null are such; everything else is text."""
    assert read_setting(text) == expected


def test_manifest_command(tmp_path: Any) -> None:
    """`manifest generate` prints YAML that can be applied, or writes a file a part."""
    result = CliRunner().invoke(manifest_command, ["generate", "--set", "profile=minimal"])
    assert result.exit_code == 0, result.output
    objects = [obj for obj, _ in load_all(result.output)]
    assert {obj["kind"] for obj in objects} >= {"CustomResourceDefinition", "Deployment", "Service"}
    result = CliRunner().invoke(manifest_command, ["generate", "-o", str(tmp_path / "out")])
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "Base.yaml",
        "IngressGateways.yaml",
        "Pilot.yaml",
    ]


def test_files_are_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-f -`; a file that is not there is an error that names it."""
    result = CliRunner().invoke(
        manifest_command, ["generate", "-f", "-"], input="kind: IstioOperator\nspec: {profile: empty}"
    )
    assert (result.exit_code, result.output) == (0, "")
    with pytest.raises(UserError, match=r"/no/such cannot be read: No such file"):
        mesh_options.read_plan(("/no/such",), (), "")


def test_uninstall_wants_to_know_what() -> None:
    """Nothing is removed by accident."""
    result = CliRunner().invoke(uninstall.command, [])
    assert isinstance(result.exception, UserError)
