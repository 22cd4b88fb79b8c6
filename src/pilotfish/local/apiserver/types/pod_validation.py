"""What is wrong with a pod or a template of pods, as Kubernetes 1.36 judges it."""

from __future__ import annotations

import re
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.quantity import parse
from pilotfish.local.apiserver.types import pod_containers, pod_volumes
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.pod_defaults import requests_of
from pilotfish.local.apiserver.types.validation import MAX_INT32, Errors

Spec = dict[str, Any]

DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
TAINT_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
PREEMPTION_POLICIES = ("PreemptLowerPriority", "Never")
_SPREAD_ACTIONS = ("DoNotSchedule", "ScheduleAnyway")
_INCLUSION = ("Honor", "Ignore")
_SYSCTL = re.compile(r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?")
_NOT_WINDOWS = ("appArmorProfile", "seLinuxOptions", "seccompProfile", "runAsUser", "runAsGroup")
_NOT_WINDOWS_POD = (
    *("fsGroup", "fsGroupChangePolicy", "sysctls", "supplementalGroups"),
    *("supplementalGroupsPolicy", "seLinuxChangePolicy"),
)
_NOT_WINDOWS_CONTAINER: tuple[str, ...] = (
    *("capabilities", "readOnlyRootFilesystem", "privileged", "allowPrivilegeEscalation", "procMount"),
)
_APP_ARMOR = "container.apparmor.security.beta.kubernetes.io/"
_LISTS = ("initContainers", "containers", "ephemeralContainers")


def all_containers(path: str, spec: Spec) -> list[tuple[str, dict[str, Any]]]:
    """Every container with its path."""
    return [(f"{path}.{kind}[{i}]", one) for kind in _LISTS for i, one in enumerate(spec.get(kind) or [])]


def pod_spec(path: str, spec: Spec, *, pod_name: str = "", in_pod: bool = False) -> Errors:
    """The spec of a pod (`in_pod`, with its name) or of a template."""
    errors: Errors = []
    context = spec.get("securityContext") or {}
    volumes, wrong = pod_volumes.volumes(f"{path}.volumes", spec.get("volumes") or [], pod_name, in_pod=in_pod)
    errors += wrong
    claims = spec.get("resourceClaims") or []
    errors += _resource_claims(f"{path}.resourceClaims", claims)
    facts = pod_containers.PodFacts(
        volumes=volumes,
        claims=frozenset(claim["name"] for claim in claims if claim.get("name")),
        grace_period=spec.get("terminationGracePeriodSeconds"),
        restart_policy=spec.get("restartPolicy", ""),
        host_users=spec.get("hostUsers") is not False,
    )
    main, first = spec.get("containers") or [], spec.get("initContainers") or []
    errors += pod_containers.containers(f"{path}.containers", main, facts)
    errors += pod_containers.init_containers(f"{path}.initContainers", first, main, facts)
    others = [*main, *first]
    ephemeral = spec.get("ephemeralContainers") or []
    errors += pod_containers.ephemeral_containers(f"{path}.ephemeralContainers", ephemeral, others, facts)
    errors += _pod_resources(path, spec, facts.claims)
    errors += _host_network(path, spec, in_pod=in_pod)
    errors += v.one_of(f"{path}.restartPolicy", spec.get("restartPolicy", ""), pod_containers.RESTART_POLICIES)
    errors += v.one_of(f"{path}.dnsPolicy", spec.get("dnsPolicy", ""), DNS_POLICIES)
    errors += v.labels(f"{path}.nodeSelector", spec.get("nodeSelector"))
    errors += _security(f"{path}.securityContext", context, spec)
    errors += affinity(f"{path}.affinity", spec.get("affinity") or {})
    errors += _dns(f"{path}.dnsConfig", spec.get("dnsConfig"), spec.get("dnsPolicy", ""))
    for i, gate in enumerate(spec.get("readinessGates") or []):
        field = f"{path}.readinessGates[{i}].conditionType"
        errors += v.check(field, gate.get("conditionType", ""), v.qualified_name)
    errors += _scheduling_gates(f"{path}.schedulingGates", spec.get("schedulingGates") or [])
    errors += _spread(f"{path}.topologySpreadConstraints", spec.get("topologySpreadConstraints") or [])
    errors += _host_users(path, spec) + _hostname(path, spec) + _names(path, spec)
    errors += tolerations(f"{path}.tolerations", spec.get("tolerations") or [])
    errors += host_aliases(f"{path}.hostAliases", spec.get("hostAliases") or [])
    if "preemptionPolicy" in spec:
        errors += v.one_of(f"{path}.preemptionPolicy", spec["preemptionPolicy"], PREEMPTION_POLICIES)
    errors += pod_containers.requirements(f"{path}.overhead", {"limits": spec.get("overhead")})
    return errors + _operating_system(path, spec) + _file_keys(path, spec)


def _names(path: str, spec: Spec) -> Errors:
    errors: Errors = []
    for field in ("serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"):
        if spec.get(field):
            errors += v.check(f"{path}.{field}", spec[field], v.dns_subdomain)
    for field in ("hostname", "subdomain"):
        if spec.get(field):
            errors += v.check(f"{path}.{field}", spec[field], v.dns_label)
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= MAX_INT32:
        why = f"must be between 1 and {MAX_INT32}, inclusive"
        errors.append(FieldError.invalid(f"{path}.activeDeadlineSeconds", deadline, why))
    group = spec.get("schedulingGroup")
    if group is not None:
        field, name = f"{path}.schedulingGroup.podGroupName", group.get("podGroupName")
        if name is None:
            errors.append(FieldError.invalid(field, "", "must be specified"))
        else:
            errors += v.check(field, name, v.dns_subdomain)
    return errors


def _resource_claims(path: str, claims: list[dict[str, Any]]) -> Errors:
    errors: Errors = []
    names: set[str] = set()
    for i, claim in enumerate(claims):
        where, name = f"{path}[{i}]", claim.get("name", "")
        if name and name in names:
            errors.append(FieldError.duplicate(f"{where}.name", name))
        else:
            errors += v.required(f"{where}.name", name, v.dns_label)
        names.add(name)
        given = [field for field in ("resourceClaimName", "resourceClaimTemplateName") if field in claim]
        if len(given) != 1:
            why = "must specify exactly one of resourceClaimName, resourceClaimTemplateName"
            errors.append(FieldError.invalid(where, claim, why))
        for field in given:
            errors += v.check(f"{where}.{field}", claim[field], v.dns_subdomain)
    return errors


def _pod_resources(path: str, spec: Spec, claims: frozenset[str]) -> Errors:
    """Resources of the pod as a whole, and that its containers fit in."""
    resources = spec.get("resources")
    if resources is None:
        return []
    where = f"{path}.resources"
    if (spec.get("os") or {}).get("name") == "windows":
        return [FieldError.forbidden(where, "may not be set for a windows pod")]
    errors: Errors = []
    if resources.get("claims"):
        errors.append(FieldError.forbidden(f"{where}.claims", "may not be set for a whole pod"))
    errors += pod_containers.requirements(where, resources, claims, whole_pod=True)
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name, total in requests_of(spec).items():
        if name in requests and parse(total) > parse(requests[name]):
            why = f"must be at least what its containers request together, {total}"
            errors.append(FieldError.invalid(f"{where}.requests[{name}]", requests[name], why))
    for i, container in enumerate(spec.get("containers") or []):
        for name, limit in ((container.get("resources") or {}).get("limits") or {}).items():
            if name in limits and parse(limit) > parse(limits[name]):
                why = f"must be at most the limit of the pod, {limits[name]}"
                errors.append(FieldError.invalid(f"{where}.containers[{i}][{name}].limits", limit, why))
    return errors


def _host_network(path: str, spec: Spec, *, in_pod: bool) -> Errors:
    if not spec.get("hostNetwork"):
        return []
    errors: Errors = []
    for i, container in enumerate(spec.get("containers") or []):
        for j, port in enumerate(container.get("ports") or []):
            host = port.get("hostPort", 0)
            if (in_pod or host) and host != port.get("containerPort", 0):
                where = f"{path}.containers[{i}].ports[{j}].hostPort"
                why = "must match `containerPort` when `hostNetwork` is true"
                errors.append(FieldError.invalid(where, host, why))
    return errors


def _security(path: str, context: dict[str, Any], spec: Spec) -> Errors:
    errors: Errors = []
    for field in ("fsGroup", "runAsUser", "runAsGroup"):
        if field in context:
            errors += v.check(f"{path}.{field}", context[field], v.numeric_id)
    for i, group in enumerate(context.get("supplementalGroups") or []):
        errors += v.check(f"{path}.supplementalGroups[{i}]", group, v.numeric_id)
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        why = "shareProcessNamespace and hostPID exclude each other"
        errors.append(FieldError.invalid(f"{path}.shareProcessNamespace", True, why))
    errors += _sysctls(f"{path}.sysctls", context.get("sysctls") or [], spec)
    for field, allowed in (
        ("fsGroupChangePolicy", ("Always", "OnRootMismatch")),
        ("supplementalGroupsPolicy", ("Merge", "Strict")),
        ("seLinuxChangePolicy", ("MountOption", "Recursive")),
    ):
        if field in context:
            errors += v.one_of(f"{path}.{field}", context[field], allowed, missing=False)
    errors += pod_containers.seccomp(f"{path}.seccompProfile", context.get("seccompProfile"))
    return errors + pod_containers.app_armor(f"{path}.appArmorProfile", context.get("appArmorProfile"))


def _sysctls(path: str, sysctls: list[dict[str, Any]], spec: Spec) -> Errors:
    errors: Errors = []
    names: set[str] = set()
    for i, sysctl in enumerate(sysctls):
        field, name = f"{path}[{i}].name", sysctl.get("name", "")
        if not name:
            errors.append(FieldError.required(field))
        elif len(name) > 253 or not _SYSCTL.fullmatch(name):
            errors.append(FieldError.invalid(field, name, "must be lower case words joined by '.' or '/'"))
        elif name in names:
            errors.append(FieldError.duplicate(field, name))
        names.add(name)
        dotted = name.replace("/", ".")
        if spec.get("hostNetwork") and dotted.startswith("net."):
            errors.append(FieldError.invalid(field, name, "may not be specified when 'hostNetwork' is true"))
        elif spec.get("hostIPC") and dotted.startswith(("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")):
            errors.append(FieldError.invalid(field, name, "may not be specified when 'hostIPC' is true"))
    return errors


def _dns(path: str, config: dict[str, Any] | None, policy: str) -> Errors:
    if policy == "None":
        if config is None:
            return [FieldError.required(path, "when `dnsPolicy` is None")]
        if not config.get("nameservers"):
            return [FieldError.required(f"{path}.nameservers", "at least one when `dnsPolicy` is None")]
    if config is None:
        return []
    errors: Errors = []
    servers, searches = config.get("nameservers") or [], config.get("searches") or []
    if len(servers) > 3:
        errors.append(FieldError.invalid(f"{path}.nameservers", servers, "must not have more than 3 nameservers"))
    for i, server in enumerate(servers):
        errors += v.ip(f"{path}.nameservers[{i}]", server)
    if len(searches) > 32:
        errors.append(FieldError.invalid(f"{path}.searches", searches, "must not have more than 32 search paths"))
    if len(" ".join(searches)) > 2048:
        why = "must not have more than 2048 characters together"
        errors.append(FieldError.invalid(f"{path}.searches", searches, why))
    for i, search in enumerate(searches):
        if search != ".":
            name = search.removesuffix(".")
            errors += v.check(f"{path}.searches[{i}]", name, v.dns_subdomain_with_underscore)
    for i, option in enumerate(config.get("options") or []):
        if not option.get("name"):
            errors.append(FieldError.required(f"{path}.options[{i}]", "must not be empty"))
    return errors


def _scheduling_gates(path: str, gates: list[dict[str, Any]]) -> Errors:
    errors: Errors = []
    seen: set[str] = set()
    for i, gate in enumerate(gates):
        name = gate.get("name", "")
        errors += v.check(f"{path}[{i}]", name, v.qualified_name)
        if name in seen:
            errors.append(FieldError.duplicate(f"{path}[{i}]", name))
        seen.add(name)
    return errors


def _spread(path: str, constraints: list[dict[str, Any]]) -> Errors:
    errors: Errors = []
    for i, constraint in enumerate(constraints):
        where = f"{path}[{i}]"
        key, action = constraint.get("topologyKey", ""), constraint.get("whenUnsatisfiable", "")
        errors += v.positive(f"{where}.maxSkew", constraint.get("maxSkew", 0))
        errors += v.required(f"{where}.topologyKey", key)
        errors += v.one_of(f"{where}.whenUnsatisfiable", action, _SPREAD_ACTIONS, missing=False)
        pair = (key, action)
        if any((o.get("topologyKey", ""), o.get("whenUnsatisfiable", "")) == pair for o in constraints[i + 1 :]):
            errors.append(FieldError.duplicate(f"{where}.{{topologyKey, whenUnsatisfiable}}", f"{{{key}, {action}}}"))
        if "minDomains" in constraint:
            errors += v.positive(f"{where}.minDomains", constraint["minDomains"])
            if action != "DoNotSchedule":
                why = "can only be used with whenUnsatisfiable=DoNotSchedule"
                errors.append(FieldError.invalid(f"{where}.minDomains", constraint["minDomains"], why))
        for field in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
            if field in constraint:
                errors += v.one_of(f"{where}.{field}", constraint[field], _INCLUSION, missing=False)
        selector = constraint.get("labelSelector")
        errors += _match_label_keys(where, constraint.get("matchLabelKeys") or [], [], selector)
        errors += v.label_selector(f"{where}.labelSelector", selector)
    return errors


def _match_label_keys(
    path: str, matching: list[str], mismatching: list[str], selector: dict[str, Any] | None
) -> Errors:
    errors: Errors = []
    for field, keys in (("matchLabelKeys", matching), ("mismatchLabelKeys", mismatching)):
        if keys and selector is None:
            why = "must not be specified when labelSelector is not set"
            errors.append(FieldError.forbidden(f"{path}.{field}", why))
        elif keys:
            for i, key in enumerate(keys):
                errors += v.check(f"{path}.{field}[{i}]", key, v.qualified_name)
    if selector is not None:
        seen = set(selector.get("matchLabels") or {})
        for requirement in selector.get("matchExpressions") or []:
            key = requirement.get("key", "")
            if key in matching and key in seen:
                why = "exists in both matchLabelKeys and labelSelector"
                errors.append(FieldError.invalid(f"{path}[{matching.index(key)}]", key, why))
            seen.add(key)
    for i, key in enumerate(matching):
        if key in mismatching:
            why = "exists in both matchLabelKeys and mismatchLabelKeys"
            errors.append(FieldError.invalid(f"{path}.matchLabelKeys[{i}]", key, why))
    return errors


def _host_users(path: str, spec: Spec) -> Errors:
    if spec.get("hostUsers") is not False:
        return []
    why = "when `hostUsers` is false"
    fields = {"hostNetwork": "hostNetwork", "hostPID": "HostPID", "hostIPC": "HostIPC"}  # so Kubernetes spells them
    errors = [FieldError.forbidden(f"{path}.{shown}", why) for field, shown in fields.items() if spec.get(field)]
    return errors + [
        FieldError.forbidden(f"{where}.volumeDevices", why)
        for where, container in all_containers(path, spec)
        if container.get("volumeDevices")
    ]


def _hostname(path: str, spec: Spec) -> Errors:
    name, field = spec.get("hostnameOverride"), f"{path}.hostnameOverride"
    if name is None:
        return []
    errors: Errors = []
    if spec.get("setHostnameAsFQDN"):
        errors.append(FieldError.forbidden(field, "may not be specified when setHostnameAsFQDN is true"))
    if spec.get("hostNetwork"):
        errors.append(FieldError.forbidden(field, "may not be specified when hostNetwork is true"))
    if len(name) > 64:
        errors.append(FieldError.too_long(field, 64))
    return errors + v.check(field, name, v.dns_subdomain)


def host_aliases(path: str, aliases: list[dict[str, Any]]) -> Errors:
    errors: Errors = []
    for i, alias in enumerate(aliases):
        errors += v.ip(f"{path}[{i}].ip", alias.get("ip", ""))
        for j, name in enumerate(alias.get("hostnames") or []):
            errors += v.check(f"{path}[{i}].hostnames[{j}]", name, v.dns_subdomain)
    return errors


def tolerations(path: str, found: list[dict[str, Any]]) -> Errors:
    errors: Errors = []
    for i, one in enumerate(found):
        where = f"{path}[{i}]"
        key, operator, value = one.get("key", ""), one.get("operator", ""), one.get("value", "")
        if key:
            errors += v.check(f"{where}.key", key, v.qualified_name)
        elif operator != "Exists":
            why = "operator must be Exists when `key` is empty, which means all keys and values"
            errors.append(FieldError.invalid(f"{where}.operator", operator, why))
        if "tolerationSeconds" in one and one.get("effect", "") != "NoExecute":
            why = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            errors.append(FieldError.invalid(f"{where}.effect", one.get("effect", ""), why))
        if operator in ("Equal", ""):
            wrong = v.label_value(value)
            if wrong:
                errors.append(FieldError.invalid(f"{where}.operator", value, "; ".join(wrong)))
        elif operator == "Exists":
            if value:
                why = "value must be empty when `operator` is 'Exists'"
                errors.append(FieldError.invalid(f"{where}.operator", value, why))
        else:
            errors.append(FieldError.not_supported(f"{where}.operator", operator, ["Equal", "Exists"]))
        if one.get("effect"):
            errors += v.one_of(f"{where}.effect", one["effect"], TAINT_EFFECTS)
    return errors


# ------------------------------------------------------------------------------------------------ affinity


def node_selector_term(path: str, term: dict[str, Any], *, check_values: bool = True) -> Errors:
    errors: Errors = []
    for i, requirement in enumerate(term.get("matchExpressions") or []):
        errors += _node_requirement(f"{path}.matchExpressions[{i}]", requirement, check_values=check_values)
    for i, requirement in enumerate(term.get("matchFields") or []):
        where, values = f"{path}.matchFields[{i}]", requirement.get("values") or []
        if requirement.get("operator") not in ("In", "NotIn"):
            bad = requirement.get("operator", "")
            errors.append(FieldError.invalid(f"{where}.operator", bad, "not a valid selector operator"))
        elif len(values) != 1:
            errors.append(FieldError.required(f"{where}.values", "exactly one value for In and NotIn"))
        if requirement.get("key") != "metadata.name":
            bad = requirement.get("key", "")
            errors.append(FieldError.invalid(f"{where}.key", bad, "not a valid field selector key"))
        else:
            for j, value in enumerate(values):
                errors += v.check(f"{where}.values[{j}]", value, v.dns_subdomain)
    return errors


def _node_requirement(path: str, requirement: dict[str, Any], *, check_values: bool) -> Errors:
    errors: Errors = []
    values = requirement.get("values") or []
    match requirement.get("operator", ""):
        case "In" | "NotIn":
            if not values:
                errors.append(FieldError.required(f"{path}.values", "In and NotIn need at least one value"))
        case "Exists" | "DoesNotExist":
            if values:
                errors.append(FieldError.forbidden(f"{path}.values", "Exists and DoesNotExist take no values"))
        case "Gt" | "Lt":
            if len(values) != 1:
                errors.append(FieldError.required(f"{path}.values", "Gt and Lt take a single value"))
        case other:
            errors.append(FieldError.invalid(f"{path}.operator", other, "not a valid selector operator"))
    errors += v.check(f"{path}.key", requirement.get("key", ""), v.qualified_name)
    if check_values:
        for i, value in enumerate(values):
            errors += v.check(f"{path}.values[{i}]", value, v.label_value)
    return errors


def node_selector(path: str, selector: dict[str, Any]) -> Errors:
    terms = selector.get("nodeSelectorTerms") or []
    if not terms:
        return [FieldError.required(f"{path}.nodeSelectorTerms", "at least one node selector term")]
    errors: Errors = []
    for i, term in enumerate(terms):
        errors += node_selector_term(f"{path}.nodeSelectorTerms[{i}]", term)
    return errors


def affinity(path: str, found: dict[str, Any]) -> Errors:
    errors: Errors = []
    required, preferred = (
        "requiredDuringSchedulingIgnoredDuringExecution",
        "preferredDuringSchedulingIgnoredDuringExecution",
    )
    node = found.get("nodeAffinity") or {}
    if node.get(required) is not None:
        errors += node_selector(f"{path}.nodeAffinity.{required}", node[required])
    for i, term in enumerate(node.get(preferred) or []):
        where = f"{path}.nodeAffinity.{preferred}[{i}]"
        errors += _weight(where, term)
        errors += node_selector_term(f"{where}.preference", term.get("preference") or {}, check_values=False)
    for kind in ("podAffinity", "podAntiAffinity"):
        one = found.get(kind) or {}
        for i, term in enumerate(one.get(required) or []):
            errors += _pod_term(f"{path}.{kind}.{required}[{i}]", term)
        for i, weighted in enumerate(one.get(preferred) or []):
            where = f"{path}.{kind}.{preferred}[{i}]"
            errors += _weight(where, weighted)
            errors += _pod_term(f"{where}.podAffinityTerm", weighted.get("podAffinityTerm") or {})
    return errors


def _weight(path: str, term: dict[str, Any]) -> Errors:
    weight = term.get("weight", 0)
    if 1 <= weight <= 100:
        return []
    return [FieldError.invalid(f"{path}.weight", weight, "must be in the range 1-100")]


def _pod_term(path: str, term: dict[str, Any]) -> Errors:
    selector = term.get("labelSelector")
    errors = v.label_selector(f"{path}.labelSelector", selector)
    errors += v.label_selector(f"{path}.namespaceSelector", term.get("namespaceSelector"))
    for name in term.get("namespaces") or []:
        errors += v.check(f"{path}.namespace", name, v.dns_label)
    matching, mismatching = term.get("matchLabelKeys") or [], term.get("mismatchLabelKeys") or []
    errors += _match_label_keys(path, matching, mismatching, selector)
    key = term.get("topologyKey", "")
    if not key:
        errors.append(FieldError.required(f"{path}.topologyKey", "can not be empty"))
    return errors + v.check(f"{path}.topologyKey", key, v.qualified_name)


# ------------------------------------------------------------------------------------------------ the rest


def _operating_system(path: str, spec: Spec) -> Errors:
    system = spec.get("os")
    if system is None:
        return []
    name = system.get("name", "")
    if not name:
        return [FieldError.required(f"{path}.os.name")]
    errors = v.one_of(f"{path}.os", name, ("linux", "windows"))
    contexts: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
        (f"{path}.securityContext", spec.get("securityContext") or {}, _NOT_WINDOWS + _NOT_WINDOWS_POD)
    ]
    contexts += [
        (f"{where}.securityContext", one.get("securityContext") or {}, _NOT_WINDOWS + _NOT_WINDOWS_CONTAINER)
        for where, one in all_containers(path, spec)
    ]
    for where, context, fields in contexts:
        if name == "linux" and context.get("windowsOptions") is not None:
            errors.append(FieldError.forbidden(f"{where}.windowsOptions", "cannot be set for a linux pod"))
        if name == "windows":
            why = "cannot be set for a windows pod"
            errors += [FieldError.forbidden(f"{where}.{field}", why) for field in fields if field in context]
    if name == "windows":
        why = "cannot be set for a windows pod"
        of_pod = ("hostUsers", "hostPID", "hostIPC", "shareProcessNamespace")
        errors += [FieldError.forbidden(f"{path}.{field}", why) for field in of_pod if field in spec]
    return errors


