"""Admission: what may change or refuse a write between its decoding and the store.

Built-in admission comes first, then the mutating webhooks one by one, later the validating ones side by side
(https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import copy
import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from pilotfish.local.apiserver import patch, quota, schema
from pilotfish.local.apiserver.errors import ApiError, forbidden, internal
from pilotfish.local.apiserver.request import Request
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.selectors import match_labels
from pilotfish.local.apiserver.types import admission as built_in
from pilotfish.local.apiserver.webhooks import Caller, WebhookError

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

log = logging.getLogger(__name__)

GROUP = "admissionregistration.k8s.io"
_ACCOUNT_SECONDS = 3
_OPTIONS = {"CREATE": "CreateOptions", "UPDATE": "UpdateOptions", "DELETE": "DeleteOptions"}


@dataclass(slots=True)
class Attempt:
    """One write, as admission sees it."""

    core: Core
    request: Request
    resource: Resource
    operation: str
    obj: Object | None
    old: Object | None
    options: Object
    foreign: bool = False
    """The object is of the subresource's own kind, not the resource's."""

    @property
    def name(self) -> str:
        meta = (self.obj or self.old or {}).get("metadata", {})
        return self.request.target.name or meta.get("name", "")


class Admission:
    """Built-in admission and the webhooks of the stored configurations."""

    def __init__(self) -> None:
        self.caller = Caller()
        self._stamp: dict[str, int] = {}
        self._webhooks: dict[str, list[Object]] = {}

    async def mutate(
        self, core: Core, request: Request, resource: Resource, operation: str, obj: Object, old: Object | None
    ) -> Object:
        """The object as mutating admission leaves it."""
        attempt = Attempt(core, request, resource, operation, obj, old, {})
        await _account_made(attempt)
        _built_in_mutate(attempt)
        hooks = [h for h in self._configured(core, "mutating") if _concerned(resource)]
        if not hooks:
            return _object(attempt)
        again: set[int] = set()
        eligible: set[int] = set()
        changed = False
        for i, hook in enumerate(hooks):
            did_run, did_change = await self._mutate_with(attempt, hook)
            if did_change:
                changed = True
                again |= eligible
                eligible = set()
            if did_run and hook.get("reinvocationPolicy") == "IfNeeded":
                eligible.add(i)
        if changed:
            before = copy.deepcopy(attempt.obj)
            _built_in_mutate(attempt)
            if attempt.obj != before:
                again |= eligible
            for i in sorted(again):
                await self._mutate_with(attempt, hooks[i])
        return _object(attempt)

    async def validate(
        self,
        core: Core,
        request: Request,
        resource: Resource,
        operation: str,
        obj: Object | None,
        old: Object | None,
        options: Object | None = None,
    ) -> None:
        """Raises ApiError when a validator refuses."""
        attempt = Attempt(core, request, resource, operation, obj, old, options or {})
        _built_in_validate(attempt)
        hooks = [h for h in self._configured(core, "validating") if _concerned(resource)]
        calls = [(hook, matched) for hook in hooks if (matched := await _matches(attempt, hook)) is not None]
        if calls:
            results = await asyncio.gather(
                *(self._ask(attempt, hook, matched) for hook, matched in calls), return_exceptions=True
            )
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        if obj is not None and not request.target.subresource:
            quota.check(core, resource, operation, obj, old)

    async def ask(
        self, core: Core, request: Request, resource: Resource, operation: str, obj: Object, old: Object | None = None
    ) -> None:
        """Ask webhooks about what is sent to a subresource and is of another kind: Scale, Eviction, PodExecOptions.

        Raises ApiError when one refuses, or wants to change it.
        """
        attempt = Attempt(core, request, resource, operation, obj, old, {}, foreign=True)
        for which in ("mutating", "validating"):
            for hook in self._configured(core, which):
                matched = await _matches(attempt, hook)
                if matched is None:
                    continue
                if _patch_of(hook, await self._ask(attempt, hook, matched)):
                    raise internal(f'admission webhook "{hook["name"]}" cannot change a {obj["kind"]}')

    def _configured(self, core: Core, which: str) -> list[Object]:
        """The webhooks of one kind in the order in which they are called."""
        bucket = core.store.bucket(f"{GROUP}/{which}webhookconfigurations")
        stamp = bucket.log[-1].rv if bucket.log else 0
        if self._stamp.get(which) != stamp:
            self._stamp[which] = stamp
            self._webhooks[which] = [
                hook for key in bucket.keys for hook in bucket.items[key].decode().get("webhooks") or []
            ]
        return self._webhooks[which]

    async def _mutate_with(self, attempt: Attempt, hook: Object) -> tuple[bool, bool]:
        """Whether the webhook was called, and whether it changed the object."""
        matched = await _matches(attempt, hook)
        if matched is None:
            return False, False
        response = await self._ask(attempt, hook, matched)
        operations = _patch_of(hook, response)
        if not operations:
            return True, False
        shown = await _in_version(attempt, attempt.obj, matched)
        try:
            new = patch.json_patch(shown or {}, operations)
        except ApiError as error:
            raise internal(" ".join([error.message, *getattr(error, "__notes__", [])])) from None
        (new,) = await attempt.core.convert(matched, [new], attempt.resource.api_version)
        if new == attempt.obj:
            return True, False
        compiled = attempt.core.registry.schema(attempt.resource)
        if wrong := schema.decode_errors(compiled, new):
            raise internal(f'admission webhook "{hook["name"]}" made an object that cannot be read: {wrong[0]}')
        schema.prune(compiled, new)
        schema.apply_defaults(compiled, new)
        attempt.resource.strategy.default(new)
        attempt.obj = new
        return True, True

    async def _ask(self, attempt: Attempt, hook: Object, matched: Resource) -> Object:
        """The response of a webhook that allows the request; {} when it failed and failures are ignored."""
        name = hook["name"]
        dry = attempt.request.dry_run
        if dry and hook.get("sideEffects") not in ("None", "NoneOnDryRun"):
            raise ApiError(400, "BadRequest", f'admission webhook "{name}" does not support dry run')
        review = await _review(attempt, matched, hook, dry=dry)
        try:
            answer = await self.caller.post(
                attempt.core, hook.get("clientConfig") or {}, review, float(hook.get("timeoutSeconds") or 10)
            )
            response = _checked(answer, review)
        except WebhookError as error:
            if hook.get("failurePolicy") == "Ignore":
                log.warning("webhook %s failed and is ignored: %s", name, error)
                return {}
            raise internal(f'failed calling webhook "{name}": failed to call webhook: {error}') from None
        attempt.request.warnings += [str(text) for text in response.get("warnings") or []]
        if not response.get("allowed"):
            raise _denied(name, response.get("status") or {})
        return response


def _object(attempt: Attempt) -> Object:
    if attempt.obj is None:
        raise ValueError("mutating admission needs an object")
    return attempt.obj


def _concerned(resource: Resource) -> bool:
    """The kinds that configure admission are not subject to it."""
    return resource.group != GROUP


# ------------------------------------------------------------------------------------------------------------ matching


async def _matches(attempt: Attempt, hook: Object) -> Resource | None:
    """The resource, in the version the webhook wants to see, when it wants to see this write at all."""
    matched = _by_rules(attempt, hook)
    if matched is None or not _by_selectors(attempt, hook):
        return None
    conditions = hook.get("matchConditions") or []
    if conditions and not await _by_conditions(attempt, hook, matched, conditions):
        return None
    return matched


def _by_rules(attempt: Attempt, hook: Object) -> Resource | None:
    resource = attempt.resource
    candidates: Iterator[Resource] = iter((resource,))
    if hook.get("matchPolicy", "Equivalent") != "Exact":
        versions = attempt.core.registry.versions_of(resource)
        candidates = iter((resource, *(r for r in versions if r is not resource)))
    for candidate in candidates:
        for rule in hook.get("rules") or []:
            if _rule_matches(rule, attempt, candidate):
                return candidate
    return None


def _rule_matches(rule: Object, attempt: Attempt, resource: Resource) -> bool:
    def names(field: str, value: str) -> bool:
        listed = rule.get(field) or ()
        return value in listed or "*" in listed

    if not (
        names("operations", attempt.operation)
        and names("apiGroups", resource.group)
        and names("apiVersions", resource.version)
    ):
        return False
    scope = rule.get("scope", "*")
    if scope != "*" and (scope == "Namespaced") is not resource.namespaced:
        return False
    sub = attempt.request.target.subresource
    for listed in rule.get("resources") or ():
        plural, slash, wanted = listed.partition("/")
        if plural in ("*", resource.plural) and (wanted in ("*", sub) if slash else not sub):
            return True
    return False


def _by_selectors(attempt: Attempt, hook: Object) -> bool:
    selector = hook.get("objectSelector")
    if selector and not any(
        match_labels(selector, obj["metadata"].get("labels") or {})
        for obj in (attempt.obj, attempt.old)
        if obj and "metadata" in obj
    ):
        return False
    selector = hook.get("namespaceSelector")
    if not selector:
        return True
    resource = attempt.resource
    if resource.kind == "Namespace" and not resource.group:
        labels = ((attempt.obj or attempt.old or {}).get("metadata") or {}).get("labels") or {}
        return match_labels(selector, labels)
    if not resource.namespaced:
        return True
    namespace = attempt.core.get("v1", "Namespace", "", attempt.request.target.namespace)
    return match_labels(selector, ((namespace or {}).get("metadata") or {}).get("labels") or {})


async def _by_conditions(attempt: Attempt, hook: Object, matched: Resource, conditions: list[Object]) -> bool:
    """CEL. One condition that is false decides; an error decides only when none is."""
    from pilotfish.local.apiserver import cel  # noqa: PLC0415 - heavy, and few webhooks have conditions

    review = await _review(attempt, matched, hook, dry=attempt.request.dry_run)
    request = review["request"]
    problem = ""
    for condition in conditions:
        try:
            compiled = cel.compile_condition(condition["expression"])
            if not compiled.matches(request, request["object"], request["oldObject"]):
                return False
        except cel.CelError as error:
            problem = f"{condition.get('name', '')}: {error}"
    if not problem:
        return True
    if hook.get("failurePolicy") == "Ignore":
        return False
    resource = attempt.resource
    raise forbidden(resource.plural, resource.group, attempt.name, problem)


# ------------------------------------------------------------------------------------------------------------- reviews


async def _in_version(attempt: Attempt, obj: Object | None, matched: Resource) -> Object | None:
    if obj is None or attempt.foreign or matched.api_version == obj["apiVersion"]:
        return obj
    (converted,) = await attempt.core.convert(attempt.resource, [obj], matched.api_version)
    return converted


async def _review(attempt: Attempt, matched: Resource, hook: Object, *, dry: bool) -> Object:
    """The AdmissionReview of a write."""
    resource, target = attempt.resource, attempt.request.target
    versions = hook.get("admissionReviewVersions") or ["v1"]
    version = "v1" if "v1" in versions else versions[0]
    operation = attempt.operation

    def kind(of: Resource) -> Object:
        if attempt.foreign and attempt.obj is not None:
            group, _, api_version = attempt.obj["apiVersion"].rpartition("/")
            return {"group": group, "version": api_version, "kind": attempt.obj["kind"]}
        return {"group": of.group, "version": of.version, "kind": of.kind}

    def place(of: Resource) -> Object:
        return {"group": of.group, "version": of.version, "resource": of.plural}

    body: Object = {
        "uid": str(uuid.uuid4()),
        "kind": kind(matched),
        "resource": place(matched),
        "requestKind": kind(resource),
        "requestResource": place(resource),
        "name": attempt.name,
        "operation": operation,
        "userInfo": attempt.request.user.info(),
        "object": await _in_version(attempt, attempt.obj, matched),
        "oldObject": await _in_version(attempt, attempt.old, matched),
        "dryRun": dry,
        "options": _options(attempt),
    }
    if target.subresource:
        body["subResource"] = body["requestSubResource"] = target.subresource
    if resource.namespaced:
        body["namespace"] = target.namespace
    elif resource.kind == "Namespace" and not resource.group:
        body["namespace"] = attempt.name
    return {"kind": "AdmissionReview", "apiVersion": f"admission.k8s.io/{version}", "request": body}


def _options(attempt: Attempt) -> Object | None:
    if attempt.operation == "CONNECT":
        return None  # they are the object
    out: Object = {"kind": _OPTIONS[attempt.operation], "apiVersion": "meta.k8s.io/v1"}
    if attempt.operation == "DELETE":
        return out | {k: v for k, v in attempt.options.items() if k not in ("kind", "apiVersion")}
    query = attempt.request.query
    if attempt.request.dry_run:
        out["dryRun"] = ["All"]
    for field in ("fieldManager", "fieldValidation"):
        if query.get(field):
            out[field] = query[field]
    return out


def _checked(answer: Any, review: Object) -> Object:
    """The response in an AdmissionReview. Raises WebhookError for one that is not to this review."""
    if not isinstance(answer, dict):
        raise WebhookError("the answer is no AdmissionReview")
    wanted = (review["apiVersion"], review["kind"])
    given = (answer.get("apiVersion"), answer.get("kind"))
    if given != wanted:
        raise WebhookError(
            f"expected webhook response of {wanted[0]}, Kind={wanted[1]}, got {given[0]}, Kind={given[1]}"
        )
    response = answer.get("response")
    if not isinstance(response, dict):
        raise WebhookError("webhook response was absent")
    if response.get("uid") != review["request"]["uid"]:
        raise WebhookError(f"expected response.uid={review['request']['uid']!r}, got {response.get('uid')!r}")
    if response.get("patch") and response.get("patchType") != "JSONPatch":
        raise WebhookError(f"webhook response had patchType {response.get('patchType')!r}, expected JSONPatch")
    if response.get("patchType") and not response.get("patch"):
        raise WebhookError("webhook response had a patchType and no patch")
    return response


def _patch_of(hook: Object, response: Object) -> Any:
    text = response.get("patch")
    if not text:
        return None
    try:
        return msgspec.json.decode(base64.b64decode(text))
    except (binascii.Error, msgspec.DecodeError, TypeError) as error:
        raise internal(f'the patch of admission webhook "{hook["name"]}" cannot be read: {error}') from None


def _denied(name: str, status: Object) -> ApiError:
    by = f'admission webhook "{name}" denied the request'
    said = status.get("message") or status.get("reason")
    code = status.get("code") or 400
    return ApiError(
        code if isinstance(code, int) and code >= 400 else 400,
        status.get("reason") or "",
        f"{by}: {said}" if said else f"{by} without explanation",
        status.get("details") or {},
    )


# ------------------------------------------------------------------------------------------------------------ built in


async def _account_made(attempt: Attempt) -> None:
    """A controller makes a namespace's default account moments after the namespace; pods wait for it."""
    obj, core = _object(attempt), attempt.core
    if not built_in.needs_account(attempt.resource, attempt.operation, obj, core):
        return
    made = asyncio.Event()

    def noticed(_: object) -> None:
        made.set()

    accounts = core.store.bucket("/serviceaccounts")
    accounts.listeners.add(noticed)
    try:
        async with asyncio.timeout(_ACCOUNT_SECONDS):
            while built_in.needs_account(attempt.resource, attempt.operation, obj, core):
                made.clear()
                await made.wait()
    except TimeoutError:
        pass  # admission says what is missing
    finally:
        accounts.listeners.discard(noticed)


def _built_in_mutate(attempt: Attempt) -> None:
    """What the server itself changes."""
    if attempt.obj is not None and not attempt.request.target.subresource:
        built_in.mutate(attempt.resource, attempt.operation, attempt.obj, attempt.old, attempt.core)


def _built_in_validate(attempt: Attempt) -> None:
    """What the server itself refuses."""
    if attempt.obj is not None and not attempt.request.target.subresource:
        built_in.validate(attempt.resource, attempt.operation, attempt.obj, attempt.old, attempt.core)
