"""A pod on this node, from its binding to its end. One `PodWorker` per pod, the only one that acts for it.

Life of a pod:

1. *Prepare.* Its volumes are made (`FailedMount` while a ConfigMap, Secret or claim is missing; tried again at once
   when that appears), then its sandbox: network, IPC and UTS namespaces with an address. hosts and resolv.conf follow.
2. *Initialise.* Init containers run one after the other. One that fails is tried again with back-off, or fails the pod
   if the restart policy is Never. A native sidecar (restartPolicy Always) is started in its turn and only holds up
   the next one until its startup probe succeeded; it is restarted whenever it ends, until the pod does.
3. *Run.* The containers are started in order, each after the postStart hook of the one before it. From here on each
   looks after itself (`container.py`): probes, restarts, back-off.
4. *Finish.* When no container will run again, the sidecars are ended, last one first, and the pod is Succeeded or
   Failed. It also ends as Failed when `activeDeadlineSeconds` are over (`DeadlineExceeded`).
   Ephemeral containers (`kubectl debug`) run once when they are added, and nothing waits for them.
5. *Terminate.* On deletion all preStop hooks run at once. The containers get the grace period together, then the
   sidecars what is left of it (at least 2 s each), last one first. The final status is written, volumes and namespaces
   go, and the object is deleted with grace period 0. A pod whose object is gone (forced deletion) is killed without
   grace.

At the start of the node a pod may have been running before: all its processes are gone. Its containers are started
again with one more restart, as kubelet does after a reboot; if the restart policy is Never the pod is Failed instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pilotfish.kube.client import PatchType
from pilotfish.kube.errors import ApiStatusError, KubeError, is_conflict, is_not_found
from pilotfish.kube.events import EventType
from pilotfish.kube.meta import format_time, is_deleting, now
from pilotfish.kube.resources import PERSISTENT_VOLUME_CLAIMS, PODS
from pilotfish.local.network import NODE_IP
from pilotfish.local.node import env, resolv, status
from pilotfish.local.node.container import ContainerWorker
from pilotfish.local.node.host import Host, Pulse
from pilotfish.local.node.network import NetworkError, Sandbox
from pilotfish.local.node.sharedpid import PidHolder
from pilotfish.local.node.status import Kind
from pilotfish.local.node.volumes import payload
from pilotfish.local.node.volumes.mounted import PodVolumes, VolumeError
from pilotfish.local.node.volumes.tokens import TokenStore

Object = Mapping[str, Any]
_log = logging.getLogger(__name__)

_RETRY = (0.5, 30.0)
_DEFAULT_GRACE = 30.0


class PodWorker:
    """Acts for one pod; see the module's text."""

    def __init__(self, host: Host, pod: Object, forget: Callable[[PodWorker], None]) -> None:
        self.host = host
        self.uid: str = pod["metadata"]["uid"]
        self.namespace: str = pod["metadata"]["namespace"]
        self.directory = host.directory / "pods" / self.uid
        self.sandbox: Sandbox | None = None
        self.config = Pulse()
        self._pod = pod
        self._forget = forget
        self._claims: dict[str, str] = {}
        self.volumes = PodVolumes(self.directory, host.data, host.limits.full_map, self._claims.get)
        self._tokens = TokenStore(host.client, pod)
        self._view = status.PodView(start_time=(pod.get("status") or {}).get("startTime") or format_time(now()))
        self._holder: PidHolder | None = None
        self._finished = False
        self._launched = False
        self._dirty = asyncio.Event()
        self._written: Object | None = None
        self._kill_at = float("inf")
        self._kill_moved = Pulse()
        self._tasks: set[asyncio.Task[None]] = set()
        self._main: asyncio.Task[None] | None = None
        self._terminating: asyncio.Task[None] | None = None
        self._creating: asyncio.Task[None] | None = None
        spec = pod["spec"]
        self.init = [
            ContainerWorker(self, one, "sidecar" if one.get("restartPolicy") == "Always" else "init")
            for one in spec.get("initContainers") or ()
        ]
        self.main = [ContainerWorker(self, one, "main") for one in spec["containers"]]
        self.ephemeral: list[ContainerWorker] = []
        self._add_ephemeral()
        self._recover()

    # ------------------------------------------------------------------ for containers: PodContext

    @property
    def object(self) -> Object:
        """The pod, with its addresses of now in the status."""
        ip = str(self.sandbox.ip) if self.sandbox else ""
        addresses = {"hostIP": str(NODE_IP), "hostIPs": [{"ip": str(NODE_IP)}]}
        if ip:
            addresses |= {"podIP": ip, "podIPs": [{"ip": ip}]}
        return {**self._pod, "status": {**(self._pod.get("status") or {}), **addresses}}

    @property
    def shared_pid(self) -> str:
        """Path of the PID namespace that all containers share; empty when each has its own."""
        return self._holder.path if self._holder else ""

    @property
    def containers(self) -> list[ContainerWorker]:
        """All containers, init containers first."""
        return [*self.init, *self.main, *self.ephemeral]

    def container(self, name: str) -> ContainerWorker | None:
        """The container of a name."""
        return next((one for one in self.containers if one.name == name), None)

    def changed(self) -> None:
        """The status is to be written."""
        self._dirty.set()

    def event(self, event_type: EventType, reason: str, message: str, container: str = "", kind: Kind = "main") -> None:
        """Tell an event about the pod or one of its containers."""
        field = {"main": "containers", "ephemeral": "ephemeralContainers"}.get(kind, "initContainers")
        path = f"spec.{field}{{{container}}}" if container else ""
        about = {"apiVersion": "v1", "kind": "Pod", "metadata": self._pod["metadata"]}
        self.host.events.record(about, event_type, reason, message, field_path=path)

    def service_variables(self) -> Mapping[str, str]:
        """The environment variables of Services, as of now."""
        links = self._pod["spec"].get("enableServiceLinks", True)
        namespace = self._pod["metadata"]["namespace"]
        services = [*self.host.services.in_namespace(namespace), *self.host.services.in_namespace("default")]
        return env.service_variables(services, namespace, links is not False)

    # ------------------------------------------------------------------ the node's side

    @property
    def references(self) -> set[tuple[str, str]]:
        """The (kind, name) pairs of ConfigMaps and Secrets the pod is made from."""
        spec = self._pod["spec"]
        found: set[tuple[str, str]] = set()
        for volume in spec.get("volumes") or ():
            found |= payload.references(volume)
        for container in (*spec["containers"], *(spec.get("initContainers") or ())):
            for source in container.get("envFrom") or ():
                found |= {
                    (kind, source[key].get("name", ""))
                    for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret"))
                    if source.get(key)
                }
            for variable in container.get("env") or ():
                source = variable.get("valueFrom") or {}
                found |= {
                    (kind, source[key].get("name", ""))
                    for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret"))
                    if source.get(key)
                }
        return found

    def start(self) -> None:
        """Begin."""
        if (self._pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}:
            self._finished = True
        self._spawn(self._write_status(), "status")
        if is_deleting(self._pod):
            self._terminate()
        elif not self._finished:
            self.changed()
            self._main = self._spawn(self._live(), "life")

    def update(self, pod: Object) -> None:
        """The object changed."""
        if int(pod["metadata"]["resourceVersion"]) < int(self._pod["metadata"]["resourceVersion"]):
            return  # what came back from our own last write is newer
        old, self._pod = self._pod, pod
        if is_deleting(pod):
            self._terminate()
            return
        if (old["metadata"].get("labels"), old["metadata"].get("annotations")) != (
            pod["metadata"].get("labels"),
            pod["metadata"].get("annotations"),
        ):
            self.config.fire()
        if old["spec"] != pod["spec"]:
            specs = {
                one["name"]: one for one in (*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ()))
            }
            for worker in self.containers:
                spec = specs.get(worker.name, worker.spec)
                if spec.get("image") != worker.spec.get("image") and not self._finished:
                    worker.redefine(spec)
        if pod["spec"].get("readinessGates"):
            self.changed()
        self._add_ephemeral()
        self._begin_ephemeral()

    def _add_ephemeral(self) -> None:
        known = {one.name for one in self.ephemeral}
        self.ephemeral += [
            ContainerWorker(self, one, "ephemeral")
            for one in self._pod["spec"].get("ephemeralContainers") or ()
            if one["name"] not in known
        ]

    def _begin_ephemeral(self) -> None:
        """Start those that were never started, once the pod's own containers were."""
        if self._finished or self._terminating is not None or not self._launched:
            return
        for one in self.ephemeral:
            if one.task is None and one.view.terminated is None:
                one.begin()

    def removed(self) -> None:
        """The object is gone: end at once."""
        self._kill_at = 0.0
        self._kill_moved.fire()
        self._terminate()

    def _spawn(self, work: Any, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name=f"{name} {self._pod['metadata']['name']}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            meta = self._pod["metadata"]
            _log.error(
                "pod %s/%s: %s failed", meta["namespace"], meta["name"], task.get_name(), exc_info=task.exception()
            )

    def _recover(self) -> None:
        """Take over what the status says of containers that ran before this node process."""
        known = self._pod.get("status") or {}
        entries = {
            one["name"]: one
            for field in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
            for one in known.get(field) or ()
        }
        final = known.get("phase") in {"Succeeded", "Failed"}
        policy = self._pod["spec"].get("restartPolicy") or "Always"
        for worker in self.containers:
            entry = entries.get(worker.name)
            if entry is None:
                continue
            view, state = worker.view, entry.get("state") or {}
            view.restarts = entry.get("restartCount") or 0
            view.container_id, view.image_id = entry.get("containerID") or "", entry.get("imageID") or ""
            view.last_state = entry.get("lastState") or {}
            if "running" in state and not final:
                state = {"terminated": _lost(state["running"], view.container_id)}
            done = view.kind == "ephemeral" or (
                view.kind == "main" and (policy == "Never" or (policy == "OnFailure" and _exit_code(state) == 0))
            )
            if final or is_deleting(self._pod) or (done and "terminated" in state):
                view.state = state
            elif view.container_id:
                view.restarts += 1
                view.last_state = state if "terminated" in state else view.last_state

    # ------------------------------------------------------------------ life

    async def _live(self) -> None:
        spec = self._pod["spec"]
        seconds = spec.get("activeDeadlineSeconds")
        if seconds is not None:
            self._spawn(self._expire(float(seconds)), "deadline")
        if spec.get("restartPolicy") == "Never" and any(one.view.terminated for one in self.main):
            await self._finish()  # it ran before; see the module's text
            return
        if self.init:
            for one in self.main:
                if one.view.terminated is None:
                    one.view.state = {"waiting": {"reason": "PodInitializing"}}
        await self._prepare_volumes()
        await self._prepare_sandbox()
        self._spawn(self._keep_volumes(), "volumes")
        self.changed()
        for one in self.init:
            task = one.begin()
            if one.kind_is_sidecar:
                await one.startup_done.wait()
                continue
            await asyncio.wait([task])
            if not one.view.succeeded:
                await self._finish()
                return
        tasks = []
        for one in self.main:
            if one.view.terminated is not None:  # it was done before this node process began
                continue
            if one.view.state == {"waiting": {"reason": "PodInitializing"}}:
                one.view.state = {"waiting": {"reason": "ContainerCreating"}}
            tasks.append(one.begin())
            await one.launched.wait()
        self._launched = True
        self._begin_ephemeral()
        if tasks:
            await asyncio.wait(tasks)
        await self._finish()

    async def _finish(self) -> None:
        """Nothing will run again: end the sidecars and let go of everything but the logs."""
        self._finished = True
        self._kill_at = time.monotonic() + self._grace()
        await asyncio.gather(*(self._stop(one) for one in self.ephemeral if one.task is not None))
        await self._stop_sidecars([])
        await self._release()
        self.changed()

    def _grace(self) -> float:
        meta, spec = self._pod["metadata"], self._pod["spec"]
        for value in (meta.get("deletionGracePeriodSeconds"), spec.get("terminationGracePeriodSeconds")):
            if value is not None:
                return float(value)
        return _DEFAULT_GRACE

    async def _expire(self, seconds: float) -> None:
        begin = datetime.fromisoformat(self._view.start_time)
        left = seconds - (datetime.now(UTC) - begin).total_seconds()
        await asyncio.sleep(max(left, 0))
        if self._finished or self._terminating:
            return
        message = "Pod was active on the node longer than the specified deadline"
        self.event("Warning", "DeadlineExceeded", message)
        self._view = status.PodView(self._view.ip, self._view.start_time, "DeadlineExceeded", message)
        if self._main is not None:
            self._main.cancel()
        self._kill_at = time.monotonic() + self._grace()
        await self._stop_all()
        await self._finish()

    async def _prepare_volumes(self) -> None:
        meta = self._pod["metadata"]
        for path in ("volumes", "termination", "shm"):
            (self.directory / path).mkdir(mode=0o755, parents=True, exist_ok=True)
        (self.directory / "shm").chmod(0o1777)
        pause, told = _RETRY[0], ""
        while True:
            try:
                async with self.host.requests:
                    await self._fetch_claims()
                    await self._tokens.refresh(self._wanted_tokens())
                self.volumes.set_up(self._sources())
            except (VolumeError, KubeError) as error:
                if str(error) != told:
                    told = str(error)
                    self.event("Warning", "FailedMount", told)
                    _log.info("pod %s/%s: %s", meta["namespace"], meta["name"], told)
                await self.config.wait(pause)
                pause = min(pause * 2, _RETRY[1])
            else:
                return

    async def _fetch_claims(self) -> None:
        """Look up the claims the pod uses, so that volumes can be made without waiting."""
        namespace = self._pod["metadata"]["namespace"]
        for volume in self._pod["spec"].get("volumes") or ():
            source = volume.get("persistentVolumeClaim")
            if source is None or source["claimName"] in self._claims:
                continue
            try:
                claim = await self.host.client.get(PERSISTENT_VOLUME_CLAIMS, source["claimName"], namespace)
            except ApiStatusError as error:
                if not is_not_found(error):
                    raise
            else:
                self._claims[source["claimName"]] = claim["metadata"]["uid"]

    def _wanted_tokens(self) -> list[payload.Token]:
        return [token for volume in self._pod["spec"].get("volumes") or () for token in payload.tokens(volume)]

    def _sources(self) -> payload.Sources:
        namespace = self._pod["metadata"]["namespace"]
        return payload.Sources(
            self.object,
            lambda name: self.host.config_maps.get(namespace, name),
            lambda name: self.host.secrets.get(namespace, name),
            self._tokens.current,
            self.host.allocatable,
        )

    async def _keep_volumes(self) -> None:
        """Bring files up to date when their sources change, and tokens when they are due."""
        if not self._pod["spec"].get("volumes"):
            return
        told: set[str] = set()
        while True:
            due = self._tokens.next_refresh()
            await self.config.wait(None if due is None else max(due - time.time(), 1.0))
            try:
                async with self.host.requests:
                    await self._tokens.refresh(self._wanted_tokens())
            except KubeError as error:
                _log.warning("cannot refresh a token of pod %s: %s", self._pod["metadata"]["name"], error)
                await asyncio.sleep(5.0)
            for problem in self.volumes.refresh(self._sources()):
                if problem not in told:
                    told.add(problem)
                    self.event("Warning", "FailedMount", problem)

    async def _prepare_sandbox(self) -> None:
        pause = _RETRY[0]
        while self.sandbox is None:
            self._creating = asyncio.create_task(self._create_sandbox())
            try:
                await asyncio.shield(self._creating)
            except NetworkError as error:
                self.event("Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RETRY[1])

    async def _create_sandbox(self) -> None:
        spec = self._pod["spec"]
        host_network = bool(spec.get("hostNetwork"))
        wanted = (spec.get("securityContext") or {}).get("sysctls") or ()
        sysctls = {one["name"]: one["value"] for one in wanted}
        sandbox, failed = await self.host.network.create(resolv.hostname(self._pod), sysctls, host_network=host_network)
        for problem in failed:
            self.event("Warning", "SysctlForbidden", f"not set: {problem}")
        self.sandbox = sandbox
        if spec.get("shareProcessNamespace"):
            self._holder = await PidHolder.start(self.host.runtime.processes)
        ip = str(sandbox.ip)
        (self.directory / "hosts").write_text(resolv.hosts(self._pod, ip))
        (self.directory / "resolv.conf").write_text(resolv.resolv_conf(self._pod))
        self._view = status.PodView(ip, self._view.start_time, self._view.reason, self._view.message)

    # ------------------------------------------------------------------ end

    def _terminate(self) -> None:
        """Begin to end, or hurry when the grace period became shorter."""
        at = time.monotonic() + self._grace()
        if at < self._kill_at:
            self._kill_at = at
            self._kill_moved.fire()
        if self._terminating is None:
            self._terminating = self._spawn(self._end(), "termination")

    async def _end(self) -> None:
        if self._main is not None and not self._main.done():
            self._main.cancel()
            await asyncio.wait([self._main])
        if self._creating is not None:
            await asyncio.wait([self._creating])
        self._finished = True
        await self._stop_all()
        await self._release()
        await self._confirm()
        for task in tuple(self._tasks):
            if task is not asyncio.current_task():
                task.cancel()
        self._remove_logs()
        self._forget(self)

    async def _stop_all(self) -> None:
        """All preStop hooks run at once; sidecars are signalled in turn, when the other containers have ended."""
        workers = [one for one in self.containers if not one.kind_is_sidecar and one.task is not None]
        await self._stop_sidecars([asyncio.create_task(self._stop(one)) for one in workers])

    async def _stop_sidecars(self, ending: list[asyncio.Task[None]]) -> None:
        for one in reversed(self.init):
            if one.kind_is_sidecar and one.task is not None:
                ending.append(asyncio.create_task(self._stop(one, tuple(ending))))
        await asyncio.gather(*ending)
        for one in self.containers:
            one.never_ran()

    async def _stop(self, worker: ContainerWorker, after: Sequence[asyncio.Future[None]] = ()) -> None:
        await worker.stop(lambda: self._kill_at, self._kill_moved, after=after)

    async def _release(self) -> None:
        """Let go of the namespaces and the volumes."""
        if self._holder is not None:
            await self._holder.stop()
            self._holder = None
        if self.sandbox is not None:
            self.host.network.destroy(self.sandbox)
            self.sandbox = None
        await asyncio.to_thread(self.volumes.remove)

    async def _confirm(self) -> None:
        """Write the last status and finish the deletion."""
        meta = self._pod["metadata"]
        pause = _RETRY[0]
        while True:
            try:
                if self._kill_at > 0:
                    await self._patch_status()
                async with self.host.requests:
                    await self.host.client.delete(PODS, meta["name"], meta["namespace"], grace_seconds=0, uid=self.uid)
            except ApiStatusError as error:
                if is_not_found(error) or (is_conflict(error) and self._kill_at <= 0):
                    return
                if is_conflict(error):
                    latest = await self._latest()
                    if latest is None:
                        return
                    self._pod = latest
                    continue
                _log.warning("cannot finish the deletion of pod %s/%s: %s", meta["namespace"], meta["name"], error)
            except KubeError as error:
                _log.info("cannot finish the deletion of pod %s/%s: %s", meta["namespace"], meta["name"], error)
            else:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _RETRY[1])

    async def _latest(self) -> Object | None:
        """The object as the server has it; None when it is gone or another of the same name."""
        meta = self._pod["metadata"]
        with contextlib.suppress(KubeError):
            found = await self.host.client.get(PODS, meta["name"], meta["namespace"])
            return found if found["metadata"]["uid"] == self.uid else None
        return None

    def _remove_logs(self) -> None:
        path = self.main[0].log_path(0).parent.parent
        shutil.rmtree(path, ignore_errors=True)

    # ------------------------------------------------------------------ status

    async def _write_status(self) -> None:
        pause = _RETRY[0]
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._patch_status()
                pause = _RETRY[0]
            except ApiStatusError as error:
                if is_not_found(error):
                    continue
                if is_conflict(error):
                    latest = await self._latest()
                    if latest is not None:
                        self._pod = latest
                else:
                    _log.warning("cannot write the status of pod %s: %s", self._pod["metadata"]["name"], error)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _RETRY[1])
                self._dirty.set()
            except KubeError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RETRY[1])
                self._dirty.set()

    async def _patch_status(self) -> None:
        # A finished pod that was found so has nothing new to say.
        if self._main is None and self._finished and self._terminating is None:
            return
        views: Callable[[Sequence[ContainerWorker]], list[status.ContainerView]] = lambda ws: [w.view for w in ws]  # noqa: E731
        init, main, ephemeral = views(self.init), views(self.main), views(self.ephemeral)
        wanted = status.build(self._pod, self._view, init, main, now(), ephemeral=ephemeral, finished=self._finished)
        if _essence(wanted) == _essence(self._written):
            return
        meta = self._pod["metadata"]
        patch = {"metadata": {"uid": self.uid, "resourceVersion": meta["resourceVersion"]}, "status": wanted}
        async with self.host.requests:
            answer = await self.host.client.patch(
                PODS, meta["name"], patch, meta["namespace"], patch_type=PatchType.MERGE, subresource="status"
            )
        self._written = wanted
        # The informer tells the same soon; taking it now keeps the next patch from being refused.
        if int(answer["metadata"]["resourceVersion"]) > int(self._pod["metadata"]["resourceVersion"]):
            answer["metadata"].pop("managedFields", None)
            self._pod = {**self._pod, "metadata": answer["metadata"], "status": answer.get("status") or {}}


def _essence(value: Object | None) -> Object | None:
    if value is None:
        return None
    return {**value, "conditions": [{**c, "lastTransitionTime": None} for c in value["conditions"]]}


def _exit_code(state: Object) -> int | None:
    found = (state.get("terminated") or {}).get("exitCode")
    return None if found is None else int(found)


def _lost(running: Object, container_id: str) -> dict[str, Any]:
    """The state of a container that was running when the node ended."""
    return {
        "exitCode": 255,
        "reason": "Unknown",
        "message": "the node ended while the container was running",
        "startedAt": running.get("startedAt"),
        "finishedAt": format_time(now()),
        "containerID": container_id,
    }
