"""Events about objects (`kubectl describe`, `kubectl get events`), told once and then counted."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pilotfish.kube.client import Client
from pilotfish.kube.errors import ApiStatusError, KubeError, is_not_found
from pilotfish.kube.meta import format_time, now
from pilotfish.kube.resources import EVENTS, Object

_log = logging.getLogger(__name__)

EventType = Literal["Normal", "Warning"]

# The limits of client-go's correlator (tools/record/events_cache.go).
_REMEMBERED = 4096
_SIMILAR_LIMIT = 10  # messages that differ, within the window, before they are joined
_SIMILAR_SECONDS = 600.0
_BURST = 25  # events about one object
_REFILL_SECONDS = 300.0  # for each event beyond the burst
_WAITING = 1000


@dataclass(slots=True)
class _Similar:
    messages: set[str]
    last: float


@dataclass(slots=True)
class _Bucket:
    tokens: float
    last: float


class EventRecorder:
    """Writes events in the background. `record` never waits and never fails: an event is not worth a controller."""

    def __init__(self, client: Client, component: str, host: str = "") -> None:
        self._client = client
        self._source = {"component": component} | ({"host": host} if host else {})
        self._known: OrderedDict[tuple[str, ...], Object] = OrderedDict()
        self._similar: OrderedDict[tuple[str, ...], _Similar] = OrderedDict()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._queue: asyncio.Queue[tuple[tuple[str, ...], Object]] = asyncio.Queue(_WAITING)

    def record(
        self, obj: Mapping[str, Any], event_type: EventType, reason: str, message: str, *, field_path: str = ""
    ) -> None:
        """Tell what happened to `obj`, which needs its apiVersion, kind and metadata. `reason` is one CamelCase word.

        `field_path` names a part of it, such as `spec.containers{app}`.
        """
        meta = obj["metadata"]
        if not self._allowed(str(meta.get("uid", ""))):
            return
        involved = {
            "apiVersion": obj.get("apiVersion", ""),
            "kind": obj.get("kind", ""),
            "name": meta["name"],
            "namespace": meta.get("namespace", ""),
            "uid": meta.get("uid", ""),
            "resourceVersion": meta.get("resourceVersion", ""),
            "fieldPath": field_path,
        }
        involved = {key: value for key, value in involved.items() if value}
        about = (*(involved.get(key, "") for key in ("kind", "namespace", "name", "uid", "fieldPath")), reason)
        about = (*about, event_type)
        joined = self._joined(about, message)
        key = about if joined else (*about, message)
        moment = format_time(now())
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{meta['name'][:200]}.{time.time_ns():x}{secrets.token_hex(2)}",
                # Events of cluster-scoped objects live in `default`.
                "namespace": meta.get("namespace") or "default",
            },
            "involvedObject": involved,
            "reason": reason,
            "message": f"(combined from similar events): {message}" if joined else message,
            "source": self._source,
            "firstTimestamp": moment,
            "lastTimestamp": moment,
            "count": 1,
            "type": event_type,
            "reportingComponent": self._source["component"],
            "reportingInstance": self._source.get("host", ""),
        }
        try:
            self._queue.put_nowait((key, event))
        except asyncio.QueueFull:
            _log.debug("an event about %s %s is dropped: too many wait", involved.get("kind"), meta["name"])

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            key, event = await self._queue.get()
            try:
                await self._write(key, event)
            except KubeError as error:
                _log.debug("event not written: %s", error)
            self._queue.task_done()

    async def flush(self) -> None:
        """Wait until everything recorded so far is written (`run` must be running)."""
        await self._queue.join()

    async def _write(self, key: tuple[str, ...], event: Object) -> None:
        known = self._known.get(key)
        if known is not None:
            meta = known["metadata"]
            patch = {
                "count": known["count"] + 1,
                "lastTimestamp": event["lastTimestamp"],
                "message": event["message"],
            }
            try:
                self._remember(key, await self._client.patch(EVENTS, meta["name"], patch, meta["namespace"]))
            except ApiStatusError as error:
                if not is_not_found(error):
                    raise
            else:
                return
        self._remember(key, await self._client.create(EVENTS, event))

    def _remember(self, key: tuple[str, ...], event: Object) -> None:
        self._known[key] = {
            "metadata": {"name": event["metadata"]["name"], "namespace": event["metadata"]["namespace"]},
            "count": event.get("count") or 1,
        }
        self._known.move_to_end(key)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def _joined(self, about: tuple[str, ...], message: str) -> bool:
        """Whether so many different messages came about the same thing that they are told as one."""
        moment = time.monotonic()
        similar = self._similar.get(about)
        if similar is None or moment - similar.last > _SIMILAR_SECONDS:
            similar = self._similar[about] = _Similar(set(), moment)
        similar.last = moment
        self._similar.move_to_end(about)
        while len(self._similar) > _REMEMBERED:
            self._similar.popitem(last=False)
        if message in similar.messages:
            return False
        if len(similar.messages) >= _SIMILAR_LIMIT:
            return True
        similar.messages.add(message)
        return False

    def _allowed(self, uid: str) -> bool:
        """A token bucket for each object: a burst, then one in five minutes."""
        moment = time.monotonic()
        bucket = self._buckets.get(uid)
        if bucket is None:
            bucket = self._buckets[uid] = _Bucket(_BURST, moment)
        bucket.tokens = min(_BURST, bucket.tokens + (moment - bucket.last) / _REFILL_SECONDS)
        bucket.last = moment
        self._buckets.move_to_end(uid)
        while len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True
