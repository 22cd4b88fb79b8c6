"""The roots, in every namespace: ConfigMap `istio-ca-root-cert`, kept as it should be by the leading replica."""

from __future__ import annotations

from collections.abc import Callable

from pilotfish.kube.client import Client
from pilotfish.kube.errors import ApiStatusError, is_already_exists, is_conflict, is_not_found
from pilotfish.kube.informer import Change, Informers
from pilotfish.kube.resources import CONFIG_MAPS, NAMESPACES, Object
from pilotfish.kube.workqueue import WorkQueue

CONFIG_MAP = "istio-ca-root-cert"
KEY = "root-cert.pem"
LABEL = {"istio.io/config": "true"}
IGNORED = frozenset({"kube-system", "kube-public", "kube-node-lease", "local-path-storage"})


class RootDistribution:
    """Writes the ConfigMap into every namespace, and again when it is edited or deleted or the roots change."""

    def __init__(self, client: Client, informers: Informers, root_pem: Callable[[], bytes]) -> None:
        self._client = client
        self._root_pem = root_pem
        self._namespaces = informers.get(NAMESPACES)
        self._config_maps = informers.get(CONFIG_MAPS, labels="istio.io/config=true")
        self._queue: WorkQueue[str] = WorkQueue("root certificates")

    def roots_changed(self) -> None:
        """Look at every namespace again."""
        for _, name in self._namespaces.store:
            self._queue.add(name)

    async def run(self) -> None:
        """Runs until cancelled."""
        self._namespaces.add_handler(self._namespace_changed)
        self._config_maps.add_handler(self._config_map_changed)
        await self._namespaces.synced.wait()
        await self._config_maps.synced.wait()
        await self._queue.run(self._reconcile)

    def _namespace_changed(self, change: Change) -> None:
        if change.new is not None:
            self._queue.add(change.new["metadata"]["name"])

    def _config_map_changed(self, change: Change) -> None:
        meta = change.object["metadata"]
        if meta["name"] == CONFIG_MAP:
            self._queue.add(meta["namespace"])

    async def _reconcile(self, namespace: str) -> None:
        found = self._namespaces.store.get("", namespace)
        if found is None or namespace in IGNORED or found["metadata"].get("deletionTimestamp"):
            return
        wanted = {KEY: self._root_pem().decode()}
        present = self._config_maps.store.get(namespace, CONFIG_MAP)
        if present is not None and present.get("data") == wanted:
            return
        body: Object = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": CONFIG_MAP, "namespace": namespace, "labels": dict(LABEL)},
            "data": wanted,
        }
        try:
            if present is None:
                await self._client.create(CONFIG_MAPS, body)
            else:
                await self._client.update(CONFIG_MAPS, body)
        except ApiStatusError as error:
            if is_already_exists(error):  # it lost its label, so we do not see it
                await self._client.update(CONFIG_MAPS, body)
            elif is_not_found(error) or is_conflict(error):
                return  # the namespace went, or a newer event is on its way
            elif error.code != 403 or "being terminated" not in error.message:
                raise
