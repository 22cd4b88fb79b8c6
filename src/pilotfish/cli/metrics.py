"""`pilotfish metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from pilotfish.cli import mesh_options, telemetry_options
from pilotfish.cli.telemetry_options import split_name, table
from pilotfish.kube import config
from pilotfish.kube.client import Client
from pilotfish.kube.errors import KubeError
from pilotfish.telemetry.console import Console, ConsoleError
from pilotfish.telemetry.prometheus import PrometheusMetrics
from pilotfish.telemetry.traffic import Traffic, traffic

_Ask = Callable[[Sequence[str], Mapping[str, str], float], Awaitable[list[Traffic]]]
"""Traffic by labels, of what has the labels given, over a window."""


class _View(NamedTuple):
    """A way to look at the series: what the rows are, and which side is asked."""

    title: str
    name: str
    namespace: str
    reporter: str


_VIEWS = (
    _View("WORKLOAD", "destination_workload", "destination_workload_namespace", "destination"),
    _View("SERVICE", "destination_service_name", "destination_service_namespace", "destination"),
    _View("WORKLOAD (as client)", "source_workload", "source_workload_namespace", "source"),
    # Nobody reports for services outside the mesh, or without a proxy, but their clients.
    _View("SERVICE (as clients see it)", "destination_service_name", "destination_service_namespace", "source"),
)


@click.command("metrics")
@click.argument("name", required=False)
@click.option("-n", "--namespace", help="Namespace. [default: that of the kubeconfig's context]")
@click.option("-A", "--all-namespaces", is_flag=True, help="All namespaces.")
@click.option(
    "--window",
    "-d",
    "--duration",
    default="1m",
    show_default=True,
    callback=telemetry_options.seconds,
    metavar="TIME",
    help="Over how long.",
)
@click.option("--prometheus", default="", metavar="URL", help="Ask this Prometheus, not the console.")
@telemetry_options.istio_namespace
@telemetry_options.output
@mesh_options.kubeconfig
@mesh_options.context
def command(
    name: str | None,
    namespace: str | None,
    all_namespaces: bool,
    window: float,
    prometheus: str,
    istio_namespace: str,
    output: str,
    kubeconfig: Path | None,
    context: str | None,
) -> None:
    """Show requests, success, latency and bytes.

    NAME is a workload or a service, also as NAME.NAMESPACE; without it all workloads of the namespace are shown.
    Numbers are what the destination's proxy saw; a workload that only calls others, such as a gateway, is shown as
    a client.
    """
    note = ""
    if prometheus:
        own = "" if all_namespaces else namespace or _default_namespace(kubeconfig, context)
        view, rows = asyncio.run(_of_prometheus(prometheus, name, own, window))
    else:

        async def work(client: Client) -> tuple[_View, list[Traffic], str]:
            own = "" if all_namespaces else namespace or client.config.namespace
            console = Console(client, istio_namespace)
            view, rows = await _look(partial(_of_console, console), name, own, window)
            return view, rows, "" if rows else await _collected(console)

        view, rows, note = mesh_options.with_client(kubeconfig, context, work)
    rows.sort(key=lambda one: (one.labels[view.namespace], one.labels[view.name]))
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
    elif rows:
        head = (view.title, "NAMESPACE", "RPS", "SUCCESS", "P50", "P90", "P99", "TCP SENT", "TCP RECEIVED")
        click.echo(table(head, [_row(view, one) for one in rows], left=2))
    else:
        where = "" if all_namespaces else " in this namespace"
        click.echo(f"No traffic of {name or 'any workload'}{where} within the last {window:g} s.{note}", err=True)


async def _look(ask: _Ask, name: str | None, namespace: str, window: float) -> tuple[_View, list[Traffic]]:
    """The first view that shows something; without a name the first one."""
    where: dict[str, str] = {}
    if name:
        name, namespace = split_name(name, namespace)
    for view in _VIEWS if name else _VIEWS[:1]:
        where = {"reporter": view.reporter}
        if name:
            where[view.name] = name
        if namespace:
            where[view.namespace] = namespace
        if rows := await ask((view.name, view.namespace), where, window):
            return view, rows
    return _VIEWS[0], []


async def _of_console(console: Console, by: Sequence[str], where: Mapping[str, str], window: float) -> list[Traffic]:
    params = [("window", str(window)), *(("by", one) for one in by)]
    params += [("where", f"{name}={value}") for name, value in where.items()]
    try:
        return msgspec.convert((await console.get("metrics", params))["traffic"], list[Traffic])
    except (LookupError, TypeError, msgspec.ValidationError) as error:
        raise ConsoleError(f"the console's answer is not understood: is it of another version? ({error})") from error


async def _of_prometheus(url: str, name: str | None, namespace: str, window: float) -> tuple[_View, list[Traffic]]:
    async with PrometheusMetrics(url) as source:

        async def ask(by: Sequence[str], where: Mapping[str, str], window: float) -> list[Traffic]:
            return await traffic(source, by=by, where=where, window=window)

        return await _look(ask, name, namespace, window)


async def _collected(console: Console) -> str:
    """Why there may be nothing to show."""
    health = await console.get("health")
    if health.get("problem"):
        return f" The console cannot keep anything: {health['problem']}"
    if (source := health["sources"]["metrics"]) != "embedded":
        return f" The console asks {source}."
    targets = health["targets"]
    up = sum(bool(one["up"]) for one in targets)
    down = next((f"; {one['url']}: {one['error']}" for one in targets if one["error"]), "")
    return f" The console scrapes {up} of {len(targets)} targets{down}."


def _row(view: _View, one: Traffic) -> tuple[str, ...]:
    success = "-" if one.success is None else f"{one.success * 100:.1f}%"
    times = ("-" if value is None else f"{value:.1f}ms" for value in (one.p50, one.p90, one.p99))
    return (
        one.labels[view.name],
        one.labels[view.namespace],
        f"{one.requests:.2f}" if one.requests else "-",
        success,
        *times,
        _bytes(one.sent),
        _bytes(one.received),
    )


def _bytes(rate: float) -> str:
    """Bytes a second, with a unit people read."""
    if not rate:
        return "-"
    for unit in ("B/s", "KiB/s", "MiB/s"):
        if rate < 1024:
            return f"{rate:.1f}{unit}"
        rate /= 1024
    return f"{rate:.1f}GiB/s"


def _default_namespace(kubeconfig: Path | None, context: str | None) -> str:
    try:
        return config.load(kubeconfig, context).namespace
    except KubeError:
        return "default"  # a Prometheus can be asked without any cluster at hand
