"""Watches Services and EndpointSlices, and keeps the firewall, the published ports and the DNS answers up to date."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pilotfish.kube.client import Client, PatchType
from pilotfish.kube.errors import ApiStatusError, KubeError, is_not_found
from pilotfish.kube.events import EventRecorder
from pilotfish.kube.informer import Change, Informer
from pilotfish.kube.meta import labels_of
from pilotfish.kube.resources import SERVICES
from pilotfish.local.node import publish, services
from pilotfish.local.node.dns import Resolver, Zone
from pilotfish.local.node.firewall import Firewall, FirewallError
from pilotfish.local.node.hostlink import HostLink

Object = Mapping[str, Any]
_log = logging.getLogger(__name__)

SERVICE_LABEL = "kubernetes.io/service-name"
_SETTLE_SECONDS = 0.005
"""Changes that come together are applied together."""
_RETRY_SECONDS = 1.0


def service_of(one: Object) -> str:
    """The index key of an EndpointSlice: `namespace/service`."""
    return f"{one['metadata'].get('namespace', '')}/{labels_of(one).get(SERVICE_LABEL, '')}"


@dataclass
class StoreNames:
    """The DNS zone's view of the informers' stores."""

    services: Informer
    endpoint_slices: Informer

    def __post_init__(self) -> None:
        self.services.store.add_index("ip", services.service_addresses)
        self.endpoint_slices.store.add_index("service", lambda s: [service_of(s)])
        self.endpoint_slices.store.add_index(
            "ip", lambda s: {ip for e in s.get("endpoints") or () for ip in e.get("addresses") or ()}
        )

    def service(self, namespace: str, name: str) -> Object | None:
        return self.services.store.get(namespace, name)

    def slices(self, namespace: str, name: str) -> Iterable[Object]:
        return self.endpoint_slices.store.by_index("service", f"{namespace}/{name}")

    def has_namespace(self, namespace: str) -> bool:
        return bool(self.services.store.in_namespace(namespace))

    def services_at(self, ip: str) -> Iterable[Object]:
        return self.services.store.by_index("ip", ip)

    def slices_at(self, ip: str) -> Iterable[Object]:
        return self.endpoint_slices.store.by_index("ip", ip)


class ServiceProxy:
    """See the module's text."""

    def __init__(
        self,
        client: Client,
        events: EventRecorder,
        service_informer: Informer,
        slice_informer: Informer,
        firewall: Firewall,
        hostlink: HostLink,
        address: str,
    ) -> None:
        self._client = client
        self._events = events
        self._services = service_informer.store
        self._names = StoreNames(service_informer, slice_informer)
        self.resolver = Resolver(Zone(self._names))
        self._firewall = firewall
        self._address = address
        self._ports: dict[tuple[str, str], list[services.ServicePort]] = {}
        self._dirty: set[tuple[str, str]] = set()
        self._wake = asyncio.Event()
        self._told: dict[tuple[str, str], list[str]] = {}
        self.publisher = publish.Publisher(hostlink.listen, self._problem, self._published)
        self.applied = asyncio.Event()
        """Set when the rules of everything known at the start are in force."""
        service_informer.add_handler(self._service_changed)
        slice_informer.add_handler(self._slice_changed)

    def _service_changed(self, change: Change) -> None:
        meta = change.object["metadata"]
        self._mark((meta["namespace"], meta["name"]))

    def _slice_changed(self, change: Change) -> None:
        for one in (change.old, change.new):
            if one is not None:
                namespace, _, name = service_of(one).partition("/")
                self._mark((namespace, name))

    def _mark(self, key: tuple[str, str]) -> None:
        self.resolver.forget()
        self._dirty.add(key)
        self._wake.set()

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(_SETTLE_SECONDS)
            self._wake.clear()
            keys, self._dirty = self._dirty, set()
            for key in keys:
                service = self._services.get(*key)
                ports = services.service_ports(service, self._names.slices(*key)) if service is not None else []
                if ports:
                    self._ports[key] = ports
                else:
                    self._ports.pop(key, None)
            try:
                await self._firewall.apply(services.rules(p for ports in self._ports.values() for p in ports))
            except FirewallError as error:
                _log.error("%s", error)
                self._dirty |= keys
                await asyncio.sleep(_RETRY_SECONDS)
                self._wake.set()
                continue
            self.applied.set()
            self._publish()
            await self._write_addresses(keys)

    def _publish(self) -> None:
        ports, problems = publish.wanted(self._services.values())
        self.publisher.set(ports)
        for key, messages in problems.items():
            if self._told.get(key) != messages:
                self._told[key] = messages
                for message in messages:
                    self._problem(key, message)
        for key in [k for k in self._told if k not in problems]:
            del self._told[key]

    def _problem(self, key: tuple[str, str], message: str) -> None:
        service = self._services.get(*key)
        if service is not None:
            self._events.record(
                {"apiVersion": "v1", "kind": "Service", **service}, "Warning", "PortNotPublished", message
            )

    def _published(self, key: tuple[str, str]) -> None:
        self._dirty.add(key)
        self._wake.set()

    async def _write_addresses(self, keys: Iterable[tuple[str, str]]) -> None:
        """`status.loadBalancer` of LoadBalancer Services: the address of the machine once a port is published."""
        for key in keys:
            service = self._services.get(*key)
            if service is None:
                continue
            spec = service.get("spec") or {}
            present = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
            if spec.get("type") == "LoadBalancer" and spec.get("loadBalancerClass") is None:
                own = {port["port"] for port in spec.get("ports") or ()}
                if not own & set(self.publisher.published(key)):
                    continue
                wanted = [{"ip": self._address, "ipMode": "VIP"}]
            elif present and spec.get("type") != "LoadBalancer":
                wanted = []
            else:
                continue
            if [entry.get("ip") for entry in present] == [entry["ip"] for entry in wanted]:
                continue
            patch = {"status": {"loadBalancer": {"ingress": wanted} if wanted else {"ingress": None}}}
            try:
                await self._client.patch(
                    SERVICES, key[1], patch, key[0], patch_type=PatchType.MERGE, subresource="status"
                )
            except ApiStatusError as error:
                if not is_not_found(error):
                    _log.warning("cannot write the address of the Service %s/%s: %s", *key, error)
            except KubeError as error:
                _log.info("cannot write the address of the Service %s/%s: %s", *key, error)
                self._dirty.add(key)
                asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._wake.set)
