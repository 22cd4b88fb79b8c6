"""Who may do what: RBAC over Roles, ClusterRoles and their bindings, read from the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pilotfish.local.apiserver.errors import ApiError, forbidden, not_found
from pilotfish.local.apiserver.request import Request, Target, User
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.store import Bucket

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

GROUP = "rbac.authorization.k8s.io"
MASTERS = "system:masters"

Rule = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Binding:
    namespace: str
    role_kind: str
    role: str
    label: str


class Authorizer:
    """Answers from an index of bindings by subject that is built anew after they have changed."""

    def __init__(self) -> None:
        self._stamp: tuple[int, ...] = ()
        self._by_subject: dict[tuple[str, str], list[_Binding]] = {}
        self._rules: dict[tuple[str, str], list[Rule]] = {}

    def _refresh(self, core: Core) -> None:
        names = ("clusterrolebindings", "rolebindings", "clusterroles", "roles")
        buckets = [core.store.bucket(f"{GROUP}/{name}") for name in names]
        stamp = tuple(_last(bucket) for bucket in buckets)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        self._by_subject = {}
        for bucket in buckets[:2]:
            for item in bucket.items.values():
                self._index(item.decode())
        self._rules = {}
        for bucket in buckets[2:]:
            for item in bucket.items.values():
                role = item.decode()
                meta = role["metadata"]
                self._rules[meta.get("namespace", ""), meta["name"]] = role.get("rules") or []

    def _index(self, obj: Object) -> None:
        meta, ref = obj["metadata"], obj["roleRef"]
        namespace = meta.get("namespace", "")
        label = f'{obj["kind"]} "{meta["name"]}{"/" + namespace if namespace else ""}" of {ref["kind"]} "{ref["name"]}"'
        binding = _Binding(namespace, ref["kind"], ref["name"], label)
        for subject in obj.get("subjects") or []:
            kind, name = subject["kind"], subject.get("name", "")
            if kind == "ServiceAccount":
                kind, name = "User", f"system:serviceaccount:{subject.get('namespace') or namespace}:{name}"
            self._by_subject.setdefault((kind, name), []).append(binding)

    def _bindings(self, user: User, namespace: str) -> Iterator[tuple[_Binding, list[Rule]]]:
        """The user's bindings that count in a namespace (empty: cluster-wide ones only), with their rules."""
        keys = [("User", user.name), *(("Group", group) for group in user.groups)]
        for key in keys:
            for binding in self._by_subject.get(key, ()):
                if binding.namespace and binding.namespace != namespace:
                    continue
                where = binding.namespace if binding.role_kind == "Role" else ""
                yield binding, self._rules.get((where, binding.role), [])

    def rules(self, core: Core, user: User, namespace: str) -> list[Rule]:
        """All rules the user has in a namespace."""
        self._refresh(core)
        return [rule for _, rules in self._bindings(user, namespace) for rule in rules]

    def allowed(
        self,
        core: Core,
        user: User,
        verb: str,
        group: str,
        resource: str,
        subresource: str = "",
        namespace: str = "",
        name: str = "",
    ) -> str:
        """Why the user may do this to a resource; empty when not."""
        if MASTERS in user.groups:
            return "system:masters"
        self._refresh(core)
        for binding, rules in self._bindings(user, namespace):
            for rule in rules:
                if _grants(rule, verb, group, resource, subresource, name):
                    return "RBAC: allowed by " + binding.label
        return ""

    def allowed_path(self, core: Core, user: User, verb: str, path: str) -> str:
        """Why the user may call an address that is no resource; empty when not."""
        if MASTERS in user.groups:
            return "system:masters"
        self._refresh(core)
        for binding, rules in self._bindings(user, ""):
            for rule in rules:
                if _grants_path(rule, verb, path):
                    return "RBAC: allowed by " + binding.label
        return ""

    def check(self, core: Core, user: User, target: Target) -> None:
        """Raises 403 unless the user may do what the request asks for."""
        if not target.resource:
            if not self.allowed_path(core, user, target.verb, target.path):
                why = f'User "{user.name}" cannot {target.verb} path "{target.path}"'
                raise ApiError(403, "Forbidden", f"forbidden: {why}", {})
            return
        t = target
        if not self.allowed(core, user, t.verb, t.group, t.resource, t.subresource, t.namespace, t.name or t.chosen):
            raise refusal(user, t)

    def check_escalation(
        self, core: Core, request: Request, resource: Resource, obj: Object, old: Object | None
    ) -> None:
        """Nobody grants what he does not have: raises 403 for roles and bindings that would."""
        if resource.group != GROUP or MASTERS in request.user.groups:
            return
        namespace = obj["metadata"].get("namespace", "")
        name = obj["metadata"].get("name", "")
        missing_role = False
        if resource.kind in ("Role", "ClusterRole"):
            if old is not None and (old.get("rules") or []) == (obj.get("rules") or []):
                return
            verb, wanted, target = "escalate", obj.get("rules") or [], name
        else:
            if old is not None and all(old.get(key) == obj.get(key) for key in ("roleRef", "subjects")):
                return
            ref = obj["roleRef"]
            where = namespace if ref["kind"] == "Role" else ""
            self._refresh(core)
            verb, target = "bind", ref["name"]
            wanted = self._rules.get((where, ref["name"])) or []
            missing_role = (where, ref["name"]) not in self._rules
        plural = resource.plural
        if verb == "bind":
            plural = "roles" if obj["roleRef"]["kind"] == "Role" else "clusterroles"
        if self.allowed(core, request.user, verb, GROUP, plural, "", namespace, target):
            return
        if missing_role:
            raise not_found(plural, GROUP, target)
        owned = self.rules(core, request.user, namespace)
        missing = [rule for rule in wanted if not _covered(rule, owned)]
        if missing:
            user = request.user
            groups = ", ".join(f'"{group}"' for group in user.groups)
            why = (
                f'user "{user.name}" (groups=[{groups}]) is attempting to grant RBAC permissions not currently held:\n'
                + "\n".join(_shown(rule) for rule in missing)
            )
            raise forbidden(resource.plural, resource.group, name, why)


