"""Workloads that register themselves: whoever connects as a member of a WorkloadGroup becomes a WorkloadEntry.

The entry says in annotations which replica the workload is connected to and since when. When it disconnects, that
replica notes the time, and removes the entry when it has not come back within the grace period; what a replica leaves
behind when it ends is removed by the leader. Names and annotations are Istio's, so that its control plane takes the
entries over. Health that agents report becomes the entry's condition `Healthy`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pilotfish import api
from pilotfish.kube.client import Client
from pilotfish.kube.errors import ApiStatusError, is_not_found
from pilotfish.kube.meta import annotations_of, controller_reference, format_time, now
from pilotfish.kube.resources import PODS, Object, ResourceType
from pilotfish.kube.workqueue import WorkQueue
from pilotfish.mesh.names import is_ip
from pilotfish.xds.fleet import Connection
from pilotfish.xds.requests import Node

log = logging.getLogger(__name__)

GROUP = "istio.io/autoRegistrationGroup"
CONTROLLER = "istio.io/workloadController"
CONNECTED, DISCONNECTED = "istio.io/connectedAt", "istio.io/disconnectedAt"
HEALTH_CHECKED = "proxy.istio.io/health-checks-enabled"
HEALTHY = "Healthy"
WAIT_SECONDS = 5.0
"""How often a group is looked for that is not there."""
ORPHANED, SWEEP = 6, 10
"""In times of grace: what the workloads of a replica that ended may take to connect to another, and how often is looked
for those that did not."""

Key = tuple[str, str]
"""Namespace and name of an entry."""


def _resource(kind: str) -> ResourceType:
    known = api.KINDS[kind]
    return ResourceType(known.group, known.versions[0], kind, known.plural)


ENTRIES, GROUPS = _resource("WorkloadEntry"), _resource("WorkloadGroup")


def _group(node: Node) -> str:
    return str(node.metadata.get("AUTO_REGISTER_GROUP") or "")


def _address(node: Node) -> str:
    listed = str(node.metadata.get("INSTANCE_IPS") or node.ip).split(",")
    return next((one.strip() for one in listed if is_ip(one.strip())), "")


def _map(node: Node, name: str) -> Mapping[str, Any]:
    value = node.metadata.get(name)
    return value if isinstance(value, Mapping) else {}


def key_of(node: Node) -> Key | None:
    """The entry of a proxy; None when it is no member of a group."""
    group, address = _group(node), _address(node)
    if not group or not address:
        return None
    parts = [group, address.replace(":", "-"), str(node.metadata.get("NETWORK") or "")]
    return node.namespace, "-".join(part for part in parts if part)[-253:]


def entry(key: Key, group: Object, node: Node) -> Object:
    """A new entry from the group's template. Labels: the node's win over the group's, those over the template's."""
    spec = group.get("spec") or {}
    template, meta = dict(spec.get("template") or {}), spec.get("metadata") or {}
    labels = {
        **(template.get("labels") or {}),
        **(meta.get("labels") or {}),
        **{name: str(value) for name, value in _map(node, "LABELS").items()},
    }
    annotations = {GROUP: group["metadata"]["name"], **(meta.get("annotations") or {})}
    if _map(node, "PROXY_CONFIG").get("readinessProbe"):
        annotations[HEALTH_CHECKED] = "true"
    made = template | {"address": _address(node), "labels": labels}
    if network := node.metadata.get("NETWORK"):
        made["network"] = str(network)
    if any(node.locality):
        made["locality"] = "/".join(node.locality).rstrip("/")
    return {
        "apiVersion": ENTRIES.api_version,
        "kind": ENTRIES.kind,
        "metadata": {
            "namespace": key[0],
            "name": key[1],
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [controller_reference(group, GROUPS)],
        },
        "spec": made,
    }


class Registrar:
    """`instance` is this replica's name, that of its pod in `namespace`; `grace` is for how many seconds a workload may
    be gone before its entry is removed."""

    def __init__(self, client: Client, namespace: str, instance: str, grace: float) -> None:
        self._grace = grace
        self._client = client
        self._namespace = namespace
        self._instance = instance
        self._connections: defaultdict[Key, list[Connection]] = defaultdict(list)
        self._health: dict[Key, str | None] = {}
        """Of connected workloads that reported: what is wrong, None when nothing is."""
        self._queue: WorkQueue[Key] = WorkQueue("registration")

    def connected(self, connection: Connection) -> None:
        """A proxy has connected; it matters if it is a member of a group and has proved its identity."""
        if connection.caller is not None and (key := key_of(connection.node)) is not None:
            self._connections[key].append(connection)
            self._queue.add(key)

    def disconnected(self, connection: Connection) -> None:
        key = key_of(connection.node)
        if key is None or connection not in self._connections.get(key, ()):
            return
        self._connections[key].remove(connection)
        if not self._connections[key]:
            del self._connections[key]
            self._health.pop(key, None)
            self._queue.add(key)

    def reported(self, connection: Connection, problem: str | None) -> None:
        """A connected proxy says how its workload is: what is wrong, None when nothing is."""
        key = key_of(connection.node)
        if key is not None and key in self._connections:
            self._health[key] = problem
            self._queue.add(key)

    async def run(self) -> None:
        """Runs until cancelled."""
        await self._queue.run(self._reconcile)

    async def sweep(self) -> None:
        """Runs until cancelled, on one replica: removes what others have left behind."""
        while True:
            await asyncio.sleep(SWEEP * self._grace)
            try:
                for found in (await self._client.list(ENTRIES)).items:
                    if await self._left_behind(found):
                        await self._delete(found)
            except ApiStatusError as error:
                if not is_not_found(error):  # the kind is not served
                    log.warning("WorkloadEntries cannot be looked through: %s", error)

    async def _left_behind(self, found: Object) -> bool:
        notes = annotations_of(found)
        if GROUP not in notes:
            return False
        if CONNECTED not in notes:
            return _age(notes.get(DISCONNECTED)) > self._grace
        if notes.get(CONTROLLER) == self._instance or _age(notes[CONNECTED]) < ORPHANED * self._grace:
            return False
        try:
            await self._client.get(PODS, notes.get(CONTROLLER, ""), self._namespace)
        except ApiStatusError as error:
            return is_not_found(error)
        return False

    async def _reconcile(self, key: Key) -> None:
        found = await self._find(ENTRIES, key)
        connections = self._connections.get(key)
        if not connections:
            await self._let_go(key, found)
            return
        connection = connections[-1]
        if found is None and (found := await self._from_group(key, connection)) is None:
            self._queue.add_after(key, WAIT_SECONDS)
            return
        if not _may_be(found, connection):
            log.warning("%s may not be WorkloadEntry %s/%s: that is another service account's", connection.id, *key)
            return
        if "uid" not in found["metadata"]:
            found = await self._client.create(ENTRIES, found)
            log.info("%s became WorkloadEntry %s/%s", connection.id, *key)
        since = format_time(connection.connected_at)
        notes = annotations_of(found)
        if (notes.get(CONTROLLER), notes.get(CONNECTED)) != (self._instance, since) or DISCONNECTED in notes:
            found = await self._note(found, {CONTROLLER: self._instance, CONNECTED: since, DISCONNECTED: None})
        if key in self._health:
            await self._tell(found, self._health[key])

    async def _from_group(self, key: Key, connection: Connection) -> Object | None:
        name = _group(connection.node)
        group = await self._find(GROUPS, (key[0], name))
        if group is None:
            log.warning("%s waits to be registered: there is no WorkloadGroup %s/%s", connection.id, key[0], name)
            return None
        return entry(key, group, connection.node)

    async def _let_go(self, key: Key, found: Object | None) -> None:
        notes = annotations_of(found) if found is not None else {}
        if found is None or GROUP not in notes or notes.get(CONTROLLER) != self._instance:
            return
        if CONNECTED in notes:
            await self._note(found, {CONNECTED: None, DISCONNECTED: format_time(now())})
            self._queue.add_after(key, self._grace)
        elif (left := self._grace - _age(notes.get(DISCONNECTED))) > 0:
            self._queue.add_after(key, left + 0.1)
        else:
            await self._delete(found)

    async def _note(self, found: Object, changes: Mapping[str, str | None]) -> Object:
        notes = {name: value for name, value in {**annotations_of(found), **changes}.items() if value is not None}
        return await self._client.update(ENTRIES, {**found, "metadata": {**found["metadata"], "annotations": notes}})

    async def _tell(self, found: Object, problem: str | None) -> None:
        status = found.get("status") or {}
        conditions = list(status.get("conditions") or ())
        state, message = ("True", "") if problem is None else ("False", problem)
        before: Mapping[str, Any] = next((one for one in conditions if one.get("type") == HEALTHY), {})
        if (before.get("status"), before.get("message", "")) == (state, message):
            return
        moment = format_time(now())
        condition = {"type": HEALTHY, "status": state, "lastProbeTime": moment, "lastTransitionTime": moment}
        if message:
            condition["message"] = message
        others = [one for one in conditions if one.get("type") != HEALTHY]
        await self._client.update(
            ENTRIES, {**found, "status": {**status, "conditions": [*others, condition]}}, subresource="status"
        )

    async def _delete(self, found: Object) -> None:
        meta = found["metadata"]
        log.info("WorkloadEntry %s/%s is removed: its workload is gone", meta["namespace"], meta["name"])
        try:
            await self._client.delete(
                ENTRIES, meta["name"], meta["namespace"], resource_version=meta["resourceVersion"]
            )
        except ApiStatusError as error:
            if not is_not_found(error):
                raise

    async def _find(self, resource: ResourceType, key: Key) -> Object | None:
        try:
            return await self._client.get(resource, key[1], key[0])
        except ApiStatusError as error:
            if is_not_found(error):
                return None
            raise


def _may_be(found: Object, connection: Connection) -> bool:
    account = (found.get("spec") or {}).get("serviceAccount") or ""
    proved = connection.caller.identities if connection.caller is not None else ()
    namespace = found["metadata"]["namespace"]
    return any(one.namespace == namespace and account in ("", one.service_account) for one in proved)


def _age(moment: str | None) -> float:
    """Seconds since a time in RFC 3339; for what is no time as if long ago."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(moment or "")).total_seconds()
    except (ValueError, TypeError):
        return float("inf")
