"""`pilotfish upgrade`."""

from __future__ import annotations

from pathlib import Path

import click

from pilotfish.cli import mesh_options as options
from pilotfish.errors import UserError
from pilotfish.install import cluster
from pilotfish.kube.client import Client


@click.command("upgrade")
@options.what
@options.kubeconfig
@options.context
@options.yes
@options.dry_run
@options.timeout
def command(
    files: tuple[str, ...],
    settings: tuple[str, ...],
    revision: str,
    kubeconfig: Path | None,
    context: str | None,
    yes: bool,
    dry_run: bool,
    patience: float,
) -> None:
    """Bring an installed mesh to this version, in place.

    Give the same files and settings as for the installation. To run two versions side by side, install a revision.
    """
    plan = options.read_plan(files, settings, revision)

    async def work(client: Client) -> None:
        name = plan.revision or "default"
        if not await cluster.owned(client, name):
            raise UserError(f"no installation of revision {name} was found; use `pilotfish install`, or `helm upgrade`")
        if not yes and not dry_run:
            click.confirm(f"This upgrades revision {name} in namespace {plan.namespace}. Proceed?", abort=True)
        await cluster.install(client, plan, click.echo, dry_run=dry_run, patience=patience)

    options.with_client(kubeconfig, context, work)
    click.echo("✔ Nothing was changed (dry run)" if dry_run else "✔ Upgrade complete")
