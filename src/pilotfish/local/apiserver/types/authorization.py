"""What a caller may do: access reviews."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import asked

RESOURCES = (
    asked("authorization.k8s.io/v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews"),
    asked("authorization.k8s.io/v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews"),
    asked("authorization.k8s.io/v1", "SubjectAccessReview", "subjectaccessreviews"),
    asked("authorization.k8s.io/v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", namespaced=True),
)
