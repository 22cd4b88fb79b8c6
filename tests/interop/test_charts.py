"""Our charts beside Istio's, rendered by Helm: the same objects with the same fields for the same values.

What differs on purpose stands in one table. The rest of a chart's business, such as that our own renderer makes of it
what Helm makes, is tested in tests/charts.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.charts.helm import find

from pilotfish.api.files import load_all, load_one
from pilotfish.install.charts import directory
from pilotfish.install.operator import plan

Object = dict[str, Any]

VALUES: dict[str, list[Object]] = load_one((Path(__file__).parent / "chart_values.yaml").read_text())
CASES = [(chart, number) for chart, cases in VALUES.items() for number in range(len(cases))]
THEIRS = {"base": "base", "istiod": "istio-control/istio-discovery", "gateway": "gateway"}
RELEASES = {"base": "istio-base", "istiod": "istiod", "gateway": "istio-ingressgateway"}

_CONTAINER = r"spec\.template\.spec\.containers\[discovery\]"
DELIBERATE = {
    r"metadata\.labels\.(app\.kubernetes\.io/(version|name|instance|managed-by)|helm\.sh/chart)$": "of another product",
    r"metadata\.labels\.(app|release|istio\.io/rev|operator\.istio\.io/component)$": "our objects have them all",
    r"metadata\.labels\.install\.operator\.istio\.io/owning-resource$": "the installer sets it, and Helm does not",
    r"^(ClusterRole|Role) \S+ \.rules$": "what our control plane does; tests/daemon shows that it is enough",
    r"^RoleBinding \S+ \.subjects\[.*\]\.namespace$": "written out, where Istio leaves it to Kubernetes",
    r"clientConfig\.service\.port$": "443, the default, written out",
    r"securityContext\.runAs(User|Group)$": "the images are not bound to a user, so the charts say which",
    rf"^Deployment istiod\S* \.{_CONTAINER}\.(image|command|resources\.requests\.(cpu|memory))$": "of another program",
    r"^Deployment istiod\S* \.spec\.template\.spec\.securityContext$": "fsGroup, so that tokens can be read",
    r"^Deployment istiod\S* \.spec\.template\.spec\.tolerations$": "for Istio's CNI plug-in, which is not there",
    r"^Deployment istiod\S* \.spec\.template\.spec\.imagePullSecrets$": "also on the pod, not on the account alone",
    rf"{_CONTAINER}\.env\[(GOMAXPROCS|GOMEMLIMIT)\]$": "of Go",
    rf"{_CONTAINER}\.env\[CA_TRUSTED_NODE_ACCOUNTS\]$": "of ambient mode, which is not there",
    rf"{_CONTAINER}\.env\[KUBECONFIG\]$": "of an external control plane, which reads it as it is",
    rf"{_CONTAINER}\.env\[(EXTERNAL_ISTIOD|TOKEN_AUDIENCES|(INJECTION|VALIDATION)_WEBHOOK_CONFIG_NAME)\]$": "ours",
    rf"{_CONTAINER}\.(env\[PILOT_JWKS_EXTRA_CA\]|volumeMounts\[extracacerts\]\.readOnly)$": "told by us",
    rf"{_CONTAINER}\.(args|env\[PILOT_\w*UNTAINT\w*\])$": "untainting nodes belongs to the CNI plug-in",
    rf"{_CONTAINER}\.env\[(DISABLE_SHADOW_HOST_SUFFIX|DISABLE_TRACK_REMAINING_CB_METRICS)\]$": "Istio's switches",
    rf"{_CONTAINER}\.env\[(ENABLE_NATIVE_SIDECARS|PILOT_(AUTO|ENABLE|SIDECAR|SPAWN)\w*)\]$": "switches of Istio's code",
    rf"{_CONTAINER}\.env\[PILOT_CA_CERT_CONFIGMAP\]$|volumes\[istio-csr-ca-configmap\]": "not there: trustBundleName",
    r"^ConfigMap values\S* ": "the values themselves",
    r"^ConfigMap istio-sidecar-injector\S* \.data\.values\.global\.(hub|tag|multiCluster)": "ours, one default more",
    r"^ConfigMap istio-sidecar-injector\S* \.data\.values\.global\.(nativeNftables|waypoint)": "no such feature",
    r"^ConfigMap istio-sidecar-injector\S* \.data\.values\.pilot\.(cni|env)": "a platform's CNI plug-in, and switches",
    r"^ConfigMap istio-sidecar-injector\S* \.data\.config$": "templates are built in; tests/interop compares the pods",
    r"^ConfigMap istio-default-gatewayclass": "of the Gateway API",
    r"^ValidatingAdmissionPolicy": "not there; who asks for it is told",
    r"^NetworkPolicy \S+ \.metadata\.labels": "the labels that the other objects have",
    r"^(Deployment|Service) \S+ .*imagePullSecrets$": "names of secrets, which Istio's gateway chart takes as they are",
}
"""What may differ: an object's kind and name with the path of a field, and why."""

REFUSED_BY_US = {
    "ambient": "there is no ambient mode",
    "stable": "there is no policy here",
    "stableValidationPolicy": "there is no policy here",
}
ACCEPTED_BY_US = {"defaults": "how values were nested in Istio 1.22 and 1.23"}
OTHER_NAMESPACE = "istioNamespace"
"""Istio's chart puts some objects there and some into the release's namespace; ours go to the release's."""

