"""EnvoyFilters: patches to finished resources, last of all.

Order: root namespace before the workload's; in each by priority, age, name; then all by priority. A proxy without
EnvoyFilters for a type has the unpatched resources, shared with everybody. A value that is no Envoy configuration is
left out, as Istio leaves it out: refusing it is validation's affair.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from google.protobuf import json_format
from google.protobuf.message import Message

from pilotfish.api.networking.envoy_filter import (
    ApplyTo,
    ConfigPatch,
    EnvoyFilter,
    ListenerMatch,
    ObjectMatch,
    Operation,
    PatchContext,
    RouteAction,
    RouteConfigurationMatch,
)
from pilotfish.engine import Db, Query, query
from pilotfish.envoy import proto, proxies
from pilotfish.envoy.outbound_listeners import Address
from pilotfish.envoy.proxies import Addresses, Parts, joined
from pilotfish.envoy.resource import CLUSTER, EXTENSION, LISTENER, ROUTE, Resource, finish
from pilotfish.mesh import inputs
from pilotfish.mesh.authentication import applies
from pilotfish.mesh.config import root_namespace
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.proxies import View

HCM = "envoy.filters.network.http_connection_manager"
_HCM_TYPE = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


class Patch(NamedTuple):
    """A patch of an EnvoyFilter, by its place."""

    ref: Ref
    number: int


_CLUSTER = frozenset({ApplyTo.CLUSTER})
_ROUTES = frozenset({ApplyTo.ROUTE_CONFIGURATION, ApplyTo.VIRTUAL_HOST, ApplyTo.HTTP_ROUTE})
_FILTERS = frozenset({ApplyTo.NETWORK_FILTER, ApplyTo.HTTP_FILTER, ApplyTo.LISTENER_FILTER})
_LISTENERS = frozenset({ApplyTo.LISTENER, ApplyTo.FILTER_CHAIN}) | _FILTERS | _ROUTES
_EXTENSIONS = frozenset({ApplyTo.EXTENSION_CONFIG})


@query
def patches(db: Db, view: View, kinds: frozenset[ApplyTo]) -> tuple[Patch, ...]:
    """The patches of some kinds that hold for a proxy, in order."""
    found: list[tuple[int, Patch]] = []
    for level in dict.fromkeys((root_namespace(db), view.namespace)):
        refs = inputs.ENVOY_FILTERS_IN(db, level)
        here = [c for ref in refs if (c := inputs.ENVOY_FILTERS(db, ref)) is not None]
        for config in sorted(here, key=lambda c: (c.spec.priority, *c.age_order)):
            spec = config.spec
            selector = spec.workload_selector
            labels = selector.labels if selector is not None else {}
            targeted = applies(None, spec.target_refs, None, view.labels, level == view.namespace, view.gateway_name)
            if not targeted or not all(pair in view.labels for pair in labels.items()):
                continue
            for number, one in enumerate(spec.config_patches):
                if one.apply_to in kinds and one.patch is not None and _for_proxy(one.match, view):
                    found.append((spec.priority, Patch(Ref(config.namespace, config.name), number)))
    return tuple(p for _, p in sorted(found, key=lambda f: f[0]))


def _for_proxy(match: ObjectMatch | None, view: View) -> bool:
    if match is None:
        return True
    sides = (PatchContext.SIDECAR_INBOUND, PatchContext.SIDECAR_OUTBOUND)
    wanted = sides if view.is_sidecar else (PatchContext.GATEWAY,)
    if match.context is not PatchContext.ANY and match.context not in wanted:
        return False
    if match.proxy is None:
        return True
    if match.proxy.proxy_version and not _matches(match.proxy.proxy_version, view.flag("ISTIO_VERSION")):
        return False
    known = {"CLUSTER_ID": view.cluster, "NAMESPACE": view.namespace, "NETWORK": view.network, "MESH_ID": view.mesh_id}
    known |= {"WORKLOAD_NAME": view.workload, "INTERCEPTION_MODE": view.interception, **dict(view.flags)}
    return all(known.get(k) == v for k, v in match.proxy.metadata.items())


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return False


class _Read(NamedTuple):
    patch: ConfigPatch
    value: Any
    """The message to put in; None for a removal."""

    @property
    def operation(self) -> Operation:
        assert self.patch.patch is not None  # noqa: S101  `patches` takes no others
        return self.patch.patch.operation

    @property
    def match(self) -> ObjectMatch:
        return self.patch.match or _NO_MATCH


_NO_MATCH = ObjectMatch()
_VALUES: Mapping[ApplyTo, str] = {
    ApplyTo.CLUSTER: "envoy.config.cluster.v3.Cluster",
    ApplyTo.LISTENER: "envoy.config.listener.v3.Listener",
    ApplyTo.FILTER_CHAIN: "envoy.config.listener.v3.FilterChain",
    ApplyTo.NETWORK_FILTER: "envoy.config.listener.v3.Filter",
    ApplyTo.LISTENER_FILTER: "envoy.config.listener.v3.ListenerFilter",
    ApplyTo.HTTP_FILTER: "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
    ApplyTo.ROUTE_CONFIGURATION: "envoy.config.route.v3.RouteConfiguration",
    ApplyTo.VIRTUAL_HOST: "envoy.config.route.v3.VirtualHost",
    ApplyTo.HTTP_ROUTE: "envoy.config.route.v3.Route",
    ApplyTo.EXTENSION_CONFIG: "envoy.config.core.v3.TypedExtensionConfig",
    ApplyTo.BOOTSTRAP: "envoy.config.bootstrap.v3.Bootstrap",
}


def _read(db: Db, found: tuple[Patch, ...]) -> list[_Read]:
    result = []
    for one in found:
        config = inputs.ENVOY_FILTERS(db, one.ref)
        patch = config.spec.config_patches[one.number] if config is not None else None
        if patch is None or patch.patch is None:
            continue
        value = None
        if patch.patch.operation is not Operation.REMOVE:
            value, _ = _message(patch)
            if value is None:
                continue
        result.append(_Read(patch, value))
    return result


def _message(patch: ConfigPatch) -> tuple[Message | None, str]:
    """A patch's value as Istio reads it: without the fields Envoy does not know. And what is wrong with it."""
    value = (patch.patch.value if patch.patch is not None else None) or {}
    try:
        made, unknown = proto.read(_VALUES[patch.apply_to], value)
    except json_format.ParseError as error:
        return None, str(error)
    return made, f"there is no {', '.join(unknown)}" if unknown else ""


