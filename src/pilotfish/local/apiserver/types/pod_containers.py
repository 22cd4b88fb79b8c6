"""The containers of a pod: what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.quantity import parse
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.pod_volumes import PULL_POLICIES, Volumes, field_ref, resource_field_ref
from pilotfish.local.apiserver.types.validation import Errors

Container = dict[str, Any]

PROTOCOLS = ("TCP", "UDP", "SCTP")
RESTART_POLICIES = ("Always", "Never", "OnFailure")
_RESTART_ACTIONS = ("Restart", "RestartAllContainers")
_PROPAGATIONS = ("None", "HostToContainer", "Bidirectional")
_RECURSIVE = ("Disabled", "Enabled", "IfPossible")
_PROC_MOUNTS = ("Default", "Unmasked")
_PROFILES = ("Localhost", "RuntimeDefault", "Unconfined")
_ENV_FIELDS = (
    *("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName"),
    *("status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"),
)
_ENV_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_NOT_EPHEMERAL = ("ports", "resources", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy",
                  "restartPolicy", "restartPolicyRules")  # fmt: skip

STANDARD_RESOURCES = frozenset(
    [
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "storage",
        "requests.storage",
        "services.nodeports",
        "services.loadbalancers",
    ]
)
_WHOLE_RESOURCES = frozenset(
    [
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "services.nodeports",
        "services.loadbalancers",
    ]
)
_CONTAINER_RESOURCES = ("cpu", "memory", "ephemeral-storage")


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What containers have to fit to."""

    volumes: Volumes
    claims: frozenset[str]
    """Names of the pod's resource claims."""
    grace_period: int | None
    restart_policy: str
    host_users: bool


# ------------------------------------------------------------------------------------------------ resources


def is_huge_pages(name: str) -> bool:
    return name.startswith("hugepages-")


def is_native(name: str) -> bool:
    return "/" not in name or "kubernetes.io/" in name


def is_extended(name: str) -> bool:
    return not is_native(name) and not name.startswith("requests.") and not v.qualified_name(f"requests.{name}")


def may_overcommit(name: str) -> bool:
    return is_native(name) and not is_huge_pages(name)


def resource_name(path: str, name: str) -> Errors:
    errors = v.check(path, name, v.qualified_name)
    known = name in STANDARD_RESOURCES or name.startswith(("hugepages-", "requests.hugepages-"))
    if not errors and "/" not in name and not known:
        errors.append(FieldError.invalid(path, name, "must be a standard resource type or fully qualified"))
    return errors


def container_resource_name(path: str, name: str) -> Errors:
    errors = resource_name(path, name)
    if "/" not in name:
        if name not in _CONTAINER_RESOURCES and not is_huge_pages(name):
            errors.append(FieldError.invalid(path, name, "must be a standard resource for containers"))
    elif not is_native(name) and not is_extended(name):
        errors.append(FieldError.invalid(path, name, "is not the name of an extended resource"))
    return errors


def pod_resource_name(path: str, name: str) -> Errors:
    errors = resource_name(path, name)
    if not errors and name not in ("cpu", "memory") and not is_huge_pages(name):
        errors.append(FieldError.not_supported(path, name, ["cpu", "hugepages-*", "memory"]))
    return errors


def amount(path: str, name: str, value: str) -> Errors:
    """An amount of a resource: not negative, and whole where the resource is counted."""
    number = parse(value)
    errors = [FieldError.invalid(path, value, v.NOT_NEGATIVE)] if number < 0 else []
    if (name in _WHOLE_RESOURCES or is_extended(name)) and number % 1:
        errors.append(FieldError.invalid(path, value, "must be an integer"))
    return errors


def requirements(
    path: str, wanted: Mapping[str, Any], claims: frozenset[str] = frozenset(), *, whole_pod: bool = False
) -> Errors:
    """Requests and limits."""
    errors: Errors = []
    name_rule = pod_resource_name if whole_pod else container_resource_name
    limits, requests = wanted.get("limits") or {}, wanted.get("requests") or {}
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name, value in amounts.items():
            where = f"{path}.{kind}[{name}]"
            errors += name_rule(where, name)
            errors += amount(where, name, value)
            if is_huge_pages(name):
                errors += _huge_pages(where, name, value)
            if kind == "requests":
                errors += _request(path, name, value, limits)
    named = limits.keys() | requests.keys()
    if any(map(is_huge_pages, named)) and not named & {"cpu", "memory"}:
        errors.append(FieldError.forbidden(path, "huge pages need cpu or memory as well"))
    return errors + _resource_claims(f"{path}.claims", wanted.get("claims") or [], claims)


