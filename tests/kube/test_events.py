from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web
from tests.kube.scripted_server import config_map, serving

from pilotfish.kube.events import EventRecorder


class EventServer:
    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}

    async def handle(self, request: web.Request) -> web.Response:
        body = json.loads(await request.text())
        if request.method == "POST":
            self.events[body["metadata"]["name"]] = body
            return web.json_response(body)
        name = request.path.rpartition("/")[2]
        self.events[name] |= body
        return web.json_response(self.events[name])


async def record(server: EventServer, *told: tuple[dict[str, Any], str, str]) -> list[dict[str, Any]]:
    async with serving(server.handle) as client:
        recorder = EventRecorder(client, "tester", "host")
        task = asyncio.create_task(recorder.run())
        for obj, reason, message in told:
            recorder.record(obj, "Normal", reason, message, field_path="spec.x")
        await asyncio.wait_for(recorder.flush(), 60)
        task.cancel()
        await asyncio.wait([task])
    return list(server.events.values())


async def test_the_same_event_is_counted() -> None:
    """Repeated events are one object with a count; other objects and reasons have their own."""
    a, b = config_map("a", 1), config_map("b", 1)
    events = await record(
        EventServer(), (a, "Made", "m"), (a, "Made", "m"), (a, "Made", "m"), (b, "Made", "m"), (a, "Gone", "m")
    )
    assert sorted((one["involvedObject"]["name"], one["reason"], one["count"]) for one in events) == [
        ("a", "Gone", 1),
        ("a", "Made", 3),
        ("b", "Made", 1),
    ]
    first = events[0]
    assert first["metadata"]["namespace"] == "ns"
    assert first["source"] == {"component": "tester", "host": "host"}
    assert first["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": "a",
        "namespace": "ns",
        "uid": "uid-a",
        "resourceVersion": "1",
        "fieldPath": "spec.x",
    }


async def test_many_similar_events_are_joined() -> None:
    """After ten messages that differ the rest is one counted event, up to the burst of an object."""
    a = config_map("a", 1)
    events = await record(EventServer(), *((a, "Failed", f"try {n}") for n in range(40)))
    joined = [one for one in events if one["message"].startswith("(combined from similar events)")]
    assert len(events) == 11
    assert [one["count"] for one in joined] == [15]


async def test_event_of_a_cluster_scoped_object_is_in_default() -> None:
    """Events live in a namespace, also those of a Node."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "uid": "u"}}
    (event,) = await record(EventServer(), (node, "Ready", "m"))
    assert event["metadata"]["namespace"] == "default"
