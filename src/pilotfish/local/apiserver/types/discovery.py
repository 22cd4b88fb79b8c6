"""EndpointSlices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import pod_warnings, printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import resource
from pilotfish.local.apiserver.types.kind import Kind
from pilotfish.local.apiserver.types.pod_containers import PROTOCOLS
from pilotfish.local.apiserver.types.validation import Errors

_TYPES = ("FQDN", "IPv4", "IPv6")
_MAX_ENDPOINTS, _MAX_ADDRESSES, _MAX_PORTS, _MAX_HINTS, _MAX_TOPOLOGY = 1000, 100, 20000, 8, 16
_MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
_CONTROLLERS = ("endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io")


class EndpointSlices(Kind):
    immutable = ("addressType",)

    def default(self, obj: Object) -> None:
        for field in ("endpoints", "ports"):
            obj[field] = obj.get(field) or None
        for endpoint in obj["endpoints"] or ():
            endpoint.setdefault("conditions", {})
        for port in obj["ports"] or ():
            port.setdefault("name", "")
            port.setdefault("protocol", "TCP")

    def validate(self, obj: Object) -> Errors:
        kind = obj.get("addressType", "")
        errors = v.one_of("addressType", kind, _TYPES)
        errors += _ports(obj.get("ports") or [])
        endpoints = obj.get("endpoints") or []
        if len(endpoints) > _MAX_ENDPOINTS:
            return [*errors, FieldError.too_many("endpoints", len(endpoints), _MAX_ENDPOINTS)]
        for i, endpoint in enumerate(endpoints):
            errors += _endpoint(f"endpoints[{i}]", endpoint, kind)
        return errors

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        found = []
        if old is None and obj.get("addressType") == "FQDN":
            found.append("spec.addressType: FQDN endpoints are deprecated")
        if (obj["metadata"].get("labels") or {}).get(_MANAGED_BY) in _CONTROLLERS:
            return found
        for i, endpoint in enumerate(obj.get("endpoints") or []):
            for j, address in enumerate(endpoint.get("addresses") or []):
                found += pod_warnings.ip(f"endpoints[{i}].addresses[{j}]", address)
        return found


def _ports(ports: list[dict[str, Any]]) -> Errors:
    if len(ports) > _MAX_PORTS:
        return [FieldError.too_many("ports", len(ports), _MAX_PORTS)]
    errors: Errors = []
    names: set[str] = set()
    for i, port in enumerate(ports):
        path, name = f"ports[{i}]", port.get("name", "")
        if name:
            errors += v.check(f"{path}.name", name, v.dns_label)
        if name in names:
            errors.append(FieldError.duplicate(f"{path}.name", name))
        names.add(name)
        errors += v.one_of(f"{path}.protocol", port.get("protocol"), PROTOCOLS, missing=False)
        if "appProtocol" in port:
            errors += v.check(f"{path}.appProtocol", port["appProtocol"], v.qualified_name)
    return errors


def _endpoint(path: str, endpoint: Mapping[str, Any], kind: str) -> Errors:
    addresses, where = endpoint.get("addresses") or [], f"{path}.addresses"
    errors: Errors = []
    if not addresses:
        errors.append(FieldError.required(where, "at least 1 address"))
    elif len(addresses) > _MAX_ADDRESSES:
        errors.append(FieldError.too_many(where, len(addresses), _MAX_ADDRESSES))
    for i, address in enumerate(addresses):
        errors += _address(where, f"{where}[{i}]", address, kind)
    if "nodeName" in endpoint:
        errors += v.check(f"{path}.nodeName", endpoint["nodeName"], v.dns_subdomain)
    topology = endpoint.get("deprecatedTopology") or {}
    if len(topology) > _MAX_TOPOLOGY:
        errors.append(FieldError.too_many(f"{path}.deprecatedTopology", len(topology), _MAX_TOPOLOGY))
    errors += v.labels(f"{path}.deprecatedTopology", topology)
    if "hostname" in endpoint:
        errors += v.check(f"{path}.hostname", endpoint["hostname"], v.dns_label)
    for field, rule in (("forZones", v.label_value), ("forNodes", v.dns_subdomain)):
        hints, at = (endpoint.get("hints") or {}).get(field) or [], f"{path}.hints.{field}"
        if len(hints) > _MAX_HINTS:
            errors.append(FieldError.too_many(at, len(hints), _MAX_HINTS))
            break
        names = [hint.get("name", "") for hint in hints]
        for i, name in enumerate(names):
            if name in names[:i]:
                errors.append(FieldError.duplicate(f"{at}[{i}].name", name))
            errors += v.check(f"{at}[{i}].name", name, rule)
    return errors


def _address(list_path: str, path: str, address: str, kind: str) -> Errors:
    if kind == "FQDN":
        return v.qualified_domain(path, address.removesuffix("."), 2)
    if kind not in ("IPv4", "IPv6"):
        return []
    errors = v.ip(path, address) if kind == "IPv4" else v.canonical_ip(path, address)
    if errors:
        return errors
    found = v.parse_ip(address)
    if found is not None and found.version != int(kind[-1]):
        errors.append(FieldError.invalid(list_path, address, f"must be an {kind} address"))
    return errors + v.endpoint_ip(path, address)


def _row(obj: Object) -> list[Any]:
    ports = [str(port.get("port") or port.get("name", "*")) for port in obj.get("ports") or []]
    addresses = [address for endpoint in obj.get("endpoints") or [] for address in endpoint.get("addresses") or []]
    return [
        printing.name(obj),
        obj.get("addressType", ""),
        printing.shortened(ports, len(ports), printing.UNSET),
        printing.shortened(addresses, len(addresses), printing.UNSET),
        printing.age(obj),
    ]


RESOURCES = (
    resource(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        "endpointslices",
        has_generation=True,
        strategy=EndpointSlices(),
        columns=printing.columns("Name, AddressType, Ports, Endpoints, Age"),
        row=_row,
    ),
)