def _request(path: str, name: str, value: str, limits: Mapping[str, str]) -> Errors:
    if name not in limits:
        if may_overcommit(name):
            return []
        return [FieldError.required(f"{path}.limits", f"a limit for {name}, which cannot be overcommitted")]
    request, limit = parse(value), parse(limits[name])
    if request != limit and not may_overcommit(name):
        return [FieldError.invalid(f"{path}.requests", value, f"must be equal to {name} limit of {limits[name]}")]
    if request > limit:
        why = f"must be less than or equal to {name} limit of {limits[name]}"
        return [FieldError.invalid(f"{path}.requests", value, why)]
    return []


def _huge_pages(path: str, name: str, value: str) -> Errors:
    try:
        size = parse(name.removeprefix("hugepages-"))
    except ValueError:
        size = parse("0")
    if size <= 0 or size % 1 or parse(value) % size:
        return [FieldError.invalid(path, value, f"is not a positive multiple of {name}")]
    return []


def _resource_claims(path: str, wanted: list[dict[str, Any]], claims: frozenset[str]) -> Errors:
    errors: Errors = []
    seen: set[str] = set()
    for i, claim in enumerate(wanted):
        where, name, request = f"{path}[{i}]", claim.get("name", ""), claim.get("request", "")
        if not name:
            errors.append(FieldError.required(where))
            continue
        if request:
            errors += v.check(f"{where}.request", request, v.dns_label)
        key = f"{name}/{request}" if request else name
        if name in seen or key in seen or (not request and any(one.startswith(f"{name}/") for one in seen)):
            errors.append(FieldError.duplicate(where, key))
        seen.add(key)
        if name not in claims:
            errors.append(FieldError.not_found(where, name))
    return errors


# ------------------------------------------------------------------------------------------------ parts


def _ports(path: str, ports: list[dict[str, Any]]) -> Errors:
    errors: Errors = []
    names: set[str] = set()
    for i, port in enumerate(ports):
        where, name = f"{path}[{i}]", port.get("name", "")
        if name:
            wrong = v.check(f"{where}.name", name, v.port_name)
            if not wrong and name in names:
                wrong = [FieldError.duplicate(f"{where}.name", name)]
            names.add(name)
            errors += wrong
        if not port.get("containerPort"):
            errors.append(FieldError.required(f"{where}.containerPort"))
        else:
            errors += v.check(f"{where}.containerPort", port["containerPort"], v.port_number)
        if port.get("hostPort"):
            errors += v.check(f"{where}.hostPort", port["hostPort"], v.port_number)
        errors += v.one_of(f"{where}.protocol", port.get("protocol", ""), PROTOCOLS)
    return errors


def host_port_conflicts(path: str, containers: list[Container]) -> Errors:
    errors: Errors = []
    taken: set[str] = set()
    for i, container in enumerate(containers):
        for j, port in enumerate(container.get("ports") or []):
            if not port.get("hostPort"):
                continue
            key = f"{port.get('protocol', '')}/{port.get('hostIP', '')}/{port['hostPort']}"
            if key in taken:
                errors.append(FieldError.duplicate(f"{path}[{i}].ports[{j}].hostPort", key))
            taken.add(key)
    return errors


def _environment(path: str, variables: list[dict[str, Any]]) -> Errors:
    errors: Errors = []
    for i, variable in enumerate(variables):
        errors += v.required(f"{path}[{i}].name", variable.get("name"), v.env_var_name)
        source = variable.get("valueFrom")
        if source is not None:
            errors += _value_from(f"{path}[{i}].valueFrom", source, variable.get("value", ""))
    return errors


def _value_from(path: str, source: dict[str, Any], value: str) -> Errors:
    errors: Errors = []
    present = [kind for kind in _ENV_SOURCES if source.get(kind) is not None]
    for kind in present:
        where, ref = f"{path}.{kind}", source[kind]
        match kind:
            case "fieldRef":
                errors += field_ref(where, ref, _ENV_FIELDS)
            case "resourceFieldRef":
                errors += resource_field_ref(where, ref, in_volume=False)
            case "fileKeyRef":
                errors += _file_key(where, ref)
            case _:
                errors += v.check(f"{where}.name", ref.get("name", ""), v.dns_subdomain)
                errors += v.required(f"{where}.key", ref.get("key"), v.config_key)
    if not present:
        errors.append(FieldError.invalid(path, "", f"must specify one of {', '.join(_ENV_SOURCES)}"))
    elif value:
        errors.append(FieldError.invalid(path, "", "may not be specified when `value` is not empty"))
    elif len(present) > 1:
        errors.append(FieldError.invalid(path, "", "may not have more than one field specified at a time"))
    return errors


