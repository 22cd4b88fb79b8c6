"""Serving the built-in programs in the test's own process, and as the processes they are in a container."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from pilotfish.local.images import resolve
from pilotfish.local.images.programs.http1 import Connection, Handler, listen, port_of

Serve = Callable[[Handler], Awaitable[int]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves a handler on a free port of loopback until the test ends."""
    servers: list[asyncio.Server] = []

    async def start(handler: Handler) -> int:
        servers.append(await listen(0, Connection(handler)))
        return port_of(servers[-1])

    yield start
    for server in servers:
        server.close()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client that knows nothing of ours."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as session:
        yield session


@asynccontextmanager
async def running(image: str, *args: str, **env: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[int]]]:
    """The program of a built-in image as a process, and the ports that it says it listens on."""
    found = resolve(image, Path("/nonexistent"))
    assert found is not None
    process = await asyncio.create_subprocess_exec(
        *found.command,
        *(args or found.args),
        env=found.env | env,
        cwd="/",
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        ports = []
        for _ in range(sum(arg.isdecimal() for arg in args)):
            line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
            match = re.search(r"port (\d+)", line)
            assert match, line
            ports.append(int(match[1]))
        yield process, ports
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