class Problem(NamedTuple):
    path: str
    reason: str
    readable: bool
    """Only parts of the value are left out, those Envoy does not know."""


def problems(spec: EnvoyFilter) -> Iterator[Problem]:
    """The patches whose value is no message of this Envoy, or has fields it does not know."""
    for number, one in enumerate(spec.config_patches):
        waypoint = one.match is not None and one.match.context is PatchContext.WAYPOINT
        if waypoint or one.patch is None or one.patch.value is None or one.apply_to not in _VALUES:
            continue
        value, problem = _message(one)
        if problem:
            yield Problem(f"spec.configPatches[{number}].patch.value", problem, value is not None)


# Merging


def merge(target: Any, source: Any) -> None:
    """Protobuf's merge, but Anys of one type merge inside, and wrapped values and durations replace."""
    for field, value in source.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            mine = getattr(target, field.name)
            for key, item in value.items():
                if not isinstance(item, Message):
                    mine[key] = item
                elif key in mine:
                    _merge_message(mine[key], item)
                else:
                    mine[key].CopyFrom(item)
        elif field.is_repeated:
            getattr(target, field.name).extend(value)
        elif field.message_type is not None:
            _merge_message(getattr(target, field.name), value)
        else:
            setattr(target, field.name, value)


def _merge_message(target: Any, source: Any) -> None:
    name = source.DESCRIPTOR.full_name
    if name == "google.protobuf.Any":
        if target.type_url == source.type_url and target.type_url:
            kind = target.type_url.removeprefix(proto.TYPE_URL)
            inner = proto.decode(kind, target.value)
            merge(inner, proto.decode(kind, source.value))
            target.value = inner.SerializeToString(deterministic=True)
        else:
            target.CopyFrom(source)
    elif name.startswith("google.protobuf.") and name != "google.protobuf.Struct":
        target.CopyFrom(source)
    else:
        target.SetInParent()
        merge(target, source)


def _edit(
    items: Any, found: Iterable[_Read], named: Callable[[_Read], str], here: Callable[[_Read, Any], bool], kind: str
) -> None:
    """Apply patches to a repeated field of named messages. `named` gives the item a patch is relative to; `here` tells
    whether an item is one the patch is about."""
    for one in found:
        anchor = named(one)
        at = [i for i, item in enumerate(items) if here(one, item)] if anchor else []
        if one.operation is Operation.REMOVE:
            for i in reversed(at if anchor else range(len(items)) if kind != "filter" else []):
                del items[i]
        elif one.operation is Operation.MERGE:
            for i in at if anchor else range(len(items)) if kind != "filter" else []:
                merge(items[i], one.value)
        elif one.operation is Operation.REPLACE:
            for i in at:
                items[i].CopyFrom(one.value)
        elif one.operation is Operation.ADD:
            items.append(one.value)
        elif one.operation is Operation.INSERT_FIRST:
            items.insert(0, one.value)
        elif one.operation is Operation.INSERT_BEFORE and (at or not anchor):
            items.insert(at[0] if at else 0, one.value)
        elif one.operation is Operation.INSERT_AFTER and (at or not anchor):
            items.insert(at[0] + 1 if at else len(items), one.value)