def _file_key(path: str, ref: dict[str, Any]) -> Errors:
    errors = v.required(f"{path}.key", ref.get("key"), v.env_var_name)
    errors += v.required(f"{path}.volumeName", ref.get("volumeName"), v.dns_label)
    if not ref.get("path"):
        return [*errors, FieldError.required(f"{path}.path")]
    return errors + v.no_steps_back(f"{path}.path", ref["path"])


def _environment_from(path: str, sources: list[dict[str, Any]]) -> Errors:
    errors: Errors = []
    for i, source in enumerate(sources):
        if source.get("prefix"):
            errors += v.check(f"{path}[{i}].prefix", source["prefix"], v.env_var_name)
        present = [kind for kind in ("configMapRef", "secretRef") if source.get(kind) is not None]
        for kind in present:
            name = source[kind].get("name", "")
            where = f"{path}[{i}].{kind}.name"
            if not name:
                errors.append(FieldError.required(where))
            else:
                errors += [FieldError.invalid(where, name, text) for text in v.generated(v.dns_subdomain, name)]
        if not present:
            errors.append(FieldError.invalid(path, "", "must specify one of `configMapRef` or `secretRef`"))
        elif len(present) > 1:
            errors.append(FieldError.invalid(path, "", "may not have more than one field specified at a time"))
    return errors


def _mounts(path: str, container: Container, volumes: Volumes) -> Errors:
    errors: Errors = []
    devices = {device.get("name", ""): device.get("devicePath", "") for device in container.get("volumeDevices") or []}
    taken: set[str] = set()
    for i, mount in enumerate(container.get("volumeMounts") or []):
        where, name, target = f"{path}[{i}]", mount.get("name", ""), mount.get("mountPath", "")
        errors += v.required(f"{where}.name", name)
        if name not in volumes:
            errors.append(FieldError.not_found(f"{where}.name", name))
        errors += v.required(f"{where}.mountPath", target)
        if target in taken:
            errors.append(FieldError.invalid(f"{where}.mountPath", target, "must be unique"))
        taken.add(target)
        if name in devices:
            errors.append(FieldError.invalid(f"{where}.name", name, "must not already exist in volumeDevices"))
        if target in devices.values():
            errors.append(FieldError.invalid(f"{where}.mountPath", target, "must not be the path of a device"))
        errors += _mount_details(path, where, mount, container)
    return errors


def _mount_details(path: str, where: str, mount: dict[str, Any], container: Container) -> Errors:
    """Kubernetes names no index in most of these."""
    errors: Errors = []
    if sub := mount.get("subPath"):
        errors += v.relative_path(f"{path}.subPath", sub)
    if expression := mount.get("subPathExpr"):
        if mount.get("subPath"):
            why = "subPathExpr and subPath are mutually exclusive"
            errors.append(FieldError.invalid(f"{where}.subPathExpr", expression, why))
        errors += v.relative_path(f"{path}.subPathExpr", expression)
    propagation = mount.get("mountPropagation")
    if propagation is not None:
        errors += v.one_of(f"{path}.mountPropagation", propagation, _PROPAGATIONS, missing=False)
        if propagation == "Bidirectional" and not (container.get("securityContext") or {}).get("privileged"):
            why = "Bidirectional is for privileged containers only"
            errors.append(FieldError.forbidden(f"{path}.mountPropagation", why))
    recursive = mount.get("recursiveReadOnly")
    if recursive is not None:
        field = f"{path}.recursiveReadOnly"
        errors += v.one_of(field, recursive, _RECURSIVE, missing=False)
        if recursive in ("Enabled", "IfPossible"):
            if not mount.get("readOnly"):
                errors.append(FieldError.forbidden(field, "may only be specified when readOnly is true"))
            if (propagation or "None") != "None":
                errors.append(FieldError.forbidden(field, "may only be specified without mountPropagation"))
    return errors


