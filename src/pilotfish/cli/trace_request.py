"""`pilotfish trace-request`."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from pilotfish.api.telemetry import EXPIRES, TRACE_REQUESTS
from pilotfish.cli import mesh_options as options
from pilotfish.errors import UserError
from pilotfish.kube.client import Client
from pilotfish.kube.errors import ApiStatusError
from pilotfish.kube.resources import SERVICES, ResourceType
from pilotfish.mesh.telemetry import HEADER, VALUE

TELEMETRIES = ResourceType("telemetry.istio.io", "v1", "Telemetry", "telemetries")
LABEL = "telemetry.pilotfish.io/trace-request"


def telemetry(service: dict[str, Any], header: str, until: datetime) -> dict[str, Any]:
    """The object that has requests to a service traced and logged. Raises UserError when the service selects nobody."""
    meta, selector = service["metadata"], service["spec"].get("selector")
    if not selector:
        raise UserError(f"service {meta['namespace']}/{meta['name']} has no selector, so there is no proxy to ask")
    suffix = hashlib.sha256(header.encode()).hexdigest()[:8]
    return {
        "apiVersion": TELEMETRIES.api_version,
        "kind": TELEMETRIES.kind,
        "metadata": {
            "name": f"trace-request-{meta['name'][:40]}-{suffix}",
            "namespace": meta["namespace"],
            "labels": {LABEL: "true"},
            "annotations": {TRACE_REQUESTS: header, EXPIRES: until.strftime("%Y-%m-%dT%H:%M:%SZ")},
        },
        "spec": {"selector": {"matchLabels": selector}},
    }


def _header(_ctx: click.Context, _parameter: click.Parameter, text: str) -> str:
    name, _, value = text.partition("=")
    if not HEADER.fullmatch(name) or not VALUE.fullmatch(value):
        raise click.BadParameter(f"{text!r} is not NAME or NAME=VALUE; values may have letters, digits and _.:/+=-")
    return f"{name.lower()}={value}" if value else name.lower()


@click.command("trace-request")
@click.option("--to", "service", required=True, metavar="SERVICE.NAMESPACE", help="Service whose requests are meant.")
@click.option(
    "--for",
    "period",
    default="5m",
    show_default=True,
    callback=lambda _ctx, _parameter, value: options.seconds(value),
    help="How long; it ends by itself.",
)
@click.option(
    "--header", required=True, callback=_header, metavar="NAME[=VALUE]", help="Requests with this header are meant."
)
@click.option("--stop", is_flag=True, help="End it now.")
@options.kubeconfig
@options.context
def command(service: str, period: float, header: str, stop: bool, kubeconfig: Path | None, context: str | None) -> None:
    """Trace and log the requests to a service that carry a header, and no others, for some time.

    Each is traced whatever the sampling says, with the mesh's tracing provider, and further hops follow as far as the
    applications pass trace headers on. Each is logged by the service's proxies (kubectl logs -c istio-proxy). The
    control plane ends it when the time is over, whether or not this command is still there.
    """
    name, _, rest = service.partition(".")
    namespace = rest.partition(".")[0] or "default"

    async def work(client: Client) -> None:
        try:
            found = await client.get(SERVICES, name, namespace)
        except ApiStatusError as error:
            if error.code == 404:
                raise UserError(f"--to: there is no service {name} in namespace {namespace}") from error
            raise
        until = datetime.now(UTC) + timedelta(seconds=period)
        made = telemetry(found, header, until)
        for old in (await client.list(TELEMETRIES, labels=f"{LABEL}=true")).items:
            meta = old["metadata"]
            over = meta["annotations"].get(EXPIRES, "") < datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            if over or (stop and (meta["namespace"], meta["name"]) == (namespace, made["metadata"]["name"])):
                await client.delete(TELEMETRIES, meta["name"], meta["namespace"])
        if stop:
            click.echo(f"Requests to {name}.{namespace} with {header} are no longer traced")
            return
        await client.apply(made, "pilotfish-trace-request", force=True, resource=TELEMETRIES)
        clock = until.astimezone().strftime("%H:%M:%S")
        click.echo(f"Requests to {name}.{namespace} with {header} are traced and logged until {clock}")
        selector = ",".join(f"{key}={value}" for key, value in found["spec"]["selector"].items())
        click.echo(f"Logs: kubectl logs -n {namespace} -l {selector} -c istio-proxy -f")

    options.with_client(kubeconfig, context, work)
