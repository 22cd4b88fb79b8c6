"""What a pod gets that its author left out, as Kubernetes 1.36 fills it in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import ROUND_UP, Decimal
from typing import Any

from pilotfish.local.apiserver.quantity import canonical, parse

Spec = dict[str, Any]
Container = dict[str, Any]

_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_HOOKS = ("postStart", "preStop")
_MODE = 0o644
_FILES = ("secret", "configMap", "downwardAPI", "projected")
"""Volume sources whose files have a default mode."""
_POD_LEVEL = ("cpu", "memory")
_REPOSITORY = re.compile(r"(?:[A-Za-z0-9.:\[\]-]+/)?[a-z0-9]+(?:(?:\.|_|__|-+|/)[a-z0-9]+)*")


def containers(spec: Spec, *, ephemeral: bool = True) -> Iterator[Container]:
    yield from spec.get("initContainers") or ()
    yield from spec.get("containers") or ()
    if ephemeral:
        yield from spec.get("ephemeralContainers") or ()


def image_is_latest(image: str) -> bool:
    """Whether a well-formed image name has the tag `latest`, or neither tag nor digest."""
    name, _, digest = image.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = name, ""
    if not _REPOSITORY.fullmatch(repository):
        return False
    return tag == "latest" or (not tag and not digest)


def pull_policy(image: str) -> str:
    return "Always" if image_is_latest(image) else "IfNotPresent"


def round_up(resources: dict[str, str] | None) -> None:
    """Amounts of resources are kept to thousandths."""
    for name, amount in (resources or {}).items():
        thousandths = parse(amount) * 1000
        if thousandths % 1:
            resources[name] = canonical(f"{thousandths.quantize(Decimal(1), ROUND_UP)}m")  # type: ignore[index]  # not None: it has items


def template(spec: Spec) -> None:
    """The defaults that pods and templates of pods share."""
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("securityContext", {})
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("schedulerName", "default-scheduler")
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    for volume in spec.get("volumes") or ():
        _volume(volume)
    for container in containers(spec):
        _container(container)
    round_up(spec.get("overhead"))
    _round_requirements(spec.get("resources"))


def pod(spec: Spec) -> None:
    """The defaults of pods alone, after those of `template`."""
    for container in containers(spec, ephemeral=False):
        requirements = container.get("resources") or {}
        if limits := requirements.get("limits"):
            requests = requirements.setdefault("requests", {})
            for name, amount in limits.items():
                requests.setdefault(name, amount)
    _pod_requests(spec)
    spec.setdefault("enableServiceLinks", True)
    if spec.get("terminationGracePeriodSeconds", 0) < 0:
        spec["terminationGracePeriodSeconds"] = 1
    if spec.get("hostNetwork"):
        _host_ports(spec)


def _host_ports(spec: Spec) -> None:
    """On the host's network a container port is a host port."""
    for container in containers(spec, ephemeral=False):
        for port in container.get("ports") or ():
            if not port.get("hostPort"):
                port["hostPort"] = port.get("containerPort", 0)


def _round_requirements(requirements: dict[str, Any] | None) -> None:
    if requirements:
        round_up(requirements.get("limits"))
        round_up(requirements.get("requests"))


def _container(container: Container) -> None:
    if not container.get("imagePullPolicy"):
        container["imagePullPolicy"] = pull_policy(container.get("image", ""))
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    _round_requirements(container.get("resources"))
    for variable in container.get("env") or ():
        if source := variable.get("valueFrom"):
            _field_references(source)
    for name in _PROBES:
        probe = container.get(name)
        if probe is not None:
            _probe(probe)
    lifecycle = container.get("lifecycle") or {}
    lifecycle.pop("stopSignal", None)  # a feature that is off in Kubernetes 1.36 unless asked for
    for name in _HOOKS:
        _handler(lifecycle.get(name) or {})


def _probe(probe: dict[str, Any]) -> None:
    for name, value in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        if not probe.get(name):
            probe[name] = value
    _handler(probe)


def _handler(handler: dict[str, Any]) -> None:
    http = handler.get("httpGet")
    if http is not None:
        http.setdefault("path", "/")
        http.setdefault("scheme", "HTTP")


def _field_references(source: dict[str, Any]) -> None:
    if (field := source.get("fieldRef")) is not None:
        field.setdefault("apiVersion", "v1")
    if (amount := source.get("resourceFieldRef")) is not None:
        amount.setdefault("divisor", "0")


def _volume(volume: dict[str, Any]) -> None:
    if len(volume.keys() - {"name"}) == 0:
        volume["emptyDir"] = {}
        return
    for name in _FILES:
        if (source := volume.get(name)) is not None:
            source.setdefault("defaultMode", _MODE)
    if (host := volume.get("hostPath")) is not None:
        host.setdefault("type", "")
    for item in (volume.get("downwardAPI") or {}).get("items") or ():
        _field_references(item)
    for source in (volume.get("projected") or {}).get("sources") or ():
        for item in (source.get("downwardAPI") or {}).get("items") or ():
            _field_references(item)
        if (token := source.get("serviceAccountToken")) is not None:
            token.setdefault("expirationSeconds", 3600)
    if (image := volume.get("image")) is not None:
        image.setdefault("pullPolicy", pull_policy(image.get("reference", "")))
    if (ephemeral := volume.get("ephemeral")) and (claim := ephemeral.get("volumeClaimTemplate")):
        claim.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")


def _pod_requests(spec: Spec) -> None:
    """Requests of a pod that has limits as a whole: the sum of its containers' requests, else the limit."""
    resources = spec.get("resources") or {}
    if resources.get("limits") or resources.get("requests"):
        for name, amount in requests_of(spec, "limits").items():
            if name.startswith("hugepages-") and name not in (resources.get("requests") or {}):
                resources.setdefault("limits", {}).setdefault(name, amount)
    limits = resources.get("limits")
    if not limits:
        return
    requests = resources.setdefault("requests", {})
    for name, amount in requests_of(spec).items():
        if name in _POD_LEVEL:
            requests.setdefault(name, amount)
    for name, amount in limits.items():
        if name in _POD_LEVEL or name.startswith("hugepages-"):
            requests.setdefault(name, amount)


def requests_of(spec: Spec, what: str = "requests") -> dict[str, str]:
    """The containers' requests (or limits) together: those that run at once add up, init containers go one by one."""
    running: dict[str, Decimal] = {}
    sidecars: dict[str, Decimal] = {}
    highest: dict[str, Decimal] = {}
    for container in spec.get("containers") or ():
        for name, amount in ((container.get("resources") or {}).get(what) or {}).items():
            running[name] = running.get(name, Decimal(0)) + parse(amount)
    for container in spec.get("initContainers") or ():
        own = {n: parse(a) for n, a in ((container.get("resources") or {}).get(what) or {}).items()}
        if container.get("restartPolicy") == "Always":
            for name, value in own.items():
                running[name] = running.get(name, Decimal(0)) + value
                sidecars[name] = sidecars.get(name, Decimal(0)) + value
            own = dict(sidecars)
        else:
            own = {n: own.get(n, Decimal(0)) + sidecars.get(n, Decimal(0)) for n in own.keys() | sidecars.keys()}
        for name, value in own.items():
            highest[name] = max(highest.get(name, Decimal(0)), value)
    total = {name: max(running.get(name, Decimal(0)), highest.get(name, Decimal(0))) for name in running | highest}
    return {name: canonical(f"{value:f}") for name, value in total.items()}
