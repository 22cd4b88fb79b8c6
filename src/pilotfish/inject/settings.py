"""The injector's settings: ConfigMap `istio-sidecar-injector`, keys `config` and `values`, as the chart writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from pilotfish.inject.errors import InjectionError

BUILT_IN = ("sidecar", "gateway")
DEFAULT_HUB, DEFAULT_TAG = "docker.io/pilotfish", "latest"


@dataclass(frozen=True)
class InjectorSettings:
    """`values` has the shape of the chart's: `{"global": {...}, "revision": ..., "sidecarInjectorWebhook": ...}`."""

    policy: str = "enabled"
    default_templates: tuple[str, ...] = ("sidecar",)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    never_inject: tuple[Mapping[str, Any], ...] = ()
    always_inject: tuple[Mapping[str, Any], ...] = ()
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

    def image(self, name: str, variant: str = "") -> str:
        """A full image reference for a name such as `proxyv2`; references that are complete already stay."""
        if "/" in name:
            return name
        hub = self.globals.get("hub") or DEFAULT_HUB
        tag = str(self.globals.get("tag") or DEFAULT_TAG)
        kind = variant or str(self.globals.get("variant") or "")
        return f"{hub}/{name}:{tag}" + (f"-{kind}" if kind and kind != "default" else "")

    def templates(self, names: str) -> tuple[str, ...]:
        """The template names of an annotation (or the default ones), aliases resolved, in order."""
        wanted = [name.strip() for name in names.split(",") if name.strip()] or list(self.default_templates)
        resolved: list[str] = []
        for name in wanted:
            resolved += self.aliases.get(name, (name,))
        for name in resolved:
            if name not in BUILT_IN:
                raise InjectionError(
                    f"annotation inject.istio.io/templates: there is no template {name!r}; "
                    f"there are {', '.join(sorted({*BUILT_IN, *self.aliases}))}"
                )
        return tuple(dict.fromkeys(resolved))


def _mapping(text: str, key: str) -> dict[str, Any]:
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else yaml.load(text, Loader=yaml.CSafeLoader)
    except (ValueError, yaml.YAMLError) as error:
        raise InjectionError(f"ConfigMap istio-sidecar-injector, key {key}: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InjectionError(f"ConfigMap istio-sidecar-injector, key {key}: a mapping is expected")
    return found
