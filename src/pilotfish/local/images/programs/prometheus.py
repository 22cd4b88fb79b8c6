"""Runs the machine's Prometheus in a pod, with discovery of Kubernetes objects added.

Debian builds Prometheus without `kubernetes_sd_configs`. So this program reads the configuration, keeps the same
targets with the same `__meta_kubernetes_*` labels in files, and gives Prometheus the configuration with
`file_sd_configs` instead: users' jobs and their relabelling work unchanged. It reads the Kubernetes API as any client
does. Roles: node, service, pod, endpoints. SIGHUP reads the configuration anew.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pilotfish.kube.client import Client
from pilotfish.kube.informer import Informer, Informers
from pilotfish.kube.resources import ENDPOINTS, NODES, PODS, SERVICES, Object, ResourceType

META = "__meta_kubernetes_"
Labels = dict[str, str]
Group = dict[str, Any]
"""`targets` (addresses) and their `labels`, as Prometheus reads them from files."""


def main() -> None:
    sys.exit(asyncio.run(_run(sys.argv[1:])))


# ------------------------------------------------------------------------------ targets of each role


def _described(obj: Object, kind: str) -> Labels:
    """Labels and annotations of an object."""
    result: Labels = {}
    for field, word in (("labels", "label"), ("annotations", "annotation")):
        for name, value in (obj["metadata"].get(field) or {}).items():
            safe = re.sub(r"\W", "_", name, flags=re.ASCII)
            result[f"{META}{kind}_{word}_{safe}"] = value
            result[f"{META}{kind}_{word}present_{safe}"] = "true"
    return result


def _pod_labels(pod: Object) -> Labels:
    status, spec = pod.get("status", {}), pod["spec"]
    ready = next((c["status"] for c in status.get("conditions") or () if c["type"] == "Ready"), "unknown")
    owner: Mapping[str, str] = next(
        (o for o in pod["metadata"].get("ownerReferences") or () if o.get("controller")), {}
    )
    return {
        f"{META}pod_name": pod["metadata"]["name"],
        f"{META}pod_ip": status.get("podIP", ""),
        f"{META}pod_ready": ready.lower(),
        f"{META}pod_phase": status.get("phase", ""),
        f"{META}pod_node_name": spec.get("nodeName", ""),
        f"{META}pod_host_ip": status.get("hostIP", ""),
        f"{META}pod_uid": pod["metadata"].get("uid", ""),
        f"{META}pod_controller_kind": owner.get("kind", ""),
        f"{META}pod_controller_name": owner.get("name", ""),
        **_described(pod, "pod"),
    }


def _container_labels(container: Mapping[str, Any], port: Mapping[str, Any] | None, *, init: bool) -> Labels:
    result = {
        f"{META}pod_container_name": container["name"],
        f"{META}pod_container_image": container.get("image", ""),
        f"{META}pod_container_init": str(init).lower(),
    }
    if port is not None:
        result[f"{META}pod_container_port_name"] = port.get("name", "")
        result[f"{META}pod_container_port_number"] = str(port["containerPort"])
        result[f"{META}pod_container_port_protocol"] = port.get("protocol", "TCP")
    return result


def pods(pod: Object) -> Iterator[Group]:
    """A target for each port of each container, one without a port where a container has none."""
    address = pod.get("status", {}).get("podIP")
    if not address:
        return
    common = {f"{META}namespace": pod["metadata"]["namespace"], **_pod_labels(pod)}
    spec = pod["spec"]
    for containers, init in ((spec.get("initContainers") or (), True), (spec["containers"], False)):
        for container in containers:
            for port in container.get("ports") or (None,):
                target = f"{address}:{port['containerPort']}" if port is not None else address
                yield _group(target, {**common, **_container_labels(container, port, init=init)})


def services(service: Object) -> Iterator[Group]:
    """A target for each port."""
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    for port in service["spec"].get("ports") or ():
        labels = {
            f"{META}namespace": namespace,
            f"{META}service_name": name,
            f"{META}service_type": service["spec"].get("type", ""),
            f"{META}service_cluster_ip": service["spec"].get("clusterIP", ""),
            f"{META}service_port_name": port.get("name", ""),
            f"{META}service_port_number": str(port["port"]),
            f"{META}service_port_protocol": port.get("protocol", "TCP"),
            **_described(service, "service"),
        }
        yield _group(f"{name}.{namespace}.svc:{port['port']}", labels)


def nodes(node: Object) -> Iterator[Group]:
    """A target for each node, at its kubelet."""
    addresses = {a["type"]: a["address"] for a in node.get("status", {}).get("addresses") or ()}
    if not addresses:
        return
    port = node["status"].get("daemonEndpoints", {}).get("kubeletEndpoint", {}).get("Port", 10250)
    labels = {f"{META}node_name": node["metadata"]["name"], **_described(node, "node")}
    labels |= {f"{META}node_address_{kind}": address for kind, address in addresses.items()}
    yield _group(f"{addresses.get('InternalIP') or next(iter(addresses.values()))}:{port}", labels)


def endpoints(found: Object, service: Object | None, pod_of: Callable[[str, str], Object | None]) -> Iterator[Group]:
    """A target for each address and port, with the labels of its Service and Pod."""
    namespace, name = found["metadata"]["namespace"], found["metadata"]["name"]
    common = {f"{META}namespace": namespace, f"{META}endpoints_name": name, **_described(found, "endpoints")}
    if service is not None:
        common |= {f"{META}service_name": name, **_described(service, "service")}
    for subset in found.get("subsets") or ():
        for field, ready in (("addresses", "true"), ("notReadyAddresses", "false")):
            for address in subset.get(field) or ():
                target = address.get("targetRef") or {}
                pod = pod_of(namespace, target.get("name", "")) if target.get("kind") == "Pod" else None
                for port in subset.get("ports") or ():
                    labels = {
                        **common,
                        f"{META}endpoint_ready": ready,
                        f"{META}endpoint_hostname": address.get("hostname", ""),
                        f"{META}endpoint_node_name": address.get("nodeName", ""),
                        f"{META}endpoint_port_name": port.get("name", ""),
                        f"{META}endpoint_port_protocol": port.get("protocol", "TCP"),
                        f"{META}endpoint_address_target_kind": target.get("kind", ""),
                        f"{META}endpoint_address_target_name": target.get("name", ""),
                        **(_pod_labels(pod) if pod is not None else {}),
                        **(_of_port(pod, port["port"]) if pod is not None else {}),
                    }
                    yield _group(f"{address['ip']}:{port['port']}", labels)


def _of_port(pod: Object, number: int) -> Labels:
    """The labels of the container that has a port."""
    for container in pod["spec"]["containers"]:
        for port in container.get("ports") or ():
            if port["containerPort"] == number:
                return _container_labels(container, port, init=False)
    return {}


def _group(target: str, labels: Labels) -> Group:
    return {"targets": [target], "labels": {name: value for name, value in labels.items() if value}}


# ------------------------------------------------------------------------------ configuration and files

NEEDS: Mapping[str, tuple[ResourceType, ...]] = {
    "pod": (PODS,),
    "service": (SERVICES,),
    "node": (NODES,),
    "endpoints": (ENDPOINTS, SERVICES, PODS),
}


def rewritten(document: dict[str, Any], folder: Path) -> tuple[dict[str, Any], dict[Path, dict[str, Any]]]:
    """The configuration with files in place of Kubernetes discovery, and what each file is to hold.

    Raises ValueError for a role that is not known here.
    """
    wanted: dict[Path, dict[str, Any]] = {}

    def change(section: Mapping[str, Any]) -> dict[str, Any]:
        result = dict(section)
        files = []
        for discovery in result.pop("kubernetes_sd_configs", None) or ():
            if discovery.get("role") not in NEEDS:
                raise ValueError(f"kubernetes_sd_configs: role {discovery.get('role')!r} is none of {', '.join(NEEDS)}")
            path = folder / f"targets-{len(wanted)}.json"
            wanted[path] = discovery
            files.append(str(path))
        if files:
            result["file_sd_configs"] = [*(result.get("file_sd_configs") or ()), {"files": files}]
        return result

    made = {**document, "scrape_configs": [change(job) for job in document.get("scrape_configs") or ()]}
    if managers := (document.get("alerting") or {}).get("alertmanagers"):
        made["alerting"] = {**document["alerting"], "alertmanagers": [change(one) for one in managers]}
    return made, wanted


class _Targets:
    """The files with targets, kept up to date."""

    def __init__(self, client: Client) -> None:
        self._informers = Informers(client)
        self._wanted: dict[Path, dict[str, Any]] = {}
        self._changed = asyncio.Event()
        self._kinds: dict[ResourceType, Informer] = {}
        self._informers.start()

    async def want(self, wanted: dict[Path, dict[str, Any]]) -> None:
        self._wanted = wanted
        for discovery in wanted.values():
            for kind in NEEDS[discovery["role"]]:
                if kind not in self._kinds:
                    self._kinds[kind] = self._informers.get(kind)
                    self._kinds[kind].add_handler(lambda _: self._changed.set())
        await self._informers.wait_synced()
        self.write()

    async def follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            self.write()
            await asyncio.sleep(0.2)  # changes come in crowds

    def write(self) -> None:
        for path, discovery in self._wanted.items():
            text = json.dumps(list(self._groups(discovery)))
            if not path.exists() or path.read_text() != text:
                other = path.with_suffix(".new")
                other.write_text(text)
                other.rename(path)

    def _groups(self, discovery: Mapping[str, Any]) -> Iterator[Group]:
        role = discovery["role"]
        namespaces = (discovery.get("namespaces") or {}).get("names")
        for obj in self._kinds[NEEDS[role][0]].store.values():
            if namespaces and obj["metadata"].get("namespace") not in namespaces:
                continue
            if role == "endpoints":
                service = self._kinds[SERVICES].store.get(obj["metadata"]["namespace"], obj["metadata"]["name"])
                yield from endpoints(obj, service, self._kinds[PODS].store.get)
            else:
                yield from {"pod": pods, "service": services, "node": nodes}[role](obj)


def _read(path: Path) -> str:
    return path.read_text()


async def _run(arguments: list[str]) -> int:
    """Run Prometheus until it ends; its exit code."""
    flag = next((one for one in arguments if one.startswith("--config.file=")), "--config.file=prometheus.yml")
    source = Path(flag.partition("=")[2])
    folder = Path(tempfile.mkdtemp(prefix="prometheus-"))
    others = [one for one in arguments if not one.startswith("--config.file=")]
    async with Client.from_file(user_agent="prometheus") as client:
        targets = _Targets(client)

        async def read() -> None:
            made, wanted = rewritten(yaml.safe_load(_read(source)) or {}, folder)
            await targets.want(wanted)
            (folder / "prometheus.yml").write_text(yaml.safe_dump(made, sort_keys=False))

        try:
            await read()
        except (OSError, ValueError, yaml.YAMLError) as error:
            print(f"{source}: {error}", file=sys.stderr)
            return 2
        follow = asyncio.create_task(targets.follow())
        process = await asyncio.create_subprocess_exec(
            "prometheus", f"--config.file={folder / 'prometheus.yml'}", *others
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, process.send_signal, number)
        reloads: set[asyncio.Task[None]] = set()

        async def reload() -> None:
            try:
                await read()
            except (OSError, ValueError, yaml.YAMLError) as error:
                print(f"{source}: {error}; the configuration before stays", file=sys.stderr)
            else:
                process.send_signal(signal.SIGHUP)

        def again() -> None:
            task = loop.create_task(reload())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        loop.add_signal_handler(signal.SIGHUP, again)
        code = await process.wait()
        follow.cancel()
        return code
