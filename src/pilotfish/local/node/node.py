"""Everything the node does, put together and kept running."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pilotfish.kube import config
from pilotfish.kube.client import Client
from pilotfish.kube.errors import ApiStatusError, KubeError
from pilotfish.kube.events import EventRecorder
from pilotfish.kube.informer import Informer
from pilotfish.kube.resources import CONFIG_MAPS, ENDPOINT_SLICES, PODS, SECRETS, SERVICES, Object
from pilotfish.local import images
from pilotfish.local.network import DNS_SERVICE_IP, NODE_IP, NODE_NAME
from pilotfish.local.node import nodeobject, security
from pilotfish.local.node.cgroups import Cgroups
from pilotfish.local.node.dial import Dialer
from pilotfish.local.node.dns import DnsServer
from pilotfish.local.node.firewall import Firewall, FirewallError
from pilotfish.local.node.host import Host, first_of
from pilotfish.local.node.hostlink import HostLink
from pilotfish.local.node.kubelet import Kubelet
from pilotfish.local.node.namespaces import Identity
from pilotfish.local.node.network import Network, NetworkError
from pilotfish.local.node.processes import Processes
from pilotfish.local.node.runtime import Runtime
from pilotfish.local.node.server import Server
from pilotfish.local.node.serviceproxy import SERVICE_LABEL, ServiceProxy

_log = logging.getLogger("pilotfish.local.node")

_DNS_PORT = 53
_MAX_FILES = 65536
"""A container costs about six descriptors."""
_RETRY_SECONDS = 0.3


def _capabilities() -> frozenset[str]:
    """What this process may hand on to containers."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return security.parse_capability_mask(int(line.split()[1], 16))
    return frozenset()


def _slim(obj: Object) -> Object:
    """Only what volumes and environments need of a ConfigMap or Secret."""
    meta = obj["metadata"]
    kept = {key: meta[key] for key in ("name", "namespace", "uid", "resourceVersion") if key in meta}
    result: Object = {"kind": obj.get("kind"), "metadata": kept}
    result.update({key: obj[key] for key in ("data", "binaryData") if obj.get(key)})
    return result


def dns_objects() -> list[tuple[Any, Object]]:
    """The Service and EndpointSlice that show the DNS server in the API."""
    meta = {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}
    ports = [
        {"name": "dns", "port": _DNS_PORT, "protocol": "UDP"},
        {"name": "dns-tcp", "port": _DNS_PORT, "protocol": "TCP"},
    ]
    service: Object = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {
            "clusterIP": str(DNS_SERVICE_IP),
            "ports": [{**port, "targetPort": _DNS_PORT} for port in ports],
        },
    }
    endpoints: Object = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-node",
            "namespace": "kube-system",
            "labels": {SERVICE_LABEL: "kube-dns", "endpointslice.kubernetes.io/managed-by": "pilotfish-node"},
        },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{"addresses": [str(NODE_IP)], "conditions": {"ready": True}, "nodeName": NODE_NAME}],
    }
    return [(SERVICES, service), (ENDPOINT_SLICES, endpoints)]


