"""One Envoy: started, watched, drained, ended."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import signal
import time
from pathlib import Path

from pilotfish.agent.http import Response, TooLargeError, fetch
from pilotfish.agent.options import AgentError, Options, seconds

log = logging.getLogger(__name__)

ADMIN = "http://127.0.0.1:{port}{path}"
CDS, LDS = "cluster_manager.cds.update_success", "listener_manager.lds.update_success"
STATE, WORKERS = "server.state", "listener_manager.workers_started"
ACTIVE = "downstream_cx_active"
OWN_LISTENERS = ("listener.admin.", "listener.0.0.0.0_15090.", "listener.0.0.0.0_15021.")
PR_SET_PDEATHSIG = 1


class Proxy:
    """Envoy as a child. It is told to die with us, so that a killed agent leaves no proxy without certificates."""

    def __init__(self, options: Options, binary: Path) -> None:
        self._options = options
        self._binary = binary
        self._process: asyncio.subprocess.Process | None = None
        self._configured = self._live = False
        self.draining = False

    @property
    def admin_port(self) -> int:
        return int(self._options.proxy["proxyAdminPort"])

    async def start(self, bootstrap: Path) -> None:
        options = self._options
        arguments = [
            str(self._binary),
            *("-c", str(bootstrap), "--disable-hot-restart", "--service-zone", "", "--local-address-ip-version", "v4"),
            *("--drain-time-s", str(int(_drain(options))), "--drain-strategy", "immediate"),
            *_flush(options),
            *("--log-level", options.log_level, "--component-log-level", options.component_log_level),
            *("--log-format", "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t", "--allow-unknown-static-fields"),
        ]
        if options.concurrency != 0:
            arguments += ["--concurrency", str(options.concurrency)]
        try:
            self._process = await asyncio.create_subprocess_exec(*arguments, preexec_fn=_die_with_parent)
        except OSError as error:
            raise AgentError(f"cannot start Envoy ({self._binary}): {error.strerror}") from error

    async def wait(self) -> int:
        """Until Envoy ends; its exit code."""
        assert self._process is not None  # noqa: S101 (started before it is waited for)
        return await self._process.wait()

    async def ready(self) -> bool:
        """Configuration has arrived once (clusters and listeners), the server is live and its workers run."""
        if self.draining:
            return False
        if not (self._configured and self._live):
            names = (CDS, LDS, STATE, WORKERS)
            stats = await self._stats("|".join(name.replace(".", r"\.") for name in names))
            self._configured = self._configured or (stats.get(CDS, 0) > 0 and stats.get(LDS, 0) > 0)
            self._live = self._configured and stats.get(STATE, 1) == 0 and stats.get(WORKERS, 0) == 1
        return self._configured and self._live

    async def _stats(self, pattern: str) -> dict[str, int]:
        try:
            answer = await self._admin("GET", f"/stats?filter=%5E({pattern})%24")
        except (OSError, TimeoutError, TooLargeError):
            return {}
        found = {}
        for line in answer.body.decode(errors="replace").splitlines():
            name, _, value = line.partition(": ")
            with contextlib.suppress(ValueError):
                found[name] = int(value)
        return found

    async def _admin(self, method: str, path: str) -> Response:
        return await fetch(ADMIN.format(port=self.admin_port, path=path), method=method, timeout=5)

    async def drain(self) -> None:
        """Stop taking new work in: health checks fail, listeners drain."""
        self.draining = True
        try:
            await self._admin("POST", "/drain_listeners?inboundonly&graceful")
        except (OSError, TimeoutError, TooLargeError) as error:
            log.warning("Envoy could not be told to drain: %s", error)

    async def stop(self) -> None:
        """Drain, wait as long as the settings say, end Envoy."""
        if self._process is None or self._process.returncode is not None:
            return
        if not self.draining:
            await self.drain()
        await self._drained()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), 5)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _drained(self) -> None:
        """Fixed time, or until no connection is left if so configured (but the minimum in any case)."""
        process, options = self._process, self._options
        assert process is not None  # noqa: S101 (the caller has checked)
        fixed = options.minimum_drain_seconds if options.exit_on_zero_connections else options.drain_seconds
        log.info("draining for %s s", fixed)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), fixed)
        started = time.monotonic()
        while options.exit_on_zero_connections and process.returncode is None:
            stats = await self._stats(rf"listener\..*{ACTIVE}")
            left = sum(v for k, v in stats.items() if not k.startswith(OWN_LISTENERS) and ".worker_" not in k)
            if not left:
                log.info("no connection is left after %.1f s", fixed + time.monotonic() - started)
                return
            await asyncio.sleep(1)


def _flush(options: Options) -> list[str]:
    """When buffered access logs are written: after a second (Envoy waits for ten), or as ProxyConfig says."""
    interval = seconds(str(options.proxy.get("fileFlushInterval") or "1s"), "fileFlushInterval")
    arguments = ["--file-flush-interval-msec", str(round(interval * 1000))]
    if size := options.proxy.get("fileFlushMinSizeKb"):
        arguments += ["--file-flush-min-size-kb", str(int(size))]
    return arguments


def _drain(options: Options) -> float:
    return max(1.0, seconds(str(options.proxy["drainDuration"]), "drainDuration"))


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
