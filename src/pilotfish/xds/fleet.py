"""The proxies that are connected, and when they are told of changes."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pilotfish.ca.caller import Caller
from pilotfish.xds.requests import Node
from pilotfish.xds.session import Session, Source
from pilotfish.xds.wire import Pieces

QUIET_SECONDS = 0.005
"""Changes that follow each other closer than this are told together."""
LONGEST_SECONDS = 0.2
"""Nobody waits longer than this for the end of a burst."""


@dataclass(eq=False)
class Connection:
    """One stream of one proxy."""

    id: str
    node: Node
    address: str
    """`host:port` of the peer."""
    caller: Caller | None
    session: Session
    source: Source
    connected_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    sent_at: dict[str, float] = field(default_factory=dict)
    """When each type was last sent, seconds since the epoch, by type URL."""
    sent_state: dict[str, int] = field(default_factory=dict)
    """`Fleet.state` as of the last response of each type."""
    good_state: dict[str, int] = field(default_factory=dict)
    """The same of the last response of each type that the proxy acknowledged."""
    answers: list[Pieces] = field(default_factory=list)
    """To tools that asked on this stream; they go out before anything else."""
    task: asyncio.Task[None] | None = None
    """What serves the stream."""
    ended: bool = False
    """By an operator."""
    changed_since: float | None = None
    """When the first change that it has not acknowledged came, on the loop's clock; None when it has all."""

    def end(self) -> None:
        """Close the stream; its proxy will connect again."""
        self.ended = True
        if self.task is not None:
            self.task.cancel()

    @property
    def idle(self) -> bool:
        """Everything sent has been answered."""
        return not any(watch.outstanding for watch in self.session.watches.values())

    def tell(self, names: Mapping[str, frozenset[str]] | None, since: float) -> None:
        """These names (None: perhaps all) have changed. Its stream sends what the proxy wants of them."""
        self.session.changed(names)
        if self.changed_since is None:
            self.changed_since = since
        self.wake.set()


class Fleet:
    """All connections. `changed()` wakes them, after a pause that gathers bursts.

    The pause follows the load: at least as long as the last round of pushes took, so that a control plane that is busy
    gathers more and a quiet one answers at once.
    """

    def __init__(self) -> None:
        self._connections: dict[str, Connection] = {}
        self._numbers = itertools.count(1)
        self._first_change = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._cost = 0.0
        self.state = 0
        """How new the compiled state is: a number that grows with the configuration. Set by whoever compiles."""
        self.compile: Callable[[], Callable[[Connection], Mapping[str, frozenset[str]] | None]] = lambda: lambda _: None
        """Called once before a round, to bring the compiled state up to date; says what changed for a connection, by
        type URL: nothing, some names, or (None) perhaps everything."""
        self.after_push: Callable[[], None] = lambda: None
        """Called once after a round."""

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._connections.values()))

    def __len__(self) -> int:
        return len(self._connections)

    def next_id(self, node: Node) -> str:
        return f"{node.name}-{next(self._numbers)}"

    def add(self, connection: Connection) -> None:
        self._connections[connection.id] = connection

    def remove(self, connection: Connection) -> None:
        self._connections.pop(connection.id, None)

    def find(self, proxy: str) -> Connection | None:
        """The connection whose id contains `proxy`, as istioctl asks for it; the latest of several."""
        return next((one for one in reversed(list(self)) if proxy in one.id), None)

    def changed(self) -> None:
        """Something that proxies may care about is different now."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._timer is None:
            self._first_change = now
        else:
            self._timer.cancel()
        pause = max(QUIET_SECONDS, self._cost)
        latest = self._first_change + LONGEST_SECONDS
        self._timer = loop.call_at(min(now + pause, latest), self._push)

    def _push(self) -> None:
        self._timer = None
        started = time.perf_counter()
        concerned = self.compile()
        for connection in self:
            names = concerned(connection)
            if names is None or names:
                connection.tell(names, self._first_change)
        self.after_push()
        self._cost = min(time.perf_counter() - started, LONGEST_SECONDS / 2)
