"""get and list."""

from __future__ import annotations

import base64
import json
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from pilotfish.local.apiserver import respond, selectors, table
from pilotfish.local.apiserver.core import Core, encode, prefix_of
from pilotfish.local.apiserver.errors import ApiError, FieldError, bad_request, gone, invalid, not_found
from pilotfish.local.apiserver.registry import key_of
from pilotfish.local.apiserver.request import Request
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.store import Bucket, Item


def find(core: Core, resource: Resource, namespace: str, name: str) -> tuple[Bucket, str, Item | None]:
    bucket = core.registry.bucket(resource)
    key = key_of(namespace if resource.namespaced else "", name)
    return bucket, key, bucket.items.get(key)


async def get(core: Core, request: Request, resource: Resource) -> web.StreamResponse:
    target = request.target
    check_version(core, request)
    _, _, item = find(core, resource, target.namespace, target.name)
    if item is None:
        raise not_found(resource.plural, resource.group, target.name)
    if not request.accept.as_ and item.data.startswith(prefix_of(resource)):
        return await respond.raw(request, item.data)
    return await respond.one(request, resource, await core.load(resource, item))


def check_version(core: Core, request: Request, *, future: bool = False) -> int | None:
    """The resourceVersion of the query. Raises 400 for garbage and, unless `future`, 504 for one not yet reached."""
    text = request.query.get("resourceVersion", "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise _bad_version(text)
    version = int(text)
    if version > core.store.revision and not future:
        why = f"Too large resource version: {version}, current: {core.store.revision}"
        details = {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]}
        raise ApiError(504, "Timeout", why, details | {"retryAfterSeconds": 1})
    return version


def _bad_version(text: str) -> ApiError:
    error = FieldError.invalid("resourceVersion", text, f'strconv.ParseUint: parsing "{text}": invalid syntax')
    return ApiError(400, "BadRequest", str(error))


@dataclass(slots=True)
class Filter:
    """What a list or watch selects: objects under `prefix` that pass `test`; `test` None means all of them."""

    prefix: str
    test: Callable[[Object], bool] | None


def filter_of(request: Request, resource: Resource) -> Filter:
    """The selection of the query. Raises 400 for a selector that does not parse or that the kind does not know."""
    target = request.target
    prefix = f"{target.namespace}/" if resource.namespaced and target.namespace else ""
    labels = selectors.label_selector(request.query.get("labelSelector", ""))
    terms = selectors.field_selector(
        request.query.get("fieldSelector", ""), resource.field_labels, namespaced=resource.namespaced
    )
    if target.name:
        terms.append(("metadata.name", True, target.name))
    if labels is None and not terms:
        return Filter(prefix, None)
    only_meta = all(name.startswith("metadata.") for name, _, _ in terms)

    def test(obj: Object) -> bool:
        meta = obj["metadata"]
        if labels is not None and not labels(meta.get("labels") or {}):
            return False
        if not terms:
            return True
        values = {"metadata.name": meta.get("name", ""), "metadata.namespace": meta.get("namespace", "")}
        if not only_meta:
            values |= resource.strategy.field_labels(obj)
        return selectors.match_fields(terms, values)

    return Filter(prefix, test)


