"""The ConfigMap `kube-root-ca.crt` in every namespace: how pods know the API server."""

from __future__ import annotations

from pilotfish.kube.errors import KubeError, is_already_exists
from pilotfish.kube.informer import Change
from pilotfish.kube.meta import Key, is_deleting
from pilotfish.kube.resources import CONFIG_MAPS, NAMESPACES
from pilotfish.local.controllers.base import Cluster, Controller

NAME = "kube-root-ca.crt"
_ANNOTATION = {
    "kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using "
    "internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed "
    "across distributions of Kubernetes clusters."
}


class RootCAController(Controller):
    name = "root-ca-certificate-publisher-controller"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._data = {"ca.crt": (cluster.client.config.ca or b"").decode()}
        self._namespaces = self.watch(NAMESPACES, self._namespace_changed).store
        informer = cluster.informers.get(CONFIG_MAPS, fields=f"metadata.name={NAME}")
        informer.add_handler(self.enqueue)
        self._maps = informer.store

    def _namespace_changed(self, change: Change) -> None:
        if change.new is not None:
            self.queue.add((change.new["metadata"]["name"], NAME))

    async def sync(self, key: Key) -> None:
        namespace = self._namespaces.get("", key[0])
        if namespace is None or is_deleting(namespace):
            return
        present = self._maps.get(*key)
        if present is not None and present.get("data") == self._data:
            return
        if present is not None:
            await self.client.update(CONFIG_MAPS, {**present, "data": self._data})
            return
        wanted = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"namespace": key[0], "name": NAME, "annotations": _ANNOTATION},
            "data": self._data,
        }
        try:
            await self.client.create(CONFIG_MAPS, wanted)
        except KubeError as error:
            if not is_already_exists(error) and not self._is_ending(key[0]):
                raise

    def _is_ending(self, name: str) -> bool:
        namespace = self._namespaces.get("", name)
        return namespace is None or is_deleting(namespace)