_MAY_BE_EMPTY: tuple[Any, ...] = ({}, [], None, "", False)
_SETS = {"matchExpressions", "rules", "verbs", "resources", "apiGroups"}


@cache
def _helm() -> str:
    return find() or pytest.skip("Helm is not here: `make test` builds it if Go is installed (tests/charts/helm.py)")


def _render(path: Path, chart: str, values: Object) -> tuple[dict[str, Object], str]:
    """The objects by kind and name, or why there are none."""
    command = [_helm(), "template", RELEASES[chart], str(path), "-n", "istio-system", "-f", "-"]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False, timeout=120)
    objects = [obj for obj, _ in load_all(done.stdout)] if done.returncode == 0 else []
    return {f"{obj['kind']} {obj['metadata']['name']}": obj for obj in objects}, done.stderr if done.returncode else ""


def _plain(value: Any, key: str = "") -> Any:
    """Without what is empty, in an order that does not matter; texts in ConfigMaps as the values they are."""
    if isinstance(value, dict):
        if value.get("kind") == "ConfigMap":
            data = {name: _read(name, text) for name, text in (value.get("data") or {}).items()}
            value = {**value, "data": data}
        found = {name: _plain(item, name) for name, item in value.items()}
        return {name: item for name, item in found.items() if item not in _MAY_BE_EMPTY}
    if isinstance(value, list):
        items = [_plain(item) for item in value]
        return sorted(items, key=lambda item: json.dumps(item, sort_keys=True)) if key in _SETS else items
    return value


def _read(name: str, text: str) -> Any:
    return load_one(text) if name in {"mesh", "meshNetworks", "values"} else text


def _differences(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if one == other or (isinstance(one, (str, int)) and str(one) == str(other)):
        return
    named = isinstance(one, list) and isinstance(other, list) and all("name" in x for x in (*one, *other) if x)
    if named and all(isinstance(x, dict) for x in (*one, *other)):
        left, right = ({item["name"]: item for item in items} for items in (one, other))
        for name in dict.fromkeys((*left, *right)):
            yield from _differences(left.get(name), right.get(name), f"{path}[{name}]")
    elif isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}):
            yield from _differences(one.get(name), other.get(name), f"{path}.{name}")
    else:
        yield path, one, other


@pytest.mark.parametrize(("chart", "number"), CASES, ids=str)
def test_same_objects(istio_source: Path, chart: str, number: int) -> None:
    """For each set of values: refused alike, or the same objects with the same fields."""
    values = VALUES[chart][number]
    text = json.dumps(values)
    theirs, refused = _render(istio_source / "manifests" / "charts" / THEIRS[chart], chart, values)
    ours, problem = _render(directory() / chart, chart, values)
    if problem and any(word in text for word in REFUSED_BY_US):
        assert any(reason in problem for reason in REFUSED_BY_US.values()), problem
        return
    if refused and any(word in text for word in ACCEPTED_BY_US):
        assert ours
        return
    assert bool(refused) == bool(problem), f"Istio: {refused}\nwe: {problem}"
    if OTHER_NAMESPACE in text and chart == "istiod":
        assert len(ours) == len(theirs)
        return
    found = []
    for name in sorted({*theirs, *ours}):
        if name.startswith("CustomResourceDefinition"):
            continue  # test_crds.py
        for path, one, other in _differences(_plain(theirs.get(name)), _plain(ours.get(name))):
            where = f"{name} {path}"
            if not any(re.search(pattern, where) for pattern in DELIBERATE):
                found.append(f"{where}: Istio {one!r:.300}, we {other!r:.300}")
    assert not found, f"{text}\n" + "\n".join(found)


@pytest.mark.parametrize("profile", ["default", "demo", "minimal", "preview"])
def test_profiles_of_the_installer(programs: Path, istio_source: Path, profile: str) -> None:
    """`pilotfish manifest generate` gives the control plane that `istioctl manifest generate` does.

    Gateways are other objects: istioctl writes their pods out, ours are made by the injector, as by the gateway chart.
    """
    command = [str(programs / "istioctl"), "manifest", "generate", "--set", f"profile={profile}"]
    command += ["--manifests", str(istio_source / "manifests")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    theirs = {f"{obj['kind']} {obj['metadata']['name']}": obj for obj, _ in load_all(printed)}
    parts = plan(settings=[f"profile={profile}"]).components
    ours = {f"{obj['kind']} {obj['metadata']['name']}": obj for part in parts for obj in part.objects()}
    gateways = {name for name in theirs if name.startswith("Deployment istio-")}
    assert gateways == {name for name in ours if name.startswith("Deployment istio-")}
    found = []
    for name in sorted({*theirs, *ours}):
        if name.startswith("CustomResourceDefinition") or re.search("-(in|e)gressgateway", name):
            continue
        if name == "ValidatingWebhookConfiguration istiod-default-validator":
            continue  # istioctl makes it when it installs, with the tag `default`
        for path, one, other in _differences(_plain(theirs.get(name)), _plain(ours.get(name))):
            if not any(re.search(pattern, f"{name} {path}") for pattern in DELIBERATE):
                found.append(f"{name} {path}: Istio {one!r:.300}, we {other!r:.300}")
    assert not found, "\n".join(found)
