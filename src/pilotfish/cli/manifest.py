"""`pilotfish manifest`."""

from __future__ import annotations

from pathlib import Path

import click

from pilotfish.api.files import dump
from pilotfish.cli import mesh_options as options
from pilotfish.install import cluster


@click.group("manifest")
def command() -> None:
    """Show what would be installed."""


@command.command("generate")
@options.what
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Directory; one file for each part."
)
def generate(files: tuple[str, ...], settings: tuple[str, ...], revision: str, output: Path | None) -> None:
    """Print the objects that `install` would apply, as YAML. No cluster is asked."""
    plan = options.read_plan(files, settings, revision)
    objects = cluster.manifest(plan)
    if output is None:
        click.echo("".join(f"---\n{dump(obj)}" for obj in objects), nl=False)
        return
    output.mkdir(parents=True, exist_ok=True)
    for part in dict.fromkeys(obj["metadata"]["labels"][cluster.COMPONENT] for obj in objects):
        chosen = [obj for obj in objects if obj["metadata"]["labels"][cluster.COMPONENT] == part]
        (output / f"{part}.yaml").write_text("".join(f"---\n{dump(obj)}" for obj in chosen), encoding="utf-8")
        click.echo(output / f"{part}.yaml")
