"""Roles and bindings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import resource
from pilotfish.local.apiserver.types.kind import Kind
from pilotfish.local.apiserver.types.validation import Errors

GROUP = "rbac.authorization.k8s.io"


class Roles(Kind):
    def __init__(self, *, namespaced: bool) -> None:
        self.namespaced = namespaced

    def default(self, obj: Object) -> None:
        obj["rules"] = obj.get("rules") or None

    def validate(self, obj: Object) -> Errors:
        errors: Errors = []
        for i, rule in enumerate(obj.get("rules") or []):
            errors += self._rule(f"rules[{i}]", rule)
        aggregation = obj.get("aggregationRule")
        if aggregation is not None:
            path = "aggregationRule.clusterRoleSelectors"
            selectors = aggregation.get("clusterRoleSelectors") or []
            if not selectors:
                errors.append(FieldError.required(path, "at least one"))
            for i, selector in enumerate(selectors):
                wrong = v.label_selector(f"{path}[{i}]", selector)
                errors += wrong
                if wrong:
                    errors.append(FieldError.invalid(f"{path}[{i}]", selector, "invalid label selector"))
        return errors

    def _rule(self, path: str, rule: Mapping[str, Any]) -> Errors:
        errors = [] if rule.get("verbs") else [FieldError.required(f"{path}.verbs", "at least one")]
        urls = rule.get("nonResourceURLs")
        if urls:
            if self.namespaced:
                why = "namespaced rules cannot apply to non-resource URLs"
                errors.append(FieldError.invalid(f"{path}.nonResourceURLs", urls, why))
            if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
                why = "rules cannot apply to both regular resources and non-resource URLs"
                errors.append(FieldError.invalid(f"{path}.nonResourceURLs", urls, why))
            return errors
        return errors + [
            FieldError.required(f"{path}.{field}", "at least one")
            for field in ("apiGroups", "resources")
            if not rule.get(field)
        ]


class Bindings(Kind):
    def __init__(self, *, namespaced: bool) -> None:
        self.namespaced = namespaced

    def default(self, obj: Object) -> None:
        ref = obj.setdefault("roleRef", {})
        if not ref.get("apiGroup"):
            ref["apiGroup"] = GROUP
        for subject in obj.get("subjects") or ():
            if subject.get("kind") in ("User", "Group") and not subject.get("apiGroup"):
                subject["apiGroup"] = GROUP

    def validate(self, obj: Object) -> Errors:
        ref = obj.get("roleRef") or {}
        kinds = ("ClusterRole", "Role") if self.namespaced else ("ClusterRole",)
        errors = v.one_of("roleRef.apiGroup", ref.get("apiGroup", ""), (GROUP,), missing=False)
        errors += v.one_of("roleRef.kind", ref.get("kind", ""), kinds, missing=False)
        errors += v.required("roleRef.name", ref.get("name"), v.path_segment)
        for i, subject in enumerate(obj.get("subjects") or []):
            errors += self._subject(f"subjects[{i}]", subject)
        return errors

    def _subject(self, path: str, subject: Mapping[str, Any]) -> Errors:
        kind, name, group = subject.get("kind", ""), subject.get("name", ""), subject.get("apiGroup", "")
        errors = v.required(f"{path}.name", name)
        if kind == "ServiceAccount":
            if name:
                errors += v.check(f"{path}.name", name, v.dns_subdomain)
            errors += v.one_of(f"{path}.apiGroup", group, ("",), missing=False)
            if not self.namespaced and not subject.get("namespace"):
                errors.append(FieldError.required(f"{path}.namespace"))
        elif kind in ("User", "Group"):
            errors += v.one_of(f"{path}.apiGroup", group, (GROUP,), missing=False)
        else:
            errors.append(FieldError.not_supported(f"{path}.kind", kind, ["Group", "ServiceAccount", "User"]))
        return errors

    def validate_update(self, new: Object, old: Object) -> Errors:
        if new.get("roleRef") == old.get("roleRef"):
            return []
        return [FieldError.invalid("roleRef", new.get("roleRef"), "cannot change roleRef")]


def _binding_row(obj: Object) -> list[Any]:
    ref, subjects = obj.get("roleRef") or {}, obj.get("subjects") or []
    names: dict[str, list[str]] = {"User": [], "Group": [], "ServiceAccount": []}
    for subject in subjects:
        kind, name = subject.get("kind", ""), subject.get("name", "")
        if kind in names:
            names[kind].append(f"{subject.get('namespace', '')}/{name}" if kind == "ServiceAccount" else name)
    role = f"{ref.get('kind', '')}/{ref.get('name', '')}"
    return [printing.name(obj), role, printing.age(obj), *(", ".join(found) for found in names.values())]


_BINDING_COLUMNS = printing.columns("Name, Role, Age, Users*, Groups*, ServiceAccounts*")

RESOURCES = tuple(
    resource(f"{GROUP}/v1", kind, kind.lower() + "s", namespaced=namespaced, create_on_update=True, **more)
    for namespaced, role, binding in ((True, "Role", "RoleBinding"), (False, "ClusterRole", "ClusterRoleBinding"))
    for kind, more in (
        (role, {"strategy": Roles(namespaced=namespaced)}),
        (
            binding,
            {"strategy": Bindings(namespaced=namespaced), "columns": _BINDING_COLUMNS, "row": _binding_row},
        ),
    )
)
