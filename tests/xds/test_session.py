"""The state of a stream: what a proxy is sent, when, and what it is not sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotfish.envoy.resource import CLUSTER, ENDPOINT, LISTENER, NAME_TABLE, PROXY_CONFIG, ROUTE, Resource, finish
from pilotfish.xds.session import Request, Response, Session


def resource(name: str, version: str) -> Resource:
    return finish(CLUSTER, name, f"{name}={version}".encode(), version)


@dataclass
class Config:
    """Resources by type; `set` replaces the mapping and tells the sessions what differs, as a compiler would."""

    types: dict[str, dict[str, Resource]] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)

    def set(self, type_url: str, **versions: str) -> None:
        old = self.types.get(type_url, {})
        new = self.types[type_url] = {n: resource(n, v) for n, v in versions.items()}
        for session in self.sessions:
            session.changed({type_url: [n for n in {**old, **new} if old.get(n) != new.get(n)]})

    def every(self, type_url: str) -> Mapping[str, Resource]:
        return self.types.setdefault(type_url, {})

    def one(self, type_url: str, name: str) -> Resource | None:
        return self.every(type_url).get(name)


class Proxy:
    """A client that applies delta responses as Envoy does and acknowledges when told to."""

    def __init__(self, config: Config) -> None:
        self.config, self.session = config, Session(delta=True)
        config.sessions.append(self.session)
        self.got: dict[str, dict[str, str]] = {}
        self.unanswered: list[Response] = []
        self.log: list[str] = []

    def ask(self, type_url: str, *names: str, **versions: str) -> None:
        self.session.receive(Request(type_url, subscribe=names, initial_versions=versions))
        self.got.setdefault(type_url, dict(versions))

    def pump(self, *, ack: bool = True) -> list[Response]:
        sent = []
        while (response := self.session.next(self.config)) is not None:
            sent.append(response)
            self.log.append(response.type_url.rsplit(".", 1)[1])
            self.apply(response)
            self.unanswered.append(response)
            if ack:
                self.ack()
        return sent

    def ack(self, error: str | None = None) -> None:
        for response in self.unanswered:
            self.session.receive(Request(response.type_url, nonce=response.nonce, error=error))
        self.unanswered.clear()

    def apply(self, response: Response) -> None:
        held = self.got[response.type_url]
        watch = self.session.watches[response.type_url]
        for name in [n for n in held if n not in watch.held or watch.held[n] == ""]:
            del held[name]
        held.update({n: v for n, v in watch.held.items() if v})


@pytest.fixture
def config() -> Config:
    made = Config()
    made.set(CLUSTER, a="1", b="1")
    made.set(ENDPOINT, a="1", b="1")
    made.set(LISTENER, l="1")
    made.set(ROUTE, r="1")
    return made


@pytest.fixture
def proxy(config: Config) -> Proxy:
    one = Proxy(config)
    one.ask(CLUSTER)
    one.ask(ENDPOINT, "a", "b")
    one.ask(LISTENER)
    one.ask(ROUTE, "r")
    one.pump()
    one.log.clear()
    return one


def test_first_answers_come_in_order(config: Config) -> None:
    """Clusters, endpoints, listeners, routes, whatever the order of the requests."""
    one = Proxy(config)
    for type_url, *names in ((ROUTE, "r"), (LISTENER,), (ENDPOINT, "a"), (CLUSTER,)):
        one.ask(type_url, *names)
    one.pump()
    assert one.log == ["Cluster", "ClusterLoadAssignment", "Listener", "RouteConfiguration"]


def test_nothing_changed_sends_nothing(proxy: Proxy) -> None:
    """An up-to-date proxy is left alone."""
    assert proxy.pump() == []


def test_only_what_changed_is_sent(proxy: Proxy, config: Config) -> None:
    """One changed cluster is one resource, and its endpoints follow, since it warms anew."""
    config.set(CLUSTER, a="2", b="1")
    assert [(r.type_url, r.count) for r in proxy.pump()] == [(CLUSTER, 1), (ENDPOINT, 1)]


def test_routes_wait_for_clusters(proxy: Proxy, config: Config) -> None:
    """A route to a new cluster is held back until the proxy has acknowledged the cluster."""
    config.set(CLUSTER, a="1", b="1", c="1")
    config.set(ROUTE, r="2")
    proxy.pump(ack=False)
    assert proxy.log == ["Cluster"]
    proxy.ack()
    proxy.pump()
    assert proxy.log == ["Cluster", "RouteConfiguration"]


def test_endpoints_never_wait_for_clusters(proxy: Proxy, config: Config) -> None:
    """Envoy acknowledges clusters only when warm, for which it needs endpoints."""
    config.set(CLUSTER, a="2", b="1")
    config.set(ENDPOINT, a="2", b="1")
    proxy.pump(ack=False)
    assert proxy.log == ["Cluster", "ClusterLoadAssignment"]


def test_clusters_leave_last(proxy: Proxy, config: Config) -> None:
    """A cluster is taken away only after the routes that no longer name it are acknowledged."""
    config.set(CLUSTER, a="1")
    config.set(ROUTE, r="2")
    proxy.pump(ack=False)
    assert proxy.log == ["RouteConfiguration"]
    assert proxy.got[CLUSTER] == {"a": "1", "b": "1"}
    proxy.ack()
    proxy.pump()
    assert proxy.log == ["RouteConfiguration", "Cluster"]
    assert proxy.got[CLUSTER] == {"a": "1"}


def test_one_outstanding_response_a_type(proxy: Proxy, config: Config) -> None:
    """While a response is unanswered, changes pile up into one; the proxy then gets the latest."""
    for version in "2345":
        config.set(LISTENER, l=version)
        proxy.pump(ack=False)
    assert proxy.log == ["Listener"]
    proxy.ack()
    proxy.pump()
    assert proxy.log == ["Listener", "Listener"]
    assert proxy.got[LISTENER] == {"l": "5"}


def test_refused_version_is_not_sent_again(proxy: Proxy, config: Config) -> None:
    """After a refusal the same bytes are not repeated; a mended version is sent, and the error is forgotten."""
    config.set(LISTENER, l="bad")
    proxy.pump(ack=False)
    proxy.ack(error="no such filter")
    assert proxy.session.watches[LISTENER].last_error == "no such filter"
    assert proxy.pump() == []
    config.set(LISTENER, l="good")
    proxy.pump()
    assert proxy.session.watches[LISTENER].last_error == ""


def test_a_change_costs_what_changed(proxy: Proxy, config: Config) -> None:
    """Of what a proxy holds, only the names that changed are looked at."""
    asked: list[str] = []

    class Watched(dict[str, Resource]):
        def get(self, name: str, default: Any = None) -> Any:
            asked.append(name)
            return super().get(name, default)

        def __iter__(self) -> Iterator[str]:
            raise AssertionError("all of them are looked at")

    config.set(ENDPOINT, a="1", b="2")
    config.types[ENDPOINT] = Watched(config.types[ENDPOINT])
    assert [(r.type_url, r.count) for r in proxy.pump()] == [(ENDPOINT, 1)]
    assert asked == ["b"]


def test_told_of_no_names_everything_is_compared(proxy: Proxy, config: Config) -> None:
    """When it is not known what changed (the proxy became another view), all it holds is compared."""
    config.sessions.clear()
    config.set(ENDPOINT, a="1", b="2")
    assert proxy.pump() == []
    proxy.session.changed()
    assert [(r.type_url, r.count) for r in proxy.pump()] == [(ENDPOINT, 1)]


def test_stale_answers_are_ignored(proxy: Proxy, config: Config) -> None:
    """An answer to an older response neither acknowledges nor refuses the current one."""
    config.set(LISTENER, l="2")
    proxy.pump(ack=False)
    proxy.session.receive(Request(LISTENER, nonce="0", error="old news"))
    assert proxy.session.watches[LISTENER].outstanding
    assert proxy.session.watches[LISTENER].last_error == ""


def test_reconnect_sends_only_the_difference(config: Config) -> None:
    """A proxy that comes back with what it holds gets nothing, or only what changed meanwhile."""
    one = Proxy(config)
    one.ask(CLUSTER, a="1", b="1")
    assert one.pump() == []
    other = Proxy(config)
    other.ask(CLUSTER, a="1", b="0", old="1")
    assert [r.count for r in other.pump()] == [1, 1]
    assert other.got[CLUSTER] == {"a": "1", "b": "1"}


def test_unknown_name_is_answered_as_absent_once(config: Config) -> None:
    """A name that does not exist is said to be removed, so that Envoy does not wait; it arrives when it comes to be."""
    one = Proxy(config)
    one.ask(ENDPOINT, "later")
    assert [r.count for r in one.pump()] == [1]
    assert one.pump() == []
    config.set(ENDPOINT, later="1")
    one.pump()
    assert one.got[ENDPOINT] == {"later": "1"}


def test_asking_again_gets_it_again(proxy: Proxy) -> None:
    """A delta client that re-subscribes to a name has lost the resource."""
    proxy.session.receive(Request(ENDPOINT, subscribe=("a",)))
    assert [(r.type_url, r.count) for r in proxy.pump()] == [(ENDPOINT, 1)]


@pytest.mark.parametrize("delta", [True, False])
def test_an_agent_gets_the_name_table_without_naming_it(config: Config, delta: bool) -> None:
    """Istio's agent asks with no names and never acknowledges an empty answer, so it gets none, and each table."""
    session = Session(delta=delta)
    config.sessions.append(session)
    for type_url in (NAME_TABLE, PROXY_CONFIG):
        session.receive(Request(type_url))
    assert session.next(config) is None
    for version in ("1", "2"):
        config.set(NAME_TABLE, table=version)
        response = session.next(config)
        assert response is not None
        assert (response.type_url, response.count) == (NAME_TABLE, 1)
        assert f"table={version}".encode() in b"".join(response.pieces)
        session.receive(Request(NAME_TABLE, nonce=response.nonce))
        assert session.next(config) is None
    config.set(NAME_TABLE)
    assert session.next(config) is None


