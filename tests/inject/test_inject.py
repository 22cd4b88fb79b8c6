"""What injection adds, keeps, refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotfish.inject import InjectionError, InjectorSettings, decide, inject, native
from pilotfish.inject.context import Context

Object = dict[str, Any]


def pod(annotations: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None, **spec: Any) -> Object:
    return {
        "metadata": {
            "generateName": "reviews-v1-5d8f7c9b6d-",
            "labels": {"app": "reviews", "version": "v1", "pod-template-hash": "5d8f7c9b6d", **(labels or {})},
            "annotations": dict(annotations or {}),
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "reviews-v1-5d8f7c9b6d", "controller": True}
            ],
        },
        "spec": {"containers": [{"name": "reviews", "ports": [{"containerPort": 9080, "name": "http"}]}], **spec},
    }


def context(one: Object, values: Mapping[str, Any] | None = None, mesh: Mapping[str, Any] | None = None) -> Context:
    settings = InjectorSettings(values=values or {}, aliases={"gw": ("gateway",)})
    return Context(one, "book", settings, mesh or {})


def injected(one: Object, values: Mapping[str, Any] | None = None, mesh: Mapping[str, Any] | None = None) -> Object:
    return inject(context(one, values, mesh))


def container(one: Object, name: str = "istio-proxy") -> Object:
    everyone = [*one["spec"]["containers"], *one["spec"].get("initContainers", [])]
    return next(item for item in everyone if item["name"] == name)


def env(one: Object, name: str) -> Any:
    found = [item for item in container(one)["env"] if item["name"] == name]
    return (found[0].get("value") or found[0].get("valueFrom")) if found else None


def test_the_sidecar_pod() -> None:
    """Application first, proxy after it, capture rules in front, and the names tools look for."""
    made = injected(pod())
    assert [one["name"] for one in made["spec"]["containers"]] == ["reviews", "istio-proxy"]
    assert [one["name"] for one in made["spec"]["initContainers"]] == ["istio-init"]
    assert container(made)["ports"] == [{"containerPort": 15090, "name": "http-envoy-prom", "protocol": "TCP"}]
    assert container(made)["image"] == "docker.io/pilotfish/proxyv2:latest"
    assert container(made)["securityContext"]["runAsUser"] == 1337
    labels, annotations = made["metadata"]["labels"], made["metadata"]["annotations"]
    assert labels["security.istio.io/tlsMode"] == "istio"
    assert (labels["service.istio.io/canonical-name"], labels["service.istio.io/canonical-revision"]) == (
        "reviews",
        "v1",
    )
    assert annotations["kubectl.kubernetes.io/default-container"] == "reviews"
    status = json.loads(annotations["sidecar.istio.io/status"])
    assert status["containers"] == ["istio-proxy"]
    assert status["initContainers"] == ["istio-init"]
    assert env(made, "ISTIO_META_WORKLOAD_NAME") == "reviews-v1"
    assert env(made, "ISTIO_META_OWNER") == "kubernetes://apis/apps/v1/namespaces/book/deployments/reviews-v1"
    assert env(made, "POD_NAME") == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert json.loads(env(made, "ISTIO_META_POD_PORTS")) == [{"name": "http", "containerPort": 9080}]


def test_every_mount_has_its_volume() -> None:
    """Nothing is mounted that is not there."""
    made = injected(pod())
    names = {one["name"] for one in made["spec"]["volumes"]}
    assert {one["name"] for one in container(made)["volumeMounts"]} <= names


def test_injecting_twice_changes_nothing() -> None:
    """Injected anew, an injected pod comes out the same; the input is never changed."""
    one = pod()
    before = copy.deepcopy(one)
    made = injected(one)
    assert one == before
    assert injected(made) == made


@pytest.mark.parametrize(
    ("annotations", "flags"),
    [
        ({}, {"-i": "*", "-x": "", "-b": "*", "-d": "15090,15021,15020"}),
        ({"traffic.sidecar.istio.io/excludeInboundPorts": "22,3306"}, {"-d": "15090,15021,22,3306,15020"}),
        ({"traffic.sidecar.istio.io/includeOutboundIPRanges": "10.0.0.0/8"}, {"-i": "10.0.0.0/8"}),
        ({"traffic.sidecar.istio.io/includeInboundPorts": ""}, {"-b": ""}),
        ({"traffic.sidecar.istio.io/excludeOutboundPorts": "25"}, {"-o": "25"}),
        ({"status.sidecar.istio.io/port": "16020"}, {"-d": "15090,15021,16020"}),
    ],
)
def test_capture_annotations_become_flags(annotations: dict[str, str], flags: dict[str, str]) -> None:
    """Each annotation ends in the flag of the capture rules that it is about."""
    arguments = container(injected(pod(annotations)), "istio-init")["args"]
    found = dict(zip(arguments[1::2], arguments[2::2], strict=False))
    assert {flag: found.get(flag) for flag in flags} == flags


@pytest.mark.parametrize(
    ("annotations", "text"),
    [
        ({"traffic.sidecar.istio.io/excludeInboundPorts": "x"}, "excludeInboundPorts: 'x' is not a port"),
        ({"traffic.sidecar.istio.io/includeOutboundIPRanges": "10"}, "includeOutboundIPRanges"),
        ({"sidecar.istio.io/interceptionMode": "MAGIC"}, "not one of REDIRECT, TPROXY, NONE"),
        ({"inject.istio.io/templates": "nope"}, "no injection template 'nope'; there are gateway, gw, sidecar"),
        ({"proxy.istio.io/config": "a: [b"}, "not YAML"),
        ({"prometheus.io/port": "15090"}, "is a port of the mesh"),
        ({"sidecar.istio.io/userVolume": "x"}, "not JSON"),
        ({"sidecar.istio.io/userVolume": '[{"emptyDir": {}}]'}, "objects with names"),
        ({"inject.istio.io/templates": "grpc-agent"}, "gRPC without a proxy is not supported"),
        ({"sidecar.istio.io/proxyCPU": "much"}, "'much' is not an amount such as 100m"),
        ({"proxy.istio.io/config": "concurrency: many"}, "concurrency"),
        ({"proxy.istio.io/config": "statusPort: 70000"}, "statusPort"),
        ({"traffic.sidecar.istio.io/excludeInterfaces": "eth0,-x"}, "'-x' is not the name of a network interface"),
        ({"readiness.status.sidecar.istio.io/periodSeconds": "soon"}, "periodSeconds: 'soon' is not a number"),
    ],
)
def test_bad_annotations_are_named(annotations: dict[str, str], text: str) -> None:
    """A value that does not fit fails the admission with the annotation's name."""
    with pytest.raises(InjectionError, match=text):
        injected(pod(annotations))


