"""`pilotfish down`."""

from __future__ import annotations

from pathlib import Path

import click

from pilotfish.cli import options
from pilotfish.local import cluster


@click.command("down")
@options.data
def command(data: Path) -> None:
    """Stop the local cluster. Its objects stay for the next `up`."""
    cluster.down(data, click.echo)