def _options(request: Request) -> None:
    """Refuse combinations that contradict each other, as ListOptions validation does."""
    match = request.query.get("resourceVersionMatch", "")
    version = request.query.get("resourceVersion", "")
    errors = []
    if "sendInitialEvents" in request.query and request.target.verb == "list":
        errors.append(FieldError.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"))
    if match:
        if match not in ("Exact", "NotOlderThan"):
            errors.append(FieldError.not_supported("resourceVersionMatch", match, ["Exact", "NotOlderThan", ""]))
        if not version:
            why = "resourceVersionMatch is forbidden unless resourceVersion is provided"
            errors.append(FieldError.forbidden("resourceVersionMatch", why))
        if request.query.get("continue"):
            why = "resourceVersionMatch is forbidden when continue is provided"
            errors.append(FieldError.forbidden("resourceVersionMatch", why))
        if match == "Exact" and version == "0":
            why = 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
            errors.append(FieldError.forbidden("resourceVersionMatch", why))
    if errors:
        raise invalid("ListOptions", "meta.k8s.io", "", errors)


def _continued(token: str) -> tuple[int, str]:
    """The revision and the last key of a page. Raises 400 for a token that we did not make."""
    try:
        value = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(value["rv"]), str(value["start"])
    except (ValueError, KeyError, TypeError):
        raise bad_request("continue key is not valid: it was not given out by this server") from None


def _continue(rv: int, last: str) -> str:
    text = json.dumps({"v": "meta.k8s.io/v1", "rv": rv, "start": last}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@dataclass(slots=True)
class Page:
    items: list[Item]
    revision: int
    token: str = ""
    remaining: int | None = None


def _page(core: Core, request: Request, resource: Resource, chosen: Filter) -> Page:
    bucket = core.registry.bucket(resource)
    limit = max(request.number("limit") or 0, 0)
    token = request.query.get("continue", "")
    revision, after = core.store.revision, ""
    if token:
        wanted, after = _continued(token)
        if request.query.get("resourceVersion", "") not in ("", "0"):
            raise bad_request("specifying resource version is not allowed when using continue")
        state = None if wanted == revision else _state(bucket, wanted, chosen.prefix)
        revision = wanted
    else:
        version = check_version(core, request)
        exact = request.query.get("resourceVersionMatch") == "Exact" or (
            bool(limit) and version and not request.query.get("resourceVersionMatch")
        )
        state = None
        if exact and version and version != revision:
            revision, state = version, _state(bucket, version, chosen.prefix)
    if state is None:
        keys = bucket.range(chosen.prefix)
        items = bucket.items
    else:
        keys, items = list(state), state
    start = bisect_right(keys, after) if after else 0
    test = chosen.test
    if not limit and test is None:
        return Page([items[key] for key in keys[start:]], revision)
    out: list[Item] = []
    last = ""
    for i in range(start, len(keys)):
        item = items[keys[i]]
        if test is not None and not test(item.decode()):
            continue
        if limit and len(out) == limit:
            left = None if test else len(keys) - i
            return Page(out, revision, _continue(revision, last), left)
        out.append(item)
        last = keys[i]
    return Page(out, revision)


def _state(bucket: Bucket, revision: int, prefix: str) -> dict[str, Item]:
    try:
        return dict(bucket.at(revision, prefix))
    except ApiError as error:
        raise gone(
            "The provided continue parameter is too old to display a consistent list result. You can start a new "
            "list without the continue parameter."
        ) from error


async def list_(core: Core, request: Request, resource: Resource) -> web.StreamResponse:
    _options(request)
    chosen = filter_of(request, resource)
    page = _page(core, request, resource, chosen)
    meta: dict[str, Any] = {"resourceVersion": str(page.revision)}
    if page.token:
        meta["continue"] = page.token
        if page.remaining is not None:
            meta["remainingItemCount"] = page.remaining
    form = request.accept
    if form.as_ == "Table":
        objects = [await core.load(resource, item) for item in page.items]
        include = request.query.get("includeObject", "")
        return await respond.value(request, table.of(resource, objects, form.v, include, meta))
    if form.as_ in ("PartialObjectMetadataList", "PartialObjectMetadata"):
        items = [table.partial(item.decode(), form.v) for item in page.items]
        head = {"kind": "PartialObjectMetadataList", "apiVersion": f"meta.k8s.io/{form.v}", "metadata": meta}
        return await respond.value(request, head | {"items": items})
    return await respond.raw(request, await list_bytes(core, resource, page.items, meta))


async def list_bytes(core: Core, resource: Resource, items: list[Item], meta: dict[str, Any]) -> bytes:
    """A list as bytes, its items copied from the store as they are. Built-in items do not repeat the list's kind."""
    prefix = prefix_of(resource)
    custom = core.registry.is_custom(resource)
    cut = 0 if custom else len(prefix)
    parts: list[bytes] = []
    odd: list[tuple[int, Object]] = []
    for item in items:
        if item.data.startswith(prefix):
            parts.append(b"{" + item.data[cut:] if cut else item.data)
        else:
            odd.append((len(parts), item.decode()))
            parts.append(b"")
    if odd:
        converted = await core.convert(resource, [obj for _, obj in odd], resource.api_version)
        for (place, _), obj in zip(odd, converted, strict=True):
            if not custom:
                obj = {key: value for key, value in obj.items() if key not in ("kind", "apiVersion")}  # noqa: PLW2901
            parts[place] = encode(obj)
    kind = resource.list_kind or resource.kind + "List"
    head = encode({"kind": kind, "apiVersion": resource.api_version, "metadata": meta})
    return b'%s,"items":[%s]}' % (head[:-1], b",".join(parts))
