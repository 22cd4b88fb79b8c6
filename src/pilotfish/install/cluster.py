"""A plan onto a cluster: objects in the right order, waiting until each part works, and taking it away again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pilotfish.errors import UserError
from pilotfish.install.charts import Object
from pilotfish.install.operator import Component, Plan
from pilotfish.kube.client import Client, Propagation
from pilotfish.kube.errors import ApiStatusError, KubeError, is_not_found
from pilotfish.kube.meta import condition_is, format_selector
from pilotfish.kube.resources import (
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    DAEMON_SETS,
    DEPLOYMENTS,
    HORIZONTAL_POD_AUTOSCALERS,
    MUTATING_WEBHOOK_CONFIGURATIONS,
    NAMESPACES,
    NETWORK_POLICIES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    SERVICE_ACCOUNTS,
    SERVICES,
    VALIDATING_WEBHOOK_CONFIGURATIONS,
    ResourceType,
)

MANAGER = "pilotfish-install"
OWNER, COMPONENT, REVISION = "install.operator.istio.io/owning-resource", "operator.istio.io/component", "istio.io/rev"
_RBAC = "rbac.authorization.k8s.io"
_ROLES = ResourceType(_RBAC, "v1", "Role", "roles")
_ROLE_BINDINGS = ResourceType(_RBAC, "v1", "RoleBinding", "rolebindings")
_CLUSTER_ROLES = ResourceType(_RBAC, "v1", "ClusterRole", "clusterroles", namespaced=False)
_CLUSTER_ROLE_BINDINGS = ResourceType(_RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False)
# In the order they are made. They go in the opposite order, webhooks first: those that refuse pods must not outlive
# what answers them.
_ORDER = (
    CUSTOM_RESOURCE_DEFINITIONS,
    SERVICE_ACCOUNTS,
    _CLUSTER_ROLES,
    _CLUSTER_ROLE_BINDINGS,
    _ROLES,
    _ROLE_BINDINGS,
    CONFIG_MAPS,
    NETWORK_POLICIES,
    SERVICES,
    DEPLOYMENTS,
    DAEMON_SETS,
    HORIZONTAL_POD_AUTOSCALERS,
    POD_DISRUPTION_BUDGETS,
    MUTATING_WEBHOOK_CONFIGURATIONS,
    VALIDATING_WEBHOOK_CONFIGURATIONS,
)
_KINDS = {kind.kind: (number, kind) for number, kind in enumerate(_ORDER)}
_COMPONENTS = {
    "Istio core": "Base",
    "Istiod": "Pilot",
    "Ingress gateways": "IngressGateways",
    "Egress gateways": "EgressGateways",
}
Say = Callable[[str], None]


class InstallError(UserError):
    """The cluster did not take it, or a part does not come up; the message says which and why."""


def manifest(plan: Plan) -> list[Object]:
    """Everything of a plan, labelled and in order: what `install` applies."""
    return [obj for component in plan.components for obj in _labelled(component, plan)]


async def install(client: Client, plan: Plan, say: Say, *, dry_run: bool = False, patience: float = 300.0) -> None:
    """Apply a plan part by part and wait for each; what an earlier install of the revision had beyond it is removed.

    `patience` is in seconds, for all of it. Raises InstallError.
    """
    deadline = time.monotonic() + patience
    kept: set[tuple[str, str, str]] = set()
    for group in _by_title(plan.components):
        objects = [obj for component in group for obj in _labelled(component, plan)]
        if not dry_run:
            for namespace in {component.namespace for component in group}:
                await _ensure_namespace(client, namespace, plan)
        crds = [obj for obj in objects if obj["kind"] == CUSTOM_RESOURCE_DEFINITIONS.kind]
        await _apply(client, crds, dry_run)
        if not dry_run:
            await _wait(_established, client, crds, deadline)
        await _apply(client, [obj for obj in objects if obj not in crds], dry_run)
        kept.update(_key(obj) for obj in objects)
        if not dry_run:
            await _wait(_ready, client, objects, deadline)
        say(f"✔ {group[0].title} {'would be installed' if dry_run else 'installed'}")
    if not dry_run:
        for obj in await owned(client, _revision(plan.revision)):
            if _key(obj) not in kept and obj["kind"] != CUSTOM_RESOURCE_DEFINITIONS.kind:
                await _delete(client, obj)
                say(f"- {obj['kind']} {obj['metadata']['name']} is no longer needed and removed")


async def uninstall(client: Client, objects: Sequence[Object], *, patience: float = 30.0) -> None:
    """Delete objects: webhooks first, then what runs, and when that has ended the rest, custom kinds last.

    What runs may need its rights to the end, to hand over its lease for example. Raises InstallError.
    """
    last = sorted(objects, key=lambda obj: -_KINDS[obj["kind"]][0])
    running = [obj for obj in last if obj["kind"] in {"Deployment", "DaemonSet"}]
    first = [obj for obj in last if _KINDS[obj["kind"]][0] > _KINDS["DaemonSet"][0]] + running
    for obj in first:
        await _delete(client, obj)
    deadline = time.monotonic() + patience
    while running and time.monotonic() < deadline:
        if not await _pods(client, running[-1]):
            running.pop()
        else:
            await asyncio.sleep(0.1)
    for obj in last:
        if obj not in first:
            await _delete(client, obj)


async def _pods(client: Client, workload: Object) -> list[Object]:
    labels = format_selector(workload["spec"]["selector"])
    try:
        return (await client.list(PODS, workload["metadata"]["namespace"], labels=labels, metadata_only=True)).items
    except KubeError as error:
        raise InstallError(str(error)) from error


async def owned(client: Client, revision: str = "") -> list[Object]:
    """What `install` made: of one revision (`default` for the one without a name), or of all. Raises InstallError."""
    labels = OWNER + (f",{REVISION}={revision}" if revision else "")
    found: list[Object] = []
    for kind in _ORDER:
        try:
            found += (await client.list(kind, labels=labels)).items
        except ApiStatusError as error:
            if not is_not_found(error):
                raise InstallError(f"{kind.plural} cannot be listed: {error}") from error
        except KubeError as error:
            raise InstallError(str(error)) from error
    return found


def _revision(name: str) -> str:
    return name or "default"


def _by_title(components: Iterable[Component]) -> list[list[Component]]:
    groups: dict[str, list[Component]] = {}
    for component in components:
        groups.setdefault(component.title, []).append(component)
    return list(groups.values())


def _labelled(component: Component, plan: Plan) -> list[Object]:
    """The component's objects in the order they are made, marked as ours."""
    objects = component.objects()
    for obj in objects:
        labels = obj["metadata"].setdefault("labels", {})
        labels |= {
            OWNER: "pilotfish",
            COMPONENT: _COMPONENTS[component.title],
            "app.kubernetes.io/managed-by": "pilotfish",
        }
        if component.chart != "base":
            labels[REVISION] = _revision(plan.revision)
    return sorted(objects, key=lambda obj: _KINDS[obj["kind"]][0])