def _devices(path: str, container: Container, volumes: Volumes) -> Errors:
    errors: Errors = []
    mounts = {mount.get("name", ""): mount.get("mountPath", "") for mount in container.get("volumeMounts") or []}
    names: set[str] = set()
    paths: set[str] = set()
    for i, device in enumerate(container.get("volumeDevices") or []):
        where, name, target = f"{path}[{i}]", device.get("name", ""), device.get("devicePath", "")
        errors += v.required(f"{where}.name", name)
        if name in names:
            errors.append(FieldError.invalid(f"{where}.name", name, "must be unique"))
        if name not in volumes:
            errors.append(FieldError.not_found(f"{where}.name", name))
        elif not {"persistentVolumeClaim", "ephemeral"} & volumes[name].keys():
            why = "must be a volume of a PersistentVolumeClaim or an ephemeral one"
            errors.append(FieldError.invalid(f"{where}.name", name, why))
        errors += v.required(f"{where}.devicePath", target)
        if target in paths:
            errors.append(FieldError.invalid(f"{where}.devicePath", target, "must be unique"))
        if ".." in target.split("/"):
            errors.append(FieldError.invalid(f"{where}.devicePath", target, "must not contain '..'"))
        else:
            paths.add(target)
        if name in mounts:
            errors.append(FieldError.invalid(f"{where}.name", name, "must not already exist in volumeMounts"))
        if target in mounts.values():
            errors.append(FieldError.invalid(f"{where}.devicePath", target, "must not be the path of a mount"))
        names.add(name)
    return errors


def _resize_policy(path: str, policies: list[dict[str, Any]], pod_policy: str) -> Errors:
    errors: Errors = []
    seen: set[str] = set()
    for i, policy in enumerate(policies):
        name, restart = policy.get("resourceName", ""), policy.get("restartPolicy", "")
        if name in seen:
            errors.append(FieldError.duplicate(f"{path}[{i}]", name))
        seen.add(name)
        errors += v.one_of(path, name, ("cpu", "memory"))
        errors += v.one_of(path, restart, ("NotRequired", "RestartContainer"))
        if pod_policy == "Never" and restart != "NotRequired":
            errors.append(FieldError.invalid(path, restart, "must be 'NotRequired' when the pod is never restarted"))
    return errors


def seccomp(path: str, profile: dict[str, Any] | None) -> Errors:
    if profile is None:
        return []
    errors = v.one_of(f"{path}.type", profile.get("type", ""), _PROFILES)
    local = profile.get("localhostProfile")
    if profile.get("type") == "Localhost":
        if local is None:
            return [*errors, FieldError.required(f"{path}.localhostProfile", "with type Localhost")]
        return errors + v.relative_path(f"{path}.localhostProfile", local)
    if local is not None:
        errors.append(FieldError.invalid(f"{path}.localhostProfile", local, "can only be set with type Localhost"))
    return errors


def app_armor(path: str, profile: dict[str, Any] | None) -> Errors:
    if profile is None:
        return []
    errors = v.one_of(f"{path}.type", profile.get("type", ""), _PROFILES)
    local, field = profile.get("localhostProfile"), f"{path}.localhostProfile"
    if profile.get("type") == "Localhost":
        if not local or not local.strip():
            errors.append(FieldError.required(field, "with type Localhost"))
        elif local != local.strip():
            errors.append(FieldError.invalid(field, local, "must not be padded with whitespace"))
        if local and len(local) > 4095:
            errors.append(FieldError.too_long(field, 4095))
    elif local is not None and not errors:
        errors.append(FieldError.invalid(field, local, "can only be set with type Localhost"))
    return errors


def _security(path: str, context: dict[str, Any] | None, *, host_users: bool) -> Errors:
    if context is None:
        return []
    errors: Errors = []
    for field in ("runAsUser", "runAsGroup"):
        if field in context:
            errors += v.check(f"{path}.{field}", context[field], v.numeric_id)
    if "procMount" in context:
        errors += v.one_of(f"{path}.procMount", context["procMount"], _PROC_MOUNTS, missing=False)
        if host_users and context["procMount"] == "Unmasked":
            why = "`hostUsers` must be false to use `Unmasked`"
            errors.append(FieldError.invalid(f"{path}.procMount", context["procMount"], why))
    errors += seccomp(f"{path}.seccompProfile", context.get("seccompProfile"))
    if context.get("allowPrivilegeEscalation") is False:
        why = "cannot set `allowPrivilegeEscalation` to false and "
        if context.get("privileged"):
            errors.append(FieldError.invalid(path, context, why + "`privileged` to true"))
        added = (context.get("capabilities") or {}).get("add") or []
        errors += [
            FieldError.invalid(path, context, why + "add CAP_SYS_ADMIN") for name in added if name == "CAP_SYS_ADMIN"
        ]
    return errors + app_armor(f"{path}.appArmorProfile", context.get("appArmorProfile"))


