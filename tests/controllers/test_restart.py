from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.controllers.builders import template
from tests.controllers.conftest import start, stop

from pilotfish.kube.client import Client
from pilotfish.kube.informer import Informer
from pilotfish.kube.meta import is_deleting
from pilotfish.kube.resources import CONFIG_MAPS, DEPLOYMENTS, PODS, REPLICA_SETS
from pilotfish.local.controllers.base import Cluster
from pilotfish.local.controllers.deployment import DeploymentController
from pilotfish.local.controllers.replicaset import ReplicaSetController


async def test_controllers_and_informers_survive_a_restart_of_the_server(tmp_path: Path) -> None:
    """Watches resume after the server was killed; owners deleted just before are collected; work goes on."""

    server = start(tmp_path / "data")
    port = json.loads((server.data / "run" / "apiserver.json").read_text())["port"]
    try:
        async with Client.from_file(server.kubeconfig) as client:
            informer = Informer(client, PODS)
            task = asyncio.create_task(informer.run())
            await asyncio.wait_for(informer.synced.wait(), 60)
            spec = {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template()}
            await client.create(DEPLOYMENTS, {"metadata": {"name": "web"}, "spec": spec}, "default")
            assert await informer.until(lambda: len(informer.store) == 2)
            owner = await client.create(CONFIG_MAPS, {"metadata": {"name": "owner"}}, "default")
            reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
            child = {"metadata": {"name": "child", "ownerReferences": [reference]}}
            await client.create(CONFIG_MAPS, child, "default")
            await client.delete(CONFIG_MAPS, "owner", "default")
            server.process.kill()
            server.process.wait()
            (server.data / "run" / "apiserver.json").unlink()
            server = await asyncio.to_thread(start, tmp_path / "data", port)
            await client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 4}}, "default")
            assert await informer.until(lambda: len(informer.store) == 4, 20)
            maps = Informer(client, CONFIG_MAPS, "default", fields="metadata.name=child")
            follow = asyncio.create_task(maps.run())
            await asyncio.wait_for(maps.synced.wait(), 60)
            assert await maps.until(lambda: not maps.store.values(), 20)
            for one in (task, follow):
                one.cancel()
            await asyncio.wait([task, follow])
    finally:
        stop(server)


async def test_two_replicas_of_a_controller_do_not_fight(client: Client, namespace: str) -> None:
    """A second set of controllers beside the server's own ends in the same state: conflicts are retried."""

    async with Client(client.config) as other:
        cluster = Cluster(other)
        controllers = [DeploymentController(cluster), ReplicaSetController(cluster)]
        cluster.informers.start()
        await cluster.informers.wait_synced()
        tasks = [asyncio.create_task(one.run()) for one in controllers]
        spec = {"replicas": 5, "selector": {"matchLabels": {"app": "web"}}, "template": template()}
        await client.create(DEPLOYMENTS, {"metadata": {"name": "web"}, "spec": spec}, namespace)
        sets, pods = cluster.informers.get(REPLICA_SETS), cluster.informers.get(PODS)

        def counted() -> bool:
            return [one.get("status", {}).get("replicas") for one in sets.store.in_namespace(namespace)] == [5]

        def made() -> bool:
            return len([pod for pod in pods.store.in_namespace(namespace) if not is_deleting(pod)]) == 5

        try:
            assert await sets.until(counted, 20)
            assert await pods.until(made, 20)
            assert (await client.get(DEPLOYMENTS, "web", namespace))["status"].get("collisionCount", 0) == 0
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await cluster.informers.stop()