@pytest.mark.parametrize(
    ("volume", "mount"),
    [
        ('[{"name": "ca", "configmap": {"name": "ca"}}]', '[{"name": "ca", "mountPath": "/ca", "readonly": true}]'),
        ('{"ca": {"configMap": {"name": "ca"}}}', '{"ca": {"mountPath": "/ca", "readOnly": true}}'),
    ],
)
def test_volumes_for_the_proxy(volume: str, mount: str) -> None:
    """Both ways of writing them that Istio takes: the proxy gets the mounts, the application does not."""
    made = injected(pod({"sidecar.istio.io/userVolume": volume, "sidecar.istio.io/userVolumeMount": mount}))
    assert {"name": "ca", "configMap": {"name": "ca"}} in made["spec"]["volumes"]
    wanted = {"name": "ca", "mountPath": "/ca", "readOnly": True}
    having = [c["name"] for c in made["spec"]["containers"] if wanted in (c.get("volumeMounts") or ())]
    assert having == ["istio-proxy"]


def test_probes_go_through_the_agent() -> None:
    """HTTP, TCP and gRPC probes are taken over with named ports resolved; exec probes are not."""
    app = {
        "name": "reviews",
        "ports": [{"containerPort": 9080, "name": "http"}],
        "readinessProbe": {"httpGet": {"path": "/r", "port": "http", "scheme": "HTTPS"}, "timeoutSeconds": 7},
        "livenessProbe": {"exec": {"command": ["true"]}},
        "startupProbe": {"tcpSocket": {"port": 9080}},
    }
    made = injected(pod(containers=[app]))
    probed = container(made, "reviews")
    assert probed["readinessProbe"] == {
        "httpGet": {"path": "/app-health/reviews/readyz", "port": 15020, "scheme": "HTTP"},
        "timeoutSeconds": 7,
    }
    assert probed["livenessProbe"] == {"exec": {"command": ["true"]}}
    probers = json.loads(env(made, "ISTIO_KUBE_APP_PROBERS"))
    assert probers["/app-health/reviews/readyz"] == {
        "httpGet": {"path": "/r", "port": 9080, "scheme": "HTTPS"},
        "timeoutSeconds": 7,
    }
    assert probers["/app-health/reviews/startupz"]["tcpSocket"] == {"port": 9080}


