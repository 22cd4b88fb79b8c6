from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web
from tests.kube.scripted_server import serving, status

from pilotfish.kube.client import Client
from pilotfish.kube.leader import LeaderElection


class LeaseServer:
    """Holds one Lease with optimistic locking; `broken` makes every request fail."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.broken = False

    async def handle(self, request: web.Request) -> web.Response:
        if self.broken:
            return web.json_response(status(500, "InternalError"), status=500)
        if request.method == "GET":
            if self.lease is None:
                return web.json_response(status(404, "NotFound"), status=404)
            return web.json_response(self.lease)
        body = json.loads(await request.text())
        known = body["metadata"].get("resourceVersion")
        if (self.lease is not None and request.method == "POST") or (known and known != str(self.version)):
            return web.json_response(status(409, "Conflict"), status=409)
        self.version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        return web.json_response(self.lease)


def election(client: Client, identity: str) -> LeaderElection:
    return LeaderElection(client, "ns", "leader", identity, lease_seconds=0.6, renew_seconds=0.4, retry_seconds=0.05)


async def test_one_leads_and_another_follows_at_once_on_release() -> None:
    """Of two only one leads at a time; when the first stops it gives the lease up and the other takes over."""
    server = LeaseServer()
    leading: list[str] = []
    overlap = False

    def lead(name: str, end: asyncio.Event) -> Any:
        async def run() -> None:
            nonlocal overlap
            overlap = overlap or bool(leading)
            leading.append(name)
            started.set()
            try:
                await end.wait()
            finally:
                leading.remove(name)

        return run

    async with serving(server.handle) as client:
        started, end_a, end_b = asyncio.Event(), asyncio.Event(), asyncio.Event()
        a = asyncio.create_task(election(client, "a").run(lead("a", end_a)))
        await asyncio.wait_for(started.wait(), 60)
        started.clear()
        b = asyncio.create_task(election(client, "b").run(lead("b", end_b)))
        end_a.set()
        await asyncio.wait_for(a, 60)
        await asyncio.wait_for(started.wait(), 60)
        assert leading == ["b"]
        assert server.lease is not None
        assert server.lease["spec"]["holderIdentity"] == "b"
        assert server.lease["spec"]["leaseTransitions"] >= 1
        end_b.set()
        await asyncio.wait_for(b, 60)
    assert not overlap
    assert server.lease["spec"]["holderIdentity"] == ""


async def test_leader_that_cannot_renew_stops() -> None:
    """When the server cannot be reached for the renewal time, the work is cancelled before another may lead."""
    server = LeaseServer()
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def lead() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with serving(server.handle) as client:
        one = election(client, "a")
        task = asyncio.create_task(one.run(lead))
        await asyncio.wait_for(started.wait(), 60)
        server.broken = True
        await asyncio.wait_for(task, 60)
        assert cancelled.is_set()
        assert not one.is_leader


async def test_lease_of_a_dead_leader_runs_out() -> None:
    """A lease that is not renewed is taken after its time, by our own clock: the times in it are not trusted."""
    server = LeaseServer()
    spec = {"holderIdentity": "dead", "leaseDurationSeconds": 1, "renewTime": "2999-01-01T00:00:00.000000Z"}
    server.lease = {"metadata": {"name": "leader", "namespace": "ns", "resourceVersion": "0"}, "spec": spec}
    started = asyncio.Event()

    async def lead() -> None:
        started.set()

    async with serving(server.handle) as client:
        begin = asyncio.get_running_loop().time()
        await asyncio.wait_for(election(client, "a").run(lead), 60)
        assert asyncio.get_running_loop().time() - begin >= 1.0
    assert started.is_set()


async def test_failure_of_the_work_is_the_callers() -> None:
    """An exception of the work ends the election with it, and the lease is given up."""
    server = LeaseServer()

    async def lead() -> None:
        raise ValueError("work failed")

    async with serving(server.handle) as client:
        try:
            await election(client, "a").run(lead)
        except ValueError as error:
            assert str(error) == "work failed"  # noqa: PT017 - a task group would wrap what pytest.raises sees
        else:
            raise AssertionError("the failure was swallowed")
    assert server.lease is not None
    assert server.lease["spec"]["holderIdentity"] == ""
