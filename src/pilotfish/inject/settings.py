"""The injector's settings: ConfigMap `istio-sidecar-injector`, keys `config` and `values`, as the chart writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from pilotfish.inject.errors import InjectionError
from pilotfish.inject.templates import CustomTemplates

BUILT_IN = ("sidecar", "gateway")
NOT_THERE: Mapping[str, str] = {
    **dict.fromkeys(("grpc-simple", "grpc-agent"), " (gRPC without a proxy is not supported)"),
    **dict.fromkeys(("waypoint", "kube-gateway"), " (it is no template of pods)"),
}
KINDS = ("distroless", "debug")
WHERE = "ConfigMap istio-sidecar-injector"
DEFAULT_HUB, DEFAULT_TAG = "docker.io/pilotfish", "latest"


@dataclass(frozen=True)
class InjectorSettings:
    """`values` has the shape of the chart's: `{"global": {...}, "revision": ..., "sidecarInjectorWebhook": ...}`."""

    policy: str = "enabled"
    default_templates: tuple[str, ...] = ("sidecar",)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    never_inject: tuple[Mapping[str, Any], ...] = ()
    always_inject: tuple[Mapping[str, Any], ...] = ()
    templates: CustomTemplates = field(default_factory=lambda: CustomTemplates({}))
    injected_annotations: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    revision: str = "default"
    namespace: str = "istio-system"

    @classmethod
    def read(cls, data: Mapping[str, str], revision: str, namespace: str) -> InjectorSettings:
        """From the ConfigMap's data. Raises InjectionError when a key cannot be read."""
        config = _mapping(data.get("config", ""), "config")
        values = _mapping(data.get("values", ""), "values")
        return cls(
            policy=str(config.get("policy") or "enabled"),
            default_templates=tuple(config.get("defaultTemplates") or ("sidecar",)),
            aliases={name: tuple(targets or ()) for name, targets in (config.get("aliases") or {}).items()},
            never_inject=tuple(config.get("neverInjectSelector") or ()),
            always_inject=tuple(config.get("alwaysInjectSelector") or ()),
            templates=_templates(config.get("templates")),
            injected_annotations=dict(config.get("injectedAnnotations") or {}),
            values=values,
            revision=revision or "default",
            namespace=namespace,
        )

    @property
    def globals(self) -> Mapping[str, Any]:
        return self.values.get("global") or {}

    @property
    def proxy(self) -> Mapping[str, Any]:
        return self.globals.get("proxy") or {}

    def image(self, name: str, kind: str) -> str:
        """The reference of one of the mesh's images. A kind (`distroless`, `debug`) is a suffix of the tag; it replaces
        the one that the tag has, and `default` takes that away."""
        tag = str(self.globals.get("tag") or DEFAULT_TAG)
        kind = kind or str(self.globals.get("variant") or "")
        if kind:
            known = next((one for one in KINDS if tag.endswith(f"-{one}")), "")
            tag = tag.removesuffix(f"-{known}") if known else tag
            tag = tag if kind == "default" else f"{tag}-{kind}"
        return f"{self.globals.get('hub') or DEFAULT_HUB}/{name}:{tag}"

    def chosen(self, names: str) -> tuple[str, ...]:
        """The template names of an annotation (or the default ones), aliases resolved, in order."""
        wanted = [name.strip() for name in names.split(",") if name.strip()] or list(self.default_templates)
        resolved: list[str] = []
        for name in wanted:
            resolved += self.aliases.get(name, (name,))
        for name in resolved:
            if name not in self.templates and name not in BUILT_IN:
                why = NOT_THERE.get(name, "")
                known = sorted({*BUILT_IN, *self.templates.names(), *self.aliases})
                raise InjectionError(
                    f"there is no injection template {name!r}{why}; there are {', '.join(known)}. The annotation "
                    "inject.istio.io/templates chooses, sidecarInjectorWebhook.templates of the chart adds templates"
                )
        return tuple(dict.fromkeys(resolved))


def _templates(found: Any) -> CustomTemplates:
    if not isinstance(found or {}, Mapping) or not all(isinstance(text, str) for text in (found or {}).values()):
        raise InjectionError(f"{WHERE}, key config: templates must map names to texts")
    try:
        return CustomTemplates(found or {})
    except InjectionError as error:
        raise InjectionError(f"{WHERE}, key config: {error}") from error


def _mapping(text: str, key: str) -> dict[str, Any]:
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else yaml.load(text, Loader=yaml.CSafeLoader)
    except (ValueError, yaml.YAMLError) as error:
        raise InjectionError(f"{WHERE}, key {key}: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InjectionError(f"{WHERE}, key {key}: a mapping is expected")
    return found
