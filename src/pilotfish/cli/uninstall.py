"""`pilotfish uninstall`."""

from __future__ import annotations

from pathlib import Path

import click

from pilotfish.cli import mesh_options as options
from pilotfish.errors import UserError
from pilotfish.install import cluster
from pilotfish.kube.client import Client


@click.command("uninstall")
@options.revision
@click.option("--purge", is_flag=True, help="Everything: all revisions, and the custom kinds with all their objects.")
@options.kubeconfig
@options.context
@options.yes
@options.dry_run
def command(revision: str, purge: bool, kubeconfig: Path | None, context: str | None, yes: bool, dry_run: bool) -> None:
    """Remove a revision of the mesh, or all of it. What Helm installed is Helm's to remove."""
    if purge == bool(revision):
        raise UserError("say what to remove: --revision NAME (default for the one without a name), or --purge")

    async def work(client: Client) -> None:
        objects = await cluster.owned(client, revision)
        if not objects:
            which = f" as revision {revision}" if revision else ""
            raise UserError(f"nothing was found that `pilotfish install` made{which}")
        for obj in objects:
            click.echo(f"  {cluster.named(obj)}")
        if dry_run:
            return
        if not yes:
            click.confirm("These objects are deleted. Proceed?", abort=True)
        await cluster.uninstall(client, objects)
        click.echo("✔ Uninstall complete")

    options.with_client(kubeconfig, context, work)