def test_metrics_are_merged() -> None:
    """The application's scrape annotations move to the agent, and Prometheus is pointed at the agent."""
    made = injected(pod({"prometheus.io/scrape": "true", "prometheus.io/port": "9100"}))
    annotations = made["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == "15020"
    assert annotations["prometheus.io/path"] == "/stats/prometheus"
    moved = json.loads(env(made, "ISTIO_PROMETHEUS_ANNOTATIONS"))
    assert moved == {"scrape": "true", "path": "", "port": "9100"}
    off = injected(pod({"prometheus.io/scrape": "false"}))
    assert "prometheus.io/port" not in off["metadata"]["annotations"]
    assert env(injected(pod(), mesh={"enablePrometheusMerge": False}), "ISTIO_PROMETHEUS_ANNOTATIONS") is None


def test_user_container_overrides_the_template() -> None:
    """A container named istio-proxy in the pod is a layer over the template's."""
    own = {
        "name": "istio-proxy",
        "image": "auto",
        "env": [{"name": "EXTRA", "value": "1"}, {"name": "TRUST_DOMAIN", "value": "mine"}],
        "resources": {"requests": {"cpu": "1"}},
        "readinessProbe": {"exec": {"command": ["true"]}},
    }
    made = injected(pod(containers=[{"name": "reviews"}, own]))
    assert container(made)["image"] == "docker.io/pilotfish/proxyv2:latest"
    assert (env(made, "EXTRA"), env(made, "TRUST_DOMAIN")) == ("1", "mine")
    assert container(made)["resources"] == {"requests": {"cpu": "1"}}
    assert "httpGet" not in container(made)["readinessProbe"]


def test_gateway_template() -> None:
    """The pod's own container becomes the gateway; no capture, no probes taken over, low ports allowed, and sidecars
    are not told to speak mTLS to its ports."""
    one = pod({"inject.istio.io/templates": "gw"}, containers=[{"name": "istio-proxy", "image": "auto"}])
    made = injected(one)
    assert "security.istio.io/tlsMode" not in made["metadata"]["labels"]
    assert [item["name"] for item in made["spec"]["containers"]] == ["istio-proxy"]
    assert "initContainers" not in made["spec"]
    assert container(made)["args"][:2] == ["proxy", "router"]
    assert made["spec"]["securityContext"]["sysctls"][0]["value"] == "0"


def test_hold_and_native() -> None:
    """Held applications start after the proxy; native sidecars are init containers that go on."""
    held = injected(pod({"proxy.istio.io/config": "holdApplicationUntilProxyStarts: true"}))
    assert held["spec"]["containers"][0]["name"] == "istio-proxy"
    assert held["spec"]["containers"][0]["lifecycle"]["postStart"]["exec"]["command"] == ["pilot-agent", "wait"]
    native = injected(pod({"sidecar.istio.io/nativeSidecar": "true"}))
    assert [one["name"] for one in native["spec"]["initContainers"]] == ["istio-init", "istio-proxy"]
    assert native["spec"]["initContainers"][1]["restartPolicy"] == "Always"


def test_proxy_config_layers() -> None:
    """Mesh default, then the pod's annotation; metadata of both becomes environment."""
    mesh = {"defaultConfig": {"concurrency": 2, "proxyMetadata": {"ISTIO_META_A": "1"}}, "trustDomain": "td"}
    text = "concurrency: 4\nproxyMetadata:\n  ISTIO_META_B: two\n"
    made = injected(pod({"proxy.istio.io/config": text}), mesh=mesh)
    config = json.loads(env(made, "PROXY_CONFIG"))
    assert config["concurrency"] == 4
    assert (env(made, "ISTIO_META_A"), env(made, "ISTIO_META_B"), env(made, "TRUST_DOMAIN")) == ("1", "two", "td")


@pytest.mark.parametrize(
    ("change", "settings", "expected"),
    [
        ({}, {}, True),
        ({"labels": {"sidecar.istio.io/inject": "false"}}, {}, False),
        ({"annotations": {"sidecar.istio.io/inject": "false"}}, {}, False),
        ({"labels": {"sidecar.istio.io/inject": "true"}}, {"policy": "disabled"}, True),
        (
            {"labels": {"sidecar.istio.io/inject": "true"}, "annotations": {"sidecar.istio.io/inject": "false"}},
            {},
            True,
        ),
        (
            {"labels": {"sidecar.istio.io/inject": "maybe"}, "annotations": {"sidecar.istio.io/inject": "false"}},
            {},
            True,
        ),
        ({"annotations": {"sidecar.istio.io/inject": "maybe"}}, {"policy": "disabled"}, False),
        ({"labels": {"sidecar.istio.io/inject": "true"}}, {"policy": "off"}, False),
        ({}, {"policy": "off"}, False),
        (
            {"labels": {"sidecar.istio.io/inject": "true"}},
            {"never_inject": ({"matchLabels": {"app": "reviews"}},)},
            True,
        ),
        (
            {},
            {
                "never_inject": ({"matchExpressions": [{"key": "app", "operator": "Exists"}]},),
                "always_inject": ({"matchLabels": {"app": "reviews"}},),
            },
            False,
        ),
        ({}, {"policy": "disabled"}, False),
        ({"hostNetwork": True, "labels": {"sidecar.istio.io/inject": "true"}}, {}, False),
        ({}, {"never_inject": ({"matchLabels": {"app": "reviews"}},)}, False),
        ({}, {"policy": "disabled", "always_inject": ({"matchLabels": {"app": "reviews"}},)}, True),
        ({}, {"never_inject": ({},)}, True),
    ],
)
def test_decision(change: dict[str, Any], settings: dict[str, Any], expected: bool) -> None:
    """First rule that applies wins."""
    assert decide(pod(**change), "book", InjectorSettings(**settings)).inject is expected


def test_kubernetes_own_namespaces_are_left_alone() -> None:
    """Whatever a pod's labels say."""
    assert not decide(pod(labels={"sidecar.istio.io/inject": "true"}), "kube-system", InjectorSettings()).inject


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["nodeSelector", "tolerations", "dnsConfig", "hostAliases"]), json_values))
def test_foreign_fields_survive(extra: dict[str, Any]) -> None:
    """Whatever else stands in a pod's spec is there afterwards."""
    made = injected(pod(**extra))
    assert {key: made["spec"][key] for key in extra} == extra


@pytest.mark.parametrize(
    ("mode", "policy", "allowed", "natively"),
    [
        ("", "Always", True, False),
        ("", "Never", True, True),
        ("", "OnFailure", True, True),
        ("", "Never", False, False),
        ("auto", "Always", True, True),
        ("auto", "Always", False, False),
        ("true", "Always", False, True),
        ("false", "Never", True, False),
    ],
)
def test_native_for_pods_that_end(mode: str, policy: str, *, allowed: bool, natively: bool) -> None:
    """Unless told otherwise, a proxy is a native sidecar where it would keep its pod from ending."""
    assert native.wanted(mode, {"spec": {"restartPolicy": policy}}, lambda: allowed) is natively