def _key(obj: Mapping[str, Any]) -> tuple[str, str, str]:
    return (obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"])


def named(obj: Mapping[str, Any]) -> str:
    """`Kind/namespace/name`, for people."""
    return "/".join(part for part in _key(obj) if part)


async def _ensure_namespace(client: Client, name: str, plan: Plan) -> None:
    network = ""
    for component in plan.components:
        network = (component.values.get("global") or {}).get("network") or network
    try:
        await client.get(NAMESPACES, name, metadata_only=True)
        if not network or name != plan.namespace:
            return
    except ApiStatusError as error:
        if not is_not_found(error):
            raise InstallError(f"namespace {name}: {error}") from error
    except KubeError as error:
        raise InstallError(str(error)) from error
    labels = {"topology.istio.io/network": network} if network and name == plan.namespace else {}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    await _apply(client, [namespace], dry_run=False)


async def _apply(client: Client, objects: Sequence[Object], dry_run: bool) -> None:
    for obj in objects:
        resource = NAMESPACES if obj["kind"] == "Namespace" else _KINDS[obj["kind"]][1]
        try:
            await client.apply(obj, MANAGER, force=True, dry_run=dry_run, resource=resource)
        except ApiStatusError as error:
            if dry_run and is_not_found(error):
                continue  # its namespace would be made first
            raise InstallError(f"{named(obj)} was refused: {error}") from error
        except KubeError as error:
            raise InstallError(str(error)) from error


async def _delete(client: Client, obj: Object) -> None:
    try:
        await client.delete(
            _KINDS[obj["kind"]][1],
            obj["metadata"]["name"],
            obj["metadata"].get("namespace", ""),
            propagation=Propagation.BACKGROUND,
        )
    except ApiStatusError as error:
        if not is_not_found(error):
            raise InstallError(f"{named(obj)} cannot be deleted: {error}") from error
    except KubeError as error:
        raise InstallError(str(error)) from error


_Check = Callable[[Object], str]
"""Why an object, as the server has it, is not there yet; empty when it is."""


async def _wait(check: _Check, client: Client, objects: Sequence[Object], deadline: float) -> None:
    """Until `check` is content with all that it has a word for."""
    pause = 0.05
    waiting = [obj for obj in objects if check is _established or obj["kind"] in _WAITED]
    while waiting:
        late: list[Object] = []
        reason = ""
        for obj in waiting:
            try:
                _, namespace, name = _key(obj)
                found = await client.get(_KINDS[obj["kind"]][1], name, namespace)
            except KubeError as error:
                raise InstallError(f"{named(obj)}: {error}") from error
            if problem := check(found):
                late.append(obj)
                reason = f"{named(obj)}: {problem}"
        if late and time.monotonic() > deadline:
            raise InstallError(f"{reason} (waited as long as --readiness-timeout says)")
        waiting = late
        if waiting:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 1.0)


def _established(crd: Object) -> str:
    return "" if condition_is(crd, "Established") else "the kind is not served yet"


_WAITED = {"Deployment", "DaemonSet", "MutatingWebhookConfiguration"}


def _ready(obj: Object) -> str:
    if obj["kind"] == "MutatingWebhookConfiguration":
        webhooks = obj.get("webhooks") or ()
        bundles = all(hook["clientConfig"].get("caBundle") for hook in webhooks if "service" in hook["clientConfig"])
        return "" if bundles else "istiod has not put its certificate there yet"
    status, spec = obj.get("status") or {}, obj.get("spec") or {}
    if status.get("observedGeneration", 0) < obj["metadata"].get("generation", 0):
        return "the change has not been noticed yet"
    if obj["kind"] == "DaemonSet":
        wanted, ready = status.get("desiredNumberScheduled", 0), status.get("numberAvailable", 0)
        updated = status.get("updatedNumberScheduled", 0)
    else:
        wanted = spec.get("replicas", 1)
        ready, updated = status.get("availableReplicas", 0), status.get("updatedReplicas", 0)
    if updated < wanted:
        return f"{updated} of {wanted} pods are up to date"
    return "" if ready >= wanted else f"{ready} of {wanted} pods are ready"
