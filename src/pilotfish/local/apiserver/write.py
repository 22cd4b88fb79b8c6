"""create, update, patch and apply: from a body to a stored object."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from pilotfish.local.apiserver import apply, decode, managedfields, meta, patch, respond, schema
from pilotfish.local.apiserver.core import Core, ordered
from pilotfish.local.apiserver.errors import (
    ApiError,
    FieldError,
    already_exists,
    bad_request,
    conflict,
    forbidden,
    invalid,
    not_found,
)
from pilotfish.local.apiserver.read import find
from pilotfish.local.apiserver.request import Request
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.store import Item
from pilotfish.local.apiserver.types.pods import validate_ephemeral_containers

MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"
RETRIES = 5
"""How often an update that named no version is tried again when another write came first."""

_CONTROLLER_SECONDS = 1.0
_SPEC_PARTS = {"finalize": "finalizers", "ephemeralcontainers": "ephemeralContainers"}
"""Subresources through which one field of spec is written, and nothing else."""

APPLY = ("application/apply-patch+yaml", "application/apply-patch+cbor")
PATCHES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
)


def check_options(request: Request, kind: str) -> None:
    """Refuse write options that the real server refuses: 422 about CreateOptions, UpdateOptions or PatchOptions."""
    errors = []
    if request.dry_run and request.query["dryRun"] != "All":
        errors.append(FieldError.not_supported("dryRun", [request.query["dryRun"]], ["All"]))
    manager = request.query.get("fieldManager", "")
    if len(manager) > 128:
        errors.append(FieldError.too_long("fieldManager", 128))
    if not manager.isprintable():
        errors.append(FieldError.invalid("fieldManager", manager, "should only contain printable characters"))
    if request.query.get("fieldValidation", "") not in ("", "Ignore", "Warn", "Strict"):
        allowed = ["", "Ignore", "Strict", "Warn"]
        errors.append(FieldError.not_supported("fieldValidation", request.query["fieldValidation"], allowed))
    if kind == "PatchOptions":
        if decode.media_type(request) in APPLY:
            if not manager:
                errors.append(FieldError.required("fieldManager", "is required for apply patch"))
        elif "force" in request.query:
            errors.append(FieldError.forbidden("force", "may not be specified for non-apply patch"))
    if errors:
        raise invalid(kind, "meta.k8s.io", "", errors)


async def read_object(core: Core, request: Request, resource: Resource) -> Object:
    """The body as an object of this kind, its unknown fields gone and reported."""
    body = await decode.read(request)
    media = decode.media_type(request)
    obj = decode.as_kind(decode.parse(body, media), resource.api_version, resource.kind)
    repeated = decode.duplicates(body, media) if request.field_validation != "Ignore" else []
    decode.check(core.registry.schema(resource), obj, request, repeated, body=body)
    return obj


def check_namespace(request: Request, resource: Resource, obj: Object) -> None:
    """The namespaces of body and address agree."""
    given = obj["metadata"].get("namespace", "")
    if resource.namespaced and given and given != request.target.namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    if not resource.namespaced and given:
        raise bad_request("namespace: a cluster-scoped object has none")


def check_alive(core: Core, resource: Resource, namespace: str, name: str) -> None:
    """New objects need a namespace that is there and stays."""
    found = core.get("v1", "Namespace", "", namespace)
    if found is None:
        raise not_found("namespaces", "", namespace)
    if (found.get("status") or {}).get("phase") == "Terminating":
        why = f"unable to create new content in namespace {namespace} because it is being terminated"
        error = forbidden(resource.plural, resource.group, name, why)
        cause = f"namespace {namespace} is being terminated"
        error.details["causes"] = [{"reason": "NamespaceTerminating", "message": cause, "field": "metadata.namespace"}]
        raise error


def defaults(core: Core, resource: Resource, obj: Object) -> None:
    schema.apply_defaults(core.registry.schema(resource), obj)
    resource.strategy.default(obj)


def validation(core: Core, resource: Resource, obj: Object, old: Object | None) -> list[FieldError]:
    """All field errors of an object; `old` is its former state, if it had one."""
    errors = schema.validate(core.registry.schema(resource), obj, old)
    errors += resource.strategy.validate(obj)
    if old is None:
        errors += resource.strategy.validate_create(obj)
    else:
        errors += resource.strategy.validate_update(obj, old)
    return errors


async def create(core: Core, request: Request, resource: Resource) -> web.StreamResponse:
    check_options(request, "CreateOptions")
    obj = await read_object(core, request, resource)
    return await respond.one(request, resource, await insert(core, request, resource, obj), 201)


async def insert(core: Core, request: Request, resource: Resource, obj: Object) -> Object:
    """Store a new object that a client sent: defaults, admission, validation, addresses. The object as stored."""
    check_namespace(request, resource, obj)
    metadata = obj["metadata"]
    if metadata.get("resourceVersion"):
        raise ApiError(500, "", "resourceVersion should not be set on objects to be created")
    namespace = request.target.namespace if resource.namespaced else ""
    for field in ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"):
        metadata.pop(field, None)
    if resource.namespaced:
        metadata["namespace"] = namespace
    defaults(core, resource, obj)
    single_owners(request, obj)
    managed(core, request, resource, None, obj, "")
    return await insert_managed(core, request, resource, obj)


def managed(
    core: Core, request: Request, resource: Resource, old: Object | None, new: Object, subresource: str
) -> None:
    """Record who changed which fields, unless the client asks for none to be recorded (managedFields: [{}])."""
    managedfields.on_update(
        old,
        new,
        core.registry.schema(resource),
        request.field_manager,
        resource.api_version,
        subresource,
        meta.now(),
    )


DUPLICATE_OWNERS = (
    ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject "
    "such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: "
)


def single_owners(request: Request, obj: Object) -> None:
    """Drop owners that are named twice, with a warning."""
    owners = obj["metadata"].get("ownerReferences") or []
    kept: list[Object] = []
    twice: list[str] = []
    for owner in owners:
        if owner in kept:
            twice.append(str(owner.get("uid", "")))
        else:
            kept.append(owner)
    if twice:
        obj["metadata"]["ownerReferences"] = kept
        request.warnings.append(DUPLICATE_OWNERS + ", ".join(dict.fromkeys(twice)))


async def insert_managed(core: Core, request: Request, resource: Resource, obj: Object) -> Object:
    """The second half of `insert`, for an object whose managedFields are known (create and apply)."""
    namespace = request.target.namespace if resource.namespaced else ""
    if core.custom.ending(resource):
        why = "create not allowed while custom resource definition is terminating"
        raise ApiError(405, "MethodNotAllowed", why)
    if namespace:
        check_alive(core, resource, namespace, obj["metadata"].get("name", ""))
    obj = await core.admission.mutate(core, request, resource, "CREATE", obj, None)
    defaults(core, resource, obj)
    meta.fill_for_create(resource, obj, namespace)
    if "status" in resource.subresources and not resource.status_on_create:
        obj.pop("status", None)
    resource.strategy.prepare_for_create(obj)
    errors = meta.validate(resource, obj) + validation(core, resource, obj, None)
    name = obj["metadata"].get("name", "")
    if errors:
        raise invalid(resource.kind, resource.group, name, errors)
    core.authorizer.check_escalation(core, request, resource, obj, None)
    await core.admission.validate(core, request, resource, "CREATE", obj, None)
    request.warnings += resource.strategy.warnings(obj, None)
    bucket, key, existing = find(core, resource, namespace, name)
    if existing is not None:
        error = already_exists(resource.plural, resource.group, name)
        if existing.decode()["metadata"].get("deletionTimestamp"):
            error.message = "object is being deleted: " + error.message
        raise error
    stored = await core.to_storage(resource, ordered(obj, resource.kind, resource.api_version))
    if bucket.items.get(key) is not None:
        raise already_exists(resource.plural, resource.group, name)
    with core.allocator.reserve(resource, stored, None, dry_run=request.dry_run):
        if request.dry_run:
            stored["metadata"].pop("resourceVersion", None)
            (obj,) = await core.convert(resource, [stored], resource.api_version)
            return obj
        item = core.store.put(bucket, key, stored, None)
    core.written(resource, item)
    return await core.load(resource, item)


Change = Callable[[Object], Awaitable[Object]]
"""From a private copy of the object as it is (in the version of the address) to what it shall be."""


@dataclass(slots=True)
class Update:
    """An update in progress: what kind of change it is, and what the client insists on."""

    resource: Resource
    subresource: str
    change: Change
    uid: str = ""
    """The uid the object must have."""
    applied: bool = False
    """Whether `change` has recorded managedFields itself."""
    patched: bool = False


async def put(core: Core, request: Request, resource: Resource) -> web.StreamResponse:
    check_options(request, "UpdateOptions")
    body = await read_object(core, request, resource)
    target = request.target
    given = body["metadata"].get("name", "")
    if not given:
        why = f"the name of the object ({target.name} based on URL) was undeterminable: name must be provided"
        raise bad_request(why)
    if given != target.name:
        raise bad_request(f"the name of the object ({given}) does not match the name on the URL ({target.name})")
    check_namespace(request, resource, body)
    _, _, item = find(core, resource, target.namespace, target.name)
    if item is None and (resource.group, resource.plural) == ("", "endpoints"):
        await _controller_first(core, resource, target.namespace, target.name)
        _, _, item = find(core, resource, target.namespace, target.name)
    if item is None and resource.create_on_update and not target.subresource:
        if body["metadata"].get("uid"):
            why = f"Precondition failed: UID in precondition: {body['metadata']['uid']}, UID in object meta: "
            raise conflict(resource.plural, resource.group, target.name, why)
        created = await insert(core, request, resource, body)
        return await respond.one(request, resource, created, 201)

    async def change(old: Object) -> Object:
        _ = old
        return copy.deepcopy(body)

    uid = body["metadata"].get("uid", "") if item is not None else ""
    update = Update(resource, target.subresource, change, uid)
    return await respond.one(request, resource, await apply_update(core, request, update))


async def _controller_first(core: Core, endpoints: Resource, namespace: str, name: str) -> None:
    """A controller makes the Endpoints of a Service moments after it; who writes them that soon waits and updates."""
    service = core.get("v1", "Service", namespace, name)
    if service is None or not service["spec"].get("selector") or service["spec"].get("type") == "ExternalName":
        return
    bucket, key, _ = find(core, endpoints, namespace, name)
    made = asyncio.Event()

    def noticed(_: object) -> None:
        if key in bucket.items:
            made.set()

    bucket.listeners.add(noticed)
    try:
        async with asyncio.timeout(_CONTROLLER_SECONDS):
            await made.wait()
    except TimeoutError:
        pass  # then this writer makes them
    finally:
        bucket.listeners.discard(noticed)


async def patch_(core: Core, request: Request, resource: Resource) -> web.StreamResponse:
    check_options(request, "PatchOptions")
    media = decode.media_type(request)
    body = await decode.read(request)
    if media in APPLY:
        return await _apply(core, request, resource, body)
    change = patch_change(core, request, resource, media, body)
    update = Update(resource, request.target.subresource, change, patched=True)
    return await respond.one(request, resource, await apply_update(core, request, update))


def patch_change(core: Core, request: Request, resource: Resource, media: str, body: bytes) -> Change:
    """The change that a JSON, merge or strategic merge patch asks for."""
    custom = core.registry.is_custom(resource)
    if media not in PATCHES or (custom and "strategic" in media):
        raise decode.unsupported(*[m for m in PATCHES if not (custom and "strategic" in m)])
    content = decode.parse(body, "application/json")
    compiled = core.registry.schema(resource)
    if media != PATCHES[0] and not isinstance(content, dict):
        raise bad_request("the patch must be a JSON object")
    repeated = decode.duplicates(body, "") if request.field_validation != "Ignore" else []

    async def change(old: Object) -> Object:
        if media == PATCHES[0]:
            new = patch.json_patch(old, content)
        elif media == PATCHES[1]:
            new = patch.merge_patch(old, content)
        else:
            new = patch.strategic_merge(old, content, compiled)
        if not isinstance(new, dict):
            raise bad_request("the patched object is no JSON object")
        new = _still_itself(request, resource, new, content, media)
        decode.check(compiled, new, request, repeated, patched=content)
        return new

    return change


def _still_itself(request: Request, resource: Resource, new: Object, content: Any, media: str) -> Object:
    """A patched object is still the object of the address; a strategic merge patch cannot even try another kind."""
    if "strategic" in media:
        new = {**new, "kind": resource.kind, "apiVersion": resource.api_version}
    try:
        new = decode.as_kind(new, resource.api_version, resource.kind)
    except ApiError as error:
        raise invalid("", "", "", [FieldError.invalid("patch", content, error.message)]) from None
    if isinstance(new["metadata"], dict):
        check_namespace(request, resource, new)
        given, name = new["metadata"].get("name", ""), request.target.name
        if given != name:
            raise bad_request(f"the name of the object ({given}) does not match the name on the URL ({name})")
    return new


async def _apply(core: Core, request: Request, resource: Resource, body: bytes) -> web.StreamResponse:
    """Server-side apply."""
    target = request.target
    value = decode.parse(body, "application/apply-patch+yaml")
    if not isinstance(value, dict):
        raise bad_request("error decoding YAML: the applied configuration must be an object")
    if not value.get("apiVersion"):
        why = f"Specified patch version: , expected: {resource.api_version}"
        raise bad_request(f"Incorrect version specified in apply patch. {why}")
    if not value.get("kind"):
        why = f"failed to create typed patch object (/{target.name}; {value['apiVersion']}, Kind=): "
        raise ApiError(500, "", why + "no corresponding type")
    wanted = decode.as_kind(value, resource.api_version, resource.kind)
    if not isinstance(wanted["metadata"], dict):
        raise bad_request("metadata must be an object")
    given = wanted["metadata"].get("name", "")
    if given and given != target.name:
        raise bad_request(f"the name of the object ({given}) does not match the name on the URL ({target.name})")
    check_namespace(request, resource, wanted)
    if request.field_validation != "Ignore" and (repeated := decode.duplicates(body, "application/yaml")):
        if request.field_validation == "Strict":
            raise bad_request("error strict decoding YAML: " + ", ".join(repeated))
        request.warnings += repeated

    def merged(live: Object | None) -> Object:
        return apply.server_side_apply(
            live,
            copy.deepcopy(wanted),
            core.registry.schema(resource),
            request.field_manager,
            request.flag("force"),
            resource.api_version,
            target.subresource,
            meta.now(),
        )

    _, _, item = find(core, resource, target.namespace, target.name)
    if item is None:
        if target.subresource:
            raise not_found(resource.plural, resource.group, target.name)
        if wanted["metadata"].get("uid"):
            why = f"uid mismatch: the provided object specified uid {wanted['metadata']['uid']}, and no existing object"
            raise conflict(resource.plural, resource.group, target.name, why + " was found")
        wanted["metadata"]["name"] = target.name
        new = merged(None)
        new["metadata"].pop("resourceVersion", None)
        if resource.namespaced:
            new["metadata"]["namespace"] = target.namespace
        decode.check(core.registry.schema(resource), new, request, [])
        defaults(core, resource, new)
        return await respond.one(request, resource, await insert_managed(core, request, resource, new), 201)

    async def change(old: Object) -> Object:
        new = merged(old)
        decode.check(core.registry.schema(resource), new, request, [])
        if not wanted["metadata"].get("resourceVersion"):
            new["metadata"].pop("resourceVersion", None)
        return new

    update = Update(resource, target.subresource, change, applied=True, patched=True)
    return await respond.one(request, resource, await apply_update(core, request, update))


async def apply_update(core: Core, request: Request, update: Update) -> Object:
    """Carry out an update, again if another write came between. The object as stored."""
    resource, target = update.resource, request.target
    warnings = list(request.warnings)
    for attempt in range(RETRIES + 1):
        request.warnings[:] = warnings
        bucket, key, item = find(core, resource, target.namespace, target.name)
        if item is None:
            raise not_found(resource.plural, resource.group, target.name)
        old = await core.load(resource, item)
        new = await update.change(copy.deepcopy(old))
        unconditional = not new["metadata"].get("resourceVersion")
        new = await _prepare(core, request, update, old, new)
        if bucket.items.get(key) is item:
            return await _store(core, request, update, old, new, item)
        if not (unconditional or update.patched) or attempt == RETRIES:
            break
    raise conflict(resource.plural, resource.group, target.name, MODIFIED)


async def _prepare(core: Core, request: Request, update: Update, old: Object, new: Object) -> Object:
    """All that lies between the client's wish and the write: versions, admission, what may change, validation."""
    resource, name = update.resource, request.target.name
    was = old["metadata"]
    if update.uid and update.uid != was["uid"]:
        why = f"Precondition failed: UID in precondition: {update.uid}, UID in object meta: {was['uid']}"
        raise conflict(resource.plural, resource.group, name, why)
    version = new["metadata"].get("resourceVersion", "")
    if not version and not update.patched and not resource.unconditional_update:
        error = FieldError.invalid("metadata.resourceVersion", 0, "must be specified for an update")
        raise invalid(resource.kind, resource.group, name, [error])
    if version and version != was["resourceVersion"]:
        raise conflict(resource.plural, resource.group, name, MODIFIED)
    new["metadata"]["resourceVersion"] = was["resourceVersion"]
    meta.carry_for_update(new, old)
    new = _keep(core, update, old, new)
    defaults(core, resource, new)
    single_owners(request, new)
    if not update.applied:
        managed(core, request, resource, old, new, update.subresource)
    asked = update.subresource == "scale"  # already, about the Scale
    if not asked:
        new = await core.admission.mutate(core, request, resource, "UPDATE", new, old)
    new = _keep(core, update, old, new)
    defaults(core, resource, new)
    meta.carry_for_update(new, old)
    if update.subresource == "status":
        resource.strategy.prepare_for_status_update(new, old)
    elif update.subresource not in _SPEC_PARTS:
        resource.strategy.prepare_for_update(new, old)
    custom_without_status = core.registry.is_custom(resource) and "status" not in resource.subresources
    if resource.has_generation and meta.spec_changed(new, old, status_counts=custom_without_status):
        new["metadata"]["generation"] = was.get("generation", 0) + 1
    errors = _update_errors(core, update, new, old)
    if errors:
        raise invalid(resource.kind, resource.group, name, errors)
    core.authorizer.check_escalation(core, request, resource, new, old)
    if not asked:
        await core.admission.validate(core, request, resource, "UPDATE", new, old)
    request.warnings += resource.strategy.warnings(new, old)
    return new


