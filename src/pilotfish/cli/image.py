"""`pilotfish image add|list|remove`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from pilotfish.cli import options
from pilotfish.errors import UserError
from pilotfish.local.images import builtin, userfile
from pilotfish.local.images.image import Image


@click.group("image")
def command() -> None:
    """Map image names to commands of this machine.

    A pod whose image is mapped runs the command. The file behind this is images.yaml in the data directory.
    """


def _pairs(_ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = dict(value.partition("=")[::2] for value in values if "=" in value)
    for value in values:
        if "=" not in value or value.startswith("="):
            raise click.BadParameter(f"{value!r} is not KEY=VALUE")
    return pairs


@command.command("add")
@options.data
@click.option("--env", multiple=True, callback=_pairs, metavar="KEY=VALUE", help="Environment variable; several times.")
@click.option(
    "--workdir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    help="Where the command starts; visible to the container. [default: the current directory]",
)
@click.option(
    "--mount",
    "mounts",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="A file or directory the container may read; several times.",
)
@click.option("--user", type=click.IntRange(0, 2**31), help="User id to run as. [default: root]")
@click.argument("image")
@click.argument("command_line", metavar="COMMAND [ARGUMENT]...", nargs=-1, required=True, type=click.UNPROCESSED)
def add(
    data: Path,
    env: dict[str, str],
    workdir: Path,
    mounts: tuple[Path, ...],
    user: int | None,
    image: str,
    command_line: tuple[str, ...],
) -> None:
    """Map IMAGE to a command: `pilotfish image add docker.io/me/app -- python app.py`.

    IMAGE without a tag means every tag; `*` in it stands for any text. An entry of the same name is replaced.
    """
    entry = userfile.describe(list(command_line), workdir, list(mounts), env, user)
    replaced = userfile.add(data, image, entry)
    click.echo(f"{image} {'now ' if replaced else ''}runs: {shlex.join(entry.command)}")


@command.command("list")
@options.data
@click.option("--all", "everything", is_flag=True, help="The built-in images too.")
def list_(data: Path, *, everything: bool) -> None:
    """List the images that are mapped."""
    entries = userfile.load(data)
    for name, image in entries.items():
        click.echo(f"{name}  {_line(image)}")
    if everything:
        for name in builtin.names():
            click.echo(f"{name}  (built in)")
    elif not entries:
        click.echo("No images are mapped; --all lists what is built in.", err=True)


def _line(image: Image) -> str:
    return shlex.join([*image.command, *image.args])


@command.command("remove")
@options.data
@click.argument("image")
def remove(data: Path, image: str) -> None:
    """Remove the entry of IMAGE."""
    if not userfile.remove(data, image):
        raise UserError(f"{image} is not mapped in {data / userfile.FILE}; `pilotfish image list` shows what is")
    click.echo(f"{image} is no longer mapped.")
