"""Workloads: Deployment, ReplicaSet, StatefulSet, DaemonSet, ControllerRevision and ReplicationController."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import SCALE, resource

RESOURCES = (
    resource(
        "apps/v1",
        "Deployment",
        "deployments",
        SCALE,
        short="deploy",
        all_category=True,
        status=True,
        has_generation=True,
    ),
    resource(
        "apps/v1", "ReplicaSet", "replicasets", SCALE, short="rs", all_category=True, status=True, has_generation=True
    ),
    resource(
        "apps/v1",
        "StatefulSet",
        "statefulsets",
        SCALE,
        short="sts",
        all_category=True,
        status=True,
        has_generation=True,
    ),
    resource("apps/v1", "DaemonSet", "daemonsets", short="ds", all_category=True, status=True, has_generation=True),
    resource("apps/v1", "ControllerRevision", "controllerrevisions"),
    resource(
        "v1",
        "ReplicationController",
        "replicationcontrollers",
        SCALE,
        short="rc",
        all_category=True,
        status=True,
        has_generation=True,
        field_labels=("status.replicas",),
    ),
)
