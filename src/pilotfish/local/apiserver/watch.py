"""watch: a stream of changes. Each change is decoded and encoded once, whoever watches."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Any

from aiohttp import web

from pilotfish.local.apiserver import table
from pilotfish.local.apiserver.core import Core, encode, prefix_of
from pilotfish.local.apiserver.errors import ApiError, FieldError, gone, invalid
from pilotfish.local.apiserver.read import Filter, check_version, filter_of
from pilotfish.local.apiserver.request import Request
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.store import Bucket, Change, Item

BOOKMARK_SECONDS = 60
LONGEST = 3600
"""Seconds after which a watch ends by itself; half of it to all of it, so that clients do not come back together."""
MAX_BEHIND = 10_000
"""Changes that wait for a slow client before its watch is ended with 410."""

INITIAL_END = "k8s.io/initial-events-end"


def _check(request: Request) -> None:
    query = request.query
    errors = []
    initial = query.get("sendInitialEvents")
    match = query.get("resourceVersionMatch", "")
    if initial is not None and match != "NotOlderThan":
        errors.append(
            FieldError.forbidden(
                "resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            )
        )
    if match and initial is None:
        errors.append(
            FieldError.forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            )
        )
    if errors:
        raise invalid("ListOptions", "meta.k8s.io", "", errors)


class _Stream:
    """One watch: which changes it wants, in which form, and those not yet written."""

    def __init__(
        self, core: Core, request: Request, resource: Resource, bucket: Bucket, chosen: Filter, after: int
    ) -> None:
        self.core, self.request, self.resource, self.bucket, self.chosen = core, request, resource, bucket, chosen
        self.after = after
        """The revision it starts from; one that is not reached yet is waited for."""
        form = request.accept
        self.form = (form.as_, form.v, request.query.get("includeObject", "") if form.as_ == "Table" else "")
        self.head = True
        self.waiting: deque[Change] = deque()
        self.overrun = False
        self.revision = 0
        self._wake: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.plain = prefix_of(resource)

    def offer(self, change: Change) -> None:
        """A change of the bucket; keeps it if it may matter."""
        if change.rv <= self.after or not change.key.startswith(self.chosen.prefix):
            return
        if len(self.waiting) >= MAX_BEHIND:
            self.overrun = True
        else:
            self.waiting.append(change)
        self.wake()

    def wake(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Until something waits to be written, or so many seconds."""
        if self.waiting or self.overrun:
            return
        self._wake = self._loop.create_future()
        timer = self._loop.call_later(max(seconds, 0), self.wake)
        try:
            await self._wake
        finally:
            timer.cancel()
            self._wake = None

    def classify(self, change: Change) -> tuple[str, Item] | None:
        """What this watch sees of a change: entering a selection is ADDED, leaving it DELETED."""
        test = self.chosen.test
        if test is None:
            before, after = change.old is not None, change.new is not None
        else:
            before = change.old is not None and test(_object(change, "old", change.old))
            after = change.new is not None and test(_object(change, "new", change.new))
        if after:
            return ("MODIFIED" if before else "ADDED"), change.last
        if not before:
            return None
        return "DELETED", change.last

    async def event(self, change: Change) -> bytes | None:
        seen = self.classify(change)
        if seen is None:
            return None
        kind, item = seen
        gone_from_view = kind == "DELETED" and change.new is not None
        if gone_from_view and change.old is not None:
            return await self._left(change, change.old)
        key = (self.resource, kind, self.form, self.head if self.form[0] == "Table" else True)
        line: bytes | None = change.shared.get(key)
        if line is None:
            line = change.shared[key] = await self.line(kind, item)
        self.head = False
        return line

    async def _left(self, change: Change, old: Item) -> bytes:
        """An object that still exists but is selected no longer: its former state, with the new revision."""
        obj = old.decode()
        obj["metadata"]["resourceVersion"] = str(change.rv)
        return await self.line("DELETED", Item(change.rv, encode(obj)))

    async def line(self, kind: str, item: Item) -> bytes:
        as_, version, include = self.form
        if not as_ and item.data.startswith(self.plain):
            return b'{"type":"%s","object":%s}\n' % (kind.encode(), item.data)
        obj: Object = await self.core.load(self.resource, item)
        if as_ == "Table":
            obj = table.of(self.resource, [obj], version, include, head=self.head)
            self.head = False
        elif as_:
            obj = table.partial(obj, version)
        return encode({"type": kind, "object": obj}) + b"\n"

    def bookmark(self, *, initial_end: bool = False) -> bytes:
        metadata: dict[str, Any] = {"resourceVersion": str(max(self.revision, self.after))}
        if initial_end:
            metadata["annotations"] = {INITIAL_END: "true"}
        as_, version, _ = self.form
        obj: Object = {"kind": self.resource.kind, "apiVersion": self.resource.api_version, "metadata": metadata}
        if as_ == "Table":
            obj = {"kind": "Table", "apiVersion": f"meta.k8s.io/{version}", "metadata": metadata, "rows": []}
            obj |= {"columnDefinitions": None}
            if initial_end:
                bare = {"kind": "PartialObjectMetadata", "apiVersion": f"meta.k8s.io/{version}", "metadata": metadata}
                obj["rows"] = [{"cells": [], "object": bare}]
        elif as_:
            obj = table.partial(obj, version)
        return encode({"type": "BOOKMARK", "object": obj}) + b"\n"