def _of(found: Iterable[_Read], kind: ApplyTo) -> Iterator[_Read]:
    return (one for one in found if one.patch.apply_to is kind)


# Clusters


def _cluster_context(view: View, name: str) -> PatchContext:
    if not view.is_sidecar:
        return PatchContext.GATEWAY
    inbound = name.startswith("inbound|") or name == "InboundPassthroughCluster"
    return PatchContext.SIDECAR_INBOUND if inbound else PatchContext.SIDECAR_OUTBOUND


def _about_cluster(one: _Read, context: PatchContext, name: str) -> bool:
    if one.match.context not in (PatchContext.ANY, context):
        return False
    wanted = one.match.cluster
    if wanted is None:
        return True
    if wanted.name:
        return wanted.name == name
    parts = name.split("|")
    _, port, subset, host = parts if len(parts) == 4 else ("", "", "", "")
    return (
        wanted.port_number in (0, int(port or 0))
        and wanted.subset in ("", subset)
        and wanted.service in ("", "*", host)
    )


@query
def patched_cluster(
    db: Db, view: View, found: tuple[Patch, ...], name: str, inner: Query[Any, Any], key: tuple[Any, ...]
) -> Resource | None:
    base: Resource | None = inner(db, *key)
    if base is None:
        return None
    context = _cluster_context(view, name)
    made: Any = None
    for one in _read(db, found):
        if one.operation is Operation.ADD or not _about_cluster(one, context, name):
            continue
        if one.operation is Operation.REMOVE:
            return None
        if one.operation is Operation.MERGE:
            made = made if made is not None else proto.decode(_VALUES[ApplyTo.CLUSTER], base.body)
            merge(made, one.value)
    return finish(CLUSTER, name, made.SerializeToString(deterministic=True)) if made is not None else base


@query
def added(db: Db, patch: Patch, type_url: str) -> Resource | None:
    """A resource that a patch brings."""
    for one in _read(db, (patch,)):
        return finish(type_url, one.value.name, one.value.SerializeToString(deterministic=True))
    return None


def _added(db: Db, found: tuple[Patch, ...], kind: ApplyTo, type_url: str) -> Addresses:
    result: dict[str, Address] = {}
    for patch in found:
        for one in _read(db, (patch,)):
            if one.patch.apply_to is kind and one.operation is Operation.ADD and one.value.name:
                result[one.value.name] = (added, (patch, type_url))
    return result


@query
def patched_clusters(db: Db, view: View, found: tuple[Patch, ...], base: Parts) -> Addresses:
    made: dict[str, Address] = {
        name: (patched_cluster, (view, found, name, *address)) for name, address in joined(db, base).items()
    }
    return {**made, **_added(db, found, ApplyTo.CLUSTER, CLUSTER)}


@query
def all_clusters(db: Db, view: View) -> Parts:
    base = proxies.all_clusters(db, view)
    found = patches(db, view.shared, _CLUSTER)
    return ((patched_clusters, (view.shared, found, base)),) if found else base


# Listeners


def _listener_context(view: View, listener: Any) -> PatchContext:
    if not view.is_sidecar:
        return PatchContext.GATEWAY
    inbound = listener.traffic_direction == 1  # INBOUND
    return PatchContext.SIDECAR_INBOUND if inbound else PatchContext.SIDECAR_OUTBOUND


def _about_listener(one: _Read, context: PatchContext, listener: Any) -> bool:
    if one.match.context not in (PatchContext.ANY, context):
        return False
    wanted = one.match.listener
    if wanted is None:
        return True
    if wanted.name and wanted.name != listener.name:
        return False
    port = listener.address.socket_address.port_value
    return listener.name == "virtualInbound" or wanted.port_number in (0, port)


def _about_chain(wanted: ListenerMatch | None, listener: Any, chain: Any) -> bool:
    if wanted is None:
        return True
    match = chain.filter_chain_match
    if listener.name == "virtualInbound" and wanted.port_number not in (0, match.destination_port.value):
        return False
    asked = wanted.filter_chain
    if asked is None:
        return True
    return (
        asked.name in ("", chain.name)
        and (not asked.sni or asked.sni in match.server_names)
        and asked.transport_protocol in ("", match.transport_protocol)
        and asked.destination_port in (0, match.destination_port.value)
        and (
            not asked.application_protocols
            or not set(asked.application_protocols.split(",")).isdisjoint(match.application_protocols)
        )
        and (asked.filter is None or not asked.filter.name or any(f.name == asked.filter.name for f in chain.filters))
    )


