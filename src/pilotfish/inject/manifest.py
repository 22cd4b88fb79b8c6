"""Injection of manifests, offline: every workload of a YAML stream, with the result the webhook would give."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pilotfish.api.errors import DecodeError
from pilotfish.api.files import dump, load_one
from pilotfish.inject.context import Context
from pilotfish.inject.decision import decide
from pilotfish.inject.errors import InjectionError
from pilotfish.inject.pod import inject
from pilotfish.inject.workload import Workload

Object = dict[str, Any]
ContextOf = Callable[[Object, str], Context]
"""A pod and its namespace become what the templates read."""

_TEMPLATE = ("spec", "template")
TEMPLATES: dict[str, tuple[str, ...]] = {
    "Pod": (),
    "Deployment": _TEMPLATE,
    "ReplicaSet": _TEMPLATE,
    "StatefulSet": _TEMPLATE,
    "DaemonSet": _TEMPLATE,
    "ReplicationController": _TEMPLATE,
    "DeploymentConfig": _TEMPLATE,
    "Job": _TEMPLATE,
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Where a kind keeps its pod."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a manifest: as it is written, and what it says (None for comments alone)."""

    text: str
    value: Any


def read(text: str, name: str) -> list[Document]:
    """The documents of a manifest. Raises InjectionError with the line."""
    found: list[Document] = []
    line = 1
    for part in re.split(r"^---(?=\s|$)[^\S\n]*\n?", text, flags=re.MULTILINE):
        try:
            found.append(Document(part, load_one(part)))
        except DecodeError as error:
            raise InjectionError(f"{name}, document from line {line}: {error}") from error
        line += part.count("\n") + 1
    return [one for one in found if one.text.strip()]


def inject_all(
    documents: list[Document], context_of: ContextOf, namespace: str, warn: Callable[[str], None]
) -> Iterator[str]:
    """The documents as text, those with pods injected; others stay as they are written.

    `warn` is told of workloads that are left as they are, and why.
    """
    for document in documents:
        made = _one(document.value, context_of, namespace, warn) if isinstance(document.value, dict) else None
        if made is None or made == document.value:
            yield document.text if document.text.endswith("\n") else document.text + "\n"
        else:
            yield dump(made)


def _one(obj: Object, context_of: ContextOf, namespace: str, warn: Callable[[str], None]) -> Object:
    if obj.get("kind") == "List":
        items = [
            _one(one, context_of, namespace, warn) if isinstance(one, dict) else one for one in obj.get("items") or ()
        ]
        return {**obj, "items": items}
    path = TEMPLATES.get(str(obj.get("kind")))
    if path is None:
        return obj
    made = copy.deepcopy(obj)
    holder = made
    for key in path[:-1]:
        holder = holder.get(key) or {}
    template = holder.get(path[-1]) if path else made
    if not isinstance(template, dict):
        return obj
    injected = _inject(template, obj, context_of, namespace, warn)
    if not path:
        return {**made, **injected}
    holder[path[-1]] = injected
    return made


def _inject(
    template: Object, obj: Object, context_of: ContextOf, namespace: str, warn: Callable[[str], None]
) -> Object:
    meta, kind = obj.get("metadata") or {}, obj["kind"]
    space = meta.get("namespace") or (template.get("metadata") or {}).get("namespace") or namespace
    where = f"{kind} {space}/{meta.get('name') or meta.get('generateName') or ''}"
    context = context_of(template, space)
    if kind != "Pod":
        owner = Workload(str(meta.get("name") or ""), kind, str(obj.get("apiVersion") or "v1"), space)
        context = replace(context, owner=owner)
    # Whoever asks for a manifest wants it injected: only what the workload itself says can keep it out.
    asked = replace(context.settings, policy="enabled", never_inject=(), always_inject=())
    decision = decide(template, space, asked)
    if not decision.inject:
        warn(f"{where} is left as it is: {decision.why}")
        return template
    try:
        return inject(context)
    except InjectionError as error:
        raise InjectionError(f"{where}: {error}") from error
