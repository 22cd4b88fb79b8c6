"""Putting it together: templates over the pod, the user's own containers over them, then what follows from both."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pilotfish.inject import probes, prometheus
from pilotfish.inject.annotations import SIDECAR
from pilotfish.inject.context import NETWORK, PROXY, Context, Object
from pilotfish.inject.errors import InjectionError
from pilotfish.inject.gateway import gateway
from pilotfish.inject.merge import lay
from pilotfish.inject.openshift import without_shared_user
from pilotfish.inject.sidecar import INIT, VALIDATION, sidecar

BUILT_IN: Mapping[str, Callable[[Context], Object]] = {"sidecar": sidecar, "gateway": gateway}
STATUS = f"{SIDECAR}status"
OVERRIDES = "proxy.istio.io/overrides"
AUTO = "auto"
_FIELDS = ("containers", "initContainers")


def inject(context: Context) -> Object:
    """The injected pod; the given one is not changed. Raises InjectionError.

    A pod that was injected before is injected anew: what was added then is taken away first.
    """
    context.annotations.check()
    pod: Object = copy.deepcopy(dict(context.pod))
    if context.openshift is not None:
        pod = without_shared_user(pod)
    for part in ("metadata", "spec"):
        pod[part] = pod.get(part) or {}
    before, overrides = _added_before(context), _overrides(context)
    seen = replace(context, pod=_stripped(pod, before, overrides, context.status_port))
    merged, added = _run(seen, pod)
    merged = _reapply(merged, pod, added, before, overrides)
    _own_user(context, merged, pod)
    metadata = merged.setdefault("metadata", {})
    for part in ("annotations", "labels"):
        metadata[part] = metadata.get(part) or {}
    _follow(context, merged, again=STATUS in (pod["metadata"].get("annotations") or {}))
    if network := context.placement.get("ISTIO_META_NETWORK"):
        metadata["labels"][NETWORK] = network
    metadata["annotations"][STATUS] = _status(context, added["spec"])
    metadata["annotations"].update(context.settings.injected_annotations)
    _order(context, merged["spec"])
    return merged


# ------------------------------------------------------------------------------ what was there before


def _added_before(context: Context) -> Mapping[str, Any]:
    """Names of containers by field that an earlier injection added; empty for a new pod."""
    try:
        found = json.loads(context.annotations.text(STATUS) or "{}")
    except ValueError:
        return {}
    return {field: found.get(field) or [] for field in _FIELDS} if isinstance(found, dict) and found else {}


def _overrides(context: Context) -> Mapping[str, list[Object]]:
    """The user's own containers as they were before an earlier injection."""
    if not context.annotations.has(OVERRIDES):
        return {}
    found: dict[str, list[Object]] = context.annotations.json(OVERRIDES, dict)
    return found


def _stripped(
    pod: Object, before: Mapping[str, Any], overrides: Mapping[str, list[Object]], status_port: int
) -> Object:
    """The pod as templates see it: as the user wrote it, without what an earlier injection added."""
    found = copy.deepcopy(pod)
    if before:
        for field in _FIELDS:
            if kept := [one for one in found["spec"].get(field) or () if one["name"] not in before[field]]:
                found["spec"][field] = kept
            else:
                found["spec"].pop(field, None)
        annotations = found["metadata"].get("annotations") or {}
        prometheus.clear(annotations, status_port)
        annotations.pop(STATUS, None)
    for field in _FIELDS:
        present = {one["name"] for one in found["spec"].get(field) or ()}
        if missing := [one for one in overrides.get(field) or () if one["name"] not in present]:
            found["spec"].setdefault(field, []).extend(copy.deepcopy(missing))
    return found


# ------------------------------------------------------------------------------ merging


def _run(context: Context, pod: Object) -> tuple[Object, Object]:
    """The pod with all templates over it, and what the templates alone come to."""
    settings = context.settings
    merged: Object = pod
    added: Object = {"metadata": {}, "spec": {}}
    for name in settings.chosen(context.annotations.text("inject.istio.io/templates")):
        over = settings.templates.overlay(name, context) if name in settings.templates else BUILT_IN[name](context)
        added = lay(added, over)
        if context.native and _find(added["spec"], "initContainers", PROXY):
            merged = _moved(merged)
        merged = lay(merged, over)
    return merged, added


def _moved(pod: Object) -> Object:
    """The user's own container `istio-proxy` stands where the template's stands."""
    own = _find(pod["spec"], "containers", PROXY)
    if own is None:
        return pod
    spec = dict(pod["spec"])
    spec["containers"] = [one for one in spec["containers"] if one is not own]
    spec["initContainers"] = [*(spec.get("initContainers") or ()), own]
    return {**pod, "spec": spec}


def _find(spec: Mapping[str, Any], field: str, name: str) -> Object | None:
    return next((one for one in spec.get(field) or () if one.get("name") == name), None)


def _proxy_of(pod: Mapping[str, Any]) -> Object | None:
    return _find(pod["spec"], "containers", PROXY) or _find(pod["spec"], "initContainers", PROXY)


