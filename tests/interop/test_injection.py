"""Injection beside Istio's: the golden cases of its tests, with our built-in templates and with Istio's own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.interop.injection import DATA, Case, Object, cases, config_maps, differences, documents, manifests, meaning

from pilotfish.inject import InjectionError, InjectorSettings
from pilotfish.inject.context import Context
from pilotfish.inject.manifest import inject_all, read
from pilotfish.install.charts import render
from pilotfish.install.operator import plan
from pilotfish.kube.meta import matches_selector

SOURCE = Path(os.environ.get("PILOTFISH_INTEROP", "")) / "src/istio"
CASES = cases(SOURCE) if (SOURCE / DATA).is_dir() else []

_TPROXY: Object = {"defaultConfig": {"interceptionMode": "TPROXY"}}
_COLLECTOR = {"service": "otel-collector.observability.svc.cluster.local", "port": 4317}
_OTEL = _COLLECTOR | {"serviceAttributeEnrichment": "OTEL_SEMANTIC_CONVENTIONS"}
_KEY = "/etc/identity/client/keys/client-key.pem"
MESH: Mapping[str, Object] = {
    "hello-tproxy.yaml.injected": _TPROXY,
    "proxy-override-runas.yaml.tproxy.injected": _TPROXY,
    "format-duration.yaml.injected": {"defaultConfig": {"drainDuration": "23s"}},
    "traffic-annotations.yaml.injected": {"defaultConfig": {"proxyMetadata": {"ISTIO_META_TLS_CLIENT_KEY": _KEY}}},
    "hello-tracing-disabled.yaml.injected": {"defaultConfig": {"tracing": {}}},
    "hello-probes-localhost.yaml.injected": {"inboundTrafficPolicy": {"mode": "LOCALHOST"}},
    "hello-otel-semconv.yaml.injected": {"extensionProviders": [{"name": "otel", "opentelemetry": _OTEL}]},
}
"""What a case changes of the mesh, which it says in Go."""

NAMESPACE = {
    "openshift.io/sa.scc.uid-range": "1000620000/10000",
    "openshift.io/sa.scc.supplemental-groups": "1000620000/10000",
}
"""The annotations of the namespace in the cases of OpenShift."""

WRITING = {
    r"^\d+/spec/jobTemplate/metadata|/spec/jobTemplate/spec/template/metadata$": "of a CronJob, istioctl changes the "
    "labels and annotations of its Jobs; we change those of the pods, as for every other kind and as the webhook does",
    r"^\d+(/items/\d+)?/(status|spec/(paused|test|minReadySeconds))\b": "istioctl writes out what is empty, we leave "
    "what is not injected as it is written",
}
OURS = WRITING | {
    r"/image$": "our own images",
    r"/volumes/istio-ca-crl|/istio/crl$|sidecar.istio.io/status/volumes": "there are no lists of revoked certificates",
    r"/env/(GOMEMLIMIT|GOMAXPROCS|GODEBUG)$": "settings of Go's runtime; our agent is no Go program",
    r"/env/COMPLIANCE_POLICY$": "there is no FIPS mode",
    r"/env/ISTIOD_NAMESPACE$": "our agent takes the control plane's name from it",
}
"""Deliberate differences of the built-in templates: places in an object, and why."""

ISTIO = WRITING | {r"/env/(COMPLIANCE_POLICY|GODEBUG)$": "there is no FIPS mode"}
"""Deliberate differences when Istio's own templates are used."""

REFUSED = {
    "grpc-agent.yaml.injected": "gRPC without a proxy is not supported",
    "grpc-simple.yaml.injected": "gRPC without a proxy is not supported",
}
"""Templates that are not built in: the message says why."""


def test_every_golden_file_is_looked_at() -> None:
    """Each belongs to a case, and of what cases say in Go nothing is overlooked."""
    golden = {file.name for file in (SOURCE / DATA / "testdata/inject").glob("*.injected")}
    assert len(golden) > 100
    assert golden == {case.wanted for case in CASES if case.wanted}
    assert {case.name for case in CASES if "mesh:" in case.code} == set(MESH)
    known = ("NativeSidecarMode", "platform.OpenShift", "CompliancePolicy")
    assert not [case.name for case in CASES if "setup:" in case.code and not any(one in case.code for one in known)]
    assert {case.name for case in CASES if case.name in REFUSED} == set(REFUSED)


@cache
def _our_maps(flags: tuple[str, ...], operator_file: str) -> Mapping[str, Mapping[str, str]]:
    """The ConfigMaps of our chart, with the settings of a case. We have no network plugin to install, only its settings
    in the chart's values."""
    settings = [re.sub(r"^(components|values)\.cni\.", "values.pilot.cni.", one) for one in flags]
    files = [(operator_file, Path(operator_file).read_text())] if operator_file else []
    found = next(one for one in plan(files, [*settings, "profile=minimal"]).components if one.chart == "istiod")
    return config_maps(render(found.chart, found.release, found.namespace, found.values))


