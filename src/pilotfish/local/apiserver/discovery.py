"""Discovery: which groups, versions and resources are served, in the classic and in the aggregated form."""

from __future__ import annotations

import hashlib
from typing import Any

from pilotfish.local.apiserver.core import encode
from pilotfish.local.apiserver.registry import Registry
from pilotfish.local.apiserver.resource import Object, Resource


def _version_rank(version: str) -> tuple[int, int, int, str]:
    """Order of versions, best first: v2, v1, v1beta2, v1beta1, v1alpha1, then the rest by name."""
    import re  # noqa: PLC0415 - once a change of what is served

    match = re.fullmatch(r"v(\d+)(?:(alpha|beta)(\d+))?", version)
    if not match:
        return (3, 0, 0, version)
    stage = {None: 0, "beta": 1, "alpha": 2}[match[2]]
    return (stage, -int(match[1]), -int(match[3] or 0), version)


def groups(registry: Registry) -> dict[str, list[str]]:
    """Group names to their versions, the preferred one first; groups in the order of declaration."""
    out: dict[str, list[str]] = {}
    for resource in registry:
        versions = out.setdefault(resource.group, [])
        if resource.version not in versions:
            versions.append(resource.version)
    return {group: sorted(versions, key=_version_rank) for group, versions in out.items()}


def _group_versions(group: str, versions: list[str]) -> list[dict[str, str]]:
    return [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]


def _group(group: str, versions: list[str]) -> Object:
    listed = _group_versions(group, versions)
    return {"name": group, "versions": listed, "preferredVersion": listed[0]}


def core_versions(address: str) -> Object:
    """The answer of /api."""
    addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}


def group_list(registry: Registry) -> Object:
    """The answer of /apis."""
    listed = [_group(group, versions) for group, versions in groups(registry).items() if group]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def group(registry: Registry, name: str) -> Object | None:
    """The answer of /apis/GROUP; None when it is not served."""
    versions = groups(registry).get(name)
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)} if versions and name else None


def _of(registry: Registry, group_name: str, version: str) -> list[Resource]:
    found = [r for r in registry if r.group == group_name and r.version == version]
    return sorted(found, key=lambda r: r.plural)


def resource_list(registry: Registry, group_name: str, version: str) -> Object | None:
    """The answer of /api/v1 and /apis/GROUP/VERSION; None when it is not served."""
    found = _of(registry, group_name, version)
    if not found:
        return None
    entries: list[Object] = []
    for resource in found:
        entry: Object = {
            "name": resource.plural,
            "singularName": resource.singular or resource.kind.lower(),
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": sorted(resource.verbs),
        }
        if resource.short_names:
            entry["shortNames"] = list(resource.short_names)
        if resource.categories:
            entry["categories"] = list(resource.categories)
        if resource.stored:
            entry["storageVersionHash"] = _hash(f"{group_name}/{version}/{resource.kind}")
        entries.append(entry)
        for sub in sorted(resource.subresources.values(), key=lambda sub: sub.name):
            entry = {
                "name": f"{resource.plural}/{sub.name}",
                "singularName": "",
                "namespaced": resource.namespaced,
            }
            if sub.version:
                entry |= {"group": sub.group, "version": sub.version} if sub.group else {"version": sub.version}
            entries.append(entry | {"kind": sub.kind, "verbs": sorted(sub.verbs)})
    api_version = f"{group_name}/{version}" if group_name else version
    out: Object = {"kind": "APIResourceList"}
    if group_name:
        out["apiVersion"] = "v1"
    return out | {"groupVersion": api_version, "resources": entries}


def _hash(text: str) -> str:
    import base64  # noqa: PLC0415 - once a change of what is served

    return base64.b64encode(hashlib.sha256(text.encode()).digest()[:8]).decode()


def aggregated(registry: Registry, version: str, *, core: bool) -> Object:
    """All of /api (`core`) or /apis in one document, apidiscovery.k8s.io `version`."""
    items: list[Object] = []
    for name, versions in groups(registry).items():
        if bool(name) is core:
            continue
        listed = [
            {
                "version": one,
                "resources": [_aggregated_resource(r) for r in _of(registry, name, one)],
                "freshness": "Current",
            }
            for one in versions
        ]
        items.append({"metadata": {"name": name} if name else {}, "versions": listed})
    head = {"kind": "APIGroupDiscoveryList", "apiVersion": f"apidiscovery.k8s.io/{version}", "metadata": {}}
    return head | {"items": items}


def _aggregated_resource(resource: Resource) -> Object:
    out: Object = {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular or resource.kind.lower(),
        "verbs": sorted(resource.verbs),
    }
    if resource.short_names:
        out["shortNames"] = list(resource.short_names)
    if resource.categories:
        out["categories"] = list(resource.categories)
    subs: list[dict[str, Any]] = []
    for sub in sorted(resource.subresources.values(), key=lambda sub: sub.name):
        kind = {
            "group": sub.group if sub.version else resource.group,
            "version": sub.version or resource.version,
            "kind": sub.kind,
        }
        subs.append({"subresource": sub.name, "responseKind": kind, "verbs": sorted(sub.verbs)})
    if subs:
        out["subresources"] = subs
    return out


def etag(document: Object) -> str:
    return '"' + hashlib.sha256(encode(document)).hexdigest().upper() + '"'