def _reapply(
    merged: Object, pod: Object, added: Object, before: Mapping[str, Any], overrides: Mapping[str, list[Object]]
) -> Object:
    """What the user says of a container that a template brings holds: it is laid over once more.

    It is also kept in an annotation, so that a later injection finds it.
    """
    said: dict[str, list[Object]] = {}
    for field in _FIELDS:
        for name in [one["name"] for one in added["spec"].get(field) or ()]:
            if name in before.get(field, ()):
                continue
            own = _find(overrides, field, name) or _find(pod["spec"], field, name)
            if own is None and field == "initContainers":
                own = _find(pod["spec"], "containers", name)
            if own is None:
                continue
            own = {key: value for key, value in own.items() if not (key == "image" and value == AUTO)}
            said.setdefault(field, []).append(own)
            over = {key: value for key, value in own.items() if value not in (None, [], {})}
            merged = _with_handlers(lay(merged, {"spec": {field: [over]}}), field, own)
    for container in merged["spec"].get("containers") or ():
        if container.get("name") == PROXY and container.get("image") == AUTO:
            raise InjectionError("container istio-proxy has image auto, but no template of this pod makes a proxy")
    if said and not before:
        metadata = {**merged["metadata"]}
        text = json.dumps(said, separators=(",", ":"))
        metadata["annotations"] = {**(metadata.get("annotations") or {}), OVERRIDES: text}
        merged = {**merged, "metadata": metadata}
    return merged


def _with_handlers(pod: Object, field: str, own: Mapping[str, Any]) -> Object:
    """A probe has one handler: the user's replaces the template's."""
    pod = copy.deepcopy(pod)
    container = _find(pod["spec"], field, own["name"]) or {}
    kinds = {"exec", "httpGet", "tcpSocket", "grpc"}
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        chosen = kinds & set(own.get(probe) or ())
        for kind in kinds - chosen if chosen else ():
            container[probe].pop(kind, None)
    return pod


def _own_user(context: Context, merged: Object, pod: Object) -> None:
    """Where the user's own `istio-proxy` runs as another user, the capture rules have to know."""
    security = ((_proxy_of(pod) or {}).get("securityContext")) or {}
    user, group = security.get("runAsUser"), security.get("runAsGroup")
    init = _find(merged["spec"], "initContainers", INIT) or _find(merged["spec"], "initContainers", VALIDATION)
    if init is None or (user is None and group is None):
        return
    proxy = _proxy_of(merged)
    if context.mode == "TPROXY":
        if user is not None and proxy is not None:
            proxy["securityContext"]["runAsUser"] = 0
    elif init["name"] == VALIDATION:
        given = {"runAsUser": user, "runAsGroup": group}
        init.setdefault("securityContext", {}).update({key: one for key, one in given.items() if one is not None})
    arguments = init.get("args") or []
    if user and "-u" in arguments:
        arguments[arguments.index("-u") + 1] = str(user)


# ------------------------------------------------------------------------------ what follows


def _follow(context: Context, pod: Object, *, again: bool) -> None:
    """Metrics, probes and the place of the proxy, as far as the pod has one."""
    spec, annotations, proxy = pod["spec"], pod["metadata"]["annotations"], _proxy_of(pod)
    env: list[Object] = []
    if proxy is not None:
        placed = context.placement
        env = [one for one in proxy.get("env") or () if one.get("name") not in placed]
        env += [{"name": name, "value": value} for name, value in sorted(placed.items())]
        proxy["env"] = env
    if prometheus.wanted(annotations, context.mesh):
        scrape = prometheus.merge(annotations, context.status_port)
        if scrape and proxy is not None:
            env.append({"name": "ISTIO_PROMETHEUS_ANNOTATIONS", "value": scrape})
    if proxy is None:
        return
    secure = next((str(one.get("value") or "") for one in env if one.get("name") == prometheus.SECURE), "")
    prometheus.secure_port(annotations, secure)
    webhook = context.settings.values.get("sidecarInjectorWebhook") or {}
    given = annotations.get(f"{SIDECAR}rewriteAppHTTPProbers", "").lower()
    if given in ("true", "t", "1") or (given == "" and webhook.get("rewriteAppHTTPProbe") is not False):
        everyone = (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))
        applications = (one for one in everyone if one["name"] != PROXY)
        own_port = context.annotations.text("status.sidecar.istio.io/port")
        port = context.status_port if own_port == "" else context.probed_port
        taken = probes.rewrite(applications, port, context.status_port)
        probes.remember(env, taken, again=again)


def _status(context: Context, added: Mapping[str, Any]) -> str:
    def names(field: str) -> list[str] | None:
        return [one["name"] for one in added.get(field) or ()] or None

    status = {field: names(field) for field in ("initContainers", "containers", "volumes", "imagePullSecrets")}
    return json.dumps({**status, "revision": context.settings.revision}, separators=(",", ":"))


def _order(context: Context, spec: Object) -> None:
    """The proxy comes last, or first where the application waits for it. A native one comes first after the capture
    rules; else these come last, so that other init containers still reach the network."""

    def place(field: str, name: str, *, first: bool) -> None:
        listed = spec.get(field) or []
        if found := [one for one in listed if one["name"] == name]:
            rest = [one for one in listed if one["name"] != name]
            spec[field] = found + rest if first else rest + found

    place("containers", PROXY, first=context.holds)
    native = _find(spec, "initContainers", PROXY) is not None
    place("initContainers", PROXY, first=True)
    place("initContainers", VALIDATION, first=True)
    place("initContainers", INIT, first=native)
