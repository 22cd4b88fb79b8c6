"""The debug endpoints that istioctl, Kiali and people read: `/debug/syncz`, `/debug/config_dump` and their kin.

Access: from the pod itself always; otherwise a certificate or token is needed, and callers outside the control plane's
namespace see only proxies of their own namespace.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from grpclib import GRPCError, Status

from pilotfish import api
from pilotfish.ca.caller import Authenticator, Caller, UnauthenticatedError
from pilotfish.daemon.backend import SHORT
from pilotfish.daemon.feed import Feed
from pilotfish.daemon.options import Options
from pilotfish.envoy import proto
from pilotfish.envoy.resource import CLUSTER, ENDPOINT, EXTENSION, LISTENER, NAME_TABLE, ROUTE, SECRET, field
from pilotfish.mesh import config as mesh_config
from pilotfish.mesh.endpoints import endpoints
from pilotfish.mesh.services import Resolution, Service, exports, namespaces, service
from pilotfish.mesh.world import World
from pilotfish.xds.fleet import Connection, Fleet
from pilotfish.xds.service import DEBUG_TYPE
from pilotfish.xds.session import ABSENT, Request

Object = dict[str, Any]
ADMIN = "type.googleapis.com/envoy.admin.v3."
OPEN_TO_ALL = frozenset({"config_dump", "ndsz", "edsz"})
"""What a caller of another namespace may ask about its own proxies."""
_RESOLUTIONS = list(Resolution)


class Debug:
    """Pages by name; each takes the query parameters and returns JSON, None for an unknown proxy."""

    def __init__(
        self,
        fleet: Fleet,
        world: World,
        feed: Feed,
        options: Options,
        authenticate: Authenticator,
        problems: Callable[[], Mapping[tuple[str, str, str], str]],
    ) -> None:
        self._fleet = fleet
        self._world = world
        self._feed = feed
        self._options = options
        self._authenticate = authenticate
        self._problems = problems
        self.pages: dict[str, Callable[[Mapping[str, str]], Any]] = {
            "syncz": self.syncz,
            "config_dump": self.config_dump,
            "edsz": lambda query: self._typed(query, ENDPOINT),
            "ecdsz": lambda query: self._typed(query, EXTENSION),
            "ndsz": lambda query: self._typed(query, NAME_TABLE),
            "adsz": self.adsz,
            "connections": self.connections,
            "registryz": self.registryz,
            "endpointShardz": self.endpoint_shards,
            "endpointz": self.endpoint_shards,
            "configz": lambda _: self._feed.objects,
            "mesh": lambda _: api.to_json(mesh_config.mesh(self._world.db)),
            "clusterz": lambda _: [{"id": self._options.cluster_id, "syncStatus": "synced"}],
            "problems": self.problems,
            "list": lambda _: sorted(self.pages),
        }

    def routes(self, app: web.Application) -> None:
        """Put `/debug` and `/debug/NAME` on an application."""

        async def index(_: web.Request) -> web.Response:
            links = "".join(f'<li><a href="/debug/{name}">{name}</a></li>' for name in sorted(self.pages))
            return web.Response(text=f"<h1>pilotfishd</h1><ul>{links}</ul>", content_type="text/html")

        async def page(request: web.Request) -> web.Response:
            return await self._serve(request)

        app.router.add_get("/debug", index)
        app.router.add_get("/debug/{name}", page)

    async def _serve(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        page = self.pages.get(name)
        if page is None:
            return web.Response(status=404, text="no such page; see /debug/list\n")
        if refused := await self._refusal(request, name):
            return refused
        if name == "config_dump" and not request.query.get("proxyID"):
            return web.Response(status=400, text="parameter proxyID is needed, for example ?proxyID=pod.namespace\n")
        if name == "adsz" and request.query.get("push") == "true":
            self._fleet.changed()
        found = page(request.query)
        if found is None:
            proxy = request.query.get("proxyID", "")
            return web.Response(status=404, text=f"proxy {proxy!r} is not connected to this control plane\n")
        indent = 2 if "pretty" in request.query else None
        return web.Response(text=json.dumps(found, indent=indent), content_type="application/json")

    async def _refusal(self, request: web.Request, name: str) -> web.Response | None:
        if request.remote and (request.remote.startswith("127.") or request.remote == "::1"):
            return None
        try:
            caller = await self._authenticate(None, {k.lower(): v for k, v in request.headers.items()})
        except UnauthenticatedError:
            return web.Response(status=401, text="a token of a service account is needed\n")
        if allowed(caller, name, self._find(request.query), self._options.namespace):
            return None
        return web.Response(status=403, text="only for proxies of your own namespace\n")

    async def over_xds(self, caller: Caller, request: Request) -> tuple[str, list[tuple[str, bytes]]]:
        """Debug as tools ask for it over xDS. Types: `istio.io/debug` (a page by name), and `…/syncz`, `…/config_dump`.

        Raises GRPCError for more than one name, an unknown page or proxy, and a caller who may not see it.
        """
        names = [*request.names, *request.subscribe]
        if len(names) > 1:
            raise GRPCError(Status.INVALID_ARGUMENT, "only one debug request is allowed")
        page, _, rest = (names[0] if names else "").partition("?")
        typed = request.type_url.removeprefix(DEBUG_TYPE).lstrip("/")
        query = dict(parse_qsl(rest)) if not typed else {"proxyID": page}
        page = typed or page
        target = self._find(query)
        if page not in self.pages:
            raise GRPCError(Status.NOT_FOUND, f"no debug page {page!r}")
        if not allowed(caller, page, target, self._options.namespace):
            raise GRPCError(Status.PERMISSION_DENIED, "only for proxies of your own namespace")
        if typed == "syncz":
            chosen = [one for one in self._fleet if not query["proxyID"] or query["proxyID"] in one.id]
            return request.type_url, [(_CLIENT_CONFIG, _client_config(one)) for one in chosen]
        found = self.pages[page](query)
        if found is None:
            raise GRPCError(Status.NOT_FOUND, f"proxy {query.get('proxyID', '')!r} is not connected")
        if typed == "config_dump":
            return request.type_url, [_any(one) for one in found["configs"]]
        return request.type_url, [(DEBUG_TYPE, json.dumps(found).encode())]

    def _find(self, query: Mapping[str, str]) -> Connection | None:
        proxy = query.get("proxyID", "")
        return self._fleet.find(proxy) if proxy else None

    # ------------------------------------------------------------------ proxies

    def syncz(self, query: Mapping[str, str]) -> list[Object]:
        wanted = query.get("namespace", "")
        return [self._row(one) for one in self._fleet if wanted in ("", one.node.namespace)]

    def _row(self, connection: Connection) -> Object:
        row: Object = {
            "cluster_id": str(connection.node.metadata.get("CLUSTER_ID") or self._options.cluster_id),
            "proxy": connection.node.name,
            "proxy_type": connection.node.kind,
            "istio_version": str(connection.node.metadata.get("ISTIO_VERSION") or ""),
        }
        long = {"cds": "cluster", "lds": "listener", "rds": "route", "eds": "endpoint", "ecds": "extensionconfig"}
        resources: Object = {}
        for url, watch in connection.session.watches.items():
            state = {"sent": watch.nonce_sent, "acked": watch.nonce_acked}
            if (name := long.get(SHORT.get(url, ""))) is not None:
                row |= {f"{name}_{key}": value for key, value in state.items() if value}
            if when := connection.sent_at.get(url):
                state["sentTime"] = datetime.fromtimestamp(when, UTC).isoformat()
            if watch.last_error:
                state["lastError"] = watch.last_error
            resources[url] = state
        return row | {"resources": resources}

    def adsz(self, _: Mapping[str, str]) -> Object:
        return self._clients(details=True)

    def connections(self, _: Mapping[str, str]) -> Object:
        return self._clients(details=False)

    def _clients(self, *, details: bool) -> Object:
        clients = []
        for one in self._fleet:
            client: Object = {
                "connectionId": one.id,
                "connectedAt": one.connected_at.isoformat(),
                "address": one.address,
            }
            if details:
                client |= {
                    "labels": one.node.metadata.get("LABELS") or {},
                    "metadata": dict(one.node.metadata),
                    "locality": dict(zip(("region", "zone", "subzone"), one.node.locality, strict=True)),
                    "watches": {url: sorted(watch.names) for url, watch in one.session.watches.items()},
                }
            clients.append(client)
        return {"totalClients": len(clients), "clients": clients}

    def config_dump(self, query: Mapping[str, str]) -> Object | None:
        connection = self._find(query)
        if connection is None:
            return None
        version = {"versionInfo": ""}
        wanted = {part for part in query.get("types", "").split(",") if part}

        def dump(kind: str, short: str, fields: Callable[[], Object]) -> Object:
            return {"@type": ADMIN + kind, **(fields() if not wanted or short in wanted else {})}

        def listed(type_url: str, key: str) -> list[Object]:
            return [{**version, key: one} for one in _held(connection, type_url)]

        def listeners() -> Object:
            found = _held(connection, LISTENER)
            states = [{"name": one.get("name", ""), "activeState": {**version, "listener": one}} for one in found]
            return {"dynamicListeners": states}

        configs = [
            dump("BootstrapConfigDump", "bootstrap", dict),
            dump("ClustersConfigDump", "cds", lambda: {"dynamicActiveClusters": listed(CLUSTER, "cluster")}),
            dump("ListenersConfigDump", "lds", listeners),
            dump("ScopedRoutesConfigDump", "srds", dict),
            dump("RoutesConfigDump", "rds", lambda: {"dynamicRouteConfigs": listed(ROUTE, "routeConfig")}),
            dump("SecretsConfigDump", "sds", lambda: {"dynamicActiveSecrets": _secrets(connection)}),
            dump("EcdsConfigDump", "ecds", lambda: {"ecdsFilters": listed(EXTENSION, "ecdsFilter")}),
        ]
        if "include_eds" in query:
            eds = dump(
                "EndpointsConfigDump", "eds", lambda: {"dynamicEndpointConfigs": listed(ENDPOINT, "endpointConfig")}
            )
            configs.insert(2, eds)
        return {"configs": configs}

    def _typed(self, query: Mapping[str, str], type_url: str) -> Object | None:
        connection = self._find(query)
        return None if connection is None else {"configs": _held(connection, type_url)}

    # ------------------------------------------------------------------ the mesh

    def _services(self) -> Iterable[Service]:
        db = self._world.db
        for namespace in namespaces(db):
            for one in exports(db, namespace):
                if (found := service(db, one.namespace, one.host)) is not None:
                    yield found

    def registryz(self, _: Mapping[str, str]) -> list[Object]:
        return [self._registered(one) for one in self._services()]

    def _registered(self, one: Service) -> Object:
        address = next(iter(one.addresses or one.auto_addresses), "0.0.0.0")  # noqa: S104 (Istio's word for none)
        return {
            "Attributes": {
                "ServiceRegistry": "Kubernetes" if one.kubernetes else "External",
                "Name": one.name,
                "Namespace": one.namespace,
                "Labels": None,
                "ExportTo": {key: {} for key in one.export_to} or None,
                "LabelSelectors": dict(one.selector) or None,
            },
            "ports": [{"name": p.name, "port": p.number, "protocol": str(p.protocol)} for p in one.ports],
            "creationTime": one.created or None,
            "hostname": one.host,
            "clusterVIPs": {"Addresses": {self._options.cluster_id: list(one.addresses)}},
            "defaultAddress": address,
            "autoAllocatedIPv4Address": next((a for a in one.auto_addresses if ":" not in a), ""),
            "autoAllocatedIPv6Address": next((a for a in one.auto_addresses if ":" in a), ""),
            "Resolution": _RESOLUTIONS.index(one.resolution),
            "MeshExternal": one.external,
            "ResourceVersion": "",
        }

    def endpoint_shards(self, _: Mapping[str, str]) -> Object:
        found: Object = {}
        registry = f"Kubernetes/{self._options.cluster_id}"
        for one in self._services():
            listed = [
                {
                    "Addresses": [end.address],
                    "EndpointPort": end.port,
                    "ServicePortName": port.name,
                    "Labels": dict(end.labels),
                    "ServiceAccount": end.service_account,
                    "Network": end.network,
                    "Namespace": end.namespace,
                    "WorkloadName": end.workload,
                    "TLSMode": "istio" if end.tls else "disabled",
                    "HealthStatus": str(end.health),
                    "NodeName": end.node,
                }
                for port in one.ports
                for end in endpoints(self._world.db, one.namespace, one.host, port.number)
            ]
            shard = {"Shards": {registry: listed}, "ServiceAccounts": {}}
            found.setdefault(one.host, {})[one.namespace] = shard
        return found

    def problems(self, _: Mapping[str, str]) -> list[Object]:
        """Objects that are not in force as they stand, with the reason."""
        keys = ("kind", "namespace", "name", "reason")
        return [dict(zip(keys, (*key, why), strict=True)) for key, why in self._problems().items()]


def allowed(caller: Caller, page: str, target: Connection | None, system_namespace: str) -> bool:
    """Callers of the control plane's namespace see everything, others their own proxies' configuration."""
    spaces = {one.namespace for one in caller.identities}
    if system_namespace in spaces:
        return True
    return page in OPEN_TO_ALL and target is not None and target.node.namespace in spaces


_CLIENT_CONFIG = "type.googleapis.com/envoy.service.status.v3.ClientConfig"


def _any(config: Object) -> tuple[str, bytes]:
    type_url = str(config["@type"])
    fields = {key: value for key, value in config.items() if key != "@type"}
    made = proto.from_dict(type_url.removeprefix(proto.TYPE_URL), fields)
    return type_url, made.SerializeToString(deterministic=True)


_STATUS = {"SYNCED": 1, "NOT_SENT": 2, "STALE": 3, "ERROR": 4}


def _client_config(connection: Connection) -> bytes:
    """One row of `istioctl proxy-status`.

    Written by hand, since Envoy, whose descriptors we use, does not contain this service. Field numbers are those of
    `envoy/service/status/v3/csds.proto`.
    """
    node = {"id": connection.node.name, "metadata": dict(connection.node.metadata)}
    parts = [field(1, proto.from_dict("envoy.config.core.v3.Node", node).SerializeToString(deterministic=True))]
    for url, watch in connection.session.watches.items():
        if watch.last_error:
            status = "ERROR"
        elif not watch.nonce_sent:
            status = "NOT_SENT"
        else:
            status = "SYNCED" if watch.nonce_acked == watch.nonce_sent else "STALE"
        row = [field(1, url.encode())]
        if when := connection.sent_at.get(url):
            row.append(field(5, Timestamp(seconds=int(when), nanos=int(when % 1 * 1e9)).SerializeToString()))
        row.append(bytes((6 << 3, _STATUS[status])))
        if watch.last_error:
            row.append(field(8, field(3, watch.last_error.encode())))  # UpdateFailureState.details
        parts.append(field(3, b"".join(row)))
    return b"".join(parts)


def _held(connection: Connection, type_url: str) -> list[Object]:
    """The resources of a type that the proxy has, as JSON."""
    watch = connection.session.watches.get(type_url)
    if watch is None:
        return []
    source = connection.source
    every = source.every(type_url) if watch.wildcard else {}
    found = []
    for name, version in watch.held.items():
        one = every.get(name) or source.one(type_url, name)
        if one is not None and version != ABSENT:
            found.append(_json(type_url, one.body))
    return found


def _json(type_url: str, body: bytes) -> Object:
    message = proto.decode(type_url.removeprefix(proto.TYPE_URL), body)
    made: Object = json_format.MessageToDict(message, descriptor_pool=proto.pool())
    return {"@type": type_url, **made}


def _secrets(connection: Connection) -> list[Object]:
    """Private keys are never shown."""
    found = []
    for one in _held(connection, SECRET):
        certificate = one.get("tlsCertificate")
        if certificate and "privateKey" in certificate:
            certificate["privateKey"] = {"inlineBytes": "W3JlZGFjdGVkXQ=="}
        found.append({"name": one.get("name", ""), "secret": one})
    return found
