"""Injection templates of the user's own, and how templates come together in a pod."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from pilotfish.inject import InjectionError, InjectorSettings, inject
from pilotfish.inject.context import Context

Object = dict[str, Any]


def settings(templates: Mapping[str, str], **config: Any) -> InjectorSettings:
    text = json.dumps({"templates": templates, **config})
    return InjectorSettings.read({"config": text, "values": json.dumps(config.get("values", {}))}, "", "istio-system")


def pod(templates: str = "", **annotations: str) -> Object:
    notes = {"inject.istio.io/templates": templates} if templates else {}
    return {
        "metadata": {"name": "shop", "labels": {"app": "shop"}, "annotations": {**notes, **annotations}},
        "spec": {
            "serviceAccountName": "till",
            "containers": [
                {
                    "name": "shop",
                    "image": "shop:1",
                    "ports": [{"containerPort": 80}, {"containerPort": 81, "protocol": "UDP"}],
                    "resources": {"limits": {"cpu": "2"}},
                }
            ],
        },
    }


def injected(one: Object, chosen: InjectorSettings, **mesh: Any) -> Object:
    return inject(Context(one, "market", chosen, mesh))


LABELLED = """
metadata:
  labels:
    team: {{ .Values.team | default "none" | quote }}
spec:
  containers:
  - name: istio-proxy
    env: [{name: TEAM, value: {{ index .ObjectMeta.Labels "app" | upper }}}]
"""


def test_templates_are_laid_over_one_another() -> None:
    """A template of one's own after the built-in one changes the proxy that the latter brings."""
    made = injected(pod("sidecar, labelled"), settings({"labelled": LABELLED}, values={"team": "blue"}))
    assert made["metadata"]["labels"]["team"] == "blue"
    proxy = next(one for one in made["spec"]["containers"] if one["name"] == "istio-proxy")
    assert {"name": "TEAM", "value": "SHOP"} in proxy["env"]
    assert proxy["args"][:2] == ["proxy", "sidecar"]
    status = json.loads(made["metadata"]["annotations"]["sidecar.istio.io/status"])
    assert status["containers"] == ["istio-proxy"]


def test_default_templates_and_aliases() -> None:
    """What is chosen for pods that choose nothing, also by another name."""
    chosen = settings({"labelled": LABELLED}, defaultTemplates=["both"], aliases={"both": ["sidecar", "labelled"]})
    assert injected(pod(), chosen)["metadata"]["labels"]["team"] == "none"
    assert "team" not in injected(pod("sidecar"), chosen)["metadata"]["labels"]


