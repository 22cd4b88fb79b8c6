from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.kube.scripted_server import ConfigMapServer, config_map, serving, status

from pilotfish.kube.informer import Change, Informer, identity
from pilotfish.kube.resources import CONFIG_MAPS


@asynccontextmanager
async def running(server: ConfigMapServer, **options: Any) -> AsyncIterator[tuple[Informer, asyncio.Queue[Change]]]:
    async with serving(server.handle) as client:
        informer = Informer(client, CONFIG_MAPS, **options)
        seen: asyncio.Queue[Change] = asyncio.Queue()
        informer.add_handler(seen.put_nowait)
        task = asyncio.create_task(informer.run())
        try:
            await asyncio.wait_for(informer.synced.wait(), 60)
            yield informer, seen
        finally:
            task.cancel()
            server.events.put_nowait(None)
            await asyncio.wait([task])


async def take(seen: asyncio.Queue[Change]) -> tuple[str, str, str]:
    change = await asyncio.wait_for(seen.get(), 60)
    kind = "new" if change.old is None else "gone" if change.new is None else "changed"
    return kind, change.object["metadata"]["name"], change.object["metadata"]["resourceVersion"]


async def test_list_then_watch() -> None:
    """The store holds what was listed, then follows the events, and handlers hear of each in order."""
    server = ConfigMapServer()
    server.items, server.version = [config_map("a", 1)], 5
    async with running(server) as (informer, seen):
        server.tell("ADDED", config_map("b", 6))
        server.tell("MODIFIED", config_map("a", 7, k="v"))
        server.tell("DELETED", config_map("b", 8))
        assert [await take(seen) for _ in range(4)] == [
            ("new", "a", "1"),
            ("new", "b", "6"),
            ("changed", "a", "7"),
            ("gone", "b", "8"),
        ]
        assert [one["data"] for one in informer.store.values()] == [{"k": "v"}]
        assert server.watches[0]["resourceVersion"] == "5"


async def test_handlers_see_whole_objects_of_which_only_the_identity_is_kept() -> None:
    """With `keep`, memory holds which object there is in which version, and the differences are told all the same."""
    server = ConfigMapServer()
    server.items = [config_map("a", 1, k="v"), config_map("b", 2, k="v")]
    async with running(server, keep=identity) as (informer, seen):
        changes = [await asyncio.wait_for(seen.get(), 60) for _ in range(2)]
        assert [change.object["data"] for change in changes] == [{"k": "v"}] * 2
        assert not any("data" in one for one in informer.store.values())
        server.items = [config_map("a", 8, k="w")]
        server.version = 8
        server.events.put_nowait({"type": "ERROR", "object": status(410, "Expired")})
        gone, changed = [await asyncio.wait_for(seen.get(), 60) for _ in range(2)]
        assert gone.new is None
        assert (gone.object["kind"], gone.object["metadata"]["name"]) == ("ConfigMap", "b")
        assert changed.object["data"] == {"k": "w"}


async def test_bookmark_moves_the_place_to_resume() -> None:
    """After a lost watch the informer goes on where the last bookmark was, without a new list."""
    server = ConfigMapServer()
    async with running(server) as (_, seen):
        server.tell("BOOKMARK", {"kind": "ConfigMap", "metadata": {"resourceVersion": "90"}})
        server.events.put_nowait(None)
        server.tell("ADDED", config_map("a", 91))
        assert await take(seen) == ("new", "a", "91")
        assert server.watches[-1]["resourceVersion"] == "90"
        assert server.lists == 1


@pytest.mark.parametrize("as_event", [True, False])
async def test_expired_history_is_listed_again_and_only_differences_are_told(as_event: bool) -> None:
    """410, as an event or as an answer, makes a new list; unchanged objects are not told again."""
    server = ConfigMapServer()
    server.items, server.version = [config_map("same", 1), config_map("old", 2), config_map("edited", 3)], 3
    async with running(server) as (_, seen):
        for _ in range(3):
            await take(seen)
        server.items = [config_map("same", 1), config_map("edited", 8), config_map("fresh", 9)]
        server.version = 9
        if as_event:
            server.events.put_nowait({"type": "ERROR", "object": status(410, "Expired")})
        else:
            server.refuse_watch.append(status(410, "Expired"))
            server.events.put_nowait(None)
        got = [await take(seen) for _ in range(3)]
        assert got == [("gone", "old", "2"), ("changed", "edited", "8"), ("new", "fresh", "9")]
        assert seen.empty()


async def test_replaced_object_is_gone_and_new() -> None:
    """A deletion missed between two versions is seen by the uid."""
    server = ConfigMapServer()
    server.items = [config_map("a", 1)]
    async with running(server) as (_, seen):
        server.tell("MODIFIED", config_map("a", 2, uid="another"))
        assert [await take(seen) for _ in range(3)] == [("new", "a", "1"), ("gone", "a", "1"), ("new", "a", "2")]


async def test_long_lines_and_late_handlers() -> None:
    """An object of megabytes is one event; a handler that comes late hears first of what is there."""
    server = ConfigMapServer()
    async with running(server) as (informer, seen):
        server.tell("ADDED", config_map("big", 2, blob="x" * 3_000_000))
        assert await take(seen) == ("new", "big", "2")
        late: list[Change] = []
        informer.add_handler(late.append)
        assert [change.object["metadata"]["name"] for change in late] == ["big"]


async def test_handler_that_fails_does_not_stop_others() -> None:
    """An exception of one handler is logged; the next handler still hears of the change."""
    server = ConfigMapServer()
    async with running(server) as (informer, seen):

        def broken(change: Change) -> None:
            raise RuntimeError("bug")

        informer._handlers.insert(0, broken)
        server.tell("ADDED", config_map("a", 2))
        assert await take(seen) == ("new", "a", "2")


async def test_indexes_follow_changes() -> None:
    """An index finds objects by their present keys only, also when it is added late."""
    server = ConfigMapServer()
    server.items = [config_map("a", 1, team="x"), config_map("b", 1, team="x")]
    async with running(server) as (informer, seen):
        informer.store.add_index("team", lambda obj: [obj["data"].get("team", "")])
        assert {one["metadata"]["name"] for one in informer.store.by_index("team", "x")} == {"a", "b"}
        server.tell("MODIFIED", config_map("a", 2, team="y"))
        server.tell("DELETED", config_map("b", 3, team="x"))
        for _ in range(4):
            await take(seen)
        assert informer.store.by_index("team", "x") == []
        assert [one["metadata"]["name"] for one in informer.store.by_index("team", "y")] == ["a"]
        assert [one["metadata"]["name"] for one in informer.store.in_namespace("ns")] == ["a"]
