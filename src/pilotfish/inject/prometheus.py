"""Merging the application's metrics with the proxy's: scrape annotations are moved, and point at the agent."""

from __future__ import annotations

import json
import re
from collections.abc import MutableMapping

from pilotfish.inject.errors import InjectionError

RESERVED = frozenset({15000, 15001, 15004, 15006, 15008, 15020, 15021, 15053, 15090})
PATH = "/stats/prometheus"
OPT_OUT, TARGETS = "prometheus.istio.io/merge-metrics", "prometheus.istio.io/scrape-targets"


def merge(annotations: MutableMapping[str, str], status_port: int, *, enabled: bool) -> str:
    """Rewrite the annotations in place; returns `ISTIO_PROMETHEUS_ANNOTATIONS` for the agent, empty for none.

    Raises InjectionError when the application's port is one of the mesh's own.
    """
    found = {_plain(name): (name, value) for name, value in annotations.items() if _plain(name).startswith(_PREFIX)}
    scrape = found.get(_PREFIX + "scrape", ("", ""))[1]
    if not enabled or annotations.get(OPT_OUT) == "false" or scrape == "false":
        return ""
    port = found.get(_PREFIX + "port", ("", ""))[1]
    if port == str(status_port):
        return ""  # injected before, or written with us in mind
    if port.isdigit() and int(port) in RESERVED:
        raise InjectionError(f"annotation prometheus.io/port: {port} is a port of the mesh; use another one")
    application: dict[str, object] = {}
    if scrape == "true" or port:
        path = found.get(_PREFIX + "path", ("", ""))[1]
        application = {"scrape": scrape or "true", "path": path or "/metrics", "port": port or "80"}
    if targets := annotations.get(TARGETS):
        application |= {"scrape": "true", "targets": [_target(one) for one in targets.split(",") if one.strip()]}
    for name, _ in found.values():
        del annotations[name]
    ours = {"prometheus.io/scrape": "true", "prometheus.io/port": str(status_port), "prometheus.io/path": PATH}
    annotations.update(ours)
    return json.dumps(application, separators=(",", ":")) if application else ""


_PREFIX = "prometheus_io_"


def _plain(name: str) -> str:
    """`prometheus.io/port` and `prometheus_io_port` are the same annotation to a scrape configuration."""
    return re.sub(r"[^a-zA-Z0-9]", "_", name) if name.startswith(("prometheus.io", "prometheus_io")) else name


def _target(text: str) -> dict[str, str]:
    port, _, path = text.strip().partition(":")
    if not port.isdigit() or int(port) in RESERVED:
        raise InjectionError(
            f"annotation {TARGETS}: {text.strip()!r} is not port[:path] with a port outside the mesh's own"
        )
    return {"port": port, "path": path or "/metrics"}
