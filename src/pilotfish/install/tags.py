"""Revision tags: names for revisions that namespaces are labelled with, so that a revision is changed in one place.

A tag is what istioctl and the chart's `revisionTags` make: a MutatingWebhookConfiguration that selects the tag's
namespaces and calls the revision, and a Service. Both are rendered from the chart, with what the revision's own webhook
has. The tag `default` also takes over `istio-injection=enabled` and the validation of objects without a revision.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from pilotfish.errors import UserError
from pilotfish.install.charts import Object, render
from pilotfish.kube.client import Client, PatchType
from pilotfish.kube.errors import ApiStatusError, is_not_found
from pilotfish.kube.resources import (
    MUTATING_WEBHOOK_CONFIGURATIONS,
    NAMESPACES,
    SERVICES,
    VALIDATING_WEBHOOK_CONFIGURATIONS,
    ResourceType,
)

MANAGER = "pilotfish-tag"
REVISION, TAG = "istio.io/rev", "istio.io/tag"
DEFAULT = "default"
VALIDATOR = "istiod-default-validator"
NEVER = {"matchLabels": {"istio.io/deactivated": "never-match"}}
"""A selector that istioctl too gives to webhooks that should stay and do nothing."""
_KINDS: dict[str, ResourceType] = {
    one.kind: one for one in (SERVICES, MUTATING_WEBHOOK_CONFIGURATIONS, VALIDATING_WEBHOOK_CONFIGURATIONS)
}


class Tag(NamedTuple):
    name: str
    """Empty for a revision that no tag points to."""
    revision: str
    namespaces: tuple[str, ...]


async def tags(client: Client, system: str) -> list[Tag]:
    """All tags, by revision and name; of a revision without one a row that says so."""
    found: set[tuple[str, str]] = set()
    for kind, namespace in ((MUTATING_WEBHOOK_CONFIGURATIONS, ""), (SERVICES, system)):
        for one in (await client.list(kind, namespace, labels=REVISION)).items:
            labels = one["metadata"]["labels"]
            found.add((labels[REVISION], labels.get(TAG, "")))
    tagged = {revision for revision, tag in found if tag}
    shown = sorted(pair for pair in found if pair[1] or pair[0] not in tagged)
    return [Tag(tag, revision, await _labelled(client, tag)) for revision, tag in shown]


async def _labelled(client: Client, tag: str) -> tuple[str, ...]:
    if not tag:
        return ()
    found = await client.list(NAMESPACES, labels=f"{REVISION}={tag}", metadata_only=True)
    return tuple(one["metadata"]["name"] for one in found.items)


async def generate(
    client: Client,
    tag: str,
    revision: str,
    system: str,
    *,
    overwrite: bool = False,
    name: str = "",
    every_namespace: bool = False,
) -> list[Object]:
    """The objects of a tag. `name`: of its webhook configuration; `every_namespace`: inject into all that say nothing.

    Raises UserError when there is no such revision, or when the name is taken and `overwrite` is off.
    """
    hooks = (await client.list(MUTATING_WEBHOOK_CONFIGURATIONS, labels=f"{REVISION}={revision},!{TAG}")).items
    if len(hooks) != 1:
        count = f"{len(hooks)} webhook configurations" if hooks else "no webhook configuration"
        raise UserError(f"revision {revision!r} has {count}: is it installed? `pilotfish tag list` shows revisions")
    if not overwrite:
        await _free(client, tag, system)
    (origin,) = hooks
    client_config = origin["webhooks"][0]["clientConfig"]
    values: Object = {
        "revision": "" if revision == DEFAULT else revision,
        "revisionTags": [tag],
        "global": {"istioNamespace": system},
        "sidecarInjectorWebhook": {
            "enableNamespacesByDefault": every_namespace,
            "reinvocationPolicy": origin["webhooks"][0].get("reinvocationPolicy", "Never"),
        },
        "istiodRemote": {"injectionURL": client_config.get("url", "")},
    }
    release = (origin["metadata"].get("labels") or {}).get("release", "istiod")
    rendered = render("istiod", release, system, values)
    made = [one for one in rendered if (one["metadata"].get("labels") or {}).get(TAG) == tag]
    for one in made:
        if one["kind"] == MUTATING_WEBHOOK_CONFIGURATIONS.kind:
            one["metadata"]["name"] = name or one["metadata"]["name"]
            _trust(one, client_config.get("caBundle"))
    if tag == DEFAULT:
        made.append(await _validator(client, revision, system, release, client_config.get("caBundle")))
    return sorted(made, key=lambda one: list(_KINDS).index(one["kind"]))


async def _free(client: Client, tag: str, system: str) -> None:
    for labels, what in ((f"{TAG}={tag}", "a tag"), (f"{REVISION}={tag},!{TAG}", "a revision")):
        if what == "a revision" and tag == DEFAULT:
            continue
        for kind, namespace in ((MUTATING_WEBHOOK_CONFIGURATIONS, ""), (SERVICES, system)):
            if (await client.list(kind, namespace, labels=labels, metadata_only=True)).items:
                raise UserError(f"there is {what} {tag!r} already; --overwrite changes it")


def _trust(configuration: Object, bundle: str | None) -> None:
    for hook in configuration["webhooks"] if bundle else ():
        hook["clientConfig"]["caBundle"] = bundle


async def _validator(client: Client, revision: str, system: str, release: str, bundle: str | None) -> Object:
    """The configuration by which a revision validates all objects that name none."""
    rendered = render("base", release, system, {"defaultRevision": revision, "global": {"istioNamespace": system}})
    made = next(one for one in rendered if one["metadata"]["name"] == VALIDATOR)
    _trust(made, bundle)
    try:
        present = await client.get(VALIDATING_WEBHOOK_CONFIGURATIONS, VALIDATOR)
    except ApiStatusError as error:
        if not is_not_found(error):
            raise
        return made
    # Once a control plane has set Fail it must not be taken back.
    policies = {hook["name"]: hook.get("failurePolicy", "Fail") for hook in present.get("webhooks") or ()}
    for hook in made["webhooks"]:
        hook["failurePolicy"] = policies.get(hook["name"], hook["failurePolicy"])
    return made


async def create(client: Client, tag: str, objects: Iterable[Object]) -> None:
    """Apply a tag's objects."""
    if tag == DEFAULT:
        await _deactivate(client)
    for one in objects:
        await client.apply(one, MANAGER, force=True, resource=_KINDS[one["kind"]])


