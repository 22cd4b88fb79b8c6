"""ServiceAccounts."""

from __future__ import annotations

from typing import Any

from pilotfish.local.apiserver.resource import Object, Subresource
from pilotfish.local.apiserver.types import printing
from pilotfish.local.apiserver.types.declare import resource
from pilotfish.local.apiserver.types.kind import Kind

_MOUNTABLE = "kubernetes.io/enforce-mountable-secrets"


def _only_names(obj: Object) -> None:
    """Of the secrets an account refers to, only the names count."""
    if obj.get("secrets"):
        obj["secrets"] = [{"name": one["name"]} if one.get("name") else {} for one in obj["secrets"]]


class ServiceAccounts(Kind):
    def prepare_for_create(self, obj: Object) -> None:
        _only_names(obj)

    def prepare_for_update(self, new: Object, old: Object) -> None:
        _ = old
        _only_names(new)

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        before = (old or {"metadata": {}})["metadata"].get("annotations") or {}
        if _MOUNTABLE in before or _MOUNTABLE not in (obj["metadata"].get("annotations") or {}):
            return []
        why = "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
        return [f"metadata.annotations[{_MOUNTABLE}]: {why}"]


def _row(obj: Object) -> list[Any]:
    return [printing.name(obj), printing.age(obj)]


RESOURCES = (
    resource(
        "v1",
        "ServiceAccount",
        "serviceaccounts",
        Subresource("token", "TokenRequest", ("create",), "authentication.k8s.io", "v1"),
        short="sa",
        strategy=ServiceAccounts(),
        columns=printing.columns("Name, Age"),
        row=_row,
    ),
)