def _keep(core: Core, update: Update, old: Object, new: Object) -> Object:
    """What this address does not change stays as it was."""
    resource = update.resource
    if update.subresource in _SPEC_PARTS:
        field = _SPEC_PARTS[update.subresource]
        out = copy.deepcopy(old)
        out["metadata"] = {**old["metadata"], "managedFields": new["metadata"].get("managedFields")}
        if out["metadata"]["managedFields"] is None:
            del out["metadata"]["managedFields"]
        wanted = (new.get("spec") or {}).get(field)
        out.setdefault("spec", {}).pop(field, None)
        if wanted:
            out["spec"][field] = wanted
        return out
    if update.subresource == "status":
        out = copy.deepcopy(old)
        out["metadata"] = new["metadata"]
        if core.registry.is_custom(resource):
            out["metadata"] = dict(old["metadata"])
            if "managedFields" in new["metadata"]:
                out["metadata"]["managedFields"] = new["metadata"]["managedFields"]
        out.pop("status", None)
        if "status" in new:
            out["status"] = new["status"]
        return out
    if "status" in resource.subresources:
        new.pop("status", None)
        if "status" in old:
            new["status"] = copy.deepcopy(old["status"])
    return new


def _update_errors(core: Core, update: Update, new: Object, old: Object) -> list[FieldError]:
    resource = update.resource
    errors = meta.validate_update(resource, new, old)
    if errors and not core.registry.is_custom(resource):
        errors = errors + errors  # the built-in kinds' own validation looks at metadata once more
    if update.subresource == "status":
        errors += schema.validate(core.registry.schema(resource), new, old)
        return errors + resource.strategy.validate_status_update(new, old)
    if update.subresource == "finalize":
        return errors
    if update.subresource == "ephemeralcontainers":
        return errors + validate_ephemeral_containers(new, old)
    return errors + validation(core, resource, new, old)


