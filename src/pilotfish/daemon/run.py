"""The control plane, assembled: authority, feed, compiler, streams, webhooks; and the way out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography.x509 import Certificate
from grpclib.server import Server

from pilotfish import __version__, api
from pilotfish.ca.authority import Authority, AuthorityError, utc_now
from pilotfish.ca.caller import Authenticator, Caller
from pilotfish.ca.distribution import RootDistribution
from pilotfish.ca.keeper import SECRET_NAME, from_files, from_secret, needs_renewal, renew
from pilotfish.ca.review import TokenReviewer
from pilotfish.ca.service import CertificateService
from pilotfish.daemon.addresses import AddressWriter
from pilotfish.daemon.backend import MeshBackend
from pilotfish.daemon.certificates import ServingCertificate
from pilotfish.daemon.controlz import controlz
from pilotfish.daemon.debug import Debug
from pilotfish.daemon.feed import Feed
from pilotfish.daemon.http import BUILD, listen, monitoring, readiness
from pilotfish.daemon.jwks import KeySets
from pilotfish.daemon.metrics import Metrics
from pilotfish.daemon.options import Address, Options
from pilotfish.daemon.registration import Registrar
from pilotfish.daemon.secret_access import SecretAccess
from pilotfish.daemon.status import StatusWriter
from pilotfish.daemon.webhook_config import WebhookPatcher
from pilotfish.daemon.webhooks import ContextOf, webhooks
from pilotfish.envoy import Compiler, proto
from pilotfish.grpc import BytesCodec
from pilotfish.inject import native
from pilotfish.inject.context import Context
from pilotfish.kube import config as kubeconfig
from pilotfish.kube.client import Client
from pilotfish.kube.errors import KubeError
from pilotfish.kube.informer import Change, Informers
from pilotfish.kube.leader import LeaderElection
from pilotfish.kube.resources import SECRETS
from pilotfish.mesh import workloads
from pilotfish.mesh.config import Settings, mesh
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.metrics import describe
from pilotfish.mesh.world import World
from pilotfish.xds.fleet import Connection, Fleet
from pilotfish.xds.service import DiscoveryService

log = logging.getLogger(__name__)

LEASE = "istio-leader"
AUTHORITY_CHECK = timedelta(hours=1)


class StartError(Exception):
    """The control plane cannot start; the message says what is wrong."""


class Daemon:
    """One replica. `run` is its whole life."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.metrics = Metrics()
        self.fleet = Fleet()
        settings = Settings(options.domain, options.cluster_id, options.namespace)
        self.world = World(settings, options.revision or "default")
        self.compiler = Compiler(self.world)
        self.authority: Authority
        self._plugged_in = False
        self._leaving: dict[Certificate, datetime] = {}
        """Roots that are no longer plugged in, and until when they stay trusted."""
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM. Raises StartError."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        try:
            client = Client(_access(self.options), user_agent="pilotfishd")
        except KubeError as error:
            raise StartError(f"no access to a Kubernetes API: {error}") from error
        async with client, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._with(client, tasks), name="start")
            await self._stop.wait()  # also while the API server is waited for
            log.info("stopping")
            raise _Stopped

    async def _with(self, client: Client, tasks: asyncio.TaskGroup) -> None:
        options = self.options
        informers = Informers(client)
        feed = Feed(client, informers, self.world, options, self.metrics)
        backend = MeshBackend(self.world, self.compiler, self.fleet, feed, self.metrics, SecretAccess(client))
        authenticate = Authenticator(TokenReviewer(client), self._trust_domain(), options.token_audiences)
        debug = Debug(self.fleet, self.compiler, feed, options, authenticate, backend.problems)
        backend.on_debug = debug.over_xds
        http, metrics = readiness(backend.ready), monitoring(self.metrics)
        for app in (http, metrics) if options.debug_on_http else ():
            debug.routes(app)
        # Readiness and metrics answer from the first moment: whoever waits for us wants to see why.
        await self._listen(tasks, http, options.http)
        await self._listen(tasks, metrics, options.monitoring)
        if options.controlz is not None:
            try:
                await self._listen(tasks, controlz(), options.controlz)
            except StartError as error:
                log.warning("log levels cannot be changed while this runs: %s", error)  # nothing depends on it
        self.authority = await self._load_authority(client)
        self.metrics.root_expires(lambda: self.authority.certificate.not_valid_after_utc)
        serving = ServingCertificate(lambda: self.authority, options.serving_names)
        await feed.start(tasks)
        feed.on_change = self.fleet.changed
        self.compiler.changed()
        registrar = Registrar(client, options.namespace, options.pod_name, options.registration_grace.total_seconds())
        tasks.create_task(registrar.run(), name="registration")
        await self._serve_grpc(tasks, client, backend, serving, registrar)
        await self._listen(tasks, webhooks(self.metrics, self._injection(feed)), options.https, serving)
        backend.synced = True  # not before everything listens: whoever is told that we are ready comes at once
        tasks.create_task(KeySets(self.world, self.fleet.changed).run(), name="key sets")
        status = StatusWriter(client, backend.problems)
        self.fleet.after_push = feed.on_problem = status.look
        duties = {"status": status.run, "registrations left behind": registrar.sweep}
        if options.address_ranges:
            duties["addresses"] = AddressWriter(client, feed, options.address_ranges).run
        tasks.create_task(self._lead(client, informers, serving, duties), name="leader election")
        log.info("pilotfishd %s serves %s", __version__, options.namespace)

    def _injection(self, feed: Feed) -> ContextOf:
        """What injection reads, as it stands at each call."""
        options = self.options
        mode = options.environment.get("ENABLE_NATIVE_SIDECARS", "").lower()

        def context(pod: dict[str, Any], namespace: str, environment: Mapping[str, str]) -> Context:
            settings = feed.injector
            mesh_json = api.to_json(mesh(self.world.db))
            labels = (pod.get("metadata") or {}).get("labels") or {}
            extra = feed.proxy_configs(namespace, labels)
            node = str((pod.get("spec") or {}).get("nodeName") or "")
            natively = native.wanted(mode, pod, lambda: feed.native_sidecars(node))
            openshift = None
            if options.environment.get("PLATFORM") == "openshift":
                openshift = (feed.namespace(namespace).get("metadata") or {}).get("annotations") or {}
            return Context(pod, namespace, settings, mesh_json, extra, environment, natively, openshift=openshift)

        return context

    # ----------------------------------------------------------------- listeners

    async def _listen(
        self,
        tasks: asyncio.TaskGroup,
        app: web.Application,
        address: Address,
        serving: ServingCertificate | None = None,
    ) -> None:
        try:
            runner = await listen(app, address, serving.https if serving else None)
        except OSError as error:
            raise StartError(f"cannot listen on {address.host or '*'}:{address.port}: {error.strerror}") from error
        tasks.create_task(_until_cancelled(runner.cleanup), name=f"http {address.port}")

    async def _serve_grpc(
        self,
        tasks: asyncio.TaskGroup,
        client: Client,
        backend: MeshBackend,
        serving: ServingCertificate,
        registrar: Registrar,
    ) -> None:
        options = self.options
        trust_domain = self._trust_domain()
        authenticate = Authenticator(TokenReviewer(client), trust_domain, options.token_audiences)
        certificates = CertificateService(
            lambda: self.authority, authenticate, options.default_workload_ttl, self._describe
        )
        self.metrics.signing(certificates.counts)
        # The form in which istioctl reads it.
        identifier = json.dumps({"Component": "istiod", "ID": options.pod_name, "Info": BUILD}, separators=(",", ":"))
        control_plane = proto.encode("envoy.config.core.v3.ControlPlane", {"identifier": identifier})

        def left(connection: Connection) -> None:
            backend.disconnected(connection)
            registrar.disconnected(connection)

        def discovery(authenticator: Authenticator | None) -> DiscoveryService:
            service = DiscoveryService(self.fleet, backend, authenticator, control_plane)
            service.on_connect, service.on_disconnect = registrar.connected, left
            service.on_health = registrar.reported
            return service

        for address, services, tls in (
            (options.grpc, [discovery(None)], None),
            (options.secure_grpc, [discovery(authenticate), certificates], serving.grpc),
        ):
            server = Server(list[Any](services), codec=BytesCodec())
            try:
                await server.start(address.host or None, address.port, ssl=tls)
            except OSError as error:
                raise StartError(f"cannot listen on {address.host or '*'}:{address.port}: {error.strerror}") from error

            async def close(server: Server = server) -> None:
                server.close()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(server.wait_closed(), 2)

            tasks.create_task(_until_cancelled(close), name=f"grpc {address.port}")

    async def _describe(self, caller: Caller) -> str:
        """The workload of a caller's pod, as `pilotfish.envoy.metrics` defines it; empty for an unknown pod."""
        ref = Ref(caller.identities[0].namespace, caller.pod)
        for _ in range(20):  # the token may be quicker than our view of its pod
            found = workloads.pod(self.world.db, ref)
            if found is not None or not caller.pod:
                break
            await asyncio.sleep(0.05)
        else:
            return ""
        return describe(found, self.options.cluster_id) if found is not None else ""

    def _trust_domain(self) -> str:
        return mesh(self.world.db).trust_domain

    # ----------------------------------------------------------------- authority

    async def _load_authority(self, client: Client) -> Authority:
        """Plugged-in files first, else the Secret. Waits for the API server as long as it takes."""
        try:
            found = from_files(self.options.cacerts)
            if found is not None:
                self._plugged_in = True
                return found
            while True:
                try:
                    return await from_secret(client, self.options.namespace, self._trust_domain())
                except KubeError as error:
                    log.warning("the authority's Secret cannot be read yet: %s", error)
                    await asyncio.sleep(1)
        except AuthorityError as error:
            raise StartError(f"the certificate authority cannot be used: {error}") from error

    # ----------------------------------------------------------------- leadership

    async def _lead(
        self,
        client: Client,
        informers: Informers,
        serving: ServingCertificate,
        more: Mapping[str, Callable[[], Coroutine[Any, Any, None]]],
    ) -> None:
        """What only one replica does, `more` included. Every replica reloads the authority when it changes."""
        identity = f"{self.options.pod_name}_{socket.gethostname()}"
        election = LeaderElection(client, self.options.namespace, LEASE, identity)

        def roots() -> bytes:
            return self.authority.root_pem

        distribution = RootDistribution(client, informers, roots)
        service = (self.options.namespace, self.options.service)
        patcher = WebhookPatcher(client, informers, self.options.revision, service, roots)
        informers.start()

        async def lead() -> None:
            async with asyncio.TaskGroup() as duties:
                duties.create_task(distribution.run(), name="root distribution")
                duties.create_task(self._renew_root(client), name="root renewal")
                for name, duty in more.items():
                    duties.create_task(duty(), name=name)

        again = asyncio.Event()
        secrets = informers.get(SECRETS)

        def secret_changed(change: Change) -> None:
            meta = change.object["metadata"]
            if (meta["namespace"], meta["name"]) == (self.options.namespace, SECRET_NAME):
                again.set()

        async def follow() -> None:
            secrets.add_handler(secret_changed)
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(again.wait(), self.options.cacerts_check.total_seconds())
                again.clear()
                if await self._reload_authority(client, serving):
                    distribution.roots_changed()
                    patcher.roots_changed()

        async with asyncio.TaskGroup() as both:
            both.create_task(follow(), name="authority reload")
            # Not only the leader: revisions share the lease, and each has webhooks of its own.
            both.create_task(patcher.run(), name="webhook configurations")
            while True:
                await election.run(lead)

    async def _renew_root(self, client: Client) -> None:
        while True:
            if not self._plugged_in and needs_renewal(self.authority):
                try:
                    await renew(client, self.options.namespace, self.authority)
                except KubeError as error:
                    log.warning("the root could not be renewed yet: %s", error)
            await asyncio.sleep(AUTHORITY_CHECK.total_seconds())

    async def _reload_authority(self, client: Client, serving: ServingCertificate) -> bool:
        """True when the authority or its roots are others than before."""
        try:
            if self._plugged_in:
                loaded = self._from_files() or self.authority
            else:
                loaded = await from_secret(client, self.options.namespace, self._trust_domain())
        except (AuthorityError, KubeError) as error:
            log.warning("the authority in force stays: %s", error)
            return False
        different = loaded.certificate != self.authority.certificate or loaded.roots != self.authority.roots
        if different:
            log.info("the authority has changed")
            self.authority = loaded
        serving.refresh()
        return different

    def _from_files(self) -> Authority | None:
        """The plugged-in authority. The roots in use before stay trusted until the workload certificates that they
        vouch for have been renewed: a directory replaced at once must not cut off whoever is connected."""
        loaded = from_files(self.options.cacerts)
        if loaded is None:
            return None
        now = utc_now()
        for root in self.authority.roots:
            if root not in loaded.roots:
                until = self._leaving.setdefault(root, now + self.options.default_workload_ttl)
                log.debug("a root that is no longer plugged in stays trusted until %s", until)
        for root in loaded.roots:
            self._leaving.pop(root, None)
        kept = (root for root, until in self._leaving.items() if now < min(until, root.not_valid_after_utc))
        return loaded.trusting(tuple(kept))


def _access(options: Options) -> kubeconfig.Config:
    """The kubeconfig that was given, else that of `$KUBECONFIG` if it is there, else the pod's service account.

    The chart always sets `$KUBECONFIG`, to a Secret that only an external control plane has.
    """
    if options.kubeconfig is not None:
        return kubeconfig.load(options.kubeconfig)
    mounted = Path(options.environment.get("KUBECONFIG", ""))
    if "KUBERNETES_SERVICE_HOST" in options.environment and not mounted.is_file():
        return kubeconfig.in_cluster()
    return kubeconfig.load()


class _Stopped(Exception):  # noqa: N818 (a way out, not an error)
    """Ends the task group."""


async def _until_cancelled(cleanup: Any) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await cleanup()


async def run(options: Options) -> None:
    """Run one replica until it is told to stop. Raises StartError."""
    try:
        await Daemon(options).run()
    except BaseExceptionGroup as group:
        if (failed := group.subgroup(StartError)) is not None:
            raise _leaf(failed) from None
        if group.split(_Stopped)[1] is not None:
            raise


def _leaf(group: BaseException) -> BaseException:
    """The first of the errors inside nested groups."""
    return _leaf(group.exceptions[0]) if isinstance(group, BaseExceptionGroup) else group
