"""What the server itself fills in and refuses, after decoding and before webhooks: the admission of built-in kinds.

Pods get their ServiceAccount and its token, priority, default tolerations and the defaults of LimitRanges;
claims and Ingresses get their default class. All of it reads other objects through a `Lookup`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Protocol

from pilotfish.local.apiserver import errors
from pilotfish.local.apiserver.quantity import parse
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.types.kind import spec_of
from pilotfish.local.apiserver.types.pod_defaults import requests_of

TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path
_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
_MIRROR = "kubernetes.io/config.mirror"
_LIMIT_RANGER = "kubernetes.io/limit-ranger"


class Lookup(Protocol):
    """The stored objects that admission reads."""

    def get(self, api_version: str, kind: str, namespace: str, name: str) -> Object | None: ...

    def list(self, api_version: str, kind: str, namespace: str) -> list[Object]: ...


class RefusedError(Exception):
    """Why an object is not admitted."""


def mutate(resource: Resource, operation: str, obj: Object, old: Object | None, lookup: Lookup) -> None:
    """Fill in `obj` as `operation` (CREATE or UPDATE) asks. ApiError 403 when it is refused."""
    _run(_MUTATING, resource, operation, obj, old, lookup)


def validate(resource: Resource, operation: str, obj: Object, old: Object | None, lookup: Lookup) -> None:
    """ApiError 403 when the object, as webhooks have left it, is refused."""
    _run(_VALIDATING, resource, operation, obj, old, lookup)


Step = Callable[[Object, Lookup], None]
Steps = Mapping[tuple[str, str], tuple[Step, ...]]


def concerns(resource: Resource, operation: str) -> bool:
    """Whether admission has anything to do: most writes need no lookup at all."""
    key = (f"{resource.group}/{resource.plural}", operation)
    return key in _MUTATING or key in _VALIDATING or key == ("/pods", "UPDATE")


def _run(steps: Steps, resource: Resource, operation: str, obj: Object, old: Object | None, lookup: Lookup) -> None:
    kind = f"{resource.group}/{resource.plural}"
    if kind == "/pods" and operation == "UPDATE" and steps is _MUTATING:
        _keep_priority(obj, old or {})
    try:
        for step in steps.get((kind, operation), ()):
            step(obj, lookup)
    except RefusedError as why:
        metadata = obj.get("metadata") or {}
        name = metadata.get("name") or metadata.get("generateName") or "Unknown"
        raise errors.forbidden(resource.plural, resource.group, name, str(why)) from why


def _namespace(obj: Object) -> str:
    name: str = obj["metadata"].get("namespace", "")
    return name


def _is_mirror(pod: Object) -> bool:
    return _MIRROR in (pod["metadata"].get("annotations") or {})


def _containers(spec: Object) -> Iterator[tuple[str, Object]]:
    for container in spec.get("containers") or []:
        yield "container", container
    for container in spec.get("initContainers") or []:
        yield "init container", container


# ServiceAccount: who the pod is towards the API.


def needs_account(resource: Resource, operation: str, obj: Object, lookup: Lookup) -> bool:
    """Whether the namespace's own account is still to be made, which a controller does moments after the namespace."""
    if operation != "CREATE" or (resource.group, resource.plural) != ("", "pods") or _is_mirror(obj):
        return False
    name = spec_of(obj).get("serviceAccountName") or "default"
    return name == "default" and lookup.get("v1", "ServiceAccount", _namespace(obj), name) is None


def _account(pod: Object, lookup: Lookup) -> None:
    if _is_mirror(pod):
        if spec_of(pod).get("serviceAccountName"):
            raise RefusedError("a mirror pod may not reference service accounts")
        return
    spec = pod.setdefault("spec", {})
    name = spec.get("serviceAccountName") or "default"
    spec["serviceAccountName"] = spec["serviceAccount"] = name
    account = _find_account(pod, name, lookup)
    automount = spec.get("automountServiceAccountToken")
    if automount is None:
        automount = account.get("automountServiceAccountToken", True)
    if automount:
        _mount_token(spec)
    if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
        spec["imagePullSecrets"] = [{"name": one.get("name", "")} for one in account["imagePullSecrets"]]


