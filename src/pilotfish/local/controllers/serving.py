"""Which pods stand behind a Service, and on which ports. Shared by Endpoints and EndpointSlices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pilotfish.kube.informer import Change, Store
from pilotfish.kube.meta import Key, is_deleting, key_of, labels_of, matches_labels
from pilotfish.kube.resources import Object
from pilotfish.local.controllers.pods import is_finished, is_ready

HEADLESS = "service.kubernetes.io/headless"


def addresses_of(pod: Mapping[str, Any]) -> list[str]:
    status = pod.get("status") or {}
    addresses = [one["ip"] for one in status.get("podIPs") or () if one.get("ip")]
    return addresses or ([status["podIP"]] if status.get("podIP") else [])


def address_of(pod: Mapping[str, Any], family: str) -> str | None:
    """The pod's address of a family, `IPv4` or `IPv6`."""
    six = family == "IPv6"
    return next((one for one in addresses_of(pod) if (":" in one) == six), None)


def is_headless(service: Mapping[str, Any]) -> bool:
    return bool(service["spec"].get("clusterIP") == "None")


def target_port(port: Mapping[str, Any], pod: Mapping[str, Any]) -> int | None:
    """The number of a service port's target in this pod; None when the pod has no port of that name."""
    target = port.get("targetPort") or port["port"]
    if isinstance(target, int):
        return target
    protocol = port.get("protocol", "TCP")
    spec = pod["spec"]
    sidecars = [one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"]
    for container in [*spec.get("containers", ()), *sidecars]:
        for one in container.get("ports") or ():
            if one.get("name") == target and one.get("protocol", "TCP") == protocol:
                return int(one["containerPort"])
    return None


def resolve_ports(service: Mapping[str, Any], pod: Mapping[str, Any]) -> list[Object]:
    """The ports as an EndpointSlice has them; names that the pod lacks are left out."""
    result = []
    for port in service["spec"].get("ports") or ():
        number = target_port(port, pod)
        if number is not None:
            entry = {"name": port.get("name", ""), "port": number, "protocol": port.get("protocol", "TCP")}
            if port.get("appProtocol"):
                entry["appProtocol"] = port["appProtocol"]
            result.append(entry)
    return result


def hostname_of(service: Mapping[str, Any], pod: Mapping[str, Any]) -> str:
    """The name under which DNS knows the pod in this headless Service."""
    spec = pod["spec"]
    mine = spec.get("subdomain") == service["metadata"]["name"] and key_of(pod)[0] == key_of(service)[0]
    return str(spec.get("hostname") or "") if mine else ""


def is_behind(service: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    """Whether the pod belongs to the endpoints at all, ready or not."""
    return matches_labels(service["spec"].get("selector"), labels_of(pod)) and not is_finished(pod)


def target_reference(pod: Mapping[str, Any]) -> Object:
    namespace, name = key_of(pod)
    return {"kind": "Pod", "namespace": namespace, "name": name, "uid": pod["metadata"]["uid"]}


def _face(pod: Mapping[str, Any] | None) -> tuple[Any, ...] | None:
    """All of a pod that endpoints are made of, the labels aside."""
    if pod is None:
        return None
    spec = pod["spec"]
    names = spec.get("nodeName"), spec.get("hostname"), spec.get("subdomain")
    return (*names, addresses_of(pod), is_ready(pod), is_finished(pod), is_deleting(pod), pod["metadata"]["uid"])


def services_of(services: Store, add: Callable[[Key], None]) -> Callable[[Change], None]:
    """A handler for pods that adds the keys of the Services to which a change matters."""

    def handle(change: Change) -> None:
        same_face = _face(change.old) == _face(change.new)
        labels = [labels_of(pod) if pod is not None else {} for pod in change]
        if same_face and labels[0] == labels[1]:
            return
        for service in services.in_namespace(key_of(change.object)[0]):
            selector = service["spec"].get("selector")
            before, after = matches_labels(selector, labels[0]), matches_labels(selector, labels[1])
            if before != after or (after and not same_face):
                add(key_of(service))

    return handle
