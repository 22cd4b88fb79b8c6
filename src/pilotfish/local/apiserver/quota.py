"""ResourceQuotas: what a namespace uses, and the refusal of what would be too much.

The rules are those of kubernetes/pkg/quota/v1 and of its admission plugin. The usage is counted anew from the stored
objects, so it cannot drift; namespaces without a quota pay one look into an index.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pilotfish.local.apiserver.errors import ApiError, forbidden
from pilotfish.local.apiserver.quantity import canonical, parse
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.store import Item
from pilotfish.local.apiserver.types.pod_defaults import requests_of

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

Amounts = dict[str, Decimal]

_COUNTED = {
    *("pods", "services", "replicationcontrollers", "resourcequotas"),
    *("secrets", "configmaps", "persistentvolumeclaims"),
}
"""Core kinds that are counted by their bare name too."""
_MUST_SAY = ("cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory")
_BINARY = ("memory", "storage", "hugepages-")
_BUCKET = "/resourcequotas"
_CLASS = ".storageclass.storage.k8s.io/"


def usage(resource: Resource, obj: Object) -> Amounts:
    """What one object counts for, by the names that quotas use."""
    suffix = f".{resource.group}" if resource.group else ""
    out = {f"count/{resource.plural}{suffix}": Decimal(1)}
    if resource.group:
        return out
    if resource.plural == "pods" and _over(obj):
        return out
    if resource.plural in _COUNTED:
        out[resource.plural] = Decimal(1)
    match resource.plural:
        case "pods":
            out |= _pod(obj.get("spec") or {})
        case "services":
            out |= _service(obj.get("spec") or {})
        case "persistentvolumeclaims":
            out |= _claim(obj.get("spec") or {})
    return out


def _over(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _pod(spec: Object) -> Amounts:
    out: Amounts = {}
    for name, amount in requests_of(spec).items():
        if name in ("cpu", "memory", "ephemeral-storage") or name.startswith("hugepages-"):
            out[name] = parse(amount)
        out[f"requests.{name}"] = parse(amount)
    return out | {f"limits.{name}": parse(amount) for name, amount in requests_of(spec, "limits").items()}


def _service(spec: Object) -> Amounts:
    ports = spec.get("ports") or []
    kind = spec.get("type", "ClusterIP")
    if kind == "NodePort":
        return {"services.nodeports": Decimal(len(ports))}
    if kind != "LoadBalancer":
        return {}
    given = len(ports)
    if spec.get("allocateLoadBalancerNodePorts") is False:
        given = sum(bool(port.get("nodePort")) for port in ports)
    return {"services.loadbalancers": Decimal(1), "services.nodeports": Decimal(given)}


def _claim(spec: Object) -> Amounts:
    asked = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    out = {"requests.storage": parse(asked)} if asked else {}
    if of_class := spec.get("storageClassName"):
        out |= {f"{of_class}{_CLASS}{name}": amount for name, amount in out.items()}
        out[f"{of_class}{_CLASS}persistentvolumeclaims"] = Decimal(1)
    return out


# Scopes: a quota may concern some pods only.


def concerns(quota: Object, resource: Resource, obj: Object) -> bool:
    """Whether the scopes of a quota include the object."""
    spec = quota.get("spec") or {}
    wanted = [{"scopeName": scope, "operator": "Exists"} for scope in spec.get("scopes") or ()]
    wanted += (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    if not wanted:
        return True
    if resource.group or resource.plural != "pods":
        return False
    return all(_in_scope(one, obj.get("spec") or {}) for one in wanted)


def _in_scope(wanted: Object, spec: Object) -> bool:
    match wanted.get("scopeName"):
        case "Terminating":
            return spec.get("activeDeadlineSeconds") is not None
        case "NotTerminating":
            return spec.get("activeDeadlineSeconds") is None
        case "BestEffort":
            return _best_effort(spec)
        case "NotBestEffort":
            return not _best_effort(spec)
        case "CrossNamespacePodAffinity":
            return any("namespaceSelector" in term or term.get("namespaces") for term in _affinity(spec))
        case "PriorityClass":
            return _selected(wanted, spec.get("priorityClassName", ""))
    return False


def _best_effort(spec: Object) -> bool:
    asked = (*requests_of(spec), *requests_of(spec, "limits"))
    return not any(name in ("cpu", "memory") for name in asked)


def _affinity(spec: Object) -> Iterator[Mapping[str, Any]]:
    for kind in ("podAffinity", "podAntiAffinity"):
        part = (spec.get("affinity") or {}).get(kind) or {}
        yield from part.get("requiredDuringSchedulingIgnoredDuringExecution") or ()
        for weighted in part.get("preferredDuringSchedulingIgnoredDuringExecution") or ():
            yield weighted.get("podAffinityTerm") or {}


def _selected(wanted: Object, value: str) -> bool:
    values = wanted.get("values") or ()
    match wanted.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return bool(value)
        case "DoesNotExist":
            return not value
    return False


# Counting.


def _resource_of(core: Core, name: str) -> Resource | None:
    """The kind whose objects count for a name of a quota."""
    if name.startswith("count/"):
        plural, _, group = name.removeprefix("count/").partition(".")
        return next((r for r in core.registry if (r.group, r.plural) == (group, plural)), None)
    plural = name.partition(".")[0]
    if plural not in _COUNTED:
        plural = "persistentvolumeclaims" if name.endswith("requests.storage") or _CLASS in name else "pods"
    return core.registry.find("", "v1", plural)


def used(core: Core, quota: Object) -> Amounts:
    """What is used of everything that the quota limits."""
    hard = (quota.get("spec") or {}).get("hard") or {}
    out = dict.fromkeys(hard, Decimal(0))
    by_resource: dict[Resource, list[str]] = {}
    for name in hard:
        resource = _resource_of(core, name)
        if resource is not None:
            by_resource.setdefault(resource, []).append(name)
    for resource, names in by_resource.items():
        bucket = core.registry.bucket(resource)
        for key in bucket.range(quota["metadata"]["namespace"] + "/"):
            obj = bucket.items[key].decode()
            if concerns(quota, resource, obj):
                counts = usage(resource, obj)
                for name in names:
                    out[name] += counts.get(name, 0)
    return out


def text(name: str, amount: Decimal) -> str:
    """An amount as it is written: bytes in powers of two where they are."""
    if any(word in name for word in _BINARY) and amount and amount % 1024 == 0:
        return canonical(f"{amount / 1024:f}Ki")
    return canonical(f"{amount:f}")


def check(core: Core, resource: Resource, operation: str, obj: Object, old: Object | None) -> None:
    """Refuse (403) what a quota of its namespace does not allow."""
    namespace = obj["metadata"].get("namespace", "")
    for quota in _quotas(core, namespace):
        if not concerns(quota, resource, obj):
            continue
        hard = (quota.get("spec") or {}).get("hard") or {}
        wanted = {name: amount for name, amount in usage(resource, obj).items() if name in hard}
        if operation == "UPDATE":
            before = usage(resource, old or {})
            wanted = {name: amount - before.get(name, 0) for name, amount in wanted.items()}
        elif (resource.group, resource.plural) == ("", "pods"):
            _check_said(resource, obj, quota, hard)
        wanted = {name: amount for name, amount in wanted.items() if amount > 0}
        if not wanted:
            continue
        now = used(core, quota)
        over = sorted(name for name, amount in wanted.items() if now[name] + amount > parse(hard[name]))
        if over:
            listed = [
                ",".join(f"{name}={text(name, amounts[name])}" for name in over)
                for amounts in (wanted, now, {name: parse(hard[name]) for name in over})
            ]
            why = "exceeded quota: {}, requested: {}, used: {}, limited: {}"
            raise _refusal(resource, obj, why.format(quota["metadata"]["name"], *listed))


def _check_said(resource: Resource, pod: Object, quota: Object, hard: Mapping[str, str]) -> None:
    """Where a quota limits CPU or memory, every container must say what it takes."""
    missing: dict[str, list[str]] = {}
    spec = pod.get("spec") or {}
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        resources = container.get("resources") or {}
        for name in _MUST_SAY:
            field, _, plain = name.rpartition(".")
            if name in hard and plain not in (resources.get(field or "requests") or {}):
                missing.setdefault(name, []).append(container.get("name", ""))
    if missing:
        said = "; ".join(f"{name} for: {','.join(sorted(missing[name]))}" for name in sorted(missing))
        raise _refusal(resource, pod, f"failed quota: {quota['metadata']['name']}: must specify {said}")


def _refusal(resource: Resource, obj: Object, why: str) -> ApiError:
    metadata = obj["metadata"]
    name = metadata.get("name") or metadata.get("generateName", "")
    return forbidden(resource.plural, resource.group, name, why)


def _quotas(core: Core, namespace: str) -> list[Object]:
    bucket = core.store.bucket(_BUCKET)
    if not namespace or not bucket.keys:
        return []
    return [bucket.items[key].decode() for key in bucket.range(f"{namespace}/")]


class Recount:
    """Keeps the status of quotas: counts a namespace again soon after something in it changed."""

    def __init__(self) -> None:
        self._dirty: set[str] = set()

    def changed(self, core: Core, resource: Resource, item: Item) -> None:
        """An object was written or removed."""
        bucket = core.store.bucket(_BUCKET)
        if not bucket.keys or not resource.namespaced or resource.kind == "Event":
            return
        namespace = item.decode()["metadata"]["namespace"]
        if namespace not in self._dirty and bucket.range(f"{namespace}/"):
            self._dirty.add(namespace)
            asyncio.get_running_loop().call_soon(self._count, core, namespace)

    def _count(self, core: Core, namespace: str) -> None:
        self._dirty.discard(namespace)
        bucket = core.store.bucket(_BUCKET)
        for key in list(bucket.range(f"{namespace}/")):
            item = bucket.items[key]
            quota = item.decode()
            hard = (quota.get("spec") or {}).get("hard") or {}
            counted = {name: text(name, amount) for name, amount in used(core, quota).items()}
            status = {"hard": hard, "used": counted} if hard else {}
            if (quota.get("status") or {}) != status:
                core.store.put(bucket, key, quota | {"status": status}, item)
