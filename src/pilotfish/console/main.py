"""`python -m pilotfish.console`: flags, and the process from start to end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotfish.errors import UserError

SIZE = re.compile(r"(\d+)(Ki|Mi|Gi)?")
_UNITS = {None: 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
TRACE_SYSTEMS = ("zipkin", "jaeger", "tempo")
STRATEGIES = ("token", "anonymous")
"""Kiali's `openid`, `openshift` and `header` are not there."""


@dataclass(frozen=True)
class Options:
    """How the console was started."""

    data: Path
    address: str = "0.0.0.0"  # noqa: S104 - of its own pod
    port: int = 20001
    receive_port: int = 9411
    otlp_port: int = 4317
    interval: float = 5.0
    window: float = 3600.0
    size_limit: int = 256 * 2**20
    prometheus: str = ""
    """URL; with it nothing is scraped."""
    traces: str = ""
    """`zipkin=URL`, `jaeger=URL` or `tempo=URL`; with it received spans are kept, but not shown."""
    namespace: str = "istio-system"
    """Where the control plane is."""
    kubeconfig: Path | None = None
    cluster: bool = True
    """Whether to look for targets through the Kubernetes API."""
    auth: str = "token"
    """Who may ask: `token` or `anonymous`, see pilotfish.console.access."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit code 0 after SIGTERM or SIGINT, 1 with one line on stderr when it cannot start, 2 for wrong arguments."""
    options = _options(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    try:
        asyncio.run(_until_told(options))
    except (UserError, OSError) as error:
        print(f"pilotfish-console: {error}", file=sys.stderr)
        sys.exit(1)


async def _until_told(options: Options) -> None:
    from pilotfish.console.collector import collector  # noqa: PLC0415 (loaded when it is known that we run)

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(collector(options))
        waiting = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([waiting, *running.tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {waiting}:
            task.result()  # a part that ended did so with an error


def _options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="pilotfish-console", description="Collects and shows a mesh's telemetry.")
    add = parser.add_argument
    add("--data", type=Path, default=Path("/var/lib/pilotfish-console"), help="directory of the store")
    add("--address", default=Options.address, help="address to listen on")
    add("--port", type=_port, default=Options.port, help="port of the API; 0 for any")
    add("--receive-port", type=_port, default=Options.receive_port, help="port for spans (Zipkin, OTLP/HTTP)")
    add("--otlp-port", type=_port, default=Options.otlp_port, help="port for spans (OTLP/gRPC)")
    add("--scrape-interval", type=_seconds, default=Options.interval, metavar="SECONDS")
    add(
        "--window", type=_seconds, default=Options.window, metavar="SECONDS", help="how long samples and spans are kept"
    )
    add("--size-limit", type=_size, default=Options.size_limit, metavar="SIZE", help="of the store, such as 256Mi")
    add("--prometheus", default="", metavar="URL", help="ask this Prometheus instead of scraping")
    add("--traces", default="", metavar="SYSTEM=URL", help=f"ask this for traces; one of {', '.join(TRACE_SYSTEMS)}")
    add("--namespace", default=Options.namespace, help="where the control plane is")
    add("--kubeconfig", type=Path, help="outside a cluster")
    add("--no-cluster", action="store_true", help="only receive spans; do not look for targets")
    add(
        "--auth-strategy",
        choices=STRATEGIES,
        help="who may ask; on loopback anonymous, else token",
    )
    given = parser.parse_args(arguments)
    auth = given.auth_strategy or ("anonymous" if _is_loopback(given.address) else "token")
    if auth == "token" and given.no_cluster:
        parser.error("--auth-strategy token needs a cluster to know its tokens: give anonymous, or listen on loopback")
    if given.window < 10 * given.scrape_interval:
        parser.error("--window: at least ten times --scrape-interval is needed to tell what a counter increased by")
    return Options(
        data=given.data,
        address=given.address,
        port=given.port,
        receive_port=given.receive_port,
        otlp_port=given.otlp_port,
        interval=given.scrape_interval,
        window=given.window,
        size_limit=given.size_limit,
        prometheus=given.prometheus,
        traces=given.traces,
        namespace=given.namespace,
        kubeconfig=given.kubeconfig,
        cluster=not given.no_cluster,
        auth=auth,
    )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e8:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def _size(text: str) -> int:
    match = SIZE.fullmatch(text)
    if match is None or int(match[1]) * _UNITS[match[2]] < 2**20:
        raise argparse.ArgumentTypeError(f"{text!r} is no size of at least 1Mi; write for example 256Mi")
    return int(match[1]) * _UNITS[match[2]]
