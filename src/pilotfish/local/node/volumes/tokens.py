"""Service account tokens of pods: requested from the API server, replaced after 80 % of their life."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilotfish.kube.client import Client
from pilotfish.kube.resources import SERVICE_ACCOUNTS
from pilotfish.local.node.volumes.payload import Token

_REFRESH_AT = 0.8
_MAX_AGE = 24 * 3600.0


@dataclass
class _Held:
    value: bytes
    refresh: float


class TokenStore:
    """The tokens of one pod."""

    def __init__(self, client: Client, pod: Mapping[str, Any]) -> None:
        self._client = client
        self._pod = pod
        self._held: dict[Token, _Held] = {}

    def current(self, token: Token) -> bytes | None:
        """The token at hand, None if it was never fetched."""
        held = self._held.get(token)
        return held.value if held else None

    def next_refresh(self) -> float | None:
        """When (time.time) the first token is due; None without tokens."""
        return min((held.refresh for held in self._held.values()), default=None)

    async def refresh(self, tokens: list[Token]) -> None:
        """Fetch what is missing or due. Raises the client's errors."""
        for token in tokens:
            held = self._held.get(token)
            if held is None or time.time() >= held.refresh:
                self._held[token] = await self._fetch(token)

    async def _fetch(self, token: Token) -> _Held:
        meta = self._pod["metadata"]
        account = self._pod["spec"].get("serviceAccountName") or "default"
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [token.audience] if token.audience else [],
                "expirationSeconds": token.seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]},
            },
        }
        answer = await self._client.create(
            SERVICE_ACCOUNTS, request, meta["namespace"], name=account, subresource="token"
        )
        now = time.time()
        return _Held(answer["status"]["token"].encode(), now + min(token.seconds * _REFRESH_AT, _MAX_AGE))
