"""Mesh-wide settings: the mesh configuration and what the control plane was started with."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from pilotfish.api.mesh import BUILT_IN_PROVIDERS, ExtensionProvider, MeshConfig, MeshNetworks
from pilotfish.engine import Db, Facet, Input, query
from pilotfish.mesh import inputs
from pilotfish.mesh.inputs import Ref


class Settings(msgspec.Struct, frozen=True):
    """What the control plane was started with."""

    domain: str = "cluster.local"
    """DNS domain of the cluster."""
    cluster: str = "Kubernetes"
    system_namespace: str = "istio-system"
    """Where the control plane runs."""


MESH: Input[str, MeshConfig] = Input("MeshConfig")
NETWORKS: Input[str, MeshNetworks] = Input("MeshNetworks")
SETTINGS: Input[str, Settings] = Input("settings")

_DEFAULT_MESH, _DEFAULT_SETTINGS = MeshConfig(), Settings()


_SETTINGS_OF_MESH: dict[str, Facet[str, MeshConfig, Any]] = {
    name: Facet("MeshConfig", MESH, lambda _key, config, name=name: getattr(config, name))  # type: ignore[misc]  # bound now
    for name in MeshConfig.__struct_fields__
}


class _Recorded:
    """The mesh configuration as a query sees it: each setting it looks at is a read of its own."""

    __slots__ = ("db",)

    def __init__(self, db: Db) -> None:
        self.db = db

    def __getattr__(self, name: str) -> Any:
        found = _SETTINGS_OF_MESH.get(name)
        if found is None:
            raise AttributeError(name)
        return found(self.db, "") if _GIVEN(self.db, "") else getattr(_DEFAULT_MESH, name)


_GIVEN: Facet[str, MeshConfig, bool] = Facet("MeshConfig", MESH, lambda _key, _config: True)


def mesh(db: Db) -> MeshConfig:
    """The mesh configuration. A query that asks for it depends only on the settings it looks at."""
    if db.recording:
        return cast("MeshConfig", _Recorded(db))
    return MESH(db, "") or _DEFAULT_MESH


def settings(db: Db) -> Settings:
    return SETTINGS(db, "") or _DEFAULT_SETTINGS


@query
def root_namespace(db: Db) -> str:
    """Where mesh-wide policies live."""
    return mesh(db).root_namespace or settings(db).system_namespace


@query
def trust_domains(db: Db) -> tuple[str, ...]:
    """The trust domain and its aliases."""
    config = mesh(db)
    return tuple(dict.fromkeys((config.trust_domain, *config.trust_domain_aliases)))


@query
def discovered(db: Db, namespace: str) -> bool:
    """Whether discovery selectors let a namespace in. Without selectors all are in; the system namespace always is."""
    selectors = mesh(db).discovery_selectors
    if not selectors or namespace == settings(db).system_namespace:
        return True
    found = inputs.NAMESPACES(db, Ref("", namespace))
    labels = found.labels if found is not None else {}
    return any(s.matches(labels) for s in selectors)


@query
def provider(db: Db, name: str) -> ExtensionProvider | None:
    """An extension provider by name; the built-in ones are always there."""
    return next((p for p in (*mesh(db).extension_providers, *BUILT_IN_PROVIDERS) if p.name == name), None)
