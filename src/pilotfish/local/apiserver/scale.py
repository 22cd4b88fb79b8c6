"""The scale subresource: replicas of a workload, whatever its kind calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from pilotfish.local.apiserver import apply, decode, meta, patch, read, respond, schema, write
from pilotfish.local.apiserver.crd.resources import ScalePaths, scale_paths
from pilotfish.local.apiserver.errors import FieldError, bad_request, invalid, not_found
from pilotfish.local.apiserver.request import Request
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.selectors import selector_text

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

API_VERSION = "autoscaling/v1"
_DEFINITION = "io.k8s.api.autoscaling.v1.Scale"
BUILTIN = ScalePaths(".spec.replicas", ".status.replicas", "")


def _at(obj: Any, path: str) -> Any:
    for key in path.strip(".").split("."):
        if not isinstance(obj, dict):
            return None
        obj = obj.get(key)
    return obj


def _put(obj: Object, path: str, value: Any) -> None:
    *parents, last = path.strip(".").split(".")
    for key in parents:
        obj = obj.setdefault(key, {})
    obj[last] = value


def of(resource: Resource, obj: Object, paths: ScalePaths) -> Object:
    """The Scale of an object."""
    metadata = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    replicas = _at(obj, paths.spec) or 0
    status: Object = {"replicas": _at(obj, paths.status) or 0}
    if paths is BUILTIN:
        chosen = (obj.get("spec") or {}).get("selector") or {}
        if resource.kind == "ReplicationController":
            chosen = {"matchLabels": chosen}
        selector = selector_text(chosen)
    else:
        selector = (_at(obj, paths.selector) or "") if paths.selector else ""
    if selector:
        status["selector"] = selector
    return {
        "kind": "Scale",
        "apiVersion": API_VERSION,
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {"replicas": replicas} if replicas else {},
        "status": status,
    }


async def answer(core: Core, request: Request, resource: Resource) -> web.StreamResponse:
    """get, update and patch of a scale."""
    target = request.target
    _, _, item = read.find(core, resource, target.namespace, target.name)
    if item is None:
        raise not_found(resource.plural, resource.group, target.name)
    paths = scale_paths(resource) or BUILTIN
    if target.verb == "get":
        return await respond.one(request, resource, of(resource, await core.load(resource, item), paths))
    media = decode.media_type(request)
    body = await decode.read(request)
    write.check_options(request, "UpdateOptions" if target.verb == "update" else "PatchOptions")
    compiled = core.registry.schema_named(_DEFINITION)
    applied = media in write.APPLY
    update = write.Update(resource, "scale", _no_change, applied=applied, patched=target.verb == "patch")

    async def change(old: Object) -> Object:
        if applied:
            wanted = decode.as_kind(decode.parse(body, media), API_VERSION, "Scale")
        elif target.verb == "patch":
            wanted = _patched(compiled, of(resource, old, paths), media, body)
        else:
            wanted = decode.as_kind(decode.parse(body, media), API_VERSION, "Scale")
        decode.check(compiled, wanted, request, [], patched="scale" if target.verb == "patch" else None)
        replicas = _check(request, resource, wanted, custom=paths is not BUILTIN)
        uid = wanted["metadata"].get("uid")
        if uid:
            update.uid = uid
        before = of(resource, old, paths)
        after = before | {"spec": {"replicas": replicas} if replicas else {}}
        await core.admission.ask(core, request, resource, "UPDATE", after, before)
        if applied:
            old = _applied(core, request, resource, old, paths, replicas)
        else:
            _put(old, paths.spec, replicas)
        old["metadata"]["resourceVersion"] = wanted["metadata"].get("resourceVersion", "")
        return old

    update.change = change
    return await respond.one(request, resource, of(resource, await write.apply_update(core, request, update), paths))


def _applied(
    core: Core, request: Request, resource: Resource, live: Object, paths: ScalePaths, replicas: int
) -> Object:
    """Server-side apply of a scale: the manager applies that one field of the object itself."""
    wanted: Object = {"apiVersion": resource.api_version, "kind": resource.kind}
    wanted["metadata"] = {"name": request.target.name}
    _put(wanted, paths.spec, replicas)
    compiled = core.registry.schema(resource)
    manager, force = request.field_manager, request.flag("force")
    return apply.server_side_apply(
        live, wanted, compiled, manager, force, resource.api_version, request.target.subresource, meta.now()
    )


async def _no_change(obj: Object) -> Object:
    return obj


def _patched(compiled: schema.Schema, scale: Object, media: str, body: bytes) -> Object:
    content = decode.parse(body, "application/json")
    if media == write.PATCHES[0]:
        new = patch.json_patch(scale, content)
    elif media == write.PATCHES[1]:
        new = patch.merge_patch(scale, content)
    elif media == write.PATCHES[2]:
        new = patch.strategic_merge(scale, content, compiled)
    else:
        raise decode.unsupported(*write.PATCHES)
    if (content.get("metadata") or {} if isinstance(content, dict) else {}).get("resourceVersion") is None:
        new["metadata"].pop("resourceVersion", None)
    return decode.as_kind(new, API_VERSION, "Scale")


def _check(request: Request, resource: Resource, scale: Object, *, custom: bool) -> int:
    """The replicas asked for. Raises 400 for another object's scale, 422 for a negative number."""
    name = scale["metadata"].get("name", "")
    if name and name != request.target.name:
        raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({request.target.name})")
    replicas = int((scale.get("spec") or {}).get("replicas") or 0)
    if replicas < 0 and not custom:
        error = FieldError.invalid("spec.replicas", replicas, "must be greater than or equal to 0")
        raise invalid("Scale", "autoscaling", request.target.name, [error])
    _ = resource
    return replicas
