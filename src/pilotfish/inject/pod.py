"""Putting it together: templates, the user's own container `istio-proxy` over them, then what follows from both."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

from pilotfish.inject import probes, prometheus
from pilotfish.inject.annotations import SIDECAR
from pilotfish.inject.context import Context, Object
from pilotfish.inject.errors import InjectionError
from pilotfish.inject.gateway import gateway
from pilotfish.inject.sidecar import INIT, PROXY, VALIDATION, holds, native, sidecar
from pilotfish.inject.workload import canonical_labels

TEMPLATES: Mapping[str, Callable[[Context], Object]] = {"sidecar": sidecar, "gateway": gateway}
STATUS = f"{SIDECAR}status"
TLS_MODE = "security.istio.io/tlsMode"
AUTO = "auto"


def inject(context: Context) -> Object:
    """The injected pod; the given one is not changed. Raises InjectionError. Injecting twice changes nothing."""
    pod: Object = copy.deepcopy(dict(context.pod))
    metadata, spec = pod.setdefault("metadata", {}), pod.setdefault("spec", {})
    if STATUS in (metadata.get("annotations") or {}):
        return pod
    names = context.settings.templates(context.annotations.text("inject.istio.io/templates"))
    own = _take(spec, PROXY)
    before = _names(spec)
    for name in names:
        _merge_spec(spec, TEMPLATES[name](context)["spec"])
    if own is not None:
        _override(spec, own)
    _user_volumes(context, spec)
    is_sidecar = "sidecar" in names
    _place_proxy(context, spec, first=is_sidecar and holds(context) and not native(context))
    annotations: dict[str, str] = metadata.setdefault("annotations", {})
    labels: dict[str, str] = metadata.setdefault("labels", {})
    _labels(context, labels)
    if is_sidecar:
        labels.setdefault(TLS_MODE, "istio")  # not for gateways: their ports are what their Gateways say
        _metrics_and_probes(context, spec, annotations)
    _annotations(context, spec, annotations, before)
    return pod


# ------------------------------------------------------------------------------ merging


def _take(spec: Object, name: str) -> Object | None:
    """Remove the user's own container of that name, wherever it stands."""
    for field in ("containers", "initContainers"):
        for container in spec.get(field) or ():
            if container.get("name") == name:
                spec[field].remove(container)
                found: Object = container
                return found
    return None


def _names(spec: Object) -> dict[str, set[str]]:
    return {
        field: {one["name"] for one in spec.get(field) or ()} for field in ("containers", "initContainers", "volumes")
    }


def _merge_spec(spec: Object, template: Object) -> None:
    """Containers and volumes by name: what the template brings is added; what is there already keeps its fields."""
    for field, value in template.items():
        if field == "containers":
            _add(spec.setdefault(field, []), value)
        elif field == "initContainers":
            present = spec.setdefault(field, [])
            added: list[Object] = []
            _add(added, [one for one in value if one["name"] not in {item["name"] for item in present}])
            # Capture rules come first: whatever runs after them goes through the proxy.
            spec[field] = added + present
        elif field == "volumes":
            _add(spec.setdefault(field, []), value)
        elif isinstance(value, dict):
            spec[field] = overlay(value, spec.get(field) or {})
        else:
            spec.setdefault(field, value)


def _add(present: list[Object], new: list[Object]) -> None:
    known = {one["name"] for one in present}
    present.extend(one for one in new if one["name"] not in known)


_KEYS = {"env": "name", "volumeMounts": "mountPath", "ports": "containerPort", "sysctls": "name"}


