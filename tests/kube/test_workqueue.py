from __future__ import annotations

import asyncio

from pilotfish.kube.errors import UnreachableError
from pilotfish.kube.workqueue import WorkQueue


async def test_a_key_waits_once() -> None:
    """A key that waits is not added again; one added while it is worked on comes again after that, never beside it."""
    queue: WorkQueue[str] = WorkQueue("test")
    for key in ("a", "b", "a"):
        queue.add(key)
    assert len(queue) == 2
    assert await queue.get() == "a"
    queue.add("a")
    assert await queue.get() == "b"
    assert len(queue) == 1
    queue.done("b")
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.done("a")
    assert await asyncio.wait_for(waiting, 1) == "a"


async def test_failures_are_tried_again_until_they_pass() -> None:
    """Work that raises is tried again, also after a bug; what went well is not."""
    queue: WorkQueue[str] = WorkQueue("test")
    calls: list[str] = []
    done = asyncio.Event()

    async def work(key: str) -> None:
        calls.append(key)
        if len(calls) == 1:
            raise UnreachableError("away")
        if len(calls) == 2:
            raise RuntimeError("bug")
        done.set()

    queue.add("a")
    task = asyncio.create_task(queue.run(work, workers=2))
    await asyncio.wait_for(done.wait(), 60)
    task.cancel()
    await asyncio.wait([task])
    assert calls == ["a", "a", "a"]
    assert len(queue) == 0


async def test_the_earliest_of_several_times_counts() -> None:
    """Later additions neither delay nor double an earlier one."""
    queue: WorkQueue[str] = WorkQueue("test")
    queue.add_after("a", 60)
    queue.add_after("a", 0.01)
    queue.add_after("a", 30)
    assert await asyncio.wait_for(queue.get(), 60) == "a"
    queue.done("a")
    assert len(queue) == 0
    queue.stop()
