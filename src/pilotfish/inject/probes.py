"""The application's probes, led through the agent: with mutual TLS a kubelet cannot reach the application itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Container = dict[str, Any]

PROBES = {"readinessProbe": "readyz", "livenessProbe": "livez", "startupProbe": "startupz"}
HOOKS = {"preStop": "prestopz", "postStart": "poststartz"}
SELF = "istio-proxy"


def rewrite(containers: list[Container], status_port: int) -> str:
    """Point probes and lifecycle hooks at the agent, in place; returns `ISTIO_KUBE_APP_PROBERS` (empty when none)."""
    taken: dict[str, Any] = {}
    for container in containers:
        if container.get("name") == SELF:
            continue
        for handler, path, timeout in _handlers(container):
            original = _original(handler, container, status_port)
            if original is None:
                continue
            target = f"/{path[0]}/{container['name']}/{path[1]}"
            taken[target] = original | ({"timeoutSeconds": timeout} if timeout else {})
            for kind in ("httpGet", "tcpSocket", "grpc"):
                handler.pop(kind, None)
            handler["httpGet"] = {"path": target, "port": status_port, "scheme": "HTTP"}
    return json.dumps(taken, separators=(",", ":")) if taken else ""


def _handlers(container: Container) -> Iterator[tuple[dict[str, Any], tuple[str, str], int]]:
    for field, name in PROBES.items():
        if probe := container.get(field):
            yield probe, ("app-health", name), int(probe.get("timeoutSeconds") or 1)
    for field, name in HOOKS.items():
        hook = (container.get("lifecycle") or {}).get(field)
        if hook and ("httpGet" in hook or "tcpSocket" in hook):
            yield hook, ("app-lifecycle", name), 0


def _original(handler: dict[str, Any], container: Container, status_port: int) -> dict[str, Any] | None:
    """The handler as the agent runs it, named ports resolved; None for exec and for what is ours already."""
    for kind in ("httpGet", "tcpSocket", "grpc"):
        action = handler.get(kind)
        if not action:
            continue
        port = _port(action.get("port"), container)
        if port is None or port == status_port:
            return None
        return {kind: {**action, "port": port}}
    return None


def _port(port: Any, container: Container) -> int | None:
    if isinstance(port, int):
        return port
    for one in container.get("ports") or ():
        if one.get("name") == port:
            return int(one["containerPort"])
    return int(port) if isinstance(port, str) and port.isdigit() else None
