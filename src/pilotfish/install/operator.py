"""What to install: profiles, IstioOperator files, values files and `--set` become charts with values. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from pilotfish.api.files import load_all
from pilotfish.errors import UserError
from pilotfish.gotemplate import merge_overwrite
from pilotfish.install import paths
from pilotfish.install.charts import Object, render, unknown_values

_INGRESS = {"name": "istio-ingressgateway", "enabled": True}
_EGRESS = {"name": "istio-egressgateway", "enabled": True}
PROFILES: Mapping[str, Object] = {
    "default": {"components": {"ingressGateways": [_INGRESS]}},
    "demo": {
        "components": {"ingressGateways": [_INGRESS], "egressGateways": [_EGRESS]},
        "values": {"profile": "demo"},
    },
    "minimal": {},
    "preview": {"components": {"ingressGateways": [_INGRESS]}, "values": {"profile": "preview"}},
    "stable": {"components": {"ingressGateways": [_INGRESS]}},
    "remote": {"values": {"profile": "remote"}},
    "empty": {"components": {"base": {"enabled": False}, "pilot": {"enabled": False}}},
}
"""IstioOperator specs that a file or `--set` is laid over."""
_SPEC_FIELDS = {"profile", "hub", "tag", "namespace", "revision", "meshConfig", "values", "components"}
_SPEC_FIELDS |= {"compatibilityVersion"}
_IGNORED_FIELDS = {"installPackagePath", "addonComponents", "unvalidatedValues"}
_UNSUPPORTED = {"cni": "the CNI plugin", "ztunnel": "ambient mode", "istiodRemote": "a remote istiod component"}
_GATEWAY_PORTS = {
    "istio-ingressgateway": (("status-port", 15021, 15021), ("http2", 80, 8080), ("https", 443, 8443)),
    "istio-egressgateway": (("http2", 80, 8080), ("https", 443, 8443)),
}


@dataclass(frozen=True)
class Component:
    """One chart with its values. `overlays` are changes to what it renders."""

    title: str
    """As it is told: `Istio core`, `Istiod`, `Ingress gateways`, `Egress gateways`."""
    chart: str
    release: str
    namespace: str
    values: Object
    overlays: Sequence[Mapping[str, Any]] = ()

    def objects(self) -> list[Object]:
        """What the chart renders, changed by the overlays. Raises UserError."""
        objects = render(self.chart, self.release, self.namespace, self.values)
        for overlay in self.overlays:
            _lay_over(objects, overlay, self.namespace)
        return objects


@dataclass(frozen=True)
class Plan:
    profile: str
    namespace: str
    revision: str
    components: Sequence[Component]
    warnings: Sequence[str] = field(default=())


def plan(files: Iterable[tuple[str, str]] = (), settings: Iterable[str] = (), revision: str = "") -> Plan:
    """From (name, text) of files, `path=value` settings and `--revision`, weakest first. Raises UserError."""
    given: Object = {}
    for name, text in files:
        for value, _ in load_all(text, name):
            merge_overwrite(given, _spec(name, value))
    for text in settings:
        path, value = paths.read_setting(text)
        top = path.partition(".")[0].partition("[")[0]
        paths.assign(given, path if top in _SPEC_FIELDS else f"values.{path}", value)
    if revision:
        given["revision"] = revision
    profile = str(given.get("profile") or "default")
    if profile not in PROFILES:
        hint = "; ambient mode is not supported" if profile == "ambient" else ""
        raise UserError(f"profile {profile!r} is not known; there are {', '.join(sorted(PROFILES))}{hint}")
    return _plan(profile, given)


def _spec(name: str, value: Any) -> Object:
    """The spec of an IstioOperator, or one that holds a values file."""
    if not isinstance(value, dict):
        raise UserError(f"{name}: an IstioOperator or a mapping of values is expected, not {value!r:.40}")
    if "kind" not in value:
        return {"values": value}
    if value["kind"] != "IstioOperator":
        raise UserError(f"{name}: kind {value['kind']!r} cannot be installed; it must be IstioOperator")
    spec = deepcopy(value.get("spec") or {})
    namespace = (value.get("metadata") or {}).get("namespace")
    if namespace and "namespace" not in spec:
        spec["namespace"] = namespace
    unknown = set(spec) - _SPEC_FIELDS - _IGNORED_FIELDS
    if unknown:
        raise UserError(f"{name}: spec.{min(unknown)} is no field of IstioOperator")
    return dict(spec)


def _plan(profile: str, given: Object) -> Plan:
    spec: Object = deepcopy(dict(PROFILES[profile]))
    lists = {kind: _by_name(spec, given, kind) for kind in ("ingressGateways", "egressGateways")}
    merge_overwrite(spec, given)
    parts = spec.get("components") or {}
    warnings = [
        f"components.{name}: {what} is not supported and left out"
        for name, what in _UNSUPPORTED.items()
        if (parts.get(name) or {}).get("enabled")
    ]
    warnings += [f"{name}: this field has no effect here" for name in sorted(_IGNORED_FIELDS & set(given))]
    if profile == "stable":
        warnings.append("profile stable: there is no policy here that keeps objects to the stable fields")
    values = spec.get("values") or {}
    warnings += [f"values.{name}: this value is not known here and has no effect" for name in unknown_values(values)]
    own = values.get("global") or {}
    namespace = str(spec.get("namespace") or own.get("istioNamespace") or "istio-system")
    revision = str(spec.get("revision") or values.get("revision") or "")
    common: Object = {"global": {key: spec[key] for key in ("hub", "tag") if spec.get(key)}}
    common["global"]["istioNamespace"] = namespace
    if spec.get("compatibilityVersion"):
        common["compatibilityVersion"] = spec["compatibilityVersion"]
    common = merge_overwrite(common, values)
    components: list[Component] = []
    if _enabled(parts.get("base"), True):
        components.append(
            Component("Istio core", "base", "istio-base", namespace, common, _overlays(parts.get("base")))
        )
    if _enabled(parts.get("pilot"), True):
        pilot = parts.get("pilot") or {}
        control = merge_overwrite(deepcopy(common), {"revision": revision}, _pilot(pilot.get("k8s") or {}))
        merge_overwrite(control, {"meshConfig": spec.get("meshConfig") or {}})
        for key in ("hub", "tag"):
            if pilot.get(key):
                control[key] = pilot[key]
        release = f"istiod-{revision}" if revision else "istiod"
        components.append(Component("Istiod", "istiod", release, namespace, control, _overlays(pilot)))
    for kind, title in (("ingressGateways", "Ingress gateways"), ("egressGateways", "Egress gateways")):
        enabled = [entry for entry in lists[kind] if _enabled(entry, False)]
        components += [_gateway(title, entry, values, namespace, revision, demo=profile == "demo") for entry in enabled]
        warnings += [
            one for entry in enabled for one in _dropped(f"components.{kind}[{entry['name']}]", entry, _GATEWAY)
        ]
    warnings += _dropped("components.pilot", parts.get("pilot") or {}, _PILOT)
    return Plan(profile, namespace, revision, components, warnings)


def _dropped(path: str, part: Mapping[str, Any], known: Container[str]) -> list[str]:
    return [f"{path}.k8s.{name}: this has no effect here" for name in part.get("k8s") or {} if name not in known]


def _by_name(profile: Object, given: Object, kind: str) -> list[Object]:
    """Gateways of the profile and of the user, those of one name merged; the first of the user's has none, often."""
    found: dict[str, Object] = {}
    default = "istio-ingressgateway" if kind == "ingressGateways" else "istio-egressgateway"
    for spec in (profile, given):
        for entry in (spec.get("components") or {}).get(kind) or ():
            merge_overwrite(found.setdefault(str(entry.get("name") or default), {"name": default}), entry)
    return list(found.values())


