"""VirtualServices: which ones a proxy sees, which one routes a host, and delegation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from pilotfish.api import Config, networking
from pilotfish.api.networking.virtual_service import HTTPMatchRequest, HTTPRoute, StringMatch
from pilotfish.engine import Db, query
from pilotfish.mesh import inputs
from pilotfish.mesh.config import discovered, mesh
from pilotfish.mesh.inputs import Ref


class Head(NamedTuple):
    """What decides order and visibility of a VirtualService. Sorts oldest first, then by name and namespace."""

    created: str
    name: str
    namespace: str
    hosts: tuple[str, ...]
    export_to: tuple[str, ...]

    @property
    def ref(self) -> Ref:
        return Ref(self.namespace, self.name)

    def seen_by(self, namespace: str) -> bool:
        return "*" in self.export_to or namespace in self.export_to


@query
def head(db: Db, ref: Ref) -> Head | None:
    config = inputs.VIRTUAL_SERVICE_HEADS(db, ref)
    if config is None or not discovered(db, ref.namespace):
        return None
    export = config.spec.export_to or mesh(db).default_virtual_service_export_to or ("*",)
    return Head(
        config.creation_timestamp,
        config.name,
        config.namespace,
        config.spec.hosts,
        tuple(config.namespace if e == "." else e for e in export),
    )


@query
def visible(db: Db, namespace: str) -> tuple[Head, ...]:
    """The VirtualServices of the mesh gateway a namespace sees: exported to itself alone, by name, then to all."""
    heads = sorted(
        h
        for ref in inputs.VIRTUAL_SERVICES_AT(db, "mesh")
        if (h := head(db, ref)) is not None and h.hosts and h.seen_by(namespace)
    )

    def stage(h: Head) -> int:
        if h.export_to == (namespace,) and h.namespace == namespace:
            return 0
        return 1 if "*" not in h.export_to else 2

    return tuple(sorted(heads, key=stage))


@query
def at_gateway(db: Db, gateway: str, namespace: str) -> tuple[Head, ...]:
    """The VirtualServices bound to a gateway (`namespace/name`) that its workload's namespace sees, oldest first."""
    heads = (head(db, ref) for ref in inputs.VIRTUAL_SERVICES_AT(db, gateway))
    return tuple(sorted(h for h in heads if h is not None and h.hosts and h.seen_by(namespace)))


@query
def source_label_keys(db: Db) -> frozenset[str]:
    """The labels of a client that any VirtualService asks for."""
    configs = (inputs.VIRTUAL_SERVICES(db, ref) for ref in inputs.SOURCE_LABEL_MATCHES(db, ""))
    return frozenset(key for c in configs if c is not None for key in inputs.source_labels(c.spec))


@query
def http_routes(db: Db, ref: Ref) -> tuple[HTTPRoute, ...]:
    """The HTTP routes of a VirtualService, delegates filled in."""
    config = inputs.VIRTUAL_SERVICES(db, ref)
    if config is None:
        return ()
    routes: list[HTTPRoute] = []
    for route in config.spec.http:
        if route.delegate is None:
            routes.append(route)
        else:
            routes += _delegated(db, config, route)
    return tuple(routes)


def _delegated(db: Db, root: Config[networking.VirtualService], route: HTTPRoute) -> Iterable[HTTPRoute]:
    """A root route replaced by its delegate's: a missing or invisible delegate leaves nothing."""
    assert route.delegate is not None  # noqa: S101  the caller's condition
    ref = Ref(route.delegate.namespace, route.delegate.name)
    delegate, seen = inputs.VIRTUAL_SERVICES(db, ref), head(db, ref)
    if delegate is None or seen is None or delegate.spec.hosts or not seen.seen_by(root.namespace):
        return []
    merged = (merge(route, inner) for inner in delegate.spec.http if inner.delegate is None)
    return [m for m in merged if m is not None]


_TAKEN = (
    "rewrite",
    "timeout",
    "retries",
    "fault",
    "mirror",
    "mirrors",
    "mirror_percent",
    "mirror_percentage",
    "cors_policy",
    "headers",
)
"""Fields a delegate's route takes from the root where it has none of its own."""


def merge(root: HTTPRoute, delegate: HTTPRoute) -> HTTPRoute | None:
    """One route of a delegate under a root route. None when the matches contradict each other."""
    if root.match and delegate.match:
        matches = [merge_match(r, d) for r in root.match for d in delegate.match]
        if any(m is None for m in matches):
            return None  # any conflict drops the whole route
        match = tuple(m for m in matches if m is not None)
    else:
        match = root.match or delegate.match
    taken = {name: getattr(delegate, name) or getattr(root, name) for name in _TAKEN}
    return msgspec.structs.replace(
        delegate,
        match=match,
        name="-".join(n for n in (root.name, delegate.name) if n),
        direct_response=delegate.direct_response or root.direct_response,
        **taken,
    )


def merge_match(root: HTTPMatchRequest, delegate: HTTPMatchRequest) -> HTTPMatchRequest | None:
    """Both conditions in one; None when they contradict each other."""
    for field in ("uri", "scheme", "method", "authority"):
        if not _compatible(getattr(root, field), getattr(delegate, field)):
            return None
    for field in ("headers", "without_headers", "query_params"):
        mine, theirs = getattr(root, field), getattr(delegate, field)
        if any(not _compatible(mine[k], theirs[k]) for k in mine if k in theirs):
            return None
    if root.uri and delegate.uri and root.ignore_uri_case != delegate.ignore_uri_case:
        return None
    if root.port and delegate.port and root.port != delegate.port:
        return None
    if root.source_namespace and delegate.source_namespace and root.source_namespace != delegate.source_namespace:
        return None
    if any(delegate.source_labels.get(k, v) != v for k, v in root.source_labels.items()):
        return None
    if root.gateways and not set(delegate.gateways) <= set(root.gateways):
        return None
    return msgspec.structs.replace(
        delegate,
        name="-".join(n for n in (root.name, delegate.name) if n),
        uri=delegate.uri or root.uri,
        scheme=delegate.scheme or root.scheme,
        method=delegate.method or root.method,
        authority=delegate.authority or root.authority,
        headers=_union(root.headers, delegate.headers),
        without_headers=_union(root.without_headers, delegate.without_headers),
        query_params=_union(root.query_params, delegate.query_params),
        source_labels=_union(root.source_labels, delegate.source_labels),
        port=delegate.port or root.port,
        source_namespace=delegate.source_namespace or root.source_namespace,
        gateways=delegate.gateways or root.gateways,
        ignore_uri_case=delegate.ignore_uri_case or root.ignore_uri_case,
        stat_prefix=delegate.stat_prefix or root.stat_prefix,
    )


def _union(one: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**one, **other} if one else other


def _compatible(root: StringMatch | None, delegate: StringMatch | None) -> bool:
    """Whether the delegate's condition is inside the root's, as far as can be told without running a regex."""
    if root is None or delegate is None:
        return True
    if root.regex is not None or delegate.regex is not None:
        return False
    if root.exact is not None:
        return delegate.exact == root.exact
    if root.prefix is not None:
        return (delegate.prefix or delegate.exact or "").startswith(root.prefix)
    return True
