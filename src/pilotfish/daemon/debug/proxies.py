"""Pages about connected proxies: what each has been sent and acknowledged, and what its configuration is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from pilotfish import api
from pilotfish.daemon.backend import SHORT, ProxySource
from pilotfish.daemon.debug import dump, registry
from pilotfish.daemon.debug.page import NO_PROXY_GIVEN, NOT_CONNECTED, Later, Object, Page, PageError, Question
from pilotfish.daemon.options import Options
from pilotfish.envoy import Compiler, inbound, proto
from pilotfish.envoy.resource import field
from pilotfish.mesh import config as mesh_config
from pilotfish.mesh import destination_rules, inputs, telemetry, visibility
from pilotfish.mesh.proxies import View, scope
from pilotfish.mesh.services import ServiceKey, service
from pilotfish.xds.fleet import Connection, Fleet
from pilotfish.xds.service import DebugResource
from pilotfish.xds.session import Watch

_CLIENT_CONFIG = "type.googleapis.com/envoy.service.status.v3.ClientConfig"
_STATUS = {"SYNCED": 1, "NOT_SENT": 2, "STALE": 3, "ERROR": 4}
_KEPT = "kept"
_LONG = {"cds": "cluster", "lds": "listener", "rds": "route", "eds": "endpoint", "ecds": "extensionconfig"}


class Proxies:
    """Pages by name."""

    def __init__(self, fleet: Fleet, compiler: Compiler, options: Options) -> None:
        self._fleet = fleet
        self._db = compiler.db
        self._options = options

    def pages(self) -> dict[str, Page]:
        return {
            "syncz": Page(
                self.syncz, "What every proxy has been sent and has acknowledged (namespace=NAME: one's only)"
            ),
            "config_dump": Page(
                self.config_dump, "The configuration a proxy should have (types=cds,lds,…, include_eds)"
            ),
            "edsz": Page(lambda asked: self._typed(asked, ["eds"]), "The endpoints of a proxy"),
            "ecdsz": Page(lambda asked: self._typed(asked, ["ecds"]), "The extension configurations of a proxy"),
            "ndsz": Page(lambda asked: self._typed(asked, ["nds"]), "The name table of a proxy"),
            "adsz": Page(
                self.adsz,
                "Connected proxies with their metadata and what they watch",
                (("push=true", "Compare and send to all proxies what they lack"),),
            ),
            "connections": Page(self.connections, "Connected proxies"),
            "instancesz": Page(self.instancesz, "The services that each proxy is behind"),
            "sidecarz": Page(self.sidecarz, "What a proxy sees of the mesh"),
            "telemetryz": Page(self.telemetryz, "The Telemetry of the mesh, or with proxyID what holds for a proxy"),
            "force_disconnect": Page(self.force_disconnect, "Close the stream of a proxy"),
        }

    # ------------------------------------------------------------------ finding

    def _all(self, asked: Question) -> list[Connection]:
        chosen = (one for one in self._fleet if asked.may_see(one.node.namespace))
        return sorted(chosen, key=lambda one: one.id)

    def _one(self, asked: Question) -> Connection:
        """Raises PageError."""
        if not asked.proxy:
            raise PageError(400, NO_PROXY_GIVEN)
        found = next((one for one in reversed(list(self._fleet)) if self._is(one, asked)), None)
        if found is None:
            raise PageError(404, NOT_CONNECTED)
        return found

    @staticmethod
    def _is(one: Connection, asked: Question) -> bool:
        return asked.proxy in one.id and asked.may_see(one.node.namespace)

    def _view(self, asked: Question) -> tuple[Connection, View]:
        one = self._one(asked)
        if not isinstance(one.source, ProxySource):
            raise PageError(404, NOT_CONNECTED)
        return one, one.source.view

    # ------------------------------------------------------------------ state

    def syncz(self, asked: Question) -> list[Object]:
        wanted = asked.query.get("namespace", "")
        return [self._row(one) for one in self._all(asked) if wanted in ("", one.node.namespace)]

    def _row(self, connection: Connection) -> Object:
        row: Object = {
            "cluster_id": str(connection.node.metadata.get("CLUSTER_ID") or self._options.cluster_id),
            "proxy": connection.node.name,
            "proxy_type": connection.node.kind,
            "istio_version": str(connection.node.metadata.get("ISTIO_VERSION") or ""),
        }
        resources: Object = {}
        for url, watch in connection.session.watches.items():
            state = {key: nonce for key, nonce in zip(("sent", "acked"), _nonces(watch), strict=True) if nonce}
            if (name := _LONG.get(SHORT.get(url, ""))) is not None:
                row |= {f"{name}_{key}": value for key, value in state.items()}
            if when := connection.sent_at.get(url):
                state["sentTime"] = datetime.fromtimestamp(when, UTC).isoformat()
            if watch.last_error:
                state["lastError"] = watch.last_error
            resources[url] = state
        return row | {"resources": resources}

    def client_configs(self, asked: Question) -> list[DebugResource]:
        """The rows of `istioctl proxy-status`."""
        return [(one.node.name, _CLIENT_CONFIG, _client_config(one, self._cluster(one))) for one in self._all(asked)]

    def _cluster(self, one: Connection) -> str:
        return str(one.node.metadata.get("CLUSTER_ID") or self._options.cluster_id)

    def connections(self, asked: Question) -> Object:
        return _clients([_client(one) for one in self._all(asked)])

    def adsz(self, asked: Question) -> Object | str:
        if asked.query.get("push"):
            self._fleet.changed()
            return f"Pushed to {len(self._fleet)} servers\n"
        return _clients([_details(one) for one in ([self._one(asked)] if asked.proxy else self._all(asked))])

    def force_disconnect(self, asked: Question) -> str:
        self._one(asked).end()
        return "OK"

    # ------------------------------------------------------------------ configuration

    def config_dump(self, asked: Question) -> Later:
        if types := [one for one in asked.query.get("types", "").split(",") if one]:
            return self._typed(asked, types)
        made = self._dump(asked, endpoints="include_eds" in asked.query)
        return Later(lambda: {"configs": dump.as_json(made)})

    def packed_dump(self, asked: Question) -> list[DebugResource]:
        """The parts of the dump as messages, which have no names. Raises PageError."""
        return [
            ("", proto.TYPE_URL + one.DESCRIPTOR.full_name, one.SerializeToString(deterministic=True))
            for one in self._dump(asked, endpoints=False)
        ]

    def _dump(self, asked: Question, *, endpoints: bool) -> list[Message]:
        return dump.parts(self._one(asked), str(self._fleet.state), endpoints=endpoints)

    def _typed(self, asked: Question, short: Iterable[str]) -> Later:
        """The plain resources of some types."""
        connection = self._one(asked)
        found = [
            one
            for url, name in SHORT.items()
            if name in short
            for one in dump.decoded(url, (body for _, body in dump.held(connection, url)))
        ]
        return Later(lambda: {"configs": dump.as_json(found)} if found else {})

    # ------------------------------------------------------------------ the mesh as a proxy sees it

    def instancesz(self, asked: Question) -> Object:
        return {one.node.name: self._targets(one) for one in self._all(asked)}

    def _targets(self, connection: Connection) -> list[Object]:
        found = []
        view = connection.source.view if isinstance(connection.source, ProxySource) else None
        for port in inbound.ports(self._db, view) if view is not None and view.is_sidecar else ():
            behind = service(self._db, *port.key) if port.key is not None else None
            of_service = behind.port(port.number) if behind is not None else None
            if behind is not None and of_service is not None:
                row = {**registry.port(of_service), "TargetPort": port.target}
                found.append({"Service": registry.registered(self._db, behind), "Port": row})
        return found

    def sidecarz(self, asked: Question) -> Object:
        _, view = self._view(asked)
        db, own = self._db, scope(self._db, view)
        listeners = [
            [found for one in listener.services if (found := service(db, *one.key)) is not None]
            for listener in visibility.egress(db, own)
        ]
        seen = {one.key: one for listener in listeners for one in listener}
        shown = {key: registry.registered(db, one) for key, one in seen.items()}
        rules = {key.host: used for key in seen if (used := self._rules(view, key))}
        sidecar = visibility.sidecar(db, own)
        return {
            "version": str(self._fleet.state),
            "name": own.sidecar.name if own.sidecar is not None else "default-sidecar",
            "namespace": view.namespace,
            "outboundTrafficPolicy": {"mode": visibility.outbound_policy(db, own).mode.value},
            "services": list(shown.values()),
            "egressListenerServices": [[shown[one.key] for one in listener] for listener in listeners],
            "servicesByHostname": {key.host: one for key, one in shown.items()},
            "sidecar": api.to_json(sidecar) if sidecar is not None else None,
            "destinationRules": rules,
        }

    def _rules(self, view: View, key: ServiceKey) -> list[Object]:
        refs = destination_rules.rules_for(self._db, view.namespace, view.labels, key.namespace, key.host)
        found = [config for ref in refs if (config := inputs.DESTINATION_RULES(self._db, ref)) is not None]
        origins = [{"Namespace": ref.namespace, "Name": ref.name} for ref in refs]
        return [
            {
                "exportTo": {space: {} for space in one.spec.export_to},
                "from": origins,
                "rule": {"kind": one.kind, "name": one.name, "namespace": one.namespace, "Spec": api.to_json(one.spec)},
            }
            for one in found
        ]

    def telemetryz(self, asked: Question) -> Object:
        db, root = self._db, mesh_config.root_namespace(self._db)
        if not asked.proxy:
            every = [c for ref in db.keys(inputs.TELEMETRIES) if (c := inputs.TELEMETRIES(db, ref)) is not None]
            spaces: Object = {}
            for one in sorted(every, key=lambda c: c.age_order):
                row = {"name": one.name, "namespace": one.namespace, "spec": api.to_json(one.spec)}
                spaces.setdefault(one.namespace, []).append(row)
            return {"telemetries": {"namespace_to_telemetries": spaces, "root_namespace": root}}
        _, view = self._view(asked)
        names = {place: {"Namespace": "", "Name": ""} for place in ("Root", "Proxy", "Namespace", "Workload")}
        metrics: list[object] = []
        logging: list[object] = []
        tracing: list[object] = []
        for one in telemetry.applied(db, view.namespace, view.labels):
            place = "Workload" if telemetry.selector(one) else "Root" if one.namespace == root else "Proxy"
            names[place] = {"Namespace": one.namespace, "Name": one.name}
            metrics += [api.to_json(entry) for entry in one.spec.metrics]
            logging += [api.to_json(entry) for entry in one.spec.access_logging]
            tracing += [api.to_json(entry) for entry in one.spec.tracing]
        return {
            **names,
            "Metrics": metrics,
            "Logging": [{**names, "Logging": logging}] if logging else [],
            "Tracing": tracing,
        }


def _nonces(watch: Watch) -> tuple[str, str]:
    """Of the last response and the last acknowledged one.

    A proxy that came back with everything it should have was sent nothing, and is in sync all the same.
    """
    if not watch.nonce_sent and watch.held and not (watch.all_stale or watch.must_answer):
        return _KEPT, _KEPT
    return watch.nonce_sent, watch.nonce_acked


def _client(one: Connection) -> Object:
    return {"connectionId": one.id, "connectedAt": one.connected_at.isoformat(), "address": one.address}


def _details(one: Connection) -> Object:
    places = dict(zip(("region", "zone", "subZone"), one.node.locality, strict=True))
    return {
        **_client(one),
        "labels": one.node.metadata.get("LABELS") or {},
        "metadata": _whole(one.node.metadata),
        "locality": {key: value for key, value in places.items() if value},
        "watches": {url: sorted({*watch.names, *watch.held}) for url, watch in one.session.watches.items()},
    }


def _whole(value: Any) -> Any:
    """JSON out of a protobuf Struct, which has no whole numbers, with whole numbers."""
    if isinstance(value, Mapping):
        return {key: _whole(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _clients(rows: list[Object]) -> Object:
    return {"totalClients": len(rows), **({"clients": rows} if rows else {})}


def _client_config(connection: Connection, cluster: str) -> bytes:
    """One row of `istioctl proxy-status`.

    Written by hand, since Envoy, whose descriptors we use, does not contain this service. Field numbers are those of
    `envoy/service/status/v3/csds.proto`.
    """
    shown = {"CLUSTER_ID": cluster, "NAMESPACE": connection.node.namespace}
    if version := connection.node.metadata.get("ISTIO_VERSION"):
        shown["ISTIO_VERSION"] = str(version)
    node = {"id": connection.node.name, "metadata": shown}
    parts = [field(1, proto.from_dict("envoy.config.core.v3.Node", node).SerializeToString(deterministic=True))]
    for url, watch in sorted(connection.session.watches.items()):
        sent, acked = _nonces(watch)
        if watch.last_error:
            status = "ERROR"
        elif not sent:
            status = "NOT_SENT"
        else:
            status = "SYNCED" if sent == acked else "STALE"
        row = [field(1, url.encode())]
        updated = b""
        if when := connection.sent_at.get(url):
            updated = Timestamp(seconds=int(when), nanos=int(when % 1 * 1e9)).SerializeToString()
            row.append(field(5, updated))
        row.append(bytes((6 << 3, _STATUS[status])))
        if watch.last_error:
            # An UpdateFailureState: last_update_attempt and details.
            row.append(field(8, field(2, updated) + field(3, watch.last_error.encode())))
        parts.append(field(3, b"".join(row)))
    return b"".join(parts)
