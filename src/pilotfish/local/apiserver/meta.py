"""Metadata, which every kind has in common: what clients may set, what the server fills in, what is refused."""

from __future__ import annotations

import re
import secrets
import uuid
from datetime import UTC, datetime
from typing import Any

from pilotfish.local.apiserver.errors import FieldError, Reason
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.selectors import SUBDOMAIN_RULE, label_value_errors, qualified_name_errors

_RANDOM = "bcdfghjklmnpqrstvwxz2456789"
MAX_ANNOTATIONS = 256 * 1024
MAX_GENERATED = 58
"""Length a generateName is cut to, so that five random characters fit into a DNS label."""

LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
LABEL_1035_RULE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
LABEL_1035_RULE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

_LABEL_KINDS = {("", "namespaces"), ("", "services"), ("apps", "statefulsets")}
_PATH_GROUPS = {"rbac.authorization.k8s.io"}
_STANDARD_FINALIZERS = ("foregroundDeletion", "orphan", "kubernetes")
_FORBIDDEN_OWNERS = {("v1", "Event")}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def at(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def generated_name(base: str) -> str:
    return base[:MAX_GENERATED] + "".join(secrets.choice(_RANDOM) for _ in range(5))


def name_errors(resource: Resource, name: str) -> list[str]:
    """What is wrong with the name of an object of this kind."""
    key = (resource.group, resource.plural)
    if resource.group in _PATH_GROUPS:
        if name in (".", ".."):
            return [f"may not be '{name}'"]
        return [f"may not contain '{c}'" for c in "/%" if c in name]
    if key in _LABEL_KINDS:
        limit, pattern, rule = 63, _LABEL, LABEL_RULE
    else:
        limit, pattern, rule = 253, _SUBDOMAIN, SUBDOMAIN_RULE
    errors = []
    if len(name) > limit:
        errors.append(f"must be no more than {limit} bytes")
    if not pattern.fullmatch(name):
        errors.append(rule)
    return errors


def fill_for_create(resource: Resource, obj: Object, namespace: str) -> None:
    """What the server sets in a new object's metadata, whatever the client says."""
    meta = obj["metadata"]
    for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion", "generation"):
        meta.pop(field, None)
    if resource.namespaced:
        meta["namespace"] = namespace
    else:
        meta.pop("namespace", None)
    if not meta.get("name") and meta.get("generateName"):
        meta["name"] = generated_name(meta["generateName"])
    meta["uid"] = str(uuid.uuid4())
    meta["creationTimestamp"] = now()
    if resource.has_generation:
        meta["generation"] = 1


def validate(resource: Resource, obj: Object) -> list[FieldError]:
    """Errors in the metadata of an object, new or changed."""
    meta = obj["metadata"]
    errors: list[FieldError] = []
    name = meta.get("name", "")
    if base := meta.get("generateName"):
        shown = base[:-1] + "a" if len(base) > 1 and base.endswith("-") else base  # more follows the dash
        errors += [FieldError.invalid("metadata.generateName", base, e) for e in name_errors(resource, shown)]
    if not name:
        errors.append(FieldError.required("metadata.name", "name or generateName is required"))
    else:
        errors += [FieldError.invalid("metadata.name", name, e) for e in name_errors(resource, name)]
    if resource.namespaced and (namespace := meta.get("namespace")) and not _LABEL.fullmatch(namespace):
        errors.append(FieldError.invalid("metadata.namespace", namespace, LABEL_RULE))
    return errors + _common(meta)


def _common(meta: dict[str, Any]) -> list[FieldError]:
    return [
        *label_errors(meta.get("labels"), "metadata.labels"),
        *_annotation_errors(meta.get("annotations")),
        *_owner_errors(meta.get("ownerReferences")),
        *_finalizer_errors(meta.get("finalizers")),
    ]


def label_errors(labels: Any, path: str) -> list[FieldError]:
    errors: list[FieldError] = []
    for key, value in (labels or {}).items():
        errors += [FieldError.invalid(path, key, e) for e in qualified_name_errors(key)]
        errors += [FieldError.invalid(path, value, e) for e in label_value_errors(value)]
    return errors


def _annotation_errors(annotations: Any) -> list[FieldError]:
    errors: list[FieldError] = []
    size = 0
    for key, value in (annotations or {}).items():
        errors += [FieldError.invalid("metadata.annotations", key, e) for e in qualified_name_errors(key.lower())]
        size += len(key.encode()) + len(value.encode())
    if size > MAX_ANNOTATIONS:
        errors.append(FieldError.too_long("metadata.annotations", MAX_ANNOTATIONS))
    return errors


def _owner_errors(owners: Any) -> list[FieldError]:
    path = "metadata.ownerReferences"
    errors: list[FieldError] = []
    controller = ""
    for owner in owners or []:
        version, kind = owner.get("apiVersion", ""), owner.get("kind", "")
        if not version.rpartition("/")[2]:
            errors.append(FieldError.invalid(f"{path}.apiVersion", version, "version must not be empty"))
        for field, value in (("kind", kind), ("name", owner.get("name", "")), ("uid", owner.get("uid", ""))):
            if not value:
                errors.append(FieldError.invalid(f"{path}.{field}", "", "must not be empty"))
        if (version, kind) in _FORBIDDEN_OWNERS:
            errors.append(FieldError.invalid(path, f"{version}, Kind={kind}", "is disallowed from being an owner"))
        if owner.get("controller"):
            this = f"{kind}/{owner.get('name', '')}"
            if controller:
                both = f"{controller} and {this}"
                errors.append(
                    FieldError.invalid(
                        path,
                        owners,
                        f'Only one reference can have Controller set to true. Found "true" in references for {both}',
                    )
                )
            controller = this
    return errors


def _finalizer_errors(finalizers: Any) -> list[FieldError]:
    path = "metadata.finalizers"
    errors: list[FieldError] = []
    for i, name in enumerate(finalizers or []):
        wrong = qualified_name_errors(name)
        errors += [FieldError.invalid(path, name, e) for e in wrong]
        if not wrong and "/" not in name and name not in _STANDARD_FINALIZERS:
            errors.append(
                FieldError.invalid(
                    f"{path}[{i}]",
                    name,
                    "name is neither a standard finalizer name nor is it fully qualified",
                )
            )
    if {"foregroundDeletion", "orphan"} <= set(finalizers or []):
        why = "finalizer foregroundDeletion and orphan cannot be both set"
        errors.append(FieldError.invalid(path, finalizers, why))
    return errors


_KEPT = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink")
_IMMUTABLE = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")


def carry_for_update(new: Object, old: Object) -> None:
    """Fill in what a client may leave out of an update, and take back what it may not change."""
    meta, was = new["metadata"], old["metadata"]
    for field in _KEPT:
        if field in was and not meta.get(field):
            meta[field] = was[field]
    if "deletionTimestamp" in was:
        meta["deletionTimestamp"] = was["deletionTimestamp"]
    if "namespace" in was:
        meta.setdefault("namespace", was["namespace"])
    if "generation" in was:
        meta["generation"] = was["generation"]
    else:
        meta.pop("generation", None)


def validate_update(resource: Resource, new: Object, old: Object) -> list[FieldError]:
    """Errors that only a change of metadata can have, and those of its labels, annotations, owners and finalizers."""
    meta, was = new["metadata"], old["metadata"]
    errors: list[FieldError] = []
    if was.get("deletionTimestamp"):
        added = sorted(set(meta.get("finalizers") or []) - set(was.get("finalizers") or []))
        if added:
            listed = ", ".join(f'"{name}"' for name in added)
            why = (
                "no new finalizers can be added if the object is being deleted, "
                f"found new finalizers []string{{{listed}}}"
            )
            errors.append(FieldError.forbidden("metadata.finalizers", why))
    errors += [
        FieldError(Reason.INVALID, f"metadata.{field}", f"Invalid value: {_shown(meta.get(field))}: field is immutable")
        for field in _IMMUTABLE
        if meta.get(field) != was.get(field) and not (field == "namespace" and not resource.namespaced)
    ]
    return errors + _common(meta)


def _shown(value: Any) -> str:
    return "null" if value is None else f'"{value}"'


def spec_changed(new: Object, old: Object, *, status_counts: bool) -> bool:
    """Whether a change is one that raises metadata.generation."""
    ignored = {"metadata", "apiVersion", "kind"} | (set() if status_counts else {"status"})
    return any(new.get(key) != old.get(key) for key in (new.keys() | old.keys()) - ignored)
