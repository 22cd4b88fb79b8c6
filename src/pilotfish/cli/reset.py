"""`pilotfish reset`."""

from __future__ import annotations

from pathlib import Path

import click

from pilotfish.cli import options
from pilotfish.local import cluster


@click.command("reset")
@options.data
def command(data: Path) -> None:
    """Stop the local cluster and forget all its objects. Your images.yaml stays."""
    cluster.reset(data, click.echo)
