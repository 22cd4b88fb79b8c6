"""One container of a pod, through all its runs.

A run begins with its image (`ErrImagePull`, then `ImagePullBackOff` until the name is mapped to a command) and its
configuration (`CreateContainerConfigError` while something it refers to is missing). Then the program is started, the
postStart hook called and the probes begin. The run ends with the program. Whether and when there is another one is a
matter of the restart policy and of the back-off (`CrashLoopBackOff`).

Ending a container: the preStop hook, SIGTERM, and SIGKILL when the grace period is over, which includes the hook.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pilotfish.kube.events import EventType
from pilotfish.kube.meta import format_time, now
from pilotfish.local.images.image import Image, ImageError
from pilotfish.local.node import env, fields, oci, probes, security
from pilotfish.local.node.backoff import Backoff
from pilotfish.local.node.host import Host, Pulse, first_of
from pilotfish.local.node.logs import LogFile, LogReader
from pilotfish.local.node.network import Sandbox
from pilotfish.local.node.resolv import hostname
from pilotfish.local.node.rootfs import Mount, hidden
from pilotfish.local.node.runtime import Running, StartError
from pilotfish.local.node.status import ContainerView, Kind
from pilotfish.local.node.volumes.mounted import PodVolumes, VolumeError

Object = Mapping[str, Any]
_log = logging.getLogger(__name__)

MAX_MESSAGE = 4096
_FALLBACK_MESSAGE = 2048
_IMAGE_CHECK_SECONDS = 1.0
_MIN_GRACE = 2.0
"""What is left for SIGTERM when the preStop hook used up the grace period, seconds (as kubelet)."""
_KEPT_LOGS = 2


class PodContext(Protocol):
    """What a container needs of its pod."""

    host: Host
    directory: Path
    volumes: PodVolumes
    sandbox: Sandbox | None
    config: Pulse
    """Fires when a ConfigMap, Secret or the pod itself changed."""

    @property
    def object(self) -> Object:
        """The pod, with its addresses of now in the status."""

    @property
    def shared_pid(self) -> str:
        """Path of the PID namespace that all containers share; empty when each has its own."""

    def container(self, name: str) -> ContainerWorker | None:
        """The container of a name."""

    def changed(self) -> None:
        """The status is to be written."""

    def event(self, event_type: EventType, reason: str, message: str, container: str = "", kind: Kind = "main") -> None:
        """Tell an event about the pod or one of its containers."""

    def service_variables(self) -> Mapping[str, str]:
        """The environment variables of Services, as of now."""


@dataclass(frozen=True)
class Plan:
    """Everything decided about a run before it starts."""

    container: oci.Container
    image_id: str
    termination: Path
    memory: int | None


class ContainerWorker:
    """Runs one container; see the module's text."""

    def __init__(self, pod: PodContext, spec: Object, kind: Kind) -> None:
        self.pod = pod
        self.spec = spec
        self.view = ContainerView(spec["name"], kind, spec.get("image") or "")
        self.running: Running | None = None
        self.process: oci.Process | None = None
        self.log: LogFile | None = None
        self.stdin: int | None = None
        """The writing end of the container's standard input, when it has one."""
        self.launched = asyncio.Event()
        """The first start was tried, whatever came of it, and the postStart hook is done."""
        self.startup_done = asyncio.Event()
        """The startup probe of some run succeeded."""
        self.task: asyncio.Task[None] | None = None
        self._stopping = False
        self._starting = asyncio.Lock()
        self._backoff = Backoff()
        self._redefined = asyncio.Event()
        self._warned: set[str] = set()
        self._ending: asyncio.Task[None] | None = None
        self._readers: list[LogReader] = []

    # ------------------------------------------------------------------ the pod's side

    @property
    def name(self) -> str:
        return self.view.name

    @property
    def kind_is_sidecar(self) -> bool:
        return self.view.kind == "sidecar"

    def never_ran(self) -> None:
        """The pod ends: a container that was never started is not ready."""
        if self.task is None:
            self.view.ready = self.view.started = False

    def begin(self) -> asyncio.Task[None]:
        """Start working in the background."""
        self.task = asyncio.create_task(self._run(), name=f"container {self.name}")
        return self.task

    def redefine(self, spec: Object) -> None:
        """The pod's specification gives the container another image: restart it with that."""
        self.spec = spec
        self.view.image = spec.get("image") or ""
        self._redefined.set()
        self.pod.config.fire()
        if self.running is not None:
            self._event("Normal", "Killing", f"Container {self.name} definition changed, will be restarted")
            self._restart(self._grace(None))

    async def stop(
        self,
        deadline: Callable[[], float],
        changed: Pulse,
        *,
        hook: bool = True,
        after: Sequence[asyncio.Future[None]] = (),
    ) -> None:
        """End for good. `deadline()` is the moment (monotonic) of SIGKILL; `changed` says that it moved. The preStop
        hook runs at once, the signal waits until `after` are done."""
        self._stopping = True
        async with self._starting:  # a start under way comes to its end first
            running = self.running
        if running is not None:
            self._event("Normal", "Killing", f"Stopping container {self.name}")
            await self._end(running, deadline, changed, hook=hook, after=after)
        elif self.task is not None:
            self.task.cancel()
        if self.task is not None:
            await asyncio.wait([self.task])
        if not self.view.terminated and running is None:
            self._forget()

    def _forget(self) -> None:
        """It never ran (again); a pod that ends has no waiting containers, so say what is known."""
        last = self.view.last_state.get("terminated")
        if last:
            self.view.state = {"terminated": last}
            self.view.last_state = {}
        self.view.ready = self.view.started = False

    # ------------------------------------------------------------------ runs

    async def _run(self) -> None:
        while True:
            self._redefined.clear()
            try:
                code = await self._once()
            except Exception as error:  # noqa: BLE001 - a container must not get lost by a mistake in the node
                _log.exception("container %s of pod %s", self.name, self.pod.object["metadata"]["name"])
                code = 128
                self._ended("", code, "ContainerCannotRun", f"{type(error).__name__}: {error}", None)
            self.launched.set()
            if self._stopping or not self._again(code):
                return
            delay = self._backoff.next(time.monotonic())
            if delay > 0 and not self._redefined.is_set():
                self._wait_out(delay)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._redefined.wait()
            self.view.restarts += 1

    def _again(self, code: int) -> bool:
        policy = self.pod.object["spec"].get("restartPolicy") or "Always"
        if self._redefined.is_set() or self.view.kind == "sidecar":
            return True
        if self.view.kind == "ephemeral":
            return False
        if self.view.kind == "init":
            return code != 0 and policy != "Never"
        return policy == "Always" or (policy == "OnFailure" and code != 0)

    def _wait_out(self, delay: float) -> None:
        meta = self.pod.object["metadata"]
        where = f"{self.name} pod={meta['name']}_{meta['namespace']}({meta['uid']})"
        minutes, seconds = divmod(int(delay), 60)
        text = f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
        self._event(
            "Warning",
            "BackOff",
            f"Back-off restarting failed container {self.name} in pod {where.partition('pod=')[2]}",
        )
        self._waiting("CrashLoopBackOff", f"back-off {text} restarting failed container={where}")

    def _waiting(self, reason: str, message: str = "") -> None:
        if self.view.terminated is not None:
            self.view.last_state = self.view.state
        waiting = {"reason": reason} | ({"message": message} if message else {})
        if self.view.state != {"waiting": waiting}:
            self.view.state = {"waiting": waiting}
            self.pod.changed()

    async def _once(self) -> int:
        """One run; returns its exit code."""
        image = await self._image()
        plan = await self._plan(image)
        container_id = secrets.token_hex(32)
        try:
            async with self._starting:
                if self._stopping:
                    return 0
                running = await self._start(container_id, plan)
        except (StartError, OSError) as error:
            self._event("Warning", "Failed", f"Error: {error}")
            self._ended(container_id, 128, "StartError", str(error), None)
            return 128
        prober = asyncio.create_task(self._watch_over(running), name=f"probes {self.name}")
        try:
            code = await asyncio.shield(running.exited)
        finally:
            prober.cancel()
        await self._finish(running, code, plan)
        return code

    # ------------------------------------------------------------------ image and configuration

    async def _image(self) -> Image:
        """The image, waited for until there is one."""
        pause, due, told = Backoff(), 0.0, False
        while True:
            name = self.spec.get("image") or ""
            try:
                image = self.pod.host.image(name, self.pod.host.data)
                if image is not None:
                    if not told or self.view.restarts == 0:
                        self._event("Normal", "Pulled", f'Container image "{name}" already present on machine')
                    return image
                problem = (
                    f"no command is mapped to the image {name!r} on this machine. "
                    f"Map one: pilotfish image add {name} -- COMMAND"
                )
            except ImageError as error:
                problem = str(error)
            self.launched.set()
            never = self.spec.get("imagePullPolicy") == "Never"
            moment = time.monotonic()
            if not told:
                told = True
                pause.next(moment)
                reason = "ErrImageNeverPull" if never else "ErrImagePull"
                self._event("Warning", "Failed", f'Failed to pull image "{name}": {problem}')
                self._event("Warning", "Failed", f"Error: {reason}")
                self._waiting(reason, problem)
                due = moment + _IMAGE_CHECK_SECONDS
            elif moment >= due:
                self._event("Normal", "BackOff", f'Back-off pulling image "{name}"')
                if not never:
                    self._waiting("ImagePullBackOff", f'Back-off pulling image "{name}": {problem}')
                due = moment + pause.next(moment)
            # Looking the name up is cheap, so a mapping the user adds is found at once, whatever the back-off says.
            await self.pod.config.wait(_IMAGE_CHECK_SECONDS)

    async def _plan(self, image: Image) -> Plan:
        told = ""
        while True:
            try:
                return self._decide(image)
            except (env.EnvError, VolumeError, security.SecurityError, fields.FieldError) as error:
                self.launched.set()
                if str(error) != told:
                    told = str(error)
                    self._event("Warning", "Failed", f"Error: {told}")
                self._waiting("CreateContainerConfigError", told)
                await self.pod.config.wait(10.0)

    def _decide(self, image: Image) -> Plan:
        host, pod, spec = self.pod.host, self.pod.object, self.spec
        assert self.pod.sandbox is not None  # noqa: S101 - containers are started after the sandbox
        namespace = pod["metadata"]["namespace"]
        context = security.resolve(
            pod["spec"].get("securityContext") or {}, spec.get("securityContext") or {}, image.user, host.limits
        )
        for warning in context.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                self._event("Warning", "SecurityContext", f"Container {self.name}: {warning}")
        given = env.build(
            pod,
            spec,
            self.pod.service_variables(),
            lambda name: host.config_maps.get(namespace, name),
            lambda name: host.secrets.get(namespace, name),
            host.allocatable,
        )
        path = ":".join([*image.path, env.DEFAULT_PATH])
        variables = {"PATH": path, "HOSTNAME": hostname(pod), **image.env, **given}
        if not host.limits.full_map:
            variables["PILOTFISH_SHARED_USER"] = "true"  # users do not tell processes apart here
        if spec.get("tty"):
            variables.setdefault("TERM", "xterm")
        process = oci.Process(
            args=command_line(spec, image, variables),
            env=tuple(f"{name}={value}" for name, value in variables.items()),
            cwd=spec.get("workingDir") or image.workdir or "/",
            security=context,
            terminal=bool(spec.get("tty")),
        )
        termination = self.pod.directory / "termination" / f"{self.name}-{self.view.restarts}"
        mounts = [
            *(Mount(path, path) for path in image.mounts if Path(path).exists()),
            Mount(str(self.pod.directory / "resolv.conf"), "/etc/resolv.conf", readonly=False),
            Mount(str(self.pod.directory / "hosts"), "/etc/hosts", readonly=False),
            Mount(str(termination), spec.get("terminationMessagePath") or "/dev/termination-log", readonly=False),
        ]
        volumes = self.pod.volumes.mounts(spec, variables)
        targets = {mount.target for mount in volumes}
        mounts = [mount for mount in mounts if mount.target not in targets] + volumes
        sandbox = self.pod.sandbox
        container = oci.Container(
            root="",
            process=process,
            namespaces=oci.Namespaces(
                net=sandbox.net,
                ipc=sandbox.ipc,
                uts=sandbox.uts,
                pid=self.pod.shared_pid or self._target_pid(),
                host_pid=bool(pod["spec"].get("hostPID")),
            ),
            mounts=tuple(mounts),
            hidden=tuple(hidden((*host.runtime.system.mounts, *(Mount(p, p) for p in image.mounts)), host.data)),
            shm="" if "/dev/shm" in targets else str(self.pod.directory / "shm"),  # noqa: S108 - the container's own
            full_map=host.limits.full_map,
        )
        memory = (spec.get("resources") or {}).get("limits", {}).get("memory")
        return Plan(
            container,
            _image_id(spec.get("image") or "", image),
            termination,
            int(fields.quantity(memory)) if memory is not None else None,
        )

    def _target_pid(self) -> str:
        """The PID namespace of the container that an ephemeral one looks into; empty when it looks into none."""
        name = self.spec.get("targetContainerName")
        target = self.pod.container(name) if name else None
        return f"/proc/{target.running.pid}/ns/pid" if target is not None and target.running is not None else ""

    # ------------------------------------------------------------------ start and end of a run

    async def _start(self, container_id: str, plan: Plan) -> Running:
        host = self.pod.host
        plan.termination.parent.mkdir(exist_ok=True)
        plan.termination.touch()
        plan.termination.chmod(0o666)
        cgroup = None
        if plan.memory:
            cgroup = host.cgroups.create(container_id[:32], plan.memory)
        log = self._open_log()
        ours: list[tuple[int, str]] = []
        theirs: list[int | None] = [None, None, None]
        terminal = plan.container.process.terminal
        stdin = None
        if not terminal:
            for index, stream in ((1, "stdout"), (2, "stderr")):
                reading, theirs[index] = os.pipe()
                ours.append((reading, stream))
            if self.spec.get("stdin"):
                theirs[0], stdin = os.pipe()
        try:
            running = await host.runtime.start(
                container_id,
                plan.container,
                hostname(self.pod.object),
                stdin=theirs[0],
                stdout=theirs[1],
                stderr=theirs[2],
                cgroup=cgroup,
            )
        except BaseException:
            for reading, _ in ours:
                os.close(reading)
            if stdin is not None:
                os.close(stdin)
            log.close()
            if cgroup is not None:
                cgroup.remove()
            raise
        finally:
            for fd in theirs:
                if fd is not None:
                    os.close(fd)
        if running.terminal is not None:
            ours.append((os.dup(running.terminal), "stdout"))
        self._readers = [LogReader(fd, stream, log) for fd, stream in ours]
        self.log, self.stdin, self.running, self.process = log, stdin, running, plan.container.process
        view = self.view
        if view.terminated is not None:
            view.last_state = view.state
        view.state = {"running": {"startedAt": format_time(now())}}
        view.container_id, view.image_id = f"crun://{container_id}", plan.image_id
        view.ready = view.started = False
        self._event("Normal", "Created", f"Created container: {self.name}")
        self._event("Normal", "Started", f"Started container {self.name}")
        self.pod.changed()
        return running

    def close_stdin(self) -> None:
        """Let the program see the end of its standard input."""
        if self.stdin is not None:
            os.close(self.stdin)
            self.stdin = None

    def log_path(self, run: int) -> Path:
        """The log of run number `run` (the restart count it has)."""
        meta = self.pod.object["metadata"]
        pod = f"{meta['namespace']}_{meta['name']}_{meta['uid']}"
        return self.pod.host.logs / pod / self.name / f"{run}.log"

    def _open_log(self) -> LogFile:
        stale = self.log_path(self.view.restarts - _KEPT_LOGS)
        for path in (stale, stale.with_name(stale.name + ".1")):
            path.unlink(missing_ok=True)
        return LogFile(self.log_path(self.view.restarts))

    async def _watch_over(self, running: Running) -> None:
        """The postStart hook, then the probes, for one run."""
        try:
            hook = (self.spec.get("lifecycle") or {}).get("postStart")
            if hook:
                outcome = await probes.check(hook, self, 3600.0)
                if not outcome.ok:
                    self._event("Warning", "FailedPostStartHook", f"PostStartHook failed: {outcome.message}")
                    self._event("Normal", "Killing", "FailedPostStartHook")
                    self._restart(self._grace(None))
                    return
            self.launched.set()
            if self.running is running and not self._stopping:
                await probes.Prober(self.spec, self, self).run()
        finally:
            self.launched.set()

    async def _finish(self, running: Running, code: int, plan: Plan) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                for reader in self._readers:
                    await reader.done.wait()
        for reader in self._readers:
            reader.close()
        if self.log is not None:
            self.log.close()
        self.close_stdin()
        oom = running.cgroup is not None and running.cgroup.oom_killed()
        reason = "OOMKilled" if oom else ("Completed" if code == 0 else "Error")
        message = self._termination_message(plan.termination, code)
        self.running = None
        self._ended(running.id, code, reason, message, self.view.state.get("running"))
        await self.pod.host.runtime.remove(running)

    def _termination_message(self, path: Path, code: int) -> str:
        try:
            with path.open("rb") as file:
                text = file.read(MAX_MESSAGE)
            path.unlink()
        except OSError:
            text = b""
        if not text and code != 0 and self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            try:
                raw = self.log_path(self.view.restarts).read_bytes()[-8 * _FALLBACK_MESSAGE :]
            except OSError:
                raw = b""
            lines = [line.split(b" ", 3)[-1] for line in raw.splitlines()[-80:]]
            text = b"\n".join(lines)[-_FALLBACK_MESSAGE:]
        return text.decode(errors="replace")

    def _ended(self, container_id: str, code: int, reason: str, message: str, ran: Object | None) -> None:
        view = self.view
        moment = format_time(now())
        terminated: dict[str, Any] = {
            "exitCode": code,
            "reason": reason,
            "startedAt": ran["startedAt"] if ran else moment,
            "finishedAt": moment,
            "containerID": f"crun://{container_id}",
        }
        if message:
            terminated["message"] = message
        if view.terminated is not None:
            view.last_state = view.state
        view.state = {"terminated": terminated}
        view.container_id = terminated["containerID"]
        view.ready = view.started = False
        self.pod.changed()

    def _grace(self, probe: Object | None) -> float:
        own = (probe or {}).get("terminationGracePeriodSeconds")
        pod = self.pod.object["spec"].get("terminationGracePeriodSeconds")
        return float(own if own is not None else 30 if pod is None else pod)

    def _restart(self, grace: float) -> None:
        """End this run; the next one follows by the restart policy."""
        running = self.running
        if running is None or self._stopping or (self._ending is not None and not self._ending.done()):
            return
        deadline = time.monotonic() + grace
        self._ending = asyncio.create_task(self._end(running, lambda: deadline, Pulse(), hook=True))

    async def _end(
        self,
        running: Running,
        deadline: Callable[[], float],
        changed: Pulse,
        *,
        hook: bool,
        after: Sequence[asyncio.Future[None]] = (),
    ) -> None:
        begin = time.monotonic()
        handler = (self.spec.get("lifecycle") or {}).get("preStop")
        least = 0.0
        if handler and hook and deadline() > begin and not running.exited.done():
            check = asyncio.create_task(probes.check(handler, self, max(deadline() - begin, 0.1)))
            await first_of(check, running.exited)
            if check.done():
                if not check.result().ok:
                    self._event("Warning", "FailedPreStopHook", f"PreStopHook failed: {check.result().message}")
            else:
                check.cancel()
            least = time.monotonic() + _MIN_GRACE
        if after and not running.exited.done():
            turn = asyncio.create_task(asyncio.wait(after))
            await first_of(turn, running.exited)
            turn.cancel()
            least = time.monotonic() + _MIN_GRACE
        running.kill(self._stop_signal())
        while not running.exited.done():
            left = max(deadline(), least if deadline() > begin else 0.0) - time.monotonic()
            if left <= 0:
                running.kill(signal.SIGKILL)
                await asyncio.shield(running.exited)
                return
            waiter = asyncio.create_task(changed.wait(left))
            await first_of(running.exited, waiter)
            waiter.cancel()

    def _stop_signal(self) -> int:
        name = (self.spec.get("lifecycle") or {}).get("stopSignal") or "SIGTERM"
        return int(getattr(signal, name, signal.SIGTERM))

    # ------------------------------------------------------------------ for probes: Target and Watcher

    @property
    def ip(self) -> str:
        return str(self.pod.sandbox.ip) if self.pod.sandbox else ""

    def port(self, value: object) -> int:
        if isinstance(value, int):
            return value
        text = str(value)
        if text.isdigit():
            return int(text)
        for port in self.spec.get("ports") or ():
            if port.get("name") == text:
                return int(port["containerPort"])
        raise ValueError(f"container {self.name} has no port named {text!r}")

    async def execute(self, command: list[str], timeout_seconds: float) -> tuple[int, bytes]:
        running, process = self.running, self.process
        if running is None or process is None:
            return 126, b"the container is not running"

        async def start(fd: int) -> tuple[int, asyncio.Future[int]]:
            program = replace(process, args=tuple(command), terminal=False)
            started = await self.pod.host.runtime.exec(running, program, stdout=fd, stderr=fd)
            return started.pid, started.exited

        try:
            return await probes.collect(start, timeout_seconds)
        except StartError as error:
            return 126, str(error).encode()

    def started(self) -> None:
        self.view.started = True
        self.startup_done.set()
        self.pod.changed()

    def ready(self, value: bool) -> None:
        self.view.ready = value
        self.pod.changed()

    def unhealthy(self, kind: str, message: str) -> None:
        if self.running is None or self.running.exited.done():
            return  # it failed because the container ended meanwhile
        self._event("Warning", "Unhealthy", f"{kind} probe failed: {message}")

    def failed(self, kind: str, probe: Object) -> None:
        word = kind.lower()
        self._event("Normal", "Killing", f"Container {self.name} failed {word} probe, will be restarted")
        self._restart(self._grace(probe))

    def _event(self, event_type: EventType, reason: str, message: str) -> None:
        self.pod.event(event_type, reason, message, self.name, self.view.kind)


def command_line(spec: Object, image: Image, variables: Mapping[str, str]) -> tuple[str, ...]:
    """The program and its arguments: the container's `command` replaces the image's and drops its arguments."""
    command, args = spec.get("command"), spec.get("args")
    words = [*(command or image.command)]
    words += args or ([] if command else image.args)
    if command or args:
        return tuple(env.expand(word, variables) for word in words)
    return tuple(words)


def _image_id(name: str, image: Image) -> str:
    digest = hashlib.sha256(repr((image.command, image.args, image.env)).encode()).hexdigest()
    return f"{name.partition('@')[0].rpartition(':')[0] or name}@sha256:{digest}"