def refusal(user: User, target: Target) -> ApiError:
    what = target.resource + (f"/{target.subresource}" if target.subresource else "")
    why = f'User "{user.name}" cannot {target.verb} resource "{what}" in API group "{target.group}" '
    why += f'in the namespace "{target.namespace}"' if target.namespace else "at the cluster scope"
    return forbidden(target.resource, target.group, target.name, why)


def _last(bucket: Bucket) -> int:
    """Changes whenever the bucket does."""
    return bucket.log[-1].rv if bucket.log else 0


def _grants(rule: Rule, verb: str, group: str, resource: str, subresource: str, name: str) -> bool:
    verbs, groups, resources = rule.get("verbs") or (), rule.get("apiGroups") or (), rule.get("resources") or ()
    if (verb not in verbs and "*" not in verbs) or (group not in groups and "*" not in groups):
        return False
    full = f"{resource}/{subresource}" if subresource else resource
    if full not in resources and "*" not in resources and not (subresource and f"*/{subresource}" in resources):
        return False
    names = rule.get("resourceNames")
    return not names or name in names


def _grants_path(rule: Rule, verb: str, path: str) -> bool:
    verbs = rule.get("verbs") or ()
    if verb not in verbs and "*" not in verbs:
        return False
    return any(
        url in ("*", path) or (url.endswith("*") and path.startswith(url[:-1]))
        for url in rule.get("nonResourceURLs") or ()
    )


def _covered(wanted: Rule, owned: list[Rule]) -> bool:
    """Whether rules that are held grant all that a rule would, taken apart into its smallest parts."""
    for verb in wanted.get("verbs") or ():
        for url in wanted.get("nonResourceURLs") or ():
            if not any(_grants_path(rule, verb, url) for rule in owned):
                return False
        for group in wanted.get("apiGroups") or ():
            for full in wanted.get("resources") or ():
                resource, _, sub = full.partition("/")
                names = wanted.get("resourceNames") or [""]
                if not all(any(_grants(rule, verb, group, resource, sub, name) for rule in owned) for name in names):
                    return False
    return True


def _shown(rule: Rule) -> str:
    fields = (
        ("APIGroups", "apiGroups"),
        ("Resources", "resources"),
        ("ResourceNames", "resourceNames"),
        ("NonResourceURLs", "nonResourceURLs"),
        ("Verbs", "verbs"),
    )
    parts = [
        f"{label}:[" + " ".join(f'"{value}"' for value in rule[key]) + "]" for label, key in fields if rule.get(key)
    ]
    return "{" + ", ".join(parts) + "}"