def _find_account(pod: Object, name: str, lookup: Lookup) -> Object:
    namespace = _namespace(pod)
    account = lookup.get("v1", "ServiceAccount", namespace, name)
    if account is None:
        raise RefusedError(f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found')
    return account


def _check_account(pod: Object, lookup: Lookup) -> None:
    if _is_mirror(pod):
        return
    name = spec_of(pod).get("serviceAccountName")
    if not name:
        metadata = pod["metadata"]
        raise RefusedError(f"no service account specified for pod {_namespace(pod)}/{metadata.get('name', '')}")
    _find_account(pod, name, lookup)


def _mount_token(spec: Object) -> None:
    volumes = spec.get("volumes") or []
    ours = next((volume["name"] for volume in volumes if volume.get("name", "").startswith("kube-api-access-")), None)
    name = ours or "kube-api-access-" + "".join(secrets.choice(_SUFFIX) for _ in range(5))
    mounted = False
    for _, container in _containers(spec):
        mounts = container.setdefault("volumeMounts", [])
        if not any(mount.get("mountPath") == TOKEN_PATH for mount in mounts):
            mounts.append({"name": name, "readOnly": True, "mountPath": TOKEN_PATH})
            mounted = True
    if mounted and ours is None:
        spec["volumes"] = [*volumes, {"name": name, "projected": _token_sources()}]


def _token_sources() -> Object:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    return {
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [namespace]}},
        ],
        "defaultMode": 0o644,
    }


# Priority: what a PriorityClass is worth.


def _priority(pod: Object, lookup: Lookup) -> None:
    spec = pod.setdefault("spec", {})
    name = spec.get("priorityClassName", "")
    if name:
        found = lookup.get("scheduling.k8s.io/v1", "PriorityClass", "", name)
        if found is None:
            raise RefusedError(f"no PriorityClass with name {name} was found")
    else:
        found = _default_class(lookup)
    value = found.get("value", 0) if found else 0
    policy = (found or {}).get("preemptionPolicy", "PreemptLowerPriority")
    if found and not name:
        spec["priorityClassName"] = found["metadata"]["name"]
    _computed(spec, "priority", value, "integer value of priority")
    _computed(spec, "preemptionPolicy", policy, "string value of PreemptionPolicy")


def _computed(spec: Object, field: str, value: Any, what: str) -> None:
    given = spec.get(field)
    if given is not None and given != value:
        raise RefusedError(
            f"the {what} ({given}) must not be provided in pod spec; "
            f"priority admission controller computed {value} from the given PriorityClass name"
        )
    spec[field] = value


def _default_class(lookup: Lookup) -> Object | None:
    """Of several default classes the lowest counts."""
    classes = [c for c in lookup.list("scheduling.k8s.io/v1", "PriorityClass", "") if c.get("globalDefault")]
    return min(classes, key=lambda c: c.get("value", 0), default=None)


def _keep_priority(pod: Object, old: Object) -> None:
    spec, before = pod.get("spec") or {}, spec_of(old)
    for field in ("priority", "preemptionPolicy"):
        if spec.get(field) is None and before.get(field) is not None:
            spec[field] = before[field]


def _one_default_class(priority_class: Object, lookup: Lookup) -> None:
    if not priority_class.get("globalDefault"):
        return
    default = _default_class(lookup)
    if default and default["metadata"]["name"] != priority_class["metadata"].get("name"):
        name = default["metadata"]["name"]
        raise RefusedError(f"PriorityClass {name} is already marked as default. Only one default can exist")


# Tolerations: for how long a pod stays on a node that is gone.


def _tolerations(pod: Object, lookup: Lookup) -> None:
    _ = lookup
    spec = pod.setdefault("spec", {})
    given = spec.get("tolerations") or []
    added = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        if not any(t.get("key", "") in ("", key) and t.get("effect", "") in ("", "NoExecute") for t in given)
    ]
    if added:
        spec["tolerations"] = [*given, *added]


# RuntimeClass: what running a pod another way costs, and where it can run.


def _runtime_class(pod: Object, lookup: Lookup) -> Object | None:
    name = spec_of(pod).get("runtimeClassName")
    if name is None:
        return None
    found = lookup.get("node.k8s.io/v1", "RuntimeClass", "", name)
    if found is None:
        raise RefusedError(f'pod rejected: RuntimeClass "{name}" not found')
    return found