def _enabled(component: Mapping[str, Any] | None, default: bool) -> bool:
    return bool((component or {}).get("enabled", default))


def _overlays(component: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    return ((component or {}).get("k8s") or {}).get("overlays") or ()


_SAME = ("resources", "nodeSelector", "affinity", "tolerations", "podAnnotations", "topologySpreadConstraints")
_PILOT = {*_SAME, "serviceAnnotations", "replicaCount", "env", "hpaSpec", "podDisruptionBudget", "overlays"}
_GATEWAY = {*_SAME, "serviceAnnotations", "replicaCount", "env", "hpaSpec", "service", "strategy", "overlays"}
_GATEWAY |= {"imagePullPolicy"}
"""Fields of `k8s` that are taken over, for the control plane and for gateways."""


def _pilot(k8s: Mapping[str, Any]) -> Object:
    """Values of the chart istiod for the settings of components.pilot.k8s."""
    values: Object = {name: k8s[name] for name in (*_SAME, "serviceAnnotations", "replicaCount") if name in k8s}
    if "env" in k8s:
        values["env"] = {item["name"]: item["value"] for item in k8s["env"] if "value" in item}
        values["envVarFrom"] = [item for item in k8s["env"] if "value" not in item]
    scaling = k8s.get("hpaSpec") or {}
    for name, key in (
        ("minReplicas", "autoscaleMin"),
        ("maxReplicas", "autoscaleMax"),
        ("behavior", "autoscaleBehavior"),
    ):
        if name in scaling:
            values[key] = scaling[name]
    if "podDisruptionBudget" in k8s:
        values["pdb"] = k8s["podDisruptionBudget"]
    return values


def _gateway(
    title: str, entry: Object, values: Object, namespace: str, revision: str, *, demo: bool = False
) -> Component:
    """A gateway of an IstioOperator, with its k8s settings and the old `values.gateways.<name>`."""
    name, k8s = entry["name"], entry.get("k8s") or {}
    given: Object = {
        "name": name,
        "revision": revision,
        "labels": {"app": name, "istio": name.removeprefix("istio-"), **(entry.get("label") or {})},
        "service": {"type": "ClusterIP" if title.startswith("Egress") else "LoadBalancer"},
        "strategy": {"rollingUpdate": {"maxSurge": "100%", "maxUnavailable": "25%"}},
    }
    if demo:
        given["resources"] = {"requests": {"cpu": "10m", "memory": "40Mi"}}
    ports = _GATEWAY_PORTS.get(name, _GATEWAY_PORTS["istio-ingressgateway"])
    given["service"]["ports"] = [
        {"name": label, "port": port, "targetPort": target, "protocol": "TCP"} for label, port, target in ports
    ]
    merge_overwrite(given, _old_gateway((values.get("gateways") or {}).get(name) or {}))
    merge_overwrite(
        given, {key: k8s[key] for key in (*_SAME, "replicaCount", "strategy", "imagePullPolicy") if key in k8s}
    )
    if "service" in k8s:
        merge_overwrite(given["service"], {key: value for key, value in k8s["service"].items() if key != "selector"})
    if "serviceAnnotations" in k8s:
        given["service"]["annotations"] = k8s["serviceAnnotations"]
    if "env" in k8s:
        given["env"] = {item["name"]: item["value"] for item in k8s["env"] if "value" in item}
        given["envVarFrom"] = [item for item in k8s["env"] if "value" not in item]
    scaling = k8s.get("hpaSpec") or {}
    merge_overwrite(
        given, {"autoscaling": {key: scaling[key] for key in ("minReplicas", "maxReplicas") if key in scaling}}
    )
    place = str(entry.get("namespace") or namespace)
    return Component(title, "gateway", name, place, given, _overlays(entry))


_OLD = {
    "type": ("service", "type"),
    "ports": ("service", "ports"),
    "loadBalancerIP": ("service", "loadBalancerIP"),
    "loadBalancerSourceRanges": ("service", "loadBalancerSourceRanges"),
    "externalTrafficPolicy": ("service", "externalTrafficPolicy"),
    "serviceAnnotations": ("service", "annotations"),
    "ipFamilies": ("service", "ipFamilies"),
    "ipFamilyPolicy": ("service", "ipFamilyPolicy"),
    "autoscaleEnabled": ("autoscaling", "enabled"),
    "autoscaleMin": ("autoscaling", "minReplicas"),
    "autoscaleMax": ("autoscaling", "maxReplicas"),
}


def _old_gateway(values: Mapping[str, Any]) -> Object:
    """`values.gateways.istio-ingressgateway` of an IstioOperator, as values of the gateway chart."""
    result: Object = {}
    for name, value in values.items():
        if name in _OLD:
            section, key = _OLD[name]
            result.setdefault(section, {})[key] = value
        elif name in {*_SAME, "env", "labels", "name", "replicaCount", "podAnnotations"}:
            result[name] = value
    return result


def _lay_over(objects: list[Object], overlay: Mapping[str, Any], namespace: str) -> None:
    """Apply `{kind, name, patches: [{path, value}]}` to the object it names."""
    kind, name = overlay.get("kind"), overlay.get("name")
    found = [obj for obj in objects if obj["kind"] == kind and obj["metadata"]["name"] == name]
    if not found:
        there = ", ".join(f"{obj['kind']}/{obj['metadata']['name']}" for obj in objects if obj["kind"] == kind)
        raise UserError(
            f"overlay for {kind}/{name} in {namespace}: there is no such object; there is {there or 'none'}"
        )
    for patch in overlay.get("patches") or ():
        paths.assign(found[0], str(patch.get("path", "")), deepcopy(patch.get("value")))
