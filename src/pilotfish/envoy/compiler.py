"""The way out: finished resources of a proxy's view, kept up to date, with what changed and where it came from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pilotfish.engine import Db, Facet, Input, QueryFailed, Source
from pilotfish.envoy import envoy_filters, virtual_hosts
from pilotfish.envoy.outbound_listeners import Address
from pilotfish.envoy.resource import ENDPOINT, ROUTE, Resource, field, finish
from pilotfish.mesh import proxies
from pilotfish.mesh.proxies import View
from pilotfish.mesh.world import World


class ObjectRef(NamedTuple):
    """An object of the mesh, as a user knows it."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}".rstrip()


class Failed(NamedTuple):
    """A resource that could not be compiled; its last good form stays."""

    type_url: str
    name: str
    cause: str
    sources: tuple[ObjectRef, ...]


_SLACK = 20_000
"""So many values may pile up before the graph is looked through for garbage."""


class _Held:
    """The resources of one type of a watched view."""

    __slots__ = ("addresses", "resources")

    def __init__(self) -> None:
        self.addresses: Mapping[str, Address] = {}
        self.resources: dict[str, Resource] = {}


Use = tuple[View, str, str]
"""Who has a resource: view, type URL and name."""


class Compiler:
    """Synchronous and single-threaded, like the graph it reads."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.db = world.db
        self._watched: dict[View, int] = {}
        self._held: dict[tuple[View, str], _Held] = {}
        self._users: defaultdict[Address, set[Use]] = defaultdict(set)
        self._failed: dict[Address, QueryFailed] = {}
        self._kept = 0
        """How many values were left after the last collection."""

    def view(self, node: Mapping[str, Any], identity: tuple[str, str] | None = None) -> View:
        """The view of a proxy from its xDS node as JSON; `identity` is its verified (namespace, service account).

        Raises BadNode. Call it again when the proxy's pod changes: labels are the registry's.
        """
        return proxies.parse(self.db, node, identity)

    # Reading

    def every(self, view: View, type_url: str) -> Mapping[str, Resource]:
        """All resources of a type, by name. For a watched view: as of the last `changed` (or `watch`), and the same
        object as before when nothing changed."""
        held = self._held.get((view, type_url))
        return held.resources if held is not None else self._compile(view, type_url)

    def one(self, view: View, type_url: str, name: str) -> Resource | None:
        """One resource. A sidecar asking for routes that do not exist gets empty ones, as with Istio."""
        held = self._held.get((view, type_url))
        found = held.resources.get(name) if held is not None else self._one(view, type_url, name)
        if found is None and type_url == ROUTE and view.is_sidecar:
            return virtual_hosts.assemble(name, [])
        return found

    def _compile(self, view: View, type_url: str) -> dict[str, Resource]:
        source = envoy_filters.TYPES.get(type_url)
        if source is None:
            return {}
        addresses: Mapping[str, Address] = source(self.db, view)
        found = ((name, self._read(address)) for name, address in addresses.items())
        return {name: resource for name, resource in found if resource is not None}

    def _one(self, view: View, type_url: str, name: str) -> Resource | None:
        source = envoy_filters.TYPES.get(type_url)
        address = source(self.db, view).get(name) if source is not None else None
        return self._read(address) if address is not None else None

    def _read(self, address: Address) -> Resource | None:
        query, key = address
        try:
            found: Resource | None = query(self.db, *key)
        except QueryFailed as error:
            self._failed[address] = error
            return None
        self._failed.pop(address, None)
        return found

    # Watching

    def watch(self, view: View) -> None:
        """Keep a view compiled until as many `release`s."""
        self._watched[view] = self._watched.get(view, 0) + 1
        if self._watched[view] > 1:
            return
        for type_url, source in envoy_filters.TYPES.items():
            self._held[view, type_url] = _Held()
            self._update(view, type_url)
            self.db.pin(source, view)

    def release(self, view: View) -> None:
        self._watched[view] -= 1
        if self._watched[view]:
            return
        del self._watched[view]
        for type_url, source in envoy_filters.TYPES.items():
            held = self._held.pop((view, type_url))
            for name, address in held.addresses.items():
                self._drop(address, (view, type_url, name))
            self.db.unpin(source, view)

    def _drop(self, address: Address, use: Use) -> None:
        users = self._users[address]
        users.discard(use)
        if not users:
            del self._users[address]
            self._failed.pop(address, None)
            query, key = address
            self.db.unpin(query, *key)

    def _take(self, address: Address, use: Use) -> Resource | None:
        users = self._users[address]
        found = self._read(address)
        if not users:
            query, key = address
            self.db.pin(query, *key)
        users.add(use)
        return found

    def _update(self, view: View, type_url: str) -> set[str]:
        """Bring a view's list of one type up to date; the names that came, went or mean another address."""
        held = self._held[view, type_url]
        try:
            addresses: Mapping[str, Address] = envoy_filters.TYPES[type_url](self.db, view)
        except QueryFailed as error:
            self._failed[envoy_filters.TYPES[type_url], (view,)] = error  # the last good list stays
            return set()
        self._failed.pop((envoy_filters.TYPES[type_url], (view,)), None)
        resources = dict(held.resources)
        changed: set[str] = set()
        before = held.addresses
        for name, address in addresses.items():
            if before.get(name) != address:
                found = self._take(address, (view, type_url, name))
                if found is None and address in self._failed:
                    found = resources.get(name) or _empty(type_url, name)  # cannot be built: what it was stays
                changed |= _set(resources, name, found)
        for name, address in before.items():
            if addresses.get(name) != address:
                self._drop(address, (view, type_url, name))
                if name not in addresses:
                    changed |= _set(resources, name, None)
        held.addresses = addresses
        if changed:
            held.resources = resources
        return changed

    def changed(self) -> dict[View, dict[str, frozenset[str]]]:
        """Compile what is dirty. By watched view and type URL, the names that came, went or changed."""
        result: defaultdict[View, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        stale = self.db.stale()
        copied: set[tuple[View, str]] = set()
        lists: list[tuple[View, str]] = []
        for source, key in stale:
            if (type_url := _LISTS.get(source)) is not None:
                lists.append((key[0], type_url))
                continue
            address: Address = (source, key)  # type: ignore[assignment]  # all other pins are addresses
            found = self._read(address)
            if found is None and address in self._failed:
                continue
            for view, type_url, name in self._users.get(address, ()):
                held = self._held[view, type_url]
                if held.resources.get(name) != found:
                    if (view, type_url) not in copied:
                        copied.add((view, type_url))
                        held.resources = dict(held.resources)  # whoever holds the old one may compare
                    result[view][type_url] |= _set(held.resources, name, found)
        for view, type_url in lists:
            if names := self._update(view, type_url):
                result[view][type_url] |= names
        if len(self.db) > 2 * self._kept + _SLACK:
            self.collect()
        return {view: {t: frozenset(names) for t, names in types.items()} for view, types in result.items()}

    def collect(self) -> int:
        """Forget what no watched view stands on any more; `changed` does it now and then. Returns how many values."""
        gone = self.db.collect()
        self._kept = len(self.db)
        return gone

    def shared(self) -> Iterator[tuple[str, Resource]]:
        """The type and the resource of everything that watched views have, each once."""
        for users in self._users.values():
            view, type_url, name = next(iter(users))
            if (found := self._held[view, type_url].resources.get(name)) is not None:
                yield type_url, found

    # What would be

    def preview(
        self, view: View, applied: Iterable[Mapping[str, Any]] = (), deleted: Iterable[Mapping[str, Any]] = ()
    ) -> dict[str, dict[str, tuple[Resource | None, Resource | None]]]:
        """What a view's resources would become if objects were applied and deleted: by type URL and name, before and
        after. Nothing is changed. Raises DecodeError as `World.apply` does, and QueryFailed where compiling fails."""
        replaced: dict[tuple[Input[Any, Any], Any], Any] = {}
        for objects, gone in ((applied, False), (deleted, True)):
            for obj in objects:
                if (found := self.world.read(obj)) is not None:
                    replaced[found[0], found[1]] = None if gone else found[2]
        fork = self.db.fork(replaced)
        result: dict[str, dict[str, tuple[Resource | None, Resource | None]]] = {}
        for type_url, source in envoy_filters.TYPES.items():
            before = {name: query(self.db, *key) for name, (query, key) in source(self.db, view).items()}
            after = {name: query(fork, *key) for name, (query, key) in source(fork, view).items()}
            differ = [n for n in {**before, **after} if before.get(n) != after.get(n)]
            if differ:
                result[type_url] = {n: (before.get(n), after.get(n)) for n in differ}
        return result

    def supposing(
        self, view: View, type_url: str, name: str, replaced: Mapping[tuple[Input[Any, Any], Any], Any]
    ) -> Resource | None:
        """One resource as it would be if some inputs were others (None: absent). Raises QueryFailed."""
        source = envoy_filters.TYPES.get(type_url)
        fork = self.db.fork(replaced)
        address = source(fork, view).get(name) if source is not None else None
        if address is None:
            return None
        query, key = address
        found: Resource | None = query(fork, *key)
        return found

    # Explaining

    def sources(self, view: View, type_url: str, name: str) -> tuple[ObjectRef, ...]:
        """The objects a resource was compiled from."""
        source = envoy_filters.TYPES.get(type_url)
        address = source(self.db, view).get(name) if source is not None else None
        return _objects(self.db, *address) if address is not None else ()

    def errors(self) -> tuple[Failed, ...]:
        """What could not be compiled."""
        result = []
        for address, error in self._failed.items():
            if address not in self._users and (address[0] not in _LISTS or address[1][0] not in self._watched):
                continue
            users = sorted((t, n) for _, t, n in self._users.get(address, ())) or [("", address[0].name)]
            cause = f"{type(error.cause).__name__}: {error.cause}"
            sources = _objects(self.db, error.source, error.key) or _objects(self.db, *address)
            result.append(Failed(*users[0], cause, sources))
        return tuple(result)


_LISTS: Mapping[Any, str] = {source: type_url for type_url, source in envoy_filters.TYPES.items()}


def _empty(type_url: str, name: str) -> Resource | None:
    """What a proxy gets for something that cannot be built and never was, so that it does not wait for it for ever
    (and with it for all that comes after)."""
    if type_url == ENDPOINT:
        return finish(ENDPOINT, name, field(1, name.encode()))
    return virtual_hosts.assemble(name, []) if type_url == ROUTE else None


def _set(resources: dict[str, Resource], name: str, found: Resource | None) -> set[str]:
    if resources.get(name) == found:
        return set()
    if found is None:
        del resources[name]
    else:
        resources[name] = found
    return {name}


def _objects(db: Db, source: Source, key: tuple[Any, ...]) -> tuple[ObjectRef, ...]:
    found: dict[ObjectRef, None] = {}
    for leaf, at in db.inputs(source, *key):
        if isinstance(leaf, (Input, Facet)) and leaf(db, *at) is not None:
            ref = at[0]
            found[ObjectRef(leaf.name, *ref) if isinstance(ref, tuple) else ObjectRef(leaf.name, "", ref)] = None
    return tuple(found)
