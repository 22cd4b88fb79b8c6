"""Acts on a pod that change it: binding it to a node, evicting it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from pilotfish.local.apiserver import decode, delete, meta, read, respond, write
from pilotfish.local.apiserver.core import ordered
from pilotfish.local.apiserver.errors import ApiError, FieldError, bad_request, conflict, invalid, not_found
from pilotfish.local.apiserver.request import Request
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.selectors import match_labels

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

_DONE = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


async def _body(request: Request, api_version: str, kind: str) -> Object:
    body = await decode.read(request)
    return decode.as_kind(decode.parse(body, decode.media_type(request)), api_version, kind)


async def bind(core: Core, request: Request, pods: Resource) -> web.StreamResponse:
    """pods/NAME/binding: a scheduler says on which node the pod runs."""
    write.check_options(request, "CreateOptions")
    binding = await _body(request, "v1", "Binding")
    target = request.target
    target.name = target.name or binding["metadata"].get("name", "")
    if binding["metadata"].get("name", "") != target.name:
        raise bad_request("name in URL does not match name in Binding object")
    to = binding.get("target") or {}
    errors = []
    if to.get("kind", "") not in ("", "Node"):
        errors.append(FieldError.not_supported("target.kind", to["kind"], ["Node", "<empty>"]))
    if not to.get("name"):
        errors.append(FieldError.required("target.name"))
    if errors:
        raise invalid("Binding", "", target.name, errors)
    _, _, item = read.find(core, pods, target.namespace, target.name)
    if item is None:
        raise not_found(pods.plural, "", target.name)
    await core.admission.ask(core, request, pods, "CREATE", binding)
    pod = await core.load(pods, item)
    why = ""
    if pod["metadata"].get("deletionTimestamp"):
        why = f"pod {target.name} is being deleted, cannot be assigned to a host"
    elif pod["spec"].get("nodeName"):
        why = f'pod {target.name} is already assigned to node "{pod["spec"]["nodeName"]}"'
    if why:
        raise conflict("pods/binding", "", target.name, why)
    pod["spec"]["nodeName"] = to["name"]
    if added := binding["metadata"].get("annotations"):
        pod["metadata"].setdefault("annotations", {}).update(added)
    _scheduled(pod)
    bucket, key, _ = read.find(core, pods, target.namespace, target.name)
    if not request.dry_run:
        core.store.put(bucket, key, ordered(pod, pods.kind, pods.api_version), item)
    return await respond.value(request, _DONE, 201)


def _scheduled(pod: Object) -> None:
    conditions = pod.setdefault("status", {}).setdefault("conditions", [])
    conditions[:] = [c for c in conditions if c.get("type") != "PodScheduled"]
    conditions.append(
        {
            "type": "PodScheduled",
            "status": "True",
            "lastProbeTime": None,
            "lastTransitionTime": meta.now(),
            "observedGeneration": pod["metadata"].get("generation", 0),
        }
    )


async def evict(core: Core, request: Request, pods: Resource) -> web.StreamResponse:
    """pods/NAME/eviction: delete a pod unless a disruption budget forbids it now (429)."""
    eviction = await _body(request, "policy/v1", "Eviction")
    target = request.target
    if eviction["metadata"].get("name", "") not in ("", target.name):
        raise bad_request("name in URL does not match name in Eviction object")
    given = eviction.get("deleteOptions") or {}
    if given.get("dryRun"):
        request.query = {**request.query, "dryRun": "All"}
    _, _, item = read.find(core, pods, target.namespace, target.name)
    if item is None:
        raise not_found(pods.plural, "", target.name)
    await core.admission.ask(core, request, pods, "CREATE", eviction)
    pod = await core.load(pods, item)
    phase = (pod.get("status") or {}).get("phase")
    if phase not in ("Succeeded", "Failed", "Pending") and not pod["metadata"].get("deletionTimestamp"):
        _spend(core, request, pod)
    await delete.remove(core, request, pods, target.name, given)
    return await respond.value(request, _DONE, 201)


def _spend(core: Core, request: Request, pod: Object) -> None:
    """Take one disruption from the budget that covers the pod. Raises 429 when none is left."""
    budgets = core.registry.find("policy", "v1", "poddisruptionbudgets")
    if budgets is None:
        return
    bucket = core.registry.bucket(budgets)
    labels = pod["metadata"].get("labels") or {}
    for key in bucket.range(pod["metadata"]["namespace"] + "/"):
        item = bucket.items[key]
        budget = item.decode()
        selector = (budget.get("spec") or {}).get("selector")
        if selector is None or not match_labels(selector, labels):
            continue
        status = budget.setdefault("status", {})
        left = status.get("disruptionsAllowed", 0)
        if left <= 0:
            message = (
                f"The disruption budget {budget['metadata']['name']} needs {status.get('desiredHealthy', 0)} healthy "
                f"pods and has {status.get('currentHealthy', 0)} currently"
            )
            raise ApiError(
                429,
                "TooManyRequests",
                "Cannot evict pod as it would violate the pod's disruption budget.",
                {"causes": [{"reason": "DisruptionBudget", "message": message}]},
            )
        if not request.dry_run:
            status["disruptionsAllowed"] = left - 1
            status.setdefault("disruptedPods", {})[pod["metadata"]["name"]] = meta.now()
            core.store.put(bucket, key, budget, item)
        return
