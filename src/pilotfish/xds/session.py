"""What one proxy asked for, what it holds, and what it should get next.

A session is pure state: requests go in with `receive`, responses come out of `next`; the stream around it does the I/O.

For each type the proxy has a *watch*. A watch is **idle** when its last response was acknowledged or refused, and
**outstanding** from a response until then. At most one response of a type is outstanding, so a slow proxy never has a
queue: when it acknowledges, it gets the latest state. The order is *make before break*:

1. clusters, then endpoints, listeners, routes, secrets, the rest;
2. listeners and routes wait while clusters or endpoints are outstanding, so a route never names what the proxy lacks
   (Envoy acknowledges clusters only when they are warm, for which it needs the endpoints: those never wait);
3. clusters that are gone are taken away only when every other watch is idle and up to date.

Versions are content hashes: a proxy that reconnects and says what it holds is sent only what differs. What it holds is
compared as a whole once; from then on only the names that `changed` tells are looked at, so that a change costs a proxy
what changed, not what it holds.
Protocol: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakValueDictionary

from pilotfish.envoy.resource import CLUSTER, ENDPOINT, LISTENER, NAME_TABLE, PROXY_CONFIG, ROUTE, SECRET, Resource
from pilotfish.xds.held import Held
from pilotfish.xds.wire import Pieces, delta_response, sotw_response

ORDER = (CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET)
"""Push order; types that are not listed follow in the order they were first asked for."""
AGENT_TYPES = frozenset({NAME_TABLE, PROXY_CONFIG})
"""Types that Istio's agent asks for on its Envoy's stream: one resource each, and a response without it is never
acknowledged. So none is sent."""
WILDCARD_TYPES = frozenset({CLUSTER, LISTENER}) | AGENT_TYPES
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
    names: frozenset[str] = frozenset()
    """Names asked for explicitly. Proxies that ask for the same have the same object."""
    held: Held = field(default_factory=Held)
    """Version of every resource the proxy has, as far as we sent it; ABSENT for names it knows not to exist."""
    kept: Mapping[str, Resource] = field(default_factory=dict)
    """State of the world only, whole types: what the last response carried, to repeat what must not leave yet."""
    stale: set[str] = field(default_factory=set)
    """Names that may differ from what the proxy holds."""
    all_stale: bool = True
    """Everything may."""
    must_answer: bool = True
    nonce_sent: str = ""
    nonce_acked: str = ""
    outstanding: bool = False
    last_error: str = ""
    last_sent: list[str] = field(default_factory=list)
    """Names that the last response brought or changed; none once it was acknowledged."""
    replaced: dict[str, str] = field(default_factory=dict)
    """Of names whose last form was not acknowledged (yet), the version that was."""

    def accepted(self, name: str) -> str:
        """The version of a resource that the proxy has in force; empty when it has none."""
        return self.replaced.get(name, self.held.get(name, ABSENT))


@dataclass(frozen=True, slots=True)
class Response:
    type_url: str
    nonce: str
    pieces: Pieces
    """The message."""
    count: int
    """Resources it carries, removals included."""

    @property
    def size(self) -> int:
        """Bytes of the message."""
        return sum(map(len, self.pieces))


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

    def changed(self, names: Mapping[str, Iterable[str]] | None = None) -> None:
        """The source has changed: these names of these types, or (None) perhaps everything."""
        if names is None:
            for watch in self.watches.values():
                watch.all_stale = True
            return
        for type_url, some in names.items():
            if (told := self.watches.get(type_url)) is not None:
                told.stale.update(some)

    def _acknowledge(self, watch: Watch, request: Request) -> None:
        if request.nonce != watch.nonce_sent:
            return  # about an older response: the proxy will still answer the latest
        watch.outstanding = False
        watch.last_error = request.error or ""
        if request.error is None:
            watch.nonce_acked = request.nonce
            for name in watch.last_sent:
                watch.replaced.pop(name, None)
            watch.last_sent = []
            if not watch.replaced:
                watch.replaced = {}  # an emptied dictionary keeps its size

    def _subscribe_delta(self, watch: Watch, request: Request, first: bool) -> None:
        if first:
            watch.held = Held(request.initial_versions)
            # A proxy that came back with everything it holds waits for nothing.
            watch.must_answer = not request.initial_versions
            watch.wildcard = not request.subscribe and request.type_url in WILDCARD_TYPES
        asked = set(request.subscribe)
        if "*" in asked:
            asked.discard("*")
            watch.wildcard = watch.all_stale = True
        if asked or request.unsubscribe:
            watch.names = _shared((watch.names | asked).difference(request.unsubscribe))
        for name in asked:
            watch.stale.add(name)
            if not first:
                watch.held.pop(name, None)  # asked again: it wants the resource, whatever it had
        for name in request.unsubscribe:
            if name == "*":
                watch.wildcard, watch.all_stale = False, True
                continue
            if watch.wildcard:
                watch.stale.add(name)
            else:
                watch.held.pop(name, None)

    def _subscribe_sotw(self, watch: Watch, request: Request, first: bool) -> None:
        names = _shared(frozenset(request.names) - {"*"})
        if first:
            watch.wildcard = "*" in request.names or (not names and request.type_url in WILDCARD_TYPES)
        elif not request.nonce:
            watch.must_answer = True
        if names != watch.names:
            for gone in watch.names - names:
                watch.held.pop(gone, None)
            watch.stale |= names ^ watch.names
            watch.names = names

    # --------------------------------------------------------------- responses

    def next(self, source: Source) -> Response | None:
        """The next response to send, or None when the proxy has all it may get now."""
        if not any(watch.stale or watch.all_stale or watch.must_answer for watch in self.watches.values()):
            return None
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
        if not (watch.stale or watch.all_stale or watch.must_answer):
            return None
        changed, missing, gone = self._compare(watch, source)
        leaving, staying = (missing + gone, []) if settle else (missing, gone)
        response = None
        if watch.type_url in AGENT_TYPES and not changed:
            watch.must_answer = False
        elif changed or leaving or watch.must_answer:
            response = self._build(watch, source, changed, leaving, staying)
        watch.stale, watch.all_stale = set(staying), False
        if response is not None and watch.type_url == CLUSTER:
            self._rewarm(one.name for one in changed)
        return response

    @staticmethod
    def _compare(watch: Watch, source: Source) -> tuple[list[Resource], list[str], list[str]]:
        """What the proxy lacks, what it asked for that does not exist, and what it holds that is no longer wanted."""
        type_url, held, names = watch.type_url, watch.held, watch.names
        every = source.every(type_url)
        candidates: Iterable[str] = watch.stale
        if watch.all_stale or watch.must_answer:
            if watch.wildcard and not names and not held:
                return list(every.values()), [], []
            candidates = dict.fromkeys((*(every if watch.wildcard else ()), *names, *held))
        changed: list[Resource] = []
        missing: list[str] = []
        gone: list[str] = []
        for name in candidates:
            named = name in names
            found = every.get(name) if named or watch.wildcard else None
            if found is None and named:
                found = source.one(type_url, name)
            version = held.get(name)
            if found is not None:
                if version != found.version:
                    changed.append(found)
            elif named:
                if version != ABSENT:
                    missing.append(name)
            elif version:
                gone.append(name)
        return changed, missing, gone

    def _build(
        self,
        watch: Watch,
        source: Source,
        changed: list[Resource],
        leaving: list[str],
        staying: list[str],
    ) -> Response:
        self._count += 1
        nonce = str(self._count)
        every = source.every(watch.type_url)
        if self.delta:
            pieces = delta_response(watch.type_url, nonce, changed, leaving, self.control_plane)
            count = len(changed) + len(leaving)
        else:
            sent = self._sotw_resources(watch, source, changed, staying)
            pieces = sotw_response(watch.type_url, nonce, sent, self.control_plane)
            count = len(sent)
        watch.last_sent = [one.name for one in changed]
        for name in watch.last_sent:
            watch.replaced.setdefault(name, watch.held.get(name, ABSENT))
        for name in leaving:
            watch.replaced.pop(name, None)
            if name in watch.names:
                watch.held[name] = ABSENT
            else:
                del watch.held[name]
        if watch.wildcard and not watch.names and not staying:
            watch.held.share(every)
        else:
            watch.held.update((one.name, one.version) for one in changed)
            watch.held.share_if_equal(every)
        watch.nonce_sent, watch.outstanding, watch.must_answer = nonce, True, False
        return Response(watch.type_url, nonce, pieces, count)

    @staticmethod
    def _sotw_resources(watch: Watch, source: Source, changed: list[Resource], staying: list[str]) -> list[Resource]:
        """Whole types repeat everything, since what is not named is deleted; the others carry what is new."""
        if watch.type_url not in WILDCARD_TYPES and not watch.must_answer:
            return changed
        every = source.every(watch.type_url) if watch.wildcard else {}
        if not watch.names and not staying:
            watch.kept = every
            return list(every.values())
        wanted = dict(every)
        for name in watch.names:
            if (found := source.one(watch.type_url, name)) is not None:
                wanted[name] = found
        if watch.type_url not in WILDCARD_TYPES:
            return list(wanted.values())
        sent = [*wanted.values(), *(watch.kept[name] for name in staying if name in watch.kept)]
        watch.kept = {one.name: one for one in sent}
        return sent

    def _rewarm(self, clusters: Iterable[str]) -> None:
        """A cluster that changed warms anew and waits for its endpoints, though Envoy does not ask for them again."""
        endpoints = self.watches.get(ENDPOINT)
        if endpoints is not None:
            for name in clusters:
                if endpoints.held.pop(name, None) is not None:
                    endpoints.stale.add(name)


_NAMES: WeakValueDictionary[int, frozenset[str]] = WeakValueDictionary()


def _shared(names: frozenset[str]) -> frozenset[str]:
    """Most proxies ask for the same endpoints: one set serves them all."""
    known = _NAMES.get(hash(names))
    if known == names:
        return known
    _NAMES[hash(names)] = names
    return names
