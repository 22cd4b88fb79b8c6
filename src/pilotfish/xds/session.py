"""What one proxy asked for, what it holds, and what it should get next.

A session is pure state: requests go in with `receive`, responses come out of `next`; the stream around it does the I/O.

For each type the proxy has a *watch*. A watch is **idle** when its last response was acknowledged or refused, and
**outstanding** from a response until then. At most one response of a type is outstanding, so a slow proxy never has a
queue: when it acknowledges, it gets the latest state. The order is *make before break*:

1. clusters, then endpoints, listeners, routes, secrets, the rest;
2. listeners and routes wait while clusters or endpoints are outstanding, so a route never names what the proxy lacks
   (Envoy acknowledges clusters only when they are warm, for which it needs the endpoints: those never wait);
3. clusters that are gone are taken away only when every other watch is idle and up to date.

Versions are content hashes: a proxy that reconnects and says what it holds is sent only what differs.
Protocol: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pilotfish.envoy.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, Resource
from pilotfish.xds.wire import delta_response, sotw_response

ORDER = (CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET)
"""Push order; types that are not listed follow in the order they were first asked for."""
WILDCARD_TYPES = frozenset({CLUSTER, LISTENER})
"""Types of which a proxy that names nothing wants everything."""
FIRST, DEPENDENT = frozenset({CLUSTER, ENDPOINT}), frozenset({LISTENER, ROUTE})

ABSENT = ""
"""The version of a name that was asked for and does not exist."""


class Source(Protocol):
    """Where resources come from: the compiled configuration of one proxy's view."""

    def every(self, type_url: str) -> Mapping[str, Resource]:
        """All resources of a wildcard type. The same object as before when nothing changed."""

    def one(self, type_url: str, name: str) -> Resource | None: ...


@dataclass(frozen=True, slots=True)
class Request:
    """A DiscoveryRequest or DeltaDiscoveryRequest, reduced to what matters after the first one of a stream.

    `names` is the whole subscription in state-of-the-world; `subscribe`, `unsubscribe` and `initial_versions` are
    delta's.
    """

    type_url: str
    nonce: str = ""
    error: str | None = None
    names: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Watch:
    """One type on one stream."""

    type_url: str
    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    """Names asked for explicitly."""
    held: dict[str, str] = field(default_factory=dict)
    """Version of every resource the proxy has, as far as we sent it; ABSENT for names it knows not to exist."""
    kept: dict[str, Resource] = field(default_factory=dict)
    """State of the world only, whole types: what the last response carried, to repeat what must not leave yet."""
    seen: Mapping[str, Resource] | None = None
    """The wildcard answer that the proxy is known to hold, to skip comparing the same object again."""
    must_answer: bool = True
    nonce_sent: str = ""
    nonce_acked: str = ""
    outstanding: bool = False
    last_error: str = ""
    last_sent: list[str] = field(default_factory=list)
    """Names that the last response brought or changed."""


@dataclass(frozen=True, slots=True)
class Response:
    type_url: str
    nonce: str
    body: bytes
    count: int
    """Resources it carries, removals included."""


