"""What a server warns of in a pod or template it accepts; the wording is what clients print."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pilotfish.local.apiserver.quantity import parse
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.pod_validation import all_containers

_NODE_LABELS = {
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
    "beta.kubernetes.io/instance-type": "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/os": "kubernetes.io/os",
    "beta.kubernetes.io/arch": "kubernetes.io/arch",
}
_NODE_LABEL_TEXTS = {
    "app.kubernetes.io/created-by": "deprecated since v1.9",
    "scheduler.alpha.kubernetes.io/preferAvoidPods": "deprecated since v1.22; use Taints and Tolerations instead",
    "node-role.kubernetes.io/master": 'use "node-role.kubernetes.io/control-plane" instead',
}
_SINCE = {
    **dict.fromkeys(list(_NODE_LABELS)[:3], "v1.17"),
    **dict.fromkeys(list(_NODE_LABELS)[3:], "v1.14"),
}
_ANNOTATIONS = {
    "scheduler.alpha.kubernetes.io/critical-pod": 'non-functional in v1.16+; use the "priorityClassName" field instead',
    "security.alpha.kubernetes.io/sysctls": 'non-functional in v1.11+; use the "sysctls" field instead',
    "security.alpha.kubernetes.io/unsafe-sysctls": 'non-functional in v1.11+; use the "sysctls" field instead',
}
_VOLUMES = {
    "photonPersistentDisk": ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    "gitRepo": ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    "scaleIO": ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    "flocker": ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    "storageos": ("storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    "quobyte": ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    "glusterfs": ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    "cephfs": ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    "rbd": ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
}
_SECCOMP = "seccomp.security.alpha.kubernetes.io/pod"
_SECCOMP_CONTAINER = "container.seccomp.security.alpha.kubernetes.io/"
_NO_SELECTOR = "a null labelSelector results in matching no pod"


def node_label(key: str) -> str:
    """Why a node label should not be used any more; empty when it may."""
    if key in _NODE_LABELS:
        return f'deprecated since {_SINCE[key]}; use "{_NODE_LABELS[key]}" instead'
    return _NODE_LABEL_TEXTS.get(key, "")


def pod(path: str, meta: dict[str, Any], spec: dict[str, Any]) -> list[str]:
    """Warnings about a pod (`path` is empty) or a template at `path`."""
    prefix = f"{path}." if path else ""
    where = f"{prefix}spec"
    annotations = meta.get("annotations") or {}
    found = list(_scheduling(where, spec))
    found += [
        f"{prefix}metadata.annotations[{key}]: {text}" for key, text in _ANNOTATIONS.items() if key in annotations
    ]
    for i, volume in enumerate(spec.get("volumes") or []):
        found += [f"{where}.volumes[{i}].{shown}: {text}" for kind, (shown, text) in _VOLUMES.items() if kind in volume]
    found += _twice(f"{where}.hostAliases", spec.get("hostAliases") or [], "ip")
    found += _twice(f"{where}.imagePullSecrets", spec.get("imagePullSecrets") or [], "name")
    for i, secret in enumerate(spec.get("imagePullSecrets") or []):
        if not secret.get("name"):
            found.append(f'{where}.imagePullSecrets[{i}].name: invalid empty name ""')
    found += _fractions(f"{where}.overhead", spec.get("overhead"))
    if _SECCOMP in annotations and not (spec.get("securityContext") or {}).get("seccompProfile"):
        text = 'non-functional in v1.27+; use the "seccompProfile" field instead'
        found.append(f"{prefix}metadata.annotations[{_SECCOMP}]: {text}")
    for at, container in all_containers(where, spec):
        found += _container(at, container, annotations, prefix)
    found += _ports(where, spec)
    if spec.get("terminationGracePeriodSeconds", 0) < 0:
        text = "must be >= 0; negative values are invalid and will be treated as 1"
        found.append(f"{where}.terminationGracePeriodSeconds: {text}")
    return found + list(_affinity(where, spec)) + list(_addresses(where, spec))


def _scheduling(path: str, spec: dict[str, Any]) -> Iterator[str]:
    for key in spec.get("nodeSelector") or {}:
        if text := node_label(key):
            yield f"{path}.nodeSelector[{key}]: {text}"
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    at = f"{path}.affinity.nodeAffinity"
    for i, term in enumerate((affinity.get(required) or {}).get("nodeSelectorTerms") or []):
        yield from node_selector_term(f"{at}.{required}.nodeSelectorTerms[{i}]", term, values=False)
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    for i, term in enumerate(affinity.get(preferred) or []):
        yield from node_selector_term(f"{at}.{preferred}[{i}].preference", term.get("preference") or {}, values=True)
    for i, constraint in enumerate(spec.get("topologySpreadConstraints") or []):
        key = constraint.get("topologyKey", "")
        if text := node_label(key):
            yield f"{path}.topologySpreadConstraints[{i}].topologyKey: {key} is {text}"
        if constraint.get("labelSelector") is None:
            yield f"{path}.topologySpreadConstraints[{i}].labelSelector: {_NO_SELECTOR}"


def node_selector_term(path: str, term: dict[str, Any], *, values: bool) -> Iterator[str]:
    for i, requirement in enumerate(term.get("matchExpressions") or []):
        key = requirement.get("key", "")
        if text := node_label(key):
            yield f"{path}.matchExpressions[{i}].key: {key} is {text}"
        for j, value in enumerate((requirement.get("values") or []) if values else []):
            for wrong in v.label_value(value):
                yield f"{path}.matchExpressions[{i}].values[{j}]: {value} is invalid, {wrong}"


def _twice(path: str, items: list[dict[str, Any]], field: str) -> Iterator[str]:
    seen: set[str] = set()
    for i, item in enumerate(items):
        value = item.get(field, "")
        if value in seen:
            yield f'{path}[{i}].{field}: duplicate {field} "{value}"'
        seen.add(value)


def _fractions(path: str, amounts: dict[str, str] | None) -> Iterator[str]:
    for name in ("memory", "ephemeral-storage"):
        value = (amounts or {}).get(name)
        if value is not None and parse(value) % 1:
            yield f'{path}[{name}]: fractional byte value "{value}" is invalid, must be an integer'


def _container(path: str, container: dict[str, Any], annotations: dict[str, str], prefix: str) -> Iterator[str]:
    context = container.get("securityContext") or {}
    key = _SECCOMP_CONTAINER + container.get("name", "")
    if key in annotations and not context.get("seccompProfile"):
        text = 'non-functional in v1.27+; use the "seccompProfile" field instead'
        yield f"{prefix}metadata.annotations[{key}]: {text}"
    resources = container.get("resources") or {}
    yield from _fractions(f"{path}.resources.limits", resources.get("limits"))
    yield from _fractions(f"{path}.resources.requests", resources.get("requests"))
    seen: set[str] = set()
    for i, variable in enumerate(container.get("env") or []):
        name, value = variable.get("name", ""), variable.get("value", "")
        reference = f"$({name})"
        if name in seen and ("valueFrom" in variable or value == reference or reference not in value):
            yield f'{path}.env[{i}]: hides previous definition of "{name}", which may be dropped when using apply'
        seen.add(name)


def _ports(path: str, spec: dict[str, Any]) -> Iterator[str]:
    by_number: dict[tuple[int, str], list[tuple[str, dict[str, Any]]]] = {}
    names: dict[str, str] = {}
    renamed: list[str] = []
    for at, container in all_containers(path, spec):
        for i, port in enumerate(container.get("ports") or []):
            where = f"{at}.ports[{i}]"
            others = by_number.setdefault((port.get("containerPort", 0), port.get("protocol", "")), [])
            for other_at, other in others:
                if text := _clash(port, other):
                    yield f"{where}: {text} port definition with {other_at}"
            others.append((where, port))
            name = port.get("name")
            if not name:
                continue
            if name in names:
                renamed.append(
                    f'{where}: duplicate port name "{name}" with {names[name]}, '
                    f"services and probes that select ports by name will use {names[name]}"
                )
            names.setdefault(name, where)
    yield from renamed


def _clash(port: dict[str, Any], other: dict[str, Any]) -> str:
    ip, other_ip = port.get("hostIP", ""), other.get("hostIP", "")
    number, other_number = port.get("hostPort", 0), other.get("hostPort", 0)
    if (ip, number) == (other_ip, other_number):
        return "duplicate"
    if not number or not other_number:
        return "overlapping"
    if number == other_number and bool(ip) != bool(other_ip):
        return "dangerously ambiguous"
    return ""


def _affinity(path: str, spec: dict[str, Any]) -> Iterator[str]:
    for kind in ("podAffinity", "podAntiAffinity"):
        found = (spec.get("affinity") or {}).get(kind) or {}
        at = f"{path}.affinity.{kind}"
        required, preferred = (
            "requiredDuringSchedulingIgnoredDuringExecution",
            "preferredDuringSchedulingIgnoredDuringExecution",
        )
        for i, term in enumerate(found.get(required) or []):
            if term.get("labelSelector") is None:
                yield f"{at}.{required}[{i}].labelSelector: {_NO_SELECTOR}"
        for i, term in enumerate(found.get(preferred) or []):
            if (term.get("podAffinityTerm") or {}).get("labelSelector") is None:
                yield f"{at}.{preferred}[{i}].podAffinityTerm.labelSelector: {_NO_SELECTOR}"


def _addresses(path: str, spec: dict[str, Any]) -> Iterator[str]:
    for i, server in enumerate((spec.get("dnsConfig") or {}).get("nameservers") or []):
        yield from ip(f"{path}.dnsConfig.nameservers[{i}]", server)
    for i, alias in enumerate(spec.get("hostAliases") or []):
        yield from ip(f"{path}.hostAliases[{i}].ip", alias.get("ip", ""))


def ip(path: str, value: str) -> list[str]:
    """An IPv6 address that is not written in the canonical way."""
    address = v.parse_ip(value)
    if address is None or ":" not in value or str(address) == value:
        return []
    return [f'{path}: IPv6 address "{value}" should be in RFC 5952 canonical format ("{address}")']


def cidr(path: str, value: str) -> list[str]:
    """An IPv6 range that is not written in the canonical way."""
    network = v.parse_cidr(value)
    if network is None or ":" not in value or str(network) == value:
        return []
    return [f'{path}: IPv6 CIDR value "{value}" should be in RFC 5952 canonical format ("{network}")']
