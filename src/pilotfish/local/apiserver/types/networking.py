"""Ingresses, IngressClasses and NetworkPolicies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import pod_warnings, printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import resource
from pilotfish.local.apiserver.types.kind import Kind, spec_of, status_of
from pilotfish.local.apiserver.types.pod_containers import PROTOCOLS
from pilotfish.local.apiserver.types.services import load_balancer_address
from pilotfish.local.apiserver.types.validation import Errors

_GROUP = "networking.k8s.io/v1"
_CLASS = "kubernetes.io/ingress.class"
_DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"
_PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_BAD_PARTS = ("//", "/./", "/../", "%2f", "%2F")
_BAD_ENDS = ("/..", "/.")
_MAX_CONTROLLER = 250


class Ingresses(Kind):
    new_status: Mapping[str, Any] = {"loadBalancer": {}}

    def validate(self, obj: Object) -> Errors:
        spec = spec_of(obj)
        rules, default = spec.get("rules") or [], spec.get("defaultBackend")
        errors: Errors = []
        if not rules and default is None:
            errors.append(FieldError.invalid("spec", rules, "either `defaultBackend` or `rules` must be specified"))
        if default is not None:
            errors += _backend("spec.defaultBackend", default)
        for i, rule in enumerate(rules):
            errors += _rule(f"spec.rules[{i}]", rule)
        for i, tls in enumerate(spec.get("tls") or []):
            for j, host in enumerate(tls.get("hosts") or []):
                rule = v.wildcard_subdomain if "*" in host else v.dns_subdomain
                errors += v.check(f"spec.tls[{i}].hosts[{j}]", host, rule)
            if tls.get("secretName"):
                errors += v.check(f"spec.tls[{i}].secretName", tls["secretName"], v.dns_subdomain)
        if "ingressClassName" in spec:
            errors += v.check("spec.ingressClassName", spec["ingressClassName"], v.dns_subdomain)
        return errors

    def validate_create(self, obj: Object) -> Errors:
        annotated = (obj["metadata"].get("annotations") or {}).get(_CLASS)
        named = spec_of(obj).get("ingressClassName")
        if annotated is None or named is None or annotated == named:
            return []
        why = "must match `ingressClassName` when both are specified"
        return [FieldError.invalid(f"annotations.{_CLASS}", annotated, why)]

    def validate_status_update(self, new: Object, old: Object) -> Errors:
        before = {one.get("ip") for one in (status_of(old).get("loadBalancer") or {}).get("ingress") or []}
        errors: Errors = []
        for i, one in enumerate((status_of(new).get("loadBalancer") or {}).get("ingress") or []):
            errors += load_balancer_address(f"status.loadBalancer.ingress[{i}]", one, before)
        return errors

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        annotated = _CLASS in (obj["metadata"].get("annotations") or {})
        if old is not None or not annotated or "ingressClassName" in spec_of(obj):
            return []
        return [f"annotation \"{_CLASS}\" is deprecated, please use 'spec.ingressClassName' instead"]


def _rule(path: str, rule: Mapping[str, Any]) -> Errors:
    host, errors = rule.get("host", ""), []
    if host:
        if v.parse_ip(host):
            errors.append(FieldError.invalid(f"{path}.host", host, "must be a DNS name, not an IP address"))
        errors += v.check(f"{path}.host", host, v.wildcard_subdomain if "*" in host else v.dns_subdomain)
    http = rule.get("http")
    if http is None:
        return errors
    paths = http.get("paths") or []
    if not paths:
        errors.append(FieldError.required(f"{path}.http.paths"))
    for i, one in enumerate(paths):
        errors += _path(f"{path}.http.paths[{i}]", one)
    return errors


def _path(path: str, one: Mapping[str, Any]) -> Errors:
    kind, text = one.get("pathType"), one.get("path", "")
    if kind is None:
        return [FieldError.required(f"{path}.pathType", "pathType must be specified")]
    errors = v.one_of(f"{path}.pathType", kind, _PATH_TYPES, missing=False)
    exact = kind in ("Exact", "Prefix")
    if not errors and not text.startswith("/") and (exact or text):
        errors.append(FieldError.invalid(f"{path}.path", text, "must be an absolute path"))
    if exact:
        errors += [FieldError.invalid(f"{path}.path", text, f"must not contain '{b}'") for b in _BAD_PARTS if b in text]
        errors += [
            FieldError.invalid(f"{path}.path", text, f"cannot end with '{bad}'")
            for bad in _BAD_ENDS
            if text.endswith(bad)
        ]
    return errors + _backend(f"{path}.backend", one.get("backend") or {})


def _backend(path: str, backend: Mapping[str, Any]) -> Errors:
    service, other = backend.get("service"), backend.get("resource")
    if service is not None and other is not None:
        return [FieldError.invalid(path, "", "cannot set both resource and service backends")]
    if other is not None:
        return typed_reference(f"{path}.resource", other)
    if service is None:
        return [FieldError.invalid(path, "", "resource or service backend is required")]
    errors = v.required(f"{path}.service.name", service.get("name"), v.dns_label)
    port = service.get("port") or {}
    name, number = port.get("name"), port.get("number")
    if name and number:
        errors.append(FieldError.invalid(path, "", "cannot set both port name & port number"))
    elif name:
        errors += v.check(f"{path}.service.port.name", name, v.port_name)
    elif number:
        errors += v.check(f"{path}.service.port.number", number, v.port_number)
    else:
        errors.append(FieldError.required(path, "port name or number is required"))
    return errors


def typed_reference(path: str, ref: Mapping[str, Any]) -> Errors:
    errors: Errors = []
    if "apiGroup" in ref:
        errors += v.check(f"{path}.apiGroup", ref["apiGroup"], v.dns_subdomain)
    errors += v.required(f"{path}.kind", ref.get("kind"), v.path_segment)
    return errors + v.required(f"{path}.name", ref.get("name"), v.path_segment)


class IngressClasses(Kind):
    immutable = ("spec.controller",)

    def default(self, obj: Object) -> None:
        parameters = obj.setdefault("spec", {}).get("parameters")
        if parameters is not None:
            parameters.setdefault("scope", "Cluster")

    def validate(self, obj: Object) -> Errors:
        spec = spec_of(obj)
        controller, path = spec.get("controller", ""), "spec.controller"
        errors = [FieldError.too_long(path, _MAX_CONTROLLER)] if len(controller) > _MAX_CONTROLLER else []
        errors += v.domain_path(path, controller)
        parameters = spec.get("parameters")
        return errors if parameters is None else errors + _parameters("spec.parameters", parameters)


def _parameters(path: str, parameters: Mapping[str, Any]) -> Errors:
    errors = typed_reference(path, parameters)
    scope, namespace = parameters.get("scope"), parameters.get("namespace")
    errors += v.one_of(f"{path}.scope", scope, ("Cluster", "Namespace"), missing=False)
    if scope == "Namespace" and namespace is None:
        errors.append(FieldError.required(f"{path}.namespace", "`parameters.scope` is set to 'Namespace'"))
    elif scope == "Namespace":
        errors += v.check(f"{path}.namespace", namespace, v.dns_label)
    elif scope == "Cluster" and namespace is not None:
        errors.append(FieldError.forbidden(f"{path}.namespace", "`parameters.scope` is set to 'Cluster'"))
    return errors


class NetworkPolicies(Kind):
    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("podSelector", {})
        if not spec.get("policyTypes"):
            spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
        for _, rule, _ in _directions(spec):
            for port in rule.get("ports") or ():
                port.setdefault("protocol", "TCP")

    def validate(self, obj: Object) -> Errors:
        spec = spec_of(obj)
        errors = v.label_selector("spec.podSelector", spec.get("podSelector"))
        for path, rule, peers in _directions(spec):
            for i, port in enumerate(rule.get("ports") or []):
                errors += _policy_port(f"{path}.ports[{i}]", port)
            for i, peer in enumerate(rule.get(peers) or []):
                errors += _peer(f"{path}.{peers}[{i}]", peer)
        types = spec.get("policyTypes") or []
        if len(types) > 2:
            why = "may not specify more than two policyTypes"
            return [*errors, FieldError.invalid("spec.policyTypes", types, why)]
        for i, kind in enumerate(types):
            errors += v.one_of(f"spec.policyTypes[{i}]", kind, ("Egress", "Ingress"), missing=False)
        return errors

    def concerns(self, obj: Object) -> list[str]:
        found = []
        for path, rule, peers in _directions(spec_of(obj)):
            for i, peer in enumerate(rule.get(peers) or []):
                block = peer.get("ipBlock") or {}
                values = [("cidr", block.get("cidr", ""))]
                values += [(f"except[{j}]", value) for j, value in enumerate(block.get("except") or [])]
                for field, value in values:
                    found += pod_warnings.cidr(f"{path}.{peers}[{i}].ipBlock.{field}", value)
        return found


def _directions(spec: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """Every rule with its path and the name of its list of peers."""
    return [
        (f"spec.{direction}[{i}]", rule, peers)
        for direction, peers in (("ingress", "from"), ("egress", "to"))
        for i, rule in enumerate(spec.get(direction) or [])
    ]


def _policy_port(path: str, port: Mapping[str, Any]) -> Errors:
    errors = v.one_of(f"{path}.protocol", port.get("protocol", "TCP"), PROTOCOLS, missing=False)
    value, end = port.get("port"), port.get("endPort")
    if value is None:
        if end is not None:
            errors.append(FieldError.invalid(f"{path}.endPort", end, "may not be specified without `port`"))
        return errors
    errors += v.port_number_or_name(f"{path}.port", value)
    if end is None:
        return errors
    if isinstance(value, str):
        errors.append(FieldError.invalid(f"{path}.endPort", end, "may not be specified when `port` is non-numeric"))
        return errors
    if end < value:
        errors.append(FieldError.invalid(f"{path}.endPort", value, "must be greater than or equal to `port`"))
    return errors + v.check(f"{path}.endPort", end, v.port_number)


def _peer(path: str, peer: Mapping[str, Any]) -> Errors:
    present = [field for field in ("podSelector", "namespaceSelector", "ipBlock") if peer.get(field) is not None]
    errors: Errors = []
    for field in present:
        if field == "ipBlock":
            errors += _ip_block(f"{path}.ipBlock", peer["ipBlock"])
        else:
            errors += v.label_selector(f"{path}.{field}", peer[field])
    if not present:
        errors.append(FieldError.required(path, "must specify a peer"))
    elif len(present) > 1 and "ipBlock" in present:
        errors.append(FieldError.forbidden(path, "may not specify both ipBlock and another peer"))
    return errors


def _ip_block(path: str, block: Mapping[str, Any]) -> Errors:
    value = block.get("cidr", "")
    if not value:
        return [FieldError.required(f"{path}.cidr")]
    errors = v.cidr(f"{path}.cidr", value)
    network = v.parse_cidr(value)
    if network is None:
        return errors
    for i, text in enumerate(block.get("except") or []):
        where = f"{path}.except[{i}]"
        errors += v.cidr(where, text)
        part = v.parse_cidr(text)
        if part is not None and (
            part.version != network.version
            or part.network_address not in network
            or part.prefixlen <= network.prefixlen
        ):
            errors.append(FieldError.invalid(where, text, "must be a strict subset of `cidr`"))
    return errors


# ------------------------------------------------------------------------------------------------ the tables


def _ingress_row(obj: Object) -> list[Any]:
    spec = spec_of(obj)
    rules = spec.get("rules") or []
    hosts = [rule["host"] for rule in rules if rule.get("host")]
    shown = ",".join(hosts[:3]) or "*"
    if len(hosts) >= 3 and len(rules) > 3:
        shown += f" + {len(rules) - 3} more..."
    return [
        printing.name(obj),
        spec.get("ingressClassName", printing.NONE),
        shown,
        printing.addresses((status_of(obj).get("loadBalancer") or {}).get("ingress") or []),
        "80, 443" if spec.get("tls") else "80",
        printing.age(obj),
    ]


def _class_row(obj: Object) -> list[Any]:
    spec = spec_of(obj)
    default = (obj["metadata"].get("annotations") or {}).get(_DEFAULT_CLASS) == "true"
    ref, parameters = spec.get("parameters"), printing.NONE
    if ref is not None:
        group = f".{ref['apiGroup']}" if "apiGroup" in ref else ""
        parameters = f"{ref.get('kind', '')}{group}/{ref.get('name', '')}"
    name = printing.name(obj) + (" (default)" if default else "")
    return [name, spec.get("controller", ""), parameters, printing.age(obj)]


def _policy_row(obj: Object) -> list[Any]:
    return [printing.name(obj), printing.selector(spec_of(obj).get("podSelector") or {}), printing.age(obj)]


RESOURCES = (
    resource(
        _GROUP,
        "Ingress",
        "ingresses",
        short="ing",
        status=True,
        has_generation=True,
        strategy=Ingresses(),
        columns=printing.columns("Name, Class, Hosts, Address, Ports, Age"),
        row=_ingress_row,
    ),
    resource(
        _GROUP,
        "IngressClass",
        "ingressclasses",
        namespaced=False,
        has_generation=True,
        strategy=IngressClasses(),
        columns=printing.columns("Name, Controller, Parameters, Age"),
        row=_class_row,
    ),
    resource(
        _GROUP,
        "NetworkPolicy",
        "networkpolicies",
        short="netpol",
        has_generation=True,
        strategy=NetworkPolicies(),
        columns=printing.columns("Name, Pod-Selector, Age"),
        row=_policy_row,
    ),
)
