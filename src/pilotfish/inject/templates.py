"""Injection templates of the user's own: Go templates over Istio's data, which come to partial pods.

They stand in the injector's settings (`templates`) beside the built-in ones, or in their place when they have the same
name. Data and functions are documented by Istio: https://istio.io/latest/docs/setup/additional-setup/sidecar-injection/
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pilotfish.api.errors import DecodeError
from pilotfish.api.files import dump, load_one
from pilotfish.gotemplate import StringMap, TemplateError, Templates, from_data, go_text, plain
from pilotfish.inject.annotations import SIDECAR
from pilotfish.inject.errors import InjectionError
from pilotfish.inject.godata import Struct, mesh_config, pod_parts, proxy_config
from pilotfish.inject.multus import with_network
from pilotfish.inject.otel import resource_attributes

if TYPE_CHECKING:
    from pilotfish.inject.context import Context, Object


class CustomTemplates:
    """Templates by name. Raises InjectionError, with template and line, for one that cannot be read."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = dict(texts)
        self._read: dict[str, Templates] = {}
        for name, text in texts.items():
            templates = Templates(_FUNCTIONS)
            try:
                templates.add(name, text)
            except TemplateError as error:
                raise InjectionError(f"template {error}") from error
            self._read[name] = templates

    def __contains__(self, name: str) -> bool:
        return name in self._read

    def names(self) -> Iterable[str]:
        return self._read

    def overlay(self, name: str, context: Context) -> Object:
        """What the template comes to for a pod. Raises InjectionError with template and line."""
        try:
            text = self._read[name].render(name, _data(context))
        except TemplateError as error:
            raise InjectionError(f"template {error}") from error
        try:
            found = load_one(text)
        except DecodeError as error:
            raise InjectionError(f"template {name} comes to what is no YAML: {error}") from error
        if found is None:
            return {}
        if not isinstance(found, dict) or not all(
            isinstance(found.get(key) or {}, dict) for key in ("metadata", "spec")
        ):
            raise InjectionError(f"template {name} comes to no pod: a mapping with metadata and spec is expected")
        return {key: value for key, value in found.items() if value is not None}


def _data(context: Context) -> Mapping[str, Any]:
    meta, spec = pod_parts(context.pod)
    settings, workload = context.settings, context.workload
    init = str((settings.globals.get("proxy_init") or {}).get("image") or "proxyv2")
    image_type = str((context.proxy_config.get("image") or {}).get("imageType") or "")
    chosen = context.annotations.text(f"{SIDECAR}proxyImageType")
    local = (context.mesh.get("inboundTrafficPolicy") or {}).get("mode") == "LOCALHOST"
    values = from_data(settings.values)
    return {
        "TypeMeta": Struct({"kind": workload.kind, "apiVersion": workload.api_version}, "TypeMeta"),
        "DeploymentMeta": Struct({"name": workload.name, "namespace": context.namespace}, "NamespacedName"),
        "ObjectMeta": meta,
        "Spec": spec,
        "ProxyConfig": proxy_config(context.proxy_config),
        "MeshConfig": mesh_config(context.mesh),
        "Values": values,
        "Revision": "" if settings.revision == "default" else settings.revision,
        "NativeSidecars": context.native_sidecars,
        "ProxyImage": settings.image(str(settings.proxy.get("image") or "proxyv2"), chosen or image_type),
        "ProxyInitImage": settings.image(init, chosen),
        "ProxyUID": context.proxy_ids[0],
        "ProxyGID": context.proxy_ids[1],
        "InboundTrafficPolicyMode": "localhost" if local else "passthrough",
        "CompliancePolicy": "",
    }


# ------------------------------------------------------------------------------ functions


def _annotation(meta: Any, name: str, default: Any) -> str:
    found = meta.go_field("Annotations")
    return str(found[name]) if name in found else go_text(default, "<nil>")


def _port_list(containers: Iterable[Any], skip: str = "") -> str:
    return ",".join(
        go_text(port.go_field("ContainerPort"))
        for one in containers
        if one.go_field("Name") != skip
        for port in one.go_field("Ports") or ()
        if port.go_field("Protocol") not in ("UDP", "SCTP")
    )


def _exclude(port: Any, ports: str) -> str:
    text = go_text(port).strip()
    if text in ("", "0") or text in ports.split(","):
        return ports
    return ",".join([*(one.strip() for one in ports.split(",") if one.strip()), text])


def _indent(width: Any, text: str) -> str:
    """Unlike sprig's, the first line stays."""
    return text.replace("\n", "\n" + " " * int(width))


def _compact(value: Any) -> str:
    return json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False)


def _strings(*pairs: str) -> StringMap:
    padded = (*pairs, "") if len(pairs) % 2 else pairs
    return StringMap(zip(padded[::2], padded[1::2], strict=True))


def _merged(*maps: Mapping[str, str]) -> StringMap:
    return StringMap({key: value for one in maps for key, value in one.items()})


def _present(value: Any) -> Any:
    """Without nothing, at any depth; what becomes empty thereby is nothing itself."""
    if isinstance(value, Mapping):
        kept = {key: _present(item) for key, item in value.items()}
        kept = {key: item for key, item in kept.items() if item is not None}
        return kept if kept or not value else None
    if isinstance(value, list):
        items = [item for item in map(_present, value) if item is not None]
        return items if items or not value else None
    return value


def _from_json(text: str) -> Any:
    try:
        return from_data(json.loads(text))
    except ValueError:
        return "{}"


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "annotation": _annotation,
    "appendMultusNetwork": with_network,
    "applicationPorts": lambda containers: _port_list(containers, "istio-proxy"),
    "contains": lambda part, text: part in text,
    "directory": lambda path: path[: path.rfind("/") + 1],
    "env": lambda name, default: os.environ.get(name) or default,
    "excludeInboundPort": lambda port, ports: _exclude(port, go_text(ports)),
    "excludeInterfaces": lambda text: text,
    "formatDuration": go_text,
    "fromJSON": _from_json,
    "includeInboundPorts": _port_list,
    "indent": _indent,
    "isset": lambda values, key: key in values,
    "kubevirtInterfaces": lambda text: text,
    "mergeMaps": _merged,
    "omitNil": _present,
    "otelResourceAttributes": lambda mesh, annotations, labels, namespace, containers: resource_attributes(
        mesh.plain(), annotations, labels, namespace, plain(containers)
    ),
    "protoToJSON": lambda value: value.sent(),
    "strdict": _strings,
    "structToJSON": lambda value: "{}" if value is None else _compact(value),
    "toJSON": _compact,
    "toJsonMap": lambda *maps: _compact(dict(sorted(_merged(*maps).items()))),
    "toLower": lambda text: text.lower(),
    "toYaml": lambda value: dump(plain(value)),
    "valueOrDefault": lambda value, default: default if value is None or value == "" else value,
}
"""Istio's functions beside sprig's; some have the same name and mean something else."""
