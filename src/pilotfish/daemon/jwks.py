"""The key sets that tokens are verified with, fetched where RequestAuthentication says.

Proxies get the keys themselves and fetch nothing. A set that cannot be fetched is tried again soon; the last good one
stays, and until there is one, no token of that issuer is accepted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import aiohttp

from pilotfish.mesh.world import World

log = logging.getLogger(__name__)

REFRESH_SECONDS = 20 * 60.0
RETRY_SECONDS = 10.0
LOOK_SECONDS = 1.0
MAX_BYTES = 1024 * 1024


class KeySets:
    """Runs in every replica: each serves its own proxies."""

    def __init__(self, world: World, changed: Callable[[], None]) -> None:
        self._world = world
        self._changed = changed
        self._due: dict[str, float] = {}
        self.problems: dict[str, str] = {}
        """Why a set cannot be fetched at present, by URI."""

    async def run(self) -> None:
        """Runs until cancelled."""
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                await self._round(session)
                await asyncio.sleep(LOOK_SECONDS)

    async def _round(self, session: aiohttp.ClientSession) -> None:
        now = asyncio.get_running_loop().time()
        wanted = self._world.jwks_uris()
        for uri in [one for one in self._due if one not in wanted]:
            del self._due[uri]
            self.problems.pop(uri, None)
        due = [uri for uri in sorted(wanted) if self._due.get(uri, 0.0) <= now]
        await asyncio.gather(*(self._fetch(session, uri) for uri in due))

    async def _fetch(self, session: aiohttp.ClientSession, uri: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with session.get(uri) as answer:
                body = await answer.content.read(MAX_BYTES + 1)
                if answer.status != 200 or len(body) > MAX_BYTES:
                    raise ValueError(f"status {answer.status}, {len(body)} bytes")
                text = body.decode()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
            if self.problems.get(uri) != why:
                log.warning("key set %s cannot be fetched: %s", uri, why)
            self.problems[uri] = why
            self._due[uri] = loop.time() + RETRY_SECONDS
            return
        self.problems.pop(uri, None)
        self._due[uri] = loop.time() + REFRESH_SECONDS
        if self._world.set_jwks(uri, text):
            self._changed()