def _common(path: str, container: Container, pod: PodFacts) -> Errors:
    errors = v.required(f"{path}.name", container.get("name"), v.dns_label)
    errors += v.required(f"{path}.image", container.get("image"))
    policy = container.get("terminationMessagePolicy", "")
    errors += v.one_of(f"{path}.terminationMessagePolicy", policy, ("FallbackToLogsOnError", "File"))
    errors += _ports(f"{path}.ports", container.get("ports") or [])
    errors += _environment(f"{path}.env", container.get("env") or [])
    errors += _environment_from(f"{path}.envFrom", container.get("envFrom") or [])
    errors += _mounts(f"{path}.volumeMounts", container, pod.volumes)
    errors += _devices(f"{path}.volumeDevices", container, pod.volumes)
    errors += v.one_of(f"{path}.imagePullPolicy", container.get("imagePullPolicy", ""), PULL_POLICIES)
    errors += requirements(f"{path}.resources", container.get("resources") or {}, pod.claims)
    errors += _resize_policy(f"{path}.resizePolicy", container.get("resizePolicy") or [], pod.restart_policy)
    return errors + _security(f"{path}.securityContext", container.get("securityContext"), host_users=pod.host_users)


# ------------------------------------------------------------------------------------------------ handlers


def _handler(path: str, handler: dict[str, Any], grace_period: int | None, kinds: tuple[str, ...]) -> Errors:
    errors: Errors = []
    present = [kind for kind in kinds if handler.get(kind) is not None]
    for i, kind in enumerate(present):
        where, action = f"{path}.{kind}", handler[kind]
        if i:
            errors.append(FieldError.forbidden(where, "may not specify more than 1 handler type"))
            continue
        match kind:
            case "exec":
                errors += v.required(f"{where}.command", action.get("command"))
            case "httpGet":
                errors += _http_get(where, action)
            case "sleep":
                seconds = action.get("seconds", 0)
                if grace_period is not None and not 0 <= seconds <= grace_period:
                    why = f"must be between 0 and terminationGracePeriodSeconds ({grace_period})"
                    errors.append(FieldError.invalid(where, seconds, why))
            case _:
                errors += v.port_number_or_name(f"{where}.port", action.get("port", 0))
    if not present:
        errors.append(FieldError.required(path, "must specify a handler type"))
    return errors


def _http_get(path: str, action: dict[str, Any]) -> Errors:
    errors = v.required(f"{path}.path", action.get("path"))
    errors += v.port_number_or_name(f"{path}.port", action.get("port", 0))
    errors += v.one_of(f"{path}.scheme", action.get("scheme", ""), ("HTTP", "HTTPS"), missing=False)
    for header in action.get("httpHeaders") or []:
        errors += v.check(f"{path}.httpHeaders", header.get("name", ""), v.http_header_name)
    return errors


def _probe(path: str, kind: str, probe: dict[str, Any], pod: PodFacts) -> Errors:
    errors = _handler(path, probe, pod.grace_period, ("exec", "httpGet", "tcpSocket", "grpc"))
    for field in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        errors += v.not_negative(f"{path}.{field}", probe.get(field))
    grace, field = probe.get("terminationGracePeriodSeconds"), f"{path}.terminationGracePeriodSeconds"
    if grace is not None and grace <= 0:
        errors.append(FieldError.invalid(field, grace, "must be greater than 0"))
    if kind == "readinessProbe":
        if grace is not None:
            errors.append(FieldError.invalid(field, grace, "must not be set for readinessProbes"))
    elif probe.get("successThreshold") != 1:
        errors.append(FieldError.invalid(f"{path}.successThreshold", probe.get("successThreshold"), "must be 1"))
    return errors


def _life(path: str, container: Container, pod: PodFacts) -> Errors:
    """Hooks and probes."""
    errors: Errors = []
    lifecycle = container.get("lifecycle") or {}
    for hook in ("postStart", "preStop"):
        if lifecycle.get(hook) is not None:
            where = f"{path}.lifecycle.{hook}"
            errors += _handler(where, lifecycle[hook], pod.grace_period, ("exec", "httpGet", "tcpSocket", "sleep"))
    for kind in _PROBES:
        if container.get(kind) is not None:
            errors += _probe(f"{path}.{kind}", kind, container[kind], pod)
    return errors


