"""Who must prove who they are: mutual TLS per workload and port, and JSON web tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pilotfish.api import Config, security
from pilotfish.api.security import JWTRule, MutualTLSMode
from pilotfish.engine import Db, query
from pilotfish.mesh import inputs
from pilotfish.mesh.config import root_namespace
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.workloads import Labels, selects


class Mtls(NamedTuple):
    """What a workload demands: a mode, and modes of single container ports."""

    mode: MutualTLSMode
    ports: Mapping[int, MutualTLSMode]
    policies: tuple[Ref, ...]

    def at(self, port: int) -> MutualTLSMode:
        return self.ports.get(port, self.mode)


def _policies(db: Db, namespace: str) -> list[Config[security.PeerAuthentication]]:
    refs = inputs.PEER_AUTHENTICATIONS_IN(db, namespace)
    found = [c for ref in refs if (c := inputs.PEER_AUTHENTICATIONS(db, ref)) is not None]
    return sorted(found, key=lambda c: c.age_order)


def _selector(config: Config[security.PeerAuthentication]) -> Mapping[str, str]:
    return config.spec.selector.match_labels if config.spec.selector is not None else {}


def _mode(setting: security.MutualTLS | None, inherited: MutualTLSMode) -> MutualTLSMode:
    return setting.mode if setting is not None and setting.mode is not MutualTLSMode.UNSET else inherited


@query
def namespace_mtls(db: Db, namespace: str) -> tuple[MutualTLSMode, tuple[Ref, ...]]:
    """The mode of a namespace: PERMISSIVE, then the mesh's (root namespace), then its own; the oldest of each."""
    mode, used = MutualTLSMode.PERMISSIVE, []
    root = root_namespace(db)
    for level in dict.fromkeys((root, namespace)):
        for config in _policies(db, level):
            if not _selector(config):
                mode = _mode(config.spec.mtls, mode)
                used.append(Ref(config.namespace, config.name))
                break
    return mode, tuple(used)


@query
def mtls(db: Db, namespace: str, labels: Labels) -> Mtls:
    """What a workload demands. The oldest policy of its own namespace that selects it comes over the namespace's.

    Policies with a selector in the root namespace are ignored, but by the root namespace's own workloads.
    """
    inherited, used = namespace_mtls(db, namespace)
    for config in _policies(db, namespace):
        selector = _selector(config)
        if selector and selects(selector, labels):
            mode = _mode(config.spec.mtls, inherited)
            ports = {int(port): _mode(setting, mode) for port, setting in (config.spec.port_level_mtls or {}).items()}
            return Mtls(mode, ports, (*used, Ref(config.namespace, config.name)))
    return Mtls(inherited, {}, used)


@query
def jwt_rules(db: Db, namespace: str, labels: Labels, gateway: str = "") -> tuple[tuple[Ref, JWTRule], ...]:
    """All rules that hold for a workload, those of the root namespace first. They add up.

    `gateway` is the workload's Gateway name, for policies attached by targetRefs.
    """
    found = []
    for level in dict.fromkeys((root_namespace(db), namespace)):
        refs = inputs.REQUEST_AUTHENTICATIONS_IN(db, level)
        for config in sorted(
            (c for ref in refs if (c := inputs.REQUEST_AUTHENTICATIONS(db, ref)) is not None),
            key=lambda c: c.age_order,
        ):
            spec = config.spec
            if applies(spec.selector, spec.target_refs, spec.target_ref, labels, level == namespace, gateway):
                found += [(Ref(config.namespace, config.name), rule) for rule in spec.jwt_rules]
    return tuple(found)


def applies(
    selector: object, target_refs: tuple[object, ...], target_ref: object, labels: Labels, own: bool, gateway: str
) -> bool:
    """Whether a policy with a selector or target references is about a workload."""
    targets = (*target_refs, *((target_ref,) if target_ref is not None else ()))
    if targets:
        return own and any(
            getattr(t, "kind", "") == "Gateway" and getattr(t, "name", "") == gateway and gateway for t in targets
        )
    return selects(getattr(selector, "match_labels", {}), labels)
