"""From the Kubernetes API into the mesh: informers of every kind the mesh reads, and the mesh's own settings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from pilotfish import api
from pilotfish.api.mesh import MeshConfig, MeshNetworks, decode_mesh_config, decode_mesh_networks
from pilotfish.api.telemetry import EXPIRES
from pilotfish.api.validation import validate_mesh
from pilotfish.daemon.memory import trim
from pilotfish.daemon.metrics import Metrics
from pilotfish.daemon.options import Options
from pilotfish.inject import InjectionError, InjectorSettings
from pilotfish.inject.native import nodes_allow
from pilotfish.kube.client import Client
from pilotfish.kube.informer import Change, Handler, Informer, Informers, identity
from pilotfish.kube.meta import matches_labels
from pilotfish.kube.resources import (
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    ENDPOINT_SLICES,
    NAMESPACES,
    NODES,
    PODS,
    SECRETS,
    SERVICES,
    Object,
    ResourceType,
)
from pilotfish.mesh import config as mesh_config
from pilotfish.mesh.world import World

log = logging.getLogger(__name__)

PROXY_CONFIG = "ProxyConfig"
INJECTOR = "istio-sidecar-injector"
_Setting = TypeVar("_Setting", bound=MeshConfig | MeshNetworks)

KUBERNETES = (NAMESPACES, NODES, PODS, SERVICES, ENDPOINT_SLICES, SECRETS)
WHOLE = (NAMESPACES, NODES)
"""Kinds that are looked up as they are. What matters of the others is in the world, and they are many."""


class Feed:
    """Applies every change to the world and says so. Unreadable objects are reported and leave what was there."""

    def __init__(self, client: Client, informers: Informers, world: World, options: Options, metrics: Metrics) -> None:
        self._informers = informers
        self._world = world
        self._options = options
        self._metrics = metrics
        self._core: list[Informer] = []
        self._config: dict[str, Informer] = {}
        self._crds = informers.get(CUSTOM_RESOURCE_DEFINITIONS, keep=identity)
        self._injector: InjectorSettings | None = InjectorSettings.read({}, options.revision, options.namespace)
        self._injector_seen = False
        self._own_maps = Informer(client, CONFIG_MAPS, options.namespace)
        self.problems: dict[tuple[str, str, str], str] = {}
        """What could not be read: (kind, namespace, name) → why."""
        self.on_change: Callable[[], None] = lambda: None
        self.on_problem: Callable[[], None] = lambda: None
        self._changes: dict[tuple[str, str, str], int] = {}
        self._count = 0
        self._timers: dict[tuple[str, str, str], asyncio.TimerHandle] = {}
        self._followers: dict[str, list[Handler]] = {}

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start everything; returns when all that is there has been read once."""
        for resource in KUBERNETES:
            informer = self._informers.get(resource, keep=None if resource in WHOLE else identity)
            informer.add_handler(self._changed)
            self._core.append(informer)
        self._crds.add_handler(self._crd_changed)
        self._own_maps.add_handler(self._settings_changed)
        tasks.create_task(self._own_maps.run(), name="informer of the mesh's settings")
        self._informers.start()
        await self._crds.synced.wait()
        for informer in (*self._core, self._own_maps, *self._config.values()):
            await informer.synced.wait()
        trim()  # the lists came as a whole and were many times what is left of them

    @property
    def objects(self) -> list[Object]:
        """All config objects, as Kubernetes has them."""
        return [one for informer in self._config.values() for one in informer.store.values()]

    @property
    def kinds(self) -> list[ResourceType]:
        """The kinds of config objects that are watched."""
        return [informer.resource for _, informer in sorted(self._config.items())]

    def changed_at(self, key: tuple[str, str, str]) -> int:
        """When a config object (kind, namespace, name) last changed, as a number that grows with every change."""
        return self._changes.get(key, 0)

    @property
    def state(self) -> int:
        """A number that grows with every change of a config object that matters."""
        return self._count

    def tick(self) -> int:
        """Count a change that comes from inside."""
        self._count += 1
        return self._count

    def _count_objects(self) -> None:
        self._metrics.services.set(len(self._informers.get(SERVICES).store))
        virtual_services = self._config.get("VirtualService")
        self._metrics.virtual_services.set(0 if virtual_services is None else len(virtual_services.store))

    # ------------------------------------------------------------------ objects

    def _changed(self, change: Change) -> None:
        obj = change.object
        kind = str(obj.get("kind", ""))
        event = "delete" if change.new is None else "add" if change.old is None else "update"
        is_config = api.BY_API_VERSION.get((str(obj.get("apiVersion", "")), kind)) is not None
        (self._metrics.config_events if is_config else self._metrics.registry_events).inc(kind, event)
        key = (kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        self.problems.pop(key, None)
        gone = change.new is None or self._expired(obj, key)
        try:
            different = self._world.delete(obj) if gone else self._world.apply(obj)
        except api.DecodeError as error:
            self.problems[key] = str(error)
            self._metrics.rejected_configs.inc(kind, f"{key[1]}/{key[2]}")
            log.warning("%s %s/%s is left as it was: %s", *key, error)
            self.on_problem()
            return
        self._count_objects()
        if different:
            if is_config:
                self._changes[key] = self.tick()
            self._metrics.push_triggers.inc(_trigger(kind, is_config=is_config))
            self.on_change()

    def _expired(self, obj: Object, key: tuple[str, str, str]) -> bool:
        """Whether an object's time is over; if it is still to come, the object goes then."""
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
        text = (obj["metadata"].get("annotations") or {}).get(EXPIRES)
        if text is None:
            return False
        try:
            left = (datetime.fromisoformat(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            log.warning("%s %s/%s: annotation %s: %r is not a time such as 2030-01-31T12:00:00Z", *key, EXPIRES, text)
            return True  # what was meant to end must not stay for ever
        if left > 0:
            self._timers[key] = asyncio.get_running_loop().call_later(left, self._changed, Change(obj, obj))
        return left <= 0

    def _crd_changed(self, change: Change) -> None:
        """A kind is watched from when its definition is served. Kinds that go away keep their (empty) informer."""
        crd = change.new
        if crd is None or not _established(crd):
            return
        served = [version["name"] for version in crd["spec"]["versions"] if version.get("served")]
        for kind in api.KINDS.values():
            version = next((one for one in kind.versions if one in served), None)
            if kind.crd_name != crd["metadata"]["name"] or version is None or kind.kind in self._config:
                continue
            in_world = self._world.reads(f"{kind.group}/{version}", kind.kind)
            if not in_world and kind.kind != PROXY_CONFIG:
                continue
            informer = self._informers.get(ResourceType(kind.group, version, kind.kind, kind.plural))
            self._config[kind.kind] = informer
            if in_world:
                informer.add_handler(self._changed)
            for follower in self._followers.get(kind.kind, ()):
                informer.add_handler(follower)

    def follow(self, kind: str, handler: Handler) -> None:
        """Call `handler` for every config object of a kind and its changes, also when the kind is served only later."""
        self._followers.setdefault(kind, []).append(handler)
        if (informer := self.informer(kind)) is not None:
            informer.add_handler(handler)

    def informer(self, kind: str) -> Informer | None:
        """The objects of a kind of config; None while the API server does not serve it."""
        return self._config.get(kind)

    @property
    def injector(self) -> InjectorSettings:
        """The injector's settings in force. Raises InjectionError when they could not be read from the beginning."""
        if self._injector is None:
            raise InjectionError(self.problems[self._injector_map])
        return self._injector

    @property
    def _injector_map(self) -> tuple[str, str, str]:
        return "ConfigMap", self._options.namespace, self._suffixed(INJECTOR)

    def namespace(self, name: str) -> Object:
        """A namespace, empty when it is not known."""
        return self._informers.get(NAMESPACES).store.get("", name) or {}

    def native_sidecars(self, node: str) -> bool:
        """Whether a pod's proxy can be an init container that goes on running: asked of its node when it has one
        already, else of all."""
        nodes = self._informers.get(NODES).store
        own = nodes.get("", node) if node else None
        return nodes_allow([own] if own else nodes.values())

    def proxy_configs(self, namespace: str, labels: Mapping[str, str]) -> tuple[Mapping[str, Any], ...]:
        """Specs of the ProxyConfig resources for a pod, weakest first: root namespace, namespace, workload."""
        informer = self._config.get(PROXY_CONFIG)
        if informer is None:
            return ()
        root = mesh_config.root_namespace(self._world.db)
        ranked: list[tuple[int, str, str, Mapping[str, Any]]] = []
        found = [one for space in dict.fromkeys((root, namespace)) for one in informer.store.in_namespace(space)]
        for one in found:
            meta, spec = one["metadata"], one.get("spec") or {}
            selector = (spec.get("selector") or {}).get("matchLabels") or {}
            if selector and not (meta["namespace"] == namespace and matches_labels(selector, labels)):
                continue
            rank = 2 if selector else int(meta["namespace"] != root)
            # The oldest wins among equals, so it comes last.
            ranked.append((rank, _reversed(meta.get("creationTimestamp", "")), meta["name"], spec))
        return tuple(spec for *_, spec in sorted(ranked, key=lambda item: item[:3]))

    def _suffixed(self, name: str) -> str:
        return name + (f"-{self._options.revision}" if self._options.revision not in ("", "default") else "")

    # ----------------------------------------------------------------- settings

    def _settings_changed(self, change: Change) -> None:
        data = (change.new or {}).get("data") or {}
        if change.object["metadata"]["name"] == self._suffixed(INJECTOR):
            self._set_injector(data)
        if change.object["metadata"]["name"] != self._suffixed("istio"):
            return
        self._set("mesh", data, decode_mesh_config, self._world.set_mesh)
        self._set("meshNetworks", data, decode_mesh_networks, self._world.set_networks)

    def _set_injector(self, data: Mapping[str, str]) -> None:
        """Unreadable settings, or a template that is wrong, are reported; the settings in force stay."""
        first = self._injector_map not in self.problems and not self._injector_seen
        self._injector_seen = True
        self.problems.pop(self._injector_map, None)
        try:
            self._injector = InjectorSettings.read(data, self._options.revision, self._options.namespace)
        except InjectionError as error:
            self.problems[self._injector_map] = str(error)
            if first:
                self._injector = None
            stay = "no pod can be injected" if self._injector is None else "the settings in force stay"
            log.error("%s: %s", stay, error)

    def _set(
        self,
        key: str,
        data: Mapping[str, str],
        decode: Callable[[str], tuple[_Setting, tuple[api.FieldError, ...]]],
        use: Callable[[_Setting], bool],
    ) -> None:
        """Settings that cannot be read, or that Istio would refuse, are reported; the ones in force stay."""
        problem = ("ConfigMap", self._options.namespace, key)
        self.problems.pop(problem, None)
        try:
            value, unknown = decode(data.get(key) or "{}")
            checked = validate_mesh(value)
            if checked.errors:
                raise api.DecodeError(checked.errors)
        except api.DecodeError as error:
            self.problems[problem] = str(error)
            log.error("ConfigMap istio, key %s: the settings in force stay: %s", key, error)
            return
        for one in (*unknown, *checked.warnings):
            log.warning("ConfigMap istio, key %s: %s", key, one)
        if use(value):
            self._metrics.push_triggers.inc("global")
            self.on_change()


def _reversed(text: str) -> str:
    """A text that sorts the other way round."""
    return "".join(chr(0x10FFFF - ord(letter)) for letter in text)


def _established(crd: Object) -> bool:
    conditions = (crd.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


def _trigger(kind: str, *, is_config: bool) -> str:
    if is_config:
        return "config"
    return {"EndpointSlice": "endpoint", "Service": "service", "Secret": "secret", "Namespace": "namespace"}.get(
        kind, "proxy"
    )
