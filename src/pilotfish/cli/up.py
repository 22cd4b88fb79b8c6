"""`pilotfish up`."""

from __future__ import annotations

from pathlib import Path

import click

from pilotfish.cli import options
from pilotfish.local import cluster


@click.command("up")
@options.data
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help=f"Port of the API server; 0: any free one. [default: last time's, or {cluster.DEFAULT_PORT}]",
)
@click.option(
    "--address",
    help=f"Address for the API server and published ports. [default: last time's, or {cluster.DEFAULT_ADDRESS}]",
)
def command(data: Path, port: int | None, address: str | None) -> None:
    """Start the local cluster, or what of it does not run, and wait until it is ready."""
    cluster.up(data, port, address, click.echo)
    click.echo(f"To use it: export KUBECONFIG={cluster.kubeconfig(data)}")
