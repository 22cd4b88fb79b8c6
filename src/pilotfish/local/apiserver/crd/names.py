"""Who may be called what: within a group every name belongs to one CustomResourceDefinition."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pilotfish.local.apiserver.resource import Object


@dataclass(frozen=True, slots=True)
class Naming:
    """The names a definition may have, and why it may not have the others (empty: it has all)."""

    accepted: dict[str, Any]
    reason: str
    message: str

    @property
    def condition(self) -> dict[str, str]:
        """The NamesAccepted condition, without its time."""
        if self.reason:
            return {"type": "NamesAccepted", "status": "False", "reason": self.reason, "message": self.message}
        return {
            "type": "NamesAccepted",
            "status": "True",
            "reason": "NoConflicts",
            "message": "no conflicts found",
        }

    @property
    def established(self) -> dict[str, str]:
        """The Established condition that goes with it, for a definition that was not established before."""
        if self.reason:
            message = "not all names are accepted"
            return {"type": "Established", "status": "False", "reason": "NotAccepted", "message": message}
        message = "the initial names have been accepted"
        return {"type": "Established", "status": "True", "reason": "InitialNamesAccepted", "message": message}


def names_conflict(crd: Object, others: Iterable[Object]) -> Naming:
    """Settle the names of `crd` against those that the other definitions of its group have been given.

    `others` may hold definitions of any group, and `crd` itself. A name once given stays until it is given up.
    """
    spec, uid = crd["spec"], crd["metadata"].get("name")
    wanted = spec["names"]
    had = (crd.get("status") or {}).get("acceptedNames") or {}
    resources: set[str] = set()
    kinds: set[str] = set()
    for other in others:
        if other["spec"]["group"] != spec["group"] or other["metadata"].get("name") == uid:
            continue
        taken = (other.get("status") or {}).get("acceptedNames") or {}
        resources |= {taken.get("plural", ""), taken.get("singular", ""), *(taken.get("shortNames") or ())}
        kinds |= {taken.get("kind", ""), taken.get("listKind", "")}
    accepted: dict[str, Any] = {}
    problems: list[tuple[str, str]] = []

    def settle(field: str, reason: str, taken: set[str]) -> None:
        name = wanted.get(field, "")
        if name and name in taken:
            problems.append((reason, f'"{name}" is already in use'))
            name = had.get(field, "")
        if name:
            accepted[field] = name

    settle("plural", "PluralConflict", resources)
    settle("singular", "SingularConflict", resources)
    short_names = wanted.get("shortNames") or []
    if clashing := [name for name in short_names if name in resources]:
        problems.append(("ShortNamesConflict", ", ".join(f'"{name}" is already in use' for name in clashing)))
        short_names = had.get("shortNames") or []
    if short_names:
        accepted["shortNames"] = short_names
    settle("kind", "KindConflict", kinds)
    settle("listKind", "ListKindConflict", kinds)
    if categories := wanted.get("categories"):
        accepted["categories"] = categories
    reason, message = problems[-1] if problems else ("", "")
    return Naming(accepted, reason, message)
