"""Objects as rows: the Table form that `kubectl get` prints, and the form that has only metadata."""

from __future__ import annotations

from typing import Any

from pilotfish.local.apiserver.resource import Object, Resource


def columns(resource: Resource) -> list[dict[str, Any]]:
    return [
        {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        }
        for column in resource.columns
    ]


def partial(obj: Object, version: str = "v1") -> Object:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": obj.get("metadata", {}),
    }


def row(resource: Resource, obj: Object, include: str, version: str) -> dict[str, Any]:
    """One row; `include` says what of the object rides along: Metadata (or nothing said), Object or None."""
    meta = obj.get("metadata", {})
    cells = resource.row(obj) if resource.row else [meta.get("name", ""), meta.get("creationTimestamp", "")]
    out: dict[str, Any] = {"cells": cells}
    if include == "Object":
        out["object"] = obj
    elif include != "None":
        out["object"] = partial(obj, version)
    return out


def of(
    resource: Resource,
    objects: list[Object],
    version: str,
    include: str,
    meta: dict[str, Any] | None = None,
    *,
    head: bool = True,
) -> Object:
    """A Table of these objects. Without `head` the columns are left out, as in the later events of a watch."""
    if meta is None:
        meta = {"resourceVersion": objects[0]["metadata"].get("resourceVersion", "")} if len(objects) == 1 else {}
    out: Object = {"kind": "Table", "apiVersion": f"meta.k8s.io/{version}", "metadata": meta}
    out["columnDefinitions"] = columns(resource) if head else None
    out["rows"] = [row(resource, obj, include, version) for obj in objects]
    return out