def _filter_name(one: _Read) -> str:
    chain = one.match.listener.filter_chain if one.match.listener is not None else None
    return chain.filter.name if chain is not None and chain.filter is not None else ""


def _sub_filter_name(one: _Read) -> str:
    chain = one.match.listener.filter_chain if one.match.listener is not None else None
    sub = chain.filter.sub_filter if chain is not None and chain.filter is not None else None
    return sub.name if sub is not None else ""


def _listener_filter_name(one: _Read) -> str:
    return one.match.listener.listener_filter if one.match.listener is not None else ""


@query
def patched_listener(
    db: Db, view: View, found: tuple[Patch, ...], name: str, inner: Query[Any, Any], key: tuple[Any, ...]
) -> Resource | None:
    base: Resource | None = inner(db, *key)
    if base is None:
        return None
    listener: Any = proto.decode(_VALUES[ApplyTo.LISTENER], base.body)
    context = _listener_context(view, listener)
    mine = [one for one in _read(db, found) if _about_listener(one, context, listener) or one.patch.apply_to in _ROUTES]
    if not mine:
        return base
    for one in _of(mine, ApplyTo.LISTENER):
        if one.operation is Operation.REMOVE:
            return None
        if one.operation is Operation.MERGE:
            merge(listener, one.value)
    _edit(
        listener.listener_filters,
        _of(mine, ApplyTo.LISTENER_FILTER),
        _listener_filter_name,
        lambda one, item: bool(item.name == _listener_filter_name(one)),
        "filter",
    )
    _patch_chains(listener, mine)
    chains = [*listener.filter_chains]
    if listener.HasField("default_filter_chain"):
        chains.append(listener.default_filter_chain)
    for chain in chains:
        here = [one for one in mine if _about_chain(one.match.listener, listener, chain)]
        _edit(
            chain.filters,
            _of(here, ApplyTo.NETWORK_FILTER),
            _filter_name,
            lambda one, item: bool(item.name == _filter_name(one)),
            "filter",
        )
        for item in chain.filters:
            if item.name == HCM:
                _patch_manager(item, here, context)
    if not chains:
        return None
    return finish(LISTENER, name, listener.SerializeToString(deterministic=True))


def _patch_chains(listener: Any, mine: list[_Read]) -> None:
    for one in _of(mine, ApplyTo.FILTER_CHAIN):
        if one.operation is Operation.ADD:
            listener.filter_chains.append(one.value)
            continue
        for i in reversed(range(len(listener.filter_chains))):
            if _about_chain(one.match.listener, listener, listener.filter_chains[i]):
                if one.operation is Operation.REMOVE:
                    del listener.filter_chains[i]
                elif one.operation is Operation.MERGE:
                    merge(listener.filter_chains[i], one.value)


def _patch_manager(item: Any, here: list[_Read], context: PatchContext) -> None:
    manager: Any = proto.decode(_HCM_TYPE, item.typed_config.value)
    _edit(
        manager.http_filters,
        _of(here, ApplyTo.HTTP_FILTER),
        _sub_filter_name,
        lambda one, found: bool(found.name == _sub_filter_name(one)),
        "filter",
    )
    if manager.HasField("route_config"):
        mine = [one for one in here if _about_routes(one, context, manager.route_config.name)]
        _patch_routes(manager.route_config, mine)
    item.typed_config.value = manager.SerializeToString(deterministic=True)


@query
def patched_listeners(db: Db, view: View, found: tuple[Patch, ...], base: Parts) -> Addresses:
    made: dict[str, Address] = {
        name: (patched_listener, (view, found, name, *address)) for name, address in joined(db, base).items()
    }
    return {**made, **_added(db, found, ApplyTo.LISTENER, LISTENER)}


@query
def all_listeners(db: Db, view: View) -> Parts:
    base = proxies.all_listeners(db, view)
    found = patches(db, view.shared, _LISTENERS)
    return ((patched_listeners, (view.shared, found, base)),) if found else base


# Routes


def _about_routes(one: _Read, context: PatchContext, name: str) -> bool:
    if one.patch.apply_to not in _ROUTES or one.match.context not in (PatchContext.ANY, context):
        return False
    wanted = one.match.route_configuration
    if wanted is None:
        return True
    if wanted.name and wanted.name != name:
        return False
    return _port_fits(wanted, name)


