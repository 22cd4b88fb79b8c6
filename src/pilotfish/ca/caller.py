"""Who is calling: the identities that a peer has proved on this connection."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pilotfish.ca.identity import SpiffeId

ACCOUNT_PREFIX = "system:serviceaccount:"
DEFAULT_AUDIENCES = ("istio-ca",)


class UnauthenticatedError(Exception):
    """Nothing that the caller presented proves an identity. The message says what was tried; never the token."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The identities proved by a client certificate or a token, and the pod that the token is bound to, if any."""

    identities: tuple[SpiffeId, ...]
    pod: str = ""
    description: str = ""
    """What the certificate it came with says of its workload."""


@dataclass(frozen=True, slots=True)
class ReviewedToken:
    """What the Kubernetes API says of a token (TokenReview.status), reduced to what counts here."""

    username: str
    groups: tuple[str, ...]
    audiences: tuple[str, ...]
    pod: str = ""
    uid: str = ""
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)


ReviewToken = Callable[[str, tuple[str, ...]], Awaitable[ReviewedToken]]
"""Ask the API server about a token for these audiences; raises UnauthenticatedError when it is not valid."""


def uris_of(certificate: Mapping[str, Any] | None) -> list[str]:
    """URI SANs of a verified peer certificate, in the shape of `ssl.SSLSocket.getpeercert()`."""
    names = (certificate or {}).get("subjectAltName", ())
    return [value for kind, value in names if kind == "URI"]


def _description(certificate: Mapping[str, Any] | None) -> str:
    names = (certificate or {}).get("subjectAltName", ())
    return next((value for kind, value in names if kind == "DNS" and "~" in value), "")


class Authenticator:
    """Certificate first, then token: the order in which Istio asks.

    The TLS layer has verified the certificate against the mesh roots before it comes here; a certificate that it could
    not verify never reaches us. Tokens are reviewed by the API server, so an expired one, one for another audience or
    one of a deleted pod is refused there.
    """

    def __init__(self, review: ReviewToken, trust_domain: str, audiences: tuple[str, ...] = DEFAULT_AUDIENCES) -> None:
        self._review = review
        self._trust_domain = trust_domain
        self._audiences = audiences

    async def __call__(self, certificate: Mapping[str, Any] | None, headers: Mapping[str, Any]) -> Caller:
        """Raises UnauthenticatedError."""
        problems = []
        if uris := uris_of(certificate):
            try:
                return Caller(tuple(SpiffeId.parse(uri) for uri in uris), description=_description(certificate))
            except ValueError as error:
                problems.append(f"client certificate: {error}")
        authorization = str(headers.get("authorization", ""))
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() in ("bearer", "istio") and token:
            try:
                return await self._from_token(token.strip())
            except UnauthenticatedError as error:
                problems.append(f"token: {error}")
        raise UnauthenticatedError("; ".join(problems) or "neither a client certificate nor a token was presented")

    async def _from_token(self, token: str) -> Caller:
        reviewed = await self._review(token, self._audiences)
        if not set(self._audiences) & set(reviewed.audiences):
            raise UnauthenticatedError(f"it is not meant for {' or '.join(self._audiences)}")
        if "system:serviceaccounts" not in reviewed.groups:
            raise UnauthenticatedError("it is not a service account's")
        namespace, _, account = reviewed.username.removeprefix(ACCOUNT_PREFIX).partition(":")
        if not (reviewed.username.startswith(ACCOUNT_PREFIX) and namespace and account):
            raise UnauthenticatedError(f"{reviewed.username!r} is not a service account")
        return Caller((SpiffeId.of(self._trust_domain, namespace, account),), reviewed.pod)


def expiry_of(token: str) -> float | None:
    """When a JWT says it expires (seconds since the epoch), unverified: only to avoid asking about a dead token."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"])
    except (IndexError, KeyError, ValueError, TypeError):
        return None
