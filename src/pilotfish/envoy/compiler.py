"""The way out: finished resources of a proxy's view, kept up to date, with what changed and where it came from."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, ValuesView
from typing import Any, NamedTuple

from pilotfish.engine import Db, Facet, Input, QueryFailed, Source
from pilotfish.envoy import envoy_filters, virtual_hosts
from pilotfish.envoy.outbound_listeners import Address
from pilotfish.envoy.proxies import Addresses, Part, Parts, joined
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


class _List:
    """A part of what watched views have: the resources of one list, held once for all of them."""

    __slots__ = ("addresses", "resources", "type_url", "views")

    def __init__(self, type_url: str) -> None:
        self.type_url = type_url
        self.addresses: Addresses = {}
        self.resources: dict[str, Resource] = {}
        """Replaced, not changed, when something is different: whoever holds the old one may compare."""
        self.views: set[View] = set()


class _Values(ValuesView[Resource]):
    """Of all lists, one after the other."""

    def __init__(self, of: Joined, lists: Iterable[Mapping[str, Resource]]) -> None:
        super().__init__(of)
        self._lists = lists

    def __iter__(self) -> Iterator[Resource]:
        return itertools.chain.from_iterable(one.values() for one in self._lists)


class Joined(Mapping[str, Resource]):
    """The resources of several lists as one mapping, without a copy; a later list wins."""

    __slots__ = ("_lists",)

    def __init__(self, lists: Iterable[Mapping[str, Resource]]) -> None:
        found: list[Mapping[str, Resource]] = []
        for one in lists:
            if any(name in before for before in found for name in one):
                found = [{name: held for some in (*found, one) for name, held in some.items()}]
            else:
                found.append(one)
        self._lists = tuple(found)

    def __getitem__(self, name: str) -> Resource:
        for one in self._lists:
            if (found := one.get(name)) is not None:
                return found
        raise KeyError(name)

    def get(self, name: str, default: Any = None) -> Any:
        for one in self._lists:
            if (found := one.get(name)) is not None:
                return found
        return default

    def __iter__(self) -> Iterator[str]:
        return itertools.chain(*self._lists)

    def __len__(self) -> int:
        return sum(map(len, self._lists))

    def values(self) -> ValuesView[Resource]:
        return _Values(self, self._lists)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and dict(self) == dict(other)

    def __hash__(self) -> int:
        raise TypeError("a mapping has no hash")


Use = tuple[Part, str]
"""Who has a resource: a list, and by which name."""


class Compiler:
    """Synchronous and single-threaded, like the graph it reads."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.db = world.db
        self._watched: dict[View, int] = {}
        self._lists: dict[Part, _List] = {}
        self._parts: dict[tuple[View, str], Parts] = {}
        self._joined: dict[tuple[View, str], Joined] = {}
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
        parts = self._parts.get((view, type_url))
        if parts is None:
            return self._compile(view, type_url)
        if len(parts) == 1:
            return self._lists[parts[0]].resources
        made = self._joined.get((view, type_url))
        if made is None:
            made = Joined(self._lists[part].resources for part in parts)
            self._joined[view, type_url] = made
        return made

    def one(self, view: View, type_url: str, name: str) -> Resource | None:
        """One resource. A sidecar asking for routes that do not exist gets empty ones, as with Istio."""
        watched = (view, type_url) in self._parts
        found = self.every(view, type_url).get(name) if watched else self._one(view, type_url, name)
        if found is None and type_url == ROUTE and view.is_sidecar:
            return virtual_hosts.assemble(name, [])
        return found

    def _compile(self, view: View, type_url: str) -> dict[str, Resource]:
        found = ((name, self._read(address)) for name, address in _addresses(self.db, view, type_url).items())
        return {name: resource for name, resource in found if resource is not None}

    def _one(self, view: View, type_url: str, name: str) -> Resource | None:
        address = _addresses(self.db, view, type_url).get(name)
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
            self._parts[view, type_url] = ()
            self._follow(view, type_url)
            self.db.pin(source, view)

    def release(self, view: View) -> None:
        self._watched[view] -= 1
        if self._watched[view]:
            return
        del self._watched[view]
        for type_url, source in envoy_filters.TYPES.items():
            for part in self._parts.pop((view, type_url)):
                self._leave(view, part)
            self._joined.pop((view, type_url), None)
            self._failed.pop((source, (view,)), None)
            self.db.unpin(source, view)

    def _follow(self, view: View, type_url: str) -> set[str]:
        """Bring up to date which lists a view has; the names that this changed."""
        source = envoy_filters.TYPES[type_url]
        before = self._parts[view, type_url]
        try:
            parts = source(self.db, view)
        except QueryFailed as error:
            self._failed[source, (view,)] = error  # the last good lists stay
            return set()
        self._failed.pop((source, (view,)), None)
        if parts == before:
            return set()
        old = self.every(view, type_url)
        for part in parts:
            if part not in before:
                self._join(view, type_url, part, old)
        self._parts[view, type_url] = parts
        self._joined.pop((view, type_url), None)
        now = self.every(view, type_url)
        for part in before:
            if part not in parts:
                self._leave(view, part)
        return {name for name in {**old, **now} if old.get(name) != now.get(name)}

    def _join(self, view: View, type_url: str, part: Part, before: Mapping[str, Resource]) -> None:
        held = self._lists.get(part)
        if held is None:
            held = self._lists[part] = _List(type_url)
            self._update(part, before)
            query, key = part
            self.db.pin(query, *key)
        held.views.add(view)

    def _leave(self, view: View, part: Part) -> None:
        held = self._lists[part]
        held.views.discard(view)
        if not held.views:
            del self._lists[part]
            for name, address in held.addresses.items():
                self._drop(address, (part, name))
            self._failed.pop(part, None)
            query, key = part
            self.db.unpin(query, *key)

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

    def _update(self, part: Part, earlier: Mapping[str, Resource] | None = None) -> set[str]:
        """Bring a list up to date; the names that came, went or mean another address. `earlier` are the resources that
        the proxy it is made for had until now."""
        held, (source, key) = self._lists[part], part
        try:
            addresses = source(self.db, *key)
        except QueryFailed as error:
            self._failed[part] = error  # the last good list stays
            return set()
        self._failed.pop(part, None)
        resources = dict(held.resources)
        changed: set[str] = set()
        before = held.addresses
        for name, address in addresses.items():
            if before.get(name) != address:
                found = self._take(address, (part, name))
                if found is None and address in self._failed:  # cannot be built: what it was stays
                    found = resources.get(name) or (earlier or {}).get(name) or _empty(held.type_url, name)
                changed |= _set(resources, name, found)
        for name, address in before.items():
            if addresses.get(name) != address:
                self._drop(address, (part, name))
                if name not in addresses:
                    changed |= _set(resources, name, None)
        held.addresses = addresses
        if changed:
            held.resources = resources
        return changed

    def changed(self) -> dict[View, dict[str, frozenset[str]]]:
        """Compile what is dirty. By watched view and type URL, the names that came, went or changed."""
        result: defaultdict[View, dict[str, frozenset[str]]] = defaultdict(dict)
        stale = self.db.stale()
        for source, key in stale:
            if (type_url := _TYPES.get(source)) is not None and (names := self._follow(key[0], type_url)):
                result[key[0]][type_url] = frozenset(names)
        for part, moved in self._moved(stale).items():
            held, same = self._lists[part], frozenset(moved)
            for view in held.views:
                types = result[view]
                types[held.type_url] = types[held.type_url] | same if held.type_url in types else same
                self._joined.pop((view, held.type_url), None)
        if len(self.db) > 2 * self._kept + _SLACK:
            self.collect()
        return dict(result)

    def _moved(self, stale: Iterable[tuple[Source, tuple[Any, ...]]]) -> dict[Part, set[str]]:
        """Bring up to date what is stale in lists; the names that came, went or changed, by list."""
        moved: defaultdict[Part, set[str]] = defaultdict(set)
        addresses: list[Address] = []
        for source, key in stale:
            address: Address = (source, key)  # type: ignore[assignment]  # all pins are queries
            if address in self._lists:
                if names := self._update(address):
                    moved[address] |= names
            elif source not in _TYPES:
                addresses.append(address)
        for address in addresses:
            users = self._users.get(address)
            found = self._read(address) if users else None
            if not users or (found is None and address in self._failed):
                continue
            for part, name in users:
                held = self._lists[part]
                if held.resources.get(name) != found:
                    if part not in moved:
                        held.resources = dict(held.resources)
                    moved[part] |= _set(held.resources, name, found)
        return moved

    def collect(self) -> int:
        """Forget what no watched view stands on any more; `changed` does it now and then. Returns how many values."""
        gone = self.db.collect()
        self._kept = len(self.db)
        return gone

    def shared(self) -> Iterator[tuple[str, Resource]]:
        """The type and the resource of everything that watched views have, each once."""
        for users in self._users.values():
            part, name = next(iter(users))
            held = self._lists[part]
            if (found := held.resources.get(name)) is not None:
                yield held.type_url, found

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
        for type_url in envoy_filters.TYPES:
            before, after = (
                {name: query(db, *key) for name, (query, key) in _addresses(db, view, type_url).items()}
                for db in (self.db, fork)
            )
            differ = [n for n in {**before, **after} if before.get(n) != after.get(n)]
            if differ:
                result[type_url] = {n: (before.get(n), after.get(n)) for n in differ}
        return result

    def supposing(
        self, view: View, type_url: str, name: str, replaced: Mapping[tuple[Input[Any, Any], Any], Any]
    ) -> Resource | None:
        """One resource as it would be if some inputs were others (None: absent). Raises QueryFailed."""
        fork = self.db.fork(replaced)
        address = _addresses(fork, view, type_url).get(name)
        if address is None:
            return None
        query, key = address
        found: Resource | None = query(fork, *key)
        return found

    # Explaining

    def sources(self, view: View, type_url: str, name: str) -> tuple[ObjectRef, ...]:
        """The objects a resource was compiled from."""
        address = _addresses(self.db, view, type_url).get(name)
        return _objects(self.db, *address) if address is not None else ()

    def errors(self) -> tuple[Failed, ...]:
        """What could not be compiled."""
        result = []
        for address, error in self._failed.items():
            of_view = address[0] in _TYPES and address[1][0] in self._watched
            if address not in self._users and address not in self._lists and not of_view:
                continue
            uses = self._users.get(address, ())
            users = sorted((self._lists[part].type_url, name) for part, name in uses) or [("", address[0].name)]
            cause = f"{type(error.cause).__name__}: {error.cause}"
            sources = _objects(self.db, error.source, error.key) or _objects(self.db, *address)
            result.append(Failed(*users[0], cause, sources))
        return tuple(result)


_TYPES: Mapping[Any, str] = {source: type_url for type_url, source in envoy_filters.TYPES.items()}


def _addresses(db: Db, view: View, type_url: str) -> Addresses:
    """All resources of a type, of a view that need not be watched."""
    source = envoy_filters.TYPES.get(type_url)
    return joined(db, source(db, view)) if source is not None else {}


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
