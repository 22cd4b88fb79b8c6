"""Merging the application's metrics with the proxy's: scrape annotations are moved, and point at the agent."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, MutableMapping

from pilotfish.inject.errors import InjectionError

RESERVED = frozenset({15000, 15001, 15004, 15006, 15008, 15020, 15021, 15053, 15090})
PATH = "/stats/prometheus"
OPT_OUT, TARGETS = "prometheus.istio.io/merge-metrics", "prometheus.istio.io/scrape-targets"
SECURE = "ENVOY_SECURE_MERGED_METRICS_PORT"
SECURE_PORT = "prometheus.istio.io/secure-port"


def merge(annotations: MutableMapping[str, str], status_port: int) -> str:
    """Rewrite the annotations in place; returns `ISTIO_PROMETHEUS_ANNOTATIONS` for the agent, empty for none.

    Raises InjectionError when the application's port is one of the mesh's own.
    """
    found = {_plain(name): (name, value) for name, value in annotations.items()}
    scrape, port, path, targets = (
        found.get(_plain(name), ("", ""))[1]
        for name in ("prometheus.io/scrape", "prometheus.io/port", "prometheus.io/path", TARGETS)
    )
    if scrape.lower() in ("false", "f", "0"):
        return ""
    if port == str(status_port):
        return ""  # injected before, or written with us in mind
    application: dict[str, object] = {"scrape": scrape, "path": path, "port": port}
    if listed := [_target(one, status_port) for one in targets.split(",") if one.strip()]:
        # Port and path of the first one, for agents that know of one only.
        application |= {"port": listed[0]["port"], "path": listed[0]["path"], "targets": listed}
    elif port:
        _check(port, status_port, "prometheus.io/port")
    for name in ("prometheus.io/scrape", "prometheus.io/port", "prometheus.io/path", TARGETS):
        if _plain(name) in found:
            del annotations[found[_plain(name)][0]]
    ours = {"prometheus.io/scrape": "true", "prometheus.io/port": str(status_port), "prometheus.io/path": PATH}
    annotations.update(ours)
    return json.dumps(application, separators=(",", ":")) if any(application.values()) else ""


def wanted(annotations: Mapping[str, str], mesh: Mapping[str, object]) -> bool:
    """The pod's annotation, else the mesh's setting."""
    own = annotations.get(OPT_OUT, "").lower()
    if own:
        return own in ("true", "t", "1")
    return mesh.get("enablePrometheusMerge", True) is not False


def secure_port(annotations: MutableMapping[str, str], port: str) -> None:
    """Where metrics are served over mutual TLS, unless the user says so."""
    if port and port != "0" and _plain(SECURE_PORT) not in map(_plain, annotations):
        annotations[SECURE_PORT] = port


def clear(annotations: MutableMapping[str, str], status_port: int) -> None:
    """Take away what an earlier injection wrote."""
    if annotations.get("prometheus.io/port") == str(status_port):
        for name in ("scrape", "port", "path"):
            annotations.pop(f"prometheus.io/{name}", None)


def _plain(name: str) -> str:
    """`prometheus.io/port` and `prometheus_io_port` are the same annotation to a scrape configuration."""
    return re.sub(r"[^a-zA-Z0-9]", "_", name)


def _check(port: str, status_port: int, annotation: str) -> None:
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise InjectionError(f"annotation {annotation}: {port!r} is not a port")
    if int(port) in RESERVED or int(port) == status_port:
        raise InjectionError(f"annotation {annotation}: {port} is a port of the mesh; use another one")


def _target(text: str, status_port: int) -> dict[str, str]:
    port, _, path = text.strip().partition(":")
    _check(port, status_port, TARGETS)
    return {"port": port, "path": path or "/metrics"}
