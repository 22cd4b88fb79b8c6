"""Whether a proxy may have the Secrets of its namespace: only when its service account may read them itself.

Otherwise any workload could get at Secrets through its proxy that Kubernetes does not show it. Asked of the API server
(SubjectAccessReview); a yes is remembered for a minute, a no for seconds, because a Role may be on its way.
"""

from __future__ import annotations

import time

from pilotfish.kube.client import Client
from pilotfish.kube.errors import KubeError
from pilotfish.kube.resources import SUBJECT_ACCESS_REVIEWS

YES_SECONDS = 60.0
NO_SECONDS = 4.0


class SecretAccess:
    """Answers by (namespace, service account)."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[tuple[str, str], tuple[float, bool]] = {}

    async def __call__(self, namespace: str, service_account: str) -> bool:
        """False as well when the API server cannot be asked."""
        key = (namespace, service_account)
        found = self._known.get(key)
        if found is not None and found[0] > time.monotonic():
            return found[1]
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{namespace}:{service_account}",
                "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
                "resourceAttributes": {"namespace": namespace, "verb": "list", "resource": "secrets"},
            },
        }
        try:
            answer = await self._client.create(SUBJECT_ACCESS_REVIEWS, review)
        except KubeError:
            return False
        allowed = bool((answer.get("status") or {}).get("allowed"))
        self._known[key] = (time.monotonic() + (YES_SECONDS if allowed else NO_SECONDS), allowed)
        return allowed
