"""Between the compiler and the streams: each proxy's configuration, what is refused, what is counted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from pilotfish import api
from pilotfish.ca.caller import Caller
from pilotfish.daemon.feed import Feed
from pilotfish.daemon.memory import Trimmer
from pilotfish.daemon.metrics import Metrics
from pilotfish.daemon.refusals import Refusals
from pilotfish.envoy import Compiler
from pilotfish.envoy.resource import CLUSTER, ENDPOINT, EXTENSION, LISTENER, NAME_TABLE, ROUTE, SECRET, Resource
from pilotfish.mesh import inputs, workloads
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.proxies import ROUTER, BadNode, View
from pilotfish.mesh.world import World
from pilotfish.xds.fleet import Connection, Fleet
from pilotfish.xds.requests import BadNodeError, Node
from pilotfish.xds.service import DebugResource
from pilotfish.xds.session import Request, Response, Watch

log = logging.getLogger(__name__)

SHORT = {
    CLUSTER: "cds",
    ENDPOINT: "eds",
    LISTENER: "lds",
    ROUTE: "rds",
    SECRET: "sds",
    EXTENSION: "ecds",
    NAME_TABLE: "nds",
}
"""Types as metrics and tools name them."""


GATEWAY_ASKS_SECONDS = 5.0
SIDECAR_ASKS_SECONDS = 60.0
"""How often it is asked again whether a proxy may read Secrets; sidecars are many and seldom need one."""


class ProxySource:
    """The configuration of one connected proxy. Its view follows the proxy's pod: labels may change while it runs."""

    def __init__(self, compiler: Compiler, node: Node) -> None:
        self._compiler = compiler
        self._node = node.json()
        self._identity: tuple[str, str] | None = None
        self.closed = False
        self.view: View = compiler.view(self._node, None)
        self._ref = Ref(self.view.namespace, node.pod)
        self._seen = self._determined()
        compiler.watch(self.view)

    def _determined(self) -> tuple[object, object]:
        """What may make it another view: its pod, and who it has proved to be."""
        return workloads.pod(self._compiler.db, self._ref), self._identity

    def trust(self, identity: tuple[str, str]) -> None:
        """From the next refresh on the proxy gets what only this (namespace, service account) may have: secrets."""
        self._identity = identity

    def refresh(self) -> bool:
        """Look whether the proxy has become another view; True when it has."""
        seen = self._determined()
        if seen == self._seen:
            return False
        self._seen = seen
        view = self._compiler.view(self._node, self._identity)
        if view is self.view:
            return False
        self._compiler.watch(view)
        self._compiler.release(self.view)
        self.view = view
        return True

    def close(self) -> None:
        self.closed = True
        self._compiler.release(self.view)

    def every(self, type_url: str) -> Mapping[str, Resource]:
        return self._compiler.every(self.view, type_url)

    def one(self, type_url: str, name: str) -> Resource | None:
        return self._compiler.one(self.view, type_url, name)


