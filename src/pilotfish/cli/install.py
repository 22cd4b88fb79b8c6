"""`pilotfish install`."""

from __future__ import annotations

from pathlib import Path

import click

from pilotfish.cli import mesh_options as options
from pilotfish.install import cluster
from pilotfish.kube.client import Client


@click.command("install")
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
    """Install the mesh, or change what is installed.

    Renders the same charts as Helm would, applies them in order and waits until each part works.
    """
    plan = options.read_plan(files, settings, revision)
    if not yes and not dry_run:
        parts = ", ".join(dict.fromkeys(component.title for component in plan.components)) or "nothing"
        what = f"profile {plan.profile} ({parts})" + (f", revision {plan.revision}" if plan.revision else "")
        click.confirm(f"This installs {what} in namespace {plan.namespace}. Proceed?", abort=True)

    async def work(client: Client) -> None:
        await cluster.install(client, plan, click.echo, dry_run=dry_run, patience=patience)

    options.with_client(kubeconfig, context, work)
    click.echo("✔ Nothing was changed (dry run)" if dry_run else "✔ Installation complete")