async def _deactivate(client: Client) -> None:
    """The webhook of the revision without a name stays, and selects nothing: two would inject into the same pods."""
    found = await client.list(MUTATING_WEBHOOK_CONFIGURATIONS, labels=f"{REVISION}={DEFAULT},!{TAG}")
    for one in found.items:
        changes: list[dict[str, Any]] = [
            {"op": "add", "path": f"/webhooks/{number}/{selector}", "value": NEVER}
            for number in range(len(one.get("webhooks") or ()))
            for selector in ("namespaceSelector", "objectSelector")
        ]
        await client.patch(MUTATING_WEBHOOK_CONFIGURATIONS, one["metadata"]["name"], changes, patch_type=PatchType.JSON)


async def users(client: Client, tag: str, system: str) -> tuple[str, ...]:
    """The namespaces labelled with a tag. Raises UserError when there is no such tag."""
    labels = f"{TAG}={tag}"
    for kind, namespace in ((MUTATING_WEBHOOK_CONFIGURATIONS, ""), (SERVICES, system)):
        if (await client.list(kind, namespace, labels=labels, metadata_only=True)).items:
            return await _labelled(client, tag)
    raise UserError(f"there is no tag {tag!r}; `pilotfish tag list` shows those there are")


async def remove(client: Client, tag: str, system: str) -> None:
    """Delete a tag's objects."""
    for kind in reversed(_KINDS.values()):
        namespace = system if kind is SERVICES else ""
        for one in (await client.list(kind, namespace, labels=f"{TAG}={tag}", metadata_only=True)).items:
            await client.delete(kind, one["metadata"]["name"], namespace)