class MeshBackend:
    """Implements `xds.service.Backend` on a world and its compiler."""

    def __init__(
        self,
        world: World,
        compiler: Compiler,
        fleet: Fleet,
        feed: Feed,
        metrics: Metrics,
        may_read_secrets: Callable[[str, str], Awaitable[bool]],
    ) -> None:
        self._may_read_secrets = may_read_secrets
        self._tasks: set[asyncio.Future[None]] = set()
        self._trimmer = Trimmer()
        self._world = world
        self._compiler = compiler
        self._fleet = fleet
        self._feed = feed
        self._metrics = metrics
        self.synced = False
        self.on_debug: Callable[[Caller, Request], Awaitable[tuple[str, list[DebugResource]]]]
        fleet.compile = self._compile
        self._refusals = Refusals(world, compiler, feed, self._acknowledged_versions, fleet.changed)

    def ready(self) -> bool:
        return self.synced

    def source(self, node: Node, caller: Caller | None) -> ProxySource:
        identity = None
        if caller is not None:
            # The stream has checked that one of them is this proxy's; that one counts.
            fitting = [
                one
                for one in caller.identities
                if one.namespace == node.namespace and node.service_account in ("", one.service_account)
            ]
            chosen = (fitting or list(caller.identities))[0]
            identity = (chosen.namespace, chosen.service_account)
        try:
            made = ProxySource(self._compiler, node)
        except BadNode as error:
            raise BadNodeError(str(error)) from error
        if identity is not None:
            again = GATEWAY_ASKS_SECONDS if node.kind == ROUTER else SIDECAR_ASKS_SECONDS
            task = asyncio.ensure_future(self._trust(made, identity, again))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._metrics.connected.labels(str(node.metadata.get("ISTIO_VERSION", "unknown"))).inc()
        self._trimmer.later()
        return made

    async def _trust(self, source: ProxySource, identity: tuple[str, str], again: float) -> None:
        # Asked until it is so: a Role is often applied after the Deployment, and the API server may be away.
        while not await self._may_read_secrets(*identity):
            await asyncio.sleep(again)
            if source.closed:
                return
        if not source.closed:
            source.trust(identity)
            self._fleet.changed()

    def disconnected(self, connection: Connection) -> None:
        self._metrics.connected.labels(str(connection.node.metadata.get("ISTIO_VERSION", "unknown"))).dec()
        source = connection.source
        if isinstance(source, ProxySource):
            source.close()

    def _compile(self) -> Callable[[Connection], Mapping[str, frozenset[str]] | None]:
        started = time.perf_counter()
        moved = {one.id for one in self._fleet if isinstance(one.source, ProxySource) and one.source.refresh()}
        self._fleet.state = self._feed.state
        changed = self._compiler.changed()
        self._metrics.push_time.labels("compile").observe(time.perf_counter() - started)

        def concerned(connection: Connection) -> Mapping[str, frozenset[str]] | None:
            source = connection.source
            if connection.id in moved or not isinstance(source, ProxySource):
                return None
            return changed.get(source.view, {})

        return concerned

    def problems(self) -> dict[tuple[str, str, str], str]:
        """Config objects that are not in force as they stand: (kind, namespace, name) → why."""
        found = {key: f"it cannot be read: {why}" for key, why in self._feed.problems.items()}
        found |= {(kind, ref.namespace, ref.name): why for (kind, ref), why in self._world.quarantined.items()}
        for failed in self._compiler.errors():
            reason = f"{failed.name} cannot be compiled: {failed.cause}"
            for one in failed.sources:
                if one.kind in api.KINDS:
                    found.setdefault((one.kind, one.namespace, one.name), reason)
                elif one.kind == inputs.SECRETS.name:  # not ours to write on: told on the Gateways that name it
                    for ref in inputs.GATEWAYS_NAMING(self._world.db, one.name):
                        found.setdefault(("Gateway", ref.namespace, ref.name), reason)
        return found

    async def debug(self, caller: Caller, request: Request) -> tuple[str, list[DebugResource]]:
        return await self.on_debug(caller, request)

    def sent(self, connection: Connection, response: Response, seconds: float) -> None:
        kind = SHORT.get(response.type_url, "unknown")
        self._metrics.pushes.inc(kind)
        self._metrics.send_time.observe(seconds)
        self._metrics.size.labels(kind).observe(response.size)

    def failed(self, connection: Connection, error: Exception) -> None:
        self._metrics.internal_errors.inc()

    # ------------------------------------------------------------------ refusals

    def acknowledged(self, connection: Connection, watch: Watch) -> None:
        if isinstance(connection.source, ProxySource):
            state = connection.good_state.get(watch.type_url, 0)
            self._refusals.acknowledged(connection.source.view, watch, state)

    def converged(self, connection: Connection, seconds: float) -> None:
        self._metrics.convergence.observe(seconds)

    def refused(self, connection: Connection, watch: Watch) -> None:
        """Trace what Envoy refused to the object behind it, and put that object back to its last good form."""
        self._metrics.rejects.inc(SHORT.get(watch.type_url, "unknown"))
        if isinstance(connection.source, ProxySource):
            state = connection.sent_state.get(watch.type_url, 0)
            good = connection.good_state.get(watch.type_url)
            self._refusals.refused(connection.source.view, watch, state, good)

    def _acknowledged_versions(self, type_url: str, name: str) -> set[str]:
        """The versions of a resource that connected proxies have accepted."""
        found = set()
        for one in self._fleet:
            watch = one.session.watches.get(type_url)
            if watch is not None and (version := watch.accepted(name)):
                found.add(version)
        return found
