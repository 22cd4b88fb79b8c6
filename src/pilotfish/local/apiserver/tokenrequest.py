"""serviceaccounts/NAME/token: a token for an account, perhaps bound to a pod, a secret or a node."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aiohttp import web

from pilotfish.local.apiserver import decode, meta, respond, schema, tokens, write
from pilotfish.local.apiserver.errors import FieldError, conflict, invalid, not_found
from pilotfish.local.apiserver.request import Request
from pilotfish.local.apiserver.resource import Object, Resource

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

_DEFINITION = "io.k8s.api.authentication.v1.TokenRequest"
_BINDABLE = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}


async def create(core: Core, request: Request, resource: Resource) -> web.StreamResponse:
    """Answer a TokenRequest."""
    target = request.target
    write.check_options(request, "CreateOptions")
    body = await decode.read(request)
    obj = decode.as_kind(decode.parse(body, decode.media_type(request)), "authentication.k8s.io/v1", "TokenRequest")
    compiled = core.registry.schema_named(_DEFINITION)
    decode.check(compiled, obj, request, [])
    schema.apply_defaults(compiled, obj)
    account = core.get("v1", "ServiceAccount", target.namespace, target.name)
    if account is None:
        raise not_found(resource.plural, resource.group, target.name)
    spec = obj.setdefault("spec", {})
    seconds = spec.setdefault("expirationSeconds", tokens.DEFAULT_SECONDS)
    errors = []
    if seconds < tokens.MIN_SECONDS:
        why = "may not specify a duration less than 10 minutes"
        errors.append(FieldError.invalid("spec.expirationSeconds", seconds, why))
    if seconds > tokens.MAX_SECONDS:
        why = "may not specify a duration larger than 2^32 seconds"
        errors.append(FieldError.invalid("spec.expirationSeconds", seconds, why))
    if errors:
        raise invalid("TokenRequest", "authentication.k8s.io", "", errors)
    await core.admission.ask(core, request, resource, "CREATE", obj)
    bound, node = _bound(core, request, account, spec.get("boundObjectRef"))
    spec["audiences"] = spec.get("audiences") or list(tokens.AUDIENCES)
    token, expires = core.tokens.issue(account, spec["audiences"], seconds, bound, node)
    obj["metadata"] = {"name": target.name, "namespace": target.namespace, "creationTimestamp": meta.now()}
    obj["status"] = {"token": token, "expirationTimestamp": meta.at(datetime.fromtimestamp(expires, UTC))}
    return await respond.one(request, resource, obj, 201)


def _bound(
    core: Core, request: Request, account: Object, ref: Object | None
) -> tuple[tuple[str, str, str] | None, tuple[str, str] | None]:
    """What the token is bound to, and the node of the pod it is bound to. Raises ApiError when it is not there."""
    if not ref:
        return None, None
    kind, name, uid = ref.get("kind", ""), ref.get("name", ""), ref.get("uid", "")
    plural = _BINDABLE.get(kind)
    if plural is None or ref.get("apiVersion") != "v1":
        what = f"{ref.get('apiVersion', '')}, Kind={kind}"
        error = FieldError.invalid("spec.boundObjectRef", what, "cannot bind token to object of this type")
        raise invalid("TokenRequest", "authentication.k8s.io", "", [error])
    namespace = "" if kind == "Node" else request.target.namespace
    found = core.get("v1", kind, namespace, name)
    if found is None:
        raise not_found(plural, "", name)
    real = found["metadata"]["uid"]
    if uid and uid != real:
        why = f"the UID in the bound object reference ({uid}) does not match the UID in record. "
        raise conflict(plural, "", name, why + "The object might have been deleted and then recreated")
    node = None
    if kind == "Pod":
        used = found["spec"].get("serviceAccountName", "")
        if used != account["metadata"]["name"]:
            why = f"cannot bind token for serviceaccount {account['metadata']['name']!r} to pod running with "
            error = FieldError.invalid("spec.boundObjectRef", name, why + f"different serviceaccount name {used!r}.")
            raise invalid("TokenRequest", "authentication.k8s.io", "", [error])
        if node_name := found["spec"].get("nodeName"):
            node_object = core.get("v1", "Node", "", node_name)
            node = (node_name, node_object["metadata"]["uid"] if node_object else "")
    return (kind.lower(), name, real), node
