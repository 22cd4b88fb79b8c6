"""The Node object and its lease: what the cluster knows of this machine."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilotfish.kube.client import Client, PatchType
from pilotfish.kube.errors import ApiStatusError, KubeError, is_not_found
from pilotfish.kube.meta import format_time, now, with_condition
from pilotfish.kube.resources import LEASES, NODES
from pilotfish.local.network import NODE_IP, NODE_NAME, POD_CIDR

Object = Mapping[str, Any]
_log = logging.getLogger(__name__)

LEASE_NAMESPACE = "kube-node-lease"
LEASE_SECONDS = 40
RENEW_SECONDS = 10.0
MAX_PODS = 250
_VERSION = "v1.36.0-pilotfish"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _memory_kib() -> int:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1])
    return 0


def capacity(directory: Path) -> dict[str, str]:
    """What the machine has, as resource quantities."""
    disk = os.statvfs(directory)
    return {
        "cpu": str(len(os.sched_getaffinity(0))),
        "memory": f"{_memory_kib()}Ki",
        "ephemeral-storage": f"{disk.f_blocks * disk.f_frsize // 1024}Ki",
        "pods": str(MAX_PODS),
    }


def _os_image() -> str:
    for line in _read("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()


def node_info(runtime: str) -> dict[str, str]:
    """`status.nodeInfo`."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "architecture": machine,
        "bootID": _read("/proc/sys/kernel/random/boot_id"),
        "containerRuntimeVersion": runtime,
        "kernelVersion": platform.release(),
        "kubeProxyVersion": "",
        "kubeletVersion": _VERSION,
        "machineID": _read("/etc/machine-id"),
        "operatingSystem": "linux",
        "osImage": _os_image(),
        "systemUUID": _read("/etc/machine-id"),
    }


def status(existing: Object, resources: Mapping[str, str], info: Mapping[str, str], limits: str) -> dict[str, Any]:
    """The Node's status. `limits` says why memory limits are not enforced, empty when they are."""
    stamp = format_time(now())
    facts = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        (
            "MemoryLimits",
            "False" if limits else "True",
            "NoControlGroup" if limits else "ControlGroups",
            f"memory limits of containers are not enforced: {limits}" if limits else "memory limits are enforced",
        ),
        ("Ready", "True", "KubeletReady", "the node runs pods"),
    ]
    conditions = list((existing.get("status") or {}).get("conditions") or [])
    for kind, value, reason, message in facts:
        condition = {"type": kind, "status": value, "reason": reason, "message": message}
        condition |= {"lastHeartbeatTime": stamp, "lastTransitionTime": stamp}
        conditions = with_condition(conditions, condition)
    return {
        "capacity": dict(resources),
        "allocatable": dict(resources),
        "addresses": [{"type": "InternalIP", "address": str(NODE_IP)}, {"type": "Hostname", "address": NODE_NAME}],
        "conditions": conditions,
        "nodeInfo": dict(info),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
    }


class NodeObject:
    """Writes the Node once, and its lease every ten seconds."""

    def __init__(self, client: Client, resources: Mapping[str, str], info: Mapping[str, str], limits: str) -> None:
        self._client = client
        self._resources = resources
        self._info = info
        self._limits = limits

    async def register(self) -> Object:
        """Make the Node, or bring it up to date; returns it."""
        labels = {
            "beta.kubernetes.io/arch": self._info["architecture"],
            "beta.kubernetes.io/os": "linux",
            "kubernetes.io/arch": self._info["architecture"],
            "kubernetes.io/hostname": NODE_NAME,
            "kubernetes.io/os": "linux",
            "node-role.kubernetes.io/control-plane": "",
        }
        wanted = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE_NAME, "labels": labels},
            "spec": {"podCIDR": str(POD_CIDR), "podCIDRs": [str(POD_CIDR)]},
        }
        try:
            node = await self._client.get(NODES, NODE_NAME)
        except ApiStatusError as error:
            if not is_not_found(error):
                raise
            node = await self._client.create(NODES, wanted)
        else:
            patch = {"metadata": {"labels": labels}}
            node = await self._client.patch(NODES, NODE_NAME, patch, patch_type=PatchType.MERGE)
        state = status(node, self._resources, self._info, self._limits)
        patch = {"status": state}
        return await self._client.patch(NODES, NODE_NAME, patch, patch_type=PatchType.MERGE, subresource="status")

    async def run(self) -> None:
        """Renew the lease until cancelled."""
        while True:
            try:
                await self._renew()
            except KubeError as error:
                _log.info("the node's lease is not renewed: %s", error)
            await asyncio.sleep(RENEW_SECONDS)

    async def _renew(self) -> None:
        stamp = now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        try:
            patch = {"spec": {"renewTime": stamp}}
            await self._client.patch(LEASES, NODE_NAME, patch, LEASE_NAMESPACE, patch_type=PatchType.MERGE)
        except ApiStatusError as error:
            if not is_not_found(error):
                raise
            node = await self._node()
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {
                    "name": NODE_NAME,
                    "namespace": LEASE_NAMESPACE,
                    "ownerReferences": [
                        {"apiVersion": "v1", "kind": "Node", "name": NODE_NAME, "uid": node["metadata"]["uid"]}
                    ],
                },
                "spec": {"holderIdentity": NODE_NAME, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": stamp},
            }
            await self._client.create(LEASES, lease)

    async def _node(self) -> Object:
        """The Node, made again when somebody deleted it."""
        try:
            return await self._client.get(NODES, NODE_NAME)
        except ApiStatusError as error:
            if not is_not_found(error):
                raise
            return await self.register()
