"""`pilotfish version`."""

from __future__ import annotations

import click

from pilotfish import __version__


@click.command("version")
def command() -> None:
    """Print the version."""
    click.echo(f"pilotfish {__version__}")
