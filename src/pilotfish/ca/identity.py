"""SPIFFE identities of workloads."""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "spiffe://"


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """`spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, the only form a mesh identity has."""

    trust_domain: str
    namespace: str
    service_account: str

    @classmethod
    def parse(cls, uri: str) -> SpiffeId:
        """Raises ValueError for anything but exactly the five segments."""
        parts = uri.removeprefix(PREFIX).split("/") if uri.startswith(PREFIX) else []
        match parts:
            case [domain, "ns", namespace, "sa", account] if domain and namespace and account:
                return cls(domain, namespace, account)
        raise ValueError(f"{uri!r} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")

    @classmethod
    def of(cls, trust_domain: str, namespace: str, service_account: str) -> SpiffeId:
        """`@` cannot stand in a URI's host; Istio writes a dot instead."""
        return cls(trust_domain.replace("@", "."), namespace, service_account)

    def __str__(self) -> str:
        return f"{PREFIX}{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"