def test_a_built_in_template_can_be_replaced() -> None:
    """A template named sidecar stands in the place of ours."""
    chosen = settings({"sidecar": "metadata: {labels: {mine: yes-it-is}}"})
    made = injected(pod(), chosen)
    assert made["metadata"]["labels"]["mine"] == "yes-it-is"
    assert [one["name"] for one in made["spec"]["containers"]] == ["shop"]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ .ObjectMeta.Name }}/{{ .DeploymentMeta.Namespace }}/{{ .TypeMeta.Kind }}", "shop/market/Pod"),
        ("{{ .Spec.ServiceAccountName }}{{ .Spec.NodeName }}{{ .Spec.HostNetwork }}", "tillfalse"),
        ("{{ (index .Spec.Containers 0).Image }}", "shop:1"),
        ("{{ range (index .Spec.Containers 0).Ports }}{{ .ContainerPort }}{{ .Protocol }} {{ end }}", "80 81UDP "),
        ('{{ index (index .Spec.Containers 0).Resources.Limits "cpu" }}', "2"),
        ("{{ includeInboundPorts .Spec.Containers }}", "80"),
        ("{{ with (index .Spec.Containers 0).SecurityContext }}{{ .RunAsUser }}{{ else }}none{{ end }}", "none"),
        ("{{ .ProxyConfig.StatusPort }} {{ .ProxyConfig.InterceptionMode }} {{ .ProxyConfig.InterceptionMode.String }}",
         "15020 REDIRECT REDIRECT"),
        ("{{ .ProxyConfig.HoldApplicationUntilProxyStarts.GetValue }} {{ .ProxyConfig.Concurrency.GetValue }}",
         "false 4"),
        ("{{ .ProxyConfig.GetTracing.GetTlsSettings.GetCaCertificates }}", "map[]"),
        ("{{ formatDuration .ProxyConfig.DrainDuration }}", "45s"),
        ('{{ index .ProxyConfig.ProxyMetadata "X" }}{{ index .ProxyConfig.ProxyMetadata "Y" }}', "1"),
        ("{{ .MeshConfig.TrustDomain }} {{ .MeshConfig.EnablePrometheusMerge.GetValue }}", "cluster.local true"),
        ("{{ protoToJSON .ProxyConfig }}", '{"concurrency":4,"proxyMetadata":{"X":"1"}}'),
        ('{{ annotation .ObjectMeta "a" 5 }}{{ isset .ObjectMeta.Annotations "a" }}', "5false"),
        ('{{ valueOrDefault "" "d" }}{{ toLower "A" }}{{ directory "/a/b" }}', "da/a/"),
        ('{{ excludeInboundPort 1 "1,2" }} {{ excludeInboundPort 3 "1,2" }} {{ excludeInboundPort 0 "1" }}',
         "1,2 1,2,3 1"),
        ('{{ toJsonMap (strdict "b" "2" "a") (strdict "c" "3") }}', '{"a":"","b":"2","c":"3"}'),
        ('{{ toJSON (omit (strdict "a" "1" "b" "2") "a") }}', '{"b":"2"}'),
        ('{{ omitNil (dict "a" nil "b" (list nil 1)) }}', "map[b:[1]]"),
        ('{{ index (fromJSON "{\\"a\\": [1]}") "a" }}', "[1]"),
        ('{{ env "PILOTFISH_NO_SUCH_VARIABLE" "d" }}', "d"),
        ("{{ .ProxyImage }} {{ .ProxyInitImage }} {{ .ProxyUID }}",
         "docker.io/pilotfish/proxyv2:latest docker.io/pilotfish/proxyv2:latest 1337"),
        ("{{ .Revision }}{{ .NativeSidecars }}{{ .InboundTrafficPolicyMode }}{{ .CompliancePolicy }}",
         "falsepassthrough"),
        ('{{ toYaml (dict "a" (list 1)) | indent 2 }}', "a:\n  - 1\n  "),
    ],
)  # fmt: skip
def test_the_data_and_functions_of_templates(template: str, text: str) -> None:
    """What Istio documents: pod, mesh and proxy settings by their names in Go, and Istio's own functions."""
    defined = f'{{{{- define "x" }}}}{template}{{{{ end -}}}}'
    whole = f'{defined}\nmetadata: {{annotations: {{found: {{{{ include "x" . | toJson }}}}}}}}'
    made = injected(pod("t"), settings({"t": whole}), defaultConfig={"concurrency": 4, "proxyMetadata": {"X": "1"}})
    assert made["metadata"]["annotations"]["found"] == text


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("spec:\n  {{ if }}", "key config: template t:2: the expression ends too early"),
        ("{{ nope }}", "template t:1: there is no function 'nope'"),
        ("a\n{{ range .Spec.Containers }}", "template t:2: else or end is missing"),
    ],
)
def test_a_template_that_cannot_be_read_is_refused_with_the_settings(template: str, words: str) -> None:
    """The message has the key of the ConfigMap, the template and the line."""
    with pytest.raises(InjectionError, match=words):
        settings({"t": template})


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ .Spec.ServiceAcountName }}", "template t:1: .Spec.ServiceAcountName: there is no field ServiceAcountName"),
        ("a\n{{ .Values.a.b.c }}", "template t:2: .Values.a.b.c: there is nothing to take .b of"),
        ('{{ fail "ask the platform team" }}', "ask the platform team"),
        ("a: [", "template t comes to what is no YAML"),
        ("- a", "template t comes to no pod"),
        ("spec: text", "template t comes to no pod"),
        ("spec: {containers: [{image: x}]}", "the template does not fit the pod: .*merge key: name"),
    ],
)
def test_a_template_that_fails_names_itself(template: str, words: str) -> None:
    """The pod is refused with the template, the line and what went wrong."""
    with pytest.raises(InjectionError, match=words):
        injected(pod("t"), settings({"t": template}))


def test_injecting_again_starts_from_what_the_user_wrote() -> None:
    """An injected pod that comes by once more, with other settings: what was added is made anew, the user's own
    changes of the proxy stay."""
    one = pod()
    one["spec"]["containers"].append({"name": "istio-proxy", "image": "auto", "env": [{"name": "MINE", "value": "1"}]})
    one["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {"port": 80}}
    first = injected(one, settings({}, values={"global": {"tag": "one"}}))
    second = injected(first, settings({}, values={"global": {"tag": "two"}}))
    proxy = next(item for item in second["spec"]["containers"] if item["name"] == "istio-proxy")
    assert proxy["image"] == "docker.io/pilotfish/proxyv2:two"
    env = {item["name"]: item.get("value") for item in proxy["env"]}
    assert env["MINE"] == "1"
    assert env["ISTIO_META_APP_CONTAINERS"] == "shop"
    assert json.loads(env["ISTIO_KUBE_APP_PROBERS"]) == {"/app-health/shop/readyz": {"httpGet": {"port": 80}}}
    assert len(second["spec"]["containers"]) == 2
