"""Options of the commands that install the mesh."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pilotfish.errors import UserError
from pilotfish.install.operator import PROFILES, Plan, plan
from pilotfish.kube.client import Client
from pilotfish.kube.errors import KubeError

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")

kubeconfig = click.option("-c", "--kubeconfig", type=click.Path(dir_okay=False, path_type=Path), help="Cluster to use.")
context = click.option("--context", help="Context of the kubeconfig. [default: its current one]")
yes = click.option("-y", "--skip-confirmation", "yes", is_flag=True, help="Do not ask.")
dry_run = click.option("--dry-run", is_flag=True, help="Let the API server check everything, but change nothing.")
timeout = click.option(
    "--readiness-timeout",
    "patience",
    default="5m",
    show_default=True,
    callback=lambda _ctx, _parameter, value: seconds(value),
    help="How long to wait until everything works.",
)
revision = click.option(
    "-r", "--revision", default="", help="Revision of the control plane. [default: the one without a name]"
)


def what(command: _F) -> _F:
    """`-f`, `--set` and `--revision`: what to install."""
    files = click.option(
        "-f",
        "--filename",
        "files",
        multiple=True,
        metavar="FILE",
        help="An IstioOperator or a values file; - for standard input. Later files win.",
    )
    settings = click.option(
        "-s",
        "--set",
        "settings",
        multiple=True,
        metavar="PATH=VALUE",
        help=f"A field of IstioOperator or a value; profile is one of {', '.join(PROFILES)}.",
    )
    return files(settings(revision(command)))


def read_plan(files: tuple[str, ...], settings: tuple[str, ...], revision: str) -> Plan:
    """The plan of what was given, its warnings told. Raises UserError."""
    texts = []
    for name in files:
        try:
            texts.append((name, sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    found = plan(texts, settings, revision)
    for warning in found.warnings:
        click.echo(f"! {warning}", err=True)
    return found


def with_client(kubeconfig: Path | None, context: str | None, work: Callable[[Client], Awaitable[_T]]) -> _T:
    """Run `work` with a client of the cluster. Raises UserError."""

    async def run() -> _T:
        async with Client.from_file(kubeconfig, context=context, user_agent="pilotfish") as client:
            return await work(client)

    try:
        return asyncio.run(run())
    except KubeError as error:
        raise UserError(str(error)) from error


def seconds(text: str) -> float:
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not text or match is None:
        raise click.BadParameter(f"{text!r} is not a duration; write for example 90s or 5m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600.0 + minutes * 60 + seconds
