"""What every pod needs of its node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilotfish.kube.client import Client
from pilotfish.kube.events import EventRecorder
from pilotfish.kube.informer import Store
from pilotfish.local.images.image import Image
from pilotfish.local.node.cgroups import Cgroups
from pilotfish.local.node.network import Network
from pilotfish.local.node.runtime import Runtime
from pilotfish.local.node.security import Limits

Object = Mapping[str, Any]


@dataclass
class Host:
    """The node's means, shared by all pods."""

    client: Client
    events: EventRecorder
    runtime: Runtime
    network: Network
    cgroups: Cgroups
    limits: Limits
    data: Path
    """The cluster's data directory."""
    directory: Path
    """The node's tmpfs."""
    config_maps: Store
    secrets: Store
    services: Store
    allocatable: Mapping[str, str]
    image: Callable[[str, Path], Image | None]
    requests: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(8))
    """Held for a request about one pod: a hundred pods at once must not open a hundred TLS connections."""

    @property
    def logs(self) -> Path:
        return self.data / "logs"


async def first_of(*futures: asyncio.Future[Any]) -> None:
    """Wait until one of them is done."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


class Pulse:
    """Something happened: wakes everyone who waits at that moment."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout_seconds: float | None = None) -> None:
        """Return at the next pulse, or when the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._event.wait()