def _object(change: Change, which: str, item: Item) -> Object:
    """The decoded object of a change, shared by all watches."""
    known: Object | None = change.shared.get(which)
    if known is None:
        known = change.shared[which] = item.decode()
    return known


async def watch(core: Core, request: Request, resource: Resource) -> web.StreamResponse:
    _check(request)
    chosen = filter_of(request, resource)
    bucket = core.registry.bucket(resource)
    text = request.query.get("resourceVersion", "")
    initial = request.query.get("sendInitialEvents")
    version = check_version(core, request, future=initial is None)
    timeout = request.number("timeoutSeconds") or random.uniform(LONGEST / 2, LONGEST)  # noqa: S311 (spreads load)
    stream = _Stream(core, request, resource, bucket, chosen, version or 0)
    failure: ApiError | None = None
    state: list[Item] = []
    if request.flag("sendInitialEvents") or (initial is None and text in ("", "0")):
        state = [bucket.items[key] for key in bucket.range(chosen.prefix)]
    elif version:
        try:
            for change in bucket.since(version):
                stream.offer(change)
        except ApiError as error:
            failure = error
    stream.revision = core.store.revision
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"})
    response.enable_chunked_encoding()
    bucket.listeners.add(stream.offer)
    core.custom.watching(resource, stream.wake)
    try:
        await response.prepare(request.http)
        if failure is not None:
            await response.write(_error(failure))
            return response
        await _initial(stream, response, state)
        if request.flag("sendInitialEvents") and request.flag("allowWatchBookmarks"):
            await response.write(stream.bookmark(initial_end=True))
        await _follow(stream, response, timeout)
    finally:
        bucket.listeners.discard(stream.offer)
        core.custom.unwatching(resource, stream.wake)
    await response.write_eof()
    return response


def _error(error: ApiError) -> bytes:
    return encode({"type": "ERROR", "object": error.status()}) + b"\n"


async def _initial(stream: _Stream, response: web.StreamResponse, state: list[Item]) -> None:
    test = stream.chosen.test
    batch: list[bytes] = []
    size = 0
    for item in state:
        if test is None or test(item.decode()):
            batch.append(await stream.line("ADDED", item))
            size += len(batch[-1])
            if size > 1 << 18:
                await response.write(b"".join(batch))
                batch, size = [], 0
    if batch:
        await response.write(b"".join(batch))


async def _follow(stream: _Stream, response: web.StreamResponse, seconds: float) -> None:
    """Write changes until the time is up, the kind is gone, or the client is."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    bookmarks = stream.request.flag("allowWatchBookmarks")
    next_bookmark = min(loop.time() + BOOKMARK_SECONDS, end - 1.0 if seconds > 2 else end)
    while (now := loop.time()) < end:
        if stream.overrun:
            await response.write(_error(gone("the client reads too slowly; list and watch again")))
            return
        if bookmarks and now >= next_bookmark:
            stream.revision = stream.core.store.revision if not stream.waiting else stream.revision
            await response.write(stream.bookmark())
            next_bookmark = now + BOOKMARK_SECONDS
            if next_bookmark > end - 1.0 > now:
                next_bookmark = end - 1.0
        if stream.waiting:
            lines: list[bytes] = []
            while stream.waiting:
                change = stream.waiting.popleft()
                stream.revision = change.rv
                line = await stream.event(change)
                if line is not None:
                    lines.append(line)
            if lines:
                await response.write(b"".join(lines))
            continue
        if not stream.core.custom.serves(stream.resource):
            return
        await stream.wait(min(end, next_bookmark if bookmarks else end) - now)