class Node:
    """The parts of the node in the order of their making."""

    def __init__(self, data: Path, identity: Identity, groups: Cgroups, pid: int) -> None:
        self._data = data
        self._identity = identity
        self._groups = groups
        self._pid = pid
        self._tasks: list[asyncio.Task[None]] = []
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._run = data / "run"

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None and not self._failed.done():
            self._failed.set_exception(task.exception() or RuntimeError())

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT, at whatever stage they come."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        self._start(self._set_up(), "start")
        stopped = asyncio.create_task(stop.wait())
        await first_of(stopped, self._failed)
        for path in ("node.json", "node.sock", "dial.sock"):
            (self._run / path).unlink(missing_ok=True)
        if self._failed.done():
            self._failed.result()

    async def _set_up(self) -> None:
        processes = Processes()
        processes.install()
        network, firewall = Network(processes), Firewall(processes)
        await network.set_up()
        await firewall.set_up()
        hostlink = HostLink(self._run / "hostlink.sock")
        self._start(hostlink.run(), "hostlink")
        client = Client(config.load(self._data / "pki" / "node.kubeconfig"), user_agent="pilotfish-node")
        events = EventRecorder(client, "kubelet", NODE_NAME)
        self._start(events.run(), "events")
        informers = {
            kind: Informer(client, kind, fields=selector, transform=shape)
            for kind, selector, shape in (
                (SERVICES, "", None),
                (ENDPOINT_SLICES, "", None),
                (CONFIG_MAPS, "", _slim),
                (SECRETS, "", _slim),
                (PODS, f"spec.nodeName={NODE_NAME}", None),
            )
        }
        address = json.loads((self._run / "apiserver.json").read_text()).get("address") or "127.0.0.1"
        proxy = ServiceProxy(
            client, events, informers[SERVICES], informers[ENDPOINT_SLICES], firewall, hostlink, address
        )
        directory = self._data / "run" / "node"
        resources = nodeobject.capacity(directory)
        host = Host(
            client,
            events,
            Runtime(processes, directory),
            network,
            self._groups,
            security.Limits(self._identity.rootless, self._identity.full_map, _capabilities()),
            self._data,
            directory,
            informers[CONFIG_MAPS].store,
            informers[SECRETS].store,
            informers[SERVICES].store,
            resources,
            images.resolve,
        )
        kubelet = Kubelet(host, informers[PODS], informers[CONFIG_MAPS], informers[SECRETS])
        info = nodeobject.node_info(await host.runtime.version())
        node = nodeobject.NodeObject(client, resources, info, self._groups.reason)
        await self._until_answered(node, client)
        for informer in informers.values():
            self._start(informer.run(), f"informer {informer.resource.plural}")
        self._start(proxy.run(), "services")
        dns = DnsServer(proxy.resolver)
        await dns.start(str(NODE_IP), _DNS_PORT)
        await asyncio.gather(*(informer.synced.wait() for informer in informers.values()), proxy.applied.wait())
        server = Server(self._run / "node.sock", kubelet)
        await server.start()
        dialer = Dialer(self._run / "dial.sock", kubelet.sandbox, proxy.resolver.lookup)
        self._start(dialer.run(), "dial")
        kubelet.start()
        self._start(node.run(), "lease")
        self._write_facts()
        _log.info("ready")
        gc.collect()
        gc.freeze()

    async def _until_answered(self, node: nodeobject.NodeObject, client: Client) -> None:
        """Register the node and its DNS server, as soon as the API server lets us."""
        told = ""
        while True:
            try:
                await node.register()
                for kind, obj in dns_objects():
                    with contextlib.suppress(_Exists):
                        await _create(client, kind, obj)
            except KubeError as error:
                if str(error) != told:
                    told = str(error)
                    _log.info("waiting for the API server: %s", told)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    def _write_facts(self) -> None:
        facts = {"pid": self._pid, "started": datetime.now(UTC).isoformat(timespec="seconds")}
        temporary = self._run / "node.json.new"
        temporary.write_text(json.dumps(facts) + "\n")
        temporary.rename(self._run / "node.json")


class _Exists(Exception):  # noqa: N818 - not an error
    """The object is there already."""


async def _create(client: Client, kind: Any, obj: Object) -> None:
    try:
        await client.create(kind, obj)
    except ApiStatusError as error:
        if error.reason == "AlreadyExists":
            raise _Exists from error
        raise


async def _main(data: Path, identity: Identity, groups: Cgroups, pid: int) -> None:
    await Node(data, identity, groups, pid).run()


def run(data: Path, identity: Identity, groups: Cgroups, pid: int, *, verbose: bool = False) -> int:
    """Run the node in the namespaces that were entered; returns the program's exit code."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    os.umask(0o022)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _MAX_FILES), most))
    try:
        asyncio.run(_main(data, identity, groups, pid))
    except (NetworkError, FirewallError, OSError) as error:
        _log.error("the node cannot run: %s", error)
        return 2
    return 0
