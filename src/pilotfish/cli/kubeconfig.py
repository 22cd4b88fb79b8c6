"""`pilotfish kubeconfig`."""

from __future__ import annotations

from pathlib import Path

import click

from pilotfish.cli import options
from pilotfish.errors import UserError
from pilotfish.local import cluster


@click.command("kubeconfig")
@options.data
@click.option("--raw", is_flag=True, help="Print the content, not the path.")
def command(data: Path, *, raw: bool) -> None:
    """Print the path of the cluster's kubeconfig."""
    path = cluster.kubeconfig(data)
    if not path.exists():
        raise UserError(f"{path} does not exist: start the cluster first with `pilotfish up`")
    click.echo(path.read_text() if raw else path, nl=not raw)
