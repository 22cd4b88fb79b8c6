"""Which kinds the API server has, and how people name them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pilotfish.kube.errors import ApiStatusError
from pilotfish.kube.resources import Object, ResourceType

_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
_MISS_SECONDS = 1.0  # a name that is not there is looked up again at most this often


@dataclass(frozen=True, slots=True)
class DiscoveredResource:
    """One row of `kubectl api-resources`."""

    type: ResourceType
    verbs: frozenset[str]
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    preferred: bool = True
    """Its version is the one the server prefers of those that have this kind."""

    def named(self, name: str) -> bool:
        return name in {self.type.plural, self.singular, self.type.kind.lower(), *self.short_names}


class _Requests(Protocol):
    async def request(self, method: str, path: str, *, accept: str = "") -> Object: ...


async def discover(client: _Requests) -> tuple[list[DiscoveredResource], list[str]]:
    """All resources, and the groups (`group/version`) that did not answer."""
    found: list[DiscoveredResource] = []
    failed: list[str] = []
    for root in ("/api", "/apis"):
        answer = await client.request("GET", root, accept=_AGGREGATED)
        if answer.get("kind") == "APIGroupDiscoveryList":
            _read_aggregated(answer, found, failed)
        else:
            await _read_classic(client, root, answer, found, failed)
    return found, failed


def _read_aggregated(answer: Mapping[str, Any], found: list[DiscoveredResource], failed: list[str]) -> None:
    for group in answer.get("items") or ():
        name = (group.get("metadata") or {}).get("name", "")
        seen: set[str] = set()
        for version in group.get("versions") or ():
            if version.get("freshness") == "Stale":
                failed.append(f"{name}/{version['version']}")
            for entry in version.get("resources") or ():
                plural, kind = entry["resource"], entry["responseKind"]
                found.append(
                    DiscoveredResource(
                        ResourceType(
                            name,
                            version["version"],
                            kind["kind"],
                            plural,
                            entry.get("scope") != "Cluster",
                        ),
                        frozenset(entry.get("verbs") or ()),
                        entry.get("singularResource", ""),
                        tuple(entry.get("shortNames") or ()),
                        tuple(entry.get("categories") or ()),
                        tuple(one["subresource"] for one in entry.get("subresources") or ()),
                        plural not in seen,
                    )
                )
                seen.add(plural)


async def _read_classic(
    client: _Requests, root: str, answer: Mapping[str, Any], found: list[DiscoveredResource], failed: list[str]
) -> None:
    groups: list[tuple[str, list[str]]] = [("", list(answer.get("versions") or ()))]
    if root == "/apis":
        groups = []
        for group in answer.get("groups") or ():
            preferred = (group.get("preferredVersion") or {}).get("version", "")
            versions = [one["version"] for one in group.get("versions") or ()]
            groups.append((group["name"], sorted(versions, key=lambda version, best=preferred: version != best)))  # type: ignore[misc] # mypy cannot infer a lambda with a default
    for name, versions in groups:
        seen: set[str] = set()
        for version in versions:
            group_version = f"{name}/{version}" if name else version
            try:
                listed = await client.request("GET", f"{root}/{group_version}")
            except ApiStatusError:
                failed.append(group_version)
                continue
            entries = listed.get("resources") or ()
            for entry in entries:
                plural = entry["name"]
                if "/" in plural:
                    continue
                found.append(
                    DiscoveredResource(
                        ResourceType(name, version, entry["kind"], plural, bool(entry.get("namespaced"))),
                        frozenset(entry.get("verbs") or ()),
                        entry.get("singularName", ""),
                        tuple(entry.get("shortNames") or ()),
                        tuple(entry.get("categories") or ()),
                        tuple(one["name"].partition("/")[2] for one in entries if one["name"].startswith(f"{plural}/")),
                        plural not in seen,
                    )
                )
                seen.add(plural)


class RESTMapper:
    """Finds the resource of a kind, from discovery that is kept and asked again when a name is not in it."""

    def __init__(self, client: _Requests) -> None:
        self._client = client
        self._resources: list[DiscoveredResource] = []
        self._by_kind: dict[tuple[str, str], ResourceType] = {}
        self._fetched = float("-inf")
        self._lock = asyncio.Lock()

    async def resources(self, *, fresh: bool = False) -> list[DiscoveredResource]:
        if fresh or not self._resources:
            await self._refresh(0.0)
        return self._resources

    async def resource_for(self, api_version: str, kind: str) -> ResourceType:
        """The resource of an object. Raises ApiStatusError 404 as kubectl words it."""
        key = (api_version, kind)
        if key not in self._by_kind:
            await self._refresh(_MISS_SECONDS)
        try:
            return self._by_kind[key]
        except KeyError:
            message = f'no matches for kind "{kind}" in version "{api_version}"'
            raise ApiStatusError(404, "NotFound", message) from None

    async def resource_named(self, name: str) -> ResourceType:
        """The resource that a user means: plural, singular, short name or kind, also `plural.group`."""
        for attempt in (False, True):
            if attempt or not self._resources:
                await self._refresh(_MISS_SECONDS)
            word, _, group = name.lower().partition(".")
            for one in self._resources:
                if one.preferred and one.named(word) and (not group or one.type.group == group):
                    return one.type
        raise ApiStatusError(404, "NotFound", f'the server doesn\'t have a resource type "{name}"')

    async def _refresh(self, not_within: float) -> None:
        async with self._lock:
            if time.monotonic() - self._fetched < not_within:
                return
            self._resources, _ = await discover(self._client)
            self._by_kind = {(one.type.api_version, one.type.kind): one.type for one in self._resources}
            self._fetched = time.monotonic()
