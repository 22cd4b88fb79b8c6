"""The application's probes, led through the agent: with mutual TLS a kubelet cannot reach the application itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Container = dict[str, Any]

PROBES = {"readinessProbe": "readyz", "livenessProbe": "livez", "startupProbe": "startupz"}
HOOKS = {"preStop": "prestopz", "postStart": "poststartz"}
PROBERS = "ISTIO_KUBE_APP_PROBERS"
_KINDS = ("httpGet", "tcpSocket", "grpc")


def rewrite(containers: Iterable[Container], agent_port: int, status_port: int) -> dict[str, Any]:
    """Point probes and lifecycle hooks at the agent, in place; returns what the agent has to ask instead, by path.

    `status_port` is the mesh's: a handler with that port was rewritten before, and is not asked again.
    """
    taken: dict[str, Any] = {}
    for container in containers:
        for handler, path, probe in _handlers(container):
            kind = next((one for one in _KINDS if handler.get(one)), None)
            if kind is None:
                continue
            target = f"/{path[0]}/{container['name']}/{path[1]}"
            original = _original(handler[kind], container, status_port if kind != "grpc" else 0)
            if original is not None:
                timeout = handler.get("timeoutSeconds") if probe else None
                taken[target] = {kind: original} | ({"timeoutSeconds": timeout} if timeout else {})
            action = {**handler["httpGet"]} if kind == "httpGet" else {}
            if action.get("scheme") == "HTTPS":
                action["scheme"] = "HTTP"  # from the kubelet to the agent; the agent speaks TLS
            handler.pop(kind)
            handler["httpGet"] = {**action, "path": target, "port": agent_port}
    return taken


def remember(env: list[dict[str, Any]], taken: Mapping[str, Any], *, again: bool) -> None:
    """Tell the agent. In a pod that was injected before, what it was told then is kept."""
    if not taken:
        return
    known = next((one for one in env if one.get("name") == PROBERS), None) if again else None
    if known is None:
        env.append({"name": PROBERS, "value": json.dumps(taken, separators=(",", ":"), sort_keys=True)})
    else:
        both = {**taken, **json.loads(known.get("value") or "{}")}
        known["value"] = json.dumps(both, separators=(",", ":"), sort_keys=True)


def _handlers(container: Container) -> Iterator[tuple[dict[str, Any], tuple[str, str], bool]]:
    for field, name in PROBES.items():
        if container.get(field):
            yield container[field], ("app-health", name), True
    for field, name in HOOKS.items():
        hook = (container.get("lifecycle") or {}).get(field)
        if hook and "grpc" not in hook:
            yield hook, ("app-lifecycle", name), False


def _original(action: Mapping[str, Any], container: Container, rewritten: int) -> dict[str, Any] | None:
    """The action as the agent runs it, named ports resolved; None for one that is ours already or has no such port."""
    port = action.get("port")
    if isinstance(port, str):
        found = next((one["containerPort"] for one in container.get("ports") or () if one.get("name") == port), None)
        port = int(port) if found is None and port.isdigit() else found
    elif rewritten and port == rewritten:
        return None
    return None if port is None else {**copy.deepcopy(dict(action)), "port": port}
