"""What a pod may learn about itself: the downward API's `fieldRef` and `resourceFieldRef`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

Object = Mapping[str, Any]

_SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['(.*)'\]$")
_SUFFIXES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "E": Decimal(10) ** 18,
    "Ki": Decimal(1024),
    "Mi": Decimal(1024) ** 2,
    "Gi": Decimal(1024) ** 3,
    "Ti": Decimal(1024) ** 4,
    "Pi": Decimal(1024) ** 5,
    "Ei": Decimal(1024) ** 6,
}
_QUANTITY = re.compile(r"^([+-]?[0-9.]+)([eE][+-]?[0-9]+)?([numkMGTPE]|[KMGTPE]i)?$")


class FieldError(ValueError):
    """A reference to a field that does not exist; the text names it."""


def quantity(text: object) -> Decimal:
    """A Kubernetes quantity (`100m`, `1Gi`, `2e3`) as a number; raises `FieldError`."""
    match = _QUANTITY.match(str(text))
    try:
        if match is None:
            raise InvalidOperation
        number, exponent, suffix = match.groups()
        return Decimal(number + (exponent or "")) * _SUFFIXES[suffix or ""]
    except (InvalidOperation, KeyError) as error:
        raise FieldError(f"{text!r} is not a quantity") from error


def format_map(values: Mapping[str, str]) -> str:
    """Labels or annotations as lines `key="escaped value"`, sorted (kubelet's FormatMap)."""
    lines = []
    for key in sorted(values):
        escaped = values[key].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        lines.append(f'{key}="{escaped}"')
    return "\n".join(lines)


def field(pod: Object, path: str) -> str:
    """The value of a `fieldRef`. `pod.status` has to carry the addresses of now. Raises `FieldError`."""
    meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    match = _SUBSCRIPT.match(path)
    if match:
        return str((meta.get(match.group(1)) or {}).get(match.group(2), ""))
    simple = {
        "metadata.name": meta.get("name"),
        "metadata.namespace": meta.get("namespace"),
        "metadata.uid": meta.get("uid"),
        "spec.nodeName": spec.get("nodeName"),
        "spec.serviceAccountName": spec.get("serviceAccountName"),
        "status.hostIP": status.get("hostIP"),
        "status.podIP": status.get("podIP"),
        "status.hostIPs": ",".join(entry["ip"] for entry in status.get("hostIPs") or ()),
        "status.podIPs": ",".join(entry["ip"] for entry in status.get("podIPs") or ()),
    }
    if path in simple:
        return str(simple[path] or "")
    if path in {"metadata.labels", "metadata.annotations"}:
        return format_map(meta.get(path.partition(".")[2]) or {})
    raise FieldError(f"fieldPath {path!r} is not supported")


def resource(container: Object, name: str, divisor: object, allocatable: Mapping[str, str]) -> str:
    """The value of a `resourceFieldRef`, rounded up; a missing limit is what the node has."""
    kind, _, what = name.partition(".")
    if kind not in {"limits", "requests"} or not what:
        raise FieldError(f"resource {name!r} is not supported")
    resources = container.get("resources") or {}
    value = (resources.get(kind) or {}).get(what)
    if value is None and kind == "requests":
        value = (resources.get("limits") or {}).get(what)
    if value is None:
        value = allocatable.get(what, "0") if kind == "limits" else "0"
    unit = quantity(divisor) if divisor and str(divisor) != "0" else Decimal(1)
    return str(math.ceil(quantity(value) / unit))
