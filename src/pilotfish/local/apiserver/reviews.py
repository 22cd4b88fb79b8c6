"""Kinds that are asked, not stored: who am I, may I, may they, whose token is this."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web

from pilotfish.local.apiserver import respond, write
from pilotfish.local.apiserver.authz import Rule
from pilotfish.local.apiserver.errors import ApiError, FieldError, bad_request, invalid
from pilotfish.local.apiserver.request import Request, User
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.tokens import AUDIENCES

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

AUTHORIZATION = "authorization.k8s.io"


async def answer(core: Core, request: Request, resource: Resource) -> web.StreamResponse:
    """Answer a review that was posted."""
    write.check_options(request, "CreateOptions")
    obj = await write.read_object(core, request, resource)
    answer_kind = _KINDS.get(resource.kind)
    if answer_kind is None:
        raise ApiError(405, "MethodNotAllowed", f"{resource.plural} cannot be created")
    obj["status"] = answer_kind(core, request, obj)
    return await respond.one(request, resource, obj, 201)


def _attributes(core: Core, user: User, spec: Object) -> Object:
    """Whether a user may do what resourceAttributes or nonResourceAttributes describe."""
    asked, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if path is not None:
        why = core.authorizer.allowed_path(core, user, path.get("verb", ""), path.get("path", ""))
    else:
        a = asked or {}
        why = core.authorizer.allowed(
            core,
            user,
            a.get("verb", ""),
            a.get("group", ""),
            a.get("resource", ""),
            a.get("subresource", ""),
            a.get("namespace", ""),
            a.get("name", ""),
        )
    if why == "system:masters":
        return {"allowed": True}
    return {"allowed": True, "reason": why} if why else {"allowed": False}


def _one_of(spec: Object) -> list[FieldError]:
    asked, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    field = "spec.resourceAttributes"
    if asked is not None and path is not None:
        why = "cannot be specified in combination with resourceAttributes"
        return [FieldError.invalid("spec.nonResourceAttributes", path, why)]
    if asked is None and path is None:
        why = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        return [FieldError.invalid(field, None, why)]
    return []


def _self_access(core: Core, request: Request, obj: Object) -> Object:
    spec = obj.get("spec") or {}
    if errors := _one_of(spec):
        raise invalid("", AUTHORIZATION, "", errors)
    return _attributes(core, request.user, spec)


def _access(core: Core, request: Request, obj: Object) -> Object:
    _ = request
    spec = obj.get("spec") or {}
    errors = _one_of(spec)
    if not spec.get("user") and not spec.get("groups"):
        errors.append(FieldError.invalid("spec.user", "", "at least one of user or group must be specified"))
    if errors:
        raise invalid("", AUTHORIZATION, "", errors)
    user = User(spec.get("user", ""), tuple(spec.get("groups") or ()), spec.get("uid", ""))
    return _attributes(core, user, spec)


def _local_access(core: Core, request: Request, obj: Object) -> Object:
    asked = (obj.get("spec") or {}).get("resourceAttributes")
    if asked is not None and asked.get("namespace", "") != request.target.namespace:
        why = f"must match metadata.namespace: {request.target.namespace}"
        error = FieldError.invalid("spec.resourceAttributes.namespace", asked.get("namespace", ""), why)
        raise invalid("", AUTHORIZATION, "", [error])
    return _access(core, request, obj)


def _self_rules(core: Core, request: Request, obj: Object) -> Object:
    namespace = (obj.get("spec") or {}).get("namespace", "")
    if not namespace:
        raise bad_request("no namespace on request")
    if "system:masters" in request.user.groups:
        everything: list[Rule] = [
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
            {"verbs": ["*"], "nonResourceURLs": ["*"]},
        ]
    else:
        everything = core.authorizer.rules(core, request.user, namespace)
    resource_fields = ("verbs", "apiGroups", "resources", "resourceNames")
    return {
        "resourceRules": [{f: r[f] for f in resource_fields if r.get(f)} for r in everything if r.get("resources")],
        "nonResourceRules": [
            {"verbs": r["verbs"], "nonResourceURLs": r["nonResourceURLs"]}
            for r in everything
            if r.get("nonResourceURLs")
        ],
        "incomplete": False,
    }


def _token(core: Core, request: Request, obj: Object) -> Object:
    _ = request
    spec = obj.get("spec") or {}
    token = spec.get("token", "")
    if not token:
        raise bad_request("token is required for TokenReview in authentication")
    verified = core.tokens.verify(core, token, tuple(spec.get("audiences") or AUDIENCES))
    if verified is None:
        return {"user": {}, "error": "[invalid bearer token]"}
    user, audiences = verified
    return {"authenticated": True, "user": user.info(), "audiences": audiences}


def _self(core: Core, request: Request, obj: Object) -> Object:
    _ = core, obj
    return {"userInfo": request.user.info()}


_KINDS: dict[str, Callable[[Core, Request, Object], Object]] = {
    "SelfSubjectAccessReview": _self_access,
    "SubjectAccessReview": _access,
    "LocalSubjectAccessReview": _local_access,
    "SelfSubjectRulesReview": _self_rules,
    "TokenReview": _token,
    "SelfSubjectReview": _self,
}
