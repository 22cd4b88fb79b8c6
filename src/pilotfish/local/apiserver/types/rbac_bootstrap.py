"""The roles, bindings and priority classes that every cluster has from its first start (`rbac_bootstrap.roles`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import scheduling

GROUP = "rbac.authorization.k8s.io"
_READ = ["get", "list", "watch"]
_WRITE = ["create", "delete", "deletecollection", "patch", "update"]
_VERBS = {"read": _READ, "write": _WRITE, "manage": sorted(_READ + _WRITE)}
_ROLE = re.compile(r"role (?:(?P<namespace>[\w-]+)/)?(?P<name>\S+)(?: into (?P<into>\S+))?(?: from (?P<from>\S+))?")
_TO = re.compile(r"to (?P<who>.+?)(?: as (?P<name>\S+))?")
_RULE = re.compile(r"(?P<verbs>\S+) (?P<groups>\S+): (?P<what>.+?)(?: = (?P<names>.+))?")
_AGGREGATE = f"{GROUP}/aggregate-to-"


@dataclass
class _Role:
    namespace: str
    name: str
    into: list[str]
    gathers: list[str]
    rules: list[Object] = field(default_factory=list)
    bindings: list[tuple[str, list[Object]]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return "Role" if self.namespace else "ClusterRole"


def objects() -> list[Object]:
    """All of them, as they are stored."""
    roles = list(_roles())
    made = [_role(role, roles) for role in roles]
    made += [_binding(role, name, subjects) for role in roles for name, subjects in role.bindings]
    return made + scheduling.objects()


def _lines() -> Iterator[str]:
    """The lines of the file, continued ones joined."""
    whole = ""
    for line in (resources.files(__package__) / "rbac_bootstrap.roles").read_text().splitlines():
        if line.startswith("#"):
            continue
        if line.startswith("    "):
            whole += line[3:]
            continue
        if whole:
            yield whole
        whole = line
    yield whole


def _roles() -> Iterator[_Role]:
    role: _Role | None = None
    for line in _lines():
        if match := _ROLE.fullmatch(line):
            if role:
                yield role
            into, gathers = ((match[key] or "").split(",") if match[key] else [] for key in ("into", "from"))
            role = _Role(match["namespace"] or "", match["name"], into, gathers)
        elif role and (match := _TO.fullmatch(line.strip())):
            subjects = [] if match["who"] == "nobody" else [_subject(one) for one in match["who"].split(" and ")]
            role.bindings.append((match["name"] or role.name, subjects))
        elif role and (match := _RULE.fullmatch(line.strip())):
            role.rules.append(_rule(match))
        else:
            raise ValueError(f"not a role, rule or binding: {line!r}")
    if role:
        yield role


def _rule(match: re.Match[str]) -> Object:
    verbs, what = _VERBS.get(match["verbs"]) or match["verbs"].split(","), match["what"].split()
    if match["groups"] == "urls":
        return {"verbs": verbs, "nonResourceURLs": what}
    groups = ["" if group == "core" else group for group in match["groups"].split(",")]
    rule: dict[str, Any] = {"verbs": verbs, "apiGroups": groups, "resources": what}
    return rule | ({"resourceNames": match["names"].split()} if match["names"] else {})


def _subject(text: str) -> Object:
    kind, name = text.split()
    if kind == "account":
        namespace, _, name = name.partition("/")
        return {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    return {"kind": kind.title(), "apiGroup": GROUP, "name": name}


def _meta(role: _Role, name: str, labels: dict[str, str] | None = None) -> Object:
    metadata: Object = {
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"} | (labels or {}),
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    }
    return metadata | ({"namespace": role.namespace} if role.namespace else {})


def _role(role: _Role, roles: list[_Role]) -> Object:
    labels = {_AGGREGATE + name: "true" for name in role.into}
    made: Object = {"apiVersion": f"{GROUP}/v1", "kind": role.kind, "metadata": _meta(role, role.name, labels)}
    made["rules"] = list(role.rules)
    if role.gathers:
        selectors = [{"matchLabels": {_AGGREGATE + name: "true"}} for name in role.gathers]
        made["aggregationRule"] = {"clusterRoleSelectors": selectors}
        made["rules"] = _gathered(role, roles)
    return made


def _gathered(role: _Role, roles: list[_Role]) -> list[Object]:
    """The rules of the roles that are part of this one, of theirs too, each once."""
    rules: list[Object] = []
    for part in roles:
        if set(part.into) & set(role.gathers) and part is not role:
            for rule in part.rules or _gathered(part, roles):
                if rule not in rules:
                    rules.append(rule)
    return rules


def _binding(role: _Role, name: str, subjects: list[Object]) -> Object:
    made: Object = {
        "apiVersion": f"{GROUP}/v1",
        "kind": f"{role.kind}Binding",
        "metadata": _meta(role, name),
        "roleRef": {"apiGroup": GROUP, "kind": role.kind, "name": role.name},
    }
    return made | ({"subjects": subjects} if subjects else {})
