"""`pilotfish status`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from pilotfish import __version__
from pilotfish.cli import options
from pilotfish.local import cluster


@click.command("status")
@options.data
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(data: Path, output: str) -> None:
    """Show what runs, where, and what it uses. Exit code 3 when the cluster does not run as a whole."""
    status = cluster.status(data)
    if output == "json":
        click.echo(json.dumps({**asdict(status), "data": str(data)}, indent=2))
    else:
        _text(status)
    if not (status.server and status.node_ready and all(part.pid for part in status.parts)):
        sys.exit(3)


def _text(status: cluster.Status) -> None:
    click.echo(f"version     pilotfish {__version__}{f', Kubernetes {status.version}' if status.version else ''}")
    click.echo(f"data        {status.data}")
    click.echo(f"api server  {status.server or 'does not answer'}")
    click.echo(f"kubeconfig  {cluster.kubeconfig(status.data)}")
    for part in status.parts:
        if part.pid is None:
            click.echo(f"{part.name:<11} stopped")
        else:
            many = f", {part.processes} processes" if part.processes > 1 else ""
            click.echo(f"{part.name:<11} runs, pid {part.pid}, {part.memory / 2**20:.0f} MB{many}")
    if status.server:
        click.echo(f"node        {'Ready' if status.node_ready else 'not ready'}")
        click.echo(f"objects     {', '.join(f'{count} {name}' for name, count in status.counts.items())}")
