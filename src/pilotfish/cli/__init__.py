"""The command line. One module per command, imported only when it is called.

To add a command: a module here with a click command named `command`, and a line in `COMMANDS`.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import NoReturn

import click

from pilotfish import __version__
from pilotfish.errors import UserError

COMMANDS = {
    "down": "Stop the local cluster.",
    "image": "Map image names to commands of this machine.",
    "install": "Install the mesh, or change what is installed.",
    "kube-inject": "Put the sidecar into manifests, without a webhook.",
    "kubeconfig": "Print the path of the cluster's kubeconfig.",
    "manifest": "Show what would be installed.",
    "metrics": "Show requests, success, latency and bytes of workloads and services.",
    "reset": "Stop the local cluster and forget all its objects.",
    "status": "Show what runs, where, and what it uses.",
    "tag": "Give names to revisions of the control plane.",
    "trace-request": "Trace and log the requests that carry a header, for some time.",
    "traces": "List traces, or show one as a tree.",
    "uninstall": "Remove the mesh.",
    "up": "Start the local cluster, or what of it does not run.",
    "upgrade": "Bring an installed mesh to this version.",
    "version": "Print the version.",
}
"""Name → what it does, in a line. The module is the name with `_` for `-`."""


class _Commands(click.Group):
    """A group that imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # click's signature
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # click's signature
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"pilotfish.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="pilotfish %(version)s")
def group() -> None:
    """Pilotfish: a service mesh with Istio's API, and a Kubernetes cluster for one machine."""


def main() -> NoReturn:
    """Run the command line; errors become one line and exit code 1 (2 for wrong usage)."""
    try:
        group(prog_name="pilotfish")
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more can be said there
        sys.exit(1)
    except Exception as error:  # the last resort: users get a line, not a traceback
        if os.environ.get("PILOTFISH_DEBUG"):
            raise
        _fail(f"{type(error).__name__}: {error} (unexpected; PILOTFISH_DEBUG=1 shows where)")
    sys.exit(0)


def _fail(message: str) -> NoReturn:
    click.echo(f"pilotfish: {message}", err=True)
    sys.exit(1)
