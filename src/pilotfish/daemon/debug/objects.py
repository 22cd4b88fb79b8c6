"""Pages about the mesh itself: what the control plane has read, and what it made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pilotfish import api
from pilotfish.daemon.debug import registry
from pilotfish.daemon.debug.page import Object, Page, PageError, Question
from pilotfish.daemon.feed import Feed
from pilotfish.daemon.options import Options
from pilotfish.envoy import Compiler
from pilotfish.inject import InjectionError
from pilotfish.mesh import config as mesh_config
from pilotfish.mesh import inputs, networks
from pilotfish.xds.fleet import Fleet


class Objects:
    """Pages by name."""

    def __init__(
        self,
        fleet: Fleet,
        compiler: Compiler,
        feed: Feed,
        options: Options,
        problems: Callable[[], Mapping[tuple[str, str, str], str]],
    ) -> None:
        self._fleet = fleet
        self._compiler = compiler
        self._db = compiler.db
        self._feed = feed
        self._options = options
        self._problems = problems

    def pages(self) -> dict[str, Page]:
        shards = Page(lambda _: registry.shards(self._db), "The endpoints of all services")
        return {
            "registryz": Page(self.registryz, "All services"),
            "endpointShardz": shards,
            "endpointz": shards._replace(help="The older name of endpointShardz"),
            "configz": Page(lambda _: self._feed.objects, "All Istio objects"),
            "resourcesz": Page(self.resourcesz, "The kinds of objects that are read"),
            "authorizationz": Page(
                lambda _: {"authorization_policies": self._policies()}, "All AuthorizationPolicies, by namespace"
            ),
            "mesh": Page(self.mesh, "The mesh configuration in force"),
            "inject": Page(self.inject, "The injection templates of the ConfigMap"),
            "clusterz": Page(self.clusterz, "The clusters that endpoints are read from"),
            "networkz": Page(lambda _: self._gateways() or None, "The gateways between networks"),
            "cachez": Page(
                self.cachez,
                "The compiled resources that connected proxies share",
                (("sizes=true", "How large they are"), ("clear=true", "Forget compiled values that nobody uses")),
            ),
            "krtz": Page(self.krtz, "How many inputs of each kind the graph of the mesh has"),
            "push_status": Page(self.push_status, "Objects that are not in force as they stand, as Istio writes it"),
            "pushcontext": Page(self.pushcontext, "Policies and gateways that all proxies are compiled from"),
            "problems": Page(self.problems, "Objects that are not in force as they stand, with the reason"),
            "ambientz": Page(
                lambda _: {"workloads": None, "services": None, "policies": None}, "Ambient mode, which is not there"
            ),
            "mcsz": Page(lambda _: None, "Services of the multi-cluster API, which is not read"),
        }

    def registryz(self, _: Question) -> list[Object]:
        return [registry.registered(self._db, one) for one in registry.services(self._db)]

    def resourcesz(self, _: Question) -> list[Object]:
        return [{"group": one.group, "version": one.version, "kind": one.kind} for one in self._feed.kinds]

    def _policies(self) -> Object:
        spaces: dict[str, list[Object]] = {}
        for one in self._feed.objects:
            if one["kind"] == "AuthorizationPolicy":
                meta = one["metadata"]
                row = {"name": meta["name"], "namespace": meta["namespace"], "annotations": meta.get("annotations")}
                spaces.setdefault(meta["namespace"], []).append({**row, "spec": one.get("spec") or {}})
        return {"namespace_to_policies": spaces, "root_namespace": mesh_config.root_namespace(self._db)}

    def mesh(self, _: Question) -> Any:
        return _complete(mesh_config.mesh(self._db))

    def inject(self, _: Question) -> Object:
        """The user's own templates in force; the built-in ones are programs. Raises PageError."""
        try:
            return dict(self._feed.injector.templates.texts)
        except InjectionError as error:
            raise PageError(500, str(error)) from error

    def clusterz(self, _: Question) -> list[Object]:
        return [{"id": self._options.cluster_id, "secretName": "", "syncStatus": "synced"}]

    def _gateways(self) -> list[Object]:
        given = mesh_config.NETWORKS(self._db, "")
        labels = (
            service.labels for ref in self._db.keys(inputs.SERVICES) if (service := inputs.SERVICES(self._db, ref))
        )
        names = {one for found in labels if (one := found.get("topology.istio.io/network"))}
        names |= set(given.networks) if given is not None else set()
        account = {"Namespace": "", "Name": ""}
        cluster = self._options.cluster_id
        return [
            {
                "Network": name,
                "Cluster": cluster,
                "Addr": one.address,
                "Port": one.port,
                "HBONEPort": 0,
                "ServiceAccount": account,
            }
            for name in sorted(names)
            for one in networks.gateways(self._db, name)
        ]

    def cachez(self, asked: Question) -> Object | str:
        if asked.query.get("clear"):
            # What is in use is always that of its inputs: there is nothing stale to throw away.
            return f"{self._compiler.collect()} values that no connected proxy stands on are forgotten\n"
        if not asked.query.get("sizes"):
            names: Object = {}
            for type_url, one in self._compiler.shared():
                names.setdefault(type_url, []).append(one.name)
            return names
        sizes = Counter[str]()
        for type_url, one in self._compiler.shared():
            sizes[type_url] += len(one.body)
        return {"total": _size(sizes.total()), **{type_url: _size(count) for type_url, count in sizes.items()}}

    def krtz(self, _: Question) -> list[Object]:
        return [{"name": name, "state": {"count": count}} for name, count in sorted(self._db.sizes().items())]

    def push_status(self, _: Question) -> Object:
        rows = {"/".join(key): {"message": why} for key, why in self._problems().items()}
        return {"pilot_total_rejected_configs": rows} if rows else {}

    def pushcontext(self, _: Question) -> Object:
        gateways = self._gateways() or None
        return {"AuthorizationPolicies": self._policies(), "NetworkGateways": gateways, "UnresolvedGateways": None}

    def problems(self, _: Question) -> list[Object]:
        keys = ("kind", "namespace", "name", "reason")
        return [dict(zip(keys, (*key, why), strict=True)) for key, why in self._problems().items()]


def _complete(value: Any) -> Any:
    """A setting as JSON with the defaults that are in force; what is empty is left out."""
    if not isinstance(value, msgspec.Struct):
        return [_complete(one) for one in value] if isinstance(value, tuple) else api.to_json(value)
    found = {one.encode_name: _complete(getattr(value, one.name)) for one in msgspec.structs.fields(value)}
    return {name: one for name, one in found.items() if one not in (None, "", [], {}, False, 0)}


def _size(count: int) -> str:
    """`999B`, `1.5kB`, `20.0MB`."""
    size, units = float(count), iter("kMGTPE")
    unit = ""
    while size >= 1000:
        size, unit = size / 1000, next(units)
    return f"{size:.1f}{unit}B" if unit else f"{count}B"
