"""Applies service rules with nft, one atomic transaction at a time."""

from __future__ import annotations

import logging

from pilotfish.local.node import services
from pilotfish.local.node.network import UPLINK
from pilotfish.local.node.processes import Processes

_log = logging.getLogger(__name__)


class FirewallError(RuntimeError):
    """nft refused; the text is what it said."""


class Firewall:
    """The node's nftables table and what is in it."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._current = services.Rules()

    async def set_up(self) -> None:
        """Make the table without services."""
        await self._nft(services.base(UPLINK))
        self._current = services.Rules()

    async def apply(self, wanted: services.Rules) -> None:
        """Change the table to `wanted`; if the difference is refused, replace the whole table."""
        text = services.diff(self._current, wanted)
        if not text:
            return
        try:
            await self._nft(text)
        except FirewallError as error:
            _log.warning("replacing all service rules, since a change was refused: %s", error)
            await self._nft(services.base(UPLINK) + services.diff(services.Rules(), wanted))
        self._current = wanted

    async def _nft(self, text: str) -> None:
        result = await self._processes.run(["nft", "-f", "-"], stdin=text.encode())
        if result.code != 0:
            raise FirewallError(f"cannot set the service rules: {result.message}")
