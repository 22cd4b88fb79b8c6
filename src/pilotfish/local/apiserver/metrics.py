"""metrics.k8s.io, which `kubectl top` reads: made from the node's /stats/summary when somebody asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
from aiohttp import web

from pilotfish.local.apiserver import meta, respond, selectors
from pilotfish.local.apiserver.errors import ApiError, not_found
from pilotfish.local.apiserver.request import Request
from pilotfish.local.apiserver.resource import Object, Resource

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

GROUP = "metrics.k8s.io"
_PACKAGE = "io.k8s.metrics.pkg.apis.metrics.v1beta1"
_WINDOW = "15s"


def _resource(kind: str, plural: str, *, namespaced: bool) -> Resource:
    return Resource(
        group=GROUP,
        version="v1beta1",
        kind=kind,
        plural=plural,
        namespaced=namespaced,
        definition=f"{_PACKAGE}.{kind}",
        list_kind=kind + "List",
        verbs=("get", "list"),
        stored=False,
    )


def _definition(kind: str, **properties: Any) -> dict[str, Any]:
    known = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    times = {"timestamp": {"type": "string", "format": "date-time"}, "window": {"type": "string"}}
    return {
        "type": "object",
        "description": "What was used lately.",
        "properties": known | times | properties,
        "x-kubernetes-group-version-kind": [{"group": GROUP, "kind": kind, "version": "v1beta1"}],
    }


RESOURCES = (_resource("NodeMetrics", "nodes", namespaced=False), _resource("PodMetrics", "pods", namespaced=True))
DEFINITIONS = {
    f"{_PACKAGE}.NodeMetrics": _definition("NodeMetrics", usage={"type": "object"}),
    f"{_PACKAGE}.PodMetrics": _definition("PodMetrics", containers={"type": "array", "items": {"type": "object"}}),
}


async def answer(core: Core, request: Request, resource: Resource) -> web.StreamResponse:
    """get and list of node and pod metrics. Raises 503 while the node does not run."""
    try:
        async with core.node.session().get("http://node/stats/summary", timeout=aiohttp.ClientTimeout(10)) as got:
            summary = msgspec.json.decode(await got.read())
    except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
        raise ApiError(503, "ServiceUnavailable", f"the node does not say what is used: {error}") from None
    items = _nodes(core, summary) if resource.kind == "NodeMetrics" else _pods(core, summary)
    target = request.target
    if target.namespace:
        items = [item for item in items if item["metadata"].get("namespace") == target.namespace]
    if target.name:
        for item in items:
            if item["metadata"]["name"] == target.name:
                return await respond.value(request, item)
        raise not_found(resource.plural, GROUP, target.name)
    chosen = selectors.label_selector(request.query.get("labelSelector", ""))
    fields = selectors.field_selector(request.query.get("fieldSelector", ""), ())
    items = [item for item in items if _selected(item, chosen, fields)]
    head = {"kind": resource.list_kind, "apiVersion": resource.api_version, "metadata": {}}
    return await respond.value(request, head | {"items": items})


def _selected(item: Object, chosen: selectors.LabelTest | None, fields: list[selectors.FieldTerm]) -> bool:
    metadata = item["metadata"]
    if chosen is not None and not chosen(metadata.get("labels") or {}):
        return False
    values = {"metadata.name": metadata["name"], "metadata.namespace": metadata.get("namespace", "")}
    return selectors.match_fields(fields, values)


def _usage(stats: Object) -> Object:
    nanos = (stats.get("cpu") or {}).get("usageNanoCores", 0)
    size = (stats.get("memory") or {}).get("workingSetBytes", 0)
    return {"cpu": f"{nanos}n", "memory": f"{size // 1024}Ki"}


def _head(core: Core, kind: str, metrics_kind: str, namespace: str, name: str) -> Object | None:
    found = core.get("v1", kind, namespace, name)
    if found is None:
        return None
    metadata: Object = {"name": name, "creationTimestamp": meta.now()}
    if namespace:
        metadata["namespace"] = namespace
    if labels := found["metadata"].get("labels"):
        metadata["labels"] = labels
    head = {"kind": metrics_kind, "apiVersion": f"{GROUP}/v1beta1", "metadata": metadata}
    return head | {"timestamp": meta.now(), "window": _WINDOW}


def _nodes(core: Core, summary: Object) -> list[Object]:
    node = summary.get("node") or {}
    head = _head(core, "Node", "NodeMetrics", "", node.get("nodeName", ""))
    return [head | {"usage": _usage(node)}] if head else []


def _pods(core: Core, summary: Object) -> list[Object]:
    out = []
    for pod in summary.get("pods") or []:
        ref = pod.get("podRef") or {}
        head = _head(core, "Pod", "PodMetrics", ref.get("namespace", ""), ref.get("name", ""))
        if head:
            containers = [{"name": c["name"], "usage": _usage(c)} for c in pod.get("containers") or []]
            out.append(head | {"containers": containers})
    return out