async def _store(core: Core, request: Request, update: Update, old: Object, new: Object, item: Item) -> Object:
    resource = update.resource
    bucket, key, _ = find(core, resource, request.target.namespace, request.target.name)
    if _same(new, old):
        return old
    stored = await core.to_storage(resource, ordered(new, resource.kind, resource.api_version))
    if bucket.items.get(key) is not item:
        raise conflict(resource.plural, resource.group, request.target.name, MODIFIED)
    before = item.decode()
    with core.allocator.reserve(resource, stored, before, dry_run=request.dry_run):
        if request.dry_run:
            (shown,) = await core.convert(resource, [stored], resource.api_version)
            return shown
        if finished(stored):
            last = core.store.delete(bucket, key, stored, item)
            core.deleted(resource, last)
            return await core.load(resource, last)
        written = core.store.put(bucket, key, stored, item)
    core.written(resource, written)
    return await core.load(resource, written)


def finished(obj: Object) -> bool:
    """Nothing holds the object back any more: it was to be deleted, its grace is over, its finalizers are gone."""
    metadata: dict[str, Any] = obj["metadata"]
    return (
        bool(metadata.get("deletionTimestamp"))
        and not metadata.get("finalizers")
        and not metadata.get("deletionGracePeriodSeconds")
        and not (obj["kind"] == "Namespace" and (obj.get("spec") or {}).get("finalizers"))
    )


def _same(new: Object, old: Object) -> bool:
    """Whether an update changes nothing; a new time in managedFields alone is no change."""
    if new == old:
        return True
    if {**new, "metadata": None} != {**old, "metadata": None}:
        return False
    a, b = dict(new["metadata"]), dict(old["metadata"])
    ours, theirs = a.pop("managedFields", None) or [], b.pop("managedFields", None) or []
    return a == b and [_untimed(e) for e in ours] == [_untimed(e) for e in theirs]


def _untimed(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "time"}