@dataclass
class Session:
    """See the module. `delta` chooses the protocol of the stream, `version` labels responses for people."""

    delta: bool
    control_plane: bytes = b""
    watches: dict[str, Watch] = field(default_factory=dict)
    _count: int = 0

    # ---------------------------------------------------------------- requests

    def receive(self, request: Request) -> Watch:
        """Take a request in: subscriptions, acknowledgement or refusal. `Watch.last_error` is set by a refusal."""
        watch = self.watches.get(request.type_url)
        first = watch is None
        if watch is None:
            watch = self.watches[request.type_url] = Watch(request.type_url)
        if request.nonce and not first:
            self._acknowledge(watch, request)
        if self.delta:
            self._subscribe_delta(watch, request, first)
        elif first or not request.nonce or request.nonce == watch.nonce_sent:
            self._subscribe_sotw(watch, request, first)
        return watch

    def _acknowledge(self, watch: Watch, request: Request) -> None:
        if request.nonce != watch.nonce_sent:
            return  # about an older response: the proxy will still answer the latest
        watch.outstanding = False
        watch.last_error = request.error or ""
        if request.error is None:
            watch.nonce_acked = request.nonce

    def _subscribe_delta(self, watch: Watch, request: Request, first: bool) -> None:
        if first:
            watch.held = dict(request.initial_versions)
            # A proxy that came back with everything it holds waits for nothing.
            watch.must_answer = not request.initial_versions
            watch.wildcard = not request.subscribe and request.type_url in WILDCARD_TYPES
        for name in request.subscribe:
            if name == "*":
                watch.wildcard = True
                continue
            watch.names.add(name)
            if not first:
                watch.held.pop(name, None)  # asked again: it wants the resource, whatever it had
        for name in request.unsubscribe:
            if name == "*":
                watch.wildcard = False
                continue
            watch.names.discard(name)
            if not watch.wildcard:
                watch.held.pop(name, None)
        if request.subscribe or request.unsubscribe:
            watch.seen = None

    def _subscribe_sotw(self, watch: Watch, request: Request, first: bool) -> None:
        names = set(request.names) - {"*"}
        if first:
            watch.wildcard = "*" in request.names or (not names and request.type_url in WILDCARD_TYPES)
        elif not request.nonce:
            watch.must_answer = True
        if names != watch.names:
            for gone in watch.names - names:
                watch.held.pop(gone, None)
            watch.names = names
            watch.seen = None

    # --------------------------------------------------------------- responses

    def next(self, source: Source) -> Response | None:
        """The next response to send, or None when the proxy has all it may get now."""
        waiting = False
        for watch in self._ordered():
            if watch.outstanding:
                waiting = waiting or watch.type_url in FIRST
                continue
            if waiting and watch.type_url in DEPENDENT:
                continue
            if response := self._respond(watch, source, settle=watch.type_url != CLUSTER):
                return response
        clusters = self.watches.get(CLUSTER)
        if clusters is None or any(watch.outstanding for watch in self.watches.values()):
            return None
        return self._respond(clusters, source, settle=True)

    def _ordered(self) -> Iterable[Watch]:
        known = [self.watches[url] for url in ORDER if url in self.watches]
        return known + [watch for url, watch in self.watches.items() if url not in ORDER]

    def _respond(self, watch: Watch, source: Source, *, settle: bool) -> Response | None:
        """Compare what the watch wants with what the proxy holds. Without `settle`, what is gone stays for now."""
        wanted = self._wanted(watch, source)
        if wanted is None:
            return None
        changed = [one for one in wanted.values() if watch.held.get(one.name) != one.version]
        missing = [n for n in watch.names if n not in wanted and watch.held.get(n) != ABSENT]
        gone = [n for n, v in watch.held.items() if n not in wanted and n not in watch.names and v != ABSENT]
        leaving = missing + (gone if settle else [])
        if changed or leaving or watch.must_answer:
            staying = [] if settle else gone
            return self._build(watch, wanted, changed, leaving, staying)
        if settle:
            watch.seen = wanted if watch.wildcard and not watch.names else None
        return None

    def _wanted(self, watch: Watch, source: Source) -> Mapping[str, Resource] | None:
        """None when the proxy is known to hold exactly this."""
        if watch.wildcard and not watch.names:
            every = source.every(watch.type_url)
            return None if every is watch.seen and not watch.must_answer else every
        found = {name: one for name in watch.names if (one := source.one(watch.type_url, name)) is not None}
        return {**source.every(watch.type_url), **found} if watch.wildcard else found

    def _build(
        self,
        watch: Watch,
        wanted: Mapping[str, Resource],
        changed: list[Resource],
        leaving: list[str],
        staying: list[str],
    ) -> Response:
        self._count += 1
        nonce = str(self._count)
        if self.delta:
            body = delta_response(watch.type_url, nonce, changed, leaving, self.control_plane)
            count = len(changed) + len(leaving)
        else:
            sent = self._sotw_resources(watch, wanted, changed, staying)
            body = sotw_response(watch.type_url, nonce, sent, self.control_plane)
            count = len(sent)
        watch.last_sent = [one.name for one in changed]
        for one in changed:
            watch.held[one.name] = one.version
        for name in leaving:
            if name in watch.names:
                watch.held[name] = ABSENT
            else:
                del watch.held[name]
        watch.nonce_sent, watch.outstanding, watch.must_answer, watch.seen = nonce, True, False, None
        if watch.type_url == CLUSTER:
            self._rewarm(one.name for one in changed)
        return Response(watch.type_url, nonce, body, count)

    @staticmethod
    def _sotw_resources(
        watch: Watch, wanted: Mapping[str, Resource], changed: list[Resource], staying: list[str]
    ) -> list[Resource]:
        """Whole types repeat everything, since what is not named is deleted; the others carry what is new."""
        if watch.type_url not in WILDCARD_TYPES:
            return list(wanted.values()) if watch.must_answer else changed
        sent = [*wanted.values(), *(watch.kept[name] for name in staying if name in watch.kept)]
        watch.kept = {one.name: one for one in sent}
        return sent

    def _rewarm(self, clusters: Iterable[str]) -> None:
        """A cluster that changed warms anew and waits for its endpoints, though Envoy does not ask for them again."""
        endpoints = self.watches.get(ENDPOINT)
        if endpoints is not None:
            for name in clusters:
                endpoints.held.pop(name, None)