def _file_keys(path: str, spec: Spec) -> Errors:
    """Variables read from files take them from an emptyDir."""
    errors: Errors = []
    volumes = {volume.get("name", ""): volume for volume in spec.get("volumes") or []}
    for where, container in all_containers(path, spec):
        for i, variable in enumerate(container.get("env") or []):
            ref = (variable.get("valueFrom") or {}).get("fileKeyRef")
            if ref is None:
                continue
            name, field = ref.get("volumeName", ""), f"{where}.env[{i}].valueFrom.fileKeyRef.volumeName"
            if name not in volumes:
                errors.append(FieldError.not_found(field, name))
            elif "emptyDir" not in volumes[name]:
                errors.append(FieldError.invalid(field, name, "must be a volume of type emptyDir"))
    return errors


def pod_annotations(path: str, annotations: dict[str, str], spec: Spec) -> Errors:
    """The annotations that mean something to pods."""
    errors: Errors = []
    mirror, cost = "kubernetes.io/config.mirror", "controller.kubernetes.io/pod-deletion-cost"
    if mirror in annotations and not spec.get("nodeName"):
        errors.append(FieldError.invalid(f"{path}[{mirror}]", annotations[mirror], "needs spec.nodeName"))
    if cost in annotations and not _is_deletion_cost(annotations[cost]):
        errors.append(FieldError.invalid(f"{path}[{cost}]", annotations[cost], "must be a 32bit integer"))
    names = {container.get("name", "") for _, container in all_containers("", spec)}
    for key, profile in annotations.items():
        if not key.startswith(_APP_ARMOR):
            continue
        name = key.removeprefix(_APP_ARMOR)
        if name not in names:
            errors.append(FieldError.invalid(f"{path}[{key}]", name, "container not found"))
        if profile not in ("", "runtime/default", "unconfined") and not profile.startswith("localhost/"):
            errors.append(FieldError.invalid(f"{path}[{key}]", profile, "is not the name of an AppArmor profile"))
    return errors


def _is_deletion_cost(text: str) -> bool:
    if not re.fullmatch(r"-?(0|[1-9][0-9]*)", text):
        return False
    return -MAX_INT32 - 1 <= int(text) <= MAX_INT32


def template(path: str, found: dict[str, Any]) -> Errors:
    """A template of pods."""
    meta, spec = found.get("metadata") or {}, found.get("spec") or {}
    errors = v.labels(f"{path}.labels", meta.get("labels"))
    errors += v.annotation_map(f"{path}.annotations", meta.get("annotations"))
    errors += pod_annotations(f"{path}.annotations", meta.get("annotations") or {}, spec)
    errors += pod_spec(f"{path}.spec", spec)
    if spec.get("ephemeralContainers"):
        why = "ephemeral containers not allowed in pod template"
        errors.append(FieldError.forbidden(f"{path}.spec.ephemeralContainers", why))
    return errors
