"""Services and Endpoints. Addresses and node ports are given out by the server (`services.py` there)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.resource import Object, Subresource
from pilotfish.local.apiserver.types import pod_warnings, printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import PROXY_VERBS, resource
from pilotfish.local.apiserver.types.kind import Kind, spec_of, status_of
from pilotfish.local.apiserver.types.pod_containers import PROTOCOLS
from pilotfish.local.apiserver.types.validation import Errors

Spec = dict[str, Any]

TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
_WITH_NODE_PORTS = ("NodePort", "LoadBalancer")
_POLICIES = ("Cluster", "Local")
_FAMILIES = ("IPv4", "IPv6")
_FAMILY_POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")
_DISTRIBUTIONS = ("PreferClose", "PreferSameNode", "PreferSameZone")
_AFFINITY_SECONDS = 10800
_SOURCE_RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges"
_HINTS = "service.kubernetes.io/topology-aware-hints"
_MODE = "service.kubernetes.io/topology-mode"


def _is_external(spec: Mapping[str, Any]) -> bool:
    """Whether it can be reached from outside the cluster."""
    kind = spec.get("type")
    return kind in _WITH_NODE_PORTS or (kind == "ClusterIP" and bool(spec.get("externalIPs")))


def _is_headless(spec: Mapping[str, Any]) -> bool:
    return spec.get("clusterIPs") == ["None"]


def _has_addresses(spec: Mapping[str, Any]) -> bool:
    return spec.get("type") != "ExternalName"


def _needs_health_check(spec: Mapping[str, Any]) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


class Services(Kind):
    new_status: Mapping[str, Any] = {"loadBalancer": {}}

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        if not spec.get("sessionAffinity"):
            spec["sessionAffinity"] = "None"
        if spec["sessionAffinity"] == "None":
            spec.pop("sessionAffinityConfig", None)
        elif spec["sessionAffinity"] == "ClientIP":
            config = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
            if "timeoutSeconds" not in config:
                spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": _AFFINITY_SECONDS}}
        kind = spec["type"] = spec.get("type") or "ClusterIP"
        for port in spec.get("ports") or ():
            if not port.get("targetPort"):
                port["targetPort"] = port.get("port", 0)
        if _is_external(spec):
            spec.setdefault("externalTrafficPolicy", "Cluster")
        if kind in TYPES[:3]:
            spec.setdefault("internalTrafficPolicy", "Cluster")
        if kind == "LoadBalancer":
            spec.setdefault("allocateLoadBalancerNodePorts", True)
            for ingress in (status_of(obj).get("loadBalancer") or {}).get("ingress") or ():
                if ingress.get("ip"):
                    ingress.setdefault("ipMode", "VIP")

    def prepare_for_create(self, obj: Object) -> None:
        super().prepare_for_create(obj)
        spec = obj["spec"]
        if spec.get("clusterIP") and not spec.get("clusterIPs"):
            spec["clusterIPs"] = [spec["clusterIP"]]

    def prepare_for_update(self, new: Object, old: Object) -> None:
        spec, was = new["spec"], spec_of(old)
        _drop_by_type(spec, was)
        if spec["type"] != "LoadBalancer" and "status" in new:
            new["status"]["loadBalancer"] = {}
        _keep_allocated(spec, was)
        _join_addresses(spec, was)

    def validate(self, obj: Object) -> Errors:
        spec, annotations = spec_of(obj), obj["metadata"].get("annotations") or {}
        errors: Errors = []
        if annotations.get(_MODE, annotations.get(_HINTS)) != annotations.get(_HINTS, annotations.get(_MODE)):
            why = f"must match annotations[{_HINTS}] when both are specified"
            errors.append(FieldError.invalid(f"metadata.annotations[{_MODE}]", annotations[_MODE], why))
        kind, ports = spec.get("type", ""), spec.get("ports") or []
        headless = _is_headless(spec)
        if not ports and not headless and kind != "ExternalName":
            errors.append(FieldError.required("spec.ports"))
        if headless and kind in _WITH_NODE_PORTS:
            why = f"may not be set to 'None' for {kind} services"
            errors.append(FieldError.invalid("spec.clusterIPs[0]", "None", why))
        if kind == "ExternalName":
            errors += _external_name(spec)
        errors += _ports(ports, kind)
        errors += v.labels("spec.selector", spec.get("selector"))
        errors += _session_affinity(spec)
        errors += _cluster_ips(spec)
        for i, address in enumerate(spec.get("externalIPs") or []):
            path = f"spec.externalIPs[{i}]"
            errors += v.ip(path, address) or v.endpoint_ip(path, address)
        errors += v.one_of("spec.type", kind, TYPES)
        errors += _load_balancer(spec, annotations)
        return errors + _traffic(spec)

    def validate_update(self, new: Object, old: Object) -> Errors:
        spec, was = spec_of(new), spec_of(old)
        errors: Errors = []
        if _has_addresses(spec) and _has_addresses(was):
            errors += _address_changes(spec, was)
        if spec.get("type") == was.get("type") == "LoadBalancer" and spec.get("loadBalancerClass") != was.get(
            "loadBalancerClass"
        ):
            value = spec.get("loadBalancerClass")
            errors.append(FieldError.invalid("spec.loadBalancerClass", value, "may not change once set"))
        if (
            _needs_health_check(was)
            and _needs_health_check(spec)
            and was.get("healthCheckNodePort") != spec.get("healthCheckNodePort")
        ):
            errors.append(FieldError.forbidden("spec.healthCheckNodePort", v.IMMUTABLE))
        return errors

    def validate_status_update(self, new: Object, old: Object) -> Errors:
        ingress = (status_of(new).get("loadBalancer") or {}).get("ingress") or []
        if ingress and spec_of(new).get("type") != "LoadBalancer":
            why = "may only be used when `spec.type` is 'LoadBalancer'"
            return [FieldError.forbidden("status.loadBalancer.ingress", why)]
        before = {one.get("ip") for one in (status_of(old).get("loadBalancer") or {}).get("ingress") or []}
        errors: Errors = []
        for i, one in enumerate(ingress):
            path = f"status.loadBalancer.ingress[{i}]"
            errors += load_balancer_address(path, one, before)
            if "ipMode" in one and not one.get("ip"):
                errors.append(FieldError.forbidden(f"{path}.ipMode", "may not be specified when `ip` is not set"))
            elif "ipMode" in one:
                errors += v.one_of(f"{path}.ipMode", one["ipMode"], ("Proxy", "VIP"), missing=False)
            elif one.get("ip"):
                errors.append(FieldError.required(f"{path}.ipMode", "must be specified when `ip` is set"))
        return errors

    def concerns(self, obj: Object) -> list[str]:
        spec = spec_of(obj)
        found = []
        if _HINTS in (obj["metadata"].get("annotations") or {}):
            found.append(f"annotation {_HINTS} is deprecated, please use {_MODE} instead")
        addresses = spec.get("clusterIPs") or [] if spec.get("clusterIP") not in (None, "", "None") else []
        for i, address in enumerate(addresses):
            found += pod_warnings.ip(f"spec.clusterIPs[{i}]", address)
        external = spec.get("externalIPs") or []
        headless = spec.get("type") == "ClusterIP" and spec.get("clusterIP") == "None"
        if headless:
            if spec.get("loadBalancerIP"):
                found.append("spec.loadBalancerIP is ignored for headless services")
            if external:
                found.append("spec.externalIPs is ignored for headless services")
            if spec.get("sessionAffinity") != "None":
                found.append("spec.SessionAffinity is ignored for headless services")
        for i, address in enumerate(external):
            found += pod_warnings.ip(f"spec.externalIPs[{i}]", address)
        named = spec.get("type") == "ExternalName"
        if external and not headless and not named:
            found.append("spec.externalIPs is deprecated and may no longer be implemented in some clusters")
        if spec.get("loadBalancerIP"):
            found += pod_warnings.ip("spec.loadBalancerIP", spec["loadBalancerIP"])
        if named and external:
            found.append('spec.externalIPs is ignored when spec.type is "ExternalName"')
        if not named and spec.get("externalName"):
            found.append('spec.externalName is ignored when spec.type is not "ExternalName"')
        if spec.get("trafficDistribution") == "PreferClose":
            found.append('spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"')
        return found

    def field_labels(self, obj: Object) -> Mapping[str, str]:
        spec = spec_of(obj)
        return {"spec.clusterIP": spec.get("clusterIP", ""), "spec.type": spec.get("type", "")}


# ------------------------------------------------------------------------------------------------ what an update keeps


def _drop_by_type(spec: Spec, was: Mapping[str, Any]) -> None:
    """Fields that the former type needed and the new one cannot have go, unless the client changed them."""
    if _has_addresses(was) and not _has_addresses(spec):
        if (spec.get("clusterIP"), spec.get("clusterIPs")) == (was.get("clusterIP"), was.get("clusterIPs")):
            spec.pop("clusterIP", None)
            spec.pop("clusterIPs", None)
        for field in ("ipFamilies", "ipFamilyPolicy"):
            if spec.get(field) == was.get(field):
                spec.pop(field, None)
    if (
        was.get("type") in _WITH_NODE_PORTS
        and spec["type"] not in _WITH_NODE_PORTS
        and _node_ports(was) >= _node_ports(spec)
    ):
        for port in spec.get("ports") or ():
            port.pop("nodePort", None)
    if (
        _needs_health_check(was)
        and not _needs_health_check(spec)
        and was.get("healthCheckNodePort") == spec.get("healthCheckNodePort")
    ):
        spec.pop("healthCheckNodePort", None)
    if was.get("type") == "LoadBalancer" and spec["type"] != "LoadBalancer":
        for field in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            if spec.get(field) == was.get(field):
                spec.pop(field, None)
    if (
        _is_external(was)
        and not _is_external(spec)
        and was.get("externalTrafficPolicy") == spec.get("externalTrafficPolicy")
    ):
        spec.pop("externalTrafficPolicy", None)


def _node_ports(spec: Mapping[str, Any]) -> set[int]:
    return {port["nodePort"] for port in spec.get("ports") or () if port.get("nodePort")}


def _keep_allocated(spec: Spec, was: Mapping[str, Any]) -> None:
    """A client that leaves out what the server gave means to keep it."""
    if _has_addresses(was) and _has_addresses(spec):
        for field in ("clusterIP", "clusterIPs"):
            if not spec.get(field) and was.get(field):
                spec[field] = was[field]
        for field in ("ipFamilies", "ipFamilyPolicy"):
            if field not in spec and field in was:
                spec[field] = was[field]
    if was.get("type") in _WITH_NODE_PORTS and spec["type"] in _WITH_NODE_PORTS:
        used = _node_ports(was) & _node_ports(spec)
        by_name = {port.get("name", ""): port.get("nodePort", 0) for port in was.get("ports") or ()}
        for port in spec.get("ports") or ():
            number = by_name.get(port.get("name", ""))
            if number and not port.get("nodePort") and number not in used:
                port["nodePort"] = number
    if (
        _needs_health_check(was)
        and _needs_health_check(spec)
        and not spec.get("healthCheckNodePort")
        and was.get("healthCheckNodePort")
    ):
        spec["healthCheckNodePort"] = was["healthCheckNodePort"]


def _join_addresses(spec: Spec, was: Mapping[str, Any]) -> None:
    """clusterIP and the first of clusterIPs are one and the same; a client may change either."""
    one, all_ = spec.get("clusterIP", ""), spec.get("clusterIPs") or []
    if was.get("clusterIPs") and not all_ and was.get("clusterIP") == one:
        spec["clusterIPs"] = was["clusterIPs"]
    if was.get("clusterIP", "") != one and (was.get("clusterIPs") or []) == (spec.get("clusterIPs") or []):
        if was.get("clusterIP") and not one:
            spec.pop("clusterIPs", None)
        else:
            spec["clusterIPs"] = [one]


# ------------------------------------------------------------------------------------------------ what is wrong


def _external_name(spec: Spec) -> Errors:
    why = "may not be set for ExternalName services"
    fields = ("clusterIPs", "ipFamilies", "ipFamilyPolicy")
    errors = [FieldError.forbidden(f"spec.{field}", why) for field in fields if spec.get(field)]
    return errors + v.required("spec.externalName", spec.get("externalName", "").removesuffix("."), v.dns_subdomain)


def _ports(ports: list[dict[str, Any]], kind: str) -> Errors:
    errors: Errors = []
    names: set[str] = set()
    node_ports: set[tuple[str, int]] = set()
    numbers: set[tuple[str, int]] = set()
    for i, port in enumerate(ports):
        path, name, protocol = f"spec.ports[{i}]", port.get("name", ""), port.get("protocol", "")
        if name:
            errors += v.check(f"{path}.name", name, v.dns_label)
            if name in names:
                errors.append(FieldError.duplicate(f"{path}.name", name))
            names.add(name)
        elif len(ports) > 1:
            errors.append(FieldError.required(f"{path}.name"))
        errors += v.check(f"{path}.port", port.get("port", 0), v.port_number)
        errors += v.one_of(f"{path}.protocol", protocol, PROTOCOLS)
        errors += v.port_number_or_name(f"{path}.targetPort", port.get("targetPort", 0))
        if "appProtocol" in port:
            errors += v.check(f"{path}.appProtocol", port["appProtocol"], v.qualified_name)
        node_port = port.get("nodePort", 0)
        if node_port:
            if kind == "ClusterIP":
                why = "may not be used when `type` is 'ClusterIP'"
                errors.append(FieldError.forbidden(f"{path}.nodePort", why))
            if (protocol, node_port) in node_ports:
                errors.append(FieldError.duplicate(f"{path}.nodePort", node_port))
            node_ports.add((protocol, node_port))
        key = (protocol, port.get("port", 0))
        if key in numbers:
            errors.append(FieldError.duplicate(path, {"port": key[1], "protocol": protocol}))
        numbers.add(key)
    return errors


def _session_affinity(spec: Spec) -> Errors:
    kind = spec.get("sessionAffinity", "")
    errors = v.one_of("spec.sessionAffinity", kind, ("ClientIP", "None"))
    seconds = ((spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}).get("timeoutSeconds", 1)
    if kind == "ClientIP" and not 0 < seconds <= 86400:
        why = "must be greater than 0 and at most 86400"
        errors.append(FieldError.invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, why))
    return errors


def _cluster_ips(spec: Spec) -> Errors:
    if not _has_addresses(spec):
        return []
    errors: Errors = []
    one, all_ = spec.get("clusterIP", ""), spec.get("clusterIPs") or []
    if one and not all_:
        errors.append(FieldError.required("spec.clusterIPs"))
    elif one and all_[0] != one:
        errors.append(FieldError.invalid("spec.clusterIPs", all_, "first value must match `clusterIP`"))
    elif all_ and not one:
        errors.append(FieldError.invalid("spec.clusterIPs", all_, "must be empty when `clusterIP` is not specified"))
    errors += _families(spec)
    wrong: Errors = []
    for i, address in enumerate(all_):
        if i or address != "None":
            wrong += v.ip(f"spec.clusterIPs[{i}]", address)
        elif len(all_) > 1:
            wrong.append(FieldError.invalid("spec.clusterIPs", all_, "'None' must be the first and only value"))
    errors += wrong
    if len(all_) > 2:
        errors.append(FieldError.invalid("spec.clusterIPs", all_, "may only hold up to 2 values"))
    return errors if wrong or _is_headless(spec) else errors + _versions(spec, all_)


def _families(spec: Spec) -> Errors:
    errors: Errors = []
    seen: set[str] = set()
    for i, family in enumerate(spec.get("ipFamilies") or []):
        errors += v.one_of(f"spec.ipFamilies[{i}]", family, _FAMILIES, missing=False)
        if family in seen:
            errors.append(FieldError.duplicate(f"spec.ipFamilies[{i}]", family))
        seen.add(family)
    if "ipFamilyPolicy" in spec:
        errors += v.one_of("spec.ipFamilyPolicy", spec["ipFamilyPolicy"], _FAMILY_POLICIES, missing=False)
    return errors


def _versions(spec: Spec, addresses: list[str]) -> Errors:
    """One address of a family, in the order of the families."""
    errors: Errors = []
    versions = [address.version for text in addresses if (address := v.parse_ip(text))]
    if len(addresses) > 1 and len(set(versions)) != 2:
        why = "may specify no more than one IP for each IP family"
        errors.append(FieldError.invalid("spec.clusterIPs", addresses, why))
    for i, (version, family) in enumerate(zip(versions, spec.get("ipFamilies") or [], strict=False)):
        if family in _FAMILIES and family != f"IPv{version}":
            why = f"expected an {family} value as indicated by `ipFamilies[{i}]`"
            errors.append(FieldError.invalid(f"spec.clusterIPs[{i}]", addresses[i], why))
    return errors


def _load_balancer(spec: Spec, annotations: Mapping[str, str]) -> Errors:
    errors: Errors = []
    balanced = spec.get("type") == "LoadBalancer"
    only = "may only be used when `type` is 'LoadBalancer'"
    ranges, path = spec.get("loadBalancerSourceRanges") or [], "spec.LoadBalancerSourceRanges"
    if ranges:
        if not balanced:
            errors.append(FieldError.forbidden(path, only))
        for i, value in enumerate(ranges):
            errors += v.cidr(f"{path}[{i}]", value.strip())
    elif _SOURCE_RANGES in annotations:
        path, text = f"metadata.annotations[{_SOURCE_RANGES}]", annotations[_SOURCE_RANGES].strip()
        if not balanced:
            errors.append(FieldError.forbidden(path, only))
        for value in text.split(",") if text else []:
            errors += v.cidr(path, value.strip())
    if "allocateLoadBalancerNodePorts" in spec and not balanced:
        errors.append(FieldError.forbidden("spec.allocateLoadBalancerNodePorts", only))
    if "loadBalancerClass" in spec:
        if balanced:
            errors += v.check("spec.loadBalancerClass", spec["loadBalancerClass"], v.qualified_name)
        else:
            errors.append(FieldError.forbidden("spec.loadBalancerClass", only))
    return errors


def _traffic(spec: Spec) -> Errors:
    errors: Errors = []
    policy, path = spec.get("externalTrafficPolicy", ""), "spec.externalTrafficPolicy"
    if _is_external(spec):
        errors += v.one_of(path, policy, _POLICIES)
    elif policy:
        errors.append(FieldError.invalid(path, policy, "may only be set for externally-accessible services"))
    port = spec.get("healthCheckNodePort", 0)
    if port and _needs_health_check(spec):
        errors += v.check("spec.healthCheckNodePort", port, v.port_number)
    elif port:
        why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        errors.append(FieldError.invalid("spec.healthCheckNodePort", port, why))
    if "internalTrafficPolicy" in spec:
        errors += v.one_of("spec.internalTrafficPolicy", spec["internalTrafficPolicy"], _POLICIES, missing=False)
    if "trafficDistribution" in spec:
        errors += v.one_of("spec.trafficDistribution", spec["trafficDistribution"], _DISTRIBUTIONS, missing=False)
    return errors


def _address_changes(spec: Spec, was: Spec) -> Errors:
    """The primary address and family are for life; the second ones may come and go."""
    errors: Errors = []
    if not (_is_headless(spec) and _is_headless(was)):
        errors += _list_changes("clusterIPs", spec, was, indexed=True)
    if _is_headless(spec) == _is_headless(was) is False:
        errors += _list_changes("ipFamilies", spec, was, indexed=False)
    return errors


def _list_changes(field: str, spec: Spec, was: Spec, *, indexed: bool) -> Errors:
    new, old = spec.get(field) or [], was.get(field) or []
    once = "may not change once set"
    if len(new) == len(old):
        changed = [i for i, value in enumerate(old) if value != new[i]]
        return [FieldError.invalid(f"spec.{field}[{i if indexed else 0}]", new, once) for i in changed]
    errors: Errors = []
    if not new:
        errors.append(FieldError.invalid(f"spec.{field}[0]", new, "the primary one can not be unset"))
    elif old and new[0] != old[0]:
        errors.append(FieldError.invalid(f"spec.{field}[0]", new, once))
    if len(new) == 1 and len(old) > 1 and spec.get("ipFamilyPolicy") != "SingleStack":
        why = "must be 'SingleStack' when the second one is released"
        errors.append(FieldError.invalid("spec.ipFamilyPolicy", spec.get("ipFamilyPolicy"), why))
    return errors


def load_balancer_address(path: str, ingress: Mapping[str, Any], before: set[Any]) -> Errors:
    errors: Errors = []
    if ingress.get("ip") and ingress["ip"] not in before:
        errors += v.ip(f"{path}.ip", ingress["ip"])
    name = ingress.get("hostname")
    if name:
        errors += v.check(f"{path}.hostname", name, v.dns_subdomain)
        if v.parse_ip(name):
            errors.append(FieldError.invalid(f"{path}.hostname", name, "must be a DNS name, not an IP address"))
    return errors


# ------------------------------------------------------------------------------------------------ the tables


def _external_addresses(obj: Object) -> str:
    spec = spec_of(obj)
    kind, external = spec.get("type"), ",".join(spec.get("externalIPs") or [])
    if kind == "ExternalName":
        return str(spec.get("externalName", ""))
    if kind == "LoadBalancer":
        balancer = printing.addresses((status_of(obj).get("loadBalancer") or {}).get("ingress") or [])
        return ",".join(filter(None, (balancer, external))) or "<pending>"
    return (external or printing.NONE) if kind in ("ClusterIP", "NodePort") else printing.UNKNOWN


def _port_text(port: Mapping[str, Any]) -> str:
    node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port', 0)}{node_port}/{port.get('protocol', '')}"


def _row(obj: Object) -> list[Any]:
    spec = spec_of(obj)
    return [
        printing.name(obj),
        spec.get("type", ""),
        (spec.get("clusterIPs") or [printing.NONE])[0],
        _external_addresses(obj),
        ",".join(map(_port_text, spec.get("ports") or [])) or printing.NONE,
        printing.age(obj),
        printing.labels(spec.get("selector")),
    ]


class EndpointsKind(Kind):
    deprecation = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"

    def default(self, obj: Object) -> None:
        for subset in obj.get("subsets") or ():
            for port in subset.get("ports") or ():
                port.setdefault("protocol", "TCP")

    def validate(self, obj: Object) -> Errors:
        return _subsets(obj.get("subsets") or [])

    def concerns(self, obj: Object) -> list[str]:
        if (obj["metadata"].get("labels") or {}).get("endpoints.kubernetes.io/managed-by") == "endpoint-controller":
            return []
        found = []
        for i, subset in enumerate(obj.get("subsets") or []):
            for kind in ("addresses", "notReadyAddresses"):
                for j, address in enumerate(subset.get(kind) or []):
                    found += pod_warnings.ip(f"subsets[{i}].{kind}[{j}].ip", address.get("ip", ""))
        return found


def _subsets(subsets: list[dict[str, Any]]) -> Errors:
    errors: Errors = []
    for i, subset in enumerate(subsets):
        path, ports = f"subsets[{i}]", subset.get("ports") or []
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            errors.append(FieldError.required(path, "must specify `addresses` or `notReadyAddresses`"))
        for kind in ("addresses", "notReadyAddresses"):
            for j, address in enumerate(subset.get(kind) or []):
                errors += _endpoint_address(f"{path}.{kind}[{j}]", address)
        for j, port in enumerate(ports):
            where, name = f"{path}.ports[{j}]", port.get("name", "")
            if name:
                errors += v.check(f"{where}.name", name, v.dns_label)
            elif len(ports) > 1:
                errors.append(FieldError.required(f"{where}.name"))
            errors += v.check(f"{where}.port", port.get("port", 0), v.port_number)
            errors += v.one_of(f"{where}.protocol", port.get("protocol", ""), PROTOCOLS)
            if "appProtocol" in port:
                errors += v.check(f"{where}.appProtocol", port["appProtocol"], v.qualified_name)
    return errors


def _endpoint_address(path: str, address: dict[str, Any]) -> Errors:
    ip = address.get("ip", "")
    errors = v.ip(f"{path}.ip", ip)
    if address.get("hostname"):
        errors += v.check(f"{path}.hostname", address["hostname"], v.dns_label)
    if "nodeName" in address:
        errors += v.check(f"{path}.nodeName", address["nodeName"], v.dns_subdomain)
    return errors + v.endpoint_ip(f"{path}.ip", ip)


def _endpoints_row(obj: Object) -> list[Any]:
    shown: list[str] = []
    for subset in obj.get("subsets") or []:
        addresses = [address.get("ip", "") for address in subset.get("addresses") or []]
        ports = subset.get("ports") or []
        shown += (
            [f"{_bracketed(ip)}:{port.get('port', 0)}" for port in ports for ip in addresses] if ports else addresses
        )
    text = printing.shortened(shown, len(shown), "" if obj.get("subsets") else printing.NONE)
    return [printing.name(obj), text, printing.age(obj)]


def _bracketed(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip


RESOURCES = (
    resource(
        "v1",
        "Service",
        "services",
        Subresource("proxy", "ServiceProxyOptions", PROXY_VERBS),
        short="svc",
        all_category=True,
        status=True,
        create_on_update=True,
        field_labels=("spec.clusterIP", "spec.type"),
        strategy=Services(),
        columns=printing.columns("Name, Type, Cluster-IP, External-IP, Port(s), Age, Selector*"),
        row=_row,
    ),
    resource(
        "v1",
        "Endpoints",
        "endpoints",
        short="ep",
        create_on_update=True,
        strategy=EndpointsKind(),
        columns=printing.columns("Name, Endpoints, Age"),
        row=_endpoints_row,
    ),
)
