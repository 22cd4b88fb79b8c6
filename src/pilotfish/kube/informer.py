"""A live copy of the objects of one kind: list, then watch, and say what changed."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, NamedTuple

from pilotfish.kube.client import Client
from pilotfish.kube.errors import ApiStatusError, KubeError, is_expired
from pilotfish.kube.meta import Key, key_of
from pilotfish.kube.resources import Object, ResourceType

_log = logging.getLogger(__name__)
_BACKOFF = (0.1, 30.0)  # first and longest pause before the next try, seconds


class Change(NamedTuple):
    """`old` is None for a new object, `new` for one that is gone. Both are shared: do not change them."""

    old: Object | None
    new: Object | None

    @property
    def object(self) -> Object:
        """The object as it is now, or was last."""
        found = self.new if self.new is not None else self.old
        assert found is not None  # noqa: S101 - a change has one side at least
        return found


Handler = Callable[[Change], None]
IndexFunction = Callable[[Object], Iterable[str]]
"""The keys under which an object is found."""


_IDENTITY = ("name", "namespace", "uid", "resourceVersion")


def identity(obj: Object) -> Object:
    """To `keep`: which object it is, in which version."""
    meta = {key: value for key, value in obj["metadata"].items() if key in _IDENTITY}
    return {"apiVersion": sys.intern(obj["apiVersion"]), "kind": sys.intern(obj["kind"]), "metadata": meta}


class Store:
    """Objects by (namespace, name), and by the keys of named indexes. What it returns is shared: do not change it."""

    def __init__(self) -> None:
        self._objects: dict[Key, Object] = {}
        self._functions: dict[str, IndexFunction] = {}
        self._indexes: dict[str, defaultdict[str, dict[Key, None]]] = {}
        self._index_by_namespace: defaultdict[str, dict[Key, None]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._objects)

    def values(self) -> list[Object]:
        return list(self._objects.values())

    def get(self, namespace: str, name: str) -> Object | None:
        return self._objects.get((namespace, name))

    def in_namespace(self, namespace: str) -> list[Object]:
        return [self._objects[key] for key in self._index_by_namespace.get(namespace, ())]

    def by_index(self, index: str, value: str) -> list[Object]:
        return [self._objects[key] for key in self._indexes[index].get(value, ())]

    def add_index(self, index: str, function: IndexFunction) -> None:
        """Keep an index from now on. The same name twice is the same index."""
        if index in self._functions:
            return
        self._functions[index] = function
        self._indexes[index] = defaultdict(dict)
        for key, obj in self._objects.items():
            for value in function(obj):
                self._indexes[index][value][key] = None

    def put(self, key: Key, obj: Object) -> Object | None:
        """Returns what was there."""
        old = self._objects.get(key)
        self._objects[key] = obj
        self._index_by_namespace[key[0]][key] = None
        for index, function in self._functions.items():
            before = set(function(old)) if old is not None else set()
            after = set(function(obj))
            self._unindex(index, key, before - after)
            for value in after - before:
                self._indexes[index][value][key] = None
        return old

    def remove(self, key: Key) -> Object | None:
        old = self._objects.pop(key, None)
        if old is not None:
            self._drop(self._index_by_namespace, key[0], key)
            for index, function in self._functions.items():
                self._unindex(index, key, set(function(old)))
        return old

    def _unindex(self, index: str, key: Key, values: set[str]) -> None:
        for value in values:
            self._drop(self._indexes[index], value, key)

    @staticmethod
    def _drop(entries: defaultdict[str, dict[Key, None]], value: str, key: Key) -> None:
        keys = entries.get(value)
        if keys is not None:
            keys.pop(key, None)
            if not keys:
                del entries[value]


class Informer:
    """Keeps `store` equal to what the server has, and calls the handlers, in order, for every change.

    It survives restarts of the server: a lost watch is resumed where it was, and when the server no longer knows that
    place the list is read again and only the differences are told. A replaced object (same name, other uid) is told as
    two changes: one gone, one new.
    """

    def __init__(
        self,
        client: Client,
        resource: ResourceType,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
        transform: Callable[[Object], Object] | None = None,
        keep: Callable[[Object], Object] | None = None,
    ) -> None:
        """`transform` shapes an object before it is stored; managedFields are always dropped, nobody reads them.

        `keep` says what of it stays in the store once the handlers have seen the whole; a handler that is added later
        is told no more than that.
        """
        self.resource = resource
        self.store = Store()
        self.synced = asyncio.Event()
        """Set when the first list is in the store and the handlers have seen it."""
        self.last_error: KubeError | None = None
        """Why the server cannot be listed or watched at present; None when it can."""
        self._client = client
        self._namespace = namespace
        self._labels = labels
        self._fields = fields
        self._metadata_only = metadata_only
        self._transform = transform
        self._keep = keep
        self._handlers: list[Handler] = []
        self._resource_version = ""
        self._waiting: dict[asyncio.Future[None], Callable[[], bool]] = {}

    def add_handler(self, handler: Handler) -> None:
        """`handler` is called for every change from now on, and first for every object that is there already.

        It runs inside the watch loop: it must be quick and must not wait (put a key on a WorkQueue).
        """
        self._handlers.append(handler)
        for obj in self.store.values():
            self._call(handler, Change(None, obj))

    def remove_handler(self, handler: Handler) -> None:
        self._handlers.remove(handler)

    async def changes(self) -> AsyncIterator[Change]:
        """Every change as an endless iterator, beginning with what is there already."""
        queue: asyncio.Queue[Change] = asyncio.Queue()
        self.add_handler(queue.put_nowait)
        try:
            while True:
                yield await queue.get()
        finally:
            self.remove_handler(queue.put_nowait)

    async def caught_up(self, resource_version: str, seconds: float = 5.0) -> bool:
        """Wait until the store is as new as a version read or written elsewhere; False when that takes too long.

        Only for an informer without selectors: one that does not hear of a change does not move on. Versions are
        compared as numbers (https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions).
        """
        wanted = int(resource_version)
        return await self.until(lambda: int(self._resource_version or 0) >= wanted, seconds)

    async def until(self, predicate: Callable[[], bool], seconds: float = 5.0) -> bool:
        """Wait until `predicate`, which looks at the store, holds; False when that takes too long."""
        if predicate():
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = predicate
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return False
        finally:
            self._waiting.pop(future, None)
        return True

    def _wake(self) -> None:
        for future, predicate in self._waiting.items():
            if not future.done() and predicate():
                future.set_result(None)

    async def run(self) -> None:
        """Runs until cancelled."""
        pause = _BACKOFF[0]
        while True:
            progress = False
            try:
                if not self._resource_version:
                    await self._relist()
                    progress = True
                async for event in self._client.watch(
                    self.resource,
                    self._namespace,
                    resource_version=self._resource_version,
                    labels=self._labels,
                    fields=self._fields,
                    metadata_only=self._metadata_only,
                ):
                    self.last_error = None
                    progress = True
                    self._take(event.type, event.object)
            except ApiStatusError as error:
                self.last_error = error
                if is_expired(error):
                    self._resource_version = ""
                else:
                    _log.warning("cannot watch %s: %s", self.resource.group_resource, error)
            except KubeError as error:
                self.last_error = error
                _log.info("cannot watch %s: %s", self.resource.group_resource, error)
            pause = _BACKOFF[0] if progress else min(pause * 2, _BACKOFF[1])
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def _relist(self) -> None:
        find: dict[str, Any] = {
            "labels": self._labels,
            "fields": self._fields,
            "metadata_only": self._metadata_only,
        }
        if self.store:
            listed = await self._client.list(self.resource, self._namespace, **find)
            current = {key_of(item): item for item in listed.items}
            gone = [key for key in self.store if key not in current]
            for key in gone:
                self._delete(key, None)
            for item in current.values():
                self._put(item)
            self._resource_version = listed.resource_version
        else:
            # There is nothing to compare with, so that all of a long list need not be in memory at once. If it breaks
            # off, what has come is compared the next time.
            version = ""
            async for page in self._client.pages(self.resource, self._namespace, **find):
                for item in page.items:
                    self._put(item)
                version = page.resource_version
            self._resource_version = version
        self.last_error = None
        self.synced.set()
        self._wake()

    def _take(self, event_type: str, obj: Object) -> None:
        if event_type == "DELETED":
            self._delete(key_of(obj), obj)
        elif event_type != "BOOKMARK":
            self._put(obj)
        self._resource_version = obj["metadata"]["resourceVersion"]
        if self._waiting:
            self._wake()

    def _put(self, obj: Object) -> None:
        key = key_of(obj)
        meta = obj["metadata"]
        old = self.store.get(*key)
        if old is not None:
            if old["metadata"].get("uid") != meta.get("uid"):
                self._delete(key, None)
            elif old["metadata"].get("resourceVersion") == meta.get("resourceVersion"):
                return
        obj = self._shape(obj)
        old = self.store.put(key, self._keep(obj) if self._keep else obj)
        self._notify(Change(old, obj))

    def _delete(self, key: Key, last: Object | None) -> None:
        old = self.store.remove(key)
        if old is not None:
            # The event carries the last state, which may be newer than ours.
            self._notify(Change(self._shape(last) if last is not None else old, None))

    def _shape(self, obj: Object) -> Object:
        obj["metadata"].pop("managedFields", None)
        return self._transform(obj) if self._transform else obj

    def _notify(self, change: Change) -> None:
        for handler in tuple(self._handlers):
            self._call(handler, change)

    def _call(self, handler: Handler, change: Change) -> None:
        try:
            handler(change)
        except Exception:  # noqa: BLE001 - one handler's bug must not stop the others' view of the world
            _log.exception("a handler failed on a change of %s", self.resource.group_resource)


class Informers:
    """The informers of one process: whoever asks for the same kind gets the same one."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._informers: dict[tuple[ResourceType, str, str, str, bool], Informer] = {}
        self._tasks: dict[tuple[ResourceType, str, str, str, bool], asyncio.Task[None]] = {}
        self._running = False

    def get(
        self,
        resource: ResourceType,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
        transform: Callable[[Object], Object] | None = None,
        keep: Callable[[Object], Object] | None = None,
    ) -> Informer:
        """Runs once `start` has been called. `transform` and `keep` are those of the first who asks."""
        key = (resource, namespace, labels, fields, metadata_only)
        if key not in self._informers:
            self._informers[key] = Informer(
                self.client,
                resource,
                namespace,
                labels=labels,
                fields=fields,
                metadata_only=metadata_only,
                transform=transform,
                keep=keep,
            )
            if self._running:
                self._run(key)
        return self._informers[key]

    def has(self, resource: ResourceType) -> bool:
        """Whether whole objects of the kind, of all namespaces, are kept."""
        return (resource, "", "", "", False) in self._informers

    def start(self) -> None:
        self._running = True
        for key in self._informers:
            self._run(key)

    async def wait_synced(self) -> None:
        await asyncio.gather(*(one.synced.wait() for one in self._informers.values()))

    async def drop(self, informer: Informer) -> None:
        """Stop one, for a kind that is gone."""
        for key, one in list(self._informers.items()):
            if one is informer:
                del self._informers[key]
                await _cancel(self._tasks.pop(key, None))

    async def stop(self) -> None:
        self._running = False
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            await _cancel(task)

    def _run(self, key: tuple[ResourceType, str, str, str, bool]) -> None:
        if key not in self._tasks:
            name = f"informer {key[0].group_resource}"
            self._tasks[key] = asyncio.create_task(self._informers[key].run(), name=name)


async def _cancel(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