def overlay(base: Any, over: Any, field: str = "") -> Any:
    """`over` on `base` by the merge keys of a pod; lists without a key are replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        merged = dict(base)
        for key, value in over.items():
            merged[key] = overlay(base[key], value, key) if key in base else copy.deepcopy(value)
        return merged
    key = _KEYS.get(field)
    if key and isinstance(base, list) and isinstance(over, list):
        listed = {one.get(key): one for one in base}
        for one in over:
            listed[one.get(key)] = overlay(listed[one.get(key)], one) if one.get(key) in listed else one
        return list(listed.values())
    return copy.deepcopy(over)


def _override(spec: Object, own: Object) -> None:
    """The user's container `istio-proxy` is a layer over the template's, except for `image: auto`."""
    layer = {key: value for key, value in own.items() if not (key == "image" and value == AUTO)}
    if layer.get("args") == []:
        del layer["args"]
    for field in ("containers", "initContainers"):
        for at, container in enumerate(spec.get(field) or ()):
            if container["name"] == PROXY:
                spec[field][at] = _exclusive(overlay(container, layer), layer)
                return
    if own.get("image") == AUTO:
        raise InjectionError("container istio-proxy has image auto, but no template of this pod makes a proxy")
    spec.setdefault("containers", []).append(own)


def _exclusive(container: Object, layer: Object) -> Object:
    """A probe has one handler: the user's replaces the template's."""
    for field in ("readinessProbe", "livenessProbe", "startupProbe"):
        chosen = [kind for kind in ("exec", "httpGet", "tcpSocket", "grpc") if kind in (layer.get(field) or {})]
        if chosen:
            for kind in ("exec", "httpGet", "tcpSocket", "grpc"):
                if kind not in chosen:
                    container[field].pop(kind, None)
    return container


_VOLUME_FIELDS = (
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "hostPath",
    "persistentVolumeClaim",
    "projected",
    "secret",
)
_MOUNT_FIELDS = ("mountPath", "mountPropagation", "readOnly", "subPath", "subPathExpr")


def _user_volumes(context: Context, spec: Object) -> None:
    _add(spec.setdefault("volumes", []), context.annotations.named(f"{SIDECAR}userVolume", _VOLUME_FIELDS))
    mounts = context.annotations.named(f"{SIDECAR}userVolumeMount", _MOUNT_FIELDS)
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        if container["name"] == PROXY and mounts:
            container.setdefault("volumeMounts", []).extend(mounts)


def _place_proxy(context: Context, spec: Object, *, first: bool) -> None:
    containers = spec.get("containers") or []
    proxy = next((one for one in containers if one["name"] == PROXY), None)
    if proxy is not None:
        containers.remove(proxy)
        containers.insert(0 if first else len(containers), proxy)
    for secret in context.settings.globals.get("imagePullSecrets") or ():
        listed = spec.setdefault("imagePullSecrets", [])
        if {"name": secret} not in listed:
            listed.append({"name": secret})


# ------------------------------------------------------------------------------ what follows


def _labels(context: Context, labels: dict[str, str]) -> None:
    for name, value in canonical_labels(labels, context.workload).items():
        labels.setdefault(name, value)
    network = context.settings.globals.get("network")
    if network:
        labels.setdefault("topology.istio.io/network", str(network))


def _metrics_and_probes(context: Context, spec: Object, annotations: dict[str, str]) -> None:
    proxy = next(
        (one for one in (*spec.get("containers", ()), *spec.get("initContainers", ())) if one["name"] == PROXY), None
    )
    if proxy is None:
        return
    merging = context.mesh.get("enablePrometheusMerge", True)
    if scrape := prometheus.merge(annotations, context.status_port, enabled=merging is not False):
        proxy["env"].append({"name": "ISTIO_PROMETHEUS_ANNOTATIONS", "value": scrape})
    webhook = context.settings.values.get("sidecarInjectorWebhook") or {}
    wanted = context.annotations.boolean(
        f"{SIDECAR}rewriteAppHTTPProbers", webhook.get("rewriteAppHTTPProbe") is not False
    )
    if wanted and context.status_port:
        own = {INIT, VALIDATION, PROXY}
        apps = [
            one
            for one in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
            if one["name"] not in own
        ]
        if taken := probes.rewrite(apps, context.status_port):
            proxy["env"].append({"name": "ISTIO_KUBE_APP_PROBERS", "value": taken})


def _annotations(context: Context, spec: Object, annotations: dict[str, str], before: dict[str, set[str]]) -> None:
    annotations.setdefault("istio.io/rev", context.settings.revision)
    first = next((one["name"] for one in spec.get("containers") or () if one["name"] != PROXY), "")
    if first:
        annotations.setdefault("kubectl.kubernetes.io/default-container", first)
        annotations.setdefault("kubectl.kubernetes.io/default-logs-container", first)
    for name, value in context.settings.injected_annotations.items():
        annotations.setdefault(name, value)
    added = {
        field: [one["name"] for one in spec.get(field) or () if one["name"] not in known]
        for field, known in before.items()
    }
    status = {
        "initContainers": added["initContainers"] or None,
        "containers": added["containers"],
        "volumes": added["volumes"],
        "imagePullSecrets": list(context.settings.globals.get("imagePullSecrets") or ()) or None,
        "revision": context.settings.revision,
    }
    annotations[STATUS] = json.dumps(status, separators=(",", ":"))
