"""Injection of manifests, offline: every workload of a YAML stream, with the result the webhook would give."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml

from pilotfish.inject.context import Context
from pilotfish.inject.decision import decide
from pilotfish.inject.errors import InjectionError
from pilotfish.inject.pod import inject

Object = dict[str, Any]

TEMPLATES = {
    "Deployment": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Where a kind keeps its pod."""


def read(text: str, name: str) -> list[Object]:
    """The documents of a manifest, `List` objects taken apart. Raises InjectionError with line and column."""
    try:
        documents = [one for one in yaml.load_all(text, Loader=yaml.CSafeLoader) if one is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise InjectionError(f"{name}{where}: not YAML: {error.problem}") from error
    found: list[Object] = []
    for number, one in enumerate(documents, 1):
        if not isinstance(one, dict) or "kind" not in one:
            raise InjectionError(f"{name}: document {number} is not a Kubernetes object")
        found += one.get("items") or [] if one["kind"] == "List" else [one]
    return found


def inject_all(
    documents: Iterable[Object], context_of: Callable[[Object, str], Context], namespace: str
) -> list[Object]:
    """The documents with their pods injected; others stay as they are."""
    return [_one(document, context_of, namespace) for document in documents]


def _one(document: Object, context_of: Callable[[Object, str], Context], namespace: str) -> Object:
    kind, meta = document["kind"], document.get("metadata") or {}
    space = meta.get("namespace") or namespace
    if kind == "Pod":
        return {**document, **_inject(document, document, context_of, space)}
    path = TEMPLATES.get(kind)
    if path is None:
        return document
    made = copy.deepcopy(document)
    parent = made
    for key in path[:-1]:
        parent = parent.get(key) or {}
    template = parent.get(path[-1])
    if not isinstance(template, dict):
        return document
    parent[path[-1]] = _inject(template, document, context_of, space)
    return made


def _inject(template: Object, document: Object, context_of: Callable[[Object, str], Context], namespace: str) -> Object:
    """The pod as the webhook would see it, so that names derived from its owner come out the same."""
    meta = document.get("metadata") or {}
    pod = copy.deepcopy(template)
    if document["kind"] != "Pod":
        pod.setdefault("metadata", {})["ownerReferences"] = [_owner(document, str(meta.get("name", "")))]
    context = context_of(pod, namespace)
    if not decide(pod, namespace, context.settings).inject:
        return template
    try:
        made = inject(context)
    except InjectionError as error:
        raise InjectionError(f"{document['kind']} {namespace}/{meta.get('name', '')}: {error}") from error
    if document["kind"] != "Pod":
        del made["metadata"]["ownerReferences"]
    return made


def _owner(document: Mapping[str, Any], name: str) -> Object:
    return {"apiVersion": document.get("apiVersion", "v1"), "kind": document["kind"], "name": name, "controller": True}


def write(documents: Iterable[Object]) -> str:
    return "---\n".join(yaml.dump(one, Dumper=yaml.CSafeDumper, sort_keys=False, width=1000) for one in documents)