def test_state_of_the_world_repeats_whole_types_and_keeps_leaving_clusters(config: Config) -> None:
    """Without deltas, a gone cluster is repeated until the routes are acknowledged, then left out."""
    session = Session(delta=False)
    config.sessions.append(session)

    def ask(type_url: str, *names: str, nonce: str = "") -> None:
        session.receive(Request(type_url, nonce=nonce, names=names))

    ask(CLUSTER)
    ask(ROUTE, "r")
    first = session.next(config)
    assert first is not None
    assert first.count == 2
    ask(CLUSTER, nonce=first.nonce)
    routes = session.next(config)
    assert routes is not None
    ask(ROUTE, "r", nonce=routes.nonce)
    assert session.next(config) is None

    config.set(CLUSTER, a="1", c="1")
    config.set(ROUTE, r="2")
    making = session.next(config)
    assert making is not None
    assert b"b=1" in b"".join(making.pieces)
    assert b"c=1" in b"".join(making.pieces)
    ask(CLUSTER, nonce=making.nonce)
    routes = session.next(config)
    assert routes is not None
    assert routes.type_url == ROUTE
    assert session.next(config) is None
    ask(ROUTE, "r", nonce=routes.nonce)
    breaking = session.next(config)
    assert breaking is not None
    assert b"b=1" not in b"".join(breaking.pieces)
    ask(CLUSTER, nonce=breaking.nonce)
    assert session.next(config) is None


versions = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("123"), max_size=4)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([CLUSTER, LISTENER, ENDPOINT, ROUTE]), versions, st.booleans()), max_size=12))
def test_every_sequence_of_changes_converges(steps: list[tuple[str, dict[str, str], bool]]) -> None:
    """Whatever changes in whatever order, once all is acknowledged the proxy holds exactly what is configured."""
    config = Config()
    proxy = Proxy(config)
    proxy.ask(CLUSTER)
    proxy.ask(LISTENER)
    for type_url in (ENDPOINT, ROUTE):
        proxy.ask(type_url, *"abcd")
    for type_url, contents, answer in steps:
        config.set(type_url, **contents)
        if answer:
            proxy.ack()
        proxy.pump(ack=False)
    while proxy.unanswered:
        proxy.ack()
        proxy.pump(ack=False)
    for type_url in (CLUSTER, LISTENER, ENDPOINT, ROUTE):
        assert proxy.got[type_url] == {n: r.version for n, r in config.every(type_url).items()}
