"""Asking the Kubernetes API whether a token is good."""

from __future__ import annotations

import time
from collections import OrderedDict
from hashlib import sha256

from pilotfish.ca.caller import ReviewedToken, UnauthenticatedError, expiry_of
from pilotfish.kube.client import Client
from pilotfish.kube.errors import KubeError
from pilotfish.kube.resources import TOKEN_REVIEWS

REMEMBERED_SECONDS = 10.0
"""How long a good answer is reused: a proxy asks for its certificate and its configuration in one breath."""
REMEMBERED_MOST = 4096
POD_KEY = "authentication.kubernetes.io/pod-name"


class TokenReviewer:
    """Reviews tokens through the API server; good answers are kept for a few seconds, by the token's hash."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._good: OrderedDict[tuple[bytes, tuple[str, ...]], tuple[float, ReviewedToken]] = OrderedDict()

    async def __call__(self, token: str, audiences: tuple[str, ...]) -> ReviewedToken:
        """Raises UnauthenticatedError."""
        expiry = expiry_of(token)
        if expiry is not None and expiry < time.time():
            raise UnauthenticatedError("it has expired")
        key = (sha256(token.encode()).digest(), audiences)
        found = self._good.get(key)
        if found is not None and found[0] > time.monotonic():
            return found[1]
        reviewed = await self._ask(token, audiences)
        self._good[key] = (time.monotonic() + REMEMBERED_SECONDS, reviewed)
        self._good.move_to_end(key)
        while len(self._good) > REMEMBERED_MOST:
            self._good.popitem(last=False)
        return reviewed

    async def _ask(self, token: str, audiences: tuple[str, ...]) -> ReviewedToken:
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": list(audiences)},
        }
        try:
            answer = await self._client.create(TOKEN_REVIEWS, review)
        except KubeError as error:
            raise UnauthenticatedError(f"the API server could not be asked about it: {error}") from error
        status = answer.get("status") or {}
        if not status.get("authenticated"):
            raise UnauthenticatedError(str(status.get("error") or "the API server does not accept it"))
        user = status.get("user") or {}
        extra = user.get("extra") or {}
        return ReviewedToken(
            username=str(user.get("username", "")),
            groups=tuple(user.get("groups") or ()),
            audiences=tuple(status.get("audiences") or ()),
            pod=next(iter(extra.get(POD_KEY) or ()), ""),
            uid=str(user.get("uid", "")),
            extra=extra,
        )
