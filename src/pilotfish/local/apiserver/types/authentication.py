"""Who a caller is: reviews and tokens."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import asked

RESOURCES = (
    asked("authentication.k8s.io/v1", "TokenReview", "tokenreviews"),
    asked("authentication.k8s.io/v1", "SelfSubjectReview", "selfsubjectreviews"),
)