def _runtime(pod: Object, lookup: Lookup) -> None:
    found, spec = _runtime_class(pod, lookup) or {}, pod.setdefault("spec", {})
    overhead = (found.get("overhead") or {}).get("podFixed")
    if overhead:
        if spec.get("overhead") not in (None, {}, overhead):
            raise RefusedError("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
        spec["overhead"] = dict(overhead)
    scheduling = found.get("scheduling") or {}
    wanted = spec.get("nodeSelector") or {}
    for key, value in (scheduling.get("nodeSelector") or {}).items():
        if wanted.get(key, value) != value:
            raise RefusedError(
                f"conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; "
                f"pod.spec.nodeSelector[{key}] = {wanted[key]}"
            )
        spec["nodeSelector"] = wanted = wanted | {key: value}
    tolerations = spec.get("tolerations") or []
    extra = [t for t in scheduling.get("tolerations") or [] if t not in tolerations]
    if extra:
        spec["tolerations"] = tolerations + extra


def _check_overhead(pod: Object, lookup: Lookup) -> None:
    overhead = ((_runtime_class(pod, lookup) or {}).get("overhead") or {}).get("podFixed")
    given = spec_of(pod).get("overhead")
    if overhead and given != overhead:
        raise RefusedError("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
    if given and not overhead:
        raise RefusedError("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")


# LimitRanges: what containers of a namespace ask for unless they say, and how much they may.


def _limits(obj: Object, lookup: Lookup, kind: str) -> Iterator[list[Object]]:
    """For each LimitRange of the namespace its limits of one kind."""
    for one in lookup.list("v1", "LimitRange", _namespace(obj)):
        yield [limit for limit in spec_of(one).get("limits") or [] if limit.get("type") == kind]


def _limit_defaults(pod: Object, lookup: Lookup) -> None:
    for limits in _limits(pod, lookup, "Container"):
        requests = {name: amount for limit in limits for name, amount in (limit.get("defaultRequest") or {}).items()}
        most = {name: amount for limit in limits for name, amount in (limit.get("default") or {}).items()}
        said = []
        for what, container in _containers(spec_of(pod)):
            for field, amounts in (("request", requests), ("limit", most)):
                missing = _fill(container, f"{field}s", amounts)
                if missing:
                    said.append(f"{', '.join(missing)} {field} for {what} {container.get('name', '')}")
        if said:
            annotations = pod["metadata"].get("annotations") or {}
            pod["metadata"]["annotations"] = annotations | {_LIMIT_RANGER: "LimitRanger plugin set: " + "; ".join(said)}


def _fill(container: Object, field: str, amounts: Mapping[str, str]) -> list[str]:
    resources = container.get("resources") or {}
    given = resources.get(field) or {}
    missing = {name: amount for name, amount in amounts.items() if name not in given}
    if missing:
        container["resources"] = resources | {field: given | missing}
    return sorted(missing)


def _limit_checks(pod: Object, lookup: Lookup) -> None:
    spec = spec_of(pod)
    for limits in _limits(pod, lookup, "Container"):
        _refuse(
            why
            for limit in limits
            for _, container in _containers(spec)
            for why in _outside(limit, *_asked(container.get("resources") or {}))
        )
    for limits in _limits(pod, lookup, "Pod"):
        _refuse(why for limit in limits for why in _outside(limit, _total(spec, "requests"), _total(spec, "limits")))


def _asked(resources: Object) -> tuple[dict[str, str], dict[str, str]]:
    return resources.get("requests") or {}, resources.get("limits") or {}


def _total(spec: Object, field: str) -> dict[str, str]:
    """What the whole pod asks for: what it says itself counts more than the sum of its containers."""
    own = (spec.get("resources") or {}).get(field) or {}
    return requests_of(spec, field) | {name: own[name] for name in ("cpu", "memory") if name in own}


def _claim_limits(claim: Object, lookup: Lookup) -> None:
    requests = (spec_of(claim).get("resources") or {}).get("requests") or {}
    for limits in _limits(claim, lookup, "PersistentVolumeClaim"):
        _refuse(
            why
            for limit in limits
            for which, bounds in (("minimum", limit.get("min")), ("maximum", limit.get("max")))
            for name, bound in (bounds or {}).items()
            for why in _bounds(which, "PersistentVolumeClaim", name, bound, {"request": requests.get(name)})
        )


def _refuse(reasons: Iterator[str]) -> None:
    said = list(dict.fromkeys(reasons))
    if said:
        raise RefusedError(said[0] if len(said) == 1 else "[" + ", ".join(said) + "]")


def _outside(limit: Object, requests: Mapping[str, str], limits: Mapping[str, str]) -> Iterator[str]:
    kind = limit["type"]
    for name, bound in (limit.get("min") or {}).items():
        yield from _bounds(
            "minimum", kind, name, bound, {"request": requests.get(name), "limit": limits.get(name)}, "request"
        )
    for name, bound in (limit.get("max") or {}).items():
        yield from _bounds(
            "maximum", kind, name, bound, {"limit": limits.get(name), "request": requests.get(name)}, "limit"
        )
    for name, bound in (limit.get("maxLimitRequestRatio") or {}).items():
        why = _ratio(parse(bound), requests.get(name), limits.get(name))
        if why:
            yield f"{name} max limit to request ratio per {kind} is {bound}, but {why}"


def _bounds(
    which: str, kind: str, name: str, bound: str, given: Mapping[str, str | None], needed: str = "request"
) -> Iterator[str]:
    """At most one reason why the amounts are below the minimum or above the maximum; the `needed` one must be there."""
    text = f"{which} {name} usage per {kind} is {bound}"
    if given[needed] is None:
        yield f"{text}.  No {needed} is specified"
        return
    edge = parse(bound)
    for field, amount in given.items():
        if amount is not None and (parse(amount) < edge if which == "minimum" else parse(amount) > edge):
            yield f"{text}, but {field} is {amount}"
            return


def _ratio(bound: Decimal, request: str | None, limit: str | None) -> str:
    if request is None or not parse(request):
        return "no request is specified or request is 0"
    if limit is None or not parse(limit):
        return "no limit is specified or limit is 0"
    ratio = parse(limit) / parse(request)
    return f"provided ratio is {float(ratio):.6f}" if ratio > bound else ""


# Default classes of claims and Ingresses.


def _claim_class(claim: Object, lookup: Lookup) -> None:
    annotations = claim["metadata"].get("annotations") or {}
    if spec_of(claim).get("storageClassName") is None and "volume.beta.kubernetes.io/storage-class" not in annotations:
        marks = ("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class")
        _newest_default(claim, "storageClassName", lookup.list("storage.k8s.io/v1", "StorageClass", ""), marks)


def _ingress_class(ingress: Object, lookup: Lookup) -> None:
    annotations = ingress["metadata"].get("annotations") or {}
    if spec_of(ingress).get("ingressClassName") is None and "kubernetes.io/ingress.class" not in annotations:
        classes = lookup.list("networking.k8s.io/v1", "IngressClass", "")
        _newest_default(ingress, "ingressClassName", classes, ("ingressclass.kubernetes.io/is-default-class",))


def _newest_default(obj: Object, field: str, classes: list[Object], marks: tuple[str, ...]) -> None:
    defaults = [
        one for one in classes if any((one["metadata"].get("annotations") or {}).get(mark) == "true" for mark in marks)
    ]
    if defaults:
        defaults.sort(key=lambda one: one["metadata"]["name"])
        newest = max(defaults, key=lambda one: one["metadata"].get("creationTimestamp") or "")
        obj.setdefault("spec", {})[field] = newest["metadata"]["name"]


_POD, _CLAIM, _INGRESS = "/pods", "/persistentvolumeclaims", "networking.k8s.io/ingresses"
_CLASS = "scheduling.k8s.io/priorityclasses"
_MUTATING: Steps = {
    (_POD, "CREATE"): (_limit_defaults, _account, _priority, _tolerations, _runtime),
    (_POD, "UPDATE"): (_tolerations,),
    (_CLAIM, "CREATE"): (_claim_class,),
    (_INGRESS, "CREATE"): (_ingress_class,),
}
_VALIDATING: Steps = {
    (_POD, "CREATE"): (_limit_checks, _check_account, _check_overhead),
    (_CLAIM, "CREATE"): (_claim_limits,),
    (_CLAIM, "UPDATE"): (_claim_limits,),
    (_CLASS, "CREATE"): (_one_default_class,),
    (_CLASS, "UPDATE"): (_one_default_class,),
}