def _port_fits(wanted: RouteConfigurationMatch, name: str) -> bool:
    """Ports and gateways, read from the configuration's name."""
    port, port_name, gateway = "", "", ""
    if name.startswith("https."):
        _, port, port_name, gateway_name, gateway_namespace, *_ = (*name.split("."), "", "", "")
        gateway = f"{gateway_namespace}/{gateway_name}"
    elif name.startswith("http."):
        port = name.split(".")[1]
    elif name.startswith("inbound|"):
        port = name.split("|")[1]
    else:
        port = name.rpartition(":")[2]
    return (
        wanted.port_number in (0, int(port) if port.isdigit() else -1)
        and wanted.port_name in ("", port_name)
        and wanted.gateway in ("", gateway)
    )


def _patch_routes(routes: Any, mine: list[_Read]) -> None:
    for one in _of(mine, ApplyTo.ROUTE_CONFIGURATION):
        if one.operation is Operation.MERGE:
            merge(routes, one.value)
    for one in _of(mine, ApplyTo.VIRTUAL_HOST):
        if one.operation is Operation.ADD:
            routes.virtual_hosts.append(one.value)
            continue
        for i in reversed(range(len(routes.virtual_hosts))):
            if _about_host(one, routes.virtual_hosts[i]):
                if one.operation is Operation.REMOVE:
                    del routes.virtual_hosts[i]
                elif one.operation is Operation.MERGE:
                    merge(routes.virtual_hosts[i], one.value)
    for host in routes.virtual_hosts:
        here = [one for one in _of(mine, ApplyTo.HTTP_ROUTE) if _about_host(one, host)]
        _edit(host.routes, here, _route_anchor, _about_route, "route")


def _about_host(one: _Read, host: Any) -> bool:
    wanted = one.match.route_configuration.vhost if one.match.route_configuration is not None else None
    if wanted is None:
        return True
    return wanted.name in ("", host.name) and (not wanted.domain_name or wanted.domain_name in host.domains)


def _route_anchor(one: _Read) -> str:
    wanted = one.match.route_configuration.vhost if one.match.route_configuration is not None else None
    return "route" if wanted is not None and wanted.route is not None else ""


_ACTIONS = {
    RouteAction.ROUTE: "route",
    RouteAction.REDIRECT: "redirect",
    RouteAction.DIRECT_RESPONSE: "direct_response",
}


def _about_route(one: _Read, route: Any) -> bool:
    wanted = one.match.route_configuration.vhost if one.match.route_configuration is not None else None
    if wanted is None or wanted.route is None:
        return True
    action = _ACTIONS.get(wanted.route.action)
    return wanted.route.name in ("", route.name) and (action is None or route.WhichOneof("action") == action)


@query
def patched_routes(
    db: Db, view: View, found: tuple[Patch, ...], name: str, inner: Query[Any, Any], key: tuple[Any, ...]
) -> Resource | None:
    base: Resource | None = inner(db, *key)
    context = PatchContext.SIDECAR_OUTBOUND if view.is_sidecar else PatchContext.GATEWAY
    mine = [one for one in _read(db, found) if _about_routes(one, context, name)]
    if base is None or not mine:
        return base
    routes: Any = proto.decode(_VALUES[ApplyTo.ROUTE_CONFIGURATION], base.body)
    _patch_routes(routes, mine)
    return finish(ROUTE, name, routes.SerializeToString(deterministic=True))


@query
def patched_route_configurations(db: Db, view: View, found: tuple[Patch, ...], base: Parts) -> Addresses:
    return {name: (patched_routes, (view, found, name, *address)) for name, address in joined(db, base).items()}


@query
def all_routes(db: Db, view: View) -> Parts:
    base = proxies.all_routes(db, view)
    found = patches(db, view.shared, _ROUTES)
    return ((patched_route_configurations, (view.shared, found, base)),) if found else base


@query
def extensions(db: Db, found: tuple[Patch, ...]) -> Addresses:
    return _added(db, found, ApplyTo.EXTENSION_CONFIG, EXTENSION)


@query
def all_extensions(db: Db, view: View) -> Parts:
    """Extension configurations that patches bring, for filters that discover theirs."""
    found = patches(db, view.shared, _EXTENSIONS)
    return ((extensions, (found,)),) if found else ()


TYPES: Mapping[str, Query[[View], Parts]] = {
    **proxies.TYPES,
    CLUSTER: all_clusters,
    LISTENER: all_listeners,
    ROUTE: all_routes,
    EXTENSION: all_extensions,
}
"""The query that lists a proxy's resources, by type URL."""
