"""Keeps a worker for every pod that is bound to this node."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from pilotfish.kube.informer import Change, Informer
from pilotfish.local.node.host import Host
from pilotfish.local.node.network import Sandbox
from pilotfish.local.node.pod import PodWorker

Object = Mapping[str, Any]
_log = logging.getLogger(__name__)


class Kubelet:
    """Hands the changes of pods, ConfigMaps and Secrets to the workers."""

    def __init__(self, host: Host, pods: Informer, config_maps: Informer, secrets: Informer) -> None:
        self._host = host
        self._workers: dict[str, PodWorker] = {}
        """By uid: a pod that ends and its successor of the same name may overlap."""
        self._names: dict[tuple[str, str], str] = {}
        self._pods = pods
        config_maps.add_handler(lambda change: self._source_changed("ConfigMap", change))
        secrets.add_handler(lambda change: self._source_changed("Secret", change))

    def start(self) -> None:
        """Begin to act. Call it when everything the pods may refer to is known."""
        self._pods.add_handler(self._pod_changed)

    def workers(self) -> list[PodWorker]:
        """The pods on this node."""
        return list(self._workers.values())

    def find(self, namespace: str, name: str) -> PodWorker | None:
        """The pod of a name; the newest if an older one still ends."""
        return self._workers.get(self._names.get((namespace, name), ""))

    def sandbox(self, uid: str) -> Sandbox | None:
        """The namespaces of a pod; None when it has none (any more)."""
        worker = self._workers.get(uid)
        return worker.sandbox if worker else None

    def _pod_changed(self, change: Change) -> None:
        pod = change.object
        meta = pod["metadata"]
        worker = self._workers.get(meta["uid"])
        if change.new is None:
            if worker is not None:
                worker.removed()
            return
        if worker is not None:
            worker.update(pod)
            return
        worker = PodWorker(self._host, pod, self._forget)
        self._workers[worker.uid] = worker
        self._names[meta["namespace"], meta["name"]] = worker.uid
        worker.start()

    def _forget(self, worker: PodWorker) -> None:
        self._workers.pop(worker.uid, None)
        meta = worker.object["metadata"]
        key = (meta["namespace"], meta["name"])
        if self._names.get(key) == worker.uid:
            del self._names[key]

    def _source_changed(self, kind: str, change: Change) -> None:
        meta = change.object["metadata"]
        for worker in self._workers.values():
            if worker.namespace == meta["namespace"] and (kind, meta["name"]) in worker.references:
                worker.config.fire()
