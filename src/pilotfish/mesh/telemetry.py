"""Telemetry: which settings hold for a workload, and where a provider's service is."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from pilotfish.api import Config, telemetry
from pilotfish.api.telemetry import TRACE_REQUESTS, AccessLogging, Tracing
from pilotfish.engine import Db, query
from pilotfish.mesh import inputs, services
from pilotfish.mesh.config import mesh, root_namespace
from pilotfish.mesh.services import ServiceKey
from pilotfish.mesh.workloads import Labels, selects

HEADER, VALUE = re.compile(r"[A-Za-z0-9-]+"), re.compile(r"[A-Za-z0-9_.:/+=-]*")
"""What a header of `TRACE_REQUESTS` may be: nothing that ends a format or an expression."""


@query
def levels(db: Db, namespace: str, labels: Labels) -> tuple[telemetry.Telemetry, ...]:
    """The Telemetry of the mesh (root namespace), the namespace and the workload, in this order; the oldest of each."""
    return tuple(config.spec for config in applied(db, namespace, labels))


def applied(db: Db, namespace: str, labels: Labels) -> list[Config[telemetry.Telemetry]]:
    """The objects that `levels` are the specs of."""
    result: list[Config[telemetry.Telemetry]] = []
    for level in dict.fromkeys((root_namespace(db), namespace)):
        found = _here(db, level)
        whole = [c for c in found if not selector(c) and not c.spec.target_refs and c.spec.target_ref is None]
        result += whole[:1]
        if level == namespace:
            result += [c for c in found if selector(c) and selects(selector(c), labels)][:1]
    return result


def _here(db: Db, namespace: str, *, requests: bool = False) -> list[Config[telemetry.Telemetry]]:
    """The Telemetry of a namespace, the oldest first; with `requests` those for chosen requests instead."""
    refs = inputs.TELEMETRIES_IN(db, namespace)
    found = [c for r in refs if (c := inputs.TELEMETRIES(db, r)) is not None]
    return sorted((c for c in found if (TRACE_REQUESTS in c.annotations) is requests), key=lambda c: c.age_order)


class RequestHeader(NamedTuple):
    """Requests that carry a header, with a value (empty: any)."""

    name: str
    value: str

    @property
    def expression(self) -> str:
        """In CEL."""
        if not self.value:
            return f"{json.dumps(self.name)} in request.headers"
        return f"request.headers[{json.dumps(self.name)}] == {json.dumps(self.value)}"

    @property
    def filter(self) -> dict[str, object]:
        """As Envoy's filter of access logs."""
        match = {"string_match": {"exact": self.value}} if self.value else {"present_match": True}
        return {"header_filter": {"header": {"name": self.name, **match}}}


@query
def traced_requests(db: Db, namespace: str, labels: Labels) -> tuple[RequestHeader, ...]:
    """Requests to be traced and logged whatever the rest says, for `pilotfish trace-request`."""
    found: dict[RequestHeader, None] = {}
    for level in dict.fromkeys((root_namespace(db), namespace)):
        for c in _here(db, level, requests=True):
            if selects(selector(c), labels):
                name, _, value = c.annotations[TRACE_REQUESTS].partition("=")
                if HEADER.fullmatch(name) and VALUE.fullmatch(value):
                    found[RequestHeader(name.lower(), value)] = None
    return tuple(found)


def selector(config: Config[telemetry.Telemetry]) -> dict[str, str]:
    return dict(config.spec.selector.match_labels) if config.spec.selector is not None else {}


def access_logging(db: Db, namespace: str, labels: Labels) -> tuple[AccessLogging, ...]:
    return tuple(entry for level in levels(db, namespace, labels) for entry in level.access_logging)


def tracing(db: Db, namespace: str, labels: Labels) -> tuple[Tracing, ...]:
    return tuple(entry for level in levels(db, namespace, labels) for entry in level.tracing)


@query
def provider_service(db: Db, name: str) -> ServiceKey | None:
    """The service of a provider, given as `[namespace/]host`. None when there is none."""
    namespace, _, host = name.rpartition("/")
    for other in services.namespaces(db):
        if namespace in ("", other) and services.export(db, other, host) is not None:
            return ServiceKey(other, host)
    return None


def provider_cluster(db: Db, name: str, port: int) -> str | None:
    """The cluster of a provider's service. None when there is no such service."""
    key = provider_service(db, name)
    return f"outbound|{port}||{key.host}" if key is not None else None


@query
def provider_ports(db: Db) -> tuple[tuple[ServiceKey, int], ...]:
    """The services and ports of all providers. Every proxy has their clusters, whatever its Sidecar imports: what
    names a cluster that is not there is refused as a whole."""
    found: dict[tuple[ServiceKey, int], None] = {}
    for provider in mesh(db).extension_providers:
        for field in provider.__struct_fields__:
            settings = getattr(provider, field)
            name, port = getattr(settings, "service", ""), getattr(settings, "port", 0)
            if name and port and (key := provider_service(db, name)) is not None:
                found[key, port] = None
    return tuple(found)
