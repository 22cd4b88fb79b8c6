"""The environment of a container, from its image, its pod and what they refer to."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pilotfish.local.node import fields

Object = Mapping[str, Any]
Lookup = Callable[[str], Object | None]
"""Finds a ConfigMap or Secret of the pod's namespace by name."""

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REFERENCE = re.compile(r"\$(\$|\(([^)]*)\))")


class EnvError(ValueError):
    """Something the environment refers to does not exist (yet); the text is fit for CreateContainerConfigError."""


def expand(text: str, values: Mapping[str, str]) -> str:
    """`$(NAME)` becomes the value if there is one and stays as it is if not; `$$` is a dollar sign."""

    def one(match: re.Match[str]) -> str:
        if match.group(1) == "$":
            return "$"
        return values.get(match.group(2), match.group(0))

    return _REFERENCE.sub(one, text)


def service_variables(services: Iterable[Object], namespace: str, links: bool) -> dict[str, str]:
    """The variables of the Services of the namespace and of `kubernetes.default`, in Docker's links format.

    With `links` false only those of `kubernetes`.
    """
    result: dict[str, str] = {}
    chosen: dict[str, Object] = {}
    for service in services:
        meta = service["metadata"]
        master = meta["namespace"] == "default" and meta["name"] == "kubernetes"
        if not master and (not links or meta["namespace"] != namespace):
            continue
        ip = (service.get("spec") or {}).get("clusterIP")
        if not ip or ip == "None" or (meta["name"] in chosen and not master):
            continue
        chosen[meta["name"]] = service
    for name in sorted(chosen):
        result.update(_service(name, chosen[name]["spec"]))
    return result


def _service(name: str, spec: Object) -> dict[str, str]:
    prefix = name.upper().replace("-", "_")
    ip = spec["clusterIP"]
    ports = spec.get("ports") or ()
    result = {f"{prefix}_SERVICE_HOST": ip}
    for index, port in enumerate(ports):
        number, protocol = port["port"], (port.get("protocol") or "TCP").lower()
        url = f"{protocol}://{ip}:{number}"
        if index == 0:
            result[f"{prefix}_SERVICE_PORT"] = str(number)
            result[f"{prefix}_PORT"] = url
        if port.get("name"):
            result[f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(number)
        base = f"{prefix}_PORT_{number}_{protocol.upper()}"
        result |= {base: url, f"{base}_PROTO": protocol, f"{base}_PORT": str(number), f"{base}_ADDR": ip}
    return result


def data_of(obj: Object) -> dict[str, bytes]:
    """The content of a ConfigMap or Secret: `data` (and `binaryData`) by key."""
    if obj.get("kind") == "Secret":
        return {key: base64.b64decode(value) for key, value in (obj.get("data") or {}).items()}
    result = {key: value.encode() for key, value in (obj.get("data") or {}).items()}
    result.update({key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()})
    return result


def _from(source: Object, config_map: Lookup, secret: Lookup) -> dict[str, str]:
    """One entry of `envFrom`."""
    for key, kind, lookup in (("configMapRef", "configmap", config_map), ("secretRef", "secret", secret)):
        reference = source.get(key)
        if reference is None:
            continue
        found = lookup(reference.get("name", ""))
        if found is None:
            if reference.get("optional"):
                return {}
            raise EnvError(f'{kind} "{reference.get("name", "")}" not found')
        prefix = source.get("prefix") or ""
        return {prefix + name: value.decode(errors="replace") for name, value in data_of(found).items()}
    return {}


def _key(reference: Object, kind: str, lookup: Lookup) -> str | None:
    """The value of a `configMapKeyRef` or `secretKeyRef`; None when it is optional and missing."""
    name, key = reference.get("name", ""), reference["key"]
    found = lookup(name)
    if found is None:
        if reference.get("optional"):
            return None
        raise EnvError(f'{kind} "{name}" not found')
    value = data_of(found).get(key)
    if value is None:
        if reference.get("optional"):
            return None
        word = "ConfigMap" if kind == "configmap" else "Secret"
        raise EnvError(f"couldn't find key {key} in {word} {found['metadata'].get('namespace', '')}/{name}")
    return value.decode(errors="replace")


def build(
    pod: Object,
    container: Object,
    services: Mapping[str, str],
    config_map: Lookup,
    secret: Lookup,
    allocatable: Mapping[str, str],
) -> dict[str, str]:
    """The variables of the pod's specification, in kubelet's order of precedence: `env`, `envFrom`, services.

    Raises `EnvError` for a missing reference.
    """
    result: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        result.update(_from(source, config_map, secret))
    known = {**services, **result}
    for variable in container.get("env") or ():
        value = _value(variable, known, pod, container, config_map, secret, allocatable)
        if value is None:
            continue
        result[variable["name"]] = known[variable["name"]] = value
    return {**services, **result}


def _value(
    variable: Object,
    known: Mapping[str, str],
    pod: Object,
    container: Object,
    config_map: Lookup,
    secret: Lookup,
    allocatable: Mapping[str, str],
) -> str | None:
    source = variable.get("valueFrom")
    if not source:
        return expand(variable.get("value") or "", known)
    try:
        if "fieldRef" in source:
            return fields.field(pod, source["fieldRef"]["fieldPath"])
        if "resourceFieldRef" in source:
            return resource_field(pod, container, source["resourceFieldRef"], allocatable)
    except fields.FieldError as error:
        raise EnvError(f"env {variable['name']}: {error}") from error
    if "configMapKeyRef" in source:
        return _key(source["configMapKeyRef"], "configmap", config_map)
    if "secretKeyRef" in source:
        return _key(source["secretKeyRef"], "secret", secret)
    raise EnvError(f"env {variable['name']}: valueFrom {', '.join(source)} is not supported")


def resource_field(pod: Object, container: Object | None, reference: Object, allocatable: Mapping[str, str]) -> str:
    """The value of a `resourceFieldRef`, of the container it names or of `container`."""
    name = reference.get("containerName")
    if name:
        spec = pod["spec"]
        everyone = [*spec.get("containers", ()), *(spec.get("initContainers") or ())]
        container = next((c for c in everyone if c["name"] == name), None)
    if container is None:
        raise fields.FieldError(f"container {name!r} does not exist")
    return fields.resource(container, reference["resource"], reference.get("divisor"), allocatable)
