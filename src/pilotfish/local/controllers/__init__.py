"""The control loops of the local cluster, clients of its API like any other."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from pilotfish.kube.client import Client
from pilotfish.local.controllers.base import Cluster, Controller
from pilotfish.local.controllers.cronjob import CronJobController
from pilotfish.local.controllers.daemonset import DaemonSetController
from pilotfish.local.controllers.deployment import DeploymentController
from pilotfish.local.controllers.endpoints import EndpointsController
from pilotfish.local.controllers.endpointslice import EndpointSliceController
from pilotfish.local.controllers.endpointslicemirroring import EndpointSliceMirroringController
from pilotfish.local.controllers.garbagecollector import GarbageCollector
from pilotfish.local.controllers.horizontalpodautoscaler import HorizontalPodAutoscalerController
from pilotfish.local.controllers.job import JobController
from pilotfish.local.controllers.namespace import NamespaceController
from pilotfish.local.controllers.nodelifecycle import NodeLifecycleController
from pilotfish.local.controllers.poddisruptionbudget import PodDisruptionBudgetController
from pilotfish.local.controllers.podgc import PodGarbageCollector
from pilotfish.local.controllers.replicaset import ReplicaSetController, ReplicationControllerController
from pilotfish.local.controllers.root_ca import RootCAController
from pilotfish.local.controllers.scheduler import Scheduler
from pilotfish.local.controllers.serviceaccount import ServiceAccountController, TokenController
from pilotfish.local.controllers.statefulset import StatefulSetController
from pilotfish.local.controllers.ttl import TTLController

_log = logging.getLogger(__name__)

CONTROLLERS: tuple[type[Controller], ...] = (
    # First, as it is first to act on a new Service: clients that write Endpoints themselves expect them there.
    EndpointsController,
    EndpointSliceController,
    EndpointSliceMirroringController,
    CronJobController,
    DaemonSetController,
    DeploymentController,
    HorizontalPodAutoscalerController,
    JobController,
    NamespaceController,
    NodeLifecycleController,
    PodDisruptionBudgetController,
    PodGarbageCollector,
    ReplicaSetController,
    ReplicationControllerController,
    RootCAController,
    Scheduler,
    ServiceAccountController,
    StatefulSetController,
    TTLController,
    TokenController,
)


async def run(kubeconfig: Path) -> None:
    """Run all controllers as the user of `kubeconfig` until cancelled."""
    # The user agent names the field manager; tools that ignore what controllers own look for this one.
    async with Client.from_file(kubeconfig, user_agent="kube-controller-manager") as client:
        cluster = Cluster(client)
        controllers: list[Controller | GarbageCollector] = [kind(cluster) for kind in CONTROLLERS]
        # Last: it looks at the kinds the others watch already through their eyes.
        controllers.append(GarbageCollector(cluster))
        cluster.informers.start()
        try:
            await cluster.informers.wait_synced()
            async with asyncio.TaskGroup() as group:
                for one in controllers:
                    group.create_task(one.run(), name=one.name)
        finally:
            await cluster.informers.stop()
