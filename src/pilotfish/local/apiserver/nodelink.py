"""The way to the node: its own API and raw connections into its network."""

from __future__ import annotations

from pathlib import Path


class NodeLink:
    """Sockets in `DATA/run/` that the node serves."""

    def __init__(self, run: Path) -> None:
        self.run = run
