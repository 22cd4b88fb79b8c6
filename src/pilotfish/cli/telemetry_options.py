"""Options and formats of the commands that ask the console."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from pilotfish.errors import UserError

istio_namespace = click.option(
    "-i", "--istio-namespace", default="istio-system", show_default=True, help="Where the console is."
)
output = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


def seconds(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """A duration such as 90s, 1h30m or 250ms."""
    if value is None:
        return None
    parts = _PART.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise click.BadParameter(f"{value!r} is not a duration; write for example 90s, 10m or 250ms")
    found = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 < found < 1e8:
        raise click.BadParameter(f"{value!r}: a duration above 0 is needed")
    return found


def split_name(name: str, namespace: str) -> tuple[str, str]:
    """Name and namespace of `[KIND/]NAME[.NAMESPACE]`. Raises UserError."""
    plain = name.rpartition("/")[2]
    first, _, rest = plain.partition(".")
    if not first:
        raise UserError(f"{name!r} is no name: write NAME or NAME.NAMESPACE")
    return first, rest.partition(".")[0] or namespace


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns wide enough for all; the first `left` to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join(
        "   ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    )
