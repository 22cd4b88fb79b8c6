"""Who may do what: the AuthorizationPolicies of a workload."""

from __future__ import annotations

from pilotfish.api import Config, security
from pilotfish.api.security import Action
from pilotfish.engine import Db, query
from pilotfish.mesh import inputs
from pilotfish.mesh.authentication import applies
from pilotfish.mesh.config import root_namespace
from pilotfish.mesh.workloads import Labels


@query
def policies(
    db: Db, namespace: str, labels: Labels, action: Action, gateway: str = ""
) -> tuple[Config[security.AuthorizationPolicy], ...]:
    """The policies of one action that hold for a workload: the root namespace's, then its own, each by age."""
    found = []
    for level in dict.fromkeys((root_namespace(db), namespace)):
        refs = inputs.AUTHORIZATION_POLICIES_IN(db, level)
        here = [c for ref in refs if (c := inputs.AUTHORIZATION_POLICIES(db, ref)) is not None]
        for config in sorted(here, key=lambda c: c.age_order):
            spec = config.spec
            if spec.action is action and applies(
                spec.selector, spec.target_refs, spec.target_ref, labels, level == namespace, gateway
            ):
                found.append(config)
    return tuple(found)
