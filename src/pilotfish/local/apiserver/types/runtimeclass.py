"""RuntimeClasses."""

from __future__ import annotations

from typing import Any

from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import pod_defaults, pod_validation, pod_warnings, printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import resource
from pilotfish.local.apiserver.types.kind import Kind
from pilotfish.local.apiserver.types.pod_containers import requirements
from pilotfish.local.apiserver.types.validation import Errors


class RuntimeClasses(Kind):
    immutable = ("handler",)

    def default(self, obj: Object) -> None:
        pod_defaults.round_up((obj.get("overhead") or {}).get("podFixed"))

    def validate(self, obj: Object) -> Errors:
        errors = v.required("handler", obj.get("handler"), v.dns_label)
        errors += requirements("overhead", {"limits": (obj.get("overhead") or {}).get("podFixed")})
        scheduling = obj.get("scheduling") or {}
        errors += v.labels("scheduling.nodeSelector", scheduling.get("nodeSelector"))
        return errors + pod_validation.tolerations("scheduling.tolerations", scheduling.get("tolerations") or [])

    def concerns(self, obj: Object) -> list[str]:
        selector = (obj.get("scheduling") or {}).get("nodeSelector") or {}
        return [f"scheduling.nodeSelector: {text}" for key in selector if (text := pod_warnings.node_label(key))]


def _row(obj: Object) -> list[Any]:
    return [printing.name(obj), obj.get("handler", ""), printing.age(obj)]


RESOURCES = (
    resource(
        "node.k8s.io/v1",
        "RuntimeClass",
        "runtimeclasses",
        namespaced=False,
        create_on_update=True,
        unconditional_update=False,
        strategy=RuntimeClasses(),
        columns=printing.columns("Name, Handler, Age"),
        row=_row,
    ),
)
