"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from pilotfish.local.data import default_data


def _absolute(_ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> Path:
    return (value or default_data()).expanduser().absolute()


data = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    callback=_absolute,
    help="Data directory. [default: $PILOTFISH_DATA, or pilotfish in the user's data directory]",
)
"""The cluster's data directory, as an absolute path."""
