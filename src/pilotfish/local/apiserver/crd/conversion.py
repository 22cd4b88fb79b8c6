"""Custom objects from one version of their kind to another."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from pilotfish.local.apiserver.crd.resources import defaults_came_later, schema_of
from pilotfish.local.apiserver.errors import internal
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.schema import Schema, apply_defaults, prune

CallWebhook = Callable[[Object, Object], Awaitable[Object]]
"""Post a review (second) to the webhook of a clientConfig (first) and return the answer; raises what goes wrong."""


async def convert_objects(
    crd: Object, objects: Sequence[Object], to_version: str, call_webhook: CallWebhook
) -> list[Object]:
    """The objects in `to_version` (`v1`), in the same order; those already in it only get defaults that came later.

    Strategy None changes only apiVersion; strategy Webhook asks once for all. Fields that the version lacks are
    pruned, its defaults are filled in. ApiError 500 when the webhook fails or answers something that is not the same
    objects in that version.
    """
    api_version = f"{crd['spec']['group']}/{to_version}"
    stale = [obj for obj in objects if obj.get("apiVersion") != api_version]
    fill = defaults_came_later(crd, to_version)
    if not stale and not fill:
        return list(objects)
    conversion = crd["spec"].get("conversion") or {}
    answered: Iterator[Object] = iter(())
    if stale and conversion.get("strategy") == "Webhook":
        answered = iter(await _ask(crd, conversion["webhook"], stale, api_version, call_webhook))
    elif stale:
        answered = iter([copy.deepcopy(obj) | {"apiVersion": api_version} for obj in stale])
    schema = schema_of(crd, to_version)
    out = []
    for obj in objects:
        if obj.get("apiVersion") != api_version:
            out.append(_fitted(schema, next(answered)))
        else:
            out.append(_fitted(schema, copy.deepcopy(obj)) if fill else obj)
    return out


def _fitted(schema: Schema, obj: Object) -> Object:
    prune(schema, obj)
    apply_defaults(schema, obj)
    return obj


async def _ask(
    crd: Object, webhook: Object, stale: list[Object], api_version: str, call_webhook: CallWebhook
) -> list[Object]:
    kind = crd["spec"]["names"]["kind"]
    group, _, version = stale[0]["apiVersion"].rpartition("/")
    failed = f"conversion webhook for {group}/{version}, Kind={kind} failed: "
    request: dict[str, Any] = {"uid": str(uuid.uuid4()), "desiredAPIVersion": api_version, "objects": stale}
    review = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "request": request}
    answer: Any = await call_webhook(webhook.get("clientConfig") or {}, review)
    response = answer.get("response") if isinstance(answer, dict) else None
    if not isinstance(response, dict) or answer.get("kind") != "ConversionReview":
        raise internal(failed + "the answer is no ConversionReview with a response")
    if response.get("uid") != request["uid"]:
        raise internal(failed + f"expected response.uid {request['uid']!r}, got {response.get('uid')!r}")
    result = response.get("result") or {}
    if result.get("status") != "Success":
        raise internal(failed + (result.get("message") or "no reason was given"))
    converted = response.get("convertedObjects") or []
    if len(converted) != len(stale):
        raise internal(failed + f"expected {len(stale)} converted objects, got {len(converted)}")
    return [_checked(old, new, api_version, failed) for old, new in zip(stale, converted, strict=True)]


def _checked(old: Object, new: Any, api_version: str, failed: str) -> Object:
    """A converted object is the same object; of its metadata only labels and annotations may differ."""
    problem = _difference(old, new, api_version)
    if problem:
        raise internal(failed + problem)
    before, after = old["metadata"], new["metadata"]
    meta = {key: value for key, value in before.items() if key not in ("labels", "annotations")}
    meta |= {key: after[key] for key in ("labels", "annotations") if after.get(key)}
    return {**new, "metadata": meta}


def _difference(old: Object, new: Any, api_version: str) -> str:
    if not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
        return "a converted object is no object with metadata"
    if new.get("apiVersion") != api_version:
        return f"expected converted objects of version {api_version}, got {new.get('apiVersion')}"
    if new.get("kind") != old.get("kind"):
        return f"expected converted objects of kind {old.get('kind')}, got {new.get('kind')}"
    for key in ("name", "namespace", "uid"):
        if new["metadata"].get(key, "") != old["metadata"].get(key, ""):
            return f"metadata.{key} must not change"
    return ""
