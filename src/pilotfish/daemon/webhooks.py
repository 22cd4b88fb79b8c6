"""The webhooks that the API server calls: `/inject` and `/validate`."""

from __future__ import annotations

import json
import logging
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from pilotfish import api, inject
from pilotfish.api import networking
from pilotfish.api.validation import Validation, validate
from pilotfish.daemon.metrics import Metrics
from pilotfish.envoy import envoy_filters
from pilotfish.inject.context import Context

log = logging.getLogger(__name__)

Object = dict[str, Any]
ALWAYS_REJECT = "istio.io/always-reject"
MAX_BODY = 16 * 1024 * 1024

ContextOf = Callable[[Object, str, Mapping[str, str]], Context]
"""A pod, its namespace and the URL's environment become what the templates read."""


def webhooks(metrics: Metrics, context_of: ContextOf) -> web.Application:
    """The HTTPS application of port 15017."""
    app = web.Application(client_max_size=MAX_BODY)

    async def on_inject(request: web.Request) -> web.Response:
        return await _review(request, lambda one: _inject(one, request.path, metrics, context_of))

    async def on_validate(request: web.Request) -> web.Response:
        return await _review(request, lambda one: _validate(one, metrics))

    async def ready(_: web.Request) -> web.Response:
        return web.Response()

    for path in ("/inject", "/inject/{tail:.*}"):
        app.router.add_post(path, on_inject)
    for path in ("/validate", "/validate/{tail:.*}"):
        app.router.add_post(path, on_validate)
    app.router.add_get("/ready", ready)
    return app


async def _review(request: web.Request, decide: Callable[[Object], Object]) -> web.Response:
    """One AdmissionReview to another of the same version."""
    try:
        review = await request.json()
        asked = review["request"]
    except (ValueError, KeyError, TypeError) as error:
        return web.Response(status=400, text=f"an AdmissionReview is expected: {error}\n")
    answer = {"uid": asked.get("uid", ""), **decide(asked)}
    body = {
        "apiVersion": review.get("apiVersion", "admission.k8s.io/v1"),
        "kind": "AdmissionReview",
        "response": answer,
    }
    return web.json_response(body)


def _denied(message: str, code: int = 422) -> Object:
    return {"allowed": False, "status": {"status": "Failure", "message": message, "code": code}}


# ------------------------------------------------------------------------------ injection


def url_environment(path: str) -> dict[str, str]:
    """`/inject/cluster/c1/net/n1` or `/inject/:ENV:K=V:ENV:K2=V2` as environment of the proxy."""
    rest = path.partition("/inject")[2].strip("/")
    if rest.startswith(":ENV:"):
        pairs = [part.partition("=") for part in rest.removeprefix(":ENV:").split(":ENV:")]
        found = {key: value for key, equals, value in pairs if equals}
    else:
        words = rest.split("/") if rest else []
        found = dict(zip(words[::2], words[1::2], strict=False))
    known = {"cluster": "ISTIO_META_CLUSTER_ID", "net": "ISTIO_META_NETWORK"}
    return {known.get(key, key): value.replace("--slash--", "/") for key, value in found.items()}


def _inject(asked: Object, path: str, metrics: Metrics, context_of: ContextOf) -> Object:
    started = time.perf_counter()
    metrics.injections.inc()
    pod: Object = asked.get("object") or {}
    namespace = asked.get("namespace") or (pod.get("metadata") or {}).get("namespace") or "default"
    name = (pod.get("metadata") or {}).get("name") or (pod.get("metadata") or {}).get("generateName", "")
    try:
        context = context_of(pod, namespace, url_environment(path))
        decision = inject.decide(pod, namespace, context.settings)
        if not decision.inject:
            metrics.injection_skip.inc()
            log.debug("pod %s/%s is not injected: %s", namespace, name, decision.why)
            return {"allowed": True}
        made = inject.inject(context)
    except inject.InjectionError as error:
        metrics.injection_failure.inc()
        log.warning("pod %s/%s cannot be injected: %s", namespace, name, error)
        return _denied(f"sidecar injection: {error}")
    operations = difference(pod, made)
    metrics.injection_success.inc()
    metrics.injection_time.observe(time.perf_counter() - started)
    if not operations:
        return {"allowed": True}
    patch = b64encode(json.dumps(operations, separators=(",", ":")).encode()).decode()
    return {"allowed": True, "patchType": "JSONPatch", "patch": patch}


def difference(old: Object, new: Object) -> list[Object]:
    """A JSON patch between two pods: whole fields of metadata and spec, which is what injection changes."""
    operations: list[Object] = []
    for part in ("metadata", "spec"):
        before, after = old.get(part), new[part]
        if before is None:
            operations.append({"op": "add", "path": f"/{part}", "value": after})
            continue
        for key, value in after.items():
            if before.get(key) != value:
                operations.append({"op": "add", "path": f"/{part}/{key}", "value": value})
        operations += [{"op": "remove", "path": f"/{part}/{key}"} for key in before if key not in after]
    return operations


# ------------------------------------------------------------------------------ validation


def _validate(asked: Object, metrics: Metrics) -> Object:
    resource = asked.get("resource") or {}
    labels = (resource.get("group", ""), resource.get("version", ""), resource.get("resource", ""))
    obj = asked.get("object")
    if not obj or asked.get("operation") == "DELETE":
        return {"allowed": True}
    if ALWAYS_REJECT in ((obj.get("metadata") or {}).get("annotations") or {}):
        metrics.validation_failed.inc(*labels, "invalid_resource")
        return _denied(f"annotation {ALWAYS_REJECT} asks for a refusal", 400)
    try:
        result = judge(obj)
    except api.DecodeError as error:
        metrics.validation_failed.inc(*labels, "invalid_resource")
        return _denied(f"configuration is invalid: {error}", 400)
    if result.errors:
        metrics.validation_failed.inc(*labels, "invalid_resource")
        text = "; ".join(str(one) for one in result.errors)
        return _denied(f"configuration is invalid: {text}", 400) | _warnings(result.warnings)
    metrics.validation_passed.inc(*labels)
    return {"allowed": True} | _warnings(result.warnings)


def judge(obj: Object) -> Validation:
    """What is wrong with an object. Raises DecodeError when it cannot be read."""
    config = api.decode(obj)
    errors, warnings = validate(config)
    if isinstance(config.spec, networking.EnvoyFilter):
        for path, reason, readable in envoy_filters.problems(config.spec):
            if readable:
                warnings.append(f"{path}: what Envoy does not know has no effect: {reason}")
            else:
                errors.append(api.FieldError(path, f"this is no configuration of Envoy: {reason}"))
    return Validation(errors, warnings)


def _warnings(texts: Any) -> Object:
    return {"warnings": [str(one) for one in texts]} if texts else {}