def _merged(base: Object, over: Mapping[str, Any]) -> Object:
    both = dict(base)
    for key, value in over.items():
        both[key] = _merged(base.get(key) or {}, value) if isinstance(value, dict) and value else value
    return both


def _injected(case: Case, maps: Mapping[str, Mapping[str, str]]) -> list[Object]:
    settings = InjectorSettings.read(maps["istio-sidecar-injector"], "", "istio-system")
    mesh = _merged(yaml.safe_load(maps["istio"]["mesh"]), MESH.get(case.name, {}))
    namespace = NAMESPACE if "platform.OpenShift" in case.code else None

    def context(pod: Object, space: str) -> Context:
        plain = Context(pod, space, settings, mesh, native_sidecars=case.native)
        return replace(plain, openshift=namespace)

    text = (SOURCE / DATA / "testdata/inject" / case.given).read_text()
    made = inject_all(read(text, case.given), context, "default", lambda _: None)
    return [one for part in made for one in documents(part)]


def _different(case: Case, ours: list[Object], deliberate: Mapping[str, str]) -> Iterator[tuple[str, Any, Any]]:
    theirs = documents((SOURCE / DATA / "testdata/inject" / case.wanted).read_text())
    assert len(ours) == len(theirs)
    for at, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        for path, mine, golden in differences(meaning(one), meaning(other), str(at)):
            if not any(re.search(pattern, path) for pattern in deliberate):
                yield path, mine, golden


def _operator_file(case: Case) -> str:
    return str(SOURCE / DATA / "testdata/inject" / case.operator_file) if case.operator_file else ""


@pytest.mark.parametrize("case", CASES, ids=[f"{case.name}{'' if case.native else '-no-native'}" for case in CASES])
def test_built_in_templates_do_what_istio_does(case: Case) -> None:
    """Our chart with the values of the case gives the pods that Istio gives, but for what is deliberate."""
    maps = _our_maps(case.flags, _operator_file(case))
    if not case.wanted or case.name in REFUSED:
        with pytest.raises(InjectionError, match=REFUSED.get(case.name, "annotation traffic.sidecar.istio.io/")):
            _injected(case, maps)
        return
    assert not list(_different(case, _injected(case, maps), OURS))


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.wanted],
    ids=[f"{case.name}{'' if case.native else '-no-native'}" for case in CASES if case.wanted],
)
def test_istios_own_templates_give_what_they_give_there(case: Case, programs: Path) -> None:
    """Istio's ConfigMaps as istioctl makes them, its templates rendered and laid over by us: the golden pods."""
    maps = config_maps(manifests(programs / "istioctl", SOURCE / "manifests", case.flags, _operator_file(case)))
    assert not list(_different(case, _injected(case, maps), ISTIO))


# ------------------------------------------------------------------------------ which pods are injected, and by whom

NAMES = (None, "enabled", "disabled")
REVISIONS = (None, "default", "canary", "prod", "other")
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "by-default": ("values.sidecarInjectorWebhook.enableNamespacesByDefault=true",),
    "revision": ("revision=canary",),
    "tags": ("revision=canary", "values.revisionTags[0]=prod"),
    "default-tag": ("revision=canary", "values.revisionTags[0]=default"),
    "both": (
        "revision=canary",
        "values.revisionTags[0]=prod",
        "values.sidecarInjectorWebhook.enableNamespacesByDefault=true",
    ),
}


def _labels(name: str, value: str | None) -> dict[str, str]:
    return {} if value is None else {name: value}


def _asked(configurations: list[Mapping[str, Any]], namespace: Mapping[str, str], pod: Mapping[str, str]) -> set[str]:
    """Which of our Services would be asked about a pod, as the API server decides it."""
    return {
        webhook["clientConfig"]["service"]["name"]
        for one in configurations
        for webhook in one["webhooks"]
        if matches_selector(webhook.get("namespaceSelector") or {}, namespace)
        and matches_selector(webhook.get("objectSelector") or {}, pod)
    }


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_same_pods_are_asked_about(setting: str, programs: Path) -> None:
    """For every combination of labels of namespace and pod, revisions and tags: the webhooks of both charts ask the
    same control plane, or none."""
    flags = SETTINGS[setting]
    theirs = manifests(programs / "istioctl", SOURCE / "manifests", flags)
    found = next(one for one in plan([], [*flags, "profile=minimal"]).components if one.chart == "istiod")
    ours = render(found.chart, found.release, found.namespace, found.values)
    kind = "MutatingWebhookConfiguration"
    both = [[one for one in objects if one["kind"] == kind] for objects in (ours, theirs)]
    assert all(both)
    different = []
    for place, name, revision, inject, own in product(
        ("book", "kube-system"), NAMES, REVISIONS, (None, "true", "false", "maybe"), REVISIONS
    ):
        namespace = {"kubernetes.io/metadata.name": place}
        namespace |= _labels("istio-injection", name) | _labels("istio.io/rev", revision)
        pod = _labels("sidecar.istio.io/inject", inject) | _labels("istio.io/rev", own)
        mine, golden = (_asked(one, namespace, pod) for one in both)
        if mine != golden:
            different.append((namespace, pod, mine, golden))
    assert not different
