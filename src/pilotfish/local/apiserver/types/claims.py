"""The rules that PersistentVolumeClaims, their templates and PersistentVolumes share."""

from __future__ import annotations

from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.quantity import parse
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.validation import Errors

ACCESS_MODES = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
VOLUME_MODES = ("Block", "Filesystem")


def access_modes(path: str, modes: list[str]) -> Errors:
    errors: Errors = []
    if not modes:
        errors.append(FieldError.required(path, "at least 1 access mode"))
    for mode in modes:
        errors += v.one_of(path, mode, ACCESS_MODES, missing=False)
    known = {mode for mode in modes if mode in ACCESS_MODES}
    if "ReadWriteOncePod" in known and len(known) > 1:
        errors.append(FieldError.forbidden(path, "ReadWriteOncePod goes with no other access mode"))
    return errors


def spec(path: str, claim: dict[str, Any]) -> Errors:
    """What is wrong with the spec of a claim."""
    errors = access_modes(f"{path}.accessModes", claim.get("accessModes") or [])
    errors += v.label_selector(f"{path}.selector", claim.get("selector"))
    size = ((claim.get("resources") or {}).get("requests") or {}).get("storage")
    if size is None:
        errors.append(FieldError.required(f"{path}.resources[storage]"))
    elif parse(size) <= 0:
        errors.append(FieldError.invalid(f"{path}.resources[storage]", size, v.POSITIVE))
    if claim.get("storageClassName"):
        errors += v.check(f"{path}.storageClassName", claim["storageClassName"], v.dns_subdomain)
    if "volumeMode" in claim:
        errors += v.one_of(f"{path}.volumeMode", claim["volumeMode"], VOLUME_MODES, missing=False)
    if claim.get("volumeAttributesClassName"):
        errors += v.check(f"{path}.volumeAttributesClassName", claim["volumeAttributesClassName"], v.dns_subdomain)
    return errors + _sources(path, claim)


def _sources(path: str, claim: dict[str, Any]) -> Errors:
    source, ref = claim.get("dataSource"), claim.get("dataSourceRef")
    errors: Errors = []
    for name, one in (("dataSource", source), ("dataSourceRef", ref)):
        if one is not None:
            errors += _source(f"{path}.{name}", one)
    namespace = (ref or {}).get("namespace")
    if namespace:
        errors += v.check(f"{path}.dataSourceRef.namespace", namespace, v.dns_label)
        if source is not None:
            why = "dataSource may not be given with dataSourceRef.namespace"
            errors.append(FieldError.invalid(path, source, why))
    elif source is not None and ref is not None:
        fields = ("apiGroup", "kind", "name")
        if any((source.get(field) or "") != (ref.get(field) or "") for field in fields):
            errors.append(FieldError.invalid(path, source, "dataSource must match dataSourceRef"))
    return errors


def _source(path: str, source: dict[str, Any]) -> Errors:
    errors = v.required(f"{path}.name", source.get("name")) + v.required(f"{path}.kind", source.get("kind"))
    group = source.get("apiGroup") or ""
    if group:
        errors += v.check(f"{path}.apiGroup", group, v.dns_subdomain)
    elif source.get("kind") != "PersistentVolumeClaim":
        why = "must be 'PersistentVolumeClaim' without an apiGroup"
        errors.append(FieldError.invalid(path, source.get("kind", ""), why))
    return errors
