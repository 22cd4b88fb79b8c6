"""`pilotfish tag`: revision tags, as `istioctl tag`."""

from __future__ import annotations

import json
from pathlib import Path

import click
import yaml

from pilotfish.cli import mesh_options as options
from pilotfish.install import tags
from pilotfish.install.charts import Object
from pilotfish.kube.client import Client

_system = click.option(
    "-i",
    "--istioNamespace",
    "system",
    default="istio-system",
    show_default=True,
    help="Namespace of the control plane.",
)
_revision = click.option("-r", "--revision", required=True, help="The revision it points to; default: without a name.")
_overwrite = click.option("--overwrite", is_flag=True, help="Change a tag that is there.")
_name = click.option("--webhook-name", default="", help="Name of its webhook configuration.")
_every = click.option(
    "--auto-inject-namespaces",
    "every",
    is_flag=True,
    help="Inject into namespaces that say nothing (tag default only).",
)


@click.group("tag")
def command() -> None:
    """Names for revisions of the control plane.

    Label a namespace istio.io/rev=TAG once, and point the tag to another revision later.
    """


@command.command("set")
@click.argument("tag")
@_revision
@_overwrite
@_name
@_every
@_system
@options.kubeconfig
@options.context
@options.yes
def set_(
    tag: str,
    revision: str,
    overwrite: bool,
    webhook_name: str,
    every: bool,
    system: str,
    kubeconfig: Path | None,
    context: str | None,
    yes: bool,
) -> None:
    """Make a tag, or with --overwrite point it to another revision."""

    async def work(client: Client) -> None:
        made = await tags.generate(
            client, tag, revision, system, overwrite=overwrite, name=webhook_name, every_namespace=every
        )
        if tag == tags.DEFAULT and not yes:
            text = "The tag default takes over namespaces labelled istio-injection=enabled, and validation. Proceed?"
            click.confirm(text, abort=True)
        await tags.create(client, tag, made)

    options.with_client(kubeconfig, context, work)
    click.echo(
        f"✔ Tag {tag} points to revision {revision}; it is used by `kubectl label namespace NAME istio.io/rev={tag}`"
    )


@command.command("generate")
@click.argument("tag")
@_revision
@_overwrite
@_name
@_every
@_system
@options.kubeconfig
@options.context
def generate(
    tag: str,
    revision: str,
    overwrite: bool,
    webhook_name: str,
    every: bool,
    system: str,
    kubeconfig: Path | None,
    context: str | None,
) -> None:
    """Print a tag's objects instead of applying them."""

    async def work(client: Client) -> list[Object]:
        return await tags.generate(
            client, tag, revision, system, overwrite=overwrite, name=webhook_name, every_namespace=every
        )

    click.echo(yaml.safe_dump_all(options.with_client(kubeconfig, context, work), sort_keys=False), nl=False)


@command.command("list")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True)
@_system
@options.kubeconfig
@options.context
def list_(output: str, system: str, kubeconfig: Path | None, context: str | None) -> None:
    """Show the tags, the revisions they point to, and who uses them."""
    found = options.with_client(kubeconfig, context, lambda client: tags.tags(client, system))
    if output != "table":
        rows = [{"tag": one.name, "revision": one.revision, "namespaces": list(one.namespaces)} for one in found]
        click.echo(json.dumps(rows, indent=2) if output == "json" else yaml.safe_dump(rows, sort_keys=False).rstrip())
        return
    lines = [("TAG", "REVISION", "NAMESPACES"), *((one.name, one.revision, ",".join(one.namespaces)) for one in found)]
    width, second = (max(len(line[at]) for line in lines) + 2 for at in (0, 1))
    for tag, revision, spaces in lines:
        click.echo(f"{tag:<{width}}{revision:<{second}}{spaces}".rstrip())


@command.command("remove")
@click.argument("tag")
@_system
@options.kubeconfig
@options.context
@options.yes
def remove(tag: str, system: str, kubeconfig: Path | None, context: str | None, yes: bool) -> None:
    """Remove a tag. Pods of namespaces that name it are no longer injected."""

    async def work(client: Client) -> None:
        users = await tags.users(client, tag, system)
        if users and not yes:
            click.confirm(f"Namespaces that name it lose injection: {', '.join(users)}. Proceed?", abort=True)
        await tags.remove(client, tag, system)

    options.with_client(kubeconfig, context, work)
    click.echo(f"✔ Tag {tag} removed")
    if tag == tags.DEFAULT:
        click.echo("  Injection by istio-injection=enabled comes back with `pilotfish install` of its revision.")
