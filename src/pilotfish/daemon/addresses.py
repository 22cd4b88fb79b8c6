"""Writes the addresses that ServiceEntries get, as the leading replica."""

from __future__ import annotations

from pilotfish.daemon.feed import Feed
from pilotfish.kube.client import Client
from pilotfish.kube.errors import ApiStatusError, is_not_found
from pilotfish.kube.informer import Change
from pilotfish.kube.workqueue import WorkQueue
from pilotfish.mesh.allocation import Allocator, read
from pilotfish.mesh.inputs import Ref

KIND = "ServiceEntry"


class AddressWriter:
    """Every replica takes down who has which address; `run`, the leader's part, gives and takes away."""

    def __init__(self, client: Client, feed: Feed, ranges: tuple[str, ...]) -> None:
        self._client = client
        self._feed = feed
        self._allocator = Allocator(ranges)
        self._queue: WorkQueue[Ref] = WorkQueue("addresses")
        feed.follow(KIND, self._changed)

    async def run(self) -> None:
        """Runs until cancelled. The feed has been read before, so that all addresses in use are known."""
        await self._queue.run(self._reconcile)

    def _changed(self, change: Change) -> None:
        entry = read(change.object)
        if change.new is None:
            self._allocator.forget(entry.ref)
            return
        for ref in {entry.ref, *self._allocator.note(entry)}:
            self._queue.add(ref)

    async def _reconcile(self, ref: Ref) -> None:
        informer = self._feed.informer(KIND)
        found = informer.store.get(*ref) if informer is not None else None
        if informer is None or found is None:
            return
        entry = read(found)
        for loser in self._allocator.note(entry):
            self._queue.add(loser)
        addresses = self._allocator.settle(entry)
        if addresses is None:
            return
        # Whoever was quicker wins: the next event brings what the entry has become.
        version = {"resourceVersion": found["metadata"]["resourceVersion"]}
        patch = {"metadata": version, "status": {"addresses": addresses or None}}
        try:
            await self._client.patch(informer.resource, ref.name, patch, ref.namespace, subresource="status")
        except ApiStatusError as error:
            if not is_not_found(error):
                raise