def _restart_rules(path: str, container: Container) -> Errors:
    policy, rules = container.get("restartPolicy"), container.get("restartPolicyRules") or []
    errors: Errors = []
    if policy is not None:
        errors += v.one_of(f"{path}.restartPolicy", policy, RESTART_POLICIES, missing=False)
    elif rules:
        errors.append(FieldError.required(f"{path}.restartPolicy", "when restart rules are used"))
    if len(rules) > 20:
        errors.append(FieldError.too_many(f"{path}.restartPolicyRules", len(rules), 20))
    for i, rule in enumerate(rules):
        where = f"{path}.restartPolicyRules[{i}]"
        errors += v.one_of(f"{where}.action", rule.get("action", ""), _RESTART_ACTIONS, missing=False)
        codes = rule.get("exitCodes")
        if codes is None:
            errors.append(FieldError.required(f"{where}.exitCodes", "must be specified"))
            continue
        errors += v.one_of(f"{where}.exitCodes.operator", codes.get("operator", ""), ("In", "NotIn"), missing=False)
        if len(codes.get("values") or []) > 255:
            errors.append(FieldError.too_many(f"{where}.exitCodes.values", len(codes["values"]), 255))
    return errors


# ------------------------------------------------------------------------------------------------ lists of containers


def containers(path: str, found: list[Container], pod: PodFacts) -> Errors:
    if not found:
        return [FieldError.required(path)]
    errors: Errors = []
    names: set[str] = set()
    for i, container in enumerate(found):
        where, name = f"{path}[{i}]", container.get("name", "")
        errors += _common(where, container, pod)
        if name in names:
            errors.append(FieldError.duplicate(f"{where}.name", name))
        names.add(name)
        errors += _life(where, container, pod)
        errors += _restart_rules(where, container)
    return errors + host_port_conflicts(path, found)


def init_containers(path: str, found: list[Container], others: list[Container], pod: PodFacts) -> Errors:
    errors: Errors = []
    names = {container.get("name", "") for container in others}
    for i, container in enumerate(found):
        where, name = f"{path}[{i}]", container.get("name", "")
        errors += _common(where, container, pod)
        errors += _restart_rules(where, container)
        if name in names:
            errors.append(FieldError.duplicate(f"{where}.name", name))
        elif name:
            names.add(name)
        errors += host_port_conflicts(path, [container])
        if container.get("restartPolicy") == "Always":
            errors += _life(where, container, pod)
            continue
        errors += [
            FieldError.forbidden(f"{where}.{field}", "may not be set for init containers without restartPolicy=Always")
            for field in ("lifecycle", *_PROBES)
            if container.get(field) is not None
        ]
        for j, policy in enumerate(container.get("resizePolicy") or []):
            if policy.get("restartPolicy") == "RestartContainer":
                field = f"{where}.resizePolicy[{j}].restartPolicy"
                why = "must not be 'RestartContainer' for init containers that end"
                errors.append(FieldError.invalid(field, "RestartContainer", why))
    return errors


def ephemeral_containers(path: str, found: list[Container], others: list[Container], pod: PodFacts) -> Errors:
    errors: Errors = []
    known = {container.get("name", "") for container in others}
    names = set(known)
    for i, container in enumerate(found):
        where, name = f"{path}[{i}]", container.get("name", "")
        errors += _common(where, container, pod) + image_padding(where, container)
        if name in names:
            errors.append(FieldError.duplicate(f"{where}.name", name))
        names.add(name)
        target = container.get("targetContainerName")
        if target and target not in known:
            errors.append(FieldError.not_found(f"{where}.targetContainerName", target))
        why = "cannot be set for an Ephemeral Container"
        errors += [FieldError.forbidden(f"{where}.{field}", why) for field in _NOT_EPHEMERAL if container.get(field)]
        for j, mount in enumerate(container.get("volumeMounts") or []):
            errors += [
                FieldError.forbidden(f"{where}.volumeMounts[{j}].{field}", why)
                for field in ("subPath", "subPathExpr")
                if mount.get(field)
            ]
    return errors


def image_padding(path: str, container: Container) -> Errors:
    image = container.get("image", "")
    if image != image.strip():
        return [FieldError.invalid(f"{path}.image", image, "must not have leading or trailing whitespace")]
    return []
