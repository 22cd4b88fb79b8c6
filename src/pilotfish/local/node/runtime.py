"""Containers, by means of crun.

crun starts a container's first process and exits. The process is then an orphan and becomes a child of this one,
process 1 of the node, which therefore learns its exit code from the kernel: no supervisor per container is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from pilotfish.local.node import oci, rootfs
from pilotfish.local.node.cgroups import Cgroup
from pilotfish.local.node.processes import Processes

_encode = msgspec.json.encode
_START_SECONDS = 30.0


class StartError(RuntimeError):
    """The container's program could not be started; the text is what the runtime said."""


@dataclass
class Running:
    """A started container."""

    id: str
    pid: int
    exited: asyncio.Future[int]
    bundle: Path
    terminal: int | None = None
    """The master side of its terminal, if it has one."""
    cgroup: Cgroup | None = None

    def kill(self, number: int) -> None:
        """Send a signal to the first process; with SIGKILL all others of the container end too."""
        if not self.exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


@dataclass
class Started:
    """A program started inside a running container."""

    pid: int
    exited: asyncio.Future[int]
    terminal: int | None = None


@dataclass
class Runtime:
    """Starts containers and programs in them."""

    processes: Processes
    directory: Path
    system: rootfs.System = field(default_factory=rootfs.inspect)
    _execs: int = 0

    def __post_init__(self) -> None:
        self._state = self.directory / "crun"
        self._bundles = self.directory / "bundles"
        self._bundles.mkdir(parents=True, exist_ok=True)

    async def version(self) -> str:
        """Name and version, as `containerRuntimeVersion` wants it."""
        result = await self.processes.run(["crun", "--version"])
        words = result.out.split()
        return f"crun://{words[2].decode()}" if result.code == 0 and len(words) > 2 else "crun://unknown"

    def _crun(self, *words: str, log: Path | None = None) -> list[str]:
        logging = [f"--log=file:{log}"] if log else []
        return ["crun", f"--root={self._state}", "--cgroup-manager=disabled", *logging, *words]

    async def start(
        self,
        container_id: str,
        container: oci.Container,
        hostname: str,
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        cgroup: Cgroup | None = None,
    ) -> Running:
        """Start a container. `container.root` is ignored: its root is made here. Raises `StartError`."""
        bundle = self._bundles / container_id
        security = container.process.security
        try:
            mounts = (*self.system.mounts, *container.mounts)
            overlays = rootfs.build(bundle / "rootfs", self.system, mounts, security.uid, security.gid, hostname)
            _make_directory(bundle / "rootfs", container.process.cwd)
            whole = replace(container, root=str(bundle / "rootfs"), mounts=mounts, overlays=tuple(overlays))
            (bundle / "config.json").write_bytes(_encode(oci.config(whole)))
            words = ["run", "--detach", f"--bundle={bundle}", f"--pid-file={bundle / 'pid'}"]
            pid, terminal = await self._launch(
                bundle, words, [container_id], whole.process.terminal, (stdin, stdout, stderr), cgroup
            )
        except OSError as error:
            self._discard(bundle)
            raise StartError(f"cannot prepare the container: {error}") from error
        except BaseException:
            await self.processes.run(self._crun("delete", "--force", container_id))
            self._discard(bundle)
            raise
        return Running(container_id, pid, self.processes.ended(pid), bundle, terminal, cgroup)

    async def exec(
        self,
        running: Running,
        process: oci.Process,
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> Started:
        """Start a program in a running container. Raises `StartError`."""
        self._execs += 1
        directory = running.bundle / f"exec{self._execs}"
        directory.mkdir()
        try:
            (directory / "process.json").write_bytes(_encode(oci.process(process)))
            words = ["exec", "--detach", f"--process={directory / 'process.json'}", f"--pid-file={directory / 'pid'}"]
            pid, terminal = await self._launch(
                directory, words, [running.id], process.terminal, (stdin, stdout, stderr), running.cgroup
            )
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        return Started(pid, self.processes.ended(pid), terminal)

    async def _launch(
        self,
        directory: Path,
        options: Sequence[str],
        arguments: Sequence[str],
        terminal: bool,
        stdio: tuple[int | None, int | None, int | None],
        cgroup: Cgroup | None,
    ) -> tuple[int, int | None]:
        log = directory / "log"
        console: socket.socket | None = None
        if terminal:
            console = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            # Socket paths are limited to 107 bytes; the descriptor's own path is short wherever the data directory is.
            holder = os.open(directory, os.O_PATH | os.O_DIRECTORY)
            try:
                console.bind(f"/proc/self/fd/{holder}/console")
            finally:
                os.close(holder)
            console.listen(1)
            console.setblocking(False)
            options = [*options, f"--console-socket={directory / 'console'}"]
        try:
            argv = self._crun(*options, *arguments, log=log)
            if cgroup is not None:
                argv = cgroup.wrap(argv)
            child = self.processes.spawn(argv, stdin=stdio[0], stdout=stdio[1], stderr=stdio[2])
            code = await self._finished(child)
            if code != 0:
                raise StartError(_explain(log, code))
            pid = int((directory / "pid").read_text())
            master = await _receive_terminal(console) if console is not None else None
        finally:
            if console is not None:
                console.close()
        return pid, master

    async def _finished(self, child: int) -> int:
        """The exit code of crun, which takes milliseconds; one that hangs is killed and counts as failed."""
        ended = self.processes.ended(child)
        try:
            async with asyncio.timeout(_START_SECONDS):
                return await asyncio.shield(ended)
        except TimeoutError as error:
            os.kill(child, signal.SIGKILL)
            await ended
            raise StartError(f"crun did not finish within {_START_SECONDS:g} s") from error

    async def remove(self, running: Running) -> None:
        """Forget a container that has ended, with its root directory."""
        await self.processes.run(self._crun("delete", "--force", running.id))
        if running.terminal is not None:
            os.close(running.terminal)
            running.terminal = None
        if running.cgroup is not None:
            running.cgroup.remove()
        self._discard(running.bundle)

    @staticmethod
    def _discard(bundle: Path) -> None:
        shutil.rmtree(bundle, ignore_errors=True)

    async def stop(self, running: Running, grace: float, number: int = signal.SIGTERM) -> None:
        """Ask the container to end; kill it when it has not after `grace` seconds."""
        running.kill(number)
        try:
            async with asyncio.timeout(max(grace, 0)):
                await asyncio.shield(running.exited)
        except TimeoutError:
            running.kill(signal.SIGKILL)
            await asyncio.shield(running.exited)


def _make_directory(root: Path, cwd: str) -> None:
    """The working directory has to exist; below mounts it is the mount's business."""
    with contextlib.suppress(OSError):
        (root / cwd.lstrip("/")).mkdir(parents=True, exist_ok=True)


def _explain(log: Path, code: int) -> str:
    """The last line of crun's log without its time stamp."""
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    if not lines:
        return f"crun ended with code {code}"
    last = lines[-1]
    stamp, _, rest = last.partition(": ")
    return rest if stamp[:4].isdigit() else last


async def _receive_terminal(console: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    connection, _ = await loop.sock_accept(console)
    with connection:
        connection.setblocking(True)
        _, fds, _, _ = socket.recv_fds(connection, 4096, 1)
    return fds[0]
