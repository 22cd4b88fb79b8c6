"""delete and deletecollection: preconditions, grace, finalizers, dependents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from pilotfish.local.apiserver import decode, meta, respond
from pilotfish.local.apiserver.core import Core, encode
from pilotfish.local.apiserver.errors import ApiError, FieldError, bad_request, conflict, forbidden, invalid, not_found
from pilotfish.local.apiserver.read import filter_of, find, list_bytes
from pilotfish.local.apiserver.request import Request, Target
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.store import Item

POLICIES = ("Background", "Foreground", "Orphan")
RETURNED = {
    ("", plural)
    for plural in ("pods", "services", "serviceaccounts", "persistentvolumes", "persistentvolumeclaims", "podtemplates")
} | {("", "resourcequotas")}
"""Kinds whose deletion answers with the object itself, not with a Status."""

IMMORTAL = ("default", "kube-system", "kube-public")
CRD_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"


async def options(request: Request) -> dict[str, Any]:
    """DeleteOptions from the body, else from the query. Raises 400 and 422 as the real server."""
    body = await decode.read(request)
    if body:
        value = decode.parse(body, decode.media_type(request))
        if not isinstance(value, dict):
            raise bad_request("the body of a delete is a DeleteOptions object")
        kind, version = value.get("kind", "DeleteOptions"), value.get("apiVersion", "v1")
        if kind != "DeleteOptions":
            raise bad_request(f'{kind} in version "{version}" cannot be handled as DeleteOptions')
        given: dict[str, Any] = value
    else:
        given = _from_query(request)
    _check_types(given)
    _check(given)
    if given.get("dryRun"):
        request.query = {**request.query, "dryRun": "All"}
    return given


def _from_query(request: Request) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if "gracePeriodSeconds" in request.query:
        given["gracePeriodSeconds"] = request.number("gracePeriodSeconds")
    if "orphanDependents" in request.query:
        given["orphanDependents"] = request.flag("orphanDependents")
    if "propagationPolicy" in request.query:
        given["propagationPolicy"] = request.query["propagationPolicy"]
    if "dryRun" in request.query:
        given["dryRun"] = [request.query["dryRun"]]
    return given


_TYPES: dict[str, tuple[type, str]] = {
    "gracePeriodSeconds": (int, "int64"),
    "orphanDependents": (bool, "bool"),
    "propagationPolicy": (str, "DeletionPropagation"),
    "dryRun": (list, "[]string"),
    "preconditions": (dict, "Preconditions"),
}


def _check_types(given: dict[str, Any]) -> None:
    for field, (wanted, name) in _TYPES.items():
        value = given.get(field)
        if value is not None and (not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))):
            raise bad_request(
                f'DeleteOptions in version "v1" cannot be handled as a DeleteOptions: json: cannot unmarshal '
                f"{type(value).__name__} into Go struct field DeleteOptions.{field} of type {name}"
            )


def _check(given: dict[str, Any]) -> None:
    errors = []
    policy = given.get("propagationPolicy")
    if policy is not None and given.get("orphanDependents") is not None:
        why = "orphanDependents and deletionPropagation cannot be both set"
        errors.append(FieldError.invalid("propagationPolicy", policy, why))
    if policy is not None and policy not in POLICIES:
        errors.append(FieldError.not_supported("propagationPolicy", policy, [*POLICIES, "nil"]))
    dry = given.get("dryRun") or []
    if dry and dry != ["All"]:
        errors.append(FieldError.not_supported("dryRun", dry, ["All"]))
    if errors:
        raise invalid("DeleteOptions", "meta.k8s.io", "", errors)


async def delete(core: Core, request: Request, resource: Resource) -> web.StreamResponse:
    given = await options(request)
    target = request.target
    obj, gone = await remove(core, request, resource, target.name, given)
    if not gone or (resource.group, resource.plural) in RETURNED:
        return await respond.one(request, resource, obj)
    details = {"name": target.name}
    if resource.group:
        details["group"] = resource.group
    details |= {"kind": resource.plural, "uid": obj["metadata"]["uid"]}
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
    return await respond.value(request, status)


async def remove(
    core: Core, request: Request, resource: Resource, name: str, given: dict[str, Any]
) -> tuple[Object, bool]:
    """Delete an object or mark it for deletion. Its last state, and whether it is gone."""
    namespace = request.target.namespace
    for _ in range(6):
        bucket, key, item = find(core, resource, namespace, name)
        if item is None:
            raise not_found(resource.plural, resource.group, name)
        old = await core.load(resource, item)
        if (resource.group, resource.plural) == ("", "namespaces") and name in IMMORTAL:
            raise forbidden("namespaces", "", name, "this namespace may not be deleted")
        _preconditions(resource, old, given.get("preconditions") or {})
        at = Target(request.target.path, "delete", resource.group, resource.version, resource.plural, "", namespace)
        at.name = name
        asked = Request(request.http, at, request.user, request.query, request.accept, request.warnings)
        await core.admission.validate(core, asked, resource, "DELETE", None, old, options=given)
        if bucket.items.get(key) is item:
            return await _delete_item(core, request, resource, item, given)
    raise conflict(resource.plural, resource.group, name, "the object is being written to; try again")


def _preconditions(resource: Resource, obj: Object, wanted: dict[str, Any]) -> None:
    metadata = obj["metadata"]
    for field, label, key in (("uid", "UID", "uid"), ("resourceVersion", "ResourceVersion", "resourceVersion")):
        value = wanted.get(field)
        if value is not None and value != metadata[key]:
            why = f"Precondition failed: {label} in precondition: {value}, {label} in object meta: {metadata[key]}"
            raise conflict(resource.plural, resource.group, metadata["name"], why)


async def _delete_item(
    core: Core, request: Request, resource: Resource, item: Item, given: dict[str, Any]
) -> tuple[Object, bool]:
    stored = item.decode()
    metadata = stored["metadata"]
    bucket, key, _ = find(core, resource, metadata.get("namespace", ""), metadata["name"])
    before = item.decode()
    grace = _grace(resource, stored, given)
    finalizers = _finalizers(resource, stored, given)
    held = bool(finalizers) or _held(resource, stored)
    pending = metadata.get("deletionTimestamp")
    if (
        pending
        and grace
        and (metadata.get("deletionGracePeriodSeconds") or 0) <= grace
        and not _new(finalizers, stored)
    ):
        return await core.load(resource, item), False
    gone = not (grace or held)
    if not gone:
        _mark(stored, grace, finalizers)
        if resource.kind == "Namespace" and not resource.group:
            stored.setdefault("status", {})["phase"] = "Terminating"
    if request.dry_run:
        (shown,) = await core.convert(resource, [stored], resource.api_version)
        return shown, gone
    if stored == before and not gone:
        return await core.load(resource, item), False
    if gone:
        with core.allocator.reserve(resource, None, before, dry_run=False):
            last = core.store.delete(bucket, key, stored, item)
        core.deleted(resource, last)
    else:
        last = core.store.put(bucket, key, stored, item)
        core.written(resource, last)
    return await core.load(resource, last), gone


def _new(finalizers: list[str], obj: Object) -> bool:
    return finalizers != (obj["metadata"].get("finalizers") or [])


def _grace(resource: Resource, obj: Object, given: dict[str, Any]) -> int:
    """Seconds a pod is given to end; everything else ends at once."""
    if resource.kind != "Pod" or resource.group:
        return 0
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    asked = given.get("gracePeriodSeconds")
    grace = spec.get("terminationGracePeriodSeconds", 30) if asked is None or asked < 0 else asked
    if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
        return 0
    return max(int(grace), 0)


def _held(resource: Resource, obj: Object) -> bool:
    """Whether more than metadata.finalizers holds an object back: a namespace has finalizers of its own."""
    return resource.kind == "Namespace" and not resource.group and bool((obj.get("spec") or {}).get("finalizers"))


def _finalizers(resource: Resource, obj: Object, given: dict[str, Any]) -> list[str]:
    """The finalizers once this deletion has had its say."""
    finalizers = list(obj["metadata"].get("finalizers") or [])
    policy = given.get("propagationPolicy")
    orphan = given.get("orphanDependents")
    if orphan is not None:
        policy = "Orphan" if orphan else "Background"
    if policy is not None:
        finalizers = [name for name in finalizers if name not in ("orphan", "foregroundDeletion")]
        if policy == "Orphan":
            finalizers.append("orphan")
        elif policy == "Foreground":
            finalizers.append("foregroundDeletion")
    if resource.kind == "CustomResourceDefinition" and CRD_FINALIZER not in finalizers:
        finalizers.append(CRD_FINALIZER)
    return finalizers


def _mark(obj: Object, grace: int, finalizers: list[str]) -> None:
    """Note in an object that it is to go, and when."""
    metadata = obj["metadata"]
    if finalizers:
        metadata["finalizers"] = finalizers
    if not metadata.get("deletionTimestamp"):
        metadata["deletionTimestamp"] = meta.at(datetime.now(UTC) + timedelta(seconds=grace))
        if obj["kind"] != "Namespace":
            metadata["deletionGracePeriodSeconds"] = grace
        if metadata.get("generation"):
            metadata["generation"] += 1
    elif grace < (metadata.get("deletionGracePeriodSeconds") or 0):
        metadata["deletionTimestamp"] = meta.at(datetime.now(UTC) + timedelta(seconds=grace))
        metadata["deletionGracePeriodSeconds"] = grace


async def delete_collection(core: Core, request: Request, resource: Resource) -> web.StreamResponse:
    given = await options(request)
    chosen = filter_of(request, resource)
    bucket = core.registry.bucket(resource)
    found = [bucket.items[key] for key in bucket.range(chosen.prefix)]
    removed: list[Item] = []
    for item in found:
        obj = item.decode()
        if chosen.test is not None and not chosen.test(obj):
            continue
        metadata = obj["metadata"]
        at = request.target
        at = Target(at.path, "delete", at.group, at.version, at.resource, "", metadata.get("namespace", ""))
        asked = Request(request.http, at, request.user, request.query, request.accept, request.warnings)
        try:
            last, _ = await remove(core, asked, resource, metadata["name"], given)
        except ApiError as error:
            if error.code == 404:
                continue
            raise
        removed.append(Item(item.rv, encode(last)))
    return await respond.raw(
        request, await list_bytes(core, resource, removed, {"resourceVersion": str(core.store.revision)})
    )
